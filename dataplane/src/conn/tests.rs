//! What users of the table rely on; `model` compares it with a `HashMap`, `adoption` kills processes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use super::index::Index;
use super::*;
use crate::address::{Address, DeviceId, Mac, RealId, ServiceId, VipId};
use crate::clock::Tick;

mod adoption;
mod model;
mod stress;

pub(super) fn conn(client: u32, port: u16) -> Conn {
    Conn {
        identity: Identity {
            client: Address::v4(client),
            client_port: port,
            vip: VipId(1),
            vip_port: 80,
            protocol: 6,
            service: ServiceId(2),
            real: RealId(3),
            real_port: 8080,
            local: None,
        },
        last_hop: LastHop { mac: Mac([2, 0, 0, 0, 0, 9]), device: DeviceId(4) },
        state: State::SynReceived,
        synack: false,
        seen: Tick(100),
        created: Tick(100),
    }
}

pub(super) fn established(client: u32, port: u16) -> Conn {
    Conn { state: State::Established, synack: true, ..conn(client, port) }
}

pub(super) fn open_with(
    table: &Table,
    conn: &Conn,
    ended: &mut dyn FnMut(Ended, Conn),
) -> Option<Outcome> {
    let ended = &mut |why, found: Found| ended(why, found.conn);
    let hash = table.hash_of(&conn.identity);
    let reservation = table.reserve(hash, ended)?;
    let same_reply = |other: &Identity| {
        (other.real, other.real_port) == (conn.identity.real, conn.identity.real_port)
    };
    Some(table.insert(reservation, hash, conn, same_reply, ended))
}

pub(super) fn open(table: &Table, conn: &Conn) -> Outcome {
    let mut ended = |why, conn| panic!("{why:?}: {conn:?}");
    open_with(table, conn, &mut ended).expect("room")
}

pub(super) fn opened(table: &Table, conn: &Conn) -> Handle {
    match open(table, conn) {
        Outcome::Inserted(handle) => handle,
        other => panic!("not inserted: {other:?}"),
    }
}

pub(super) fn find(table: &Table, conn: &Conn) -> Option<Found> {
    let hash = table.hash_of(&conn.identity);
    table.finder().prefetch(hash);
    let probe = table.finder().prefetch_entry(hash);
    table.find(hash, probe, |other| *other == conn.identity)
}

/// All live connections; and that the counts, the index and the free list agree with them.
pub(super) fn settled(table: &Table) -> Vec<Conn> {
    let (mut conns, mut keys) = (Vec::new(), HashSet::new());
    table.each(|handle, conn| {
        let found = find(table, conn).expect("every live entry is in the index");
        assert_eq!((found.handle, &found.conn), (handle, conn));
        let Identity { client, client_port, vip, vip_port, protocol, service, .. } = conn.identity;
        let template = (conn.state == State::Template).then_some(service);
        assert!(keys.insert((client, client_port, vip, vip_port, protocol, template)));
        conns.push(*conn);
    });
    assert_eq!(table.used() as usize, conns.len());
    let count = |class: fn(State) -> bool| conns.iter().filter(|c| class(c.state)).count() as u32;
    assert_eq!(table.half_open(), count(State::is_half_open));
    assert_eq!(table.templates(), count(|state| state == State::Template));
    let mut taken = Vec::new();
    while let Some(index) = table.free.pop() {
        taken.push(index);
    }
    assert_eq!(taken.len() + conns.len(), table.capacity() as usize, "an entry leaked");
    taken.into_iter().rev().for_each(|index| table.free.push(index));
    conns
}

