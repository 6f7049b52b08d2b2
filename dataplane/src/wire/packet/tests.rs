use std::net::{IpAddr, Ipv6Addr};

use etherparse::PacketBuilder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::limits;

const HERE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT4: [u8; 4] = [192, 0, 2, 7];
const VIP4: [u8; 4] = [198, 51, 100, 10];

fn octets(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn client6() -> [u8; 16] {
    octets("2001:db8:1::7")
}

fn vip6() -> [u8; 16] {
    octets("2001:db8:2::10")
}

fn address(bytes: &[u8]) -> Address {
    match bytes.try_into() {
        Ok(v4) => Address::v4(u32::from_be_bytes(v4)),
        Err(_) => Address::v6(bytes.try_into().unwrap()),
    }
}

/// An IPv4 frame: `header` is what differs from a plain header, by offset.
fn v4(protocol: u8, segment: &[u8], header: &[(usize, u8)]) -> Vec<u8> {
    let mut ip = vec![0x45, 0x28, 0, 0, 0x12, 0x34, 0x40, 0, 63, protocol, 0, 0];
    ip.extend(CLIENT4);
    ip.extend(VIP4);
    ip[2..4].copy_from_slice(&(20 + segment.len() as u16).to_be_bytes());
    for &(at, value) in header {
        ip[at] = value;
    }
    ip[10..12].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&ip).ones_complement();
    ip[10..12].copy_from_slice(&sum.to_ne_bytes());
    [&THERE[..], &HERE, &[8, 0], &ip, segment].concat()
}

/// An IPv6 frame: `next` is the first of the headers that `payload` holds.
fn v6(next: u8, payload: &[u8], header: &[(usize, u8)]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    let mut ip = vec![0x62, 0x80, 0, 0, len[0], len[1], next, 63];
    ip.extend(client6());
    ip.extend(vip6());
    for &(at, value) in header {
        ip[at] = value;
    }
    [&THERE[..], &HERE, &[0x86, 0xdd], &ip, payload].concat()
}

/// Ports 1025 to 443.
fn tcp(flags: u8, payload: usize) -> Vec<u8> {
    let mut segment =
        vec![4, 1, 1, 187, 0, 0, 0, 9, 0, 0, 0, 8, 0x50, flags, 4, 0, 0xab, 0xcd, 0, 0];
    segment.resize(20 + payload, 0x5a);
    segment
}

/// Ports 1025 to 53.
fn udp(payload: usize) -> Vec<u8> {
    let len = (8 + payload as u16).to_be_bytes();
    let mut segment = vec![4, 1, 0, 53, len[0], len[1], 0xab, 0xcd];
    segment.resize(8 + payload, 0x5a);
    segment
}

fn reason(frame: &[u8]) -> Reason {
    parse(frame).map(|packet| panic!("accepted: {packet:?}")).unwrap_or_else(|reason| reason)
}

/// An ICMP error of `kind` that quotes `quote`, with its checksum.
fn error4(kind: u8, quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HERE, THERE)
        .ipv4(CLIENT4, VIP4, 64)
        .icmpv4_raw(kind, 1, [0; 4])
        .write(&mut frame, quote)
        .unwrap();
    frame
}

fn error6(kind: u8, quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HERE, THERE)
        .ipv6(client6(), vip6(), 64)
        .icmpv6_raw(kind, 0, [0; 4])
        .write(&mut frame, quote)
        .unwrap();
    frame
}

fn solicitation() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HERE, THERE)
        .ipv6(client6(), octets("ff02::1:ff00:10"), 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &[&vip6()[..], &[1, 1], &HERE].concat())
        .unwrap();
    frame
}

fn arp() -> Vec<u8> {
    let body = [&HERE[..], &CLIENT4, &[0; 6], &VIP4].concat();
    [&[0xff; 6][..], &HERE, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &body].concat()
}

/// A fragment header: offset in bytes.
fn fragment_header(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let cut = (offset | u16::from(more)).to_be_bytes();
    vec![next, 0, cut[0], cut[1], 0, 0, 0x56, 0x78]
}

