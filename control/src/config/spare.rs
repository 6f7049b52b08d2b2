//! What a service does when none of its reals is left: `fallback` and `sorry`.

use std::ops::Range;
use std::path::PathBuf;

use dataplane_api::service::{Forwarding, Listen, Protocol, Real, Weight};
use toml::de::DeValue;

use super::error::{Error, Sink, printable};
use super::keys;
use super::read::Section;
use super::service::{
    Placed, bad_address, check_address, check_port_kept, parse_address, show_address,
};
use crate::sorry::{PORTS_MAX, Sorry};

/// Most fallbacks of a service.
const FALLBACKS_MAX: usize = 16;
/// Longest `retry_after`, in seconds: a day.
const RETRY_MAX: u32 = 86_400;

/// Reads `fallback`: addresses of servers outside the pool.
pub(super) fn fallback(
    section: &Section<'_>,
    forwarding: Forwarding,
    listen: &[Listen],
    reals: &[Real],
    sink: &mut Sink,
) -> Vec<Real> {
    let mut found: Vec<Real> = Vec::new();
    for text in section.strings("fallback", sink) {
        let Some((address, port)) = parse_address(text.value) else {
            sink.push(bad_address(&text));
            continue;
        };
        if !check_address(address, "a fallback", &text.span, sink) {
            continue;
        }
        let port = match forwarding {
            Forwarding::Nat | Forwarding::Fullnat => port,
            Forwarding::Direct | Forwarding::Tunnel => {
                check_port_kept(port, forwarding, listen, &text, sink);
                None
            }
        };
        let same = |r: &Real| r.address == address && r.port == port;
        let family = listen.first().is_some_and(|l| l.address.is_ipv4() != address.is_ipv4());
        let complaint = if reals.iter().any(same) {
            Some("is a real server of this service already")
        } else if found.iter().any(same) {
            Some("is listed twice")
        } else if family && forwarding != Forwarding::Tunnel {
            Some("is not of the address family of `listen`")
        } else if found.len() == FALLBACKS_MAX {
            Some("is one too many: at most 16 fallbacks")
        } else {
            None
        };
        if let Some(complaint) = complaint {
            let message = format!("fallback `{}` {complaint}", printable(text.value));
            sink.push(Error::new(text.span, message, "another server takes what nobody takes"));
            continue;
        }
        found.push(Real {
            name: show_address(address, port),
            address,
            port,
            weight: Weight::default(),
            upper_threshold: None,
            lower_threshold: None,
            down: false,
            templates: Default::default(),
        });
    }
    found
}

/// Reads `sorry`: a table, or `true` for the built-in page. With the place of what it says.
pub(super) fn sorry(
    section: &Section<'_>,
    protocol: Protocol,
    listen: &[Listen],
    sink: &mut Sink,
) -> Option<(Sorry, Range<usize>)> {
    let value = section.value("sorry")?;
    let mut place = value.span();
    let mut sorry = Sorry { file: None, retry_after_s: 30, page: None };
    match value.get_ref() {
        DeValue::Boolean(true) => {}
        DeValue::Boolean(false) => return None,
        _ => {
            let s = section.section("sorry", "`sorry`", keys::SORRY, sink)?;
            if let Some(path) = s.string("file", sink) {
                if path.value.starts_with('/') && !path.value.contains('\0') {
                    sorry.file = Some(PathBuf::from(path.value));
                    place = path.span;
                } else {
                    let message = format!("`{}` is not an absolute path", printable(path.value));
                    let allowed = "expected like \"/etc/xvip/sorry.html\"";
                    sink.push(Error::new(path.span, message, allowed));
                }
            }
            let seconds = s.seconds("retry_after", sink).unwrap_or(sorry.retry_after_s);
            if seconds > RETRY_MAX {
                let message = "`retry_after` is out of range";
                sink.push(Error::new(s.place("retry_after"), message, "expected 1s to 1d"));
            }
            sorry.retry_after_s = seconds;
        }
    }
    let ports = ports(listen);
    let complaint = if protocol != Protocol::Tcp {
        Some("the sorry page is for TCP services".to_owned())
    } else if section.value("fallback").is_some() {
        Some("a service has a fallback or a sorry page, not both".to_owned())
    } else if ports > PORTS_MAX {
        Some(format!("the sorry page listens on at most {PORTS_MAX} ports, here are {ports}"))
    } else {
        None
    };
    if let Some(complaint) = complaint {
        sink.push(Error::new(value.span(), complaint, "remove `sorry`"));
        return None;
    }
    Some((sorry, place))
}

fn ports(listen: &[Listen]) -> usize {
    listen.iter().map(|l| usize::from(l.ports.last - l.ports.first) + 1).sum()
}

/// Has the pages in files of their own read, as many as may be.
pub(super) fn pages(services: &mut [Placed], sink: &mut Sink) {
    let mut total = 0;
    for placed in services {
        let Some((sorry, place)) = &mut placed.sorry else { continue };
        total += ports(&placed.service.listen);
        if total > PORTS_MAX {
            let message = format!("sorry pages at more than {PORTS_MAX} ports over all services");
            sink.push(Error::new(place.clone(), message, "one too many"));
            return;
        }
        let Some(path) = &sorry.file else { continue };
        match (sink.machine.page)(path) {
            Ok(page) => sorry.page = page.map(Into::into),
            Err(why) => {
                let message = format!("{}: {why}", printable(&path.display().to_string()));
                let error = Error::new(place.clone(), message, "a file with a page");
                sink.push(error.help("`sorry = true` takes the built-in page"));
            }
        }
    }
}
