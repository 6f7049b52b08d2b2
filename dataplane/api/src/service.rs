//! What the data plane should do: the snapshot, valid by construction.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The whole desired state of the data plane. Never a delta: applying the same snapshot twice is a
/// no-op, and a restarted process needs nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Fixed at start of the data plane; a change takes effect at its next start.
    pub engine: Engine,
    /// Interfaces to attach to, in slot order.
    pub interfaces: Vec<Interface>,
    /// Timeouts of services that set none of their own.
    pub timeouts: Timeouts,
    /// Source addresses and ports of `fullnat`; owned like VIPs (ARP/ND answered under the lease).
    pub local: LocalPool,
    /// Where replies to clients go.
    pub reply: ReplyPath,
    /// The services, each with its reals.
    pub services: Vec<Service>,
    /// Addresses that are owned together, by a lease for each group. What no group names belongs to
    /// the first. None: everything is owned by one lease.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}

/// Most groups.
pub const GROUPS_MAX: usize = 16;

/// Addresses that are owned together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Unique name, 1 to 63 bytes of `[A-Za-z0-9._-]`.
    pub name: String,
    /// VIPs and addresses of [`LocalPool`] that belong to it.
    pub addresses: Vec<IpAddr>,
    /// Addresses that no service has, and that are answered for under its lease (ARP, neighbour
    /// discovery, pings): what reals use as their gateway, so that it moves with the VIPs.
    pub gateways: Vec<IpAddr>,
}

/// Resources the data plane allocates once, at start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// One worker is pinned to each of these CPUs; worker *n* serves queue *n* of every interface.
    pub cores: Vec<u16>,
    /// How a worker waits when there is nothing to do.
    pub poll: Poll,
    /// Connections the table can hold, 1,024 to 64 Mi. Memory is about 84 bytes each.
    pub connections: u32,
    /// Share of the table that half-open connections may take, in percent, 1 to 100.
    pub half_open_percent: u8,
    /// Frames (2 KiB each) of a worker's UMEM for one interface, a power of two, 1,024 to 65,536.
    pub frames: u32,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            cores: vec![0],
            poll: Poll::Adaptive,
            connections: 1 << 20,
            half_open_percent: 25,
            frames: 32_768,
        }
    }
}

/// How a worker waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Poll {
    /// Never sleeps; for cores that belong to xvip alone.
    Busy,
    /// Spins while there is traffic, then sleeps in `poll(2)`.
    #[default]
    Adaptive,
}

/// One network interface that carries service traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Kernel name, 1 to 15 bytes.
    pub name: String,
    /// Where the XDP program runs.
    #[serde(default)]
    pub mode: XdpMode,
    /// Whether frames are copied between kernel and UMEM.
    #[serde(default)]
    pub copy: CopyMode,
}

/// Where the steering program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// Native if the driver has it and it is the faster one (not on veth), else generic; which one
    /// was taken is reported in the status.
    #[default]
    Auto,
    /// In the driver; an error if it cannot.
    Native,
    /// On socket buffers; works on every interface.
    Generic,
}

/// Copy or zero-copy binding of the AF_XDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyMode {
    /// Zero-copy if the driver has it, else copy; which one was taken is reported in the status.
    #[default]
    Auto,
    /// Always copy.
    Copy,
    /// Zero-copy or an error.
    ZeroCopy,
}

/// Where the reply to a client is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyPath {
    /// To the MAC address and interface that the client's last packet came from.
    #[default]
    LastHop,
    /// To the next hop of the kernel's routing table.
    Route,
}

/// Idle timeouts in seconds, each 1 to 31,536,000. Defaults are those of LVS
/// (`net/netfilter/ipvs/ip_vs_proto_tcp.c`, `ip_vs_proto_udp.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// SYN seen, handshake not finished.
    pub syn_received: u32,
    /// Data may flow.
    pub established: u32,
    /// One side has closed (FIN from the real).
    pub fin_wait: u32,
    /// FIN from the client, real may still send.
    pub close_wait: u32,
    /// Waiting for the last ACK.
    pub last_ack: u32,
    /// Both sides closed.
    pub time_wait: u32,
    /// Reset seen.
    pub close: u32,
    /// UDP, first packet only.
    pub udp_new: u32,
    /// UDP, more than one packet.
    pub udp: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            syn_received: 60,
            established: 900,
            fin_wait: 120,
            close_wait: 60,
            last_ack: 30,
            time_wait: 120,
            close: 10,
            udp_new: 30,
            udp: 300,
        }
    }
}

