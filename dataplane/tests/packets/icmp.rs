//! ICMP: echo, neighbours, and errors that pass through or are answered with.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::lease::Fresh;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Protocol};

use crate::harness::{
    CLIENT_MAC, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, client, either, ip, local,
    mac_of, own, real, vip, web,
};
use crate::packet::{ACK, Frame, PSH, SYN, Seen, icmp_error, tcp, udp};

const MACS: ([u8; 6], [u8; 6]) = (CLIENT_MAC, OUTSIDE_MAC);
const METHODS: [Forwarding; 4] =
    [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel];

fn world(v6: bool, protocol: Protocol, method: Forwarding) -> World {
    let port = (!method.is_one_way()).then_some(8080);
    World::new(&[web(v6, protocol, method).real(real(v6, 11), port, 1)])
}

fn router(v6: bool) -> IpAddr {
    either(v6, "203.0.113.1", "2001:db8:f::1")
}

/// Type and code of: unreachable port, too big, time exceeded, parameter problem.
fn kinds(v6: bool) -> [[u8; 2]; 4] {
    if v6 { [[1, 4], [2, 0], [3, 0], [4, 0]] } else { [[3, 3], [3, 4], [11, 0], [12, 0]] }
}

/// What an error quotes: from the IP header on, all of it or eight bytes of the transport header.
fn quote(bytes: &[u8], short: bool) -> &[u8] {
    let packet = &bytes[14..];
    let headers = if packet[0] >> 4 == 4 { 20 } else { 40 };
    if short { &packet[..headers + 8] } else { packet }
}

/// The quoted packet's addresses and ports.
fn quoted(seen: &Seen) -> (IpAddr, IpAddr, (u16, u16)) {
    let quote = &seen.payload[8..];
    let (source, destination, at): (IpAddr, IpAddr, usize) = if quote[0] >> 4 == 4 {
        let a = <[u8; 4]>::try_from(&quote[12..16]).unwrap();
        let b = <[u8; 4]>::try_from(&quote[16..20]).unwrap();
        let header = etherparse::Ipv4Header::from_slice(quote).unwrap().0;
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "inside");
        (a.into(), b.into(), 20)
    } else {
        let a = <[u8; 16]>::try_from(&quote[8..24]).unwrap();
        let b = <[u8; 16]>::try_from(&quote[24..40]).unwrap();
        (a.into(), b.into(), 40)
    };
    let port = |at: usize| u16::from_be_bytes([quote[at], quote[at + 1]]);
    (source, destination, (port(at), port(at + 2)))
}

// A10, from the real's side.
#[test]
fn an_error_about_a_packet_to_the_real_is_told_to_the_client_in_its_own_words() {
    for method in [Forwarding::Nat, Forwarding::Fullnat] {
        for v6 in [false, true] {
            for (protocol, frame) in
                [(Protocol::Tcp, tcp(v6, SYN).data(b"more")), (Protocol::Udp, udp(v6))]
            {
                for (kind, short) in kinds(v6).into_iter().zip([true, false, true, false]) {
                    let mut world = world(v6, protocol, method);
                    let request = world.request(&frame);
                    let sent = Seen::of(&request);
                    let macs = (mac_of(real(v6, 11)), INSIDE_MAC);
                    let error = icmp_error(
                        macs,
                        router(v6),
                        sent.source,
                        kind,
                        1300,
                        quote(&request, short),
                    );
                    let got = Seen::of(&world.receive_bytes(INSIDE, &error).one(OUTSIDE));
                    assert_eq!(got.macs, (OUTSIDE_MAC, CLIENT_MAC));
                    assert_eq!((got.source, got.destination), (vip(v6), client(v6)));
                    assert_eq!(got.payload[..2], kind);
                    assert_eq!(got.payload[4..8], 1300_u32.to_be_bytes(), "the MTU is kept");
                    assert_eq!(quoted(&got), (client(v6), vip(v6), (40000, 80)));
                    assert_eq!(world.event(Event::IcmpTranslated), 1);
                }
            }
        }
    }
}

