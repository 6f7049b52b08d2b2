//! Rules across services: what is fine alone but not together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use dataplane_api::service::{Forwarding, LocalPool, PortRange, Protocol};

use super::error::{Error, Sink};
use super::service::{FORWARDINGS, Placed, show_address};
use super::{ADDRESSES_MAX, LISTENS_MAX, RANGES_MAX, REALS_MAX, SERVICES_MAX};

/// Reports everything that is wrong between `services`, and between them and the local addresses.
pub(super) fn check(
    services: &[Placed],
    local: &LocalPool,
    local_spans: &[Range<usize>],
    sink: &mut Sink,
) {
    names(services, sink);
    overlaps(services, sink);
    ranges(services, sink);
    let vips = vips(services);
    for placed in services {
        families(placed, sink);
        duplicates(placed, sink);
    }
    addresses(services, local, local_spans, &vips, sink);
    local_pool(services, local, sink);
    limits(services, local, &vips, sink);
}

fn names(services: &[Placed], sink: &mut Sink) {
    let mut seen: BTreeMap<&str, &Placed> = BTreeMap::new();
    for placed in services.iter().filter(|p| !p.service.name.is_empty()) {
        if let Some(first) = seen.get(placed.service.name.as_str()) {
            let message = format!("service `{}` is defined twice", placed.service.name);
            let error = Error::new(placed.name.clone(), message, "again");
            sink.push(error.other(first.name.clone(), "first here"));
        } else {
            seen.insert(&placed.service.name, placed);
        }
    }
}

/// Every listen of the file, sorted so that those of one VIP and protocol are neighbours.
fn sorted(services: &[Placed]) -> Vec<(Protocol, IpAddr, PortRange, Range<usize>)> {
    let mut all: Vec<_> = services
        .iter()
        .flat_map(|p| {
            let protocol = p.service.protocol;
            p.service
                .listen
                .iter()
                .zip(&p.listen)
                .map(move |(l, s)| (protocol, l.address, l.ports, s.clone()))
        })
        .collect();
    all.sort_by_key(|(protocol, address, ports, span)| (*protocol, *address, *ports, span.start));
    all
}

fn overlaps(services: &[Placed], sink: &mut Sink) {
    // Of those before, the one that reaches furthest: the next one overlaps it if it overlaps any.
    let mut reach: Option<(Protocol, IpAddr, PortRange, Range<usize>)> = None;
    for item in sorted(services) {
        if let Some(before) = &reach
            && (before.0, before.1) == (item.0, item.1)
        {
            if before.2.overlaps(item.2) {
                let (later, earlier) =
                    if item.3.start > before.3.start { (&item, before) } else { (before, &item) };
                let message = format!("{} port {} is already listened on", item.1, later.2);
                let error = Error::new(later.3.clone(), message, "overlaps");
                sink.push(error.other(earlier.3.clone(), "with this"));
            }
            if before.2.last >= item.2.last {
                continue;
            }
        }
        reach = Some(item);
    }
}

fn ranges(services: &[Placed], sink: &mut Sink) {
    let mut counts: BTreeMap<(Protocol, IpAddr), usize> = BTreeMap::new();
    for (protocol, address, ports, span) in sorted(services) {
        if ports.first == ports.last || ports == PortRange::ALL {
            continue;
        }
        let count = counts.entry((protocol, address)).or_default();
        *count += 1;
        if *count == RANGES_MAX + 1 {
            let message = format!("more than {RANGES_MAX} port ranges on {address}");
            let error = Error::new(span, message, "one too many");
            sink.push(error.help("join ranges, or use another VIP; single ports are not limited"));
        }
    }
}

fn vips(services: &[Placed]) -> BTreeMap<IpAddr, Range<usize>> {
    let mut vips = BTreeMap::new();
    for placed in services {
        for (listen, span) in placed.service.listen.iter().zip(&placed.listen) {
            vips.entry(listen.address).or_insert_with(|| span.clone());
        }
    }
    vips
}

fn families(placed: &Placed, sink: &mut Sink) {
    let service = &placed.service;
    let (Some(listen), Some(listen_span)) = (service.listen.first(), placed.listen.first()) else {
        return;
    };
    if service.forwarding == Forwarding::Tunnel {
        return;
    }
    let name = FORWARDINGS.iter().find(|(_, f)| *f == service.forwarding).map_or("?", |(n, _)| n);
    for (real, span) in service.reals.iter().zip(&placed.reals) {
        if real.address.is_ipv4() != listen.address.is_ipv4() {
            let want = if listen.address.is_ipv4() { "IPv4" } else { "IPv6" };
            let error = Error::new(
                span.clone(),
                format!("`{name}` needs real servers of the VIP's address family"),
                format!("expected an {want} address"),
            );
            let error = error.other(listen_span.clone(), "the VIP");
            sink.push(error.help("only `tunnel` mixes IPv4 and IPv6"));
        }
    }
}