/// Source addresses that `fullnat` writes into packets towards the reals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalPool {
    /// At most 64 addresses, v4 and v6 mixed; a flow uses one of its real's family.
    pub addresses: Vec<IpAddr>,
    /// Ports used on each of them.
    pub ports: PortRange,
}

impl Default for LocalPool {
    fn default() -> Self {
        Self { addresses: Vec::new(), ports: PortRange { first: 1024, last: 65535 } }
    }
}

/// A VIP and port(s) with the reals behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Unique name, 1 to 63 bytes of `[A-Za-z0-9._-]`; identity across snapshots.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What clients connect to. All of one address family. Persistence spans the whole list.
    pub listen: Vec<Listen>,
    /// How packets reach the real.
    pub forwarding: Forwarding,
    /// How a real is chosen for a new connection.
    pub scheduler: Scheduler,
    /// Flags of the hashing schedulers.
    #[serde(default)]
    pub scheduler_flags: SchedulerFlags,
    /// Keeps a client on its real across connections.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// Idle timeouts; the snapshot's if absent.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// What becomes of the connections of reals that are [`Real::down`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub dead: Dead,
    /// TCP: while neither a real nor a fallback takes new connections, SYNs are left to the kernel,
    /// where something else may answer for the VIP. Connections that are there stay where they are,
    /// and those that the kernel took stay with it when reals return.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sorry: bool,
    /// The reals, in the order in which schedulers see them.
    pub reals: Vec<Real>,
    /// Take new connections only while none of `reals` does, by the same scheduler. A client is not
    /// tied to one by persistence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<Real>,
}

impl Service {
    /// Reals and fallbacks.
    pub fn all_reals(&self) -> impl Iterator<Item = &Real> {
        self.reals.iter().chain(&self.fallback)
    }
}

/// What becomes of the connections of a real that is down. Half-open ones (a SYN that nobody has
/// answered) go to another real with the client's next SYN, whatever is said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dead {
    /// They stay; should it come back, they go on.
    #[default]
    Keep,
    /// TCP: both sides get an RST. UDP has none: as `move`.
    Reset,
    /// UDP: the client's next packet goes to another real, if one takes it. TCP cannot be moved: as
    /// `reset`.
    Move,
}

/// What ties of clients to a drained real (weight 0, not down) are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Templates {
    /// Nothing: the client's next connection goes to another real, and its tie with it.
    #[default]
    Move,
    /// The client comes back to it until its tie ends (LVS: quiescent).
    Honour,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A real server of a service. Identity across snapshots: service, address and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Real {
    /// Name shown to people; the address if the operator gave none.
    pub name: String,
    /// Address the packet is sent to.
    pub address: IpAddr,
    /// Port the packet is sent to; `None` keeps the port the client used. Always `None` for
    /// `direct` and `tunnel`, which leave the packet as it is.
    #[serde(default)]
    pub port: Option<u16>,
    /// Share of new connections.
    #[serde(default)]
    pub weight: Weight,
    /// Takes no new connection while it has this many.
    #[serde(default)]
    pub upper_threshold: Option<u32>,
    /// Once over the upper threshold, takes new ones again below this many; three quarters of the
    /// upper threshold if absent (as LVS does).
    #[serde(default)]
    pub lower_threshold: Option<u32>,
    /// Found dead: takes no new connection whatever its weight, nobody is tied to it, and
    /// [`Service::dead`] says what becomes of those it has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub down: bool,
    /// With weight 0: what persistence is worth.
    #[serde(default, skip_serializing_if = "is_default")]
    pub templates: Templates,
}

