//! Datagrams in pieces, and packets that leave in pieces.

use dataplane::frame::Verdict;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Protocol};

use crate::harness::{
    CLIENT_MAC, Fate, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, client, local, mac_of,
    real, vip, web,
};
use crate::packet::{Frame, SYN, Seen, fragment, reassemble, tcp, udp};

const METHODS: [Forwarding; 4] =
    [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel];

fn world(v6: bool, method: Forwarding) -> World {
    let port = (!method.is_one_way()).then_some(8080);
    World::new(&[web(v6, Protocol::Udp, method).real(real(v6, 11), port, 1)])
}

/// A datagram of 1208 bytes of UDP, in three fragments.
fn pieces(v6: bool) -> (Frame, Vec<Vec<u8>>) {
    let payload: Vec<u8> = (0..1200_u32).map(|n| (n * 7 + n / 256) as u8).collect();
    let whole = udp(v6).loose().data(&payload);
    let bytes = whole.bytes();
    let cuts = [(0, 400), (400, 808), (808, 1208)];
    (whole, cuts.iter().map(|(from, to)| fragment(&bytes, *from, *to)).collect())
}

/// All sent to `INSIDE`; of a tunnel what it carries.
fn sent(fates: &[Fate], method: Forwarding) -> Vec<Vec<u8>> {
    let frames = fates.iter().flat_map(|fate| &fate.sent);
    frames
        .map(|(to, bytes)| {
            assert_eq!(*to, INSIDE);
            if method == Forwarding::Tunnel { Seen::of(bytes).inner() } else { bytes.clone() }
        })
        .collect()
}

// A8
#[test]
fn fragments_follow_their_first_one_in_every_order_and_by_every_method() {
    let orders = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1], [0, 2, 1], [1, 2, 0]];
    for method in METHODS {
        for v6 in [false, true] {
            for order in orders {
                let mut world = world(v6, method);
                let (whole, pieces) = pieces(v6);
                let fates: Vec<_> =
                    order.iter().map(|n| world.receive_bytes(OUTSIDE, &pieces[*n])).collect();
                let held = order.iter().position(|n| *n == 0).unwrap();
                assert!(fates[..held].iter().all(|fate| fate.verdict == Verdict::Held));
                let got = reassemble(&sent(&fates, method));
                let seen = Seen::of(&got);
                assert_eq!(seen.payload, whole.payload);
                assert_eq!(seen.macs, (INSIDE_MAC, mac_of(real(v6, 11))));
                let (to, port) =
                    if method.is_one_way() { (vip(v6), 80) } else { (real(v6, 11), 8080) };
                assert_eq!((seen.destination, seen.ports.1), (to, port));
                let from = if method == Forwarding::Fullnat { local(v6) } else { client(v6) };
                assert_eq!(seen.source, from);
                assert_eq!(seen.ttl, if method == Forwarding::Direct { 61 } else { 60 });
                assert_eq!(world.event(Event::FragmentHeld), held as u64);
                assert_eq!(world.event(Event::FragmentReleased), held as u64);
                assert_eq!((world.conns().len(), world.all_drops()), (1, 0));
            }
        }
    }
}

// A8
#[test]
fn fragments_of_a_reply_go_to_the_client() {
    for method in [Forwarding::Nat, Forwarding::Fullnat] {
        for v6 in [false, true] {
            let mut world = world(v6, method);
            let request = world.request(&udp(v6));
            let answer = Frame::answer(&request, 0).loose().data(&[9; 992]);
            let bytes = answer.bytes();
            let later = world.receive_bytes(INSIDE, &fragment(&bytes, 600, 1000));
            assert_eq!(later.verdict, Verdict::Held);
            let first = world.receive_bytes(INSIDE, &fragment(&bytes, 0, 600));
            let frames: Vec<_> = first
                .sent
                .iter()
                .map(|(to, bytes)| {
                    assert_eq!(*to, OUTSIDE);
                    bytes.clone()
                })
                .collect();
            let seen = Seen::of(&reassemble(&frames));
            assert_eq!((seen.source, seen.destination), (vip(v6), client(v6)));
            assert_eq!((seen.ports, seen.payload), ((80, 40000), vec![9; 992]));
            assert_eq!(seen.macs, (OUTSIDE_MAC, CLIENT_MAC));
        }
    }
}

// A8
#[test]
fn fragments_of_one_datagram_may_come_to_two_workers() {
    let mut world = world(false, Forwarding::Nat);
    let (whole, pieces) = pieces(false);
    let fates: Vec<_> = [(1, 2), (0, 0), (1, 1)]
        .iter()
        .map(|(worker, n)| world.burst(*worker, OUTSIDE, &[pieces[*n].clone()]).pop().unwrap())
        .collect();
    let got = reassemble(&sent(&fates, Forwarding::Nat));
    assert_eq!(Seen::of(&got).payload, whole.payload);
}

// A8
#[test]
fn a_fragment_whose_first_one_does_not_come_is_dropped_and_counted() {
    let mut world = world(false, Forwarding::Nat);
    let (_, pieces) = pieces(false);
    for piece in &pieces[1..] {
        assert_eq!(world.receive_bytes(OUTSIDE, piece).verdict, Verdict::Held);
    }
    world.sweep();
    assert_eq!(world.drops(Reason::FragmentTimeout), 0);
    world.seconds(2);
    world.sweep();
    assert_eq!(world.drops(Reason::FragmentTimeout), 2);
    let late = world.receive_bytes(OUTSIDE, &pieces[0]);
    assert_eq!(late.sent.len(), 1, "the first one goes, the others are gone");
}

