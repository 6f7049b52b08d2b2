//! Frames, built and judged by etherparse.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket, TcpHeader,
    TcpOptionElement, TransportSlice, ip_number,
};

use crate::harness::{CLIENT_MAC, INSIDE_MAC, OUTSIDE_MAC, client, mac_of, vip};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// A TCP or UDP packet in a frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub macs: ([u8; 6], [u8; 6]),
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ports: (u16, u16),
    /// `None` is UDP.
    pub flags: Option<u8>,
    /// Sequence and acknowledgment number.
    pub numbers: (u32, u32),
    pub mss: Option<u16>,
    pub ttl: u8,
    pub class: u8,
    pub dont_fragment: bool,
    pub identification: u16,
    pub payload: Vec<u8>,
}

/// From the client's port 40000 to port 80 of the VIP.
pub fn tcp(v6: bool, flags: u8) -> Frame {
    Frame {
        macs: (CLIENT_MAC, OUTSIDE_MAC),
        source: client(v6),
        destination: vip(v6),
        ports: (40000, 80),
        flags: Some(flags),
        numbers: (7, 0),
        mss: None,
        ttl: 61,
        class: 0,
        dont_fragment: true,
        identification: 0x4321,
        payload: Vec::new(),
    }
}

pub fn udp(v6: bool) -> Frame {
    Frame { flags: None, payload: b"question".to_vec(), ..tcp(v6, 0) }
}

impl Frame {
    /// The real's answer to what it has received in `request`.
    pub fn answer(request: &[u8], flags: u8) -> Self {
        Self::answer_to(&Seen::of(request), flags)
    }

    pub fn answer_to(seen: &Seen, flags: u8) -> Self {
        Self {
            macs: (mac_of(seen.destination), INSIDE_MAC),
            source: seen.destination,
            destination: seen.source,
            ports: (seen.ports.1, seen.ports.0),
            flags: seen.flags.map(|_| flags),
            payload: b"answer".to_vec(),
            ..tcp(seen.source.is_ipv6(), 0)
        }
    }

    pub fn numbered(self, sequence: u32, acknowledgment: u32) -> Self {
        Self { numbers: (sequence, acknowledgment), ..self }
    }

    pub fn by_port(self, port: u16) -> Self {
        Self { ports: (port, self.ports.1), ..self }
    }

    pub fn to(self, destination: IpAddr, port: u16) -> Self {
        Self { destination, ports: (self.ports.0, port), ..self }
    }

    pub fn from(self, source: IpAddr) -> Self {
        Self { source, ..self }
    }