/// One valid frame of each kind, without padding.
fn samples() -> Vec<Vec<u8>> {
    let quote4 = v4(6, &tcp(0x10, 0), &[])[14..].to_vec();
    let quote6 = v6(17, &udp(0), &[])[14..].to_vec();
    let options = [&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp(0x02, 0)].concat();
    let first6 = [fragment_header(17, 0, true), udp(8)].concat();
    let later6 = [fragment_header(17, 16, false), vec![7; 9]].concat();
    vec![
        v4(6, &tcp(0x18, 5), &[]),
        v4(17, &udp(20), &[]),
        v6(6, &tcp(0x02, 0), &[]),
        v6(17, &udp(30), &[]),
        v6(0, &options, &[]),
        v4(17, &udp(8), &[(6, 0x20)]),
        v4(17, &[7; 9], &[(6, 0), (7, 2)]),
        v6(44, &first6, &[]),
        v6(44, &later6, &[]),
        v4(1, &[8, 0, 0, 0, 1, 2, 3, 4], &[]),
        v6(58, &[128, 0, 0, 0, 1, 2, 3, 4], &[]),
        error4(3, &quote4),
        error6(2, &quote6),
        solicitation(),
        arp(),
    ]
}

fn assert_ordered(packet: &Packet, len: usize) {
    assert!(packet.network <= packet.transport && packet.transport <= packet.end, "{packet:?}");
    assert!(usize::from(packet.end) <= len, "{packet:?} of {len}");
    let headers = packet.network..=packet.transport;
    assert!(packet.fragment_header == 0 || headers.contains(&packet.fragment_header));
}

fn same(a: &Result<Packet, Reason>, b: &Result<Packet, Reason>) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

#[test]
fn the_samples_are_what_they_are_meant_to_be() {
    use Kind::{EchoRequest, IcmpError, LaterFragment, NeighborRequest, Tcp, Udp};
    let kinds: Vec<_> = samples().iter().map(|frame| parse(frame).unwrap().kind).collect();
    let expected = [
        Tcp,
        Udp,
        Tcp,
        Udp,
        Tcp,
        Udp,
        LaterFragment,
        Udp,
        LaterFragment,
        EchoRequest,
        EchoRequest,
        IcmpError,
        IcmpError,
        NeighborRequest,
        NeighborRequest,
    ];
    assert_eq!(kinds, expected);
}

/// Whether the straight line takes a frame.
fn plain(frame: &[u8]) -> bool {
    glance(frame).is_some_and(|head| head.is_usual())
}

#[test]
fn the_straight_line_takes_plain_packets_and_nothing_else() {
    let taken: Vec<_> = samples().iter().map(|frame| plain(frame)).collect();
    assert_eq!(taken.iter().filter(|&&taken| taken).count(), 4);
    assert_eq!(taken[..4], [true; 4]);
}

#[test]
fn a_frame_cut_short_anywhere_is_refused() {
    for (sample, frame) in samples().into_iter().enumerate() {
        for len in 0..frame.len() {
            assert_eq!(reason(&frame[..len]), Reason::Malformed, "sample {sample} cut at {len}");
        }
    }
}