/// Share of new connections, 0 to 65,535. 0 drains: connections stay, new ones go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(u16);

impl Weight {
    /// Takes no new connections.
    pub const DRAINED: Self = Self(0);

    /// A weight; every value is valid.
    #[must_use]
    pub const fn new(weight: u16) -> Self {
        Self(weight)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// The number in the IP header (IANA).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// How packets reach the real.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// Destination rewritten on the way in, source on the way back; the real routes through us.
    Nat,
    /// Both rewritten both ways; the real needs no route through us and does not see the client.
    Fullnat,
    /// Only the MAC address; the real owns the VIP and answers the client itself.
    Direct,
    /// The packet travels inside IP to the real, which answers the client itself.
    Tunnel,
}

impl Forwarding {
    /// Whether the real answers the client past us.
    #[must_use]
    pub const fn is_one_way(self) -> bool {
        matches!(self, Self::Direct | Self::Tunnel)
    }
}

/// Scheduling algorithm, by its LVS name (`ipvsadm(8)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    #[default]
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Source hashing.
    Sh,
    /// Destination hashing.
    Dh,
    /// Maglev hashing.
    Mh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Locality-based least connections.
    Lblc,
    /// Locality-based least connections with replication.
    Lblcr,
    /// Weighted failover: the heaviest available real.
    Fo,
    /// Weighted overflow: the heaviest real until it has as many connections as its weight.
    Ovf,
    /// Power of two choices.
    Twos,
}

/// Flags of `sh` and `mh` (`ipvsadm -b sh-port,sh-fallback`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerFlags {
    /// The client's port takes part in the hash.
    #[serde(default)]
    pub port: bool,
    /// Another real is tried when the chosen one is overloaded or has weight 0.
    #[serde(default)]
    pub fallback: bool,
}

/// Source persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// Seconds without a new connection after which a client is free again, 1 to 31,536,000.
    pub timeout: u32,
    /// Leading bits of the client's address that count as "the same client": 1 to 32 for IPv4.
    pub mask_v4: u8,
    /// The same for IPv6: 1 to 128.
    pub mask_v6: u8,
}

/// An address and port(s) that clients connect to. Text form: `192.0.2.10:80`,
/// `192.0.2.10:8000-8099`, `[2001:db8::10]:*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    /// The VIP.
    pub address: IpAddr,
    /// Its ports.
    pub ports: PortRange,
}

/// Inclusive range of L4 ports; `1-65535` is written `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// Lowest port, at least 1.
    pub first: u16,
    /// Highest port, at least `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// Whether `port` is in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether the two ranges share a port.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            f.write_str("*")
        } else if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::ALL);
        }
        let port = |t: &str| match t.parse::<u16>() {
            Ok(p) if p > 0 && !t.starts_with('+') => Ok(p),
            _ => Err(format!(
                "`{t}` is not a port: expected 1 to 65535, a range like 8000-8099, or *"
            )),
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(format!("port range {text} ends before it begins"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}:{}", self.ports),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{}", self.ports),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}` is not an address with a port: expected 192.0.2.10:80 or [2001:db8::10]:80"
            )
        };
        let (address, ports) = text.rsplit_once(':').ok_or_else(expected)?;
        let address = match address.strip_prefix('[').and_then(|a| a.strip_suffix(']')) {
            Some(v6) => IpAddr::V6(v6.parse().map_err(|_| expected())?),
            None => IpAddr::V4(address.parse().map_err(|_| expected())?),
        };
        Ok(Self { address, ports: ports.parse()? })
    }
}

macro_rules! text_form {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
text_form!(PortRange);
text_form!(Listen);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_reads_what_it_writes() {
        for text in ["192.0.2.10:80", "192.0.2.10:8000-8099", "192.0.2.10:*", "[2001:db8::10]:443"]
        {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for bad in [
            "192.0.2.10",
            "192.0.2.10:0",
            "192.0.2.10:90-80",
            "2001:db8::1:80",
            ":80",
            "1.2.3.4:+5",
        ] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