// A10, from the client's side.
#[test]
fn an_error_about_a_packet_to_the_client_is_told_to_the_real_in_its_own_words() {
    for method in METHODS {
        for v6 in [false, true] {
            for (kind, short) in kinds(v6).into_iter().zip([true, false, true, false]) {
                let mut world = world(v6, Protocol::Tcp, method);
                let sent = Seen::of(&world.request(&tcp(v6, SYN)));
                // What the client or a router before it has got.
                let reply = Frame::answer(&tcp(v6, 0).bytes(), ACK | PSH).bytes();
                let error = icmp_error(MACS, router(v6), vip(v6), kind, 1300, quote(&reply, short));
                let got = world.receive_bytes(OUTSIDE, &error).one(INSIDE);
                let mut seen = Seen::of(&got);
                assert_eq!(seen.macs, (INSIDE_MAC, mac_of(real(v6, 11))));
                if method == Forwarding::Tunnel {
                    assert_eq!(seen.destination, real(v6, 11));
                    seen = Seen::of(&seen.inner());
                }
                let (to, port) =
                    if method.is_one_way() { (vip(v6), 80) } else { (real(v6, 11), 8080) };
                let (from, client_end) = if method == Forwarding::Fullnat {
                    (local(v6), (sent.source, sent.ports.0))
                } else {
                    (router(v6), (client(v6), 40000))
                };
                assert_eq!((seen.source, seen.destination), (from, to), "{method:?}");
                assert_eq!(seen.payload[..2], kind);
                assert_eq!(quoted(&seen), (to, client_end.0, (port, client_end.1)));
                assert_eq!(world.all_drops(), 0);
                let translated = u64::from(!method.is_one_way());
                assert_eq!(world.event(Event::IcmpTranslated), translated);
            }
        }
    }
}

#[test]
fn errors_that_quote_nothing_of_ours_are_dropped_and_change_nothing() {
    let mut world = world(false, Protocol::Tcp, Forwarding::Nat);
    let request = world.request(&tcp(false, SYN));
    let before = world.conn();
    let reply = |frame: Frame| Frame::answer(&frame.bytes(), ACK).bytes();
    let to_vip = |quoted: &[u8]| icmp_error(MACS, router(false), vip(false), [3, 3], 0, quoted);
    let cases = [
        to_vip(&reply(tcp(false, 0).by_port(40001))[14..]),
        to_vip(&reply(tcp(false, 0).to(vip(false), 81))[14..]),
        // From the client to the VIP: we never sent this to the client.
        to_vip(&tcp(false, 0).bytes()[14..]),
        // Quotes another sender than the one it is sent to.
        icmp_error(MACS, router(false), local(false), [3, 3], 0, &reply(tcp(false, 0))[14..]),
        icmp_error(MACS, router(false), ip("203.0.113.9"), [3, 3], 0, &request[14..]),
    ];
    for bytes in cases {
        let fate = world.receive_bytes(OUTSIDE, &bytes);
        assert_eq!(fate.dropped(), Reason::IcmpNoConnection);
    }
    // A wrong checksum, and a quote that ends inside the ports.
    let good = to_vip(&reply(tcp(false, 0))[14..]);
    let mut wrong = good.clone();
    wrong[50] ^= 1;
    assert_eq!(world.receive_bytes(OUTSIDE, &wrong).dropped(), Reason::Malformed);
    let short = to_vip(&reply(tcp(false, 0))[14..14 + 27]);
    assert_eq!(world.receive_bytes(OUTSIDE, &short).dropped(), Reason::Malformed);
    assert_eq!(world.conn(), before);
    world.receive_bytes(OUTSIDE, &good).one(INSIDE);
}

// A9
#[test]
fn a_packet_too_big_for_the_tunnel_is_answered_with_the_mtu_that_fits() {
    for (inner_v6, outer_v6, fits) in
        [(false, false, 1480), (true, false, 1480), (false, true, 1460), (true, true, 1460)]
    {
        let service = web(inner_v6, Protocol::Tcp, Forwarding::Tunnel);
        let mut world = World::new(&[service.real(real(outer_v6, 11), None, 1)]);
        let headers = if inner_v6 { 60 } else { 40 };
        world.request(&tcp(inner_v6, SYN));
        let frame = |length: usize| tcp(inner_v6, ACK).data(&vec![7; length - headers]);
        let seen = Seen::of(&world.request(&frame(fits)));
        assert_eq!(seen.payload.len(), fits);
        let got = world.receive(OUTSIDE, &frame(fits + 1)).one(OUTSIDE);
        let seen = Seen::of(&got);
        assert_eq!((seen.source, seen.destination), (own(inner_v6, OUTSIDE), client(inner_v6)));
        assert_eq!(seen.payload[..2], if inner_v6 { [2, 0] } else { [3, 4] });
        assert_eq!(seen.payload[4..8], (fits as u32).to_be_bytes());
        let quoted = &frame(fits + 1).bytes()[14..][..seen.payload.len() - 8];
        assert_eq!(&seen.payload[8..], quoted);
        assert_eq!(world.drops(Reason::TooBig), 1);
    }
}

