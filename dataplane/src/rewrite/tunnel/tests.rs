use std::net::IpAddr;

use etherparse::{IpNumber, NetSlice, SlicedPacket, defrag::IpDefragPool};
use proptest::prelude::*;

use super::super::icmp;
use super::super::testing::{FILL, Sample, assert_header, on, samples, word};
use super::*;
use crate::address::DeviceId;
use crate::wire::packet::parse;

proptest! {
    #[test]
    fn the_real_unwraps_the_packet_of_the_client_with_its_ttl_one_less(
        inner in samples(),
        outer_v6: bool,
        padding in 0usize..20,
    ) {
        let tunnel = tunnel(outer_v6, 1700);
        let mut bytes = inner.bytes();
        bytes.resize(bytes.len() + padding, 0x77);
        let (result, out) = encapsulated(&bytes, &tunnel);
        prop_assert_eq!(result, Ok(Encapsulated::Whole));
        assert_header(&out);
        let sliced = SlicedPacket::from_ethernet(&out).unwrap();
        let aged = Sample { ttl: inner.ttl - 1, ..inner.clone() }.bytes();
        let carried = IpNumber(if inner.source.is_ipv4() { 4 } else { 41 });
        let outer_len = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(IpAddr::from(header.source), IpAddr::from(tunnel.source));
                prop_assert_eq!(IpAddr::from(header.destination), IpAddr::from(tunnel.destination));
                prop_assert_eq!(header.dscp.value() << 2 | header.ecn.value(), inner.class);
                let dont_fragment = inner.dont_fragment || inner.source.is_ipv6();
                prop_assert_eq!(header.dont_fragment, dont_fragment);
                prop_assert_eq!((header.time_to_live, header.protocol), (64, carried));
                prop_assert_eq!(header.identification, 0xbeef);
                prop_assert!(!header.is_fragmenting_payload());
                20
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(IpAddr::from(header.source), IpAddr::from(tunnel.source));
                prop_assert_eq!(IpAddr::from(header.destination), IpAddr::from(tunnel.destination));
                prop_assert_eq!(header.traffic_class, inner.class);
                prop_assert_eq!((header.hop_limit, header.next_header), (64, carried));
                40
            }
            NetSlice::Arp(_) => panic!("not IP"),
        };
        prop_assert_eq!(&out[14 + outer_len..], &aged[14..]);
        prop_assert_eq!(&out[..12], &aged[..12]);
    }

    #[test]
    fn a_packet_that_may_be_fragmented_arrives_in_two_pieces_that_fit(
        inner in samples(),
        outer_v6: bool,
        mtu in 1100u16..1300,
        excess in 1usize..300,
    ) {
        let tunnel = tunnel(outer_v6, mtu);
        let mut inner = Sample { dont_fragment: false, ..inner };
        let longest = if inner.source.is_ipv4() { 1500 } else { 1280 };
        let whole = longest.min(usize::from(mtu - tunnel.overhead()) + excess);
        inner.payload.resize(whole - headers(&inner), 0x11);
        let bytes = inner.bytes();
        let mut scratch = [FILL; FRAME_SIZE];
        let (result, first) = on(&bytes, |frame, packet| {
            encapsulate(frame, packet, &tunnel, 0xdead_beef, &mut scratch)
        });
        let Ok(Encapsulated::Split { second }) = result else { panic!("{result:?}") };
        prop_assert!(scratch[second..].iter().all(|byte| *byte == FILL));
        let mut pool = IpDefragPool::<(), ()>::new();
        let mut whole = None;
        for piece in [&first, &scratch[..second]] {
            prop_assert!(piece.len() - 14 <= usize::from(mtu));
            prop_assert_eq!(&piece[..12], &bytes[..12]);
            assert_header(piece);
            let sliced = SlicedPacket::from_ethernet(piece).unwrap();
            whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
        }
        let whole = whole.expect("two pieces make the packet");
        let aged = Sample { ttl: inner.ttl - 1, ..inner.clone() }.bytes();
        prop_assert_eq!(&whole.payload, &aged[14..]);
        prop_assert_eq!(whole.ip_number.0, if inner.source.is_ipv4() { 4 } else { 41 });
        if outer_v6 {
            prop_assert_eq!(&first[58..62], &0xdead_beef_u32.to_be_bytes());
        } else {
            prop_assert_eq!((word(&first, 18), word(&scratch, 18)), (0xbeef, 0xbeef));
        }
    }
}

