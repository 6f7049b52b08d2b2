//! Every packet, header by header: what [`super::packet`] does not recognise at a glance.
//!
//! Run by every worker, seldom. It accepts all that the glance accepts, with the same answer, and
//! finds the reason for every refusal. Every loop is bounded by [`limits::EXTENSION_HEADERS`].

use dataplane_api::counter::Reason;

use super::checksum;
use super::packet::{Fragment, Kind, Packet, TcpFlags, load, u16_at, u32_at};
use crate::address::Address;
use crate::limits;

/// Ethernet type of IPv4.
pub(super) const IPV4: u16 = 0x0800;
/// Ethernet type of IPv6.
pub(super) const IPV6: u16 = 0x86dd;
/// Ethernet type of ARP.
pub(super) const ARP: u16 = 0x0806;

/// Protocol numbers and next headers (IANA).
const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// ICMPv6 types of a neighbour solicitation and of an advertisement.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Largest frame whose offsets fit into a [`Packet`].
pub(super) const MAX_LEN: usize = u16::MAX as usize;

/// How much of a packet is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All of it.
    Whole,
    /// Its beginning, as quoted in an ICMP error; sent by somebody who had judged it.
    Quoted,
}

/// An address that cannot be a host's: multicast, loopback, unspecified, broadcast.
#[inline(always)]
pub(super) const fn is_no_host_v4(address: u32) -> bool {
    (address >> 28 == 0xe) | (address >> 24 == 127) | (address.wrapping_add(1) <= 1)
}

/// An address that cannot be a host's: multicast, or under `::/80`.
#[inline(always)]
pub(super) const fn is_no_host_v6(address: Address) -> bool {
    let (high, low) = address.halves();
    is_group_v6(address) | (high | low >> 48 == 0)
}

/// Multicast (RFC 4291 section 2.7).
#[inline(always)]
const fn is_group_v6(address: Address) -> bool {
    address.halves().0 >> 56 == 0xff
}

/// See [`super::packet::parse`].
#[cold]
pub(super) fn frame(bytes: &[u8]) -> Result<Packet, Reason> {
    let bytes = &bytes[..bytes.len().min(MAX_LEN)];
    let ethernet: &[u8; 14] = chunk(bytes, 0)?;
    if ethernet[6] & 1 != 0 {
        return Err(Reason::BadSource);
    }
    match u16_at(ethernet, 12) {
        IPV4 => v4(bytes, 14, Extent::Whole),
        IPV6 => v6(bytes, 14, Extent::Whole),
        ARP => arp(bytes),
        _ => Err(Reason::UnsupportedEthertype),
    }
}

/// See [`super::packet::parse_quoted`].
#[cold]
pub(super) fn quote(bytes: &[u8]) -> Result<Packet, Reason> {
    let bytes = &bytes[..bytes.len().min(MAX_LEN)];
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) => v4(bytes, 0, Extent::Quoted),
        Some(6) => v6(bytes, 0, Extent::Quoted),
        _ => Err(Reason::Malformed),
    }
}

/// The `N` bytes at `at`.
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<&[u8; N], Reason> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).ok_or(Reason::Malformed)
}

