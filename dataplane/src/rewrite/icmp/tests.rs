use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::super::testing::{
    FILL, OUR_MAC, Sample, THEIR_MAC, assert_header, changes, fragment_v4, fragment_v6, on,
    samples, transport_error, word,
};
use super::*;
use crate::limits::FRAME_SIZE;
use crate::wire::packet::parse;

#[test]
fn an_echo_request_is_answered_in_place() {
    for sample in [Sample::v4(false), Sample::v6(false)] {
        let mut bytes = icmp(&sample, echo(&sample), [0, 9, 0, 1], b"are you there");
        let len = bytes.len();
        bytes.resize(len + 7, 0x77);
        let (answered, out) = on(&bytes, echo_reply);
        assert!(answered);
        let reply = Sample {
            source: sample.destination,
            destination: sample.source,
            ttl: 64,
            ..sample.clone()
        };
        let kind = if sample.source.is_ipv4() { [0, 0] } else { [129, 0] };
        let mut expected = icmp(&reply, kind, [0, 9, 0, 1], b"are you there");
        expected[..6].copy_from_slice(&THEIR_MAC);
        expected[6..12].copy_from_slice(&OUR_MAC);
        assert_eq!(out, expected);
    }
}

#[test]
fn a_damaged_echo_request_gets_a_damaged_reply() {
    let sample = Sample::v4(false);
    let mut bytes = icmp(&sample, [8, 0], [0; 4], b"are you there");
    bytes[50] ^= 0x10;
    let (answered, out) = on(&bytes, echo_reply);
    assert!(answered);
    assert_eq!(transport_error(&out), transport_error(&bytes));
    assert_ne!(transport_error(&out), 0);
}

#[test]
fn the_reply_has_no_extension_headers() {
    let sample = Sample::v6(false);
    let plain = icmp(&sample, [128, 0], [0, 9, 0, 1], b"are you there");
    let mut bytes = plain.clone();
    bytes.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    bytes[18..20].copy_from_slice(&(plain.len() as u16 - 54 + 8).to_be_bytes());
    bytes[20] = 60;
    assert_eq!(on(&bytes, echo_reply), on(&plain, echo_reply));
}

#[test]
fn echo_requests_that_may_not_be_answered_are_left_as_they_are() {
    let sample = Sample::v4(false);
    let bytes = icmp(&sample, [8, 0], [0; 4], &[1; 64]);
    let refused = |bytes: &[u8]| assert_eq!(on(bytes, echo_reply), (false, bytes.to_vec()));
    refused(&fragment_v4(&bytes, 0, 32));
    refused(&fragment_v4(&bytes, 32, 72));
    refused(&sample.bytes());
    let mut broadcast = bytes.clone();
    broadcast[..6].fill(0xff);
    refused(&broadcast);
    for (group, is_source) in [("224.0.0.1", true), ("255.255.255.255", true), ("239.1.1.1", false)]
    {
        let group = Address::from(group.parse::<std::net::Ipv4Addr>().unwrap());
        let refused = on(&bytes, |frame, packet| {
            let (source, destination) =
                if is_source { (group, packet.destination) } else { (packet.source, group) };
            echo_reply(frame, &Packet { source, destination, ..*packet })
        });
        assert_eq!(refused, (false, bytes.clone()));
    }
}