#[test]
fn a_packet_that_fits_exactly_goes_whole_and_one_byte_more_is_too_big() {
    for (inner, headers) in [(Sample::v4(false), 28), (Sample::v6(false), 48)] {
        for outer_v6 in [false, true] {
            let tunnel = tunnel(outer_v6, 1500);
            let fits = 1500 - usize::from(tunnel.overhead()) - headers;
            let inner = Sample { payload: vec![1; fits], ..inner.clone() };
            assert_eq!(encapsulated(&inner.bytes(), &tunnel).0, Ok(Encapsulated::Whole));
            let inner = Sample { payload: vec![1; fits + 1], ..inner };
            let (result, out) = encapsulated(&inner.bytes(), &tunnel);
            assert_eq!(result, Err(Reason::TooBig));
            assert_eq!(out, inner.bytes(), "the refused packet is unchanged, to be quoted");
            let packet = parse(&out).unwrap();
            assert_eq!(tunnel.inner_mtu(&packet), 1500 - tunnel.overhead());
        }
    }
}

#[test]
fn the_sender_of_a_packet_too_big_is_told_the_size_that_fits() {
    for (inner, kind, at) in [(Sample::v4(true), [3, 4], 40), (Sample::v6(true), [2, 0], 60)] {
        let inner = Sample { payload: vec![1; 1440], ..inner };
        let bytes = inner.bytes();
        let tunnel = tunnel(true, 1500);
        let mut scratch = [FILL; FRAME_SIZE];
        let (told, out) = on(&bytes, |frame, packet| {
            let result = encapsulate(frame, packet, &tunnel, 1, &mut scratch);
            assert_eq!(result, Err(Reason::TooBig));
            let mtu = tunnel.inner_mtu(packet);
            icmp::too_big(frame, packet, packet.destination, mtu)
        });
        assert!(told);
        assert_eq!((&out[at - 6..at - 4], word(&out, at)), (&kind[..], 1460));
        assert_eq!(&out[at + 2..], &bytes[14..14 + out.len() - at - 2], "quoted as received");
        let fits = Sample { payload: vec![1; 1460 - headers(&inner)], ..inner };
        assert_eq!(encapsulated(&fits.bytes(), &tunnel).0, Ok(Encapsulated::Whole));
    }
}

#[test]
fn no_ipv6_sender_is_told_of_less_than_1280_bytes() {
    let tunnel = tunnel(true, 1280);
    let inner = Sample { payload: vec![1; 1280 - 48], ..Sample::v6(false) };
    let bytes = inner.bytes();
    assert!(matches!(encapsulated(&bytes, &tunnel).0, Ok(Encapsulated::Split { .. })));
    assert_eq!(tunnel.inner_mtu(&parse(&bytes).unwrap()), 1280);
}

#[test]
fn a_path_too_narrow_for_two_pieces_is_refused() {
    for mtu in [0, 20, 47, 60, 576] {
        for outer_v6 in [false, true] {
            let inner =
                Sample { payload: vec![1; 1400], dont_fragment: false, ..Sample::v4(false) };
            let (result, out) = encapsulated(&inner.bytes(), &tunnel(outer_v6, mtu));
            assert_eq!((result, out), (Err(Reason::TooBig), inner.bytes()));
        }
    }
}

#[test]
fn a_frame_without_headroom_is_refused_unchanged() {
    let bytes = Sample::v4(true).bytes();
    let mut buffer = vec![FILL; FRAME_SIZE];
    buffer[19..19 + bytes.len()].copy_from_slice(&bytes);
    let mut frame = Frame::new(&mut buffer, 19, bytes.len(), DeviceId(0));
    let packet = parse(frame.bytes()).unwrap();
    let mut scratch = [0; FRAME_SIZE];
    let result = encapsulate(&mut frame, &packet, &tunnel(false, 1500), 1, &mut scratch);
    assert_eq!(result, Err(Reason::NoHeadroom));
    assert_eq!(frame.bytes(), bytes);
}

#[test]
fn segments_of_the_clamped_size_just_fit() {
    assert_eq!(tunnel(false, 1500).mss(true), 1440);
    assert_eq!(tunnel(true, 1500).mss(true), 1420);
    assert_eq!(tunnel(false, 1500).mss(false), 1420);
    assert_eq!(tunnel(true, 1500).mss(false), 1400);
}

fn headers(sample: &Sample) -> usize {
    Sample { payload: Vec::new(), ..sample.clone() }.bytes().len() - 14
}

fn encapsulated(bytes: &[u8], tunnel: &Tunnel) -> (Result<Encapsulated, Reason>, Vec<u8>) {
    let mut scratch = [FILL; FRAME_SIZE];
    on(bytes, |frame, packet| encapsulate(frame, packet, tunnel, 0xdead_beef, &mut scratch))
}

fn tunnel(v6: bool, mtu: u16) -> Tunnel {
    let [source, destination] =
        if v6 { ["2001:db8:9::1", "2001:db8:9::2"] } else { ["203.0.113.1", "203.0.113.2"] };
    let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    Tunnel { source: address(source), destination: address(destination), mtu }
}
