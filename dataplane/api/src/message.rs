//! Messages on the agent socket, between control (client) and data plane (server).
//!
//! One JSON object a line, at most [`LINE_MAX`] bytes including the newline. The client speaks first,
//! with `hello`; each request gets exactly one reply, in order.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::service::{Protocol, Snapshot};

/// Longest line either side accepts, in bytes.
pub const LINE_MAX: usize = 4 << 20;
/// Most connections in one page of [`Request::Conns`].
pub const CONNS_PAGE_MAX: u32 = 1000;

/// What control asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// First message of a session.
    Hello {
        /// [`crate::VERSION`] of the client.
        version: u32,
    },
    /// Make this the desired state.
    Apply {
        /// All of it.
        snapshot: Box<Snapshot>,
    },
    /// Ownership of the VIPs, renewed well before it ends.
    Lease {
        /// Milliseconds from now for which VIPs are answered; 0 gives them up at once.
        ttl_ms: u32,
        /// A new epoch makes the data plane announce every VIP on every interface again.
        epoch: u64,
        /// Ownership of this [`crate::service::Group`] alone; absent: of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// The lease ends no later than at this moment, in nanoseconds of `CLOCK_BOOTTIME`: what was
        /// decided before a pause of the machine is worth nothing after it, however late it is read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ns: Option<u64>,
    },
    /// Who answers for these addresses on the wire, as seen from our interfaces: to verify a takeover
    /// of the other node, or our own.
    Resolve {
        /// 1 to [`RESOLVE_MAX`] VIPs, addresses of full NAT or gateways of the snapshot.
        addresses: Vec<IpAddr>,
        /// For how long answers are collected, in milliseconds, 1 to [`PATH_TIMEOUT_MAX`].
        timeout_ms: u32,
    },
    /// Everything but connections: interfaces, workers, counters, services.
    Status,
    /// A page of the connection table.
    Conns {
        /// Where to go on: 0, or `next` of the previous page.
        cursor: u64,
        /// At most this many, 1 to [`CONNS_PAGE_MAX`].
        limit: u32,
        /// Which connections.
        #[serde(default)]
        filter: ConnFilter,
    },
    /// Ends the connections that a real has now, and the ties of clients to it (persistence).
    /// [`RealStatus::ending`] counts down how many are left.
    EndConns {
        /// Name of the service.
        service: String,
        /// The real, which may be a removed one: its address,
        real: IpAddr,
        /// and its port as in the snapshot.
        #[serde(default)]
        port: Option<u16>,
        /// In which way.
        how: How,
    },
    /// What would become of a first packet of this client, stage by stage. Changes nothing.
    Why {
        /// Who would send it.
        client: IpAddr,
        /// From which port; one that no connection has if absent.
        #[serde(default)]
        client_port: Option<u16>,
        /// To which VIP,
        vip: IpAddr,
        /// to which port of it,
        vip_port: u16,
        /// and by which protocol.
        protocol: Protocol,
    },
    /// Begins to copy frames of chosen flows, one capture at a time. It ends by itself.
    Capture {
        /// Which frames.
        #[serde(default)]
        filter: CaptureFilter,
        /// Most frames, 1 to [`CAPTURE_PACKETS_MAX`].
        packets_max: u32,
        /// Longest time, 1 to [`CAPTURE_SECONDS_MAX`].
        seconds: u32,
        /// Bytes kept of each frame, 64 to [`CAPTURE_BYTES_MAX`].
        bytes: u16,
    },
    /// The captured frames that have not been fetched yet, and whether more are to come.
    Captured {
        /// At most this many, 1 to [`CAPTURED_PAGE_MAX`].
        limit: u32,
    },
    /// Ends a capture; frames that have not been fetched are lost.
    EndCapture,
    /// Sends a SYN to a VIP through the forwarding path of reals that own it (`direct`, `tunnel`), and
    /// hears whether they answer. Nothing of it is a connection.
    PathProbe {
        /// 1 to [`PATH_PROBES_MAX`], all at once.
        targets: Vec<PathTarget>,
        /// How long to wait for answers, in milliseconds, 1 to [`PATH_TIMEOUT_MAX`].
        timeout_ms: u32,
    },
}