proptest! {
    #[test]
    fn an_error_quotes_the_packet_and_goes_back_to_its_sender(
        sample in samples(),
        mtu: u16,
        time: bool,
    ) {
        let mut bytes = sample.bytes();
        let len = bytes.len() - 14;
        bytes.resize(bytes.len() + 3, 0x77);
        let v4 = sample.source.is_ipv4();
        let router = Sample {
            source: if v4 { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap(),
            destination: sample.source,
            ttl: 64,
            ..sample.clone()
        };
        let source = Address::from(router.source);
        let (sent, out) = on(&bytes, |frame, packet| if time {
            time_exceeded(frame, packet, source)
        } else {
            too_big(frame, packet, source, mtu)
        });
        prop_assert!(sent);
        let kind = match (v4, time) {
            (true, true) => [11, 0],
            (true, false) => [3, 4],
            (false, true) => [3, 0],
            (false, false) => [2, 0],
        };
        let [high, low] = if time { [0; 2] } else { mtu.to_be_bytes() };
        let quote = &bytes[14..14 + len.min(if v4 { 576 - 28 } else { 1280 - 48 })];
        let mut expected = icmp(&router, kind, [0, 0, high, low], quote);
        expected[..6].copy_from_slice(&THEIR_MAC);
        expected[6..12].copy_from_slice(&OUR_MAC);
        // Not judged: TOS, identification and flags; traffic class and flow label.
        let own = if v4 { [15..16, 18..22, 24..26] } else { [14..18, 0..0, 0..0] };
        for range in own {
            expected[range.clone()].copy_from_slice(&out[range]);
        }
        prop_assert_eq!(&out, &expected);
        assert_header(&out);
        prop_assert_eq!(transport_error(&out), 0);
    }
}

#[test]
fn no_error_is_sent_about_errors_later_fragments_and_groups() {
    for sample in [Sample::v4(false), Sample::v6(false)] {
        let sample = Sample { payload: vec![1; 64], dont_fragment: false, ..sample };
        let bytes = sample.bytes();
        let v4 = sample.source.is_ipv4();
        let cut = if v4 { fragment_v4 } else { fragment_v6 };
        let ours = Address::from(sample.destination);
        let about = |bytes: &[u8]| {
            let (sent, out) = on(bytes, |frame, packet| {
                time_exceeded(frame, packet, ours) || too_big(frame, packet, ours, 1400)
            });
            assert!(sent || out == bytes);
            sent
        };
        assert!(about(&bytes));
        assert!(about(&cut(&bytes, 0, 32)));
        assert!(!about(&cut(&bytes, 32, 72)));
        assert!(about(&icmp(&sample, echo(&sample), [0; 4], b"ping")));
        let kind = if v4 { [3, 3] } else { [1, 4] };
        assert!(!about(&icmp(&sample, kind, [0; 4], &bytes[14..])));
        let mut broadcast = bytes.clone();
        broadcast[..6].fill(0xff);
        assert!(!about(&broadcast));
        let (sent, out) = on(&bytes, |frame, packet| {
            let group = Packet { source: Address::from_bits(0xff02 << 112 | 1), ..*packet };
            let other = if v4 { Address::from_bits(1 << 127) } else { Address::v4(0x0a00_0001) };
            !v4 && time_exceeded(frame, &group, ours) || time_exceeded(frame, packet, other)
        });
        assert_eq!((sent, out), (false, bytes));
    }
}

#[test]
fn a_frame_without_headroom_is_left_as_it_is() {
    let bytes = Sample::v6(true).bytes();
    let mut buffer = vec![FILL; FRAME_SIZE];
    buffer[47..47 + bytes.len()].copy_from_slice(&bytes);
    let mut frame = Frame::new(&mut buffer, 47, bytes.len(), crate::address::DeviceId(0));
    let packet = parse(frame.bytes()).unwrap();
    assert!(!too_big(&mut frame, &packet, packet.destination, 1280));
    assert_eq!(frame.bytes(), bytes);
}

proptest! {
    #[test]
    fn a_translated_error_is_the_error_about_the_packet_before_translation(
        outer in samples(),
        inner in samples(),
        (outer_changes, inner_changes) in (changes(), changes()),
        kind in 0usize..4,
        quoted_len in 8usize..700,
    ) {
        // Half a checksum cannot be updated; it stays as it is.
        prop_assume!(quoted_len != 17);
        let v4 = outer.source.is_ipv4();
        let inner = if v4 == inner.source.is_ipv4() { inner } else { same_family(&inner, &outer) };
        let (outer_change, outer_after) = outer_changes.of(&outer, true);
        let (inner_change, inner_after) = inner_changes.of(&inner, false);
        let kind = if v4 {
            [[3, 1], [3, 4], [11, 0], [12, 0]][kind]
        } else {
            [[1, 0], [2, 0], [3, 0], [4, 0]][kind]
        };
        let quote = |sample: &Sample| {
            let header = if v4 { 20 } else { 40 };
            let bytes = sample.bytes();
            bytes[14..bytes.len().min(14 + header + quoted_len)].to_vec()
        };
        let bytes = icmp(&outer, kind, [0, 0, 5, 0xdc], &quote(&inner));
        let expected = icmp(&outer_after, kind, [0, 0, 5, 0xdc], &quote(&inner_after));
        let (found, out) = on(&bytes, |frame, packet| {
            let quoted = quoted(frame, packet).unwrap();
            translate(frame, packet, &quoted, &outer_change, &inner_change);
            quoted
        });
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(transport_error(&out), 0);
        let ports = (found.packet.source_port, found.packet.destination_port);
        prop_assert_eq!(ports, (inner.source_port, inner.destination_port));
        prop_assert_eq!(found.packet.source, inner.source.into());

        let back = |sample: &Sample| Change {
            source: Some(super::nat::Endpoint {
                address: sample.source.into(),
                port: sample.source_port,
            }),
            destination: Some(super::nat::Endpoint {
                address: sample.destination.into(),
                port: sample.destination_port,
            }),
        };
        prop_assume!(outer_after.source != outer_after.destination);
        prop_assume!(inner_after.source != inner_after.destination);
        let ((), out) = on(&out, |frame, packet| {
            let quoted = super::quoted(frame, packet).unwrap();
            translate(frame, packet, &quoted, &back(&outer), &back(&inner));
        });
        let aged = Sample { ttl: outer.ttl.saturating_sub(2), ..outer };
        prop_assert_eq!(&out, &icmp(&aged, kind, [0, 0, 5, 0xdc], &quote(&inner)));
    }
}

#[test]
fn a_quoted_udp_packet_without_checksum_keeps_none() {
    let outer = Sample::v4(false);
    let mut quote = Sample::v4(false).bytes()[14..42].to_vec();
    quote[26..28].fill(0);
    let out = translated(&icmp(&outer, [3, 3], [0; 4], &quote));
    assert_eq!(word(&out, 42 + 22), 8080);
    assert_eq!(word(&out, 42 + 26), 0);
    assert_eq!(transport_error(&out), 0);
}

#[test]
fn padding_behind_a_short_quote_is_no_checksum() {
    // RFC 4884 pads a quote to 128 bytes with zeros: these are not the checksum of a TCP header.
    let mut quote = Sample::v4(true).bytes()[14..42].to_vec();
    quote[2..4].copy_from_slice(&28u16.to_be_bytes());
    quote.resize(128, 0);
    let out = translated(&icmp(&Sample::v4(false), [11, 0], [0, 32, 0, 0], &quote));
    assert_eq!(word(&out, 42 + 22), 8080);
    assert!(out[42 + 28..].iter().all(|byte| *byte == 0));
    assert_eq!(transport_error(&out), 0);
}

#[test]
fn of_a_quoted_later_fragment_only_the_addresses_change() {
    let inner = Sample { payload: vec![7; 64], dont_fragment: false, ..Sample::v4(false) };
    let piece = fragment_v4(&inner.bytes(), 32, 72);
    let out = translated(&icmp(&Sample::v4(false), [11, 1], [0; 4], &piece[14..]));
    assert_eq!(&out[42 + 16..42 + 20], &[10, 0, 1, 11]);
    assert_eq!(&out[42 + 20..], &piece[34..]);
    assert_eq!(transport_error(&out), 0);
}

#[test]
fn only_errors_quote_and_they_must_quote_enough() {
    let bytes = Sample::v4(true).bytes();
    let quote_of = |bytes: &[u8]| on(bytes, |frame, packet| quoted(frame, packet).err()).0;
    assert_eq!(quote_of(&bytes), Some(Reason::IcmpUnsupported));
    let error = icmp(&Sample::v4(false), [3, 1], [0; 4], &bytes[14..41]);
    assert_eq!(quote_of(&error), Some(Reason::Malformed));
    let other = Sample::v6(true).bytes();
    let error = icmp(&Sample::v4(false), [3, 1], [0; 4], &other[14..]);
    assert_eq!(quote_of(&error), Some(Reason::Malformed));
}

/// The error with its quoted destination translated to 10.0.1.11:8080.
fn translated(bytes: &[u8]) -> Vec<u8> {
    let real = super::nat::Endpoint { address: Address::v4(0x0a00_010b), port: 8080 };
    let inner = Change { source: None, destination: Some(real) };
    let ((), out) = on(bytes, |frame, packet| {
        let quoted = quoted(frame, packet).unwrap();
        translate(frame, packet, &quoted, &Change::default(), &inner);
    });
    assert_header(&out);
    out
}

fn same_family(inner: &Sample, outer: &Sample) -> Sample {
    Sample { source: outer.destination, destination: outer.source, ..inner.clone() }
}

fn echo(sample: &Sample) -> [u8; 2] {
    if sample.source.is_ipv4() { [8, 0] } else { [128, 0] }
}

/// An ICMP message with the IP header of the sample.
fn icmp(sample: &Sample, [kind, code]: [u8; 2], rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIR_MAC, OUR_MAC).ip(sample.ip());
    let mut bytes = Vec::new();
    if sample.source.is_ipv4() {
        builder.icmpv4_raw(kind, code, rest).write(&mut bytes, payload).unwrap();
    } else {
        builder.icmpv6_raw(kind, code, rest).write(&mut bytes, payload).unwrap();
    }
    bytes
}
