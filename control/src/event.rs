//! What changed: one value for each change of state of control and of the data plane. Pure.
//!
//! Events go to the log, to `xvip events`, to the alerts and into the metrics. Whoever sees a change
//! makes one [`Event`] at that moment and says why; nobody repeats one while the state stays.
//! A problem and its end have the same [`Event::key`], by which alerts pair them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::log::{Level, Record};
use crate::time::Instant;

/// How much it matters to the people who are told.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Normal course of things, or the end of a problem.
    Info,
    /// Clients are served, but less is left in reserve.
    #[default]
    Warning,
    /// Clients are not served, or may not be.
    Critical,
}

impl Severity {
    /// All of them with their words, mildest first.
    pub const ALL: [(&'static str, Self); 3] =
        [("info", Self::Info), ("warning", Self::Warning), ("critical", Self::Critical)];

    /// The word, as in JSON and in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an event stands in the course of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something is wrong from now on.
    Problem,
    /// It is over.
    Recovery,
    /// Worth knowing, and over at once.
    Note,
}

macro_rules! kinds {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal $severity:ident $phase:ident $topic:literal,)+) => {
        /// What happened: the only list. Names are those of the log, JSON and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[doc = $help])+ #[serde(rename = $name)] $variant,)+
        }

        impl Kind {
            /// Every kind, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Name in the log, in JSON and in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// One line for the operator.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+).trim_ascii()),+ }
            }

            /// How much it matters.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity),+ }
            }

            /// Problem, recovery or neither.
            #[must_use]
            pub const fn phase(self) -> Phase {
                match self { $(Self::$variant => Phase::$phase),+ }
            }

            /// What it is about: a recovery ends the problem of the same topic.
            #[must_use]
            pub const fn topic(self) -> &'static str {
                match self { $(Self::$variant => $topic),+ }
            }
        }
    };
}

