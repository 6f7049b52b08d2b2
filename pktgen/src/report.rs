//! What a run found, as one JSON object: for machines, and for `xvip-perf`, which reads it back.
//!
//! Pure data. Times are nanoseconds unless a name says otherwise; rates of bits are of the wire: frame,
//! frame check sequence, preamble and gap (RFC 1242, RFC 2544), so that 1,488,095 frames of 64 bytes a
//! second are 1 Gbit/s.

use serde::{Deserialize, Serialize};

/// Changes when a field goes or means something else.
pub const SCHEMA: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: String,
    /// What was run: `load`, `cps`, `flood`, `ndr` or `reflect`.
    pub verb: String,
    /// The options in force, defaults included, as the scenario file would have them.
    pub scenario: serde_json::Value,
    /// Each measured stretch of traffic: one for `load`, one for each step of `ndr` and `cps`.
    pub trials: Vec<Trial>,
    /// `ndr`: highest rate without loss (within the allowance) for each frame size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ndr: Vec<Ndr>,
    /// Whether every stated criterion was met.
    pub passed: bool,
    /// Those that were not, in words.
    pub failures: Vec<String>,
    /// What a reader has to know, in words: a generator that fell behind, unknown counters.
    pub notes: Vec<String>,
}

/// One stretch of traffic. In `cps`, a step: there `requests` counts connections instead of packets
/// (due, begun as sent, completed as received, failed as lost; latency is the time to open one),
/// and so does the ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Engine of the generator: `af_xdp` or `xdp`.
    pub engine: String,
    /// How it sits on the interfaces: `native` or `generic`, and `copy` or `zero-copy`.
    pub mode: String,
    /// Frame size on the wire, frame check sequence included: a number, or `imix`.
    pub size: String,
    /// Seconds of traffic.
    pub seconds: f64,
    /// When it began: nanoseconds of this machine's `CLOCK_MONOTONIC`; 0 in `cps`.
    #[serde(default)]
    pub start_ns: u64,
    /// Packets a second that were asked for, both ways together.
    pub asked_pps: f64,
    /// The same as bits a second on the wire.
    pub asked_bps: f64,
    /// Client to real server.
    pub requests: Direction,
    /// Real server to client.
    pub replies: Direction,
    /// The connections.
    pub connections: Connections,
    /// Where every sent packet went. `Line::packets` of all but the first (`sent`) add up to the
    /// first, or `unexplained` is not 0.
    pub ledger: Vec<Line>,
    /// Sent packets that no counter accounts for; negative if counters account for too many.
    pub unexplained: i64,
    /// Who set the limit.
    pub limit: Limit,
    /// Use of each core of the machine, in order.
    pub cores: Vec<Core>,
    /// How often the VIP moved to another MAC address during the trial (with `reflect`: the next hop
    /// of the answers). The generator followed at once.
    #[serde(default)]
    pub neighbor_changes: u64,
    /// The first 64 of these changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbors: Vec<NeighborChange>,
    /// The longest time in which no answer came to any client (no request to a real server, where
    /// there are no answers); none in `cps` and `reflect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_silence: Option<Silence>,
    /// What was sent beside it; only in `flood`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flood: Option<Flood>,
}

/// The VIP moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NeighborChange {
    /// Seconds into the traffic.
    pub seconds: f64,
    /// Its MAC address before.
    pub from: String,
    /// And from then on.
    pub to: String,
}

/// A time in which nothing came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// Its length in milliseconds.
    pub ms: f64,
    /// When it began, in seconds into the traffic.
    pub seconds: f64,
}

/// Packets from random sources beside the good traffic. They are in the ledger, but not in
/// `requests`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flood {
    /// SYNs due and sent.
    pub syn: [u64; 2],
    /// UDP packets due and sent.
    pub udp: [u64; 2],
    /// Of all these, those that came out at the real servers.
    pub arrived: u64,
    /// Sent a second.
    pub sent_pps: f64,
}

/// One way of the traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Packets due by the pace that was asked for.
    pub due: u64,
    /// Packets handed to the kernel.
    pub sent: u64,
    /// Valid packets received, repeated ones not counted.
    pub received: u64,
    /// Sent and not received.
    pub lost: u64,
    /// Received more than once.
    pub duplicated: u64,
    /// Received after one with a higher number of the same flow.
    pub reordered: u64,
    /// With a wrong checksum or a damaged stamp.
    pub corrupted: u64,
    /// Whole, but of another flow than its addresses say, from another source than the VIP, or at
    /// another real server than the packets of the flow before.
    pub strayed: u64,
    /// Sent a second.
    pub sent_pps: f64,
    /// Received a second.
    pub received_pps: f64,
    /// Received bits a second on the wire.
    pub received_bps: f64,
    /// Time from when a packet was due until it was received; none if not measured.
    pub latency: Option<Latency>,
}

/// Distribution of latency in nanoseconds, free of coordinated omission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Packets measured.
    pub samples: u64,
    /// Smallest.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

/// Connections of a trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Asked for.
    pub wanted: u64,
    /// Whose handshake was finished (UDP: whose first reply came).
    pub opened: u64,
    /// Opening packets that had to be repeated.
    pub repeated: u64,
    /// Opened a second.
    pub opened_per_second: f64,
    /// Through which a packet passed each way during the trial.
    pub alive: u64,
    /// Through which a packet passed each way at the end: one of the last two that were sent. Those that a
    /// balancer has forgotten meanwhile are not among them. With one side elsewhere: as `alive`.
    #[serde(default)]
    pub alive_at_end: u64,
    /// Fewest packets that any of them carried during the trial, both ways together.
    pub least_packets: u64,
    /// That the balancer says are established, after the trial; none if it was not asked.
    pub balancer_active: Option<u64>,
    /// Closed in order afterwards.
    pub closed: u64,
    /// Real servers that were reached, and connections of each.
    pub reals: Vec<Share>,
}

/// Connections at one real server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its address.
    pub real: String,
    /// Its connections.
    pub connections: u64,
}

/// A line of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `sent` first; then `received`, and every place where packets were dropped:
    /// `generator rx ring full`, `balancer drop: table_full`, …
    pub place: String,
    /// Packets.
    pub packets: u64,
}

/// Who set the limit of a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Everything due was sent, everything sent arrived.
    #[default]
    None,
    /// The generator could not keep the pace; what was sent arrived.
    Generator,
    /// Packets were lost in the device under test.
    Device,
    /// Packets were lost on the generator's own receiving side.
    Receiver,
    /// Packets were lost, and no counter says where.
    Unknown,
}

/// Use of one core during a trial, as shares of its time (`/proc/stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Core {
    /// Number.
    pub core: u32,
    /// Not idle; `softirq` and `stolen` included.
    pub busy: f64,
    /// In interrupts (hard and soft).
    pub softirq: f64,
    /// Taken by the hypervisor.
    pub stolen: f64,
}

/// Result of the search for one frame size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ndr {
    /// Frame size.
    pub size: String,
    /// Highest rate with no more loss than allowed, packets a second both ways; 0 if none.
    pub pps: f64,
    /// The same in bits a second on the wire.
    pub bps: f64,
    /// Allowed loss as a share of packets.
    pub allowance: f64,
    /// Trials it took.
    pub trials: u32,
    /// Who set the limit in the lowest trial that failed.
    pub limit: Limit,
}