/// Most addresses of one [`Request::Resolve`].
pub const RESOLVE_MAX: usize = 64;

/// Most targets of one [`Request::PathProbe`].
pub const PATH_PROBES_MAX: usize = 64;
/// Longest wait of one, in milliseconds.
pub const PATH_TIMEOUT_MAX: u32 = 5000;

/// Where a path probe goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathTarget {
    /// Name of the service.
    pub service: String,
    /// The real by whose way it goes.
    pub real: IpAddr,
    /// The VIP to which it is addressed,
    pub vip: IpAddr,
    /// and the port.
    pub vip_port: u16,
}

/// What became of a path probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathAnswer {
    /// A SYN-ACK came (and was reset).
    Answered,
    /// An RST came: it owns the VIP, and nobody listens there.
    Refused,
    /// Nothing came in time: the real does not own the VIP, or is not there.
    Silent,
    /// It could not be sent: the next hop towards the real answers no ARP or neighbour request.
    Unresolved,
    /// It could not be sent: no route, no address of our own on the way, or the service is gone.
    NotSent,
}

/// Outcome of a path probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathResult {
    /// What came.
    pub answer: PathAnswer,
    /// After how many microseconds.
    pub after_us: u64,
}

/// Most frames of one capture.
pub const CAPTURE_PACKETS_MAX: u32 = 1_000_000;
/// Longest capture, in seconds.
pub const CAPTURE_SECONDS_MAX: u32 = 3600;
/// Most bytes kept of a frame: all of any.
pub const CAPTURE_BYTES_MAX: u16 = 2048;
/// Most frames in one page of [`Request::Captured`].
pub const CAPTURED_PAGE_MAX: u32 = 256;

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// TCP: both sides get an RST, at the next packet of either; idle ones are asked for one. UDP: as
    /// `move`.
    Reset,
    /// They are forgotten, and nobody is told.
    Drop,
    /// UDP: the client's next packet goes to another real, if one takes it. TCP: as `reset`.
    Move,
}

/// Selects frames to capture; an absent field matches everything. A field is matched by either end of
/// the packet, as it came in or as it went out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureFilter {
    /// Client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Client port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_port: Option<u16>,
    /// VIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpAddr>,
    /// Port of the VIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip_port: Option<u16>,
    /// Address of the real. What goes to a real of `direct` does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<IpAddr>,
    /// Protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// Selects connections; an absent field matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnFilter {
    /// Service name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Address of the real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<IpAddr>,
    /// State name as shown by [`Conn::state`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// What the data plane answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum Reply {
    /// To `hello`.
    Hello {
        /// [`crate::VERSION`] of the data plane.
        version: u32,
        /// Process id.
        pid: u32,
        /// Random for each start of the process.
        boot_id: String,
    },
    /// To `apply`.
    Applied {
        /// Settings that differ from the running ones and need a restart of the data plane.
        needs_restart: Vec<String>,
    },
    /// To `lease`.
    Leased,
    /// To `status`.
    Status(Box<Status>),
    /// To `conns`.
    Conns {
        /// The page.
        conns: Vec<Conn>,
        /// Cursor of the next page; absent at the end.
        next: Option<u64>,
    },
    /// To `end-conns`.
    Ending {
        /// Connections and ties that are to end.
        conns: u64,
    },
    /// To `why`.
    Why(Box<Why>),
    /// To `capture`: it runs.
    Capturing,
    /// To `captured`.
    Captured(Box<Captured>),
    /// To `end-capture`: none runs.
    CaptureEnded,
    /// To `path-probe`.
    PathProbed {
        /// One for each target, in order.
        results: Vec<PathResult>,
    },
    /// To `resolve`.
    Resolved {
        /// Every answer that came, in time.
        answers: Vec<Resolution>,
    },
    /// The request was not carried out; nothing changed.
    Error {
        /// What, where and what to do about it.
        message: String,
    },
}

/// Somebody who answers for an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// Which.
    pub address: IpAddr,
    /// The interface of ours on which it was said.
    pub interface: String,
    /// By whom: MAC address.
    pub mac: String,
}

