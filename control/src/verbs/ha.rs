//! What operators are told of the pair, and ask of it.

use serde::{Deserialize, Serialize};

use crate::failover::view::View;
use crate::replicate;

/// To `ha`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HaResult {
    /// Whether the file has `[ha]`; all else says nothing without.
    pub configured: bool,
    /// Roles, the peer, paths, evidence: as the failure detector has it. None: it has not said
    /// anything yet.
    pub view: Option<View>,
    /// The failure detector itself.
    pub heartbeat: Option<HaHeartbeat>,
    /// Ping targets, in the order of the file.
    pub pings: Vec<HaPing>,
    /// Replication of connections; none: it is not configured.
    #[serde(default)]
    pub replication: Option<replicate::View>,
    /// Settings that differ between the files of the nodes, each with its line; empty if none does or it
    /// is not known yet.
    pub differences: Vec<String>,
    /// What an operator should know, in words.
    pub warnings: Vec<String>,
}

/// The thread of the heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaHeartbeat {
    /// Whether it has real-time priority.
    pub realtime: bool,
    /// Whether its memory is locked.
    pub locked: bool,
    /// What was refused, in words.
    pub warnings: Vec<String>,
    /// How late it was at worst when it wanted to run, in microseconds, since start.
    pub late_max_us: u64,
    /// Times it was later than `keepalive`.
    pub late: u64,
    /// Whether its session with the data plane is up; why not.
    pub agent: bool,
    /// Why it is not.
    pub agent_reason: Option<String>,
    /// Its paths, in the order of the file.
    pub paths: Vec<HaPath>,
}

/// The near end of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaPath {
    /// Its name.
    pub name: String,
    /// `udp`, `multicast` or `serial`.
    pub kind: String,
    /// From where to where.
    pub what: String,
    /// Whether it could be opened.
    pub open: bool,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Messages sent.
    pub sent: u64,
    /// Messages that came, whatever they were worth.
    pub received: u64,
    /// Datagrams of strangers.
    pub foreign: u64,
    /// Messages left out because the line was busy.
    pub skipped: u64,
}

/// A ping target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaPing {
    /// Its name.
    pub name: String,
    /// Whether one of its addresses answers; unknown before the first outcome.
    pub reached: Option<bool>,
    /// Each address with its last outcome.
    pub addresses: Vec<HaPinged>,
}

/// An address of a ping target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaPinged {
    /// The address.
    pub address: String,
    /// Whether it answers.
    pub answers: Option<bool>,
    /// Why not.
    pub reason: Option<String>,
    /// How long the last answer took, in microseconds.
    pub took_us: Option<u64>,
}

/// To `switchover` and `ha-maintenance`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaDone {
    /// What has been done, in words.
    pub text: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// The pair in short, in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaSummary {
    /// The other node.
    pub peer: String,
    /// `never`, `alive`, `late`, `dead` or `left`; `unknown` before the failure detector has said anything.
    pub peer_state: String,
    /// Whether nothing moves by itself.
    pub maintenance: bool,
    /// Groups, in the order of the file.
    pub groups: Vec<HaGroup>,
}

/// A group in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaGroup {
    /// Its name.
    pub name: String,
    /// Role of this node.
    pub role: String,
    /// Why.
    pub reason: String,
    /// Why the takeover is not good yet, if it is not: the service is degraded.
    pub degraded: Option<String>,
}
