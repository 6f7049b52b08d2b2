//! The four methods, both families, both protocols: what leaves is exactly what should.

use dataplane::conn::State;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Protocol, Service};

use crate::harness::{
    CLIENT_MAC, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, client, ip, local, mac_of,
    own, real, vip, web,
};
use crate::packet::{ACK, FIN, Frame, PSH, SYN, Seen, tcp, udp};

const FAMILIES: [bool; 2] = [false, true];

fn one_real(v6: bool, protocol: Protocol, method: Forwarding) -> Service {
    let port = (!method.is_one_way()).then_some(8080);
    web(v6, protocol, method).real(real(v6, 11), port, 1)
}

/// What the real must see of a frame of the client.
fn expect_request(v6: bool, method: Forwarding, sent: &Frame, got: &[u8]) {
    let before = Seen::of(&sent.bytes());
    let mut expected = Seen { macs: (INSIDE_MAC, mac_of(real(v6, 11))), ..before };
    let mut seen = Seen::of(got);
    match method {
        Forwarding::Direct => {}
        Forwarding::Nat | Forwarding::Fullnat => {
            expected.destination = real(v6, 11);
            expected.ports.1 = 8080;
            expected.ttl -= 1;
        }
        Forwarding::Tunnel => {
            assert_eq!((seen.source, seen.destination), (own(v6, INSIDE), real(v6, 11)));
            seen = Seen::of(&seen.inner());
            expected.ttl -= 1;
        }
    }
    if method == Forwarding::Fullnat {
        assert_eq!(seen.source, local(v6));
        assert!((5000..5064).contains(&seen.ports.0));
        (expected.source, expected.ports.0) = (seen.source, seen.ports.0);
    }
    assert_eq!(seen, expected, "{method:?}");
    if method == Forwarding::Direct {
        assert_eq!(got[12..], sent.bytes()[12..], "nothing but the MAC addresses changes");
    }
}

/// What the client must see of a frame of the real.
fn expect_reply(v6: bool, sent: &Frame, got: &[u8]) {
    let expected = Seen {
        macs: (OUTSIDE_MAC, CLIENT_MAC),
        source: vip(v6),
        destination: client(v6),
        ports: (80, 40000),
        ttl: sent.ttl - 1,
        ..Seen::of(&sent.bytes())
    };
    assert_eq!(Seen::of(got), expected);
}

// The main road: issue point 2.
#[test]
fn a_tcp_connection_is_carried_by_every_method_from_handshake_to_close() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel] {
        for v6 in FAMILIES {
            let mut world = World::new(&[one_real(v6, Protocol::Tcp, method)]);
            let two_way = !method.is_one_way();
            // (from the client, flags, payload, state afterwards, (active, inactive))
            let steps = [
                (true, SYN, "", State::SynReceived, (0, 1)),
                (false, SYN | ACK, "", State::SynReceived, (0, 1)),
                (true, ACK, "", State::Established, (1, 0)),
                (true, ACK | PSH, "GET / HTTP/1.1", State::Established, (1, 0)),
                (false, ACK | PSH, "HTTP/1.1 200 OK, odd", State::Established, (1, 0)),
                (false, FIN | ACK, "", State::FinWait, (0, 1)),
                (true, FIN | ACK, "", State::TimeWait, (0, 1)),
            ];
            let mut last = Vec::new();
            for (from_client, flags, text, state, load) in steps {
                if from_client {
                    let frame = tcp(v6, flags).data(text.as_bytes());
                    last = world.request(&frame);
                    expect_request(v6, method, &frame, &last);
                } else if two_way {
                    let frame = Frame::answer(&last, flags).data(text.as_bytes());
                    let got = world.reply(&frame);
                    expect_reply(v6, &frame, &got);
                }
                if two_way {
                    assert_eq!(world.state(), state, "{method:?}");
                    assert_eq!(world.load(real(v6, 11)), load);
                }
            }
            if !two_way {
                // Replies pass us by: the client's FIN is all there is to see.
                assert_eq!(world.state(), State::FinWait);
            }
            let replies = if two_way { 3 } else { 0 };
            assert_eq!(world.traffic(world.real_id(real(v6, 11))), (4, replies));
            assert_eq!((world.all_drops(), world.event(Event::ConnOpened)), (0, 1));
        }
    }
}

