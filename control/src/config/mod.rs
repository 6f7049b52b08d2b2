//! The configuration file `xvip.toml`: read and validated whole, before anything changes.
//!
//! Pure: text in, [`Config`] or [`Errors`] out: every one, with its place and what is allowed.
//! No input makes it panic. The file's language is explained in `docs/config.md`.

mod alert;
mod check;
mod checks;
mod control;
mod duration;
mod error;
mod ha;
mod health;
pub mod keys;
mod lines;
mod machine;
mod read;
mod service;
mod spare;
mod suggest;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane_api::service::{
    CopyMode, Engine, Interface, LocalPool, Poll, PortRange, ReplyPath, Service, Timeouts, XdpMode,
};
use toml::de::{DeTable, DeValue};

pub use alert::TARGETS_MAX;
pub use checks::CHECKS_MAX;
pub use control::{Control, Group, OnStop};
pub use duration::{parse as parse_duration, show as show_duration};
use error::{Error, Sink, printable};
pub use error::{Errors, Finding, SHOWN_MAX};
pub use ha::Keys;
pub use lines::{LINES_MAX, Line};
pub use machine::Machine;
use read::{Section, as_integer, checked_name, wrong_type};
pub(crate) use suggest::nearest;

use crate::check::{Check, Rules};
use crate::failover;
use crate::sorry::Sorry;

/// Longest file, in bytes.
pub const FILE_MAX: u64 = 4 << 20;
/// Most interfaces (the data plane's limit).
pub const INTERFACES_MAX: usize = 16;
/// Most workers (the data plane's limit).
pub const CORES_MAX: usize = 64;
/// Most services (the data plane's limit).
pub const SERVICES_MAX: usize = 1024;
/// Most reals over all services (the data plane's limit).
pub const REALS_MAX: usize = 8192;
/// Most `listen` entries over all services; keeps a snapshot within one message to the data plane.
pub const LISTENS_MAX: usize = 16_384;
/// Most distinct VIP and local addresses (the data plane's limit).
pub const ADDRESSES_MAX: usize = 1024;
/// Most local addresses of full NAT (the data plane's limit).
pub const LOCAL_ADDRESSES_MAX: usize = 64;
/// Most port ranges, other than single ports and `*`, of one VIP and protocol (the steering
/// program walks them one by one).
pub const RANGES_MAX: usize = 8;

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Control's own settings.
    pub control: Control,
    /// What the data plane allocates at start.
    pub engine: Engine,
    /// Interfaces with service traffic, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// Timeouts of services that set none.
    pub timeouts: Timeouts,
    /// Addresses of full NAT.
    pub local: LocalPool,
    /// Where replies to clients go.
    pub reply: ReplyPath,
    /// Who is told of what happens.
    pub alert: crate::alert::Settings,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The pair, if this node is one of two.
    pub ha: Option<failover::settings::Settings>,
    /// The keys that `ha` names; the shell reads them ([`crate::io`]).
    pub keys: Keys,
    /// What the file says, to be compared with the other node's; empty without a pair.
    pub lines: Arc<[Line]>,
    /// Services, in the order of the file.
    pub services: Vec<Entry>,
}

/// A service and, beside it, what only control knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the operator wants the data plane to do; [`crate::plan`] decides what it is told.
    pub service: Service,
    /// The checks of each of `service.reals`, in that order; none for a real that is not checked.
    pub checks: Vec<Arc<[Check]>>,
    /// How their outcomes are joined, and what follows from them.
    pub health: Rules,
    /// What clients are told when nobody is left to serve them.
    pub sorry: Option<Sorry>,
}

/// `[node]`: what differs between the nodes of a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name shown to people; the host's name if absent.
    pub name: Option<String>,
}

/// Reads `text`; `file` is its name in messages.
///
/// # Errors
/// Everything that is wrong, up to [`SHOWN_MAX`] errors in detail.
pub fn parse(text: &str, file: &str) -> Result<Config, Errors> {
    parse_with(text, file, false, Machine::ANY)
}

/// As [`parse`]; `public`: everybody can read the file, so that it must hold no secret; `machine` is
/// asked for what the file only names.
///
/// # Errors
/// As [`parse`], and what `machine` does not have.
pub fn parse_with(
    text: &str,
    file: &str,
    public: bool,
    machine: Machine,
) -> Result<Config, Errors> {
    if text.len() as u64 > FILE_MAX {
        return Err(Errors::unreadable(file, "file is larger than 4 MiB", None));
    }
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        let help = "a minimal file has one [[interface]] and one [[service]]; see docs/config.md";
        return Err(Errors::unreadable(file, "file is empty", Some(help)));
    }
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut sink = Sink::default();
    (sink.public, sink.machine) = (public, machine);
    for error in &syntax {
        let span = error.span().unwrap_or_default();
        // A repeated report on one place says nothing new.
        sink.push(Error::new(span, printable_message(error.message()), ""));
    }
    if !sink.is_empty() {
        return Err(sink.report(text, file));
    }
    let mut config = read(table.get_ref(), text.len(), &mut sink);
    if config.ha.is_some() && sink.is_empty() {
        config.lines = lines::read(table.get_ref(), text, sink.secrets()).into();
    }
    sink.inspect_secrets();
    if sink.is_empty() { Ok(config) } else { Err(sink.report(text, file)) }
}

