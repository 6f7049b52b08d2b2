//! `[[ha.ping]]`: what a node with a working network reaches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use super::super::error::{Error, Sink};
use super::super::read::Section;
use super::super::{checked_name, keys};
use super::{Around, addresses, ms};
use crate::failover::settings::{Link, Path, Ping, Replication};

/// Most ping targets.
const PINGS_MAX: usize = 16;
/// Most addresses of one ping target.
const PING_ADDRESSES_MAX: usize = 16;

/// Reads all of them.
pub(super) fn read(s: &Section<'_>, around: &Around<'_>, sink: &mut Sink) -> Vec<Ping> {
    let sections = s.sections("ping", "[[ha.ping]]", keys::HA_PING, sink);
    if let Some(extra) = sections.get(PINGS_MAX) {
        let message = format!("more than {PINGS_MAX} ping targets");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    let mut seen: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut pings = Vec::new();
    for p in &sections {
        p.require("addresses", "addresses = [\"192.0.2.1\"]", sink);
        let addresses = addresses(p, "addresses", sink);
        if let Some((_, span)) = addresses.get(PING_ADDRESSES_MAX) {
            let message = format!("more than {PING_ADDRESSES_MAX} addresses");
            sink.push(Error::new(span.clone(), message, "one too many"));
        }
        let Some((first, _)) = addresses.first() else { continue };
        let name = checked_name(p, "name", sink);
        let name = name.map_or_else(|| first.to_string(), |n| n.value.to_owned());
        if let Some(other) = seen.insert(name.clone(), p.span.clone()) {
            let message = format!("two ping targets are called `{name}`");
            sink.push(Error::new(p.place("name"), message, "again").other(other, "first here"));
        }
        let interval = p.duration("interval", ms(100)..=ms(60_000), sink).unwrap_or(ms(500));
        let timeout = p.duration("timeout", ms(10)..=ms(60_000), sink);
        let timeout = timeout.unwrap_or_else(|| ms(300).min(interval));
        let fall = p.integer("fall", 1..=255, sink).and_then(|n| u8::try_from(n).ok());
        let fall = fall.unwrap_or(3);
        let answers_vips = p.flag("answers_vips", sink).unwrap_or(true);
        let addresses: Vec<IpAddr> = addresses.into_iter().map(|(a, _)| a).collect();
        // A real server may own the VIP (`direct`, `tunnel`): nobody answers pings from their own address.
        let asks = |a: &&IpAddr| answers_vips && !around.is_real(**a);
        let asked = addresses.iter().filter(asks).copied().collect();
        pings.push(Ping { name, addresses, asked, interval, timeout, fall });
    }
    pings
}

/// The other node is not asked: while it serves its sorry page, the VIP is its own.
pub(super) fn leave_out_peer(
    pings: &mut [Ping],
    paths: &[Path],
    replication: Option<&Replication>,
) {
    let mut theirs: Vec<IpAddr> = replication.map(|r| r.remote.ip()).into_iter().collect();
    theirs.extend(paths.iter().filter_map(|path| match path.link {
        Link::Unicast { remote, .. } => Some(remote.ip()),
        Link::Multicast { .. } | Link::Serial { .. } => None,
    }));
    for ping in pings {
        ping.asked.retain(|address| !theirs.contains(address));
    }
}