    pub fn data(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// With the Don't Fragment flag cleared.
    pub fn loose(self) -> Self {
        Self { dont_fragment: false, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.macs.0, self.macs.1).ip(self.ip());
        let (source, destination) = self.ports;
        let mut bytes = Vec::new();
        let Some(flags) = self.flags else {
            builder.udp(source, destination).write(&mut bytes, &self.payload).unwrap();
            return bytes;
        };
        let mut header = TcpHeader::new(source, destination, self.numbers.0, 512);
        header.acknowledgment_number = self.numbers.1;
        header.fin = flags & FIN != 0;
        header.syn = flags & SYN != 0;
        header.rst = flags & RST != 0;
        header.psh = flags & PSH != 0;
        header.ack = flags & ACK != 0;
        if let Some(mss) = self.mss {
            header.set_options(&[TcpOptionElement::MaximumSegmentSize(mss)]).unwrap();
        }
        builder.tcp_header(header).write(&mut bytes, &self.payload).unwrap();
        bytes
    }

    fn ip(&self) -> IpHeaders {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ends = (source.octets(), destination.octets());
                let mut header =
                    Ipv4Header::new(0, self.ttl, ip_number::TCP, ends.0, ends.1).unwrap();
                header.dscp = (self.class >> 2).try_into().unwrap();
                header.ecn = (self.class & 3).try_into().unwrap();
                header.dont_fragment = self.dont_fragment;
                header.identification = self.identification;
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.class,
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

/// An Ethernet frame with any IPv4 or IPv6 packet.
pub fn frame_of(macs: ([u8; 6], [u8; 6]), packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&macs.1[..], &macs.0, &kind, packet].concat()
}

/// A packet as somebody else reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source and destination.
    pub macs: ([u8; 6], [u8; 6]),
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub ports: (u16, u16),
    pub flags: Option<u8>,
    /// Sequence and acknowledgment number.
    pub numbers: (u32, u32),
    pub mss: Option<u16>,
    pub ttl: u8,
    pub class: u8,
    pub dont_fragment: bool,
    /// Offset in bytes and more-fragments, if it is a fragment.
    pub fragment: Option<(u16, bool)>,
    /// Of TCP and UDP, or else of IP.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Reads a frame; fails if a length or a checksum in it is wrong.
    pub fn of(bytes: &[u8]) -> Self {
        Self::read(bytes, true)
    }

    /// The same, without judging the checksum of the transport header.
    pub fn unjudged(bytes: &[u8]) -> Self {
        Self::read(bytes, false)
    }

    fn read(bytes: &[u8], judge: bool) -> Self {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
        let mac = |at: usize| <[u8; 6]>::try_from(&bytes[at..at + 6]).unwrap();
        let mut seen = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(slice) => {
                let header = slice.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                let offset = header.fragment_offset.byte_offset();
                Self {
                    source: header.source.into(),
                    destination: header.destination.into(),
                    protocol: header.protocol.0,
                    ttl: header.time_to_live,
                    class: header.dscp.value() << 2 | header.ecn.value(),
                    dont_fragment: header.dont_fragment,
                    fragment: (offset > 0 || header.more_fragments)
                        .then_some((offset, header.more_fragments)),
                    payload: slice.payload().payload.to_vec(),
                    ..Self::empty()
                }
            }
            NetSlice::Ipv6(slice) => {
                let header = slice.header().to_header();
                let fragment = slice.extensions().clone().into_iter().find_map(|extension| {
                    use etherparse::Ipv6ExtensionSlice::Fragment;
                    let Fragment(fragment) = extension else { return None };
                    Some((fragment.fragment_offset().byte_offset(), fragment.more_fragments()))
                });
                Self {
                    source: header.source.into(),
                    destination: header.destination.into(),
                    protocol: slice.payload().ip_number.0,
                    ttl: header.hop_limit,
                    class: header.traffic_class,
                    dont_fragment: true,
                    fragment,
                    payload: slice.payload().payload.to_vec(),
                    ..Self::empty()
                }
            }
            other => panic!("{other:?}"),
        };
        seen.macs = (mac(6), mac(0));
        let whole = seen.fragment.is_none();
        if judge && whole && matches!(seen.protocol, 1 | 6 | 17 | 58) {
            let zero = seen.protocol == 17 && seen.payload[6..8] == [0, 0];
            assert!(zero || transport_sum(&seen) == 0, "a wrong checksum in {seen:x?}");
        }
        match sliced.transport {
            Some(TransportSlice::Tcp(slice)) => seen.tcp(&slice.to_header(), slice.payload()),
            Some(TransportSlice::Udp(slice)) => {
                seen.ports = (slice.source_port(), slice.destination_port());
                seen.payload = slice.payload().to_vec();
            }
            _ => {}
        }
        seen
    }

    fn tcp(&mut self, header: &TcpHeader, payload: &[u8]) {
        let flags = [header.fin, header.syn, header.rst, header.psh, header.ack];
        let bits = flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit);
        self.ports = (header.source_port, header.destination_port);
        self.flags = Some(bits.sum());
        self.numbers = (header.sequence_number, header.acknowledgment_number);
        self.mss = header.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        });
        self.payload = payload.to_vec();
    }

    fn empty() -> Self {
        Self {
            macs: ([0; 6], [0; 6]),
            source: IpAddr::from([0; 4]),
            destination: IpAddr::from([0; 4]),
            protocol: 0,
            ports: (0, 0),
            flags: None,
            numbers: (0, 0),
            mss: None,
            ttl: 0,
            class: 0,
            dont_fragment: false,
            fragment: None,
            payload: Vec::new(),
        }
    }

    /// What a tunnel packet carries, as a frame of its own with the same MAC addresses.
    pub fn inner(&self) -> Vec<u8> {
        assert!(matches!(self.protocol, 4 | 41), "no tunnel: {self:?}");
        assert_eq!(self.payload[0] >> 4, if self.protocol == 4 { 4 } else { 6 });
        frame_of(self.macs, &self.payload)
    }
}