/// Reads the bytes of a file; see [`parse_with`].
///
/// # Errors
/// As [`parse_with`], and bytes that are not UTF-8.
pub fn parse_bytes(
    bytes: &[u8],
    file: &str,
    public: bool,
    machine: Machine,
) -> Result<Config, Errors> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse_with(text, file, public, machine),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|b| **b == b'\n').count() + 1;
            let message = format!("line {line} is not UTF-8 (byte {})", error.valid_up_to());
            Err(Errors::unreadable(file, message, Some("save the file as UTF-8 text")))
        }
    }
}

fn printable_message(message: &str) -> String {
    message.lines().map(printable).collect::<Vec<_>>().join("; ")
}

/// Reads the whole file and reports everything that is wrong with it.
fn read(table: &DeTable<'_>, end: usize, sink: &mut Sink) -> Config {
    let top = Section::open(table, 0..0, "the file", keys::TOP, sink);
    let node = node(&top, sink);
    let control = control::read(&top, sink);
    let engine = engine(&top, sink);
    let interfaces = interfaces(&top, end, sink);
    let timeouts = match top.section("timeouts", "[timeouts]", keys::TIMEOUTS, sink) {
        Some(section) => timeouts(&section, Timeouts::default(), sink),
        None => Timeouts::default(),
    };
    let (local, local_spans) = local(&top, engine.cores.len(), sink);
    let reply = top
        .section("reply", "[reply]", keys::REPLY, sink)
        .and_then(|s| {
            let paths = [("last-hop", ReplyPath::LastHop), ("route", ReplyPath::Route)];
            s.choice("path", &paths, sink)
        })
        .unwrap_or_default();
    let mut placed: Vec<_> = top
        .sections("service", "[[service]]", keys::SERVICE, sink)
        .iter()
        .map(|s| service::read(s, timeouts, sink))
        .collect();
    check::check(&placed, &local, &local_spans, sink);
    spare::pages(&mut placed, sink);
    let names: Vec<&str> = placed.iter().map(|p| p.service.name.as_str()).collect();
    let (alert, metrics) = (alert::read(&top, &names, sink), alert::metrics(&top, sink));
    let ha = ha::read(&top, &ha::Around { node: &node, services: &placed, local: &local }, sink);
    let services = placed.into_iter().map(service::Placed::entry).collect();
    Config {
        node,
        control,
        engine,
        interfaces,
        timeouts,
        local,
        reply,
        alert,
        metrics,
        ha,
        keys: Keys::default(),
        lines: Arc::default(),
        services,
    }
}

/// Whether `name` is 1 to 63 bytes of `[A-Za-z0-9._-]`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

fn node(top: &Section<'_>, sink: &mut Sink) -> Node {
    let section = top.section("node", "[node]", keys::NODE, sink);
    let name = section.and_then(|s| checked_name(&s, "name", sink));
    Node { name: name.map(|n| n.value.to_owned()) }
}

fn engine(top: &Section<'_>, sink: &mut Sink) -> Engine {
    let mut engine = Engine::default();
    let Some(s) = top.section("engine", "[engine]", keys::ENGINE, sink) else { return engine };
    if let Some(cores) = cores(&s, sink) {
        engine.cores = cores;
    }
    let polls = [("busy", Poll::Busy), ("adaptive", Poll::Adaptive)];
    engine.poll = s.choice("poll", &polls, sink).unwrap_or(engine.poll);
    let connections = s.integer("connections", 1024..=(64 << 20), sink);
    engine.connections = connections.unwrap_or(engine.connections);
    let percent = s.integer("half_open_percent", 1..=100, sink);
    engine.half_open_percent =
        percent.and_then(|p| u8::try_from(p).ok()).unwrap_or(engine.half_open_percent);
    if let Some(frames) = s.integer("frames", 1024..=65_536, sink) {
        if frames.is_power_of_two() {
            engine.frames = frames;
        } else {
            let near = frames.next_power_of_two().min(65_536);
            let error = Error::new(
                s.place("frames"),
                "`frames` is not a power of two",
                "expected 1024, 2048, 4096, 8192, 16384, 32768 or 65536",
            );
            sink.push(error.did_you_mean(Some(&near.to_string())));
        }
    }
    engine
}

