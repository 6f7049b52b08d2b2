//! What is made, judged by another parser.

use std::net::SocketAddr;

use etherparse::{NetHeaders, PacketHeaders, TcpHeader, TransportHeader, UdpHeader};
use proptest::prelude::*;

use super::*;
use crate::parse::{is_whole, parse};

/// Source, destination, flags, sequence and acknowledgement number, payload; panics unless every
/// length and checksum is right.
struct Judged {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    tcp: Option<TcpHeader>,
    payload: Vec<u8>,
}

fn judge(frame: &[u8]) -> Judged {
    let packet = PacketHeaders::from_ethernet_slice(frame).expect("a readable packet");
    let payload = packet.payload.slice().to_vec();
    let (source, destination): (IpAddr, IpAddr) = match packet.net.expect("an IP header") {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
            (ip.source.into(), ip.destination.into())
        }
        NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Arp(_) => panic!("ARP"),
    };
    let (ports, tcp) = match packet.transport.expect("a transport header") {
        TransportHeader::Tcp(tcp) => {
            assert_eq!(tcp.checksum, tcp_sum(&tcp, source, destination, &payload), "checksum");
            ((tcp.source_port, tcp.destination_port), Some(tcp))
        }
        TransportHeader::Udp(udp) => {
            assert_eq!(usize::from(udp.length), 8 + payload.len(), "length");
            assert_eq!(udp.checksum, udp_sum(&udp, source, destination, &payload), "checksum");
            ((udp.source_port, udp.destination_port), None)
        }
        _ => panic!("neither TCP nor UDP"),
    };
    Judged { source: (source, ports.0), destination: (destination, ports.1), tcp, payload }
}

fn tcp_sum(tcp: &TcpHeader, source: IpAddr, destination: IpAddr, payload: &[u8]) -> u16 {
    match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            tcp.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload).unwrap()
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            tcp.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload).unwrap()
        }
        _ => panic!("two families"),
    }
}

fn udp_sum(udp: &UdpHeader, source: IpAddr, destination: IpAddr, payload: &[u8]) -> u16 {
    match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            udp.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload).unwrap()
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            udp.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload).unwrap()
        }
        _ => panic!("two families"),
    }
}

fn path_of(v6: bool, udp: bool) -> Path {
    let (source, vip): (&str, &str) = if v6 {
        ("2001:db8:18::1", "[2001:db8:18::ffff:1]:80")
    } else {
        ("198.18.0.1", "198.18.255.1:80")
    };
    Path {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        source: source.parse().unwrap(),
        destination: vip.parse().unwrap(),
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
    }
}

fn client_of(v6: bool, low: u32, port: u16) -> (IpAddr, u16) {
    let address = if v6 {
        let high = 0x2001_0db8_0018_u128 << 80;
        IpAddr::V6((high | u128::from(low)).into())
    } else {
        IpAddr::V4(low.into())
    };
    (address, port)
}

