use std::net::IpAddr;

use proptest::prelude::*;

use super::super::testing::{
    Sample, assert_header, changes, fragment_v4, fragment_v6, on, samples, transport_error, word,
};
use super::super::{decrement_ttl, link};
use super::*;
use crate::address::Mac;

proptest! {
    #[test]
    fn a_translated_packet_is_the_packet_its_sender_would_have_built(
        before in samples(),
        changes in changes(),
        age: bool,
    ) {
        let (change, after) = changes.of(&before, age);
        let ((), out) = on(&before.bytes(), |frame, packet| apply(frame, packet, &change, age));
        prop_assert_eq!(out, after.bytes());
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_the_same_difference(
        before in samples(),
        changes in changes(),
        damage in 1u16..,
    ) {
        let mut bytes = before.bytes();
        let at = checksum_offset(&before);
        let damaged = word(&bytes, at) ^ damage;
        prop_assume!(before.tcp || damaged != 0);
        bytes[at..at + 2].copy_from_slice(&damaged.to_be_bytes());
        let (change, _) = changes.of(&before, true);
        let ((), out) = on(&bytes, |frame, packet| apply(frame, packet, &change, true));
        prop_assert_eq!(transport_error(&out), transport_error(&bytes));
        assert_header(&out);
    }

    #[test]
    fn there_and_back_is_the_same_packet_but_for_its_ttl(
        before in samples(),
        changes in changes(),
    ) {
        let (there, after) = changes.of(&before, true);
        let back = Change { source: Some(source(&before)), destination: Some(destination(&before)) };
        let ((), out) = on(&before.bytes(), |frame, packet| apply(frame, packet, &there, true));
        prop_assert_eq!(&out, &after.bytes());
        prop_assume!(after.source != after.destination);
        let ((), out) = on(&out, |frame, packet| apply(frame, packet, &back, false));
        prop_assert_eq!(out, Sample { ttl: before.ttl - 1, ..before }.bytes());
    }
}

#[test]
fn a_udp_packet_without_checksum_leaves_without_one() {
    let before = Sample::v4(false);
    let mut bytes = before.bytes();
    bytes[40..42].fill(0);
    let ((), out) = on(&bytes, |frame, packet| apply(frame, packet, &to_real(&before), true));
    assert_eq!(word(&out, 40), 0);
    assert_header(&out);
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_written_as_ffff() {
    for before in [Sample::v4(false), Sample::v6(false)] {
        let bytes = before.bytes();
        let at = checksum_offset(&before);
        // The port that takes up all of the checksum.
        let sum = u32::from(before.destination_port) + u32::from(word(&bytes, at));
        let port = (sum % 0xffff) as u16;
        let real = Endpoint { port, ..destination(&before) };
        let change = Change { source: None, destination: Some(real) };
        let ((), out) = on(&bytes, |frame, packet| apply(frame, packet, &change, false));
        assert_eq!(word(&out, at), 0xffff);
        assert_eq!(transport_error(&out), 0);
    }
}

#[test]
fn a_tcp_checksum_may_become_zero() {
    let before = Sample::v4(true);
    let bytes = before.bytes();
    let at = checksum_offset(&before);
    let sum = u32::from(before.destination_port) + u32::from(word(&bytes, at));
    let real = Endpoint { port: (sum % 0xffff) as u16, ..destination(&before) };
    let change = Change { source: None, destination: Some(real) };
    let ((), out) = on(&bytes, |frame, packet| apply(frame, packet, &change, false));
    assert_eq!(word(&out, at), 0);
}

#[test]
fn of_a_fragmented_datagram_the_first_fragment_changes_ports_and_the_others_addresses_only() {
    for (before, cut, header) in [
        (Sample::v4(true), fragment_v4 as fn(&[u8], usize, usize) -> Vec<u8>, 34),
        (Sample::v4(false), fragment_v4, 34),
        (Sample::v6(true), fragment_v6, 62),
        (Sample::v6(false), fragment_v6, 62),
    ] {
        let before = Sample { payload: vec![0x11; 100], dont_fragment: false, ..before };
        let bytes = before.bytes();
        let all = if before.source.is_ipv4() { bytes.len() - 34 } else { bytes.len() - 54 };
        let change = to_real(&before);
        let [first, middle, last] = [(0, 24), (24, 64), (64, all)].map(|(from, to)| {
            let piece = cut(&bytes, from, to);
            let ((), out) = on(&piece, |frame, packet| apply(frame, packet, &change, true));
            assert_header(&out);
            out[header..].to_vec()
        });
        let real = change.destination.unwrap();
        let after = Sample {
            destination: real.address.into(),
            destination_port: real.port,
            ..before.clone()
        };
        let whole = after.bytes();
        assert_eq!([first, middle, last].concat(), &whole[whole.len() - all..]);
    }
}

#[test]
fn ethernet_padding_is_left_alone() {
    let before = Sample { payload: vec![], ..Sample::v4(false) };
    let mut bytes = before.bytes();
    bytes.resize(60, 0x77);
    let ((), out) = on(&bytes, |frame, packet| apply(frame, packet, &to_real(&before), true));
    assert_eq!(out.len(), 60);
    assert!(out[42..].iter().all(|byte| *byte == 0x77));
    assert_eq!(transport_error(&out), 0);
}

#[test]
fn link_and_ttl_change_nothing_else() {
    for before in [Sample::v4(true), Sample::v6(false)] {
        let bytes = before.bytes();
        let ((), out) = on(&bytes, |frame, packet| {
            link(frame, Mac([6; 6]), Mac([4; 6]));
            decrement_ttl(frame, packet);
        });
        let mut expected = Sample { ttl: before.ttl - 1, ..before }.bytes();
        expected[..6].fill(6);
        expected[6..12].fill(4);
        assert_eq!(out, expected);
    }
}

fn source(sample: &Sample) -> Endpoint {
    Endpoint { address: sample.source.into(), port: sample.source_port }
}

fn destination(sample: &Sample) -> Endpoint {
    Endpoint { address: sample.destination.into(), port: sample.destination_port }
}

fn to_real(sample: &Sample) -> Change {
    let address = if sample.source.is_ipv4() { "10.0.1.11" } else { "fd00:1::11" };
    let address: IpAddr = address.parse().unwrap();
    Change { source: None, destination: Some(Endpoint { address: address.into(), port: 8080 }) }
}

fn checksum_offset(sample: &Sample) -> usize {
    let transport = if sample.source.is_ipv4() { 34 } else { 54 };
    transport + if sample.tcp { 16 } else { 6 }
}
