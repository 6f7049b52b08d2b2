//! Packets for the tests of this module, built and judged by etherparse.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    ip_number,
};
use proptest::prelude::*;

use crate::address::DeviceId;
use crate::frame::Frame;
use crate::limits::{FRAME_SIZE, HEADROOM};
use crate::wire::packet::{Packet, parse};

use super::nat::{Change, Endpoint};

/// What the buffer around a packet is filled with.
pub(crate) const FILL: u8 = 0xa5;
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A TCP or UDP packet.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) tcp: bool,
    pub(crate) ttl: u8,
    pub(crate) class: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) payload: Vec<u8>,
}

impl Sample {
    pub(crate) fn v4(tcp: bool) -> Self {
        Self::between("198.51.100.7", "192.0.2.1", tcp)
    }

    pub(crate) fn v6(tcp: bool) -> Self {
        Self::between("2001:db8:1::7", "2001:db8::1", tcp)
    }

    fn between(source: &str, destination: &str, tcp: bool) -> Self {
        Self {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 40000,
            destination_port: 80,
            tcp,
            ttl: 61,
            class: 0,
            dont_fragment: true,
            payload: b"hello, real server".to_vec(),
        }
    }

    /// From the Ethernet header on.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(THEIR_MAC, OUR_MAC).ip(self.ip());
        let mut bytes = Vec::new();
        if self.tcp {
            let builder = builder.tcp(self.source_port, self.destination_port, 7, 512).ack(9);
            builder.write(&mut bytes, &self.payload).unwrap();
        } else {
            let builder = builder.udp(self.source_port, self.destination_port);
            builder.write(&mut bytes, &self.payload).unwrap();
        }
        bytes
    }

    /// The IP header; the builder fills in lengths, checksum and protocol.
    pub(crate) fn ip(&self) -> IpHeaders {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut header =
                    Ipv4Header::new(0, self.ttl, ip_number::TCP, source, destination).unwrap();
                header.dscp = (self.class >> 2).try_into().unwrap();
                header.ecn = (self.class & 3).try_into().unwrap();
                header.dont_fragment = self.dont_fragment;
                header.identification = 0x1234;
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: 0x54321.try_into().unwrap(),
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            _ => panic!("mixed families"),
        }
    }
}

/// Any whole TCP or UDP packet of up to 1500 bytes.
pub(crate) fn samples() -> impl Strategy<Value = Sample> {
    (
        any::<(bool, bool, bool, u8)>(),
        (hosts(), hosts()),
        any::<(u16, u16)>(),
        2u8..,
        prop::collection::vec(any::<u8>(), 0..1441),
    )
        .prop_map(
            |((v6, tcp, dont_fragment, class), (source, destination), ports, ttl, payload)| {
                Sample {
                    source: source.family(v6),
                    destination: destination.family(v6),
                    source_port: ports.0,
                    destination_port: ports.1,
                    tcp,
                    ttl,
                    class,
                    dont_fragment,
                    payload,
                }
            },
        )
        .prop_filter("sent to itself", |sample| sample.source != sample.destination)
}

/// A unicast address, in either family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host(u32, u128);

impl Host {
    pub(crate) fn family(self, v6: bool) -> IpAddr {
        if v6 { IpAddr::V6(self.1.into()) } else { IpAddr::V4(self.0.into()) }
    }
}

pub(crate) fn hosts() -> impl Strategy<Value = Host> {
    (any::<[u8; 3]>(), 1u8..223, any::<[u8; 14]>()).prop_map(|([a, b, c], first, low)| {
        let first = if first == 127 { 10 } else { first };
        let mut v6 = [0; 16];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[2..].copy_from_slice(&low);
        Host(u32::from_be_bytes([first, a, b, c]), u128::from_be_bytes(v6))
    })
}

/// A change, in either family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changes {
    source: Option<(Host, u16)>,
    destination: Option<(Host, u16)>,
}

pub(crate) fn changes() -> impl Strategy<Value = Changes> {
    let end = || prop::option::of((hosts(), any::<u16>()));
    (end(), end()).prop_map(|(source, destination)| Changes { source, destination })
}

impl Changes {
    /// As a change of this packet, and the packet it should become.
    pub(crate) fn of(&self, before: &Sample, age: bool) -> (Change, Sample) {
        let end = |(host, port): (Host, u16)| Endpoint {
            address: host.family(before.source.is_ipv6()).into(),
            port,
        };
        let change =
            Change { source: self.source.map(end), destination: self.destination.map(end) };
        let mut after = before.clone();
        after.ttl -= u8::from(age);
        if let Some(end) = change.source {
            (after.source, after.source_port) = (end.address.into(), end.port);
        }
        if let Some(end) = change.destination {
            (after.destination, after.destination_port) = (end.address.into(), end.port);
        }
        (change, after)
    }
}