#[test]
fn ethernet_padding_is_not_part_of_the_packet() {
    for mut frame in samples() {
        let len = frame.len();
        let bare = parse(&frame).map(|packet| packet.end);
        frame.resize(len + 46, 0xff);
        assert_eq!(parse(&frame).map(|packet| packet.end), bare);
        assert_eq!(bare, Ok(len as u16));
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let segment = tcp(0x10, 0);
    for header in [(0, 0x44), (0, 0x40), (0, 0x55), (3, 19), (3, 0), (3, 39), (3, 41), (2, 0xff)] {
        assert_eq!(reason(&v4(6, &segment, &[header])), Reason::Malformed, "{header:?}");
    }
    assert_eq!(reason(&v4(6, &segment, &[(0, 0x4f)])), Reason::Malformed, "options past total_len");
    for (at, value) in [(12, 0x40), (12, 0x60)] {
        let mut segment = segment.clone();
        segment[at] = value;
        assert_eq!(reason(&v4(6, &segment, &[])), Reason::Malformed, "data offset {value}");
        assert_eq!(reason(&v6(6, &segment, &[])), Reason::Malformed, "data offset {value}");
    }
    for len in [0, 7, 29, 255] {
        let mut segment = udp(20);
        segment[5] = len;
        assert_eq!(reason(&v4(17, &segment, &[])), Reason::Malformed, "UDP length {len}");
        assert_eq!(reason(&v6(17, &segment, &[])), Reason::Malformed, "UDP length {len}");
    }
    assert_eq!(reason(&v6(6, &segment, &[(0, 0x50)])), Reason::Malformed);
    assert_eq!(reason(&v6(6, &segment, &[(5, 21)])), Reason::Malformed);
    assert_eq!(reason(&v6(6, &segment, &[(4, 0xff), (5, 0xff)])), Reason::Malformed);
    for mut huge in [v4(17, &udp(65_500), &[]), v6(17, &udp(65_500), &[])] {
        huge.resize(70_000, 0);
        assert_eq!(reason(&huge), Reason::Malformed, "offsets would not fit");
    }
    let mut padded = v4(17, &udp(65_000), &[]);
    padded.resize(70_000, 0);
    assert!(same(&parse(&padded), &walk::frame(&padded)) && parse(&padded).is_ok());
}

#[test]
fn a_wrong_ip_header_checksum_is_found_and_a_wrong_transport_checksum_is_not_our_business() {
    for at in 14..34 {
        let mut frame = v4(6, &tcp(0x10, 0), &[]);
        frame[at] ^= 0x01;
        let got = reason(&frame);
        // The change of a length is found before.
        assert!(
            got == Reason::BadIpChecksum
                || (matches!(at, 14 | 16 | 17) && got == Reason::Malformed)
        );
    }
    for frame in [v4(6, &tcp(0x10, 0), &[]), v6(17, &udp(20), &[])] {
        let mut other = frame.clone();
        let at = usize::from(parse(&frame).unwrap().transport) + 6;
        other[at] ^= 0xff;
        assert!(same(&parse(&other), &parse(&frame)));
    }
}

#[test]
fn udp_without_checksum_is_for_ipv4_only() {
    let mut segment = udp(20);
    segment[6..8].fill(0);
    assert_eq!(parse(&v4(17, &segment, &[])).map(|packet| packet.kind), Ok(Kind::Udp));
    assert_eq!(reason(&v6(17, &segment, &[])), Reason::ZeroUdpChecksum);
    let first = [fragment_header(17, 0, true), segment[..24].to_vec()].concat();
    assert_eq!(reason(&v6(44, &first, &[])), Reason::ZeroUdpChecksum);
    let later = [fragment_header(17, 24, false), vec![0; 24]].concat();
    assert_eq!(parse(&v6(44, &later, &[])).map(|packet| packet.kind), Ok(Kind::LaterFragment));
}

#[test]
fn ip_options_are_refused() {
    // Record route, loose source route, timestamp, four no-operations.
    for option in [[7, 3, 4, 0], [131, 3, 4, 0], [68, 4, 5, 0], [1, 1, 1, 1]] {
        let mut frame = v4(6, &tcp(0x10, 0), &[(0, 0x46), (3, 44)]);
        frame.splice(34..34, option);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[14..24]);
        let sum = sum.add_slice(&frame[26..38]).ones_complement();
        frame[24..26].copy_from_slice(&sum.to_ne_bytes());
        assert_eq!(reason(&frame), Reason::IpOptions);
    }
}

#[test]
fn other_ethernet_types_tags_and_lengths_are_refused() {
    let good = v4(6, &tcp(0x10, 0), &[]);
    // 802.1Q, 802.1ad, 802.3 with LLC, LLDP, RARP.
    for kind in [[0x81, 0], [0x88, 0xa8], [0, 40], [0x88, 0xcc], [0x80, 0x35]] {
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&kind);
        assert_eq!(reason(&frame), Reason::UnsupportedEthertype);
        let mut tagged = good.clone();
        tagged.splice(12..12, [kind[0], kind[1], 0, 0]);
        assert_eq!(reason(&tagged), Reason::UnsupportedEthertype);
    }
}

#[test]
fn other_transport_protocols_are_refused() {
    // SCTP, GRE, ESP, UDP-Lite, DCCP, IPIP, and the other family's ICMP.
    for protocol in [132, 47, 50, 136, 33, 4, 41] {
        assert_eq!(reason(&v4(protocol, &tcp(2, 0), &[])), Reason::UnsupportedProtocol);
        assert_eq!(reason(&v6(protocol, &tcp(2, 0), &[])), Reason::UnsupportedProtocol);
    }
    assert_eq!(reason(&v4(58, &[128; 20], &[])), Reason::UnsupportedProtocol);
    assert_eq!(reason(&v6(1, &[8; 20], &[])), Reason::UnsupportedProtocol);
    assert_eq!(reason(&v4(47, &[0; 20], &[(7, 9)])), Reason::UnsupportedProtocol);
}

