//! The way of replies to clients where the routing table decides (`[reply] path = "route"`).
//!
//! The steward makes a [`RouteTable`] of the kernel's routes and neighbours and replaces it whole;
//! workers look addresses up. A look-up is a binary search among the table's address ranges, one
//! among the neighbours for a client on the link, and nothing that depends on traffic.

use std::collections::BTreeMap;

use crossbeam::queue::ArrayQueue;

use crate::address::{Address, DeviceId, Mac};
use crate::limits;

/// Destinations of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// Any address in it.
    pub address: Address,
    /// Leading bits that all its addresses share: up to 32, or 128 for IPv6.
    pub length: u8,
}

/// One way to a route's destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Interface to send on.
    pub device: DeviceId,
    /// Who takes the packets there.
    pub router: Router,
    /// Largest IP packet that the route allows, in bytes; [`u16::MAX`] if it does not say.
    pub mtu: u16,
    /// Share of the route's clients, relative to its other ways; at least 1.
    pub weight: u16,
}

/// Who takes packets on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Router {
    /// Nobody: the destinations are on the link themselves.
    OnLink,
    /// A router with this MAC address.
    Known(Mac),
    /// A router whose MAC address is not known (yet).
    Unknown(Address),
}

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// To this station.
    To {
        /// Interface to send on.
        device: DeviceId,
        /// The station's MAC address.
        mac: Mac,
        /// It is the client itself, and not a router.
        on_link: bool,
        /// As in [`Way::mtu`].
        mtu: u16,
    },
    /// To a neighbour that has to be resolved first.
    Unresolved {
        /// Interface to send on.
        device: DeviceId,
        /// The neighbour.
        neighbor: Address,
        /// As in [`Way::mtu`].
        mtu: u16,
    },
    /// Nowhere: no route, or none that leaves by an interface of ours.
    NoRoute,
}

/// Ways in [`RouteTable::ways`]: the first, and how many.
type Ways = (u32, u32);

/// Routes and neighbours. Immutable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// First address of each range, ascending; a range ends where the next one begins.
    starts: Box<[u128]>,
    /// The ways of each range.
    ranges: Box<[Ways]>,
    ways: Box<[Way]>,
    /// Neighbours' addresses, ascending, and their MAC addresses.
    neighbors: Box<[((u128, DeviceId), Mac)]>,
}

impl RouteTable {
    /// Compiles routes (no ways: packets go nowhere) and the neighbours that can be sent to. Of two
    /// routes with one prefix the later one counts.
    #[must_use]
    pub fn new(
        routes: &[(Prefix, Vec<Way>)],
        neighbors: impl IntoIterator<Item = (DeviceId, Address, Mac)>,
    ) -> Self {
        let mut ways = Vec::new();
        let mut known: BTreeMap<&[Way], Ways> = BTreeMap::new();
        // IPv4 lies inside of IPv6's address space and is no part of its default route.
        let (nowhere, v4) = ((0, 0), Address::v4(0).bits());
        let mut prefixes = BTreeMap::from([((0, 0), nowhere), ((v4, 96), nowhere)]);
        for (prefix, its) in routes {
            let kept = known.entry(its).or_insert_with(|| {
                let first = ways.len() as u32;
                ways.extend_from_slice(its);
                (first, its.len() as u32)
            });
            prefixes.insert(prefix.key(), *kept);
        }
        let ranges = flatten(&prefixes);
        let mut neighbors: Vec<_> = neighbors
            .into_iter()
            .map(|(device, address, mac)| ((address.bits(), device), mac))
            .collect();
        neighbors.sort_unstable_by_key(|(key, _)| *key);
        Self {
            starts: ranges.iter().map(|(start, _)| *start).collect(),
            ranges: ranges.iter().map(|(_, ways)| *ways).collect(),
            ways: ways.into(),
            neighbors: neighbors.into(),
        }
    }

    /// Where a packet to `client` goes. Of several ways a client always has the same one.
    #[must_use]
    pub fn lookup(&self, client: Address) -> Exit {
        let Some(way) = self.way(client) else { return Exit::NoRoute };
        let Way { device, mtu, .. } = *way;
        match way.router {
            Router::Known(mac) => Exit::To { device, mac, on_link: false, mtu },
            Router::Unknown(neighbor) => Exit::Unresolved { device, neighbor, mtu },
            Router::OnLink => match self.neighbor(client, device) {
                Some(mac) => Exit::To { device, mac, on_link: true, mtu },
                None => Exit::Unresolved { device, neighbor: client, mtu },
            },
        }
    }

    fn way(&self, client: Address) -> Option<&Way> {
        let after = self.starts.partition_point(|start| *start <= client.bits());
        let (first, count) = *self.ranges.get(after.checked_sub(1)?)?;
        let ways = self.ways.get(first as usize..(first + count) as usize)?;
        if let [only] = ways {
            return Some(only);
        }
        let total: u64 = ways.iter().map(|way| u64::from(way.weight)).sum();
        let mut share = (u64::from(spread(client)) * total) >> 32;
        ways.iter().find(|way| {
            let found = share < u64::from(way.weight);
            share = share.saturating_sub(way.weight.into());
            found
        })
    }

