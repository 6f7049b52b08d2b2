//! The judge against a model with perfect memory.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::parse::View;

/// What happens to one sent packet.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    Lost,
    /// Comes so many packets later.
    Late(usize),
    /// Comes twice, the second time so many packets later.
    Twice(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => (1_usize..16).prop_map(Fate::Late),
        1 => (0_usize..16).prop_map(Fate::Twice),
    ]
}

/// The number of a packet; 0 is none.
fn numbered(first: u32, at: usize) -> u32 {
    let number = first.wrapping_add(at as u32);
    if number < first { number + 1 } else { number }
}

/// The numbers in the order in which they come in.
fn arrivals(first: u32, fates: &[Fate]) -> Vec<u32> {
    let mut all = Vec::new();
    for (at, fate) in fates.iter().enumerate() {
        let number = numbered(first, at);
        match *fate {
            Fate::Arrives => all.push((at * 2, number)),
            Fate::Lost => {}
            Fate::Late(by) => all.push(((at + by) * 2 + 1, number)),
            Fate::Twice(by) => all.extend([(at * 2, number), ((at + by) * 2 + 1, number)]),
        }
    }
    all.sort_by_key(|(when, _)| *when);
    all.into_iter().map(|(_, number)| number).collect()
}

proptest! {
    #[test]
    fn loss_repetition_and_reordering_are_found_exactly(
        fates in prop::collection::vec(fate(), 1..300), wraps: bool,
    ) {
        let first = if wraps { u32::MAX - 100 } else { 1 };
        let (lane, tally) = (Lane::default(), Tally::default());
        if wraps {
            // As after four thousand million packets.
            lane.seen.store(u64::from(first - 1) << 32 | 0xffff_ffff, Relaxed);
        }
        let position = |number| (0..fates.len()).find(|at| numbered(first, *at) == number);
        let (mut seen, mut highest) = (HashSet::new(), None::<usize>);
        let (mut duplicated, mut reordered) = (0, 0);
        for number in arrivals(first, &fates) {
            let at = position(number).unwrap();
            if seen.insert(number) {
                reordered += u64::from(highest.is_some_and(|highest| at < highest));
                highest = highest.max(Some(at));
            } else {
                duplicated += 1;
            }
            tally.place(lane.record(number), 60);
        }
        prop_assert_eq!(tally.received.get(), seen.len() as u64);
        prop_assert_eq!(u64::from(lane.received()), seen.len() as u64);
        prop_assert_eq!(tally.duplicated.get(), duplicated);
        prop_assert_eq!(tally.reordered.get(), reordered);
        prop_assert_eq!(tally.wire_bytes.get(), seen.len() as u64 * 84);
    }
}

#[test]
fn what_cannot_be_told_from_a_repetition_is_not_received() {
    let lane = Lane::default();
    for number in 2..=WINDOW + 2 {
        assert_eq!(lane.record(number), Place::Next);
    }
    assert_eq!(lane.record(2), Place::Repeated, "just inside the window");
    assert_eq!(lane.record(1), Place::Old);
    assert_eq!(lane.received(), WINDOW + 1);
}

#[test]
fn two_workers_count_every_packet_of_a_flow_once() {
    let lane = Lane::default();
    let counted: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let new = |number| matches!(lane.record(number), Place::Next | Place::Late);
                    (1..=50_000).filter(|number| new(*number)).count() as u64
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(counted, u64::from(lane.received()));
    assert!(counted <= 50_000, "{counted}");
}

const REAL: &str = "198.19.0.3";

fn rules(method: Method) -> Rules {
    let addresses = Addresses::new("198.18.0.1".parse().unwrap(), 10).unwrap();
    Rules {
        vip: "198.18.255.1:80".parse().unwrap(),
        protocol: Protocol::Tcp,
        method,
        clients: Clients::new(addresses, 1024, 100).unwrap(),
        reals: Addresses::new("198.19.0.1".parse().unwrap(), 4).unwrap(),
        real_port: if method.replies_pass() { 8080 } else { 80 },
        key: 9,
    }
}

