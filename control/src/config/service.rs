//! One `[[service]]` with its reals.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use dataplane_api::service::{
    Forwarding, Listen, Persistence, Protocol, Real, Scheduler, SchedulerFlags, Service, Templates,
    Timeouts, Weight,
};
use toml::de::DeValue;

use super::checks::{self, Context};
use super::error::{Error, Sink, printable};
use super::keys;
use super::read::{At, Section};
use super::spare;
use super::{Entry, checked_name, health, timeouts};
use crate::check::{Check, Rules};
use crate::sorry::Sorry;

pub(super) const PROTOCOLS: &[(&str, Protocol)] = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
pub(super) const FORWARDINGS: &[(&str, Forwarding)] = &[
    ("nat", Forwarding::Nat),
    ("fullnat", Forwarding::Fullnat),
    ("direct", Forwarding::Direct),
    ("tunnel", Forwarding::Tunnel),
];
pub(super) const SCHEDULERS: &[(&str, Scheduler)] = &[
    ("rr", Scheduler::Rr),
    ("wrr", Scheduler::Wrr),
    ("lc", Scheduler::Lc),
    ("wlc", Scheduler::Wlc),
    ("sh", Scheduler::Sh),
    ("dh", Scheduler::Dh),
    ("mh", Scheduler::Mh),
    ("sed", Scheduler::Sed),
    ("nq", Scheduler::Nq),
    ("lblc", Scheduler::Lblc),
    ("lblcr", Scheduler::Lblcr),
    ("fo", Scheduler::Fo),
    ("ovf", Scheduler::Ovf),
    ("twos", Scheduler::Twos),
];

/// A service with the places of what later checks may complain about.
pub(super) struct Placed {
    pub(super) service: Service,
    /// Heading of the service.
    pub(super) span: Range<usize>,
    /// Its name; the heading if it has none.
    pub(super) name: Range<usize>,
    /// Each of `service.listen`.
    pub(super) listen: Vec<Range<usize>>,
    /// Address of each of `service.reals`.
    pub(super) reals: Vec<Range<usize>>,
    /// The checks of each of `service.reals`.
    pub(super) checks: Vec<Arc<[Check]>>,
    pub(super) health: Rules,
    /// With the place of what is said.
    pub(super) sorry: Option<(Sorry, Range<usize>)>,
}

impl Placed {
    /// Without the places.
    pub(super) fn entry(self) -> Entry {
        let Self { service, checks, health, sorry, .. } = self;
        Entry { service, checks, health, sorry: sorry.map(|(s, _)| s) }
    }
}