#[test]
fn udp_is_carried_by_every_method_and_answered() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel] {
        for v6 in FAMILIES {
            let mut world = World::new(&[one_real(v6, Protocol::Udp, method)]);
            let got = world.request(&udp(v6));
            expect_request(v6, method, &udp(v6), &got);
            assert_eq!(world.state(), State::UdpNew);
            if method.is_one_way() {
                world.request(&udp(v6));
            } else {
                let frame = Frame::answer(&got, 0).data(b"of odd length");
                let got = world.reply(&frame);
                expect_reply(v6, &frame, &got);
            }
            assert_eq!((world.state(), world.load(real(v6, 11))), (State::Udp, (1, 0)));
            assert_eq!(world.all_drops(), 0);
        }
    }
}

// A20
#[test]
fn a_tunnel_carries_either_family_in_either_with_dscp_and_ecn_copied() {
    for inner_v6 in FAMILIES {
        for outer_v6 in FAMILIES {
            for frame in [tcp(inner_v6, SYN), udp(inner_v6)] {
                let protocol = if frame.flags.is_some() { Protocol::Tcp } else { Protocol::Udp };
                let service = web(inner_v6, protocol, Forwarding::Tunnel);
                let mut world = World::new(&[service.real(real(outer_v6, 11), None, 1)]);
                let frame = Frame { class: 0xb9, ..frame };
                let seen = Seen::of(&world.request(&frame));
                assert_eq!(
                    (seen.source, seen.destination),
                    (own(outer_v6, INSIDE), real(outer_v6, 11))
                );
                assert_eq!((seen.class, seen.ttl), (0xb9, 64));
                assert_eq!(seen.protocol, if inner_v6 { 41 } else { 4 });
                assert!(seen.dont_fragment);
                let inner = Seen::of(&seen.inner());
                let macs = (INSIDE_MAC, mac_of(real(outer_v6, 11)));
                let expected = Seen { macs, ttl: 60, ..Seen::of(&frame.bytes()) };
                assert_eq!(inner, expected);
            }
        }
    }
}

// A1: end to end; byte by byte in wire/packet.
#[test]
fn ethernet_padding_is_in_no_checksum_and_in_no_tunnel() {
    for method in [Forwarding::Nat, Forwarding::Tunnel] {
        let mut world = World::new(&[one_real(false, Protocol::Tcp, method)]);
        let mut bytes = tcp(false, SYN).bytes();
        bytes.resize(60, 0xee);
        let got = world.receive_bytes(OUTSIDE, &bytes).one(INSIDE);
        let seen = Seen::of(&got);
        if method == Forwarding::Tunnel {
            assert_eq!(seen.payload.len(), 40);
            assert_eq!(got.len(), 14 + 20 + 40);
        } else {
            assert_eq!((seen.payload.len(), seen.ports.1), (0, 8080));
        }
    }
}

// A3
#[test]
fn a_wrong_transport_checksum_stays_wrong_by_as_much() {
    for v6 in FAMILIES {
        for method in [Forwarding::Nat, Forwarding::Fullnat] {
            let mut world = World::new(&[one_real(v6, Protocol::Tcp, method)]);
            let mut bytes = tcp(v6, SYN).bytes();
            let at = if v6 { 54 } else { 34 } + 16;
            bytes[at] ^= 0x40;
            let off = Seen::unjudged(&bytes);
            let got = Seen::unjudged(&world.receive_bytes(OUTSIDE, &bytes).one(INSIDE));
            assert_eq!(got.ports.1, 8080);
            let raw_sum = |seen: &Seen, frame: &[u8]| {
                let start = if v6 { 54 } else { 34 };
                crate::packet::transport_sum(&Seen {
                    payload: frame[start..].to_vec(),
                    ..seen.clone()
                })
            };
            let mut world = World::new(&[one_real(v6, Protocol::Tcp, method)]);
            let frame = world.receive_bytes(OUTSIDE, &bytes).one(INSIDE);
            assert_ne!(raw_sum(&off, &bytes), 0);
            assert_eq!(raw_sum(&got, &frame), raw_sum(&off, &bytes), "wrong by the same");
        }
    }
}