fn view(tunnel: Option<&str>, source: (&str, u16), destination: (&str, u16)) -> View {
    View {
        tunnel: tunnel.map(|address| address.parse().unwrap()),
        network: 14,
        transport: 34,
        payload: 54,
        end: 60,
        protocol: TCP,
        flags: 0x10,
        source: (source.0.parse().unwrap(), source.1),
        destination: (destination.0.parse().unwrap(), destination.1),
    }
}

#[test]
fn each_method_tells_the_real_server_in_its_own_way() {
    let (client, vip) = (("198.18.0.2", 1025), ("198.18.255.1", 80));
    let mac = mac_of_real(2);
    let other = [2, 0, 0, 0, 0, 9];
    let nat = view(None, client, (REAL, 8080));
    let direct = view(None, client, vip);
    let tunnel = view(Some(REAL), client, vip);
    for (method, right) in [
        (Method::Nat, nat),
        (Method::Fullnat, nat),
        (Method::Direct, direct),
        (Method::Tunnel, tunnel),
    ] {
        let rules = rules(method);
        assert_eq!(rules.real(&right, mac), Ok(2), "{method:?}");
        for wrong in [nat, direct, tunnel] {
            let same = method.replies_pass() && wrong == nat || wrong == right;
            assert_eq!(rules.real(&wrong, mac).is_ok(), same, "{method:?} {wrong:?}");
        }
        let past = View { destination: ("198.19.0.5".parse().unwrap(), 8080), ..right };
        assert_eq!(rules.real(&past, mac), Err(Fault::Strayed), "{method:?}: none of ours");
        assert_eq!(rules.real(&View { protocol: UDP, ..right }, mac), Err(Fault::Foreign));
    }
    assert_eq!(rules(Method::Direct).real(&direct, other), Err(Fault::Strayed));
    assert_eq!(real_of_mac(mac_of_real(70_000)), Some(70_000));
    assert_eq!(real_of_mac(other), None);
}

#[test]
fn replies_from_elsewhere_than_the_vip_stray() {
    let rules = rules(Method::Nat);
    let client = ("198.18.0.2", 1025);
    let flow = rules.clients.flow(client.0.parse().unwrap(), client.1).unwrap();
    assert_eq!(rules.receiver(&view(None, ("198.18.255.1", 80), client)), Ok(flow));
    for source in [("198.18.255.1", 81), ("198.18.255.2", 80), (REAL, 8080)] {
        assert_eq!(rules.receiver(&view(None, source, client)), Err(Fault::Strayed));
    }
    let stranger = ("198.18.0.77", 1025);
    assert_eq!(rules.receiver(&view(None, ("198.18.255.1", 80), stranger)), Err(Fault::Strayed));
}

#[test]
fn a_stamp_of_another_flow_or_run_is_not_ours() {
    let rules = rules(Method::Nat);
    let view = view(None, ("198.18.0.2", 1025), (REAL, 8080));
    let mut frame = [0; 60];
    let stamp = Stamp { flow: 11, sequence: 5, time: 1 };
    let (header, payload) = frame.split_at_mut(54);
    assert!(stamp.write_tcp(9, Way::Request, &mut header[34..], payload));
    assert_eq!(rules.stamp(&frame, &view, Way::Request, Some(11)), Ok(stamp));
    assert_eq!(rules.stamp(&frame, &view, Way::Request, None), Ok(stamp), "full NAT");
    assert_eq!(rules.stamp(&frame, &view, Way::Request, Some(12)), Err(Fault::Strayed));
    assert_eq!(rules.stamp(&frame, &view, Way::Reply, Some(11)), Err(Fault::Corrupted));
    assert_eq!(rules.stamp(&frame[..58], &view, Way::Request, Some(11)), Err(Fault::Corrupted));
    let other = Rules { key: 10, ..rules };
    assert_eq!(other.stamp(&frame, &view, Way::Request, Some(11)), Err(Fault::Corrupted));
    let few = Clients::new(rules.clients.addresses, 1024, 11).unwrap();
    let other = Rules { clients: few, ..rules };
    assert_eq!(other.stamp(&frame, &view, Way::Request, None), Err(Fault::Strayed));
}