fn cores(section: &Section<'_>, sink: &mut Sink) -> Option<Vec<u16>> {
    let value = section.value("cores")?;
    let DeValue::Array(items) = value.get_ref() else {
        wrong_type(sink, value.span(), "cores", "a list of integers", value.get_ref());
        return None;
    };
    let mut seen = BTreeMap::new();
    let mut cores = Vec::new();
    for item in items {
        let Some(core) = as_integer(item, "cores", 0..=1023, sink) else { continue };
        if let Some(first) = seen.insert(core, item.span()) {
            let error = Error::new(item.span(), format!("core {core} is listed twice"), "again");
            sink.push(error.other(first, "first here"));
        }
        cores.extend(u16::try_from(core));
    }
    if items.is_empty() || items.len() > CORES_MAX {
        let message = format!("`cores` lists {} cores", items.len());
        sink.push(Error::new(value.span(), message, format!("expected 1 to {CORES_MAX}")));
    }
    Some(cores)
}

fn interfaces(top: &Section<'_>, end: usize, sink: &mut Sink) -> Vec<Interface> {
    let modes =
        [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
    let copies =
        [("auto", CopyMode::Auto), ("copy", CopyMode::Copy), ("zero-copy", CopyMode::ZeroCopy)];
    let sections = top.sections("interface", "[[interface]]", keys::INTERFACE, sink);
    let listed = top.value("interface").map(|v| v.get_ref());
    if listed.is_none_or(|v| v.as_array().is_some_and(|a| a.is_empty())) {
        let error = Error::new(end..end, "the file has no [[interface]]", "");
        sink.push(
            error.help(
                "add [[interface]] with name = \"eth0\": where service traffic comes and goes",
            ),
        );
    }
    if let Some(extra) = sections.get(INTERFACES_MAX) {
        let message = format!("more than {INTERFACES_MAX} interfaces");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    let mut seen: BTreeMap<&str, _> = BTreeMap::new();
    let mut interfaces = Vec::new();
    for s in &sections {
        s.require("name", "name = \"eth0\"", sink);
        let mode = s.choice("mode", &modes, sink).unwrap_or_default();
        let copy = s.choice("copy", &copies, sink).unwrap_or_default();
        let Some(name) = s.string("name", sink) else { continue };
        if !is_interface_name(name.value) {
            let message = format!("`{}` is no name of an interface", printable(name.value));
            let allowed = "expected 1 to 15 bytes without space, `/` or `:`";
            sink.push(Error::new(name.span, message, allowed));
            continue;
        }
        if let Some(first) = seen.insert(name.value, name.span.clone()) {
            let message = format!("interface `{}` is listed twice", name.value);
            sink.push(Error::new(name.span, message, "again").other(first, "first here"));
            continue;
        }
        interfaces.push(Interface { name: name.value.to_owned(), mode, copy });
    }
    interfaces
}

/// The kernel's rule (`dev_valid_name`, `net/core/dev.c`).
fn is_interface_name(name: &str) -> bool {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    (1..=15).contains(&name.len()) && name != "." && name != ".." && name.chars().all(allowed)
}

/// `defaults` with what the section says.
fn timeouts(section: &Section<'_>, defaults: Timeouts, sink: &mut Sink) -> Timeouts {
    let mut get = |key, default| section.seconds(key, sink).unwrap_or(default);
    Timeouts {
        syn_received: get("syn_received", defaults.syn_received),
        established: get("established", defaults.established),
        fin_wait: get("fin_wait", defaults.fin_wait),
        close_wait: get("close_wait", defaults.close_wait),
        last_ack: get("last_ack", defaults.last_ack),
        time_wait: get("time_wait", defaults.time_wait),
        close: get("close", defaults.close),
        udp_new: get("udp_new", defaults.udp_new),
        udp: get("udp", defaults.udp),
    }
}

type Spans = Vec<std::ops::Range<usize>>;

fn local(top: &Section<'_>, cores: usize, sink: &mut Sink) -> (LocalPool, Spans) {
    let mut pool = LocalPool::default();
    let mut spans = Vec::new();
    let Some(s) = top.section("fullnat", "[fullnat]", keys::FULLNAT, sink) else {
        return (pool, spans);
    };
    let listed = s.strings("addresses", sink);
    if let Some(extra) = listed.get(LOCAL_ADDRESSES_MAX) {
        let message = format!("more than {LOCAL_ADDRESSES_MAX} local addresses");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    for text in listed {
        let Ok(address) = text.value.parse::<IpAddr>() else {
            let message = format!("`{}` is not an IP address", printable(text.value));
            let allowed = "expected an address without port, like 10.0.1.5 or 2001:db8::5";
            sink.push(Error::new(text.span, message, allowed));
            continue;
        };
        service::check_address(address, "a local address", &text.span, sink);
        pool.addresses.push(address);
        spans.push(text.span);
    }
    if let Some(text) = s.string("ports", sink) {
        match text.value.parse::<PortRange>() {
            Ok(ports) if usize::from(ports.last - ports.first) + 1 >= cores => pool.ports = ports,
            Ok(_) => {
                let message = format!("fewer ports than the {cores} cores of [engine]");
                sink.push(Error::new(text.span, message, "each worker needs ports of its own"));
            }
            Err(message) => sink.push(Error::new(text.span, message, "expected like 1024-65535")),
        }
    }
    (pool, spans)
}
