//! The kernel's main routing table, whole.
//!
//! Management thread. Rules (`ip rule`) are not followed, nor are routes for one type of service or
//! one source only: such routes are left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::Monitor;
use super::message::ip;
use crate::limits;

/// `RT_TABLE_MAIN` of `include/uapi/linux/rtnetlink.h`.
const MAIN: u32 = 254;

/// A route as it stands in the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// First address of its destinations.
    pub destination: IpAddr,
    /// Leading bits that those share.
    pub length: u8,
    /// Of two routes to the same destinations the one with the lower metric counts.
    pub metric: u32,
    /// MTU set on the route, in bytes, if any.
    pub mtu: Option<u32>,
    /// Where packets go; none if the route refuses or swallows them.
    pub hops: Vec<EntryHop>,
}

/// One of a route's next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryHop {
    /// Kernel index of the link.
    pub ifindex: u32,
    /// Router; none if the destinations are on the link.
    pub gateway: Option<IpAddr>,
    /// Share of the traffic, relative to the other hops; at least 1.
    pub weight: u16,
}

impl Monitor {
    /// All routes of the main table, by both families.
    ///
    /// # Errors
    /// If the kernel does not answer in time or refuses, or if there are more than
    /// [`limits::ROUTES`]; what was known before is still the best.
    pub fn routes(&mut self) -> anyhow::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        // As with other dumps: a table that changes meanwhile may come out with holes.
        for _ in 0..3 {
            entries.clear();
            let mut torn = false;
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                torn |= self.routes_of(family, &mut entries).context("netlink: dump of routes")?;
            }
            if entries.len() > limits::ROUTES {
                bail!("the main routing table has more than {} routes", limits::ROUTES);
            }
            if !torn {
                break;
            }
        }
        Ok(entries)
    }

    fn routes_of(&mut self, family: AddressFamily, entries: &mut Vec<Entry>) -> io::Result<bool> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        self.request(Message::GetRoute(question), NLM_F_DUMP, |message| {
            if let Message::NewRoute(route) = message
                && entries.len() <= limits::ROUTES
            {
                entries.extend(entry_of(&route));
            }
        })
    }
}

/// The route that a message tells of; none if it is of another table, for some packets only, or
/// cannot be used now.
fn entry_of(message: &RouteMessage) -> Option<Entry> {
    let header = &message.header;
    let mut entry = Entry {
        destination: match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        },
        length: header.destination_prefix_length,
        metric: 0,
        mtu: None,
        hops: Vec::new(),
    };
    let (mut table, mut through, mut link) = (u32::from(header.table), None, None);
    let mut plain = true;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => entry.destination = ip(address)?,
            RouteAttribute::Priority(metric) => entry.metric = *metric,
            RouteAttribute::Metrics(metrics) => entry.mtu = mtu(metrics),
            RouteAttribute::Oif(ifindex) => link = Some(*ifindex),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => through = gateway(attribute),
            RouteAttribute::MultiPath(hops) => entry.hops.extend(hops.iter().filter_map(hop)),
            // Encapsulated on the way out: not for us to do.
            RouteAttribute::Encap(_) => plain = false,
            _ => {}
        }
    }
    let whole = header.tos == 0 && header.source_prefix_length == 0;
    // What was learnt of single destinations comes along with the table (`RTM_F_CLONED`).
    if table != MAIN || !whole || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    match header.kind {
        RouteType::Unicast => {}
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            entry.hops.clear();
            return Some(entry);
        }
        _ => return None,
    }
    if let Some(ifindex) = link.filter(|_| entry.hops.is_empty()) {
        // The kernel passes over a dead route, too (`fib_table_lookup`, `net/ipv4/fib_trie.c`).
        if header.flags.contains(RouteFlags::Dead) {
            return None;
        }
        entry.hops.push(EntryHop { ifindex, gateway: through, weight: 1 });
    }
    if !plain {
        entry.hops.clear();
        return Some(entry);
    }
    (!entry.hops.is_empty()).then_some(entry)
}

fn hop(hop: &RouteNextHop) -> Option<EntryHop> {
    if hop.flags.contains(RouteNextHopFlags::Dead) {
        return None;
    }
    let encapsulated = hop.attributes.iter().any(|a| matches!(a, RouteAttribute::Encap(_)));
    let gateway = hop.attributes.iter().find_map(gateway);
    // `rtnh_hops` is the weight less one.
    let weight = u16::from(hop.hops) + 1;
    (!encapsulated).then_some(EntryHop { ifindex: hop.interface_index, gateway, weight })
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}
