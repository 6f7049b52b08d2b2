//! `check` of a service and of a real: what every kind has, then the keys of the kind.
//!
//! One file for each kind: `read(section, context, sink)` gives the kind with its settings, or
//! `None` after it has reported what is wrong. The section has been opened with the kind's keys, so
//! an unknown one is reported already.

mod common;
mod dns;
mod http;
mod http_proxy;
mod icmp;
mod ldap;
mod lines;
mod ntp;
mod path;
mod radius;
mod redis;
mod script;
mod sip;
mod sql;
mod tcp;
mod udp;
mod wire;

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use dataplane_api::service::{Forwarding, Listen, Protocol, Real};

use super::error::{Error, Sink, printable};
use super::keys;
use super::read::Section;
use super::suggest::nearest;
use crate::check::{Check, Kind, Timing};

/// Most checks of one real.
pub const CHECKS_MAX: usize = 16;

/// What a reader may want to know of the service, and of the keys that every check has.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// What clients connect to; empty if that is wrong.
    pub(super) listen: &'a [Listen],
    /// How packets get to its reals.
    pub(super) forwarding: Forwarding,
    /// Of its connections.
    pub(super) protocol: Protocol,
    /// `port` of the check.
    port: Option<u16>,
    /// `timeout` of the check.
    timeout: Duration,
}

impl<'a> Context<'a> {
    /// Of a service, for all its checks.
    pub(super) const fn new(
        listen: &'a [Listen],
        forwarding: Forwarding,
        protocol: Protocol,
    ) -> Self {
        Self { listen, forwarding, protocol, port: None, timeout: Duration::ZERO }
    }
}

type Reader = for<'a> fn(&Section<'a>, &Context<'_>, &mut Sink) -> Option<Kind>;

/// Every kind: its word, its keys beside the common ones, its reader.
const KINDS: &[(&str, &[&str], Reader)] = &[
    ("tcp", keys::TCP, tcp::read),
    ("http", keys::HTTP, http::read),
    ("https", keys::HTTPS, http::read_tls),
    ("http_proxy", keys::HTTP_PROXY, http_proxy::read),
    ("smtp", keys::SMTP, lines::smtp),
    ("smtps", keys::SMTPS, lines::smtps),
    ("submission", keys::SMTP, lines::submission),
    ("pop3", keys::POP3, lines::pop3),
    ("pop3s", keys::POP3S, lines::pop3s),
    ("imap", keys::IMAP, lines::imap),
    ("imaps", keys::IMAPS, lines::imaps),
    ("ftp", keys::FTP, lines::ftp),
    ("ftps", keys::FTPS, lines::ftps),
    ("nntp", keys::NNTP, lines::nntp),
    ("nntps", keys::NNTPS, lines::nntps),
    ("dns", keys::CHECK_DNS, dns::read),
    ("ldap", keys::LDAP, ldap::read),
    ("ldaps", keys::LDAPS, ldap::read_tls),
    ("mysql", keys::SQL, sql::mysql),
    ("pgsql", keys::SQL, sql::pgsql),
    ("redis", keys::REDIS, redis::read),
    ("rediss", keys::REDISS, redis::read_tls),
    ("ntp", keys::CHECK_NTP, ntp::read),
    ("sip", keys::CHECK_SIP, sip::read),
    ("radius", keys::CHECK_RADIUS, radius::read),
    ("udp", keys::CHECK_UDP, udp::read),
    ("icmp", keys::CHECK_ICMP, icmp::read),
    ("script", keys::CHECK_SCRIPT, script::read),
    ("path", keys::CHECK_PATH, path::read),
];

/// A check with its place.
pub(super) struct Placed {
    pub(super) check: Check,
    span: Range<usize>,
}

/// Reads `check` of a service or a real; `None` if there is none.
pub(super) fn read(
    section: &Section<'_>,
    context: &Context<'_>,
    sink: &mut Sink,
) -> Option<Vec<Placed>> {
    section.value("check")?;
    let tables = section.tables("check", "[[service.check]]", sink);
    if let Some((_, extra)) = tables.get(CHECKS_MAX) {
        let message = format!("more than {CHECKS_MAX} checks of one real server");
        sink.push(Error::new(extra.clone(), message, "one too many"));
    }
    let mut checks: Vec<Placed> = Vec::new();
    for (table, span) in tables {
        // The keys depend on the kind, so that is looked at first.
        let word = table.get("type").and_then(|v| v.get_ref().as_str());
        let kind = KINDS.iter().find(|(name, ..)| Some(*name) == word);
        let Some((_, own, reader)) = kind else {
            bad_type(&table.get("type").map_or(span, |v| v.span()), word, sink);
            continue;
        };
        let all = [keys::CHECK, own].concat();
        let s = Section::open(table, span.clone(), "[[service.check]]", &all, sink);
        let timing = timing(&s, sink);
        let (address, port) = place(&s, sink);
        let context = Context { port, timeout: timing.timeout, ..*context };
        if let Some(kind) = reader(&s, &context, sink) {
            checks.push(Placed { check: Check { kind, address, port, timing }, span });
        }
    }
    Some(checks)
}