#[test]
fn a_connection_is_found_from_both_sides_with_all_it_was_given() {
    let table = Table::new_private(64, 16);
    let mut v6 = established(0, 5000);
    v6.identity.client = Address::v6([0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    v6.identity.local = Some((63, 65_535));
    v6.identity.real_port = 65_535;
    v6.created = Tick(7);
    for conn in [v6, conn(1, 5000)] {
        let handle = opened(&table, &conn);
        let id = conn.identity;
        let request = table.hash(id.client, id.client_port, id.protocol);
        let by_request = table.find_now(request, |c| (c.vip, c.vip_port) == (id.vip, id.vip_port));
        let by_reply =
            table.find_now(request, |c| (c.real, c.real_port) == (id.real, id.real_port));
        assert_eq!(by_request, Some(Found { handle, conn }));
        assert_eq!(by_reply, by_request);
        assert_eq!(table.get(handle.index(), |c| c.local == id.local), by_request);
    }
    assert!(find(&table, &conn(1, 5001)).is_none());
    assert_eq!(settled(&table).len(), 2);
}

#[test]
fn a_full_table_finds_everything_mostly_in_the_first_bucket_and_takes_84_bytes_each() {
    let table = Table::new_private(1 << 16, 0);
    let conns: Vec<_> = (0..table.capacity()).map(|i| established(i, 1000)).collect();
    for conn in &conns {
        opened(&table, conn);
    }
    let first = |c: &&Conn| table.finder().prefetch_entry(table.hash_of(&c.identity)).entry != 0;
    let direct = conns.iter().filter(first).count();
    assert!(direct * 100 > conns.len() * 90, "{direct} in the first bucket");
    assert!(conns.iter().all(|conn| find(&table, conn).is_some()));
    assert!(table.bytes() <= 84 * conns.len(), "{}", table.bytes());
    let hash = table.hash_of(&conn(1, 1).identity);
    assert!(table.reserve(hash, &mut |_, _| panic!("an established one went")).is_none());
}

#[test]
fn the_second_to_open_a_connection_gets_the_first_ones_real() {
    let table = Table::new_private(64, 16);
    let first = opened(&table, &conn(1, 1));
    let mut other = conn(1, 1);
    other.identity.real = RealId(9);
    let Outcome::Exists(found) = open(&table, &other) else { panic!("two of one key") };
    assert_eq!((found.handle, found.conn.identity.real), (first, RealId(3)));
    assert_eq!(settled(&table).len(), 1);
}

#[test]
fn templates_of_two_services_and_a_connection_may_share_client_and_vip() {
    let table = Table::new_private(64, 16);
    let mut template = conn(1, 0);
    template.identity.vip_port = 0;
    template.state = State::Template;
    let mut other = template;
    other.identity.service = ServiceId(8);
    let mut plain = template;
    (plain.identity.vip_port, plain.state) = (80, State::Established);
    for conn in [&template, &other, &plain] {
        opened(&table, conn);
    }
    assert!(matches!(open(&table, &other), Outcome::Exists(_)));
    assert_eq!((settled(&table).len(), table.templates()), (3, 2));
}

#[test]
fn replies_that_could_not_be_told_apart_are_refused_unless_the_other_is_closing() {
    let table = Table::new_private(64, 16);
    let old = opened(&table, &established(1, 1));
    let mut twin = established(1, 1);
    twin.identity.vip_port = 81;
    assert!(matches!(open(&table, &twin), Outcome::ReplyConflict));
    let found = table.get(old.index(), |_| true).unwrap();
    assert!(table.touch(&found, State::TimeWait, true, Tick(101)));
    let mut ended = Vec::new();
    let outcome = open_with(&table, &twin, &mut |why, conn| ended.push((why, conn)));
    assert!(matches!(outcome, Some(Outcome::Inserted(_))));
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].0, ended[0].1.state), (Ended::Replaced, State::TimeWait));
    assert_eq!(settled(&table), [twin]);
}

