//! Frames that are not forwarded: each with its reason, each counted once.

use std::time::Duration;

use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Protocol};
use etherparse::Ipv4Header;

use crate::harness::{
    CLIENT_MAC, INSIDE, OUTSIDE, OUTSIDE_MAC, With, World, client, ip, local, own, real, vip, web,
};
use crate::packet::{ACK, Frame, SYN, Seen, frame_of, icmp_error, raw, tcp, udp};

const MACS: ([u8; 6], [u8; 6]) = (CLIENT_MAC, OUTSIDE_MAC);

fn world() -> World {
    let tcp = |v6| web(v6, Protocol::Tcp, Forwarding::Nat).real(real(v6, 11), None, 1);
    let named = |mut service: dataplane_api::service::Service, name: &str| {
        service.name = name.into();
        service
    };
    let udp = |v6| web(v6, Protocol::Udp, Forwarding::Nat).real(real(v6, 11), None, 1);
    World::new(&[
        named(tcp(false), "tcp4"),
        named(tcp(true), "tcp6"),
        named(udp(false), "udp4"),
        named(udp(true), "udp6"),
    ])
}

/// The frame with a change of its IPv4 header, and the checksum for it.
fn with_v4(frame: &Frame, change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let mut header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    bytes.splice(14..34, header.to_bytes());
    bytes
}

fn edited(frame: &Frame, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = frame.bytes();
    edit(&mut bytes);
    bytes
}

/// An IPv6 packet with a chain of extension headers (type, bytes) before its TCP header.
fn extended(chain: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let plain = tcp(true, SYN).bytes();
    let mut payload = Vec::new();
    for (n, (_, body)) in chain.iter().enumerate() {
        let next = chain.get(n + 1).map_or(6, |(kind, _)| *kind);
        payload.push(next);
        payload.extend_from_slice(&body[1..]);
    }
    payload.extend_from_slice(&plain[54..]);
    raw(MACS, client(true), vip(true), chain[0].0, &payload)
}

fn options(units: u8) -> Vec<u8> {
    let mut body = vec![0; 8 * (usize::from(units) + 1)];
    body[1] = units;
    body[2..6].copy_from_slice(&[1, 4, 0, 0]); // PadN
    body
}

fn check(cases: Vec<(&str, Vec<u8>, Reason)>) {
    for (name, bytes, reason) in cases {
        let mut world = world();
        let fate = world.receive_bytes(OUTSIDE, &bytes);
        assert_eq!(fate.dropped(), reason, "{name}");
        assert_eq!((world.drops(reason), world.all_drops()), (1, 1), "{name}");
        assert_eq!(world.conns().len(), 0, "{name}");
    }
}

// A1, end to end.
#[test]
fn a_frame_cut_anywhere_is_malformed_and_opens_nothing() {
    for (v6, frame) in [(false, tcp(false, SYN)), (true, tcp(true, SYN)), (false, udp(false))] {
        let whole = frame.bytes();
        let headers = if v6 { 54 } else { 34 } + if frame.flags.is_some() { 20 } else { 8 };
        let mut world = world();
        for length in 0..headers {
            let fate = world.receive_bytes(OUTSIDE, &whole[..length]);
            assert_eq!(fate.dropped(), Reason::Malformed, "{length} of {}", whole.len());
        }
        assert_eq!(world.drops(Reason::Malformed), headers as u64);
        world.request(&frame);
    }
}