fn bad_type(span: &Range<usize>, word: Option<&str>, sink: &mut Sink) {
    let names: Vec<_> = KINDS.iter().map(|(name, ..)| *name).collect();
    let expected = format!("expected one of {}", names.join(", "));
    let error = match word {
        Some(word) => {
            let message = format!("unknown type of check `{}`", printable(word));
            Error::new(span.clone(), message, expected).did_you_mean(nearest(word, &names))
        }
        None => Error::new(span.clone(), "a check must say its `type`", expected)
            .help("add type = \"tcp\""),
    };
    sink.push(error);
}

fn timing(s: &Section<'_>, sink: &mut Sink) -> Timing {
    const DAY: Duration = Duration::from_secs(86_400);
    let ms = Duration::from_millis;
    let mut timing = Timing::default();
    timing.interval = s.duration("interval", ms(100)..=DAY, sink).unwrap_or(timing.interval);
    timing.timeout = s.duration("timeout", ms(10)..=ms(600_000), sink).unwrap_or(timing.timeout);
    let count = |n: Option<u32>, default| n.and_then(|n| u8::try_from(n).ok()).unwrap_or(default);
    timing.rise = count(s.integer("rise", 1..=255, sink), timing.rise);
    timing.fall = count(s.integer("fall", 1..=255, sink), timing.fall);
    timing
}

/// Another address or port than the real's.
fn place(s: &Section<'_>, sink: &mut Sink) -> (Option<IpAddr>, Option<u16>) {
    let address = s.string("address", sink).and_then(|text| {
        let address = text.value.parse().ok();
        if address.is_none() {
            let message = format!("`{}` is not an IP address", printable(text.value));
            let allowed = "expected an address without port, like 10.0.1.5 or 2001:db8::5";
            let error = Error::new(text.span, message, allowed);
            sink.push(error.help("the port has a key of its own: port = 8080"));
        }
        address
    });
    let port = s.integer("port", 1..=65_535, sink).and_then(|p| u16::try_from(p).ok());
    (address, port)
}

/// The checks of `real`: its own or the service's, each with the port it will ask on.
pub(super) fn resolve(
    checks: &[Placed],
    real: &Real,
    real_span: &Range<usize>,
    context: &Context<'_>,
    sink: &mut Sink,
) -> Vec<Check> {
    let single = match context.listen {
        [only] if only.ports.first == only.ports.last => Some(only.ports.first),
        _ => None,
    };
    let mut resolved = Vec::new();
    for placed in checks {
        let mut check = placed.check.clone();
        if check.kind.has_port() && check.port.is_none() {
            check.port = real.port.or(single);
            if check.port.is_none() {
                let message = format!("the check of `{}` has no port to ask on", real.name);
                let error = Error::new(placed.span.clone(), message, "add port = 80, for example")
                    .other(real_span.clone(), "no port here, and several in `listen`");
                sink.push(error);
                continue;
            }
        }
        if !resolved.contains(&check) {
            resolved.push(check);
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use crate::check::{Require, Start};
    use crate::config;

    #[test]
    fn a_real_may_have_checks_of_its_own_and_each_finds_its_port() {
        let text = r#"
            [[interface]]
            name = "eth0"
            [[service]]
            name = "web"
            listen = "192.0.2.10:80"
            health = { require = "any", start = "down", slow_start = "30s", panic_floor = 30 }
            check = [{ type = "tcp" }, { type = "tcp", port = 9, rise = 1, fall = 9 }, { type = "tcp" }]
            real = [
              { address = "10.0.0.1:8080" },
              { address = "10.0.0.2" },
              { address = "10.0.0.3", check = [{ type = "tcp", address = "10.9.9.9" }] },
              { address = "10.0.0.4", check = [] },
            ]
        "#;
        let config = config::parse(text, "x").unwrap();
        let entry = &config.services[0];
        let asked = |index: usize| -> Vec<String> {
            let (service, checks) = (&entry.service, &entry.checks[index]);
            let probes = checks.iter().map(|c| c.probe(service, &service.reals[index]));
            probes.map(|p| p.target.to_string()).collect()
        };
        assert_eq!(asked(0), ["10.0.0.1:8080", "10.0.0.1:9"], "equal ones are one");
        assert_eq!(asked(1), ["10.0.0.2:80", "10.0.0.2:9"], "the only port of the VIP");
        assert_eq!(asked(2), ["10.9.9.9:80"]);
        assert_eq!(asked(3), [""; 0]);
        let timing = entry.checks[0][1].timing;
        assert_eq!((timing.rise, timing.fall, timing.interval.as_millis()), (1, 9, 500));
        assert_eq!((entry.health.require, entry.health.start), (Require::Any, Start::Down));
    }
}