/// Reads a service; what is wrong is left out and reported.
pub(super) fn read(section: &Section<'_>, defaults: Timeouts, sink: &mut Sink) -> Placed {
    section.require("name", "name = \"web\"", sink);
    section.require("listen", "listen = \"192.0.2.10:80\"", sink);
    let name = checked_name(section, "name", sink);
    let protocol = section.choice("protocol", PROTOCOLS, sink).unwrap_or(Protocol::Tcp);
    let forwarding = section.choice("forwarding", FORWARDINGS, sink);
    let scheduler = section.choice("scheduler", SCHEDULERS, sink);
    let (listen, listen_spans) = listens(section, sink);
    let scheduler_flags = flags(section, scheduler.unwrap_or_default(), sink);
    let persistence = persistence(section, sink);
    let timeouts = section
        .section("timeouts", "`timeouts`", keys::TIMEOUTS, sink)
        .map(|s| timeouts(&s, defaults, sink));
    let forwarding = forwarding.unwrap_or(Forwarding::Nat);
    let context = Context::new(&listen, forwarding, protocol);
    let (health, dead) = health::read(section, protocol, sink);
    let shared = checks::read(section, &context, sink).unwrap_or_default();
    let (mut reals, mut real_spans, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    for s in section.sections("real", "[[service.real]]", keys::REAL, sink) {
        let own = checks::read(&s, &context, sink);
        if let Some((real, span)) = real(&s, forwarding, &listen, sink) {
            let own = own.as_ref().unwrap_or(&shared);
            checks.push(checks::resolve(own, &real, &span, &context, sink).into());
            reals.push(real);
            real_spans.push(span);
        }
    }
    let fallback = spare::fallback(section, forwarding, &listen, &reals, sink);
    let sorry = spare::sorry(section, protocol, &listen, sink);
    let service = Service {
        name: name.as_ref().map_or_else(String::new, |n| n.value.to_owned()),
        protocol,
        listen,
        forwarding,
        scheduler: scheduler.unwrap_or_default(),
        scheduler_flags,
        persistence,
        timeouts,
        dead,
        sorry: sorry.is_some(),
        reals,
        fallback,
    };
    let name = name.map_or_else(|| section.span.clone(), |n| n.span);
    let (span, listen, reals) = (section.span.clone(), listen_spans, real_spans);
    Placed { service, span, name, listen, reals, checks, health, sorry }
}

fn listens(section: &Section<'_>, sink: &mut Sink) -> (Vec<Listen>, Vec<Range<usize>>) {
    let mut listens: Vec<Listen> = Vec::new();
    let mut spans: Vec<Range<usize>> = Vec::new();
    let texts = section.strings("listen", sink);
    let listed = section.value("listen").and_then(|v| v.get_ref().as_array());
    if listed.is_some_and(|a| a.is_empty()) {
        sink.push(Error::new(
            section.place("listen"),
            "`listen` is empty",
            "expected at least one VIP with port",
        ));
    }
    for text in texts {
        let listen: Listen = match text.value.parse() {
            Ok(listen) => listen,
            Err(_) => {
                sink.push(bad_listen(&text));
                continue;
            }
        };
        if !check_address(listen.address, "a VIP", &text.span, sink) {
            continue;
        }
        if let (Some(first), Some(span)) = (listens.first(), spans.first())
            && first.address.is_ipv4() != listen.address.is_ipv4()
        {
            let error = Error::new(text.span, "`listen` mixes IPv4 and IPv6", "another family")
                .other(span.clone(), "than here")
                .help("make a service for each address family");
            sink.push(error);
            continue;
        }
        listens.push(listen);
        spans.push(text.span);
    }
    (listens, spans)
}

fn bad_listen(text: &At<&str>) -> Error {
    let address = text.value.trim_start_matches('[').trim_end_matches(']');
    let help = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => Some(format!("did you mean `{v4}:80`? `{v4}:*` is every port")),
        Ok(IpAddr::V6(v6)) => Some(format!("did you mean `[{v6}]:80`? `[{v6}]:*` is every port")),
        Err(_) => None,
    };
    let reason = text.value.parse::<Listen>().err().unwrap_or_default();
    let message = match reason.split_once(": expected") {
        Some((message, _)) => message.to_owned(),
        None => reason,
    };
    let allowed = "expected like 192.0.2.10:80, 192.0.2.10:8000-8099 or [2001:db8::10]:*";
    let mut error = Error::new(text.span.clone(), printable(&message), allowed);
    error.help = help;
    error
}

/// Reports an address that cannot be `role` (a VIP, a real server, a local address).
/// Whether it can.
pub(super) fn check_address(
    address: IpAddr,
    role: &str,
    span: &Range<usize>,
    sink: &mut Sink,
) -> bool {
    let kind = match address {
        a if a.is_unspecified() => "the unspecified address",
        a if a.is_loopback() => "a loopback address",
        a if a.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
        _ => return true,
    };
    let message = format!("{address} is {kind} and cannot be {role}");
    sink.push(Error::new(span.clone(), message, "expected a unicast address"));
    false
}

fn flags(section: &Section<'_>, scheduler: Scheduler, sink: &mut Sink) -> SchedulerFlags {
    let words = section.choices("scheduler_flags", &[("port", 0), ("fallback", 1)], sink);
    if !words.is_empty() && !matches!(scheduler, Scheduler::Sh | Scheduler::Mh) {
        let name = SCHEDULERS.iter().find(|(_, s)| *s == scheduler).map_or("?", |(n, _)| n);
        let message = format!("scheduler `{name}` has no flags");
        let error =
            Error::new(section.place("scheduler_flags"), message, "only `sh` and `mh` have flags");
        sink.push(error.help("remove `scheduler_flags`, or set scheduler = \"sh\" or \"mh\""));
    }
    SchedulerFlags { port: words.contains(&0), fallback: words.contains(&1) }
}

fn persistence(section: &Section<'_>, sink: &mut Sink) -> Option<Persistence> {
    let value = section.value("persistence")?;
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        let timeout = section.seconds("persistence", sink)?;
        return Some(Persistence { timeout, mask_v4: 32, mask_v6: 128 });
    }
    let s = section.section("persistence", "`persistence`", keys::PERSISTENCE, sink)?;
    s.require("timeout", "timeout = \"5m\"", sink);
    let bits = |n: Option<u32>, default| n.and_then(|n| u8::try_from(n).ok()).unwrap_or(default);
    let mask_v4 = bits(s.integer("mask_v4", 1..=32, sink), 32);
    let mask_v6 = bits(s.integer("mask_v6", 1..=128, sink), 128);
    let timeout = s.seconds("timeout", sink)?;
    Some(Persistence { timeout, mask_v4, mask_v6 })
}

