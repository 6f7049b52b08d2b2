//! Behaviour of two halves over a network that loses, repeats, delays and cuts.

pub(crate) mod pair;
pub(crate) mod table;

use bytes::Bytes;
use dataplane_api::VERSION;
use dataplane_api::sync::Frame;

use super::datagram::{HEADER_BYTES, Header, Kind};
use super::limits::{DATAGRAM_MAX, DATAGRAMS, GREETINGS};
use super::view::{Refused, State};
use super::{Ended, Event, FrameError, Guard};
use pair::{Faults, Pair, Rng, encrypted, keys, plain};

/// Own connections: of node 0 the even keys, of node 1 the odd ones.
fn open(pair: &mut Pair, node: usize, count: u32) {
    let now = pair.now;
    (0..count).for_each(|n| pair.nodes[node].table.upsert(2 * n + node as u32, now));
}

fn opened(node: usize, connections: u32, guard: fn(usize) -> Guard) -> Pair {
    let mut pair = Pair::new(7, guard);
    open(&mut pair, node, connections);
    pair.settle(1000);
    pair
}

/// Random changes at both nodes for a millisecond.
fn churn(pair: &mut Pair, rate: u64) {
    let now = pair.now;
    for node in 0..2 {
        for _ in 0..pair.rng.below(rate + 1) {
            let key = 2 * pair.rng.below(3000) as u32 + node as u32;
            let table = &mut pair.nodes[node].table;
            if pair.rng.permille(600) { table.upsert(key, now) } else { table.remove(key, now) }
        }
    }
}

/// One life of a pair among faults; at the end everything must be as it should.
fn simulate(seed: u64) {
    let mut pair = Pair::new(seed, if seed.is_multiple_of(2) { plain } else { encrypted });
    open(&mut pair, 0, 2000);
    for _ in 0..12 {
        pair.faults = Faults {
            loss: [0, 10, 100, 300][pair.rng.below(4) as usize],
            repeat: [0, 200][pair.rng.below(2) as usize],
            delay_ms: [0, 5, 40][pair.rng.below(3) as usize],
            cut: [pair.rng.permille(150), pair.rng.permille(150)],
            longest: None,
        };
        match pair.rng.below(8) {
            0 => pair.restart_control(0),
            1 => pair.restart_control(1),
            2 => pair.restart_data_plane(0),
            3 => pair.restart_data_plane(1),
            4 => pair.nodes.iter_mut().for_each(|n| n.speed = 1),
            _ => pair.nodes.iter_mut().for_each(|n| n.speed = 64),
        }
        let (time, rate) = (pair.rng.below(700), [0, 2, 40][pair.rng.below(3) as usize]);
        for _ in 0..time {
            churn(&mut pair, rate);
            pair.step();
        }
    }
    pair.faults = Faults::default();
    pair.nodes.iter_mut().for_each(|n| n.speed = 64);
    pair.settle(20_000);
    pair.run(2500);
    let equal = |n: usize| pair.nodes[n].core.view(pair.now).digests.equal;
    assert_eq!((equal(0), equal(1)), (Some(true), Some(true)));
    assert!(pair.nodes.iter().all(|n| n.table.keep));
}

#[test]
fn after_any_faults_each_node_knows_what_the_other_has() {
    if let Ok(seed) = std::env::var("SEED") {
        return simulate(seed.parse().unwrap());
    }
    let seeds = std::env::var("SEEDS").map_or(24, |n| n.parse().unwrap());
    for seed in 0..seeds {
        if let Err(fault) = std::panic::catch_unwind(|| simulate(seed)) {
            println!("SEED={seed} replays it");
            std::panic::resume_unwind(fault);
        }
    }
}

