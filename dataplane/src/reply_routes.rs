//! The table that replies to clients follow, of the kernel's routes and neighbours. Pure.
//!
//! The management thread computes it whenever one of those changes, if `[reply] path = "route"`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::address::{Address, DeviceId, Mac};
use crate::kernel::routes::{Entry, EntryHop};
use crate::kernel::state::{KernelState, Reachability};
use crate::routes::{Prefix, RouteTable, Router, Way};

/// The table, and what is missing for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyRoutes {
    /// For the workers.
    pub table: RouteTable,
    /// Routers to keep resolved, by kernel index of the interface and address; whether they are.
    pub routers: BTreeMap<(u32, IpAddr), bool>,
    /// What is wrong, and what to do about it; for the status.
    pub problems: Vec<String>,
}

/// Compiles the table. `slots` are the interfaces we are attached to, by kernel index. A route by
/// another interface stays in as one that leads nowhere, lest its clients take a shorter one.
#[must_use]
pub fn compile(
    entries: &[Entry],
    kernel: &KernelState,
    slots: &BTreeMap<u32, DeviceId>,
) -> ReplyRoutes {
    let mut best: BTreeMap<Prefix, &Entry> = BTreeMap::new();
    for entry in entries {
        let address = Address::from(entry.destination);
        // Many links have these, so they do not tell which one a client is on.
        if address.is_v6_link_local() {
            continue;
        }
        let kept = best.entry(Prefix { address, length: entry.length }).or_insert(entry);
        if entry.metric < kept.metric {
            *kept = entry;
        }
    }
    let mut routers = BTreeMap::new();
    let mut routes = Vec::new();
    for (prefix, entry) in best {
        let ours = entry.hops.iter().filter(|hop| slots.contains_key(&hop.ifindex));
        let ours: Vec<_> = ours.copied().collect();
        for who in ours.iter().filter_map(|hop| Some((hop.ifindex, hop.gateway?))) {
            routers.insert(who, mac(kernel, who).is_some());
        }
        let mut hops: Vec<_> = ours.iter().filter(|hop| works(hop, kernel)).copied().collect();
        if hops.is_empty() {
            hops = ours;
        }
        let way = |hop: &EntryHop| way(hop, entry.mtu, kernel, slots);
        routes.push((prefix, hops.iter().filter_map(way).collect()));
    }
    let mut problems = problems(&routers, kernel);
    if routes.iter().all(|(_, ways): &(_, Vec<Way>)| ways.is_empty()) {
        problems.push(
            "reply.path is \"route\", but no route of the main table leaves by an interface that \
             xvip serves: replies to clients are dropped"
                .into(),
        );
    }
    ReplyRoutes { table: RouteTable::new(&routes, neighbors(kernel, slots)), routers, problems }
}

/// Whether packets get on that way now. A silent router is no better while it is asked again.
fn works(hop: &EntryHop, kernel: &KernelState) -> bool {
    let up = kernel.links.get(&hop.ifindex).is_some_and(|link| link.up && link.running);
    up && hop.gateway.is_none_or(|router| mac(kernel, (hop.ifindex, router)).is_some())
}