// A1, A2, A13, A16
#[test]
fn ipv4_headers_that_lie_are_refused() {
    let syn = tcp(false, SYN);
    let options = {
        // Loose source route (RFC 791), four bytes and padding.
        let mut bytes = syn.bytes();
        bytes.splice(34..34, [131, 7, 4, 10, 0, 0, 1, 0]);
        bytes[14] = 0x47;
        let length = u16::from_be_bytes([bytes[16], bytes[17]]) + 8;
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        let header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
        let sum = header.calc_header_checksum();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    check(vec![
        ("ihl 4", edited(&syn, |b| b[14] = 0x44), Reason::Malformed),
        ("ihl over the end", edited(&syn, |b| b[14] = 0x4f), Reason::Malformed),
        ("total length under the header", with_v4(&syn, |h| h.total_len = 19), Reason::Malformed),
        ("total length over the frame", with_v4(&syn, |h| h.total_len = 41), Reason::Malformed),
        ("bad header checksum", edited(&syn, |b| b[24] ^= 1), Reason::BadIpChecksum),
        ("source route", options, Reason::IpOptions),
        ("SCTP", raw(MACS, client(false), vip(false), 132, &[0; 24]), Reason::UnsupportedProtocol),
        ("GRE", raw(MACS, client(false), vip(false), 47, &[0; 24]), Reason::UnsupportedProtocol),
        ("ESP", raw(MACS, client(true), vip(true), 50, &[0; 24]), Reason::UnsupportedProtocol),
        (
            "UDP-Lite",
            raw(MACS, client(true), vip(true), 136, &[0; 24]),
            Reason::UnsupportedProtocol,
        ),
        ("timestamp request", icmp(false, 13), Reason::IcmpUnsupported),
        ("group report", icmp(true, 143), Reason::IcmpUnsupported),
    ]);
}

fn icmp(v6: bool, kind: u8) -> Vec<u8> {
    icmp_error(MACS, client(v6), vip(v6), [kind, 0], 0, b"some bytes")
}

// A6
#[test]
fn an_ipv6_udp_packet_without_checksum_is_refused() {
    let bytes = edited(&udp(true), |b| b[60..62].fill(0));
    check(vec![("zero", bytes, Reason::ZeroUdpChecksum)]);
}

// A14
#[test]
fn tagged_frames_and_other_protocols_are_not_read_as_ip() {
    let tagged = |tags: &[[u8; 4]]| {
        edited(&tcp(false, SYN), |b| {
            b.splice(12..12, tags.concat());
        })
    };
    let kind = |kind: [u8; 2]| edited(&tcp(false, SYN), |b| b[12..14].copy_from_slice(&kind));
    check(vec![
        ("VLAN", tagged(&[[0x81, 0, 0, 5]]), Reason::UnsupportedEthertype),
        ("priority tag", tagged(&[[0x81, 0, 0xe0, 0]]), Reason::UnsupportedEthertype),
        ("QinQ", tagged(&[[0x88, 0xa8, 0, 5], [0x81, 0, 0, 6]]), Reason::UnsupportedEthertype),
        ("802.3 length", kind([0, 46]), Reason::UnsupportedEthertype),
        ("LLDP", kind([0x88, 0xcc]), Reason::UnsupportedEthertype),
        ("IPv6 said, IPv4 meant", kind([0x86, 0xdd]), Reason::Malformed),
    ]);
}

// A15
#[test]
fn extension_headers_are_walked_up_to_a_bound() {
    let mut good = vec![(0, options(0)), (60, options(2)), (43, vec![0; 8]), (60, options(0))];
    let mut world = world();
    let got = world.receive_bytes(OUTSIDE, &extended(&good)).one(INSIDE);
    let seen = Seen::of(&got);
    assert_eq!((seen.destination, seen.ports.1), (real(true, 11), 80));
    good.extend((0..5).map(|_| (60, options(0))));
    let jumbo = edited(&tcp(true, SYN), |b| {
        b[18..20].fill(0);
        b[20] = 0;
    });
    let mut routed = options(0);
    routed[3] = 1;
    check(vec![
        ("nine headers", extended(&good), Reason::ExtensionHeaders),
        (
            "hop-by-hop second",
            extended(&[(60, options(0)), (0, options(0))]),
            Reason::ExtensionHeaders,
        ),
        ("source routing", extended(&[(43, routed)]), Reason::ExtensionHeaders),
        (
            "over the end",
            extended(&[(60, {
                let mut o = options(0);
                o[1] = 200;
                o
            })]),
            Reason::Malformed,
        ),
        ("jumbogram", jumbo, Reason::ExtensionHeaders),
        ("no next header", raw(MACS, client(true), vip(true), 59, &[]), Reason::ExtensionHeaders),
    ]);
}

// A17
#[test]
fn sources_that_no_client_can_have_are_refused() {
    let from = |source: &str| tcp(ip(source).is_ipv6(), SYN).from(ip(source)).bytes();
    let mut cases = vec![
        ("group MAC", edited(&tcp(false, SYN), |b| b[6] = 3), Reason::BadSource),
        ("ours, full NAT's", from("10.0.0.100"), Reason::BadSource),
        ("ours, full NAT's, v6", from("fd00::100"), Reason::BadSource),
        ("not our MAC", edited(&tcp(false, SYN), |b| b[5] = 0xff), Reason::NotOurMac),
        ("the other interface's", edited(&tcp(false, SYN), |b| b[5] = 2), Reason::NotOurMac),
        ("broadcast", edited(&tcp(false, SYN), |b| b[..6].fill(0xff)), Reason::NotOurMac),
    ];
    for source in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::",
        "::1",
        "ff02::1",
        "::ffff:198.51.100.7",
        "2001:db8::1",
    ] {
        let bytes = match ip(source) {
            std::net::IpAddr::V6(v6) => {
                edited(&tcp(true, SYN), |b| b[22..38].copy_from_slice(&v6.octets()))
            }
            std::net::IpAddr::V4(_) => from(source),
        };
        cases.push((source, bytes, Reason::BadSource));
    }
    check(cases);
    // A VIP, asking another VIP.
    let one = web(false, Protocol::Tcp, Forwarding::Nat).real(real(false, 11), None, 1);
    let mut two = one.clone();
    (two.name, two.listen) = ("two".into(), vec!["192.0.2.2:80".parse().unwrap()]);
    let mut world = World::new(&[one, two]);
    let fate = world.receive(OUTSIDE, &tcp(false, SYN).from(ip("192.0.2.2")));
    assert_eq!(fate.dropped(), Reason::BadSource);
    let mut ping = icmp(false, 8);
    ping = frame_of(MACS, &{
        let mut packet = ping.split_off(14);
        packet[12..16].copy_from_slice(&[192, 0, 2, 2]);
        packet[10..12].fill(0);
        let sum = Ipv4Header::from_slice(&packet).unwrap().0.calc_header_checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    });
    assert_eq!(world.receive_bytes(OUTSIDE, &ping).dropped(), Reason::BadSource);
}