fn v4(bytes: &[u8], at: usize, extent: Extent) -> Result<Packet, Reason> {
    let header: &[u8; 20] = chunk(bytes, at)?;
    let available = bytes.len() - at;
    let header_len = usize::from(header[0] & 15) * 4;
    let total_len = usize::from(u16_at(header, 2));
    if header[0] >> 4 != 4 || header_len < 20 || total_len < header_len || header_len > available {
        return Err(Reason::Malformed);
    }
    if extent == Extent::Whole {
        if total_len > available {
            return Err(Reason::Malformed);
        }
        if checksum::sum(&bytes[at..at + header_len]) != 0xffff {
            return Err(Reason::BadIpChecksum);
        }
    }
    if header_len > 20 {
        return Err(Reason::IpOptions);
    }
    let (source, destination) = (u32_at(header, 12), u32_at(header, 16));
    if is_no_host_v4(source) || source == destination {
        return Err(Reason::BadSource);
    }
    if is_no_host_v4(destination) {
        return Err(Reason::NoService);
    }
    let protocol = header[9];
    if !matches!(protocol, TCP | UDP | ICMP) {
        return Err(Reason::UnsupportedProtocol);
    }
    let cut = u16_at(header, 6);
    let fragment = fragment((cut & 0x1fff) << 3, cut & 0x2000 != 0, total_len - 20, 20)?;
    let packet = Packet {
        source: Address::v4(source),
        destination: Address::v4(destination),
        source_port: 0,
        destination_port: 0,
        network: at as u16,
        transport: (at + 20) as u16,
        end: (at + total_len).min(bytes.len()) as u16,
        fragment_header: 0,
        identification: u32::from(u16_at(header, 4)),
        fragment,
        kind: Kind::LaterFragment,
        protocol,
        tcp_flags: TcpFlags(0),
        ttl: header[8],
        traffic_class: header[1],
        dont_fragment: cut & 0x4000 != 0,
    };
    transport(bytes, packet, extent)
}

/// Judges a fragment of `len` bytes; `ahead` bytes of headers precede the first one and count
/// towards the 65535 of the whole (RFC 791 section 3.2, RFC 8200 section 4.5). All but the last are
/// a multiple of eight long.
fn fragment(offset: u16, more: bool, len: usize, ahead: usize) -> Result<Fragment, Reason> {
    if offset == 0 && !more {
        return Ok(Fragment::None);
    }
    if len == 0 || (more && !len.is_multiple_of(8)) || ahead + usize::from(offset) + len > 65535 {
        return Err(Reason::FragmentBad);
    }
    Ok(if offset == 0 { Fragment::First } else { Fragment::Later { offset, more } })
}