    fn neighbor(&self, address: Address, device: DeviceId) -> Option<Mac> {
        let key = (address.bits(), device);
        let index = self.neighbors.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.neighbors.get(index).map(|(_, mac)| *mac)
    }
}

impl Prefix {
    /// First address, and leading bits of 128.
    fn key(&self) -> (u128, u8) {
        let length = self.length;
        let bits = if self.address.is_v4() { 96 + length.min(32) } else { length.min(128) };
        (self.address.masked(length.min(32), length.min(128)).bits(), bits)
    }
}

/// Prefixes, of which the longest counts, as ranges side by side: first address and ways.
fn flatten(prefixes: &BTreeMap<(u128, u8), Ways>) -> Vec<(u128, Ways)> {
    let mut ranges: Vec<(u128, Ways)> = Vec::new();
    // Those that the present address lies in, by last address; the innermost at the end.
    let mut around: Vec<(u128, Ways)> = Vec::new();
    for ((start, length), ways) in prefixes {
        leave(&mut around, &mut ranges, *start);
        begin(&mut ranges, *start, *ways);
        let last = *start | u128::MAX.checked_shr((*length).into()).unwrap_or(0);
        around.push((last, *ways));
    }
    leave(&mut around, &mut ranges, u128::MAX);
    ranges
}

/// Ends the prefixes that end before `next`; what is around them goes on.
fn leave(around: &mut Vec<(u128, Ways)>, ranges: &mut Vec<(u128, Ways)>, next: u128) {
    while let Some((last, _)) = around.pop_if(|(last, _)| *last < next) {
        if let Some((_, outer)) = around.last() {
            begin(ranges, last + 1, *outer);
        }
    }
}

fn begin(ranges: &mut Vec<(u128, Ways)>, start: u128, ways: Ways) {
    match ranges.last_mut() {
        Some((last, same)) if *last == start => *same = ways,
        Some((_, same)) if *same == ways => {}
        _ => ranges.push((start, ways)),
    }
}