fn duplicates(placed: &Placed, sink: &mut Sink) {
    let mut addresses = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (real, span) in placed.service.reals.iter().zip(&placed.reals) {
        if let Some(first) = addresses.insert((real.address, real.port), span) {
            let shown = show_address(real.address, real.port);
            let message = format!("real server {shown} is in this service twice");
            let error =
                Error::new(span.clone(), message, "again").other(first.clone(), "first here");
            sink.push(error.help("give it a higher `weight` instead"));
        } else if let Some(first) = names.insert(&real.name, span) {
            let message = format!("two real servers of this service are called `{}`", real.name);
            let error = Error::new(span.clone(), message, "again");
            sink.push(error.other(first.clone(), "first here"));
        }
    }
}

/// An address has one role: VIP, real or local.
fn addresses(
    services: &[Placed],
    local: &LocalPool,
    local_spans: &[Range<usize>],
    vips: &BTreeMap<IpAddr, Range<usize>>,
    sink: &mut Sink,
) {
    let mut locals: BTreeMap<IpAddr, &Range<usize>> = BTreeMap::new();
    for (address, span) in local.addresses.iter().zip(local_spans) {
        if let Some(vip) = vips.get(address) {
            let message = format!("{address} is a VIP and cannot be a local address too");
            sink.push(Error::new(span.clone(), message, "").other(vip.clone(), "the VIP"));
        }
        if let Some(first) = locals.insert(*address, span) {
            let message = format!("local address {address} is listed twice");
            let error = Error::new(span.clone(), message, "again");
            sink.push(error.other(first.clone(), "first here"));
        }
    }
    for placed in services {
        for (real, span) in placed.service.reals.iter().zip(&placed.reals) {
            let clash = vips.get(&real.address).map(|v| (v, "VIP"));
            let clash = clash.or_else(|| locals.get(&real.address).map(|l| (*l, "local address")));
            if let Some((other, role)) = clash {
                let message =
                    format!("{} is a {role} and cannot be a real server too", real.address);
                let error = Error::new(span.clone(), message, "").other(other.clone(), role);
                sink.push(error.help("write the real server's own address"));
            }
        }
    }
}

fn local_pool(services: &[Placed], local: &LocalPool, sink: &mut Sink) {
    for placed in services.iter().filter(|p| p.service.forwarding == Forwarding::Fullnat) {
        for v4 in [true, false] {
            let wanted = placed.service.reals.iter().any(|r| r.address.is_ipv4() == v4);
            if wanted && !local.addresses.iter().any(|a| a.is_ipv4() == v4) {
                let family = if v4 { "IPv4" } else { "IPv6" };
                let example = if v4 { "10.0.1.5" } else { "2001:db8:1::5" };
                let message = format!("`fullnat` needs an {family} address to send from");
                let error = Error::new(placed.span.clone(), message, "");
                sink.push(error.help(format!("add [fullnat] with addresses = [\"{example}\"]")));
            }
        }
    }
}

fn limits(
    services: &[Placed],
    local: &LocalPool,
    vips: &BTreeMap<IpAddr, Range<usize>>,
    sink: &mut Sink,
) {
    if let Some(extra) = services.get(SERVICES_MAX) {
        let message = format!("more than {SERVICES_MAX} services");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    if let Some(extra) = services.iter().flat_map(|p| &p.reals).nth(REALS_MAX) {
        let message = format!("more than {REALS_MAX} real servers over all services");
        sink.push(Error::new(extra.clone(), message, "one too many"));
    }
    if let Some(extra) = services.iter().flat_map(|p| &p.listen).nth(LISTENS_MAX) {
        let message = format!("more than {LISTENS_MAX} `listen` entries over all services");
        sink.push(Error::new(extra.clone(), message, "one too many").help("use port ranges"));
    }
    if vips.len() + local.addresses.len() > ADDRESSES_MAX
        && let Some(extra) = vips.values().max_by_key(|s| s.start)
    {
        let message = format!("more than {ADDRESSES_MAX} VIPs and local addresses");
        sink.push(Error::new(extra.clone(), message, "one too many"));
    }
}