kinds! {
    /// The checks find the real server able to serve again.
    RealUp = "real_up" Info Recovery "health",
    /// The checks find the real server unable to serve; it gets no new connections.
    RealDown = "real_down" Warning Problem "health",
    /// A check of the real server cannot be run; its last known state stands.
    RealCannotCheck = "real_cannot_check" Warning Problem "checkable",
    /// The check can be run again.
    RealCheckable = "real_checkable" Info Recovery "checkable",
    /// An operator drains the real server: connections stay, new ones go elsewhere.
    RealDrained = "real_drained" Info Problem "maintenance",
    /// An operator took the real server out of service.
    RealDisabled = "real_disabled" Info Problem "maintenance",
    /// The real server is back in service.
    RealEnabled = "real_enabled" Info Recovery "maintenance",
    /// The last connection of a drained real server has ended: it can be worked on.
    RealEmpty = "real_empty" Info Note "drain",
    /// The deadline of a drain was reached with connections left.
    RealDeadline = "real_deadline" Info Note "drain",
    /// The weight of the real server in force was changed by an operator or by a check.
    RealWeight = "real_weight" Info Note "weight",
    /// The service has no real server left that takes new connections.
    ServiceDown = "service_down" Critical Problem "service",
    /// New connections of the service go to real servers again.
    ServiceUp = "service_up" Info Recovery "service",
    /// So few real servers are healthy that failed ones are kept in use (panic floor).
    PanicBegun = "panic_begun" Critical Problem "panic",
    /// Enough real servers are healthy again: failed ones get no new connections.
    PanicEnded = "panic_ended" Info Recovery "panic",
    /// If one real server fails, another exceeds its upper threshold.
    SpareShort = "spare_short" Warning Problem "spare",
    /// The failure of any one real server can be borne again.
    SpareEnough = "spare_enough" Info Recovery "spare",
    /// A certificate that a check was shown ends soon.
    CertificateEnding = "certificate_ending" Warning Problem "certificate",
    /// The certificate was replaced.
    CertificateRenewed = "certificate_renewed" Info Recovery "certificate",
    /// Control has started.
    ControlStarted = "control_started" Info Note "control",
    /// A new configuration is in force.
    ConfigReloaded = "config_reloaded" Info Recovery "config",
    /// A new configuration could not be put in force; nothing changed.
    ConfigFailed = "config_failed" Warning Problem "config",
    /// A new configuration was not confirmed in time; the one before is in force again.
    ConfigRolledBack = "config_rolled_back" Warning Note "confirm",
    /// Control lost the data plane; it goes on forwarding if it lives, until the lease runs out.
    DataPlaneLost = "data_plane_lost" Critical Problem "data-plane",
    /// Control speaks with the data plane.
    DataPlaneBack = "data_plane_back" Info Recovery "data-plane",
    /// An interface cannot carry service traffic.
    InterfaceDown = "interface_down" Critical Problem "interface",
    /// The interface carries service traffic again.
    InterfaceUp = "interface_up" Info Recovery "interface",
    /// The connection table is nearly full.
    TableNearlyFull = "table_nearly_full" Warning Problem "table",
    /// The connection table has room again.
    TableRelieved = "table_relieved" Info Recovery "table",
    /// An alert could not be delivered and was given up.
    AlertUndeliverable = "alert_undeliverable" Warning Problem "alert",
    /// Alerts are delivered again.
    AlertDelivered = "alert_delivered" Info Recovery "alert",
    /// This node owns a group of VIPs from now on.
    RoleTaken = "role_taken" Info Note "role",
    /// The same, because the other node is dead.
    RoleTakenOver = "role_taken_over" Warning Note "role",
    /// This node does not own a group of VIPs any more.
    RoleReleased = "role_released" Info Note "role",
    /// Both nodes owned a group of VIPs; one of them gives way.
    RoleConflict = "role_conflict" Critical Note "role",
    /// This node found that it had not been running for longer than its lease, and gave everything up.
    FencedItself = "fenced_itself" Critical Note "role",
    /// A group of VIPs could not be handed over, or taken.
    HandoverFailed = "handover_failed" Warning Note "role",
    /// A group of VIPs was taken, and not everything about it works: it is tried again.
    TakeoverDegraded = "takeover_degraded" Critical Problem "takeover",
    /// A group of VIPs has arrived on this node, as far as can be seen.
    TakeoverVerified = "takeover_verified" Info Recovery "takeover",
    /// The other node is silent on every path.
    PeerDead = "peer_dead" Critical Problem "peer",
    /// The other node has stopped in good order.
    PeerLeft = "peer_left" Warning Problem "peer",
    /// The other node is there.
    PeerUp = "peer_up" Info Recovery "peer",
    /// The other node's heartbeats came late.
    PeerLate = "peer_late" Warning Note "peer-late",
    /// The other node has started again.
    PeerRestarted = "peer_restarted" Info Note "peer-restart",
    /// Messages were refused that claim to be the other node's.
    PeerRefused = "peer_refused" Warning Note "peer-refused",
    /// A path of the heartbeat brings nothing while another one does.
    PathDown = "path_down" Warning Problem "path",
    /// The path brings heartbeats again.
    PathUp = "path_up" Info Recovery "path",
    /// The fencing command runs.
    FencingBegun = "fencing_begun" Warning Note "fencing-begun",
    /// The fencing command has failed: nothing is taken from the silent node.
    FencingFailed = "fencing_failed" Critical Problem "fencing",
    /// The fencing command has succeeded.
    FencingDone = "fencing_done" Info Recovery "fencing",
    /// Nothing moves between the nodes by itself.
    MaintenanceOn = "maintenance_on" Info Problem "pair-maintenance",
    /// Things move by themselves again.
    MaintenanceOff = "maintenance_off" Info Recovery "pair-maintenance",
    /// The nodes are configured differently.
    ConfigDiffers = "config_differs" Warning Problem "pair-config",
    /// The nodes are configured alike.
    ConfigAgrees = "config_agrees" Info Recovery "pair-config",
    /// The other node does not know every connection any more.
    ReplicationLost = "replication_lost" Warning Problem "replication",
    /// The other node knows every connection.
    ReplicationSynced = "replication_synced" Info Recovery "replication",
}