/// A number that spreads clients evenly: the golden ratio's multiples (Knuth, TAOCP 3, 6.4).
fn spread(client: Address) -> u32 {
    let (high, low) = client.halves();
    let mixed = (high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Neighbours that workers want resolved: bounded, without locks. What does not fit is forgotten;
/// the next packet asks again.
#[derive(Debug)]
pub struct Asks(ArrayQueue<(DeviceId, Address)>);

impl Default for Asks {
    fn default() -> Self {
        Self(ArrayQueue::new(limits::NEIGHBOR_ASKS))
    }
}

impl Asks {
    /// Asks for a neighbour.
    pub fn push(&self, device: DeviceId, neighbor: Address) {
        // Checked first, since a full queue is read by all workers and written by none.
        if !self.0.is_full() {
            let _ = self.0.push((device, neighbor));
        }
    }

    /// Takes the oldest question.
    #[must_use]
    pub fn pop(&self) -> Option<(DeviceId, Address)> {
        self.0.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn ip(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: ip(address), length: length.parse().unwrap() }
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    /// By a router that is told by its number.
    fn by(router: u8) -> Way {
        Way { device: DeviceId(0), router: Router::Known(mac(router)), mtu: u16::MAX, weight: 1 }
    }

    fn table(routes: &[(&str, Vec<Way>)]) -> RouteTable {
        let routes: Vec<_> = routes.iter().map(|(p, ways)| (prefix(p), ways.clone())).collect();
        RouteTable::new(&routes, [])
    }

    fn router(table: &RouteTable, client: &str) -> Option<u8> {
        match table.lookup(ip(client)) {
            Exit::To { mac, .. } => Some(mac.0[5]),
            Exit::NoRoute => None,
            Exit::Unresolved { .. } => panic!("no route here is unresolved"),
        }
    }

    #[test]
    fn the_longest_prefix_counts() {
        let table = table(&[
            ("0.0.0.0/0", vec![by(1)]),
            ("10.0.0.0/8", vec![by(2)]),
            ("10.255.255.0/24", vec![by(3)]),
            ("10.255.255.255/32", vec![by(4)]),
            ("10.1.0.0/16", vec![]),
            ("2001:db8::/32", vec![by(6)]),
        ]);
        let expected = [
            ("9.255.255.255", Some(1)),
            ("10.0.0.0", Some(2)),
            ("10.0.255.255", Some(2)),
            ("10.1.0.0", None),
            ("10.1.255.255", None),
            ("10.2.0.0", Some(2)),
            ("10.255.254.255", Some(2)),
            ("10.255.255.254", Some(3)),
            ("10.255.255.255", Some(4)),
            ("11.0.0.0", Some(1)),
            ("255.255.255.255", Some(1)),
            ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", None),
            ("2001:db8::", Some(6)),
            ("2001:db9::", None),
        ];
        for (client, wanted) in expected {
            assert_eq!(router(&table, client), wanted, "{client}");
        }
    }

    #[test]
    fn a_default_route_of_one_family_is_not_one_of_the_other() {
        let v6 = table(&[("::/0", vec![by(6)])]);
        assert_eq!((router(&v6, "192.0.2.7"), router(&v6, "2001:db8::7")), (None, Some(6)));
        assert_eq!(router(&v6, "ffff::"), Some(6));
        let v4 = table(&[("0.0.0.0/0", vec![by(4)])]);
        assert_eq!((router(&v4, "192.0.2.7"), router(&v4, "2001:db8::7")), (Some(4), None));
        assert_eq!(RouteTable::default().lookup(ip("192.0.2.7")), Exit::NoRoute);
    }

    #[test]
    fn a_client_on_the_link_is_its_own_next_hop_once_it_is_known_there() {
        let (near, far) = (DeviceId(0), DeviceId(1));
        let way = Way { router: Router::OnLink, mtu: 1400, device: far, weight: 1 };
        let (client, mtu) = (ip("192.0.2.7"), 1400);
        let routes = [(prefix("192.0.2.0/24"), vec![way])];
        let wrong = RouteTable::new(&routes, [(near, client, mac(7))]);
        let unresolved = Exit::Unresolved { device: far, neighbor: client, mtu };
        assert_eq!(wrong.lookup(client), unresolved);
        let known = RouteTable::new(&routes, [(far, client, mac(8)), (near, client, mac(7))]);
        let direct = Exit::To { device: far, mac: mac(8), on_link: true, mtu };
        assert_eq!(known.lookup(client), direct);
    }

    #[test]
    fn several_ways_share_the_clients_by_weight_and_each_client_keeps_its_own() {
        let heavy = Way { weight: 3, ..by(2) };
        let table = table(&[("10.0.0.0/8", vec![by(1), heavy]), ("::/0", vec![by(1), heavy])]);
        for clients in [
            (0..4000_u32).map(|n| Address::v4(0x0a00_0000 | n)).collect::<Vec<_>>(),
            (0..4000_u128).map(|n| Address::from_bits(0x2001_0db8 << 96 | n << 64 | 1)).collect(),
        ] {
            let exits: Vec<_> = clients.iter().map(|c| table.lookup(*c)).collect();
            let second =
                Exit::To { device: DeviceId(0), mac: mac(2), on_link: false, mtu: u16::MAX };
            let got = exits.iter().filter(|exit| **exit == second).count();
            assert!((2800..3200).contains(&got), "{got} of 4000 for weight 3 of 4");
            assert!(clients.iter().zip(&exits).all(|(c, exit)| table.lookup(*c) == *exit));
        }
    }

    #[test]
    fn questions_are_bounded_and_come_out_in_order() {
        let asks = Asks::default();
        for n in 0..2 * limits::NEIGHBOR_ASKS as u32 {
            asks.push(DeviceId(1), Address::v4(n));
        }
        for n in 0..limits::NEIGHBOR_ASKS as u32 {
            assert_eq!(asks.pop(), Some((DeviceId(1), Address::v4(n))));
        }
        assert_eq!(asks.pop(), None);
    }

    proptest! {
        /// Few bits, so that prefixes often contain, touch or repeat each other.
        #[test]
        fn any_table_agrees_with_a_search_of_all_its_prefixes(
            routes in prop::collection::vec((any::<bool>(), 0_u8..16, 0_u8..=4, 0_u8..9), 0..24),
        ) {
            let place = |v6: bool, bits: u8| if v6 {
                Address::from_bits(u128::from(bits) << 124)
            } else {
                Address::v4(u32::from(bits) << 28)
            };
            let routes: Vec<_> = routes.into_iter().map(|(v6, bits, length, n)| {
                let ways = if n == 0 { vec![] } else { vec![by(n)] };
                (Prefix { address: place(v6, bits).masked(length, length), length }, ways)
            }).collect();
            let table = RouteTable::new(&routes, []);
            for (v6, bits) in (0..16).flat_map(|bits| [(false, bits), (true, bits)]) {
                let first = place(v6, bits);
                let rest = if v6 { u128::MAX >> 4 } else { u128::from(u32::MAX >> 4) };
                for client in [first, Address::from_bits(first.bits() | rest)] {
                    // `::ffff:0:0/96` is IPv4 to us and no IPv6 address.
                    let best = routes.iter()
                        .filter(|(p, _)| p.address.is_v4() == client.is_v4()
                            && client.masked(p.length, p.length) == p.address)
                        .max_by_key(|(p, _)| p.length);
                    let wanted = best.and_then(|(_, ways)| ways.first()).map(|way| way.router);
                    let got = match table.lookup(client) {
                        Exit::To { mac, .. } => Some(Router::Known(mac)),
                        _ => None,
                    };
                    prop_assert_eq!(got, wanted, "{}", client);
                }
            }
        }
    }
}
