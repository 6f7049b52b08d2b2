//! What moves the packets, and what every engine agrees on.
//!
//! Connections are always opened and closed over AF_XDP sockets ([`xsk`]). The data in between is
//! moved by them as well, or by programs in the kernel, which return the same [`Phase`].

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::next_hop::{Move, NextHop};
use self::silence::{Gap, Silence};
use crate::bpf::layout::WAYS;
use crate::flow;
use crate::meter::{Flow, Rules, stage};
use crate::report::{Direction, Line};
use crate::size::Size;
use crate::spec::{Method, Protocol};

pub mod answer;
pub mod data;
pub mod handshake;
pub mod kernel;
pub mod next_hop;
pub mod silence;
pub mod sockets;
pub mod step;
pub mod turnover;
pub mod xsk;

/// One interface of the generator.
#[derive(Clone, Debug)]
pub struct Side {
    /// Name.
    pub interface: String,
    /// Number.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its driver; empty if unknown.
    pub driver: String,
    /// Where its packets go. Clients' go to the VIP's owner. Real servers' go back to where the
    /// request came from, and need none, unless the balancer is not to see them (`direct`, `tunnel`).
    pub next_hop: Arc<NextHop>,
}

/// Everything the workers of a run share.
#[derive(Debug)]
pub struct Scene {
    /// Who talks to whom.
    pub rules: Rules,
    /// The connections, by flow number.
    pub flows: Box<[Flow]>,
    /// The clients' interface, if it is in this process.
    pub client: Option<Side>,
    /// The real servers' interface, if it is in this process.
    pub server: Option<Side>,
    /// Connections that are open: see [`Scene::reach`].
    pub opened: AtomicU64,
    /// Connections that were reset.
    pub refused: AtomicU64,
    /// Connections closed in order.
    pub closed: AtomicU64,
    /// The balancer's MAC address on the servers' side, learned from the first request; 0: none
    /// came yet.
    server_peer: AtomicU64,
    /// Full NAT: the first address of the balancer that was seen there.
    local: OnceLock<IpAddr>,
    /// When nothing came: no request, no reply.
    pub silences: [Silence; WAYS],
}

impl Scene {
    /// Before the first packet.
    #[must_use]
    pub fn new(rules: Rules, client: Option<Side>, server: Option<Side>) -> Self {
        Self {
            flows: (0..rules.clients.flows).map(|_| Flow::default()).collect(),
            rules,
            client,
            server,
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            server_peer: AtomicU64::new(0),
            local: OnceLock::new(),
            silences: Default::default(),
        }
    }

    /// Whether the real servers' packets are on the wire. Without the balancer between, and with both
    /// sides in one process, the clients know what the servers saw.
    #[inline(always)]
    #[must_use]
    pub fn answers(&self) -> bool {
        let both = self.client.is_some() && self.server.is_some();
        self.rules.method.replies_pass() || !both
    }

    /// Where the real servers' answers go that the balancer is not to see; none if all pass it.
    #[inline(always)]
    pub(crate) fn straight(&self) -> Option<&NextHop> {
        let server = self.server.as_ref()?;
        (!self.rules.method.replies_pass()).then_some(&*server.next_hop)
    }

    /// Stages that make a connection an open one, as far as this process can see.
    #[must_use]
    pub fn open_stage(&self) -> u8 {
        match (self.rules.protocol, self.client.is_some(), self.server.is_some()) {
            (Protocol::Tcp, true, true) => stage::ANSWERED | stage::ESTABLISHED,
            (Protocol::Tcp, false, _) => stage::ESTABLISHED,
            (Protocol::Udp, false, _) => stage::REACHED,
            (Protocol::Udp, true, true) if !self.rules.method.replies_pass() => stage::REACHED,
            (_, true, _) => stage::ANSWERED,
        }
    }

    /// A flow gets further; returns whether it was not there before.
    #[inline(always)]
    pub fn reach(&self, flow: &Flow, bits: u8) -> bool {
        let old = flow.reach(bits);
        let (open, new) = (self.open_stage(), old | bits);
        if old & open != open && new & open == open {
            self.opened.fetch_add(1, Relaxed);
        }
        if bits & !old & stage::REFUSED != 0 {
            self.refused.fetch_add(1, Relaxed);
        }
        if bits & !old & stage::CLOSED != 0 {
            self.closed.fetch_add(1, Relaxed);
        }
        old & bits != bits
    }

    /// A flow begins again.
    pub(crate) fn forget(&self, flow: &Flow) {
        if flow.is(self.open_stage()) {
            self.opened.fetch_sub(1, Relaxed);
        }
        flow.reset();
    }

