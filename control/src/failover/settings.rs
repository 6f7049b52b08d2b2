//! What the operator has settled about the pair. Filled in by [`crate::config`], never changed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// `[ha]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node.
    pub node: String,
    /// Name of the other one.
    pub peer: String,
    /// Time between two heartbeats, on every path: 10 ms to 10 s.
    pub keepalive: Duration,
    /// Silence of the peer after which a warning is given.
    pub warntime: Duration,
    /// Silence of the peer, on all paths, after which it counts as dead; at least three times
    /// `keepalive`.
    pub deadtime: Duration,
    /// The same while we have never heard it since start: switches and links take their time to come
    /// up together.
    pub initdead: Duration,
    /// Whether a group goes back to the node that it prefers.
    pub failback: Failback,
    /// Ways of the heartbeat, at least one.
    pub paths: Vec<Path>,
    /// How heartbeats and replication are authenticated.
    pub auth: Auth,
    /// Addresses that are owned together; at least one group, and each VIP in exactly one.
    pub groups: Vec<Group>,
    /// What tells a node that has its network from one that has lost it.
    pub pings: Vec<Ping>,
    /// Run before anything is taken from a peer that says nothing.
    pub fencing: Option<Fencing>,
    /// Where connections are replicated; none: they are not.
    pub replication: Option<Replication>,
}

/// Whether a group goes back to the node that it prefers, once that is there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Failback {
    /// No; `xvip switchover` does it.
    #[default]
    Off,
    /// By itself, as soon as that node knows every connection.
    WhenSynced,
    /// No, but `xvip status` asks for it.
    Manual,
}

/// A way of the heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Name, shown to people.
    pub name: String,
    /// What it is.
    pub link: Link,
}

/// The kinds of ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// UDP from address to address.
    Unicast {
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// The interface to use, and no other.
        interface: Option<String>,
    },
    /// UDP to a group.
    Multicast {
        /// The group and port.
        group: SocketAddr,
        /// The interface.
        interface: String,
    },
    /// A serial line.
    Serial {
        /// The device.
        device: PathBuf,
        /// Bits a second.
        baud: u32,
    },
}

/// Keys, and what is asked of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Keys that are accepted; the first one is used for what we send.
    pub keys: Vec<KeyFile>,
    /// What is asked of the peer's messages.
    pub mode: AuthMode,
}

/// A key, in a file that nobody else can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Its number, the same on both nodes.
    pub id: u8,
    /// Holds 32 to 64 bytes as hexadecimal digits.
    pub file: PathBuf,
}

/// Steps by which authentication is brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// Ours carry no proof; the peer's may.
    ReceiveOnly,
    /// Ours carry a proof; the peer's without one are taken too, and counted.
    Permissive,
    /// Ours carry a proof, and so must the peer's.
    #[default]
    Enforce,
}

impl From<AuthMode> for crate::seal::Mode {
    fn from(mode: AuthMode) -> Self {
        match mode {
            AuthMode::ReceiveOnly => Self::ReceiveOnly,
            AuthMode::Permissive => Self::Permissive,
            AuthMode::Enforce => Self::Enforce,
        }
    }
}

/// Addresses that are owned together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Unique name.
    pub name: String,
    /// Node that has it when both could.
    pub prefer: Option<String>,
    /// Its VIPs and local addresses of full NAT.
    pub addresses: Vec<IpAddr>,
    /// Addresses that real servers use as their gateway.
    pub gateways: Vec<IpAddr>,
}

impl Group {
    /// Every address that somebody may ask for.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(&self.gateways).copied()
    }
}

/// Something that a node with a working network reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Name, shown to people.
    pub name: String,
    /// One of these must answer.
    pub addresses: Vec<IpAddr>,
    /// Those of them that are asked after a takeover whether they send to whoever owns a VIP.
    pub asked: Vec<IpAddr>,
    /// Time between two pings of each.
    pub interval: Duration,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Pings without answer after which it counts as unreachable.
    pub fall: u8,
}

/// A command that makes sure that the other node does nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fencing {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Longest time it may take.
    pub timeout: Duration,
}

/// `[ha.replication]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Whether connections are encrypted on the way.
    pub encrypt: bool,
    /// Time between two comparisons of the tables.
    pub digest: Duration,
}