#[test]
fn a_syn_flood_fills_its_share_and_no_established_connection_is_lost() {
    let table = Table::new_private(4096, 1024);
    let old: Vec<_> = (0..2000).map(|i| established(i, 1)).collect();
    old.iter().for_each(|conn| _ = opened(&table, conn));
    let (mut evicted, mut refused, mut inserted) = (0, 0, 0);
    for i in 0..40_000 {
        let flood = Conn { seen: Tick(100 + i / 100), ..conn(0x0a00_0000 + i, 1) };
        let outcome = open_with(&table, &flood, &mut |why, conn| {
            assert_eq!((why, conn.state), (Ended::Evicted, State::SynReceived));
            evicted += 1;
        });
        match outcome.unwrap() {
            Outcome::Inserted(_) => inserted += 1,
            Outcome::HalfOpenLimit => refused += 1,
            other => panic!("{other:?}"),
        }
        assert!(table.half_open() <= 1024);
    }
    assert_eq!(inserted - evicted, 1024);
    assert!(refused < 400, "{refused} legitimate clients would have been refused");
    assert!(old.iter().all(|conn| find(&table, conn).is_some_and(|found| found.conn == *conn)));
    // In the flood, one who finishes the handshake is safe.
    let one = conn(0x0b00_0000, 1);
    let _ = open_with(&table, &one, &mut |_, _| {}).unwrap();
    let found = find(&table, &one).expect("the newest is not evicted");
    assert!(table.touch(&found, State::Established, true, Tick(900)));
    assert_eq!(table.half_open(), 1023);
    assert_eq!(settled(&table).len(), 2000 + 1024);
}

#[test]
fn a_full_table_evicts_half_open_connections_only_and_the_oldest_at_hand() {
    let table = Table::new_private(32, 32);
    for i in 0..16 {
        opened(&table, &established(i, 1));
        opened(&table, &Conn { seen: Tick(200 + i), ..conn(i, 2) });
    }
    let mut evicted = Vec::new();
    let new = established(77, 1);
    let outcome = open_with(&table, &new, &mut |_, conn| evicted.push(conn)).unwrap();
    assert!(matches!(outcome, Outcome::Inserted(_)));
    assert_eq!(evicted.len(), 1);
    assert!(evicted[0].state.is_half_open());
    for i in 100..115 {
        let new = established(i, 1);
        let _ = open_with(&table, &new, &mut |_, conn| evicted.push(conn)).unwrap();
    }
    assert!(evicted.iter().all(|conn| conn.state.is_half_open()));
    let hash = table.hash_of(&new.identity);
    assert!(table.reserve(hash, &mut |_, _| panic!("an established one went")).is_none());
    assert_eq!(settled(&table).len(), 32);
}

#[test]
fn a_million_connections_expire_in_bounded_steps() {
    let table = Table::new_private(1 << 20, 0);
    for i in 0..1 << 20 {
        opened(&table, &established(i, 1));
    }
    let (mut cursor, mut gone) = (0, 0);
    for _ in 0..1 << 10 {
        let before = gone;
        table.sweep(&mut cursor, 1024, Tick(5000), |_| 4000, |_| gone += 1);
        assert!(gone - before <= 1024);
    }
    assert_eq!((gone, table.used()), (1 << 20, 0));
}

#[test]
fn a_connection_from_the_peer_is_known_as_such_as_long_as_it_lives() {
    let table = Table::new_private(64, 16);
    let own = opened(&table, &established(1, 1));
    let origin = Origin::imported(7, 3);
    let conn = established(2, 1);
    let hash = table.hash_of(&conn.identity);
    let reservation = table.reserve(hash, &mut |_, _| {}).unwrap();
    let outcome = table.insert_from(reservation, hash, (&conn, origin), |_| false, &mut |_, _| {});
    let Outcome::Inserted(handle) = outcome else { panic!("{outcome:?}") };
    let at = |handle: Handle| table.at(handle.index()).map(|(_, origin)| origin);
    assert_eq!((at(own), at(handle)), (Some(Origin::OWN), Some(origin)));
    let next = Origin::imported(8, 4);
    assert!(table.set_origin(&handle, origin, next) && at(handle) == Some(next));
    assert!(!table.set_origin(&handle, origin, next), "it is not so any more");
    assert!(!table.set_origin(&own, Origin::OWN, next), "what is ours stays ours");
    assert_eq!(table.imported(), 1);
    table.remove(&handle).unwrap();
    assert_eq!((table.imported(), table.at(handle.index())), (0, None));
    let again = opened(&table, &established(3, 1));
    assert_eq!((again.index(), at(again)), (handle.index(), Some(Origin::OWN)));
}

