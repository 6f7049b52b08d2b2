//! What operators ask on the control socket, and what they are told.
//!
//! One JSON object a line each way; every request gets exactly one reply. `docs/protocols.md`
//! explains each message, and a test parses its examples.

mod ha;
mod health;
mod operate;
mod parse;
mod status;
mod watch;

use std::net::IpAddr;

use dataplane_api::message::{CaptureFilter, ConnFilter};
use dataplane_api::service::Protocol;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::overrides::Then;

pub use ha::{HaDone, HaGroup, HaHeartbeat, HaPath, HaPing, HaPinged, HaResult, HaSummary};
pub use health::{CheckHealth, HealthSummary, RealHealth, ServiceHealth, TROUBLES_MAX, Trouble};
pub use operate::{
    CONFIRM, CaptureResult, ChangeResult, ConfirmResult, Difference, MaintenanceStatus,
    ODD_SHOWN_MAX, OverrideStatus, OverridesResult, PlanResult, SECONDS_MAX, Which,
};
pub use parse::parse;
pub use status::{
    AgentStatus, CheckResult, ConfigStatus, ConnsResult, ControlStatus, Counter, CountersResult,
    Hello, ReloadResult, ReloadStatus, ServicesResult, StatusResult, counters,
};
pub use watch::{
    AlertStatus, AlertTestResult, AlertTested, EVENTS_DEFAULT, EVENTS_MAX, EVENTS_WAIT_MAX_MS,
    EventEntry, EventsResult, MetricsResult, MetricsStatus, SpareStatus,
};

