//! What operators ask on the control socket, and what they are told.
//!
//! One JSON object a line each way; every request gets exactly one reply. `docs/protocols.md`
//! explains each message, and a test parses its examples.

use std::collections::BTreeMap;

use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::{CONNS_PAGE_MAX, Conn, ConnFilter, ServiceStatus, Status};
use serde::{Deserialize, Serialize};

use crate::config::Finding;

/// Version of the control socket's protocol. A request may name it and is refused if it differs.
pub const VERSION: u32 = 1;
/// Longest request, in bytes, newline included.
pub const REQUEST_MAX: usize = 64 << 10;
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
    Reload {},
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
    if line.len() >= REQUEST_MAX {
        return Err(bad(format!("request is longer than {REQUEST_MAX} bytes")));
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
    let verb = serde_json::from_value(serde_json::Value::Object(request))
        .map_err(|e| bad(format!("not a request: {e}")))?;
    if let Verb::Conns { limit, .. } = verb
        && !(1..=CONNS_PAGE_MAX).contains(&limit)
    {
        return Err(bad(format!("`limit` is {limit}: expected 1 to {CONNS_PAGE_MAX}")));
    }
    Ok(verb)
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
        assert!(parse(&vec![b' '; REQUEST_MAX]).unwrap_err().message.contains("longer"));
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