// A4
#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    for method in [Forwarding::Nat, Forwarding::Fullnat] {
        let mut world = World::new(&[one_real(false, Protocol::Udp, method)]);
        let mut bytes = udp(false).bytes();
        bytes[40..42].fill(0);
        let got = world.receive_bytes(OUTSIDE, &bytes).one(INSIDE);
        assert_eq!(got[40..42], [0, 0]);
        let mut answer = Frame::answer(&got, 0).bytes();
        answer[40..42].fill(0);
        assert_eq!(world.receive_bytes(INSIDE, &answer).one(OUTSIDE)[40..42], [0, 0]);
    }
}

// A5, end to end: incremental equals full for every value of a word of the payload.
#[test]
fn udp_checksums_that_become_zero_are_written_as_ones() {
    let mut world = World::new(&[one_real(false, Protocol::Udp, Forwarding::Nat)]);
    let mut ones = 0;
    for word in 0..=u16::MAX {
        let frame = udp(false).data(&word.to_be_bytes());
        let got = world.burst(0, OUTSIDE, &[frame.bytes()]).pop().unwrap().one(INSIDE);
        assert_ne!(got[40..42], [0, 0], "no checksum at all");
        ones += usize::from(got[40..42] == [0xff, 0xff]);
        Seen::of(&got);
    }
    assert_eq!(ones, 1);
}

// A17 and "one worker's request, another's reply": DESIGN section 2.
#[test]
fn a_reply_may_arrive_on_another_worker_than_the_request() {
    for method in [Forwarding::Nat, Forwarding::Fullnat] {
        for v6 in FAMILIES {
            let mut world = World::new(&[one_real(v6, Protocol::Tcp, method)]);
            let got = world.on(0, OUTSIDE, &tcp(v6, SYN)).one(INSIDE);
            let answer = Frame::answer(&got, SYN | ACK);
            expect_reply(v6, &answer, &world.on(1, INSIDE, &answer).one(OUTSIDE));
            world.on(1, OUTSIDE, &tcp(v6, ACK)).one(INSIDE);
            assert_eq!(world.state(), State::Established);
        }
    }
}

#[test]
fn replies_follow_the_client_to_its_new_mac_address_and_interface() {
    let mut world = World::new(&[one_real(false, Protocol::Tcp, Forwarding::Nat)]);
    let got = world.request(&tcp(false, SYN));
    let router = [2, 0, 0, 0, 9, 9];
    world.request(&Frame { macs: (router, OUTSIDE_MAC), ..tcp(false, SYN) });
    let reply = Seen::of(&world.reply(&Frame::answer(&got, SYN | ACK)));
    assert_eq!(reply.macs, (OUTSIDE_MAC, router));
    // The client is behind the other interface now.
    let moved = Frame { macs: (CLIENT_MAC, INSIDE_MAC), ..tcp(false, ACK) };
    world.receive(INSIDE, &moved).one(INSIDE);
    let reply = world.receive(INSIDE, &Frame::answer(&got, ACK)).one(INSIDE);
    assert_eq!(Seen::of(&reply).macs, (INSIDE_MAC, CLIENT_MAC));
}

#[test]
fn a_burst_of_many_flows_is_answered_each_with_its_own() {
    let mut world = World::new(&[one_real(true, Protocol::Tcp, Forwarding::Nat)]);
    let ports: Vec<u16> = (1..=64).map(|n| 1000 + n % 32).collect();
    let frames: Vec<_> = ports.iter().map(|port| tcp(true, SYN).by_port(*port).bytes()).collect();
    let fates = world.burst(0, OUTSIDE, &frames);
    for (port, fate) in ports.iter().zip(fates) {
        let seen = Seen::of(&fate.one(INSIDE));
        assert_eq!((seen.ports, seen.source), ((*port, 8080), client(true)));
    }
    assert_eq!(world.event(Event::ConnOpened), 32, "one for the two SYNs of a flow");
    world.audit();
}

#[test]
fn only_the_real_and_its_port_may_answer_to_a_local_port() {
    let mut world = World::new(&[one_real(false, Protocol::Tcp, Forwarding::Fullnat)]);
    let got = world.request(&tcp(false, SYN));
    let answer = Frame::answer(&got, SYN | ACK);
    let other_port = answer.clone().by_port(8081);
    let other_real = answer.clone().from(real(false, 12));
    let other_local = Frame { ports: (8080, answer.ports.1 ^ 1), ..answer.clone() };
    for stray in [other_port, other_real, other_local] {
        assert_eq!(world.receive(INSIDE, &stray).dropped(), Reason::NoReplyConnection);
    }
    world.reply(&answer);
}