// A9
#[test]
fn a_router_in_the_tunnels_way_lowers_its_mtu_for_the_next_packet_and_for_ten_minutes() {
    for outer_v6 in [false, true] {
        let service = web(false, Protocol::Tcp, Forwarding::Tunnel);
        let mut world = World::new(&[service.real(real(outer_v6, 11), None, 1)]);
        world.request(&tcp(false, SYN));
        let big = tcp(false, ACK).data(&[7; 1400]);
        let packet = world.request(&big);
        let kind = if outer_v6 { [2, 0] } else { [3, 4] };
        let hop = either(outer_v6, "10.9.9.9", "fd00:9::9");
        let macs = (mac_of(real(outer_v6, 11)), INSIDE_MAC);
        let short = &packet[14..14 + if outer_v6 { 48 } else { 28 }];
        let error = icmp_error(macs, hop, own(outer_v6, INSIDE), kind, 1300, short);
        assert_eq!(world.receive_bytes(INSIDE, &error).dropped(), Reason::IcmpNoConnection);
        let seen = Seen::of(&world.receive(OUTSIDE, &big).one(OUTSIDE));
        let fits = 1300 - if outer_v6 { 40 } else { 20 };
        assert_eq!((seen.payload[0], seen.payload[1]), (3, 4));
        assert_eq!(seen.payload[4..8], u32::to_be_bytes(fits));
        world.request(&tcp(false, ACK).data(&vec![7; fits as usize - 40]));
        world.advance(Duration::from_secs(601));
        world.request(&big);
    }
}

#[test]
fn a_packet_too_big_for_the_way_to_a_real_or_client_is_told_to_its_sender() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct] {
        for v6 in [false, true] {
            let mut world = world(v6, Protocol::Tcp, method);
            let request = world.request(&tcp(v6, SYN));
            world.hop(real(v6, 11), |hop| hop.mtu = 1400);
            let big = tcp(v6, ACK).data(&[7; 1361]);
            let seen = Seen::of(&world.receive(OUTSIDE, &big).one(OUTSIDE));
            assert_eq!(seen.payload[..2], if v6 { [2, 0] } else { [3, 4] });
            assert_eq!(seen.payload[4..8], 1400_u32.to_be_bytes());
            if method == Forwarding::Direct {
                continue;
            }
            world.device(OUTSIDE, |device| device.mtu = 1300);
            let answer = Frame::answer(&request, ACK).data(&[7; 1261]);
            let seen = Seen::of(&world.receive(INSIDE, &answer).one(INSIDE));
            assert_eq!(seen.destination, real(v6, 11));
            assert_eq!(seen.payload[4..8], 1300_u32.to_be_bytes());
            assert_eq!(world.drops(Reason::TooBig), 2);
        }
    }
}

// A11
#[test]
fn an_echo_request_to_a_vip_is_answered() {
    for v6 in [false, true] {
        let mut world = world(v6, Protocol::Tcp, Forwarding::Nat);
        let (ask, answer) = if v6 { (128, 129) } else { (8, 0) };
        let ping = |to| icmp_error(MACS, client(v6), to, [ask, 0], 0x1234_0001, b"abcdefgh?");
        let seen = Seen::of(&world.receive_bytes(OUTSIDE, &ping(vip(v6))).one(OUTSIDE));
        assert_eq!(seen.macs, (OUTSIDE_MAC, CLIENT_MAC));
        assert_eq!((seen.source, seen.destination), (vip(v6), client(v6)));
        assert_eq!(seen.payload[..2], [answer, 0]);
        assert_eq!(seen.payload[4..], [&[0x12, 0x34, 0, 1], &b"abcdefgh?"[..]].concat());
        let fate = world.receive_bytes(OUTSIDE, &ping(router(v6)));
        assert_eq!(fate.dropped(), Reason::IcmpUnsupported);
        assert_eq!(world.event(Event::EchoAnswered), 1);
    }
}