/// Something that changed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in control's own time; people are shown the stamp beside it.
    #[serde(skip)]
    pub at: Instant,
    /// What.
    pub kind: Kind,
    /// Of which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Of which real server, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<String>,
    /// What else it is about: an interface, a check, a destination of alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Why, in words; may be empty where the kind says it all.
    pub reason: String,
}

/// What a problem and its recovery have in common.
pub type Key = (&'static str, Option<String>, Option<String>, Option<String>);

impl Event {
    /// An event about the node as a whole.
    #[must_use]
    pub fn new(kind: Kind, at: Instant, reason: impl Into<String>) -> Self {
        let reason = clean(&reason.into());
        Self { at, kind, service: None, real: None, subject: None, reason }
    }

    /// Says which service.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Says which real server.
    #[must_use]
    pub fn real(mut self, name: impl Into<String>) -> Self {
        self.real = Some(name.into());
        self
    }

    /// Says what else it is about.
    #[must_use]
    pub fn subject(mut self, name: impl Into<String>) -> Self {
        self.subject = Some(name.into());
        self
    }

    /// The same for a problem and its recovery.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.kind.topic(), self.service.clone(), self.real.clone(), self.subject.clone())
    }

    /// What it is about, in words: `web: real server web3`.
    #[must_use]
    pub fn about(&self) -> String {
        let mut parts = Vec::new();
        if let Some(service) = &self.service {
            parts.push(format!("service {service}"));
        }
        if let Some(real) = &self.real {
            parts.push(format!("real server {real}"));
        }
        if let Some(subject) = &self.subject {
            parts.push(subject.clone());
        }
        parts.join(", ")
    }

    /// The whole of it in one line: what, and why.
    #[must_use]
    pub fn text(&self) -> String {
        let about = self.about();
        let mut text = match about.is_empty() {
            true => self.kind.words().to_owned(),
            false => format!("{about}: {}", self.kind.words()),
        };
        if !self.reason.is_empty() {
            text.push_str(": ");
            text.push_str(&self.reason);
        }
        text
    }

    /// The line of the log.
    #[must_use]
    pub fn record(&self) -> Record {
        let level = match self.kind.severity() {
            Severity::Info => Level::Info,
            Severity::Warning => Level::Warn,
            Severity::Critical => Level::Error,
        };
        let mut record = Record::new(level, self.kind.name());
        for (key, value) in
            [("service", &self.service), ("real", &self.real), ("subject", &self.subject)]
        {
            if let Some(value) = value {
                record = record.with(key, value);
            }
        }
        if self.reason.is_empty() { record } else { record.with("reason", &self.reason) }
    }
}