#[test]
fn a_joining_node_gets_all_then_each_change_and_is_said_to_be_synced_only_then() {
    let mut pair = Pair::new(1, plain);
    open(&mut pair, 0, 5000);
    while !pair.nodes[1].core.is_synced() {
        assert!(
            !pair.nodes[0].core.view(pair.now).peer_synced
                || pair.nodes[1].table.imported.len() == 5000
        );
        pair.step();
    }
    assert_eq!(pair.nodes[1].table.imported.len(), 5000);
    pair.run(200);
    let view = pair.nodes[0].core.view(pair.now);
    let survival = view.survival.unwrap();
    assert_eq!((survival.worth, survival.would_live, survival.oldest_ms), (5000, 5000, None));
    assert_eq!(view.state, State::Open);
    for events in [&pair.nodes[0].events, &pair.nodes[1].events] {
        assert!(events.contains(&Event::PeerSynced) && events.contains(&Event::Synced));
        assert_eq!(events[0], Event::Opened { version: 1 });
    }
    // The peer does not hear us: the meter says what would be lost.
    pair.faults.cut = [true, false];
    open(&mut pair, 0, 15);
    pair.run(150);
    let survival = pair.nodes[0].core.view(pair.now).survival.unwrap();
    assert_eq!((survival.would_live, survival.unacknowledged), (4985, 15));
    assert!(survival.oldest_ms.is_some_and(|ms| (140..=160).contains(&ms)), "{survival:?}");
    pair.faults.cut = [false; 2];
    pair.settle(1000);
    pair.run(200);
    let latency = pair.nodes[0].core.view(pair.now).latency;
    // A pass is not late.
    assert!(latency.count == 15 && latency.p50_us > 150_000, "{latency:?}");
}

#[test]
fn a_peer_that_began_anew_is_taken_at_once_and_one_that_is_silent_is_given_up() {
    let mut pair = opened(0, 100, plain);
    pair.restart_control(1);
    assert!(pair.settle(1000) < 300, "a new session needs no time-out");
    pair.restart_data_plane(1);
    pair.run(5);
    assert!(pair.nodes[0].events.contains(&Event::Lost(Ended::PeerDataPlane)));
    pair.settle(1000);
    pair.faults.cut = [true, true];
    pair.run(1900);
    assert!(pair.nodes[0].core.is_peer_synced(), "not yet");
    pair.run(300);
    assert_eq!(pair.nodes[0].events.last(), Some(&Event::Lost(Ended::Silence)));
    assert_eq!(pair.nodes[0].core.view(pair.now).survival, None);
    assert!(!pair.nodes[0].table.keep, "what came from the peer ages from now on");
    pair.faults.cut = [false; 2];
    pair.settle(2000);
}

#[test]
fn tables_that_differ_are_found_and_mended() {
    let mut pair = opened(0, 3000, plain);
    let imported = &mut pair.nodes[1].table.imported;
    imported.remove(&10);
    imported.insert(4_000_000, 1);
    pair.run(1200);
    pair.settle(500);
    let view = pair.nodes[1].core.view(pair.now);
    assert_eq!(view.digests.repairs, 2);
    assert!(pair.nodes[1].events.iter().any(|e| matches!(e, Event::Repairing { .. })));
    pair.run(1100);
    assert_eq!(pair.nodes[1].core.view(pair.now).digests.equal, Some(true));
}

#[test]
fn lost_changes_make_the_peer_incomplete_until_all_was_sent_again() {
    let mut pair = opened(0, 100, plain);
    open(&mut pair, 0, 4000);
    assert!(pair.nodes[0].table.overflows > 0);
    pair.run(101);
    assert!(pair.nodes[0].events.iter().filter(|e| **e == Event::PeerSynced).count() <= 2);
    pair.settle(5000);
    assert_eq!(pair.nodes[0].core.view(pair.now).sessions, 1, "no session was lost for it");
}

#[test]
fn a_slow_data_plane_slows_the_peer_down_and_nothing_grows() {
    let mut pair = Pair::new(3, plain);
    open(&mut pair, 0, 40_000);
    open(&mut pair, 1, 40_000);
    pair.nodes[1].speed = 1;
    pair.nodes[0].speed = 1;
    let mut waited = 0;
    for _ in 0..1500 {
        pair.step();
        waited += u32::from(!pair.nodes[0].core.wants_frames());
    }
    assert!(waited > 500, "frames were fetched all the time");
    assert!(!pair.nodes[0].core.is_peer_synced());
    pair.settle(10_000);
    assert_eq!(pair.nodes[0].core.view(pair.now).sessions, 1);
}

#[test]
fn a_drain_ends_when_what_happened_before_it_is_with_the_peer() {
    let mut pair = opened(0, 100, plain);
    pair.run(150);
    pair.faults.cut = [true, false];
    open(&mut pair, 0, 50);
    pair.run(20);
    let now = pair.now;
    pair.nodes[0].core.drain(now);
    pair.run(300);
    assert!(!pair.nodes[0].events.contains(&Event::Drained));
    pair.faults.cut = [false; 2];
    pair.run(400);
    assert!(pair.nodes[0].events.contains(&Event::Drained));
    assert!(pair.nodes[0].core.is_drained(now));
    assert_eq!(pair.nodes[0].table.own, pair.nodes[1].table.imported);
}