pub fn arp(sender: [u8; 4], target: [u8; 4], operation: u8) -> Vec<u8> {
    let mut bytes = [&[0xff; 6][..], &CLIENT_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    bytes.extend([&CLIENT_MAC[..], &sender, &[0; 6], &target].concat());
    bytes.resize(60, 0);
    bytes
}

pub fn solicitation(target: IpAddr) -> Vec<u8> {
    let IpAddr::V6(target) = target else { panic!() };
    let mut group =
        ip("ff02::1:ff00:0").to_string().parse::<std::net::Ipv6Addr>().unwrap().octets();
    group[13..].copy_from_slice(&target.octets()[13..]);
    let to_mac = [0x33, 0x33, 0xff, group[13], group[14], group[15]];
    let body = [&target.octets()[..], &[1, 1], &CLIENT_MAC].concat();
    let mut frame =
        icmp_error((CLIENT_MAC, to_mac), client(true), IpAddr::from(group), [135, 0], 0, &body);
    frame[21] = 255;
    frame
}

#[test]
fn neighbours_are_answered_for_vips_and_local_addresses_while_the_lease_lasts() {
    let mut world = world(false, Protocol::Tcp, Forwarding::Nat);
    for target in [[192, 0, 2, 1], [10, 0, 0, 100]] {
        let got = world.receive_bytes(OUTSIDE, &arp([192, 0, 2, 77], target, 1)).one(OUTSIDE);
        let expected = [
            &CLIENT_MAC[..],
            &OUTSIDE_MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &OUTSIDE_MAC,
            &target,
            &CLIENT_MAC,
            &[192, 0, 2, 77],
        ];
        assert_eq!(got, expected.concat());
    }
    let mut six = crate::icmp::world(true, Protocol::Tcp, Forwarding::Nat);
    for target in [vip(true), local(true)] {
        let got = six.receive_bytes(OUTSIDE, &solicitation(target)).one(OUTSIDE);
        let seen = Seen::of(&got);
        assert_eq!((seen.macs, seen.ttl), ((OUTSIDE_MAC, CLIENT_MAC), 255));
        assert_eq!((seen.source, seen.destination), (target, client(true)));
        assert_eq!(seen.payload[..2], [136, 0]);
        assert_eq!(seen.payload[26..32], OUTSIDE_MAC);
    }
    assert_eq!((world.event(Event::NeighborAnswered), six.event(Event::NeighborAnswered)), (2, 2));
    (world.lease, six.lease) = (Fresh::NONE, Fresh::NONE);
    let fate = world.receive_bytes(OUTSIDE, &arp([192, 0, 2, 77], [192, 0, 2, 1], 1));
    assert_eq!(fate.dropped(), Reason::NoLease);
    assert_eq!(six.receive_bytes(OUTSIDE, &solicitation(vip(true))).dropped(), Reason::NoLease);
    // Forwarding goes on without it.
    world.request(&tcp(false, SYN));
}

#[test]
fn neighbour_messages_that_are_no_question_for_us_are_ignored() {
    let mut world = world(false, Protocol::Tcp, Forwarding::Nat);
    let cases = [
        ("another host", arp([192, 0, 2, 77], [192, 0, 2, 78], 1)),
        ("a reply", arp([192, 0, 2, 77], [192, 0, 2, 1], 2)),
        ("another host, v6", solicitation(client(true))),
        ("router solicitation", {
            let mut frame = icmp_error(MACS, client(true), ip("2001:db8::1"), [133, 0], 0, &[]);
            frame[21] = 255;
            frame
        }),
    ];
    for (name, bytes) in cases {
        let fate = world.receive_bytes(OUTSIDE, &bytes);
        assert_eq!(fate.dropped(), Reason::NeighborIgnored, "{name}");
    }
    let mut far = solicitation(vip(true));
    far[21] = 64;
    assert_eq!(world.receive_bytes(OUTSIDE, &far).dropped(), Reason::NeighborIgnored);
}