#[test]
fn packets_to_nothing_of_ours_have_their_reasons() {
    check(vec![
        ("port without service", tcp(false, SYN).to(vip(false), 81).bytes(), Reason::NoService),
        (
            "local address",
            tcp(false, SYN).to(local(false), 5000).bytes(),
            Reason::NoReplyConnection,
        ),
        (
            "somebody else",
            tcp(false, SYN).to(ip("203.0.113.9"), 80).bytes(),
            Reason::NoReplyConnection,
        ),
        ("a group", tcp(false, SYN).to(ip("224.0.0.5"), 80).bytes(), Reason::NoService),
    ]);
    let mut world = world();
    let fate = world.receive_bytes(dataplane::address::DeviceId(7), &{
        let mut bytes = tcp(false, SYN).bytes();
        bytes[..6].fill(0);
        bytes
    });
    assert_eq!(fate.dropped(), Reason::DeviceDown, "an interface nobody knows");
}

// A12
#[test]
fn a_packet_at_the_end_of_its_life_is_answered_with_time_exceeded() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Tunnel] {
        for v6 in [false, true] {
            let service = web(v6, Protocol::Tcp, method).real(real(v6, 11), None, 1);
            let mut world = World::new(&[service]);
            for ttl in [0, 1] {
                let frame = Frame { ttl, ..tcp(v6, SYN).data(b"some data") };
                let got = world.receive(OUTSIDE, &frame).one(OUTSIDE);
                let seen = Seen::of(&got);
                assert_eq!(seen.macs, (OUTSIDE_MAC, CLIENT_MAC));
                assert_eq!((seen.source, seen.destination), (own(v6, OUTSIDE), client(v6)));
                let kind = if v6 { [3, 0] } else { [11, 0] };
                assert_eq!(seen.payload[..2], kind);
                assert_eq!(seen.payload[8..], frame.bytes()[14..], "quoted as it came");
            }
            assert_eq!((world.drops(Reason::TtlExceeded), world.event(Event::IcmpSent)), (2, 2));
            // The least that is forwarded.
            world.request(&Frame { ttl: 2, ..tcp(v6, ACK) });
        }
    }
}

#[test]
fn a_reply_at_the_end_of_its_life_is_told_to_the_real() {
    let mut world = world();
    let got = world.request(&tcp(false, SYN));
    let answer = Frame { ttl: 1, ..Frame::answer(&got, SYN | ACK) };
    let seen = Seen::of(&world.receive(INSIDE, &answer).one(INSIDE));
    assert_eq!((seen.source, seen.destination), (own(false, INSIDE), real(false, 11)));
    assert_eq!(seen.payload[..2], [11, 0]);
}

#[test]
fn errors_of_our_own_are_sent_a_thousand_a_second_and_what_is_more_is_counted() {
    let mut world = world();
    let old = Frame { ttl: 1, ..tcp(false, SYN) }.bytes();
    let count = |world: &mut World, packets: usize| {
        let before = world.event(Event::IcmpSent);
        for _ in 0..packets / 50 {
            world.burst(0, OUTSIDE, &vec![old.clone(); 50]);
        }
        world.event(Event::IcmpSent) - before
    };
    assert_eq!(count(&mut world, 1500), 1000);
    assert_eq!(world.event(Event::IcmpRateLimited), 500);
    assert_eq!(world.drops(Reason::TtlExceeded), 1500, "each dropped packet once");
    // Half a second, in steps that are no multiple of a thousandth.
    let mut sent = 0;
    for _ in 0..200 {
        world.advance(Duration::from_micros(2_500));
        sent += count(&mut world, 50);
    }
    assert_eq!(sent, 500);
    world.seconds(3600);
    assert_eq!(count(&mut world, 1500), 1000, "not an hour's worth");
}
