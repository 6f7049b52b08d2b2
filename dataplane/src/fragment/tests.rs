use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::wire::packet::{Kind, TcpFlags};

const DEVICE: DeviceId = DeviceId(3);
const START: Instant = Instant::from_nanos(1_000_000_000_000);

#[test]
fn later_fragments_follow_the_first_one() {
    let mut fragments = Fragments::new();
    assert_eq!(fragments.first(&key(1), 'a', START), 'a');
    assert_eq!(later(&mut fragments, 1, b"x", START), Follow::Decision('a'));
    assert_eq!(later(&mut fragments, 1, b"x", START), Follow::Decision('a'), "a duplicate");
    assert_eq!(later(&mut fragments, 2, b"x", START), Follow::Held, "of another datagram");
    assert_eq!(released(&mut fragments, 1), [] as [&[u8]; 0]);
}

#[test]
fn fragments_ahead_of_the_first_wait_for_it_and_leave_in_order_with_headroom() {
    let mut fragments = Fragments::new();
    for bytes in [b"one", b"two", b"two", b"six"] {
        assert_eq!(later(&mut fragments, 1, bytes, START), Follow::Held);
        assert_eq!(later(&mut fragments, 2, b"...", START), Follow::Held);
    }
    assert_eq!(fragments.first(&key(1), 'a', START), 'a');
    let count = fragments.release(&key(1), |frame| {
        assert_eq!((frame.device(), frame.start()), (DEVICE, HEADROOM));
        assert!(frame.prepend(HEADROOM));
    });
    assert_eq!(count, 4);
    assert_eq!(fragments.waiting(), 4);
    assert_eq!(fragments.release(&key(1), |_| panic!("released twice")), 0);
    assert_eq!(released(&mut fragments, 2), [b"..."; 4]);
    for bytes in [b"one", b"two", b"six"] {
        assert_eq!(later(&mut fragments, 3, bytes, START), Follow::Held);
    }
    assert_eq!(released(&mut fragments, 3), [b"one", b"two", b"six"]);
}

#[test]
fn of_two_first_fragments_only_one_decides() {
    let mut fragments = Fragments::new();
    assert_eq!(fragments.first(&key(1), 'a', START), 'a');
    let soon = START.after(REUSE / 2);
    assert_eq!(fragments.first(&key(1), 'b', soon), 'a');
    assert_eq!(later(&mut fragments, 1, b"x", soon), Follow::Decision('a'));
    assert_eq!(fragments.remembered(), 1);
}

#[test]
fn an_identification_in_use_again_is_a_new_datagram() {
    let mut fragments = Fragments::new();
    assert_eq!(fragments.first(&key(1), 'a', START), 'a');
    let again = START.after(REUSE);
    assert_eq!(fragments.first(&key(1), 'b', again), 'b');
    assert_eq!(later(&mut fragments, 1, b"x", again), Follow::Decision('b'));
    assert_eq!(fragments.remembered(), 1);
}

#[test]
fn fragments_wait_a_second_and_decisions_last_half_a_minute() {
    let mut fragments = Fragments::new();
    fragments.first(&key(1), 'a', START);
    later(&mut fragments, 2, b"x", START);
    later(&mut fragments, 3, b"x", START.after(HOLD / 2));
    let almost = START.after(HOLD - Duration::from_nanos(1));
    assert_eq!(fragments.expire(almost, 100), 0);
    assert_eq!(fragments.expire(START.after(HOLD), 100), 1);
    assert_eq!(released(&mut fragments, 2), [] as [&[u8]; 0]);
    assert_eq!(released(&mut fragments, 3), [b"x"]);
    let almost = START.after(REMEMBER - Duration::from_nanos(1));
    assert_eq!(later(&mut fragments, 1, b"x", almost), Follow::Decision('a'));
    assert_eq!(later(&mut fragments, 1, b"x", START.after(REMEMBER)), Follow::Held);
    assert_eq!(fragments.expire(START.after(REMEMBER), 100), 0);
    assert_eq!(fragments.remembered(), 0);
}

#[test]
fn a_flood_of_later_fragments_evicts_the_oldest_and_counts_them() {
    let mut fragments = Fragments::new();
    fragments.first(&key(0), 'a', START);
    for id in 1..=HELD_FRAGMENTS as u32 + 100 {
        assert_eq!(later(&mut fragments, id, &id.to_be_bytes(), START), Follow::Held);
        assert!(fragments.waiting() <= HELD_FRAGMENTS);
    }
    assert_eq!(fragments.expire(START, 100), 100);
    assert_eq!(later(&mut fragments, 0, b"x", START), Follow::Decision('a'));
    assert_eq!(released(&mut fragments, 100), [] as [&[u8]; 0]);
    assert_eq!(released(&mut fragments, 101), [101u32.to_be_bytes()]);
}

#[test]
fn a_flood_of_first_fragments_evicts_the_oldest_decision() {
    let mut fragments = Fragments::new();
    for id in 0..FRAGMENTED_DATAGRAMS as u32 + 10 {
        fragments.first(&key(id), id, START);
    }
    assert_eq!(fragments.remembered(), FRAGMENTED_DATAGRAMS);
    assert_eq!(later(&mut fragments, 9, b"x", START), Follow::Held);
    assert_eq!(later(&mut fragments, 10, b"x", START), Follow::Decision(10));
}

#[test]
fn expiry_looks_at_no_more_than_it_was_allowed_to() {
    let mut fragments = Fragments::<()>::new();
    for id in 0..10 {
        later(&mut fragments, id, b"x", START);
    }
    let late = START.after(HOLD);
    assert_eq!(fragments.expire(late, 4), 4);
    assert_eq!(fragments.expire(late, 0), 0);
    assert_eq!(fragments.expire(late, 100), 6);
    assert_eq!(fragments.waiting(), 0);
}