#[test]
fn a_packet_saves_a_connection_from_expiry() {
    let table = Table::new_private(64, 16);
    let (busy, idle) = (established(1, 1), established(2, 1));
    opened(&table, &idle);
    opened(&table, &busy);
    let found = find(&table, &busy).unwrap();
    assert!(table.touch(&found, State::Established, true, Tick(150)));
    let (mut cursor, mut ended) = (0, Vec::new());
    table.sweep(
        &mut cursor,
        64,
        Tick(160),
        |conn| conn.idle(conn.seen) + 20,
        |c| ended.push(c.conn),
    );
    assert_eq!(ended, [idle]);
    assert!(find(&table, &busy).is_some() && find(&table, &idle).is_none());
}

#[test]
fn a_stale_handle_does_nothing() {
    let table = Table::new_private(1, 1);
    let old = opened(&table, &conn(1, 1));
    let found = table.get(old.index(), |_| true).unwrap();
    assert_eq!(table.remove(&old), Some(conn(1, 1)));
    assert_eq!(table.remove(&old), None);
    opened(&table, &conn(2, 2));
    assert_eq!(table.remove(&old), None);
    table.set_last_hop(&old, LastHop::default());
    assert!(!table.touch(&found, State::Established, true, Tick(200)));
    assert_eq!(settled(&table), [conn(2, 2)]);
}

#[test]
fn a_touch_merges_with_others_that_changed_only_the_time_and_loses_to_a_new_state() {
    let table = Table::new_private(1, 1);
    opened(&table, &conn(1, 1));
    let (a, b) = (find(&table, &conn(1, 1)).unwrap(), find(&table, &conn(1, 1)).unwrap());
    assert!(table.touch(&a, State::SynReceived, false, Tick(300)));
    assert!(table.touch(&b, State::SynReceived, true, Tick(200)), "only the time had changed");
    let now = find(&table, &conn(1, 1)).unwrap().conn;
    assert_eq!((now.seen, now.synack), (Tick(300), true), "time does not run backwards");
    assert!(!table.touch(&a, State::Established, true, Tick(300)), "a was read before the SYN-ACK");
    assert_eq!(table.half_open(), 1);
}

#[test]
fn the_last_hop_changes_alone() {
    let table = Table::new_private(1, 1);
    let handle = opened(&table, &conn(1, 1));
    let hop = LastHop { mac: Mac([6, 5, 4, 3, 2, 1]), device: DeviceId(15) };
    table.set_last_hop(&handle, hop);
    assert_eq!(settled(&table), [Conn { last_hop: hop, ..conn(1, 1) }]);
}

#[test]
fn a_reservation_that_is_dropped_or_refused_goes_back() {
    let table = Table::new_private(2, 2);
    let hash = table.hash_of(&conn(1, 1).identity);
    drop(table.reserve(hash, &mut |_, _| {}));
    opened(&table, &conn(1, 1));
    for _ in 0..10 {
        assert!(matches!(open(&table, &conn(1, 1)), Outcome::Exists(_)));
    }
    opened(&table, &conn(2, 1));
    assert_eq!(settled(&table).len(), 2);
}

