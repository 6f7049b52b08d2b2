//! Requests that change something, and what they are answered.

use serde::{Deserialize, Serialize};

use crate::overrides::Then;

/// Longest override or deadline, in seconds: a year.
pub const SECONDS_MAX: u32 = 31_536_000;
/// Shortest and longest time to confirm a reload, in seconds.
pub const CONFIRM: std::ops::RangeInclusive<u32> = 1..=3600;
/// Names of odd files in one reply.
pub const ODD_SHOWN_MAX: usize = 20;

/// Which real server, in an operator's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Name, address, or address and port.
    pub real: String,
    /// Only the one of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// If it is several: all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// Result of `drain`, `enable`, `disable` and `weight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResult {
    /// Whether the data plane acts on it already; if not, it gets it once it is connected.
    pub applied: bool,
    /// Whether it is on disk and survives a restart of control.
    pub saved: bool,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// The reals concerned, as they are now.
    pub reals: Vec<OverrideStatus>,
}

/// Result of `overrides`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverridesResult {
    /// Reals that are not as the file says, by service and address.
    pub overrides: Vec<OverrideStatus>,
    /// The maintenance directory; `null` if there is none.
    pub maintenance: Option<MaintenanceStatus>,
    /// Why overrides are not saved, or were not restored; `null` if all is well.
    pub problem: Option<String>,
}

/// The maintenance directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceStatus {
    /// Its path.
    pub directory: String,
    /// Reals its files drain.
    pub drained: usize,
    /// Files whose names are no real's.
    pub odd_count: usize,
    /// Some of their names.
    pub odd: Vec<String>,
    /// Why it cannot be read; what was last read holds.
    pub problem: Option<String>,
}

/// What is decided about one real, and how it gets on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideStatus {
    /// Name of the service.
    pub service: String,
    /// Name of the real.
    pub real: String,
    /// Its address, with port if it has one.
    pub address: String,
    /// Whether the configuration has it.
    pub configured: bool,
    /// `drained`, `disabled`, or `null`.
    pub state: Option<String>,
    /// Milliseconds since then.
    pub since_ms: Option<u64>,
    /// Milliseconds until the file counts again; `null` if not before somebody says so.
    pub expires_in_ms: Option<u64>,
    /// User id of who decided.
    pub uid: Option<u32>,
    /// Whether clients bound by persistence go elsewhere at once.
    pub move_persistent: bool,
    /// Milliseconds until the deadline, 0 once it has passed.
    pub deadline_in_ms: Option<u64>,
    /// What happens then.
    pub then: Option<Then>,
    /// File of the maintenance directory that drains it.
    pub file: Option<String>,
    /// Weight in place of the file's.
    pub weight: Option<u16>,
    /// Milliseconds until the file's weight counts again.
    pub weight_expires_in_ms: Option<u64>,
    /// Connections it has; `null` if the data plane has not said.
    pub conns: Option<u64>,
    /// Connections it had when it was first seen without new ones.
    pub conns_before: Option<u64>,
    /// Milliseconds until the last has ended, at the rate of the last two minutes; `null` if none
    /// ended.
    pub empty_in_ms: Option<u64>,
}

/// What would change, or has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Of which service; `null` for what concerns all.
    pub service: Option<String>,
    /// Of which real, by name.
    pub real: Option<String>,
    /// `add`, `remove` or `change`.
    pub action: String,
    /// What: `service`, `listen`, `real`, or the key.
    pub what: String,
    /// Value now.
    pub from: Option<String>,
    /// Value then.
    pub to: Option<String>,
    /// What it means for connections.
    pub effect: String,
    /// Live connections it concerns; `null` if the data plane has not said.
    pub conns: Option<u64>,
}

/// Result of `plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanResult {
    /// Everything that differs from the configuration in force; empty if nothing does.
    pub differences: Vec<Difference>,
    /// Services in the new file.
    pub services: usize,
    /// Reals in it, over all services.
    pub reals: usize,
}

/// Result of `confirm` and `rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmResult {
    /// Whether the new configuration stays; if not, the one before is on its way back.
    pub confirmed: bool,
}

/// Result of `capture` and `end-capture`; `why` and `captured` are answered as the data plane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureResult {}
