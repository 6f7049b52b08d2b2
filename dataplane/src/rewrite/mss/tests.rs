use etherparse::{PacketBuilder, TcpHeader};
use proptest::prelude::*;

use super::super::testing::{OUR_MAC, Sample, THEIR_MAC, assert_header, on, transport_error, word};
use super::*;

#[test]
fn a_larger_mss_is_lowered_wherever_the_option_lies() {
    for sample in [Sample::v4(true), Sample::v6(true)] {
        let tcp = if sample.source.is_ipv4() { 34 } else { 54 };
        for (options, at) in [
            (&[2, 4, 0x05, 0xb4][..], 22),
            (&[1, 2, 4, 0x05, 0xb4, 1, 1, 1], 23),
            (&[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0x05, 0xb4], 34),
            (&[3, 3, 7, 2, 4, 0x05, 0xb4, 0], 25),
        ] {
            for ack in [false, true] {
                let bytes = syn(&sample, options, ack);
                let (lowered, out) = on(&bytes, |frame, packet| clamp(frame, packet, 1400));
                assert!(lowered);
                assert_eq!(word(&out, tcp + at), 1400);
                assert_eq!(transport_error(&out), 0);
                assert_header(&out);
            }
        }
    }
}

#[test]
fn an_mss_that_fits_and_a_packet_that_is_no_syn_stay_as_they_are() {
    let sample = Sample::v4(true);
    let bytes = syn(&sample, &[2, 4, 0x05, 0x78], false);
    assert_eq!(on(&bytes, |frame, packet| clamp(frame, packet, 1400)), (false, bytes));
    let bytes = syn(&sample, &[], false);
    assert_eq!(on(&bytes, |frame, packet| clamp(frame, packet, 1400)), (false, bytes));
    for bytes in [sample.bytes(), Sample::v6(false).bytes()] {
        assert_eq!(on(&bytes, |frame, packet| clamp(frame, packet, 0)), (false, bytes));
    }
}

#[test]
fn malformed_options_leave_the_packet_untouched() {
    for options in [
        &[2, 0, 0x05, 0xb4][..],
        &[2, 1, 0x05, 0xb4],
        &[2, 5, 0x05, 0xb4],
        &[1, 1, 1, 2],
        &[1, 1, 2, 4],
        &[9, 0, 2, 4, 0x05, 0xb4, 0, 0],
        &[2, 4, 0x05, 0xb4, 9, 200, 0, 0],
        &[2, 3, 0x05, 0],
        &[0, 0, 0, 0, 2, 4, 0x05, 0xb4],
    ] {
        let bytes = syn(&Sample::v4(true), options, false);
        assert_eq!(on(&bytes, |frame, packet| clamp(frame, packet, 500)), (false, bytes));
    }
}

#[test]
fn a_wrong_checksum_stays_wrong_by_the_same_difference() {
    let mut bytes = syn(&Sample::v4(true), &[1, 2, 4, 0x05, 0xb4, 0, 0, 0], false);
    bytes[50] ^= 0x5a;
    let (lowered, out) = on(&bytes, |frame, packet| clamp(frame, packet, 1400));
    assert!(lowered);
    assert_ne!(transport_error(&out), 0);
    assert_eq!(transport_error(&out), transport_error(&bytes));
}

proptest! {
    #[test]
    fn any_options_are_safe_and_no_other_byte_changes(
        words in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
        max: u16,
    ) {
        let bytes = syn(&Sample::v6(true), words.as_flattened(), false);
        let (lowered, out) = on(&bytes, |frame, packet| clamp(frame, packet, max));
        prop_assert_eq!(transport_error(&out), 0);
        let changed: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != out[*at]).collect();
        prop_assert_eq!(lowered, !changed.is_empty());
        let options: Vec<_> = changed.into_iter().filter(|at| !(70..72).contains(at)).collect();
        prop_assert!(options.len() <= 2, "{:?}", options);
    }
}

fn syn(sample: &Sample, options: &[u8], ack: bool) -> Vec<u8> {
    let mut header = TcpHeader::new(sample.source_port, sample.destination_port, 1, 64240);
    (header.syn, header.ack) = (true, ack);
    header.set_options_raw(options).unwrap();
    let builder = PacketBuilder::ethernet2(THEIR_MAC, OUR_MAC).ip(sample.ip()).tcp_header(header);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}