/// Checksum over segment and pseudo header, the checksum in the segment included: 0 if it is right.
pub fn transport_sum(seen: &Seen) -> u16 {
    let mut sum = Sum16BitWords::new().add_slice(&seen.payload);
    let length = u32::try_from(seen.payload.len()).unwrap().to_be_bytes();
    let mut pseudo = match (seen.protocol, seen.source, seen.destination) {
        (1, ..) => return sum.ones_complement(),
        (_, IpAddr::V4(a), IpAddr::V4(b)) => sum.add_4bytes(a.octets()).add_4bytes(b.octets()),
        (_, IpAddr::V6(a), IpAddr::V6(b)) => sum.add_16bytes(a.octets()).add_16bytes(b.octets()),
        _ => panic!("mixed families"),
    };
    pseudo.add_4bytes(length).add_2bytes([0, seen.protocol]).ones_complement()
}

/// An ICMP or ICMPv6 error from `source` to `destination` that quotes `length` bytes of a packet
/// (from its IP header on).
pub fn icmp_error(
    macs: ([u8; 6], [u8; 6]),
    source: IpAddr,
    destination: IpAddr,
    kind: [u8; 2],
    rest: u32,
    quote: &[u8],
) -> Vec<u8> {
    let mut message = [&[kind[0], kind[1], 0, 0][..], &rest.to_be_bytes(), quote].concat();
    let protocol = if source.is_ipv4() { 1 } else { 58 };
    let seen = Seen { source, destination, protocol, payload: message.clone(), ..Seen::empty() };
    message[2..4].copy_from_slice(&transport_sum(&seen).to_ne_bytes());
    raw(macs, source, destination, protocol, &message)
}

/// Any payload in IP.
pub fn raw(
    macs: ([u8; 6], [u8; 6]),
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let frame = Frame { source, destination, ..tcp(source.is_ipv6(), 0) };
    let packet = match frame.ip() {
        IpHeaders::Ipv4(mut header, _) => {
            header.protocol = IpNumber(protocol);
            header.set_payload_len(payload.len()).unwrap();
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes()[..], payload].concat()
        }
        IpHeaders::Ipv6(mut header, _) => {
            header.next_header = IpNumber(protocol);
            header.set_payload_length(payload.len()).unwrap();
            [&header.to_bytes()[..], payload].concat()
        }
    };
    frame_of(macs, &packet)
}

/// The payload of an IP packet from `from` to `to`, as a fragment.
pub fn fragment(bytes: &[u8], from: usize, to: usize) -> Vec<u8> {
    let rest = bytes.len() - if bytes[12] == 8 { 34 } else { 54 };
    let more = to < rest;
    if bytes[12] == 8 {
        let mut header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = u16::try_from(from / 8).unwrap().try_into().unwrap();
        header.set_payload_len(to - from).unwrap();
        header.header_checksum = header.calc_header_checksum();
        return [&bytes[..14], &header.to_bytes(), &bytes[34 + from..34 + to]].concat();
    }
    let mut header = Ipv6Header::from_slice(&bytes[14..]).unwrap().0;
    let offset = (u16::try_from(from).unwrap() | u16::from(more)).to_be_bytes();
    let extension = [header.next_header.0, 0, offset[0], offset[1], 0, 1, 2, 3];
    header.next_header = ip_number::IPV6_FRAGMENTATION_HEADER;
    header.set_payload_length(8 + to - from).unwrap();
    [&bytes[..14], &header.to_bytes(), &extension, &bytes[54 + from..54 + to]].concat()
}

/// Puts fragments of one datagram together, into the frame of the whole.
pub fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<Seen> = fragments.iter().map(|bytes| Seen::of(bytes)).collect();
    parts.sort_by_key(|part| part.fragment.unwrap().0);
    let mut payload = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        let (offset, more) = part.fragment.unwrap();
        assert_eq!(usize::from(offset), payload.len(), "a gap");
        assert_eq!(more, n + 1 < parts.len());
        payload.extend_from_slice(&part.payload);
    }
    let Seen { macs, source, destination, protocol, ttl, .. } = parts[0].clone();
    let mut bytes = raw(macs, source, destination, protocol, &payload);
    if bytes[12] == 8 {
        let mut header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
        header.time_to_live = ttl;
        header.header_checksum = header.calc_header_checksum();
        bytes[14..34].copy_from_slice(&header.to_bytes());
    } else {
        bytes[21] = ttl;
    }
    bytes
}