#[test]
fn addresses_that_no_host_has_are_refused_at_either_end() {
    let at4 = |at: usize, bytes: [u8; 4]| {
        let header: Vec<_> = bytes.iter().enumerate().map(|(i, &byte)| (at + i, byte)).collect();
        v4(6, &tcp(2, 0), &header)
    };
    for bytes in [[224, 0, 0, 1], [239, 9, 9, 9], [255; 4], [0; 4], [127, 0, 0, 1]] {
        assert_eq!(reason(&at4(12, bytes)), Reason::BadSource, "{bytes:?}");
        assert_eq!(reason(&at4(16, bytes)), Reason::NoService, "{bytes:?}");
    }
    assert_eq!(reason(&at4(12, VIP4)), Reason::BadSource);
    let at6 = |at: usize, text: &str| {
        let header: Vec<_> =
            octets(text).into_iter().enumerate().map(|(i, b)| (at + i, b)).collect();
        v6(6, &tcp(2, 0), &header)
    };
    for text in ["ff02::1", "ff0e::9", "::", "::1", "::192.0.2.1", "::ffff:192.0.2.7"] {
        assert_eq!(reason(&at6(8, text)), Reason::BadSource, "{text}");
        assert_eq!(reason(&at6(24, text)), Reason::NoService, "{text}");
    }
    assert_eq!(reason(&at6(8, "2001:db8:2::10")), Reason::BadSource);
    assert!(parse(&at6(8, "64:ff9b::192.0.2.7")).is_ok(), "NAT64 clients are clients");
    for mut frame in samples() {
        frame[6] |= 1;
        assert_eq!(reason(&frame), Reason::BadSource, "sent by a group MAC address");
    }
}

#[test]
fn tcp_flags_that_no_stack_sends_are_refused() {
    for flags in 0..=255_u8 {
        let (syn, fin, rst) = (flags & 2 != 0, flags & 1 != 0, flags & 4 != 0);
        let bad = flags & 0x3f == 0 || (syn && fin) || (syn && rst);
        for frame in [v4(6, &tcp(flags, 0), &[]), v6(6, &tcp(flags, 0), &[])] {
            match parse(&frame) {
                Ok(packet) => assert!(!bad && packet.tcp_flags == TcpFlags(flags)),
                Err(reason) => assert!(bad && reason == Reason::BadTcpFlags),
            }
        }
    }
}

#[test]
fn fragments_of_ipv4_are_told_apart_and_payload_is_never_read_as_ports() {
    let first = parse(&v4(17, &udp(8), &[(6, 0x20)])).unwrap();
    assert_eq!((first.fragment, first.source_port), (Fragment::First, 1025));
    assert_eq!((first.identification, first.dont_fragment), (0x1234, false));
    let middle = parse(&v4(6, &[7; 16], &[(6, 0x20), (7, 2)])).unwrap();
    assert_eq!(middle.fragment, Fragment::Later { offset: 16, more: true });
    let last = parse(&v4(6, &[7; 3], &[(6, 0), (7, 2)])).unwrap();
    assert_eq!(last.fragment, Fragment::Later { offset: 16, more: false });
    assert_eq!((last.kind, last.protocol), (Kind::LaterFragment, 6));
    assert_eq!((last.source_port, last.destination_port, last.transport), (0, 0, 34));
    let icmp = parse(&v4(1, &[7; 3], &[(6, 0), (7, 2)])).unwrap();
    assert_eq!((icmp.kind, icmp.protocol), (Kind::LaterFragment, 1));
}

#[test]
fn fragments_of_ipv6_are_told_apart() {
    let first = [fragment_header(17, 0, true), udp(8)].concat();
    let first = parse(&v6(44, &first, &[])).unwrap();
    assert_eq!((first.fragment, first.destination_port), (Fragment::First, 53));
    assert_eq!((first.fragment_header, first.transport), (54, 62));
    assert_eq!(first.identification, 0x5678);
    // Behind eight bytes of destination options, and followed by them.
    let later = [vec![44, 0, 1, 4, 0, 0, 0, 0], fragment_header(60, 24, true), vec![7; 8]].concat();
    let later = parse(&v6(60, &later, &[])).unwrap();
    assert_eq!(later.fragment, Fragment::Later { offset: 24, more: true });
    assert_eq!((later.kind, later.fragment_header, later.transport), (Kind::LaterFragment, 62, 70));
    let atomic = [fragment_header(6, 0, false), tcp(2, 0)].concat();
    let atomic = parse(&v6(44, &atomic, &[])).unwrap();
    assert_eq!((atomic.fragment, atomic.kind), (Fragment::None, Kind::Tcp));
    assert_eq!(atomic.fragment_header, 54);
}