#[test]
fn a_fragment_that_fits_no_buffer_is_refused() {
    let mut fragments = Fragments::<()>::new();
    let largest = vec![7; FRAME_SIZE - HEADROOM];
    assert_eq!(later(&mut fragments, 1, &largest, START), Follow::Held);
    assert_eq!(released(&mut fragments, 1), [largest]);
    let larger = vec![7; FRAME_SIZE - HEADROOM + 1];
    let refused = Follow::Full(Reason::FragmentTimeout);
    assert_eq!(later(&mut fragments, 1, &larger, START), refused);
}

#[test]
fn a_fragment_over_the_header_that_carries_the_ports_is_recognised() {
    let at = |protocol, offset| {
        let fragment = Fragment::Later { offset, more: true };
        rewrites_ports(&Packet { protocol, fragment, ..fragment_of(key(1)) })
    };
    assert!(at(6, 8) && at(6, 16) && !at(6, 24));
    assert!(!at(17, 8));
    let first = Packet { protocol: 6, fragment: Fragment::First, ..fragment_of(key(1)) };
    assert!(!rewrites_ports(&first));
}

#[test]
fn fragments_of_one_ipv4_datagram_agree_in_protocol_but_not_those_of_ipv6() {
    let of = |v6: bool, protocol| {
        let address = |low: u8| {
            if v6 { Address::from_bits(0xfd00 << 112 | u128::from(low)) } else { v4(low) }
        };
        let (source, destination) = (address(1), address(2));
        Key::of(&Packet { source, destination, protocol, ..fragment_of(key(1)) })
    };
    assert_ne!(of(false, 6), of(false, 17));
    assert_eq!(of(true, 60), of(true, 17));
    assert_ne!(of(true, 17), of(false, 17));
}

/// What may happen; an identification of few, so that datagrams meet.
#[derive(Clone, Copy, Debug)]
enum Op {
    First(u32),
    Later(u32),
    Expire(usize),
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u32..8).prop_map(Op::First),
        (0u32..8).prop_map(Op::Later),
        (0usize..6).prop_map(Op::Expire),
        (0u64..700).prop_map(Op::Wait),
    ]
}

proptest! {
    #[test]
    fn a_small_ring_agrees_with_a_plain_list(ops in prop::collection::vec(ops(), 0..200)) {
        const CAPACITY: usize = 6;
        let mut ring = Ring::new(CAPACITY);
        // What is in it, oldest first, and the slots that were left empty among these.
        let mut model: Vec<Option<(Key, Instant, usize)>> = Vec::new();
        let mut now = START;
        for (serial, op) in ops.into_iter().enumerate() {
            match op {
                Op::Later(id) => {
                    let evicted = model.len() == CAPACITY && model.remove(0).is_some();
                    prop_assert_eq!(ring.push(key(id), now, serial).1, evicted);
                    model.push(Some((key(id), now, serial)));
                }
                Op::First(id) => {
                    let found = model.iter_mut().find(|slot| slot.is_some_and(|s| s.0 == key(id)));
                    let expected = found.and_then(Option::take);
                    prop_assert_eq!(ring.find(&key(id)), expected.map(|slot| (slot.1, slot.2)));
                    let taken = ring.take(&key(id)).map(|(_, value)| value);
                    prop_assert_eq!(taken, expected.map(|slot| slot.2));
                }
                Op::Expire(max) => {
                    let mut expected = 0;
                    for _ in 0..max {
                        match model.first() {
                            Some(Some(slot)) if now.since(slot.1) < HOLD => break,
                            Some(slot) => expected += usize::from(slot.is_some()),
                            None => break,
                        }
                        model.remove(0);
                    }
                    prop_assert_eq!(ring.expire(now, HOLD, max), expected);
                }
                Op::Wait(millis) => now = now.after(Duration::from_millis(millis)),
            }
            prop_assert_eq!(ring.live, model.iter().flatten().count());
        }
        let mut left = HashMap::<Key, Vec<usize>>::new();
        for (key, _, value) in model.into_iter().flatten() {
            left.entry(key).or_default().push(value);
        }
        for (key, values) in left {
            let taken: Vec<_> = std::iter::from_fn(|| ring.take(&key)).map(|slot| slot.1).collect();
            prop_assert_eq!(taken, values);
        }
        prop_assert_eq!(ring.live, 0);
        prop_assert!(ring.buckets.iter().all(|chain| chain.head == NONE && chain.tail == NONE));
    }
}

fn later<T: Copy>(fragments: &mut Fragments<T>, id: u32, bytes: &[u8], now: Instant) -> Follow<T> {
    let mut buffer = bytes.to_vec();
    let len = buffer.len();
    fragments.later(&key(id), &Frame::new(&mut buffer, 0, len, DEVICE), now)
}

fn released<T: Copy>(fragments: &mut Fragments<T>, id: u32) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    fragments.release(&key(id), |frame| all.push(frame.bytes().to_vec()));
    all
}

fn key(identification: u32) -> Key {
    Key { source: v4(1), destination: v4(2), identification, protocol: 17 }
}

fn v4(low: u8) -> Address {
    Address::v4(0x0a00_0000 | u32::from(low))
}

fn fragment_of(key: Key) -> Packet {
    Packet {
        source: key.source,
        destination: key.destination,
        source_port: 0,
        destination_port: 0,
        network: 14,
        transport: 34,
        end: 42,
        fragment_header: 0,
        identification: key.identification,
        fragment: Fragment::Later { offset: 8, more: false },
        kind: Kind::LaterFragment,
        protocol: key.protocol,
        tcp_flags: TcpFlags(0),
        ttl: 64,
        traffic_class: 0,
        dont_fragment: false,
    }
}