/// What would become of a first packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What each stage says, up to the first that fails.
    pub steps: Vec<Step>,
    /// Name of the real that would get it, if any.
    pub real: Option<String>,
    /// Name of the first stage that fails, if any.
    pub failed: Option<String>,
}

/// What one stage says of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Stage: `steering`, `interface`, `lease`, `service`, `source`, `connection`, `persistence`,
    /// `scheduler`, `next-hop`, `room`.
    pub stage: String,
    /// Whether the packet gets past it.
    pub ok: bool,
    /// The verdict, in words.
    pub verdict: String,
}

/// A page of captured frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The frames, each worker's in order.
    pub frames: Vec<CapturedFrame>,
    /// Whether more may come. The last page is the one without frames and with `false` here.
    pub running: bool,
    /// Frames that matched but were lost, because they were not fetched in time.
    pub lost: u64,
    /// Frames that matched but were left out by the limit of frames a second.
    pub limited: u64,
}

/// A frame before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedFrame {
    /// When its burst was received: nanoseconds since 1970.
    pub unix_ns: u64,
    /// Worker that had it.
    pub worker: u16,
    /// Interface it came in on; absent for a packet that xvip made itself.
    pub rx: Option<String>,
    /// Its length when it came, in bytes.
    pub before_len: u32,
    /// Its bytes when it came, in hexadecimal digits; cut off as asked for.
    pub before: String,
    /// What became of it: `sent`, `held` (a fragment that waits), or the name of a
    /// [`crate::counter::Reason`].
    pub verdict: String,
    /// Interface it was sent on.
    pub tx: Option<String>,
    /// Its length when it was sent; 0 if it was not.
    pub after_len: u32,
    /// Its bytes when it was sent, likewise.
    pub after: String,
}

/// State of the data plane at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Random for each start of the process.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Milliseconds since start.
    pub uptime_ms: u64,
    /// Milliseconds for which VIPs are still answered; 0 if the lease has run out. The longest of all
    /// groups.
    pub lease_ms: u64,
    /// Epoch of the lease; the highest of all groups.
    pub epoch: u64,
    /// Each group of VIPs; one, unnamed, if the snapshot has none.
    #[serde(default)]
    pub groups: Vec<GroupStatus>,
    /// Connections adopted from a previous process at start.
    pub adopted: u64,
    /// The connection table.
    pub table: TableStatus,
    /// Interfaces, in slot order.
    pub interfaces: Vec<InterfaceStatus>,
    /// Workers.
    pub workers: Vec<WorkerStatus>,
    /// Services with their reals.
    pub services: Vec<ServiceStatus>,
    /// Drops by [`crate::counter::Reason::name`], summed over workers.
    pub drops: BTreeMap<String, u64>,
    /// Events by [`crate::counter::Event::name`], summed over workers.
    pub events: BTreeMap<String, u64>,
    /// Problems an operator should know, in words; empty when all is well.
    pub warnings: Vec<String>,
    /// Connections that the kernel was given because a service with [`sorry`] had nobody to serve
    /// them, and that may go on.
    ///
    /// [`sorry`]: crate::service::Service::sorry
    #[serde(default)]
    pub kernel_flows: u64,
}

/// Ownership of a group of VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name; empty if the snapshot has no groups.
    pub name: String,
    /// Milliseconds for which its addresses are still answered; 0 if the lease has run out.
    pub lease_ms: u64,
    /// Epoch of the lease.
    pub epoch: u64,
    /// Announcements sent under this epoch, over all addresses and interfaces.
    pub announced: u64,
    /// How often somebody else has claimed one of its addresses while they were ours, since start.
    pub foreign_claims: u64,
    /// Packets from clients that services with a VIP of it have sent on to real servers since start.
    pub packets: u64,
}