    /// Full NAT: the address and port of the balancer that a flow's real server sees. Of several
    /// addresses that differ in more than their last 32 bits only the first is known.
    #[must_use]
    pub fn local(&self, flow: &Flow) -> Option<SocketAddr> {
        let bits = flow.local.load(Relaxed);
        let low = (bits >> 16) as u32;
        let address = self.local.get().map(|first| flow::with_low(*first, low))?;
        (bits != 0).then(|| SocketAddr::new(address, bits as u16))
    }

    /// Full NAT: whether a flow still comes from where it was opened, as far as that is known.
    #[inline(always)]
    pub(crate) fn is_local(&self, flow: &Flow, (address, port): (IpAddr, u16)) -> bool {
        let bits = flow.local.load(Relaxed);
        bits == 0 || bits == u64::from(flow::low(address)) << 16 | u64::from(port)
    }

    /// A flow was opened from this address and port.
    pub(crate) fn learn_local(&self, flow: &Flow, (address, port): (IpAddr, u16)) {
        if self.rules.method == Method::Fullnat {
            let first = *self.local.get_or_init(|| address);
            let low = flow::low(address);
            let known = flow::with_low(first, low) == address;
            let bits = u64::from(low) << 16 | u64::from(port);
            flow.local.store(if known { bits } else { 0 }, Relaxed);
        }
    }

    /// The balancer's MAC address on the servers' side, once a request came.
    #[must_use]
    pub fn server_peer(&self) -> Option<[u8; 6]> {
        let bits = self.server_peer.load(Relaxed);
        let [_, _, mac @ ..] = bits.to_be_bytes();
        (bits != 0).then_some(mac)
    }

    /// A request came from this MAC address.
    #[inline(always)]
    pub(crate) fn learn_server_peer(&self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        let bits = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        if self.server_peer.load(Relaxed) != bits {
            self.server_peer.store(bits, Relaxed);
        }
    }

    /// Numbers of the connections that are open.
    #[must_use]
    pub fn open_flows(&self) -> Vec<u32> {
        let open = self.open_stage();
        let flows = self.flows.iter().enumerate();
        flows
            .filter(|(_, flow)| flow.is(open) && flow.stage() & stage::REFUSED == 0)
            .map(|(number, _)| number as u32)
            .collect()
    }
}

/// What a data phase is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Requests a second.
    pub request_pps: f64,
    /// Share of the data packets that are replies.
    pub replies: f64,
    /// Frame sizes.
    pub size: Size,
    /// How long.
    pub duration: Duration,
    /// Longest wait for packets that are still on their way.
    pub patience: Duration,
    /// Of the order of flows.
    pub seed: u64,
}

impl Plan {
    /// Replies to each request.
    #[must_use]
    pub fn replies_per_request(&self) -> f64 {
        if self.replies >= 1.0 { 0.0 } else { self.replies / (1.0 - self.replies) }
    }
}

/// What a data phase gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Phase {
    /// Seconds from its start until the last packet was sent.
    pub seconds: f64,
    /// Client to real server.
    pub requests: Direction,
    /// Real server to client.
    pub replies: Direction,
    /// Open connections through which a packet passed each way (each way that there is traffic).
    pub alive: u64,
    /// Those of them through which one of the last two packets passed, each way.
    pub alive_at_end: u64,
    /// Fewest packets that any open connection carried, both ways together.
    pub least_packets: u64,
    /// Packets that the generator's own side dropped, by place.
    pub lost_here: Vec<Line>,
    /// The longest time without an answer at the clients (without a request at the real servers, if
    /// there are no answers here); none if the clients are elsewhere.
    pub silence: Option<Gap>,
    /// How often the next hop moved during the phase, and the first of these moves.
    pub moves: (u64, Vec<Move>),
    /// When the first packet was due, nanoseconds of the monotonic clock.
    pub start: u64,
    /// What went wrong, in words; the run has not passed.
    pub faults: Vec<String>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// What is going on, for people who wait.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Live {
    /// `opening`, `traffic`, `closing`.
    pub phase: &'static str,
    /// Since the start of the phase.
    pub elapsed: Duration,
    /// Connections open, refused, closed.
    pub connections: [u64; 3],
    /// Requests sent and received.
    pub requests: [u64; 2],
    /// Replies sent and received.
    pub replies: [u64; 2],
}

/// How a run is watched and ended from outside.
pub struct Watch<'a> {
    /// True: end it in good order, now.
    pub interrupted: &'a std::sync::atomic::AtomicBool,
    /// Called ten times a second.
    pub tick: &'a mut dyn FnMut(&Live),
}
