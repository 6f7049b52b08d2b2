//! What `xvip ha --json` says, as far as measurements need it.

use serde::Deserialize;

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Ha {
    /// Roles; none before the failure detector has said anything.
    pub(crate) view: Option<View>,
    /// What the peer knows of our connections; none if nothing is replicated.
    pub(crate) replication: Option<Replication>,
}

/// The failure detector's view.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct View {
    /// Groups of VIPs.
    pub(crate) groups: Vec<Group>,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Group {
    /// `active`, `standby`, …
    pub(crate) role: String,
    /// Of an active one: `verified`, `verifying` or `degraded`.
    pub(crate) verification: Option<String>,
}

/// Replication.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Replication {
    /// The peer has all of ours.
    pub(crate) peer_synced: bool,
    /// We have all of the peer's.
    pub(crate) synced: bool,
    /// If this node died now.
    pub(crate) survival: Option<Survival>,
    /// From change to acknowledgement, in the last ten to twenty seconds.
    pub(crate) latency: Latency,
}

/// If a node died now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Survival {
    /// Connections that the peer ought to know.
    pub(crate) worth: u64,
    /// Those that it knows.
    pub(crate) would_live: u64,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Latency {
    /// Changes counted.
    pub(crate) count: u64,
    /// Half of them are faster.
    pub(crate) p50_us: u64,
    /// 99 of 100 are.
    pub(crate) p99_us: u64,
    /// The slowest.
    pub(crate) max_us: u64,
}

impl Ha {
    fn groups(&self) -> &[Group] {
        self.view.as_ref().map_or(&[], |view| &view.groups)
    }

    fn all(&self, holds: impl Fn(&Group) -> bool) -> bool {
        !self.groups().is_empty() && self.groups().iter().all(holds)
    }

    /// Whether it owns every group.
    pub(crate) fn active(&self) -> bool {
        self.all(|group| group.role == "active")
    }

    /// Whether it owns none.
    pub(crate) fn standby(&self) -> bool {
        self.all(|group| group.role == "standby")
    }

    /// Whether it is proved that the traffic of what it owns arrives.
    pub(crate) fn verified(&self) -> bool {
        let proved = |group: &Group| group.verification.as_deref() == Some("verified");
        self.all(|group| group.role != "active" || proved(group))
    }

    /// Whether it knows all connections of the peer.
    pub(crate) fn synced(&self) -> bool {
        self.replication.as_ref().is_some_and(|r| r.synced)
    }
}