#[test]
fn a_way_that_carries_no_full_datagrams_is_named() {
    let mut pair = Pair::new(5, plain);
    open(&mut pair, 0, 1000);
    pair.faults.longest = Some(1000);
    // Digests are long too: either may be the first to find out.
    let blocked = |pair: &Pair| {
        let found = |n: &&pair::Node| n.events.contains(&Event::Lost(Ended::Blocked));
        pair.nodes.iter().find(found).map(|n| n.core.view(pair.now).reason.unwrap())
    };
    while blocked(&pair).is_none() {
        assert!(pair.now < 1_020_000 * pair::MS, "not found out in twenty seconds");
        pair.run(100);
    }
    assert!(blocked(&pair).unwrap().contains("1400"));
}

#[test]
fn versions_are_agreed_upon_or_named() {
    let mut pair = Pair::new(1, plain);
    pair.nodes[0].core.set_versions((1, 2));
    pair.nodes[1].core.set_versions((2, 4));
    pair.settle(1000);
    assert_eq!(pair.nodes[0].core.view(pair.now).version, Some(2));
    let mut pair = Pair::new(1, plain);
    pair.nodes[1].core.set_versions((2, 4));
    pair.run(3000);
    assert_eq!(pair.nodes[0].events, [Event::Version { low: 2, high: 4 }]);
    assert_eq!(pair.nodes[1].events, [Event::Version { low: 1, high: 1 }]);
    let view = pair.nodes[0].core.view(pair.now);
    assert!(view.refused.version > 0 && view.state == State::Greeting);
}

fn other_key(node: usize) -> Guard {
    let names = ["lb1", "lb2"];
    Guard::new(keys(["ab", "cd"][node]), names[node], names[1 - node], false)
}

fn one_encrypts(node: usize) -> Guard {
    if node == 0 { encrypted(0) } else { plain(1) }
}

#[test]
fn without_the_same_key_nothing_is_said() {
    let mut pair = Pair::new(1, other_key);
    open(&mut pair, 0, 10);
    pair.run(3000);
    let view = pair.nodes[1].core.view(pair.now);
    assert!(view.refused.bad_mac > 2 && view.state == State::Greeting, "{view:?}");
    assert!(pair.nodes[1].table.imported.is_empty());
}

#[test]
fn what_is_encrypted_shows_no_address_and_one_that_wants_it_is_enough() {
    let guards = [plain, encrypted, one_encrypts] as [fn(usize) -> Guard; 3];
    for (guard, secret) in guards.into_iter().zip([false, true, true]) {
        let mut pair = Pair::new(1, guard);
        pair.record = Some(Vec::new());
        open(&mut pair, 0, 100);
        open(&mut pair, 1, 100);
        pair.settle(1000);
        let vip = [0xff, 0xff, 192, 0, 2, 10];
        let shows = |bytes: &Bytes| bytes.windows(vip.len()).any(|w| w == vip);
        let shown = pair.record.iter().flatten().any(|(_, bytes)| shows(bytes));
        assert_eq!(shown, !secret);
        assert!(pair.record.iter().flatten().all(|(_, bytes)| bytes.len() <= DATAGRAM_MAX));
    }
}

#[test]
fn other_keys_need_another_session_and_nothing_else() {
    let mut pair = opened(0, 100, plain);
    let now = pair.now;
    pair.nodes.iter_mut().enumerate().for_each(|(n, node)| {
        node.core.set_guard(encrypted(n), now);
    });
    pair.run(1);
    pair.settle(1000);
}

/// What has changed in the counters.
fn refused(pair: &Pair) -> Refused {
    pair.nodes[1].core.view(pair.now).refused
}

