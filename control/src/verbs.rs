//! What operators ask on the control socket, and what they are told.
//!
//! One JSON object a line each way; every request gets exactly one reply. `docs/protocols.md`
//! explains each message, and a test parses its examples.

mod health;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::{
    CAPTURE_BYTES_MAX, CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX, CAPTURED_PAGE_MAX, CONNS_PAGE_MAX,
    CaptureFilter, Conn, ConnFilter, ServiceStatus, Status,
};
use dataplane_api::service::Protocol;
use serde::{Deserialize, Serialize};

use crate::config::{self, Finding};
use crate::overrides::Then;

mod operate;
pub use health::{CheckHealth, HealthSummary, RealHealth, ServiceHealth, TROUBLES_MAX, Trouble};
pub use operate::{
    CONFIRM, CaptureResult, ChangeResult, ConfirmResult, Difference, MaintenanceStatus,
    ODD_SHOWN_MAX, OverrideStatus, OverridesResult, PlanResult, SECONDS_MAX, Which,
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
        /// Most connections in the reply, 1 to [`CONNS_PAGE_MAX`].
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
        /// Most frames, 1 to [`CAPTURE_PACKETS_MAX`].
        packets_max: u32,
        /// Longest time, 1 to [`CAPTURE_SECONDS_MAX`] seconds.
        seconds: u32,
        /// Bytes kept of each frame, 64 to [`CAPTURE_BYTES_MAX`].
        bytes: u16,
    },
    /// Captured frames that have not been fetched yet.
    Captured {
        /// At most this many, 1 to [`CAPTURED_PAGE_MAX`].
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
            | Self::EndCapture {} => true,
        }
    }

    /// What is out of range in it.
    fn fault(&self) -> Option<String> {
        let seconds = |key, value: Option<u32>| {
            let bad = value.filter(|s| !(1..=SECONDS_MAX).contains(s))?;
            Some(format!("`{key}` is {bad}: expected 1 to {SECONDS_MAX} seconds"))
        };
        match self {
            Self::Conns { limit, .. } if !(1..=CONNS_PAGE_MAX).contains(limit) => {
                Some(format!("`limit` is {limit}: expected 1 to {CONNS_PAGE_MAX}"))
            }
            Self::Events { limit, .. } if !(1..=EVENTS_MAX).contains(limit) => {
                Some(format!("`limit` is {limit}: expected 1 to {EVENTS_MAX}"))
            }
            Self::Events { wait_ms, .. } if *wait_ms > EVENTS_WAIT_MAX_MS => {
                Some(format!("`wait_ms` is {wait_ms}: expected 0 to {EVENTS_WAIT_MAX_MS}"))
            }
            Self::Reload { confirm_s: Some(s) } if !CONFIRM.contains(s) => Some(format!(
                "`confirm_s` is {s}: expected {} to {} seconds",
                CONFIRM.start(),
                CONFIRM.end()
            )),
            Self::Capture { packets_max, .. }
                if !(1..=CAPTURE_PACKETS_MAX).contains(packets_max) =>
            {
                Some(format!("`packets_max`: expected 1 to {CAPTURE_PACKETS_MAX}"))
            }
            Self::Capture { seconds, .. } if !(1..=CAPTURE_SECONDS_MAX).contains(seconds) => {
                Some(format!("`seconds`: expected 1 to {CAPTURE_SECONDS_MAX}"))
            }
            Self::Capture { bytes, .. } if !(64..=CAPTURE_BYTES_MAX).contains(bytes) => {
                Some(format!("`bytes`: expected 64 to {CAPTURE_BYTES_MAX}"))
            }
            Self::Captured { limit } if !(1..=CAPTURED_PAGE_MAX).contains(limit) => {
                Some(format!("`limit`: expected 1 to {CAPTURED_PAGE_MAX}"))
            }
            Self::Drain { deadline_s: None, then: Some(_), .. } => {
                Some("`then` says what happens at the deadline: give `deadline_s` too".to_owned())
            }
            Self::Drain { deadline_s, for_s, .. } => {
                seconds("deadline_s", *deadline_s).or_else(|| seconds("for_s", *for_s))
            }
            Self::Disable { for_s, .. } | Self::Weight { for_s, .. } => seconds("for_s", *for_s),
            _ => None,
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

/// Reads one request, without its newline.
///
/// # Errors
/// What is wrong with it, for the client.
pub fn parse(line: &[u8]) -> Result<Verb, Failure> {
    let bad = |message: String| Failure::new(Code::BadRequest, message);
    if line.len() >= PLAN_MAX {
        return Err(bad(format!("request is longer than {PLAN_MAX} bytes")));
    }
    if too_deep(line) {
        return Err(bad(format!("request is nested deeper than {DEPTH_MAX}")));
    }
    let mut request: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).map_err(|e| bad(format!("not a JSON object: {e}")))?;
    if let Some(version) = request.remove("version")
        && version != VERSION
    {
        let message = format!(
            "this xvip-control speaks version {VERSION} of the protocol, \
             the client speaks {version}: use the xvip of the same release"
        );
        return Err(Failure::new(Code::Version, message));
    }
    let verb: Verb = serde_json::from_value(serde_json::Value::Object(request))
        .map_err(|e| bad(format!("not a request: {e}")))?;
    if line.len() >= REQUEST_MAX && !matches!(verb, Verb::Plan { .. }) {
        return Err(bad(format!("request is longer than {REQUEST_MAX} bytes")));
    }
    verb.fault().map_or(Ok(verb), |fault| Err(bad(fault)))
}

/// Looks at brackets outside strings, before a parser with a stack of its own sees them.
fn too_deep(line: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
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
    use proptest::prelude::*;

    use super::*;

    fn code(line: &str) -> Code {
        parse(line.as_bytes()).unwrap_err().code
    }

    #[test]
    fn requests_are_read_and_bad_ones_are_named() {
        assert_eq!(parse(br#"{"verb":"status"}"#), Ok(Verb::Status {}));
        assert_eq!(parse(br#"{"version":1,"verb":"hello"}"#), Ok(Verb::Hello {}));
        let conns = parse(br#"{"verb":"conns","filter":{"client":"2001:db8::1"}}"#).unwrap();
        let Verb::Conns { cursor: 0, limit: CONNS_PAGE_DEFAULT, filter } = conns else { panic!() };
        assert_eq!(filter.client, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(code(r#"{"verb":"status","version":2}"#), Code::Version);
        assert_eq!(code(r#"{"verb":"status","version":"1"}"#), Code::Version);
        for bad in [
            "",
            "null",
            "[]",
            r#"{"verb":"frobnicate"}"#,
            r#"{"verb":"status","colour":"red"}"#,
            r#"{"verb":"conns","limit":0}"#,
            r#"{"verb":"conns","limit":1001}"#,
            r#"{"verb":"conns","limit":1e999999}"#,
            r#"{"verb":"conns","filter":{"client":"nobody"}}"#,
            r#"{"verb":"conns","filter":{"cilent":"::1"}}"#,
            r#"{"verb":"drain","which":{"real":"a"},"then":"reset"}"#,
            r#"{"verb":"drain","which":{"real":"a"},"deadline_s":0}"#,
            r#"{"verb":"drain","which":{"real":"a"},"deadline_s":1,"then":"explode"}"#,
            r#"{"verb":"weight","which":{"real":"a"},"weight":65536}"#,
            r#"{"verb":"disable","which":{"real":"a"},"for_s":99999999999}"#,
            r#"{"verb":"reload","confirm_s":0}"#,
        ] {
            assert_eq!(code(bad), Code::BadRequest, "{bad}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded_before_parsing() {
        let deep = "[".repeat(40_000);
        assert!(parse(deep.as_bytes()).unwrap_err().message.contains("deeper than 32"));
        let brackets_in_text = format!(r#"{{"verb":"{}"}}"#, "[".repeat(100));
        assert!(
            parse(brackets_in_text.as_bytes()).unwrap_err().message.contains("unknown variant")
        );
        let digits = format!(r#"{{"verb":"conns","limit":{}}}"#, "9".repeat(60_000));
        assert_eq!(code(&digits), Code::BadRequest);
        assert!(parse(&vec![b' '; PLAN_MAX]).unwrap_err().message.contains("longer"));
        let long = format!(r#"{{"verb":"status"{}}}"#, " ".repeat(REQUEST_MAX));
        assert!(parse(long.as_bytes()).unwrap_err().message.contains("longer than 65536"));
        let file = "# ".repeat(REQUEST_MAX);
        let plan = serde_json::json!({ "verb": "plan", "file": "x", "text": file }).to_string();
        assert!(matches!(parse(plan.as_bytes()), Ok(Verb::Plan { .. })), "a file may be long");
    }

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

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
