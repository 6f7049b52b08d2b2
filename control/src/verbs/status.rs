//! What requests are answered with: the state of control, services, connections, counters.

use std::collections::BTreeMap;

use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::{Conn, ServiceStatus, Status};
use serde::{Deserialize, Serialize};

use super::{AlertStatus, HaSummary, HealthSummary, MetricsStatus, ServiceHealth, SpareStatus};
use crate::config::Finding;

/// Result of `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the program.
    pub program: String,
    /// Name of the instance.
    pub instance: String,
    /// Name of the node.
    pub node: String,
}

/// Result of `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusResult {
    /// Name of the node.
    pub node: String,
    /// Name of the instance.
    pub instance: String,
    /// Control itself.
    pub control: ControlStatus,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The connection to the data plane.
    pub agent: AgentStatus,
    /// What the checks say.
    pub health: HealthSummary,
    /// Who is told of what happens, and what waits.
    pub alerts: Vec<AlertStatus>,
    /// What the failure of one real server would do, for each service that can be judged.
    pub spare: Vec<SpareStatus>,
    /// Where metrics are served; `null` if nowhere.
    pub metrics: Option<MetricsStatus>,
    /// The pair in short; absent if this node is not one of two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ha: Option<HaSummary>,
    /// What the data plane last said of itself, `age_ms` ago; `null` if it never did.
    pub data_plane: Option<Box<Status>>,
}

/// Control itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Version of the program.
    pub program: String,
    /// Process id.
    pub pid: u32,
    /// Milliseconds since start.
    pub uptime_ms: u64,
    /// For how long the data plane may answer for the VIPs without hearing from us, milliseconds.
    pub lease_ms: u64,
    /// Problems of control's own that an operator should know, in words; empty when all is well.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file.
    pub file: String,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
    /// Services in it.
    pub services: usize,
    /// Reals in it, over all services.
    pub reals: usize,
    /// Settings that differ from the running ones and need a restart of the data plane.
    pub needs_restart: Vec<String>,
    /// What became of the last reload; `null` if there was none.
    pub last_reload: Option<ReloadStatus>,
    /// Milliseconds until the last reload is undone unless it is confirmed; `null` if none waits.
    #[serde(default)]
    pub confirm_in_ms: Option<u64>,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Whether the file is in force now.
    pub ok: bool,
    /// Milliseconds ago.
    pub age_ms: u64,
    /// Why not, if not.
    pub error: Option<String>,
}

/// The connection to the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// `connected` or `connecting` (not reached yet, or lost: see `reason`).
    pub state: String,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// Why not connected.
    pub reason: Option<String>,
    /// Whether the data plane has taken the configuration in force.
    pub applied: bool,
    /// Why it refused it, if it did.
    pub refused: Option<String>,
}

/// Result of `services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicesResult {
    /// In the order of the file; removed ones last.
    pub services: Vec<ServiceStatus>,
    /// What their checks say: of each service and real in force, in the order of the file.
    pub health: Vec<ServiceHealth>,
}

/// Result of `conns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnsResult {
    /// The page.
    pub conns: Vec<Conn>,
    /// Cursor of the next page; `null` at the end. A page may be empty and yet not the last.
    pub next: Option<u64>,
}

/// Result of `counters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersResult {
    /// Packets dropped, by reason.
    pub drops: Vec<Counter>,
    /// What else happened.
    pub events: Vec<Counter>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Name, as in metrics.
    pub name: String,
    /// Since the start of the data plane.
    pub value: u64,
    /// Meaning.
    pub help: String,
}

/// Result of `reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadResult {
    /// Whether the data plane runs it already; if not, it gets it once it is connected.
    pub applied: bool,
    /// Services in the file.
    pub services: usize,
    /// Reals in the file, over all services.
    pub reals: usize,
    /// Settings that need a restart of the data plane.
    pub needs_restart: Vec<String>,
    /// Seconds within which `confirm` must come, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_s: Option<u32>,
}

/// Result of `xvip check --json`; never on the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Whether the file is valid.
    pub ok: bool,
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub errors: Vec<Finding>,
    /// Errors beyond those listed.
    pub more: usize,
}

/// Counters of `status`, every one that exists, with its meaning.
#[must_use]
pub fn counters(status: &Status) -> CountersResult {
    let mut drops = status.drops.clone();
    let mut events = status.events.clone();
    let take = |map: &mut BTreeMap<String, u64>, name: &str, help: &str| Counter {
        name: name.to_owned(),
        value: map.remove(name).unwrap_or(0),
        help: help.trim().to_owned(),
    };
    let mut result = CountersResult {
        drops: Reason::ALL.iter().map(|r| take(&mut drops, r.name(), r.help())).collect(),
        events: Event::ALL.iter().map(|e| take(&mut events, e.name(), e.help())).collect(),
    };
    // A newer data plane may count what we have no words for.
    let unknown = |(name, value)| Counter { name, value, help: String::new() };
    result.drops.extend(drops.into_iter().map(unknown));
    result.events.extend(events.into_iter().map(unknown));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_listed_and_a_newer_one_is_not_lost() {
        let mut status = Status::default();
        status.drops.insert("no_service".into(), 7);
        status.drops.insert("from_the_future".into(), 1);
        let counters = counters(&status);
        assert_eq!(counters.drops.len(), Reason::COUNT + 1);
        let get = |name| counters.drops.iter().find(|c| c.name == name).unwrap();
        assert_eq!((get("no_service").value, get("from_the_future").value), (7, 1));
        assert!(get("no_service").help.starts_with("No service"));
    }
}