#[test]
fn fragments_too_small_too_long_or_uneven_are_bad() {
    let more = (6, 0x20);
    for frame in [
        v4(17, &[], &[more]),
        v4(6, &tcp(2, 0)[..16], &[more]),
        v4(6, &tcp(2, 1), &[more]),
        v4(6, &[], &[(7, 2)]),
        v4(17, &[0; 8], &[(6, 0x1f), (7, 0xff)]),
        v6(44, &[fragment_header(17, 0, true), vec![]].concat(), &[]),
        v6(44, &[fragment_header(6, 0, true), tcp(2, 0)[..16].to_vec()].concat(), &[]),
        v6(44, &[fragment_header(6, 0, true), tcp(2, 1)].concat(), &[]),
        v6(44, &[fragment_header(17, 0xfff8, false), vec![0; 8]].concat(), &[]),
        // Destination options that go on in the next fragment.
        v6(44, &[fragment_header(60, 0, true), vec![17, 1, 1, 4, 0, 0, 0, 0]].concat(), &[]),
    ] {
        assert_eq!(reason(&frame), Reason::FragmentBad, "{frame:?}");
    }
    let mut options = tcp(2, 4);
    options[12] = 0xa0;
    assert_eq!(reason(&v4(6, &options, &[more])), Reason::FragmentBad);
    let widest = v4(17, &[0; 7], &[(6, 0x1f), (7, 0xfc)]);
    assert_eq!(parse(&widest).map(|packet| packet.kind), Ok(Kind::LaterFragment));
}