fn v6(bytes: &[u8], at: usize, extent: Extent) -> Result<Packet, Reason> {
    let header: &[u8; 40] = chunk(bytes, at)?;
    let payload_len = usize::from(u16_at(header, 4));
    let next_header = header[6];
    if header[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    if payload_len == 0 && next_header == HOP_BY_HOP {
        return Err(Reason::ExtensionHeaders); // a jumbogram (RFC 2675)
    }
    let end = at + 40 + payload_len;
    if extent == Extent::Whole && end > bytes.len() {
        return Err(Reason::Malformed);
    }
    let bytes = &bytes[..end.min(bytes.len())];
    let (source, destination) = (Address::v6(load(header, 8)), Address::v6(load(header, 24)));
    let mut packet = Packet {
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        network: at as u16,
        transport: (at + 40) as u16,
        end: bytes.len() as u16,
        fragment_header: 0,
        identification: 0,
        fragment: Fragment::None,
        kind: Kind::LaterFragment,
        protocol: next_header,
        tcp_flags: TcpFlags(0),
        ttl: header[7],
        traffic_class: (u16_at(header, 0) >> 4) as u8,
        dont_fragment: true,
    };
    // Before the addresses are judged: a solicitation goes to a group, a probe comes from `::`.
    if extent == Extent::Whole
        && next_header == ICMPV6
        && let Some([133..=137, ..]) = bytes.get(at + 40..)
    {
        return discovery(bytes, packet);
    }
    if is_no_host_v6(source) || source == destination {
        return Err(Reason::BadSource);
    }
    if is_no_host_v6(destination) {
        return Err(Reason::NoService);
    }
    extension_headers(bytes, end, &mut packet)?;
    transport(bytes, packet, extent)
}

/// Neighbour discovery: of all its messages, only those between neighbours are for us (RFC 4861).
fn discovery(bytes: &[u8], packet: Packet) -> Result<Packet, Reason> {
    let icmp: &[u8; 8] = chunk(bytes, usize::from(packet.transport))?;
    let kind = match icmp[0] {
        SOLICITATION => Kind::NeighborRequest,
        ADVERTISEMENT => Kind::NeighborAnswer,
        _ => return Err(Reason::NeighborIgnored),
    };
    if icmp[1] != 0 || packet.ttl != 255 {
        return Err(Reason::NeighborIgnored);
    }
    // A mapped IPv4 address would have the message taken for ARP from here on.
    let (source, destination) = (packet.source, packet.destination);
    if source != Address::UNSPECIFIED && is_no_host_v6(source) {
        return Err(Reason::BadSource);
    }
    if is_no_host_v6(destination) && !is_group_v6(destination) {
        return Err(Reason::NoService);
    }
    Ok(Packet { kind, ..packet })
}

/// Walks to the transport header, or to the payload of a later fragment (RFC 8200 section 4).
/// `bytes` end with the packet, or before its `end` if it is quoted; `packet.transport` and
/// `protocol` say where to start.
fn extension_headers(bytes: &[u8], end: usize, packet: &mut Packet) -> Result<(), Reason> {
    let start = usize::from(packet.transport);
    for _ in 0..=limits::EXTENSION_HEADERS {
        let at = usize::from(packet.transport);
        match packet.protocol {
            HOP_BY_HOP if at != start => return Err(Reason::ExtensionHeaders),
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS => {}
            NO_NEXT_HEADER | MOBILITY | HOST_IDENTITY | SHIM6 => {
                return Err(Reason::ExtensionHeaders);
            }
            _ => return Ok(()),
        }
        // A first fragment holds all headers (RFC 7112).
        let short = short(packet);
        let header: &[u8; 8] = chunk(bytes, at).map_err(|_| short)?;
        let len = match packet.protocol {
            FRAGMENT if packet.fragment_header != 0 => return Err(Reason::ExtensionHeaders),
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            // The destination is not the last one: source routing, which we do not do.
            ROUTING if header[3] != 0 => return Err(Reason::ExtensionHeaders),
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if at + len > bytes.len() {
            return Err(short);
        }
        if packet.protocol == FRAGMENT {
            let cut = u16_at(header, 2);
            let (offset, more) = (cut & 0xfff8, cut & 1 != 0);
            packet.fragment = fragment(offset, more, end - at - 8, at - start)?;
            packet.fragment_header = at as u16;
            packet.identification = u32_at(header, 4);
        }
        packet.protocol = header[0];
        packet.transport = (at + len) as u16;
        if matches!(packet.fragment, Fragment::Later { .. }) {
            return Ok(());
        }
    }
    Err(Reason::ExtensionHeaders)
}

/// Why a packet that ends inside its headers is refused.
fn short(packet: &Packet) -> Reason {
    if packet.fragment == Fragment::First { Reason::FragmentBad } else { Reason::Malformed }
}

/// Judges what the network header carries, and fills in ports, flags and kind.
fn transport(bytes: &[u8], mut packet: Packet, extent: Extent) -> Result<Packet, Reason> {
    if matches!(packet.fragment, Fragment::Later { .. }) {
        return Ok(packet);
    }
    let segment = bytes
        .get(usize::from(packet.transport)..usize::from(packet.end))
        .ok_or(Reason::Malformed)?;
    let header: &[u8; 8] = segment.first_chunk().ok_or_else(|| short(&packet))?;
    packet.kind = match (packet.protocol, packet.is_v4()) {
        (TCP, _) => Kind::Tcp,
        (UDP, _) => Kind::Udp,
        (ICMP, true) => match header[0] {
            8 => Kind::EchoRequest,
            // Not 4, source quench: deprecated (RFC 6633).
            3 | 11 | 12 => Kind::IcmpError,
            _ => return Err(Reason::IcmpUnsupported),
        },
        (ICMPV6, false) => match header[0] {
            128 => Kind::EchoRequest,
            1..=4 => Kind::IcmpError,
            // Behind extension headers, or quoted.
            133..=137 => return Err(Reason::NeighborIgnored),
            _ => return Err(Reason::IcmpUnsupported),
        },
        _ => return Err(Reason::UnsupportedProtocol),
    };
    match packet.kind {
        Kind::Tcp => tcp(segment, &mut packet, extent)?,
        Kind::Udp => udp(header, segment.len(), &mut packet, extent)?,
        Kind::IcmpError => icmp_error(segment, &packet, extent)?,
        Kind::EchoRequest | Kind::LaterFragment | Kind::NeighborRequest | Kind::NeighborAnswer => {}
    }
    Ok(packet)
}

fn tcp(segment: &[u8], packet: &mut Packet, extent: Extent) -> Result<(), Reason> {
    let [a, b, c, d, ..] = *segment else { return Err(short(packet)) };
    packet.source_port = u16::from_be_bytes([a, b]);
    packet.destination_port = u16::from_be_bytes([c, d]);
    packet.tcp_flags = TcpFlags(segment.get(13).copied().unwrap_or(0));
    if extent == Extent::Quoted {
        return Ok(());
    }
    let header: &[u8; 20] = segment.first_chunk().ok_or_else(|| short(packet))?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 {
        return Err(Reason::Malformed);
    }
    if header_len > segment.len() {
        return Err(short(packet));
    }
    if !packet.tcp_flags.are_sane() {
        return Err(Reason::BadTcpFlags);
    }
    Ok(())
}

fn udp(header: &[u8; 8], len: usize, packet: &mut Packet, extent: Extent) -> Result<(), Reason> {
    packet.source_port = u16_at(header, 0);
    packet.destination_port = u16_at(header, 2);
    if extent == Extent::Quoted {
        return Ok(());
    }
    let udp_len = usize::from(u16_at(header, 4));
    // The length is that of the datagram, not of its first fragment.
    if udp_len < 8 || (udp_len > len && packet.fragment == Fragment::None) {
        return Err(Reason::Malformed);
    }
    if u16_at(header, 6) == 0 && !packet.is_v4() {
        return Err(Reason::ZeroUdpChecksum);
    }
    Ok(())
}

/// An error is rewritten inside, so its checksum must be right and all of it be here. It quotes
/// at least a network header.
fn icmp_error(segment: &[u8], packet: &Packet, extent: Extent) -> Result<(), Reason> {
    if extent == Extent::Quoted {
        return Err(Reason::IcmpUnsupported); // nobody sends an error about an error
    }
    let (least, checksum) = if packet.is_v4() {
        (8 + 20, checksum::plain(segment))
    } else {
        (8 + 40, checksum::transport(packet.source, packet.destination, ICMPV6, segment))
    };
    if segment.len() < least || checksum != 0 || packet.fragment != Fragment::None {
        return Err(Reason::Malformed);
    }
    Ok(())
}

/// ARP for IPv4 over Ethernet (RFC 826); the addresses are those of sender and target.
fn arp(bytes: &[u8]) -> Result<Packet, Reason> {
    let body: &[u8; 28] = chunk(bytes, 14)?;
    let kind = match load(body, 0) {
        [0, 1, 8, 0, 6, 4, 0, 1] => Kind::NeighborRequest,
        [0, 1, 8, 0, 6, 4, 0, 2] => Kind::NeighborAnswer,
        _ => return Err(Reason::NeighborIgnored),
    };
    Ok(Packet {
        source: Address::v4(u32_at(body, 14)),
        destination: Address::v4(u32_at(body, 24)),
        source_port: 0,
        destination_port: 0,
        network: 14,
        transport: 14,
        end: 14 + 28,
        fragment_header: 0,
        identification: 0,
        fragment: Fragment::None,
        kind,
        protocol: 0,
        tcp_flags: TcpFlags(0),
        ttl: 0,
        traffic_class: 0,
        dont_fragment: false,
    })
}