/// The connection table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Connections it can hold.
    pub capacity: u64,
    /// Connections it holds, half-open ones and persistence templates included.
    pub used: u64,
    /// Half-open ones among them.
    pub half_open: u64,
    /// Most half-open ones it may hold.
    pub half_open_max: u64,
    /// Persistence templates among them.
    pub templates: u64,
    /// Bytes of memory, index included.
    pub bytes: u64,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Kernel name.
    pub name: String,
    /// `absent`, `down`, `no-carrier` or `up`.
    pub link: String,
    /// Whether our program and sockets are on it.
    pub attached: bool,
    /// Why not, if not.
    pub problem: Option<String>,
    /// Kernel index; 0 if absent.
    pub ifindex: u32,
    /// Driver name; empty if unknown.
    pub driver: String,
    /// `native` or `generic`; empty if detached.
    pub mode: String,
    /// `zero-copy` or `copy`; empty if detached.
    pub copy: String,
    /// Queues we serve.
    pub queues: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address.
    pub mac: String,
    /// Packets received by us.
    pub rx_packets: u64,
    /// Bytes received by us.
    pub rx_bytes: u64,
    /// Packets sent by us.
    pub tx_packets: u64,
    /// Bytes sent by us.
    pub tx_bytes: u64,
    /// Frames the kernel dropped for us (`XDP_STATISTICS`: rx_dropped, rx_ring_full,
    /// rx_fill_ring_empty_descs; invalid descriptors).
    pub kernel_drops: BTreeMap<String, u64>,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// CPU it is pinned to.
    pub core: u16,
    /// Thread id.
    pub tid: u32,
    /// Turns of the poll loop.
    pub polls: u64,
    /// Turns that found frames.
    pub busy_polls: u64,
    /// Whether pinning worked.
    pub pinned: bool,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// What it listens on, in text form.
    pub listen: Vec<String>,
    /// Forwarding method.
    pub forwarding: String,
    /// Scheduler.
    pub scheduler: String,
    /// Who takes new connections: `reals`, `fallback`, `sorry` (the kernel) or `nobody`.
    #[serde(default)]
    pub serves: String,
    /// The reals, fallbacks and removed ones with live connections included.
    pub reals: Vec<RealStatus>,
}

/// One real of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RealStatus {
    /// Name.
    pub name: String,
    /// Address and port in text form.
    pub address: String,
    /// Weight in force.
    pub weight: u16,
    /// Removed from the configuration, kept until its connections end.
    pub removed: bool,
    /// Next hop: `resolved`, `unresolved`, `no-route` or `device-down`.
    pub next_hop: String,
    /// Established connections.
    pub active: u64,
    /// Other connections (opening, closing).
    pub inactive: u64,
    /// Connections opened since start.
    pub opened: u64,
    /// Packets towards the real.
    pub packets_in: u64,
    /// Bytes towards the real.
    pub bytes_in: u64,
    /// Packets from the real.
    pub packets_out: u64,
    /// Bytes from the real.
    pub bytes_out: u64,
    /// Found dead.
    #[serde(default)]
    pub down: bool,
    /// Takes connections only while no other does.
    #[serde(default)]
    pub fallback: bool,
    /// Clients tied to it (persistence templates).
    #[serde(default)]
    pub templates: u64,
    /// SYNs that it left unanswered, since start: each that a client repeated, and, where replies pass
    /// through us, each connection that ended before it was answered.
    #[serde(default)]
    pub syn_unanswered: u64,
    /// SYNs that it answered with an RST, since start; only seen where replies pass through us.
    #[serde(default)]
    pub resets: u64,
    /// Connections and templates that are still to end, by order or because it is down.
    #[serde(default)]
    pub ending: u64,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conn {
    /// Protocol.
    pub protocol: Protocol,
    /// Client address.
    pub client: IpAddr,
    /// Client port.
    pub client_port: u16,
    /// The VIP it connected to.
    pub vip: IpAddr,
    /// The port it connected to.
    pub vip_port: u16,
    /// Real address.
    pub real: IpAddr,
    /// Real port.
    pub real_port: u16,
    /// Local address and port of full NAT.
    pub local: Option<(IpAddr, u16)>,
    /// Service name.
    pub service: String,
    /// State name (LVS words: `SYN_RECV`, `ESTABLISHED`, …; `UDP`; `TEMPLATE`).
    pub state: String,
    /// Seconds since the last packet.
    pub idle_s: u64,
    /// Seconds until it expires if nothing comes.
    pub expires_s: u64,
}