#[test]
fn as_many_extension_headers_as_allowed_are_walked_and_one_more_is_refused() {
    let chain = |count: usize| {
        let mut payload = Vec::new();
        for left in (0..count).rev() {
            payload.extend([if left == 0 { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(tcp(2, 0));
        v6(60, &payload, &[])
    };
    let packet = parse(&chain(limits::EXTENSION_HEADERS)).unwrap();
    assert_eq!(usize::from(packet.transport), 54 + 8 * limits::EXTENSION_HEADERS);
    assert_eq!((packet.kind, packet.protocol, packet.destination_port), (Kind::Tcp, 6, 443));
    assert_eq!(reason(&chain(limits::EXTENSION_HEADERS + 1)), Reason::ExtensionHeaders);
}

#[test]
fn every_extension_header_is_measured_its_own_way() {
    let behind = |next: u8, header: &[u8]| v6(next, &[header, &tcp(2, 0)].concat(), &[]);
    let hop_by_hop = [6, 1, 5, 2, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let spent_routing = [6, 0, 2, 0, 0, 0, 0, 0];
    let authentication = [6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
    for (next, header) in [(0, &hop_by_hop[..]), (43, &spent_routing), (51, &authentication)] {
        let packet = parse(&behind(next, header)).unwrap();
        assert_eq!(usize::from(packet.transport), 54 + header.len());
        assert_eq!(packet.source_port, 1025);
    }
    let reason = |next, header: &[u8]| reason(&behind(next, header));
    assert_eq!(reason(43, &[6, 0, 2, 1, 0, 0, 0, 0]), Reason::ExtensionHeaders, "segments left");
    let second = [[0, 0, 1, 4, 0, 0, 0, 0], [6, 0, 1, 4, 0, 0, 0, 0]].concat();
    assert_eq!(reason(60, &second), Reason::ExtensionHeaders, "hop-by-hop not first");
    let twice = [fragment_header(44, 0, false), fragment_header(6, 0, false)].concat();
    assert_eq!(reason(44, &twice), Reason::ExtensionHeaders, "two fragment headers");
    for next in [59, 135, 139, 140] {
        assert_eq!(reason(next, &[6, 0, 1, 4, 0, 0, 0, 0]), Reason::ExtensionHeaders, "{next}");
    }
    assert_eq!(reason(60, &[6, 9, 1, 4, 0, 0, 0, 0]), Reason::Malformed, "past the end");
    let jumbo = [6, 0, 0xc2, 4, 0, 1, 0, 0];
    assert_eq!(super::parse(&v6(0, &jumbo, &[(5, 0)])).err(), Some(Reason::ExtensionHeaders));
}

#[test]
fn only_echo_requests_and_errors_of_icmp_are_taken() {
    let quote4 = &v4(6, &tcp(0x10, 0), &[])[14..];
    let quote6 = &v6(6, &tcp(0x10, 0), &[])[14..];
    for kind in 0..=255 {
        let got = parse(&error4(kind, quote4)).map(|packet| packet.kind);
        assert_eq!(
            got,
            match kind {
                8 => Ok(Kind::EchoRequest),
                3 | 11 | 12 => Ok(Kind::IcmpError),
                _ => Err(Reason::IcmpUnsupported),
            },
            "v4 type {kind}"
        );
        let got = parse(&error6(kind, quote6)).map(|packet| packet.kind);
        assert_eq!(
            got,
            match kind {
                128 => Ok(Kind::EchoRequest),
                1..=4 => Ok(Kind::IcmpError),
                133..=137 => Err(Reason::NeighborIgnored),
                _ => Err(Reason::IcmpUnsupported),
            },
            "v6 type {kind}"
        );
    }
    assert_eq!(reason(&v4(1, &[8, 0, 0, 0, 0, 0, 0], &[])), Reason::Malformed);
}

#[test]
fn an_icmp_error_must_be_whole_right_and_quote_a_header() {
    let (quote4, quote6) = (&v4(6, &[0; 8], &[])[14..], &v6(6, &[0; 8], &[])[14..]);
    let [good4, good6] = [error4(3, quote4), error6(1, quote6)];
    for (frame, at) in [(&good4, 36), (&good4, 45), (&good6, 56), (&good6, 80)] {
        let mut frame = frame.clone();
        frame[at] ^= 1;
        assert_eq!(reason(&frame), Reason::Malformed);
    }
    assert!(parse(&error4(3, &quote4[..20])).is_ok() && parse(&error6(1, &quote6[..40])).is_ok());
    assert_eq!(reason(&error4(3, &quote4[..19])), Reason::Malformed);
    assert_eq!(reason(&error6(1, &quote6[..39])), Reason::Malformed);
    let segment = &error4(3, &[&quote4[..20], &[0; 4]].concat())[34..];
    assert_eq!(reason(&v4(1, segment, &[(6, 0x20)])), Reason::Malformed, "first fragment");
}

#[test]
fn a_solicitation_and_an_advertisement_are_taken_from_a_neighbour_only() {
    let good = solicitation();
    let packet = parse(&good).unwrap();
    assert_eq!((packet.kind, packet.transport), (Kind::NeighborRequest, 54));
    let mut advertisement = good.clone();
    advertisement[54] = 136;
    assert_eq!(parse(&advertisement).unwrap().kind, Kind::NeighborAnswer);
    for (at, value) in [(21, 254), (55, 1), (54, 134), (54, 137)] {
        let mut frame = if value == 1 { advertisement.clone() } else { good.clone() };
        frame[at] = value;
        assert_eq!(reason(&frame), Reason::NeighborIgnored);
    }
    let hidden = [&[58, 0, 1, 4, 0, 0, 0, 0], &good[54..]].concat();
    assert_eq!(reason(&v6(60, &hidden, &[(7, 255)])), Reason::NeighborIgnored);
}

/// Such a one would be read as ARP, whose claims are signed by no checksum.
#[test]
fn neighbour_discovery_with_a_mapped_ipv4_address_is_refused() {
    for kind in [135, 136] {
        let mut good = solicitation();
        good[54] = kind;
        for (at, refused) in [(22, Reason::BadSource), (38, Reason::NoService)] {
            let mut frame = good.clone();
            frame[at..at + 16].copy_from_slice(&octets("::ffff:192.0.2.1"));
            assert_eq!(reason(&frame), refused);
        }
        // Of duplicate address detection.
        good[22..38].fill(0);
        assert!(parse(&good).is_ok());
        good[22..38].copy_from_slice(&octets("ff02::1"));
        assert_eq!(reason(&good), Reason::BadSource);
    }
}

#[test]
fn an_arp_request_and_a_reply_are_taken_and_nothing_else_of_arp() {
    let mut reply = arp();
    reply[21] = 2;
    assert_eq!(parse(&reply).unwrap().kind, Kind::NeighborAnswer);
    let packet = parse(&arp()).unwrap();
    assert_eq!(
        (packet.kind, packet.network, packet.transport, packet.end),
        (Kind::NeighborRequest, 14, 14, 42,)
    );
    assert_eq!((packet.source, packet.destination), (address(&CLIENT4), address(&VIP4)));
    for at in 14..22 {
        let mut frame = arp();
        frame[at] ^= 2;
        assert_eq!(reason(&frame), Reason::NeighborIgnored);
    }
}

#[test]
fn a_quote_may_be_cut_behind_eight_bytes_of_transport() {
    for (frame, transport) in [(v4(6, &tcp(0x10, 100), &[]), 20), (v6(6, &tcp(0x10, 100), &[]), 40)]
    {
        let quote = &frame[14..transport + 14 + 8];
        let packet = parse_quoted(quote).unwrap();
        assert_eq!((packet.source_port, packet.destination_port), (1025, 443));
        assert_eq!((packet.kind, packet.tcp_flags), (Kind::Tcp, TcpFlags(0)));
        assert_eq!((packet.network, packet.transport), (0, transport as u16));
        assert_eq!(usize::from(packet.end), quote.len());
        for len in 0..quote.len() {
            assert_eq!(parse_quoted(&quote[..len]).err(), Some(Reason::Malformed));
        }
        let whole = parse_quoted(&frame[14..]).unwrap();
        assert_eq!(whole.tcp_flags, TcpFlags(0x10));
    }
}

#[test]
fn a_quote_is_not_judged_like_a_packet() {
    let mut quote = v4(17, &udp(20), &[])[14..].to_vec();
    quote[8] = 1; // the TTL was counted down, the checksum perhaps not
    assert!(parse_quoted(&quote).is_ok());
    let later = &v4(6, &[7; 16], &[(6, 0x20), (7, 2)])[14..];
    assert_eq!(parse_quoted(&later[..28]).map(|packet| packet.kind), Ok(Kind::LaterFragment));
    let first = [fragment_header(17, 0, true), udp(1224)].concat();
    let first = &v6(44, &first, &[])[14..];
    let packet = parse_quoted(&first[..59]).unwrap();
    assert_eq!((packet.fragment, packet.destination_port), (Fragment::First, 53));
    let error = error4(3, &v4(6, &tcp(0x10, 0), &[])[14..]);
    assert_eq!(parse_quoted(&error[14..]).err(), Some(Reason::IcmpUnsupported));
    assert_eq!(parse_quoted(&solicitation()[14..]).err(), Some(Reason::NoService));
    assert_eq!(parse_quoted(&[]).err(), Some(Reason::Malformed));
}

fn host_v4(first: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = [u8; 4]> {
    (first, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| [a, b, c, d])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes_get_an_answer_and_ordered_offsets(
        mut bytes in vec(any::<u8>(), 0..200), kind in 0..4_usize,
    ) {
        if bytes.len() > 14 {
            let kinds = [[8, 0], [0x86, 0xdd], [8, 6], [bytes[12], bytes[13]]];
            bytes[12..14].copy_from_slice(&kinds[kind]);
            bytes[14] = [0x45, 0x60, bytes[14], bytes[14]][kind];
        }
        if let Ok(packet) = parse(&bytes) {
            assert_ordered(&packet, bytes.len());
        }
        if let Ok(packet) = parse_quoted(&bytes) {
            assert_ordered(&packet, bytes.len());
        }
        prop_assert!(same(&parse(&bytes), &walk::frame(&bytes)));
    }

    #[test]
    fn a_spoilt_packet_gets_the_same_answer_from_the_straight_line_and_the_walk(
        sample in any::<prop::sample::Index>(),
        edits in vec((any::<prop::sample::Index>(), prop_oneof![
            Just(0), Just(0xff), Just(44), Just(60), any::<u8>(),
        ]), 0..4),
        padding in 0..50_usize, cut in 0..200_usize, mend in any::<bool>(),
    ) {
        let samples = samples();
        let mut frame = samples[sample.index(samples.len())].clone();
        frame.resize(frame.len() + padding, 0);
        for (index, value) in edits {
            let at = index.index(frame.len());
            frame[at] = value;
        }
        if mend && frame[12..15] == [8, 0, 0x45] {
            frame[24..26].fill(0);
            let sum = crate::wire::checksum::plain(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        frame.truncate(200 - cut);
        let result = parse(&frame);
        if let Ok(packet) = &result {
            assert_ordered(packet, frame.len());
        }
        prop_assert!(same(&result, &walk::frame(&frame)));
        if let Some(quote) = frame.get(14..)
            && let Ok(packet) = parse_quoted(quote)
        {
            assert_ordered(&packet, quote.len());
        }
    }

    #[test]
    fn what_etherparse_builds_is_read_field_by_field(
        source in host_v4(1..=126),
        destination in host_v4(128..=223),
        low in any::<[u8; 16]>(), ports in any::<(u16, u16)>(), ttl: u8, syn: bool,
        four in any::<bool>(), is_tcp in any::<bool>(),
        payload in 0..1400_usize, padding in 0..64_usize,
    ) {
        let six = |first: u8| {
            let mut bytes = low;
            bytes[0] = first;
            bytes
        };
        let (source6, destination6) = (six(0x20), six(0xfd));
        let ethernet = PacketBuilder::ethernet2(HERE, THERE);
        let ip = match four {
            true => ethernet.ipv4(source, destination, ttl),
            false => ethernet.ipv6(source6, destination6, ttl),
        };
        let payload = vec![0x5a; payload];
        let mut frame = Vec::new();
        match (is_tcp, syn) {
            (true, true) => ip.tcp(ports.0, ports.1, 1, 2).syn().write(&mut frame, &payload),
            (true, false) => ip.tcp(ports.0, ports.1, 1, 2).ack(3).write(&mut frame, &payload),
            _ => ip.udp(ports.0, ports.1).write(&mut frame, &payload),
        }
        .unwrap();
        let end = frame.len();
        frame.resize(end + padding, 0xa5);

        let packet = parse(&frame).unwrap();
        let network = if four { 20 } else { 40 };
        let expected: [IpAddr; 2] = match four {
            true => [source.into(), destination.into()],
            false => [source6.into(), destination6.into()],
        };
        prop_assert_eq!([packet.source, packet.destination].map(IpAddr::from), expected);
        prop_assert_eq!((packet.source_port, packet.destination_port), ports);
        prop_assert_eq!(usize::from(packet.network), 14);
        prop_assert_eq!(usize::from(packet.transport), 14 + network);
        prop_assert_eq!(usize::from(packet.end), end);
        prop_assert_eq!(packet.ip_len(), end - 14);
        prop_assert_eq!((packet.ttl, packet.is_v4()), (ttl, four));
        prop_assert_eq!((packet.fragment, packet.fragment_header), (Fragment::None, 0));
        let (kind, protocol) = if is_tcp { (Kind::Tcp, 6) } else { (Kind::Udp, 17) };
        prop_assert_eq!((packet.kind, packet.protocol), (kind, protocol));
        let flags = match (is_tcp, syn) { (false, _) => 0, (_, true) => 2, (_, false) => 0x10 };
        prop_assert_eq!(packet.tcp_flags, TcpFlags(flags));
        prop_assert!(packet.dont_fragment);
    }
}

#[test]
fn traffic_class_and_dont_fragment_are_read() {
    let mut frame = v6(6, &tcp(2, 0), &[]);
    assert_eq!(parse(&frame).unwrap().traffic_class, 0x28);
    frame[14] = 0x6f;
    frame[15] = 0xf5;
    assert_eq!(parse(&frame).unwrap().traffic_class, 0xff);
    assert_eq!(parse(&v4(6, &tcp(2, 0), &[])).unwrap().traffic_class, 0x28);
    assert!(parse(&v4(6, &tcp(2, 0), &[])).unwrap().dont_fragment);
    assert!(!parse(&v4(6, &tcp(2, 0), &[(6, 0)])).unwrap().dont_fragment);
}

#[test]
fn unusual_hosts_pass_though_not_by_the_straight_line() {
    for first in [0, 240] {
        let frame = v4(6, &tcp(2, 0), &[(12, first)]);
        assert!(!plain(&frame));
        assert_eq!(parse(&frame).map(|packet| packet.kind), Ok(Kind::Tcp));
    }
}