#[test]
fn pages_show_every_connection_once_and_stop_at_their_bound() {
    let table = Table::new_private(200_000, 0);
    for i in 0..1000 {
        opened(&table, &established(i, 1));
    }
    let (mut out, mut cursor, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(at) = cursor {
        let before = out.len();
        cursor = table.page(at, 64, |conn| conn.identity.client.v4_bits() % 2 == 0, &mut out);
        assert!(out.len() - before <= 64);
        pages += 1;
    }
    assert_eq!(out.len(), 500);
    assert_eq!(out.iter().map(|c| c.identity.client).collect::<HashSet<_>>().len(), 500);
    assert_eq!(pages, 7 + 4, "7 full ones, and 200,000 entries in steps of 65,536");
    assert_eq!(table.page(u64::MAX, 64, |_| true, &mut out), None);
}

#[test]
fn tuples_that_collide_under_a_known_seed_do_not_collide_under_a_secret_one() {
    let known = Index::new(4096, [1, 2]).unwrap();
    let (mut crafted, mut port) = (Vec::new(), 0_u32);
    while crafted.len() < 1000 {
        let (client, low) = (Address::v4(0x0a00_0000 | port >> 16), port as u16);
        if known.buckets().first(known.buckets().hash(client, low, 6)) == 17 {
            crafted.push((client, low));
        }
        port += 1;
    }
    let table = Table::new_private(4096, 0);
    let mut buckets = HashMap::new();
    for (client, port) in crafted {
        *buckets.entry(table.index.buckets().first(table.hash(client, port, 6))).or_insert(0) += 1;
        let mut conn = established(0, port);
        conn.identity.client = client;
        opened(&table, &conn);
    }
    let fullest = buckets.values().max();
    assert!(fullest < Some(&12), "about one each, not {fullest:?} in one");
}

#[test]
fn clients_in_a_row_spread_evenly_over_buckets_and_tags() {
    const CELLS: usize = 1024;
    let table = Table::new_private(4096, 0);
    type Flow = fn(u32) -> (Address, u16);
    let flows: [Flow; 4] = [
        |i| (Address::v4(0xc0a8_0001), i as u16),
        |i| (Address::v4(0xc0a8_0000 + i), 40_000),
        |i| (Address::v4(0x0a00_0000 + (i << 8)), 40_000),
        |i| (Address::from_halves(0x2001_0db8 << 32 | u64::from(i), 1), 443),
    ];
    for (number, flow) in flows.into_iter().enumerate() {
        let mut cells = [[0_u32; CELLS]; 3];
        for i in 0..1 << 16 {
            let (client, port) = flow(i);
            let hash = table.hash(client, port, 6);
            let buckets = table.index.buckets();
            let (first, second) = (buckets.first(hash), buckets.second(hash));
            assert_ne!(first, second);
            cells[0][first as usize] += 1;
            cells[1][second as usize] += 1;
            cells[2][usize::from(hash.tag()) % CELLS] += 1;
        }
        for (what, cells) in ["first", "second", "tag"].iter().zip(cells) {
            let expected = f64::from(1 << 16) / CELLS as f64;
            let chi: f64 =
                cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            // 1,023 degrees of freedom: mean 1,023, deviation 45.
            assert!((700.0..1400.0).contains(&chi), "flow {number}, {what}: {chi}");
        }
    }
}

#[test]
fn structured_clients_fill_the_buckets_as_random_ones_would() {
    const CAPACITY: u32 = 1 << 14;
    type Flow = fn(u32) -> (Address, u16);
    let flows: [Flow; 5] = [
        |i| (Address::v4(0x0a00_0000 + i / 50), (1024 + i % 50) as u16),
        |i| (Address::v4(0xc0a8_0001), i as u16),
        |i| (Address::v4(0x0a00_0000 + i), 40_000),
        |i| (Address::v4(0x0a00_0000 + (i << 8)), 80),
        |i| (Address::from_halves((0x2001_0db8 << 32) + u64::from(i / 7), 1), (i % 7) as u16),
    ];
    for (number, flow) in flows.into_iter().enumerate() {
        let (mut second, mut full, mut refused) = (0, 0, 0);
        let mut seed = stress::Random(number as u64);
        for _ in 0..40 {
            let index = Index::new(CAPACITY, [seed.next(), seed.next()]).unwrap();
            for i in 0..CAPACITY {
                let (client, port) = flow(i);
                let hash = index.buckets().hash(client, port, 17);
                match index.place(hash, i) {
                    Some(at) => {
                        second += u32::from(at / 8 == index.buckets().second(hash) as usize)
                    }
                    None => refused += 1,
                }
            }
            let used =
                |b: u32| index.buckets().line(b).0.iter().all(|slot| slot.load(Relaxed) != 0);
            full += (0..CAPACITY / 4).filter(|&b| used(b)).count();
        }
        let second = f64::from(second) * 100.0 / f64::from(40 * CAPACITY);
        // With random numbers in place of hashes: 4.63 %, 0.0212 % of all buckets, and none.
        let report = format!("flow {number}: {second} % second, {full} full, {refused} refused");
        assert!((4.4..4.9).contains(&second) && (10..70).contains(&full), "{report}");
        assert_eq!(refused, 0, "{report}");
    }
}