fn parts(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

proptest! {
    #[test]
    fn every_data_packet_is_right_and_so_is_its_answer_in_place(
        v6: bool, udp: bool, len in 0_usize..1515, low: u32, port: u16, key: u32,
        flow: u32, sequence: u32, time: u32, reply in any::<(u32, u32)>(), ttl in 1_u8..=255,
    ) {
        let path = path_of(v6, udp);
        let client = client_of(v6, low, port);
        let stamp = Stamp { flow, sequence, time };
        let mut template = Template::data(&path, len).unwrap();
        // The same template again: nothing of the packet before may stay.
        template.stamped(client_of(v6, !low, !port), Stamp { flow: !flow, sequence, time }, key, Way::Reply);
        let mut frame = template.stamped(client, stamp, key, Way::Request).to_vec();
        prop_assert_eq!(frame.len(), len.max(usize::from(crate::size::least(v6, path.protocol)) - 4));
        let judged = judge(&frame);
        prop_assert_eq!(judged.source, client);
        prop_assert_eq!(judged.destination, parts(path.destination));
        let view = parse(&frame).unwrap();
        prop_assert!(is_whole(&frame, &view));
        prop_assert_eq!((view.source, view.destination), (judged.source, judged.destination));
        prop_assert_eq!(&frame[view.payload..view.end], &judged.payload[..]);

        // As a router would: the TTL has changed.
        if v6 {
            frame[21] = ttl;
        } else {
            let old = u16::from_be_bytes([frame[22], frame[23]]);
            frame[22] = ttl;
            let new = u16::from_be_bytes([frame[22], frame[23]]);
            amend(&mut frame, 24, change(old, new));
        }
        let answer = Stamp { flow, sequence: reply.0, time: reply.1 };
        prop_assert!(turn(&mut frame, &view));
        prop_assert!(restamp(&mut frame, &view, answer, key, Way::Reply));
        prop_assert_eq!(&frame[..12], &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], "MAC addresses");
        let judged = judge(&frame);
        prop_assert_eq!(judged.source, parts(path.destination));
        prop_assert_eq!(judged.destination, client);
        let view = parse(&frame).unwrap();
        let read = if udp {
            Stamp::read_udp(key, Way::Reply, &judged.payload)
        } else {
            Stamp::read_tcp(key, Way::Reply, &frame[view.transport..], &judged.payload)
        };
        prop_assert_eq!(read, Some(answer));
        prop_assert_eq!(frame[if v6 { 21 } else { 22 }], 64);
    }

    #[test]
    fn openings_and_closings_have_their_flags_and_numbers(
        v6: bool, low: u32, port: u16, sequence: u32, ack: u32, back in any::<(u32, u32)>(),
    ) {
        let path = path_of(v6, false);
        for flags in [flag::SYN, flag::ACK, flag::FIN | flag::ACK, flag::RST] {
            let mut template = Template::bare(&path, flags).unwrap();
            let client = client_of(v6, low, port);
            let mut frame = template.numbered(client, sequence, ack).to_vec();
            let tcp = judge(&frame).tcp.unwrap();
            prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (sequence, ack));
            prop_assert_eq!((tcp.syn, tcp.fin, tcp.rst, tcp.ack), (
                flags & flag::SYN != 0, flags & flag::FIN != 0, flags & flag::RST != 0, flags & flag::ACK != 0,
            ));
            prop_assert_eq!(!tcp.options.is_empty(), tcp.syn, "a SYN says its segment size");
            let view = parse(&frame).unwrap();
            prop_assert_eq!(view.flags, flags);
            prop_assert!(turn(&mut frame, &view));
            prop_assert!(renumber(&mut frame, &view, flag::SYN | flag::ACK, back.0, back.1));
            let judged = judge(&frame);
            prop_assert_eq!((judged.source, judged.destination), (parts(path.destination), client));
            let tcp = judged.tcp.unwrap();
            prop_assert!(tcp.syn && tcp.ack && !tcp.fin && !tcp.rst);
            prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), back);
        }
    }

    #[test]
    fn a_changed_bit_is_noticed_and_nothing_panics(
        v6: bool, udp: bool, len in 60_usize..200, bit: prop::sample::Index,
    ) {
        let path = path_of(v6, udp);
        let mut template = Template::data(&path, len).unwrap();
        let stamp = Stamp { flow: 1, sequence: 2, time: 3 };
        let client = client_of(v6, 0xc612_0001, 1024);
        let mut frame = template.stamped(client, stamp, 7, Way::Request).to_vec();
        let view = parse(&frame).unwrap();
        // From the network header on, up to the end of the IP packet; IPv6 has no checksum over its
        // traffic class, flow label, and hop limit.
        let from = if v6 { view.transport } else { view.network };
        let bit = from * 8 + bit.index((view.end - from) * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        if let Ok(view) = parse(&frame) {
            prop_assert!(!is_whole(&frame, &view), "bit {}", bit);
        }
    }

    #[test]
    fn whatever_comes_in_is_read_without_a_panic(
        mut frame in prop::collection::vec(any::<u8>(), 0..120), ethertype in 0_usize..3,
    ) {
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [1, 2]][ethertype]);
            frame[14] = [0x45, 0x60, 0x45][ethertype];
        }
        if let Ok(view) = parse(&frame) {
            let _ = is_whole(&frame, &view);
            let stamp = Stamp { flow: 0, sequence: 0, time: 0 };
            let _ = restamp(&mut frame, &view, stamp, 0, Way::Reply);
            let _ = renumber(&mut frame, &view, 0, 0, 0);
            let _ = turn(&mut frame, &view);
        }
    }
}