#[test]
fn forged_datagrams_are_counted_by_kind_and_change_nothing() {
    let mut pair = Pair::new(9, plain);
    pair.record = Some(Vec::new());
    open(&mut pair, 0, 200);
    pair.settle(1000);
    let old = pair.record.take().unwrap();
    pair.restart_control(0);
    pair.record = Some(Vec::new());
    pair.settle(1000);
    let new = pair.record.take().unwrap();
    let data = |list: &[(usize, Bytes)], kind: Kind| {
        let fits = |b: &&Bytes| Header::decode(b).is_ok_and(|h| h.kind == kind);
        let last = list.iter().filter(|(to, _)| *to == 1).map(|(_, b)| b).filter(fits).last();
        last.unwrap().to_vec()
    };
    let (imports, sessions) = (pair.nodes[1].table.imports, pair.nodes[1].core.view(0).sessions);
    let mut expect = refused(&pair);
    let now = pair.now;
    let give = |pair: &mut Pair, bytes: &[u8]| pair.nodes[1].core.datagram(bytes, now);

    let ack = data(&new, Kind::Ack);
    for length in 0..=HEADER_BYTES {
        give(&mut pair, &ack[..length]);
        expect.malformed += 1;
    }
    give(&mut pair, &[0; DATAGRAM_MAX + 1]);
    expect.malformed += 1;
    for length in HEADER_BYTES + 2..ack.len() {
        give(&mut pair, &ack[..length]);
        if length < HEADER_BYTES + 18 { expect.malformed += 1 } else { expect.bad_mac += 1 }
    }
    for at in 24..ack.len() {
        let mut bytes = ack.clone();
        bytes[at] ^= 1;
        give(&mut pair, &bytes);
        match at {
            32 => expect.malformed += 1,
            33 => expect.unknown_key += 1,
            _ => expect.bad_mac += 1,
        }
    }
    give(&mut pair, &ack);
    expect.replayed += 1;
    give(&mut pair, &data(&new, Kind::Data));
    expect.duplicate += 1;
    for kind in [Kind::Data, Kind::Ack, Kind::Hello] {
        give(&mut pair, &data(&old, kind));
        // The first hello knows nobody: it is answered, and that is all.
        expect.old_session +=
            u64::from(kind != Kind::Hello || Header::decode(&data(&old, kind)).unwrap().to != 0);
    }
    let mut far = data(&new, Kind::Data);
    far[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    give(&mut pair, &far);
    expect.out_of_window += 1;
    let mut other = ack;
    other[5] = 9;
    give(&mut pair, &other);
    expect.version += 1;

    assert_eq!(refused(&pair), expect);
    pair.run(1500);
    let view = pair.nodes[1].core.view(pair.now);
    assert_eq!((view.sessions, view.state), (sessions, State::Open));
    assert_eq!(pair.nodes[1].table.imports, imports);
}

#[test]
fn a_flood_is_not_even_looked_at_and_the_session_lives_on() {
    let mut pair = opened(0, 100, plain);
    pair.record = Some(Vec::new());
    pair.run(300);
    let all = pair.record.take().unwrap();
    let ours = all.iter().rfind(|(to, _)| *to == 1).map(|(_, bytes)| bytes.to_vec()).unwrap();
    let now = pair.now;
    let mut forged = ours;
    forged[31] ^= 1;
    let before = refused(&pair);
    for _ in 0..3 * DATAGRAMS.1 {
        pair.nodes[1].core.datagram(&forged, now);
    }
    let mut rng = Rng(1);
    for _ in 0..1000 {
        let header = Header { kind: Kind::Hello, version: 1, from: rng.next(), to: 0, number: 1 };
        let bytes = [&header.encode()[..], &[1; 60]].concat();
        pair.nodes[1].core.datagram(&bytes, now);
    }
    let after = refused(&pair);
    assert_eq!(after.bad_mac - before.bad_mac, DATAGRAMS.1 + GREETINGS.1);
    assert!(after.limited - before.limited >= 2 * DATAGRAMS.1 + 800, "{after:?}");
    pair.run(3000);
    assert_eq!(pair.nodes[1].core.view(pair.now).sessions, 1);
}

#[test]
fn what_the_own_data_plane_cannot_say_ends_the_connection_to_it() {
    let hello = |version| Frame::Hello { version };
    let cases = [
        (vec![hello(99)], FrameError::Version(99)),
        (vec![Frame::Applied { number: 0 }], FrameError::Unexpected),
        (vec![hello(VERSION), hello(VERSION)], FrameError::Unexpected),
        (vec![hello(VERSION), Frame::Applied { number: 1 }], FrameError::Unexpected),
        (vec![hello(VERSION), Frame::Start { pass: 1 }], FrameError::Unexpected),
    ];
    for (frames, error) in cases {
        let mut pair = Pair::new(1, plain);
        let core = &mut pair.nodes[0].core;
        core.connected();
        let results: Vec<_> = frames.iter().map(|f| core.frame(&f.encode()[4..], 0)).collect();
        assert_eq!(results.last(), Some(&Err(error)), "{frames:?}");
    }
}
