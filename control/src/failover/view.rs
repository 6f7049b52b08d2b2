//! What `xvip ha` shows.

use serde::{Deserialize, Serialize};

use crate::failover::exchange::{Evidence, Standing};
use crate::seal::Refusals;

/// Everything, as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// This node.
    pub node: String,
    /// Whether it carries nothing out by itself (of both nodes).
    pub maintenance: bool,
    /// Whether it is on its way out.
    pub leaving: bool,
    /// Whether its data plane answers.
    pub data_plane: bool,
    /// What it sees of its network.
    pub evidence: Evidence,
    /// Whether it sees too little of its network to take anything from a silent peer.
    pub blind: bool,
    /// Why it may not own anything yet; none: it may.
    pub learning: Option<String>,
    /// Roles, in the order of the configuration.
    pub groups: Vec<GroupView>,
    /// The other node.
    pub peer: PeerView,
    /// Ways of the heartbeat, in the order of the configuration.
    pub paths: Vec<PathView>,
    /// How replication stands; none: it is not configured.
    pub replication: Option<Standing>,
    /// What the measured gaps say of `deadtime`.
    pub deadtime: DeadtimeView,
    /// Settings that differ between the nodes, one a line.
    pub differences: Vec<String>,
    /// Messages refused, by kind, since start.
    pub refused: Refusals,
    /// Beats sent, on all paths together.
    pub sent: u64,
    /// Times this node has found that it had not been running for longer than its lease.
    pub fenced_itself: u64,
}

/// Where a group is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// `active`, `taking`, `yielding`, `releasing`, `fencing`, `standby`.
    pub role: String,
    /// Node that owns it; none: nobody, as far as this node knows.
    pub owner: Option<String>,
    /// Node that it prefers.
    pub prefer: Option<String>,
    /// Highest number of an ownership known.
    pub epoch: u64,
    /// Milliseconds since the role last changed.
    pub since_ms: u64,
    /// Why it is where it is, and what would move it.
    pub reason: String,
    /// Of an active one: `verified`, `verifying` or `degraded`.
    pub verification: Option<String>,
    /// What the last verification said.
    pub verified_by: Option<String>,
    /// Milliseconds from the takeover to the first verification that held.
    pub verified_after_ms: Option<u64>,
    /// The peer's role, as last heard.
    pub peer_role: Option<String>,
}

/// The other node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub node: String,
    /// `never`, `alive`, `late`, `dead`, `left`.
    pub state: String,
    /// Milliseconds since it was last heard.
    pub age_ms: Option<u64>,
    /// Milliseconds since it is in this state.
    pub since_ms: u64,
    /// Whether it hears us, and how long ago it last had.
    pub hears_us_ms: Option<u64>,
    /// Whether its data plane answers.
    pub data_plane: bool,
    /// What it sees of its network.
    pub evidence: Evidence,
    /// Whether it has everything that we have.
    pub synced: bool,
    /// Records of our stream that it has received since its control began.
    pub position: u64,
    /// Times it has started again since we did.
    pub restarts: u64,
}

/// A way of the heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// Its name.
    pub name: String,
    /// Whether it brings beats.
    pub up: bool,
    /// Milliseconds since the last one.
    pub age_ms: Option<u64>,
    /// Beats taken.
    pub received: u64,
    /// Beats that never came.
    pub lost: u64,
    /// Gaps longer than `warntime`.
    pub late: u64,
    /// Middle of the distribution of gaps between beats, in microseconds.
    pub gap_p50_us: u64,
    /// Its 99th percentile.
    pub gap_p99_us: u64,
    /// Its longest.
    pub gap_max_us: u64,
}

/// What the measured gaps say of `deadtime`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeadtimeView {
    /// As configured, in milliseconds.
    pub configured_ms: u64,
    /// Gaps measured, over all paths together.
    pub samples: u64,
    /// Failovers a year that would have no other reason than late beats; none: too little measured.
    pub false_per_year: Option<f64>,
    /// Shortest `deadtime` with less than one in ten years, in milliseconds.
    pub suggested_ms: Option<u64>,
    /// The same in words.
    pub text: String,
}