// A8
#[test]
fn a_flood_of_fragments_is_bounded_and_every_one_is_counted() {
    let mut world = world(false, Forwarding::Nat);
    let (_, pieces) = pieces(false);
    for n in 0..2000_u16 {
        let mut bytes = pieces[1].clone();
        bytes[18..20].copy_from_slice(&n.to_be_bytes());
        let mut header = etherparse::Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
        header.header_checksum = header.calc_header_checksum();
        bytes.splice(14..34, header.to_bytes());
        world.burst(0, OUTSIDE, &[bytes]);
    }
    world.sweep();
    assert_eq!(world.drops(Reason::FragmentTimeout), 2000 - 512);
    world.seconds(2);
    world.sweep();
    assert_eq!(world.drops(Reason::FragmentTimeout), 2000);
    world.request(&udp(false));
}

// A8
#[test]
fn fragments_that_would_overwrite_ports_are_dropped() {
    let mut world = world(false, Forwarding::Nat);
    let whole = tcp(false, SYN).loose().data(&[7; 200]).bytes();
    let tiny = fragment(&whole, 0, 8);
    assert_eq!(world.receive_bytes(OUTSIDE, &tiny).dropped(), Reason::FragmentBad);
    let over = fragment(&whole, 8, 16);
    assert_eq!(world.receive_bytes(OUTSIDE, &over).dropped(), Reason::FragmentBad);
    let mut ragged = fragment(&udp(false).loose().data(&[7; 200]).bytes(), 0, 104);
    // More fragments to come, and no multiple of eight long.
    ragged.truncate(14 + 20 + 101);
    ragged[16..18].copy_from_slice(&121_u16.to_be_bytes());
    let mut header = etherparse::Ipv4Header::from_slice(&ragged[14..]).unwrap().0;
    header.header_checksum = header.calc_header_checksum();
    ragged.splice(14..34, header.to_bytes());
    assert_eq!(world.receive_bytes(OUTSIDE, &ragged).dropped(), Reason::FragmentBad);
}

#[test]
fn later_fragments_are_not_read_as_ports_and_open_nothing() {
    let mut world = world(false, Forwarding::Nat);
    // A later fragment whose payload looks like a UDP header to the service.
    let disguised = [&[7; 400][..], &udp(false).bytes()[34..]].concat();
    let whole = udp(false).loose().to(vip(false), 81).data(&disguised).bytes();
    let piece = fragment(&whole, 408, whole.len() - 34);
    assert_eq!(world.receive_bytes(OUTSIDE, &piece).verdict, Verdict::Held);
    assert_eq!(world.conns().len(), 0);
    let first = world.receive_bytes(OUTSIDE, &fragment(&whole, 0, 408));
    assert_eq!(first.dropped(), Reason::NoService);
    world.seconds(2);
    world.sweep();
    assert_eq!(world.drops(Reason::FragmentTimeout), 1);
}

#[test]
fn an_ipv4_packet_that_may_be_cut_is_cut_to_the_mtu_of_its_way() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct] {
        for mtu in [1400, 576, 100, 68] {
            let mut world = world(false, method);
            world.hop(real(false, 11), |hop| hop.mtu = mtu);
            let frame = udp(false).loose().data(&(0..1400).map(|n| n as u8).collect::<Vec<_>>());
            let fate = world.receive(OUTSIDE, &frame);
            let frames = sent(&[fate], method);
            assert!(frames.iter().all(|bytes| bytes.len() <= 14 + usize::from(mtu)));
            assert!(frames.len() >= 1428 / usize::from(mtu));
            let got = Seen::of(&reassemble(&frames));
            assert_eq!((got.payload, world.all_drops()), (frame.payload, 0), "{method:?} {mtu}");
            let to = if method.is_one_way() { vip(false) } else { real(false, 11) };
            assert_eq!(got.destination, to);
        }
    }
}

#[test]
fn a_reply_that_may_be_cut_is_cut_and_so_is_a_fragment() {
    let mut world = world(false, Forwarding::Nat);
    let request = world.request(&udp(false));
    world.device(OUTSIDE, |device| device.mtu = 600);
    let answer = Frame::answer(&request, 0).loose().data(&[9; 1192]).bytes();
    let mut frames = Vec::new();
    for (from, to) in [(0, 800), (800, 1200)] {
        let fate = world.receive_bytes(INSIDE, &fragment(&answer, from, to));
        frames.extend(fate.sent.into_iter().map(|(_, bytes)| bytes));
    }
    assert_eq!(frames.len(), 3);
    let seen = Seen::of(&reassemble(&frames));
    assert_eq!((seen.source, seen.payload), (vip(false), vec![9; 1192]));
}

#[test]
fn a_packet_that_may_be_cut_goes_through_the_tunnel_in_two() {
    for outer_v6 in [false, true] {
        let service = web(false, Protocol::Udp, Forwarding::Tunnel);
        let mut world = World::new(&[service.real(real(outer_v6, 11), None, 1)]);
        let frame = udp(false).loose().data(&[7; 1472]);
        let fate = world.receive(OUTSIDE, &frame);
        let frames: Vec<_> = fate.sent.into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(frames.len(), 2);
        assert!(frames.iter().all(|bytes| bytes.len() <= 1514));
        let outer = Seen::of(&reassemble(&frames));
        assert_eq!(outer.destination, real(outer_v6, 11));
        assert_eq!(Seen::of(&outer.inner()).payload, frame.payload);
    }
}

#[test]
fn a_first_fragment_that_cannot_be_sent_takes_the_others_with_it() {
    let mut world = world(false, Forwarding::Nat);
    let (_, pieces) = pieces(false);
    world.request(&udp(false));
    world.device(INSIDE, |device| device.usable = false);
    for piece in &pieces {
        assert_eq!(world.receive_bytes(OUTSIDE, piece).dropped(), Reason::DeviceDown);
    }
}