/// Version of the control socket's protocol. A request may name it and is refused if it differs.
pub const VERSION: u32 = 1;
/// Longest request, in bytes, newline included; but see [`PLAN_MAX`].
pub const REQUEST_MAX: usize = 64 << 10;
/// Longest `plan` request, which has a whole configuration file in it as JSON.
pub const PLAN_MAX: usize = 2 * config::FILE_MAX as usize;
/// Deepest nesting of a request.
pub const DEPTH_MAX: usize = 32;
/// Connections in a page if the request does not say.
pub const CONNS_PAGE_DEFAULT: u32 = 100;

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verb", deny_unknown_fields)]
pub enum Verb {
    /// Who is there? Carries the client's version so that a mismatch shows at once.
    Hello {},
    /// The state of control and, as far as known, of the data plane.
    Status {},
    /// Services with their reals.
    Services {},
    /// A page of the connection table.
    Conns {
        /// Where to go on: 0, or `next` of the previous page.
        #[serde(default)]
        cursor: u64,
        /// Most connections in the reply, 1 to [`CONNS_PAGE_MAX`](dataplane_api::message::CONNS_PAGE_MAX).
        #[serde(default = "page_default")]
        limit: u32,
        /// Which connections.
        #[serde(default)]
        filter: ConnFilter,
    },
    /// Drops and events with their meaning.
    Counters {},
    /// Reads the configuration file again and applies it.
    Reload {
        /// Goes back by itself after this many seconds, unless `confirm` comes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm_s: Option<u32>,
    },
    /// The last reload is good and stays.
    Confirm {},
    /// Back to the configuration before the last reload, at once.
    Rollback {},
    /// What would change if this were the configuration file.
    Plan {
        /// Its name in messages.
        file: String,
        /// Its text.
        text: String,
    },
    /// What would become of a client's first packet, stage by stage.
    Why {
        /// Who would send it.
        client: IpAddr,
        /// From which port; one that no connection has if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_port: Option<u16>,
        /// To which VIP,
        vip: IpAddr,
        /// to which port of it,
        vip_port: u16,
        /// and by which protocol.
        protocol: Protocol,
    },
    /// Begins to copy frames of chosen flows; one capture at a time, which ends by itself.
    Capture {
        /// Which frames.
        #[serde(default)]
        filter: CaptureFilter,
        /// Most frames, 1 to [`CAPTURE_PACKETS_MAX`](dataplane_api::message::CAPTURE_PACKETS_MAX).
        packets_max: u32,
        /// Longest time, 1 to [`CAPTURE_SECONDS_MAX`](dataplane_api::message::CAPTURE_SECONDS_MAX) seconds.
        seconds: u32,
        /// Bytes kept of each frame, 64 to [`CAPTURE_BYTES_MAX`](dataplane_api::message::CAPTURE_BYTES_MAX).
        bytes: u16,
    },
    /// Captured frames that have not been fetched yet.
    Captured {
        /// At most this many, 1 to [`CAPTURED_PAGE_MAX`](dataplane_api::message::CAPTURED_PAGE_MAX).
        limit: u32,
    },
    /// Ends a capture.
    EndCapture {},
    /// Reals that are not as the file says.
    Overrides {},
    /// No new connections to a real; the ones it has go on.
    Drain {
        /// Which.
        which: Which,
        /// Seconds until the drain should be over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline_s: Option<u32>,
        /// What happens then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Then>,
        /// Clients bound to it by persistence go elsewhere at once.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        move_persistent: bool,
        /// Back by itself after this many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u32>,
    },
    /// Takes back `drain` and `disable`.
    Enable {
        /// Which.
        which: Which,
    },
    /// A real is out of service, and its connections are treated as those of a dead one.
    Disable {
        /// Which.
        which: Which,
        /// Back by itself after this many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u32>,
    },
    /// Another weight than the file's.
    Weight {
        /// Which.
        which: Which,
        /// The weight; the file's again if absent.
        #[serde(default)]
        weight: Option<u16>,
        /// Back by itself after this many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u32>,
    },
    /// What has happened, and, with `wait_ms`, what happens next.
    Events {
        /// Only later ones than this number; 0 for all that are kept.
        #[serde(default)]
        after: u64,
        /// `boot_id` of the reply that `after` is from: numbers of another one count for nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_id: Option<String>,
        /// Most events in the reply, 1 to [`EVENTS_MAX`].
        #[serde(default = "events_default")]
        limit: u32,
        /// If there is none, how long to wait for one, at most [`EVENTS_WAIT_MAX_MS`].
        #[serde(default)]
        wait_ms: u32,
        /// Only those that are not older.
        #[serde(default)]
        max_age_ms: Option<u64>,
    },
    /// Sends a test to the target of alerts of that name, or to all, and tells how it went.
    AlertTest {
        /// Which target.
        #[serde(default)]
        name: Option<String>,
    },
    /// Everything that is measured, as text for Prometheus.
    Metrics {},
    /// The pair: roles, the other node, paths, evidence, and why things are where they are.
    Ha {},
    /// Moves a group of VIPs to a node.
    Switchover {
        /// Which group; all of them if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// To which node; to the one that has it not if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// Even if that node does not know every connection.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Lets nothing move between the nodes by itself, or things move again.
    HaMaintenance {
        /// Whether nothing moves.
        on: bool,
    },
}

impl Verb {
    /// Whether only operators may ask for it: it changes something, or costs much.
    #[must_use]
    pub const fn operates(&self) -> bool {
        match self {
            Self::Hello {}
            | Self::Status {}
            | Self::Services {}
            | Self::Conns { .. }
            | Self::Counters {}
            | Self::Events { .. }
            | Self::Metrics {}
            | Self::Why { .. }
            | Self::Ha {}
            | Self::Overrides {} => false,
            Self::Reload { .. }
            | Self::Confirm {}
            | Self::Rollback {}
            | Self::Plan { .. }
            | Self::AlertTest { .. }
            | Self::Drain { .. }
            | Self::Enable { .. }
            | Self::Disable { .. }
            | Self::Weight { .. }
            | Self::Capture { .. }
            | Self::Captured { .. }
            | Self::Switchover { .. }
            | Self::HaMaintenance { .. }
            | Self::EndCapture {} => true,
        }
    }
}

const fn events_default() -> u32 {
    EVENTS_DEFAULT
}

const fn page_default() -> u32 {
    CONNS_PAGE_DEFAULT
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not a request: no JSON, too long, too deep, unknown verb or field, value out of range.
    BadRequest,
    /// The client speaks another version.
    Version,
    /// Too many clients, or the client was too slow.
    Busy,
    /// The data plane is not connected or did not answer.
    NoDataPlane,
    /// The data plane refused.
    Refused,
    /// The configuration file is wrong.
    Config,
    /// There is no such real server, or it is not clear which is meant.
    NotFound,
    /// The client may not do this.
    Forbidden,
    /// Not now: something else has to end first.
    Conflict,
    /// Control is stopping.
    Stopping,
}

/// Why, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people: what, why, and what to do about it.
    pub message: String,
    /// The whole report on the configuration file, pictures included, if that is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

impl Failure {
    /// A failure without a report.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), report: None }
    }
}

/// What every reply carries beside its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Whether the request was carried out.
    pub ok: bool,
    /// [`VERSION`].
    pub version: u32,
    /// Random for each start of control.
    pub boot_id: String,
    /// Epoch of the lease on the VIPs.
    pub epoch: u64,
    /// How old the result is, in milliseconds; `null` if there is nothing that could be old.
    pub age_ms: Option<u64>,
}

/// A reply: the envelope and either a result or an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// What every reply carries.
    #[serde(flatten)]
    pub envelope: Envelope,
    /// The result, if `ok`.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub result: Option<T>,
    /// The error, if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

const fn none<T>() -> Option<T> {
    None
}