fn way(
    hop: &EntryHop,
    mtu: Option<u32>,
    kernel: &KernelState,
    slots: &BTreeMap<u32, DeviceId>,
) -> Option<Way> {
    let router = match hop.gateway {
        None => Router::OnLink,
        Some(gateway) => match mac(kernel, (hop.ifindex, gateway)) {
            Some(mac) => Router::Known(mac),
            None => Router::Unknown(gateway.into()),
        },
    };
    Some(Way {
        device: *slots.get(&hop.ifindex)?,
        router,
        mtu: mtu.map_or(u16::MAX, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
        weight: hop.weight.max(1),
    })
}

/// The MAC address of a neighbour that packets may be sent to.
fn mac(kernel: &KernelState, who: (u32, IpAddr)) -> Option<Mac> {
    let known = kernel.neighbors.get(&who)?;
    let usable = known.reachability == Reachability::Usable;
    known.mac.filter(|mac| usable && !mac.is_group())
}

fn neighbors(
    kernel: &KernelState,
    slots: &BTreeMap<u32, DeviceId>,
) -> impl Iterator<Item = (DeviceId, Address, Mac)> {
    kernel
        .neighbors
        .keys()
        .filter_map(|who| Some((*slots.get(&who.0)?, Address::from(who.1), mac(kernel, *who)?)))
}

fn problems(routers: &BTreeMap<(u32, IpAddr), bool>, kernel: &KernelState) -> Vec<String> {
    let silent = routers.iter().filter(|(_, known)| !**known);
    let name = |ifindex: &u32| kernel.links.get(ifindex).map_or("?", |link| link.name.as_str());
    silent
        .map(|((ifindex, router), _)| {
            format!(
                "router {router} does not answer (yet) on interface {}: replies to clients behind \
                 it take another way, or none",
                name(ifindex)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::kernel::state::{Link, Neighbor};
    use crate::routes::Exit;

    const OURS: [u32; 2] = [3, 4];
    const FOREIGN: u32 = 9;

    fn kernel() -> KernelState {
        let mut kernel = KernelState::default();
        for ifindex in [OURS[0], OURS[1], FOREIGN] {
            let name = format!("eth{ifindex}");
            let link = Link { name, ifindex, up: true, running: true, ..Link::default() };
            kernel.links.insert(ifindex, link);
        }
        kernel
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn via(ifindex: u32, gateway: &str) -> EntryHop {
        EntryHop { ifindex, gateway: Some(ip(gateway)), weight: 1 }
    }

    fn entry(prefix: &str, metric: u32, hops: &[EntryHop]) -> Entry {
        let (address, length) = prefix.split_once('/').unwrap();
        Entry {
            destination: ip(address),
            length: length.parse().unwrap(),
            metric,
            mtu: None,
            hops: hops.to_vec(),
        }
    }

    fn learn(kernel: &mut KernelState, ifindex: u32, who: &str, last: Option<u8>) {
        let reachability = if last.is_some() { Reachability::Usable } else { Reachability::Failed };
        let mac = last.map(|last| Mac([2, 0, 0, 0, 0, last]));
        kernel.neighbors.insert((ifindex, ip(who)), Neighbor { mac, reachability });
    }

    fn run(entries: &[Entry], kernel: &KernelState) -> ReplyRoutes {
        let slots = BTreeMap::from([(OURS[0], DeviceId(0)), (OURS[1], DeviceId(1))]);
        compile(entries, kernel, &slots)
    }

    /// Interface and last byte of the MAC address that packets go to.
    fn to(routes: &ReplyRoutes, client: &str) -> Option<(u8, u8)> {
        match routes.table.lookup(ip(client).into()) {
            Exit::To { device, mac, .. } => Some((device.0, mac.0[5])),
            Exit::Unresolved { .. } | Exit::NoRoute => None,
        }
    }

    #[test]
    fn the_route_with_the_lowest_metric_counts_and_its_router_is_kept_resolved() {
        let mut kernel = kernel();
        learn(&mut kernel, OURS[0], "10.0.0.1", Some(1));
        learn(&mut kernel, OURS[1], "fe80::2", Some(2));
        let entries = [
            entry("0.0.0.0/0", 200, &[via(OURS[0], "10.0.0.1")]),
            entry("0.0.0.0/0", 100, &[via(OURS[1], "fe80::2")]),
            entry("0.0.0.0/0", 300, &[via(OURS[0], "10.0.0.3")]),
        ];
        let routes = run(&entries, &kernel);
        assert_eq!(to(&routes, "192.0.2.7"), Some((1, 2)), "IPv4 by an IPv6 router");
        assert_eq!(routes.routers, BTreeMap::from([((OURS[1], ip("fe80::2")), true)]));
        assert_eq!(routes.problems, Vec::<String>::new());
    }

    #[test]
    fn what_a_foreign_or_refusing_route_covers_does_not_take_a_shorter_one() {
        let mut kernel = kernel();
        learn(&mut kernel, OURS[0], "10.0.0.1", Some(1));
        learn(&mut kernel, FOREIGN, "10.9.0.1", Some(9));
        let entries = [
            entry("0.0.0.0/0", 0, &[via(OURS[0], "10.0.0.1")]),
            entry("10.9.0.0/16", 0, &[EntryHop { gateway: None, ..via(FOREIGN, "::") }]),
            entry("10.8.0.0/16", 0, &[]),
        ];
        let routes = run(&entries, &kernel);
        assert_eq!(to(&routes, "10.7.0.1"), Some((0, 1)));
        for client in ["10.9.0.1", "10.8.0.1"] {
            assert_eq!(routes.table.lookup(ip(client).into()), Exit::NoRoute);
        }
        let none = run(&entries[1..], &kernel);
        assert!(none.problems[0].contains("no route of the main table"), "{:?}", none.problems);
    }

    #[test]
    fn a_silent_router_and_a_dead_link_are_left_out_while_there_are_others() {
        let mut kernel = kernel();
        learn(&mut kernel, OURS[0], "10.0.0.1", Some(1));
        learn(&mut kernel, OURS[1], "10.1.0.1", Some(2));
        let both = [via(OURS[0], "10.0.0.1"), via(OURS[1], "10.1.0.1")];
        let entries = [entry("::/0", 0, &both), entry("0.0.0.0/0", 0, &both)];
        let used = |kernel: &KernelState| -> BTreeSet<_> {
            let routes = run(&entries, kernel);
            (0..64).map(|n| to(&routes, &format!("192.0.2.{n}"))).collect()
        };
        assert_eq!(used(&kernel), BTreeSet::from([Some((0, 1)), Some((1, 2))]));
        kernel.links.get_mut(&OURS[1]).unwrap().running = false;
        assert_eq!(used(&kernel), BTreeSet::from([Some((0, 1))]));
        kernel.links.get_mut(&OURS[1]).unwrap().running = true;
        learn(&mut kernel, OURS[0], "10.0.0.1", None);
        assert_eq!(used(&kernel), BTreeSet::from([Some((1, 2))]));
        let routes = run(&entries, &kernel);
        assert!(
            routes.problems[0].contains("router 10.0.0.1 does not answer (yet) on interface eth3")
        );
        let asked = Neighbor { mac: None, reachability: Reachability::Incomplete };
        kernel.neighbors.insert((OURS[0], ip("10.0.0.1")), asked);
        assert_eq!(used(&kernel), BTreeSet::from([Some((1, 2))]), "asked again, no better");
        learn(&mut kernel, OURS[1], "10.1.0.1", None);
        assert_eq!(used(&kernel), BTreeSet::from([None]), "the last ones stay, unresolved");
    }

    #[test]
    fn clients_on_the_link_and_the_mtu_of_a_route_are_known() {
        let mut kernel = kernel();
        learn(&mut kernel, OURS[1], "2001:db8::7", Some(7));
        learn(&mut kernel, OURS[0], "2001:db8::7", Some(6));
        let on_link = EntryHop { gateway: None, ..via(OURS[1], "::") };
        let mut route = entry("2001:db8::/64", 256, &[on_link]);
        route.mtu = Some(1400);
        let entries = [route, entry("fe80::/64", 256, &[on_link])];
        let found = run(&entries, &kernel).table.lookup(ip("2001:db8::7").into());
        let (device, mac) = (DeviceId(1), Mac([2, 0, 0, 0, 0, 7]));
        assert_eq!(found, Exit::To { device, mac, on_link: true, mtu: 1400 });
    }
}