/// Runs `act` on the packet in a frame, and returns its result and the packet it left. Fails if a
/// byte outside the packet, before and after, was changed.
pub(crate) fn on<R>(bytes: &[u8], act: impl FnOnce(&mut Frame<'_>, &Packet) -> R) -> (R, Vec<u8>) {
    let packet = parse(bytes).expect("a packet that parses");
    let mut buffer = vec![FILL; FRAME_SIZE];
    buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
    let mut frame = Frame::new(&mut buffer, HEADROOM, bytes.len(), DeviceId(1));
    let result = act(&mut frame, &packet);
    let after = frame.bytes().to_vec();
    let low = frame.start().min(HEADROOM);
    let high = (frame.start() + after.len()).max(HEADROOM + bytes.len());
    let outside = buffer[..low].iter().chain(&buffer[high..]);
    assert!(outside.copied().all(|byte| byte == FILL), "wrote outside the packet");
    (result, after)
}

/// By how much the transport checksum is off, as a ones' complement number; 0 if it is right.
pub(crate) fn transport_error(bytes: &[u8]) -> u16 {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let (actual, right) = match (sliced.net.as_ref().unwrap(), sliced.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let ip = ip.header();
            (tcp.checksum(), tcp.calc_checksum_ipv4(ip.source(), ip.destination()).unwrap())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let ip = ip.header();
            (tcp.checksum(), tcp.calc_checksum_ipv6(ip.source(), ip.destination()).unwrap())
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let (ip, header) = (ip.header(), udp.to_header());
            let ends = (ip.source(), ip.destination());
            let right = header.calc_checksum_ipv4_raw(ends.0, ends.1, udp.payload()).unwrap();
            (header.checksum, right)
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let (ip, header) = (ip.header().to_header(), udp.to_header());
            (header.checksum, header.calc_checksum_ipv6(&ip, udp.payload()).unwrap())
        }
        (NetSlice::Ipv4(_), TransportSlice::Icmpv4(icmp)) => {
            (word(bytes, 36), icmp_sum(icmp.slice()).ones_complement().to_be())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let header = ip.header();
            let sum = icmp_sum(icmp.slice())
                .add_16bytes(header.source())
                .add_16bytes(header.destination())
                .add_4bytes(u32::try_from(icmp.slice().len()).unwrap().to_be_bytes())
                .add_4bytes([0, 0, 0, 58]);
            (icmp.checksum(), sum.ones_complement().to_be())
        }
        _ => panic!("no transport header"),
    };
    let difference = u32::from(actual) + u32::from(!right);
    let folded = (difference & 0xffff) + (difference >> 16);
    if folded == 0xffff { 0 } else { folded as u16 }
}

/// The sum of an ICMP message without its checksum. (The types of etherparse do not sum the bytes
/// that they give no meaning to.)
fn icmp_sum(message: &[u8]) -> Sum16BitWords {
    Sum16BitWords::new().add_slice(&message[..2]).add_slice(&message[4..])
}

/// Fails unless the IPv4 header checksum, if there is one, is right.
pub(crate) fn assert_header(bytes: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    if let Some(NetSlice::Ipv4(ip)) = sliced.net {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
}

/// The big-endian word at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Makes a fragment of the IPv4 packet: its payload from `from` to `to`.
pub(crate) fn fragment_v4(bytes: &[u8], from: usize, to: usize) -> Vec<u8> {
    let mut header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
    header.dont_fragment = false;
    header.more_fragments = 34 + to < bytes.len();
    header.fragment_offset = u16::try_from(from / 8).unwrap().try_into().unwrap();
    header.set_payload_len(to - from).unwrap();
    header.header_checksum = header.calc_header_checksum();
    [&bytes[..14], &header.to_bytes(), &bytes[34 + from..34 + to]].concat()
}

/// Makes a fragment of the IPv6 packet: its payload from `from` to `to`.
pub(crate) fn fragment_v6(bytes: &[u8], from: usize, to: usize) -> Vec<u8> {
    let mut header = Ipv6Header::from_slice(&bytes[14..]).unwrap().0;
    let more = u16::from(54 + to < bytes.len());
    let offset = (u16::try_from(from).unwrap() | more).to_be_bytes();
    let fragment = [header.next_header.0, 0, offset[0], offset[1], 0, 1, 2, 3];
    header.next_header = ip_number::IPV6_FRAGMENTATION_HEADER;
    header.set_payload_length(8 + to - from).unwrap();
    [&bytes[..14], &header.to_bytes(), &fragment, &bytes[54 + from..54 + to]].concat()
}