// B3
#[test]
fn full_nat_runs_out_of_ports_counts_it_and_gets_them_back() {
    let mut world = World::new(&[one_real(false, Protocol::Udp, Forwarding::Fullnat)]);
    let mut used = std::collections::BTreeSet::new();
    for port in 1..=64 {
        let seen = Seen::of(&world.request(&udp(false).by_port(port)));
        assert!(used.insert(seen.ports.0), "port {} twice", seen.ports.0);
    }
    let fate = world.receive(OUTSIDE, &udp(false).by_port(65));
    assert_eq!(fate.dropped(), Reason::NoLocalPort);
    assert_eq!(world.drops(Reason::NoLocalPort), 1);
    assert_eq!(world.conns().len(), 64, "no entry is lost with it");
    world.seconds(31);
    world.sweep();
    assert_eq!(world.conns().len(), 0);
    for port in 65..=128 {
        world.request(&udp(false).by_port(port));
    }
}

// A18
#[test]
fn the_mss_of_a_syn_is_lowered_to_what_fits_the_tunnel_and_both_interfaces() {
    // (method, outer family, client's MTU, real's MTU, MSS wanted, seen)
    let cases = [
        (Forwarding::Tunnel, false, 1500, 1500, 1460, 1440),
        (Forwarding::Tunnel, true, 1500, 1500, 1460, 1420),
        (Forwarding::Tunnel, false, 1500, 1500, 1400, 1400),
        (Forwarding::Nat, false, 1500, 1500, 1460, 1460),
        (Forwarding::Nat, false, 1500, 1400, 1460, 1360),
        (Forwarding::Nat, false, 1300, 1500, 1460, 1260),
    ];
    for (method, outer_v6, outside, inside, wanted, expected) in cases {
        let service = web(false, Protocol::Tcp, method).real(real(outer_v6, 11), None, 1);
        let mut world = World::new(&[service]);
        world.device(OUTSIDE, |device| device.mtu = outside);
        world.device(INSIDE, |device| device.mtu = inside);
        let mut seen = Seen::of(&world.request(&Frame { mss: Some(wanted), ..tcp(false, SYN) }));
        if method == Forwarding::Tunnel {
            seen = Seen::of(&seen.inner());
        }
        assert_eq!(seen.mss, Some(expected));
        assert_eq!(world.event(Event::MssClamped), u64::from(wanted != expected));
    }
    // And that of the answer.
    let mut world = World::new(&[one_real(true, Protocol::Tcp, Forwarding::Nat)]);
    let got = world.request(&tcp(true, SYN));
    world.device(OUTSIDE, |device| device.mtu = 1280);
    let answer = Frame { mss: Some(1440), payload: vec![], ..Frame::answer(&got, SYN | ACK) };
    assert_eq!(Seen::of(&world.reply(&answer)).mss, Some(1220));
}

// A12
#[test]
fn direct_forwarding_leaves_the_ttl_alone() {
    let mut world = World::new(&[one_real(false, Protocol::Tcp, Forwarding::Direct)]);
    let got = world.request(&Frame { ttl: 1, ..tcp(false, SYN) });
    assert_eq!(Seen::of(&got).ttl, 1);
}

#[test]
fn a_range_of_ports_keeps_the_clients_port_and_one_service_serves_several_vips() {
    let listen = ["192.0.2.1:8000-8099", "192.0.2.9:*"];
    let service = crate::harness::service("many", Protocol::Tcp, &listen, Forwarding::Nat);
    let mut world = World::new(&[service.real(real(false, 11), None, 1)]);
    let second = ip("192.0.2.9");
    for (address, port) in [(vip(false), 8000), (vip(false), 8099), (second, 1), (second, 65535)] {
        let seen = Seen::of(&world.request(&tcp(false, SYN).to(address, port)));
        assert_eq!((seen.destination, seen.ports.1), (real(false, 11), port));
        let answer = Frame::answer(
            &Frame { destination: real(false, 11), ..tcp(false, SYN).to(real(false, 11), port) }
                .bytes(),
            SYN | ACK,
        );
        let seen = Seen::of(&world.reply(&answer));
        assert_eq!((seen.source, seen.ports.0), (address, port));
    }
    for port in [7999, 8100] {
        let fate = world.receive(OUTSIDE, &tcp(false, SYN).to(vip(false), port));
        assert_eq!(fate.dropped(), Reason::NoService);
    }
}