fn real(
    section: &Section<'_>,
    forwarding: Forwarding,
    listen: &[Listen],
    sink: &mut Sink,
) -> Option<(Real, Range<usize>)> {
    section.require("address", "address = \"10.0.1.1:80\"", sink);
    let name = section.string("name", sink).filter(|name| {
        let good = (1..=63).contains(&name.value.len())
            && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b));
        if !good {
            let message = format!("`{}` is not a name", printable(name.value));
            let allowed = "expected 1 to 63 of A-Z a-z 0-9 . _ - : [ ]";
            sink.push(Error::new(name.span.clone(), message, allowed));
        }
        good
    });
    let weight = section.integer("weight", 0..=65_535, sink);
    let weight =
        weight.and_then(|w| u16::try_from(w).ok()).map_or_else(Weight::default, Weight::new);
    let upper_threshold = section.integer("upper_threshold", 1..=u32::MAX, sink);
    let lower_threshold = section.integer("lower_threshold", 1..=u32::MAX, sink);
    check_thresholds(section, upper_threshold, lower_threshold, sink);
    let text = section.string("address", sink)?;
    let Some((address, port)) = parse_address(text.value) else {
        sink.push(bad_address(&text));
        return None;
    };
    check_address(address, "a real server", &text.span, sink);
    let port = match forwarding {
        Forwarding::Nat | Forwarding::Fullnat => port,
        Forwarding::Direct | Forwarding::Tunnel => {
            check_port_kept(port, forwarding, listen, &text, sink);
            None
        }
    };
    let name = name.map_or_else(|| show_address(address, port), |n| n.value.to_owned());
    let real = Real {
        name,
        address,
        port,
        weight,
        upper_threshold,
        lower_threshold,
        down: false,
        templates: Templates::default(),
    };
    Some((real, text.span))
}

/// Text form of a real's address: `10.0.1.1:80`, `[2001:db8::1]:80`, or the address alone.
pub(super) fn show_address(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

fn check_thresholds(
    section: &Section<'_>,
    upper: Option<u32>,
    lower: Option<u32>,
    sink: &mut Sink,
) {
    let Some(lower) = lower else { return };
    let place = section.place("lower_threshold");
    match upper {
        Some(upper) if lower <= upper => {}
        Some(upper) => {
            let message = format!("lower threshold {lower} is above upper threshold {upper}");
            let error = Error::new(place, message, format!("expected 1 to {upper}"));
            sink.push(error.other(section.place("upper_threshold"), "upper threshold"));
        }
        None if section.value("upper_threshold").is_some() => {}
        None => {
            let message = "`lower_threshold` without `upper_threshold`";
            sink.push(Error::new(place, message, "").help("add `upper_threshold`"));
        }
    }
}

pub(super) fn parse_address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, None));
    }
    if let Some(v6) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return Some((IpAddr::V6(v6.parse().ok()?), None));
    }
    match text.parse::<SocketAddr>().ok()? {
        SocketAddr::V6(v6) if v6.scope_id() != 0 || text.contains('%') => None,
        socket if socket.port() == 0 => None,
        socket => Some((socket.ip(), Some(socket.port()))),
    }
}

pub(super) fn bad_address(text: &At<&str>) -> Error {
    let message = format!("`{}` is not the address of a real server", printable(text.value));
    let allowed = "expected like 10.0.1.1:80, [2001:db8::1]:80, or the address alone";
    let error = Error::new(text.span.clone(), message, allowed);
    let host = text.value.split(':').next().unwrap_or_default();
    if host.contains(|c: char| c.is_ascii_alphabetic()) && !text.value.contains("::") {
        return error.help("write the IP address: names are not resolved");
    }
    error
}

/// `direct` and `tunnel` leave the packet as it is, so the port is the one the client used.
pub(super) fn check_port_kept(
    port: Option<u16>,
    forwarding: Forwarding,
    listen: &[Listen],
    text: &At<&str>,
    sink: &mut Sink,
) {
    let Some(port) = port else { return };
    let single = |l: &Listen| l.ports.first == port && l.ports.last == port;
    if listen.is_empty() || listen.iter().all(single) {
        return;
    }
    let name = FORWARDINGS.iter().find(|(_, f)| *f == forwarding).map_or("?", |(n, _)| n);
    let message = format!("`{name}` cannot change the port to {port}");
    let error = Error::new(text.span.clone(), message, "the real server gets the client's port");
    sink.push(error.help("write the address without port, or use `nat` or `fullnat`"));
}