impl Kind {
    /// A few words for a headline.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::RealUp => "up",
            Self::RealDown => "DOWN",
            Self::RealCannotCheck => "cannot be checked",
            Self::RealCheckable => "can be checked again",
            Self::RealDrained => "drained by an operator",
            Self::RealDisabled => "disabled by an operator",
            Self::RealEnabled => "back in service",
            Self::RealEmpty => "drained, no connection left",
            Self::RealDeadline => "deadline of the drain reached",
            Self::RealWeight => "weight changed",
            Self::ServiceDown => "NO REAL SERVER LEFT",
            Self::ServiceUp => "served by real servers again",
            Self::PanicBegun => "PANIC FLOOR: failed real servers are kept in use",
            Self::PanicEnded => "panic over",
            Self::SpareShort => "no reserve for a failure",
            Self::SpareEnough => "reserve for a failure is back",
            Self::CertificateEnding => "certificate ends soon",
            Self::CertificateRenewed => "certificate renewed",
            Self::ControlStarted => "xvip-control started",
            Self::ConfigReloaded => "configuration reloaded",
            Self::ConfigFailed => "configuration REFUSED, nothing changed",
            Self::ConfigRolledBack => "configuration rolled back",
            Self::DataPlaneLost => "DATA PLANE LOST",
            Self::DataPlaneBack => "data plane connected",
            Self::InterfaceDown => "interface DOWN",
            Self::InterfaceUp => "interface up",
            Self::TableNearlyFull => "connection table nearly full",
            Self::TableRelieved => "connection table has room again",
            Self::AlertUndeliverable => "alert not delivered",
            Self::AlertDelivered => "alerts delivered again",
            Self::RoleTaken => "this node is active",
            Self::RoleTakenOver => "TAKEN OVER by this node",
            Self::RoleReleased => "this node is standby",
            Self::RoleConflict => "both nodes were ACTIVE",
            Self::FencedItself => "this node FENCED ITSELF",
            Self::HandoverFailed => "not handed over",
            Self::TakeoverDegraded => "DEGRADED after takeover",
            Self::TakeoverVerified => "takeover verified",
            Self::PeerDead => "other node DEAD",
            Self::PeerLeft => "other node has left",
            Self::PeerUp => "other node up",
            Self::PeerLate => "other node late",
            Self::PeerRestarted => "other node has restarted",
            Self::PeerRefused => "messages refused",
            Self::PathDown => "heartbeat path DOWN",
            Self::PathUp => "heartbeat path up",
            Self::FencingBegun => "fencing begun",
            Self::FencingFailed => "fencing FAILED",
            Self::FencingDone => "other node fenced",
            Self::MaintenanceOn => "nothing moves by itself",
            Self::MaintenanceOff => "things move by themselves again",
            Self::ConfigDiffers => "nodes configured differently",
            Self::ConfigAgrees => "nodes configured alike",
            Self::ReplicationLost => "other node does not know every connection",
            Self::ReplicationSynced => "other node knows every connection",
        }
    }
}

/// Reasons may quote what a stranger sent: one line, printable, bounded.
fn clean(text: &str) -> String {
    const MAX: usize = 512;
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = printable.take(MAX).collect();
    if text.chars().nth(MAX).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_problem_can_end_and_every_recovery_ends_something() {
        let mut topics: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
        for kind in Kind::ALL {
            let count = topics.entry(kind.topic()).or_default();
            match kind.phase() {
                Phase::Problem => count.0 += 1,
                Phase::Recovery => count.1 += 1,
                Phase::Note => {}
            }
        }
        for (topic, (problems, recoveries)) in topics {
            assert_eq!(problems > 0, recoveries == 1, "{topic}");
        }
        let names: BTreeSet<_> = Kind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn a_problem_and_its_recovery_have_one_key_and_others_another() {
        let at = Instant::default();
        let real = |kind, name| Event::new(kind, at, "").service("web").real(name);
        assert_eq!(real(Kind::RealDown, "a").key(), real(Kind::RealUp, "a").key());
        assert_ne!(real(Kind::RealDown, "a").key(), real(Kind::RealUp, "b").key());
        assert_ne!(real(Kind::RealDown, "a").key(), real(Kind::RealEnabled, "a").key());
    }

    #[test]
    fn an_event_reads_as_a_sentence_and_a_stranger_cannot_forge_a_line() {
        let at = Instant::default();
        let event = Event::new(Kind::RealDown, at, "connection refused");
        let event = event.service("web").real("web3");
        assert_eq!(event.text(), "service web, real server web3: DOWN: connection refused");
        let line = "level=warn event=real_down service=web real=web3 reason=\"connection refused\"";
        assert_eq!(event.record().to_string(), line);
        let hostile =
            Event::new(Kind::RealDown, at, format!("a\r\nSubject: b{}", "x".repeat(2000)));
        assert!(!hostile.text().contains('\n') && hostile.reason.chars().count() == 513);
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}
