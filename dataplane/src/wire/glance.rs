//! The straight line through the headers of nearly every packet: see [`super::packet`].

use super::packet::{ETHERNET, TcpFlags, load, u16_at, u32_at};
use super::walk;
use crate::address::Address;

/// Offset of the transport header behind a plain IPv4 header.
pub(super) const V4_TRANSPORT: usize = ETHERNET + 20;
/// Offset of the transport header behind a plain IPv6 header.
pub(super) const V6_TRANSPORT: usize = ETHERNET + 40;
/// Transport header bytes the straight line looks at: those of TCP without options.
pub(super) const LOOK: usize = 20;
/// Bytes up to the end of what is looked at, by family.
pub const V4_HEAD: usize = V4_TRANSPORT + LOOK;
/// The same for IPv6.
pub const V6_HEAD: usize = V6_TRANSPORT + LOOK;

/// What most of the packet path needs of most packets: unfragmented TCP or UDP directly behind a
/// header without options, whose parts lie at known places.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port in the upper half, destination port in the lower.
    pub ports: u32,
    /// Bytes of the IP packet, header included.
    pub ip_len: u16,
    /// Transport protocol number, 6 or 17.
    pub protocol: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: TcpFlags,
}

impl Head {
    /// Whether both addresses are surely those of hosts, and the TCP flags some that are sent. The
    /// functions of this module leave it open: whoever looks for a connection of theirs need not ask,
    /// for there is none of other hosts.
    #[inline(always)]
    #[must_use]
    pub const fn is_usual(&self) -> bool {
        let (from, to) = (self.source, self.destination);
        if self.protocol == walk::TCP && !self.tcp_flags.are_sane() {
            return false;
        }
        if to.is_v4() {
            is_usual_v4(from.v4_bits()) && is_usual_v4(to.v4_bits())
        } else {
            !walk::is_no_host_v6(from) && !walk::is_no_host_v6(to)
        }
    }
}

/// The straight line: reads a frame from its Ethernet header on. `None` for anything unusual, which
/// need not be wrong.
#[inline(always)]
#[must_use]
pub fn glance(frame: &[u8]) -> Option<Head> {
    let head = frame.first_chunk::<V4_HEAD>()?;
    match u16_at(head, 12) {
        // A group's address sends nothing.
        _ if head[6] & 1 != 0 => None,
        walk::IPV4 if head[14] == 0x45 => glance_v4(frame.len(), head),
        walk::IPV6 => glance_v6(frame.len(), frame.first_chunk()?),
        _ => None,
    }
}

/// [`glance`] at a frame from a single host, with the Ethernet type and first byte of IPv4 without
/// options.
#[inline(always)]
#[must_use]
pub fn glance_v4(frame_len: usize, head: &[u8; V4_HEAD]) -> Option<Head> {
    let ip_len = u16_at(head, 16);
    let [source, destination] = [u32_at(head, 26), u32_at(head, 30)];
    if u16_at(head, 20) & 0x3fff != 0
        || header_sum(head) != 0xffff
        || ETHERNET + usize::from(ip_len) > frame_len
        || source == destination
    {
        return None;
    }
    let protocol = head[23];
    let (ports, tcp_flags) = transport(&load(head, V4_TRANSPORT), protocol, ip_len, 20)?;
    Some(Head {
        source: Address::v4(source),
        destination: Address::v4(destination),
        ports,
        ip_len,
        protocol,
        tcp_flags,
    })
}

/// Sums the IPv4 header (RFC 1071) in the order of bytes in which the processor loads: 0xffff if
/// the checksum is right, whatever the order. Should the last carry be lost, the result is 0.
#[inline(always)]
fn header_sum(head: &[u8; V4_HEAD]) -> u32 {
    let (sum, carry) =
        u64::from_ne_bytes(load(head, 14)).overflowing_add(u64::from_ne_bytes(load(head, 22)));
    let (sum, again) = sum.overflowing_add(u64::from(u32::from_ne_bytes(load(head, 30))));
    let sum = sum.wrapping_add(u64::from(carry)).wrapping_add(u64::from(again));
    // The upper half of a number plus its halves swapped is the sum of both, carry included.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    sum.wrapping_add(sum.rotate_left(16)) >> 16
}

/// Whether an address is surely a host's: under 1/8 to 223/8, but not 127/8. The walk knows better.
#[inline(always)]
const fn is_usual_v4(address: u32) -> bool {
    (address.wrapping_sub(1 << 24) < 223 << 24) & (address >> 24 != 127)
}

/// [`glance`] at a frame from a single host, with the Ethernet type of IPv6.
#[inline(always)]
#[must_use]
pub fn glance_v6(frame_len: usize, head: &[u8; V6_HEAD]) -> Option<Head> {
    let ip_len = u16_at(head, 18).checked_add(40)?;
    let source = Address::v6(load(head, 22));
    let destination = Address::v6(load(head, 38));
    if head[14] >> 4 != 6
        || ETHERNET + usize::from(ip_len) > frame_len
        // Nor may one pass for IPv4 (mapped addresses).
        || destination.halves().0 == 0
        || source == destination
    {
        return None;
    }
    let protocol = head[20];
    let segment = load(head, V6_TRANSPORT);
    let (ports, tcp_flags) = transport(&segment, protocol, ip_len, 40)?;
    if protocol == walk::UDP && u16_at(&segment, 6) == 0 {
        return None;
    }
    Some(Head { source, destination, ports, ip_len, protocol, tcp_flags })
}

/// Ports and flags of a transport header that `ahead` bytes of the packet precede. Bytes of
/// `segment` behind the end of the packet are not looked at: neither header passes its length check
/// then.
#[inline(always)]
fn transport(
    segment: &[u8; LOOK],
    protocol: u8,
    ip_len: u16,
    ahead: u16,
) -> Option<(u32, TcpFlags)> {
    let ports = u32_at(segment, 0);
    if protocol == walk::TCP {
        let header_len = u16::from(segment[12] >> 4) * 4;
        let flags = TcpFlags(segment[13]);
        let sound = header_len >= 20 && ahead + header_len <= ip_len;
        sound.then_some((ports, flags))
    } else {
        let udp_len = u16_at(segment, 4);
        let sound = protocol == walk::UDP
            && udp_len >= 8
            && u32::from(ahead) + u32::from(udp_len) <= u32::from(ip_len);
        sound.then_some((ports, TcpFlags(0)))
    }
}
