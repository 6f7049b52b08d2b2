//! What operators are told of events, alerts and metrics.

use serde::{Deserialize, Serialize};

use crate::event::{Event, Severity};

/// Events in a reply if the request does not say.
pub const EVENTS_DEFAULT: u32 = 100;
/// Most events in a reply, and most that are kept.
pub const EVENTS_MAX: u32 = 1000;
/// Longest that a request for events waits for the next one, in milliseconds.
pub const EVENTS_WAIT_MAX_MS: u32 = 10_000;

/// Result of `events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsResult {
    /// Oldest first.
    pub events: Vec<EventEntry>,
    /// Events after `after` that are kept no more.
    pub missed: u64,
    /// `after` of the next request.
    pub next: u64,
}

/// One event as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEntry {
    /// Number since control started, from 1.
    pub number: u64,
    /// When, by the wall clock (RFC 3339, UTC).
    pub time: String,
    /// How much it matters.
    pub severity: Severity,
    /// What happened to whom, and why.
    #[serde(flatten)]
    pub event: Event,
    /// The same in one line.
    pub text: String,
}

/// A target of alerts, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertStatus {
    /// Its name.
    pub name: String,
    /// `mail`, `webhook` or `command`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Changes that it has not been told yet.
    pub pending: u64,
    /// Messages delivered since control started.
    pub delivered: u64,
    /// Attempts that failed since then.
    pub failures: u64,
    /// Messages given up since then.
    pub given_up: u64,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
    /// Milliseconds until the next attempt, if one waits.
    pub retry_ms: Option<u64>,
    /// Milliseconds since the last message was delivered.
    pub delivered_age_ms: Option<u64>,
}

/// What the failure of one real server would do to a service, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareStatus {
    /// The service.
    pub service: String,
    /// Whether that is too much.
    pub short: bool,
    /// The worst case in words.
    pub text: String,
    /// Load of the fullest real server then, in thousandths of its upper threshold.
    pub permille: u64,
}

/// Where metrics are served, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsStatus {
    /// Address and port.
    pub listen: String,
    /// Why not, if they are not.
    pub error: Option<String>,
}

/// Result of `alert-test`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertTestResult {
    /// Each target that was tried.
    pub targets: Vec<AlertTested>,
}

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertTested {
    /// Name of the target.
    pub name: String,
    /// Whether it took the message.
    pub delivered: bool,
    /// Why not, if not.
    pub error: Option<String>,
}

/// Result of `metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsResult {
    /// In the Prometheus text format.
    pub text: String,
}
