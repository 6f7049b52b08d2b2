//! What a run does: options that were read, completed and found possible.
//!
//! Plain data; [`crate::options`] makes it and is the only place with defaults. Whoever holds a
//! [`Spec`] may rely on it: the VIP is in neither range of addresses, all addresses are of one
//! family, every flow has its client port, the frame size holds a stamp, rates are above zero.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::flow::{Addresses, Clients};
use crate::rate::Rate;
use crate::size::{self, Size};

/// A validated run.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What to run, with what only that needs.
    pub verb: Verb,
    /// Address and port the clients speak to.
    pub vip: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How the balancer forwards: what the server side has to expect.
    pub method: Method,
    /// Address and port of every flow's client; `clients.flows` is [`Spec::connections`] (in `cps`
    /// the most that exist at once, in `flood` those of the good traffic).
    pub clients: Clients,
    /// Addresses of the real servers.
    pub reals: Addresses,
    /// Port of the real servers; with direct and tunnel the same as the VIP's.
    pub real_port: u16,
    /// Interface of the clients; none if they are in another process (`reflect`, or one half of a
    /// run on two machines). At least one of the two is set.
    pub client: Option<String>,
    /// Interface of the real servers; none if they are in another process. Never the same.
    pub server: Option<String>,
    /// Connections held at once.
    pub connections: u32,
    /// Pace of data packets, both ways together. See [`Spec::pps`].
    pub rate: Rate,
    /// Share of the data packets that are replies, 0 to below 1: 0.5 is one reply to each request.
    /// 0 with direct and tunnel in one process: their replies do not pass the balancer.
    pub replies: f64,
    /// Size of the data frames.
    pub size: Size,
    /// Length of the measured stretch; zero (`reflect` only) means until interrupted.
    pub duration: Duration,
    /// Connections opened a second before the measured stretch.
    pub open_rate: f64,
    /// What moves the data packets.
    pub engine: Engine,
    /// Driver mode of the interfaces.
    pub mode: Mode,
    /// Copy mode of the AF_XDP sockets.
    pub copy: Copying,
    /// Cores of the generator, one worker on each; never empty, no repetition.
    pub cores: Vec<usize>,
    /// Queues of each interface that are served, from 0 on; worker `n` has queue `n`.
    pub queues: u32,
    /// Agent socket of the balancer's data plane; none: its counters are not asked.
    pub balancer: Option<PathBuf>,
    /// Largest share of packets that may be lost for the run to pass.
    pub max_loss: f64,
    /// How long to wait: for the VIP's MAC address, for the last handshake after all were sent,
    /// for late packets, for the last orderly close.
    pub patience: Duration,
    /// Key of the packets' checks ([`crate::stamp`]): random unless given; the same on both
    /// machines of a run.
    pub key: u32,
    /// Seed of everything random (flood sources, IMIX order).
    pub seed: u64,
    /// What to print.
    pub output: Output,
}

impl Spec {
    /// Data packets a second, both ways together.
    #[must_use]
    pub fn pps(&self) -> f64 {
        self.rate.pps(self.wire_bits())
    }

    /// Bits on a wire that a data packet takes on average: frame, preamble and gap.
    #[must_use]
    pub fn wire_bits(&self) -> f64 {
        self.size.wire_bits(self.least())
    }

    /// Smallest frame that holds a stamp; smaller ones of IMIX are raised to it.
    #[must_use]
    pub fn least(&self) -> u16 {
        size::least(self.is_v6(), self.protocol)
    }

    /// Requests a second.
    #[must_use]
    pub fn request_pps(&self) -> f64 {
        self.pps() * (1.0 - self.replies)
    }

    /// Replies a second.
    #[must_use]
    pub fn reply_pps(&self) -> f64 {
        self.pps() * self.replies
    }

    /// With direct and tunnel: the neighbour to whom the real servers' answers go.
    #[must_use]
    pub fn next_hop(&self) -> IpAddr {
        match &self.verb {
            Verb::Reflect(Reflect { next_hop: Some(hop) }) => *hop,
            _ => self.clients.addresses.first(),
        }
    }

    /// Whether all is IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.vip.is_ipv6()
    }
}

/// What to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Holds connections and sends at one rate.
    Load,
    /// New connections a second, in rising steps.
    Cps(Cps),
    /// Good traffic beside a flood.
    Flood(Flood),
    /// Searches the highest rate without loss.
    Ndr(Ndr),
    /// The server side alone.
    Reflect(Reflect),
}

impl Verb {
    /// As the command line has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Load => "load",
            Verb::Cps(_) => "cps",
            Verb::Flood(_) => "flood",
            Verb::Ndr(_) => "ndr",
            Verb::Reflect(_) => "reflect",
        }
    }
}

/// What only `cps` needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cps {
    /// Connections a second of the first step.
    pub from: f64,
    /// Connections a second of the last step.
    pub to: f64,
    /// Steps from `from` to `to`, evenly apart; at least 1.
    pub steps: u32,
    /// Length of a step.
    pub step: Duration,
}

/// What only `flood` needs. At least one of the rates is above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flood {
    /// SYNs a second from random sources; 0: none.
    pub syn: f64,
    /// UDP packets a second from random sources; 0: none.
    pub udp: f64,
}

/// What only `ndr` needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Ndr {
    /// Frame sizes, one search for each.
    pub sizes: Vec<Size>,
    /// Largest share of packets that may be lost in a trial that counts as good; below 1.
    pub allowance: f64,
    /// Lowest rate.
    pub from: Rate,
    /// Highest rate.
    pub to: Rate,
    /// The search ends when the bracket is narrower than this share of its upper end.
    pub resolution: f64,
    /// Length of a trial.
    pub trial: Duration,
}

/// What only `reflect` needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reflect {
    /// Where the real servers' answers go with direct and tunnel; none: to the clients themselves.
    pub next_hop: Option<IpAddr>,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How the balancer forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Destination rewritten.
    Nat,
    /// Source and destination rewritten: requests come from an address of the balancer.
    Fullnat,
    /// Only the MAC addresses rewritten.
    Direct,
    /// In a tunnel to the real server.
    Tunnel,
}

impl Method {
    /// Whether replies pass the balancer.
    #[must_use]
    pub fn replies_pass(self) -> bool {
        matches!(self, Self::Nat | Self::Fullnat)
    }

    /// Bytes that the balancer puts before a packet to a real server of this family.
    #[must_use]
    pub fn overhead(self, real: IpAddr) -> u16 {
        match (self, real) {
            (Self::Tunnel, IpAddr::V4(_)) => 20,
            (Self::Tunnel, IpAddr::V6(_)) => 40,
            _ => 0,
        }
    }
}

/// What moves the data packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Poll loops on AF_XDP sockets.
    AfXdp,
    /// BPF programs in the kernel (live frames), for rates beyond AF_XDP's copy mode.
    Xdp,
}

/// Driver mode of the interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Native where the driver can.
    Auto,
    /// In the driver, or an error.
    Native,
    /// After the driver.
    Generic,
}

/// Copy mode of the AF_XDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// Zero-copy where the driver can.
    Auto,
    /// Copy.
    Copy,
    /// Zero-copy, or an error.
    ZeroCopy,
}

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The report as JSON on standard output instead of a table.
    pub json: bool,
    /// No progress on standard error.
    pub quiet: bool,
}
