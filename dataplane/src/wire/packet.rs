//! One pass over a frame: what it is and where its headers lie.
//!
//! Run by every worker on every frame. Plain TCP and UDP, nearly all there is, takes a straight
//! line without a loop; that line only ever says "yes". Whatever it does not recognise goes to
//! `walk`, which knows every case, those of the straight line included, and names the reason of a
//! refusal. A property test holds the two to the same answers.

use dataplane_api::counter::Reason;

use super::walk;
use crate::address::Address;

/// What a packet is to the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP with its ports (no fragment, or the first one).
    Tcp,
    /// UDP with its ports (no fragment, or the first one).
    Udp,
    /// A fragment other than the first: no ports.
    LaterFragment,
    /// Echo request, v4 or v6.
    EchoRequest,
    /// ICMP or ICMPv6 error; the packet it quotes starts 8 bytes after `transport`.
    IcmpError,
    /// ARP request or IPv6 neighbour solicitation; see [`super::neighbor`].
    NeighborRequest,
}

/// Whether the packet is part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    None,
    /// Has the transport header; more follow.
    First,
    /// Offset in bytes, and whether more follow.
    Later {
        /// Offset of its payload in the datagram.
        offset: u16,
        /// The more-fragments flag.
        more: bool,
    },
}

/// TCP flag bits as in byte 13 of the header (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;

    /// One bit for each combination of the six flags of RFC 793 that no stack sends.
    const NEVER_SENT: u64 = {
        let mut set = 0;
        let mut flags: u8 = 0;
        while flags < 64 {
            let all = Self(flags);
            if flags == 0 || all.has(Self::SYN | Self::FIN) || all.has(Self::SYN | Self::RST) {
                set |= 1 << flags;
            }
            flags += 1;
        }
        set
    };

    /// Whether some stack sends this: not without any flag (ECE and CWR aside), nor SYN with FIN or
    /// RST.
    #[inline(always)]
    #[must_use]
    pub const fn are_sane(self) -> bool {
        Self::NEVER_SENT >> (self.0 & 63) & 1 == 0
    }

    /// Whether every bit of `mask` is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, mask: u8) -> bool {
        self.0 & mask == mask
    }
}

/// A parsed packet: offsets and meaning; borrows nothing.
///
/// Offsets count from the start of the frame (or of the slice given to [`parse_quoted`]).
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port; 0 where [`Kind`] has none.
    pub source_port: u16,
    /// Destination port; 0 where [`Kind`] has none.
    pub destination_port: u16,
    /// Offset of the IP header.
    pub network: u16,
    /// Offset of the transport (or ICMP) header; of the payload for a later fragment.
    pub transport: u16,
    /// End of the IP packet; what lies behind is Ethernet padding.
    pub end: u16,
    /// IPv6: offset of the fragment header, 0 if there is none. A whole packet may have one
    /// ("atomic fragment", RFC 6946).
    pub fragment_header: u16,
    /// Identification of the datagram, if it is a fragment; else whatever the header says, or 0.
    pub identification: u32,
    /// Whether, and which, fragment.
    pub fragment: Fragment,
    /// What it is.
    pub kind: Kind,
    /// Transport protocol number (6, 17, 1, 58, or whatever a later fragment of IPv6 says); 0 for
    /// ARP.
    pub protocol: u8,
    /// TCP flags; 0 for everything else.
    pub tcp_flags: TcpFlags,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Traffic class or TOS byte (DSCP and ECN).
    pub traffic_class: u8,
    /// IPv4 don't-fragment flag; always true for IPv6.
    pub dont_fragment: bool,
}

impl Packet {
    /// A placeholder: no packet.
    pub const EMPTY: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        source_port: 0,
        destination_port: 0,
        network: 0,
        transport: 0,
        end: 0,
        fragment_header: 0,
        identification: 0,
        fragment: Fragment::None,
        kind: Kind::LaterFragment,
        protocol: 0,
        tcp_flags: TcpFlags(0),
        ttl: 0,
        traffic_class: 0,
        dont_fragment: false,
    };

    /// Whether it is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.destination.is_v4()
    }

    /// Bytes of the IP packet, header included.
    #[inline(always)]
    #[must_use]
    pub const fn ip_len(&self) -> usize {
        (self.end - self.network) as usize
    }
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Offset of the transport header behind a plain IPv4 header.
const V4_TRANSPORT: usize = ETHERNET + 20;
/// Offset of the transport header behind a plain IPv6 header.
const V6_TRANSPORT: usize = ETHERNET + 40;
/// Transport header bytes the straight line looks at: those of TCP without options.
const LOOK: usize = 20;

/// Reads a frame from its Ethernet header on.
///
/// Refused besides what [`Reason`] says of itself: a frame sent by a group MAC address, an IPv6
/// packet with addresses under `::/80` (unspecified, loopback, IPv4-compatible, IPv4-mapped:
/// RFC 4291 section 2.5; a mapped one would pass for IPv4 in an [`Address`]), and routing headers
/// with segments left. A destination that is no host (group, broadcast, loopback, unspecified) is
/// [`Reason::NoService`], because no VIP can be one; a neighbour solicitation may go to a group.
///
/// Not judged: transport checksums (but for ICMP errors, which are rewritten inside), TTL, and the
/// destination MAC address.
///
/// # Errors
/// The reason to drop it: see [`Reason`].
pub fn parse(frame: &[u8]) -> Result<Packet, Reason> {
    let mut packet = Packet::EMPTY;
    parse_into(frame, &mut packet)?;
    Ok(packet)
}

/// [`parse`], for a packet that is kept: it is written where it stays. A copy of a structure that
/// was just written in small pieces waits until the pieces have left the store buffer.
///
/// # Errors
/// As [`parse`]; `packet` is then as it was.
#[inline(always)]
pub fn parse_into(frame: &[u8], packet: &mut Packet) -> Result<(), Reason> {
    if !plain(frame, packet) {
        *packet = walk::frame(frame)?;
    }
    Ok(())
}

/// Reads the packet that an ICMP error quotes; `quote` starts at its IP header. Eight bytes of
/// transport header suffice (RFC 792, RFC 4443), length fields may say more than is quoted, and the
/// header checksum is not judged. A quoted later fragment is [`Kind::LaterFragment`].
///
/// TCP flags are those quoted, or 0 if the quote ends before them, and are not judged.
///
/// # Errors
/// The reason why it cannot belong to a connection.
pub fn parse_quoted(quote: &[u8]) -> Result<Packet, Reason> {
    walk::quote(quote)
}

/// The straight line: unfragmented TCP or UDP directly behind a header without options. False, and
/// nothing written, for anything else.
#[inline(always)]
fn plain(frame: &[u8], packet: &mut Packet) -> bool {
    let Some(head) = frame.first_chunk::<{ V4_TRANSPORT + LOOK }>() else { return false };
    match u16_at(head, 12) {
        walk::IPV4 => plain_v4(frame.len(), head, packet),
        walk::IPV6 => frame.first_chunk().is_some_and(|h| plain_v6(frame.len(), h, packet)),
        _ => false,
    }
}

#[inline(always)]
fn plain_v4(frame_len: usize, head: &[u8; V4_TRANSPORT + LOOK], packet: &mut Packet) -> bool {
    let total_len = usize::from(u16_at(head, 16));
    let end = ETHERNET + total_len;
    let cut = u16_at(head, 20);
    let [source, destination] = [u32_at(head, 26), u32_at(head, 30)];
    let odd = (head[14] != 0x45)
        | (cut & 0x3fff != 0)
        | (header_sum(head) != 0xffff)
        | (total_len < 20)
        | (end > frame_len.min(walk::MAX_LEN))
        | (head[6] & 1 != 0)
        | !is_usual_v4(source)
        | !is_usual_v4(destination)
        | (source == destination);
    if odd {
        return false;
    }
    let protocol = head[23];
    let segment = load(head, V4_TRANSPORT);
    let Some((kind, tcp_flags)) = plain_transport(&segment, protocol, total_len - 20) else {
        return false;
    };
    *packet = Packet {
        source: Address::v4(source),
        destination: Address::v4(destination),
        source_port: u16_at(&segment, 0),
        destination_port: u16_at(&segment, 2),
        network: ETHERNET as u16,
        transport: V4_TRANSPORT as u16,
        end: end as u16,
        fragment_header: 0,
        identification: u32::from(u16_at(head, 18)),
        fragment: Fragment::None,
        kind,
        protocol,
        tcp_flags,
        ttl: head[22],
        traffic_class: head[15],
        dont_fragment: cut & 0x4000 != 0,
    };
    true
}

/// Sums the IPv4 header (RFC 1071) in the order of bytes in which the processor loads: 0xffff if
/// the checksum is right, whatever the order. Should the last carry be lost, the result is 0.
#[inline(always)]
fn header_sum(head: &[u8; V4_TRANSPORT + LOOK]) -> u32 {
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

#[inline(always)]
fn plain_v6(frame_len: usize, head: &[u8; V6_TRANSPORT + LOOK], packet: &mut Packet) -> bool {
    let payload_len = usize::from(u16_at(head, 18));
    let end = V6_TRANSPORT + payload_len;
    let source = Address::v6(load(head, 22));
    let destination = Address::v6(load(head, 38));
    let odd = (head[14] >> 4 != 6)
        | (end > frame_len.min(walk::MAX_LEN))
        | (head[6] & 1 != 0)
        | walk::is_no_host_v6(source)
        | walk::is_no_host_v6(destination)
        | (source == destination);
    if odd {
        return false;
    }
    let protocol = head[20];
    let segment = load(head, V6_TRANSPORT);
    let Some((kind, tcp_flags)) = plain_transport(&segment, protocol, payload_len) else {
        return false;
    };
    if kind == Kind::Udp && u16_at(&segment, 6) == 0 {
        return false;
    }
    *packet = Packet {
        source,
        destination,
        source_port: u16_at(&segment, 0),
        destination_port: u16_at(&segment, 2),
        network: ETHERNET as u16,
        transport: V6_TRANSPORT as u16,
        end: end as u16,
        fragment_header: 0,
        identification: 0,
        fragment: Fragment::None,
        kind,
        protocol,
        tcp_flags,
        ttl: head[21],
        traffic_class: (u16_at(head, 14) >> 4) as u8,
        dont_fragment: true,
    };
    true
}

/// Judges a transport header in `len` bytes of payload; bytes of `segment` behind `len` are not
/// looked at, because neither header passes its length check then.
#[inline(always)]
fn plain_transport(segment: &[u8; LOOK], protocol: u8, len: usize) -> Option<(Kind, TcpFlags)> {
    if protocol == walk::TCP {
        let header_len = usize::from(segment[12] >> 4) * 4;
        let flags = TcpFlags(segment[13]);
        let sound = (header_len >= 20) & (header_len <= len) & flags.are_sane();
        sound.then_some((Kind::Tcp, flags))
    } else {
        let udp_len = usize::from(u16_at(segment, 4));
        let sound = (protocol == walk::UDP) & (udp_len >= 8) & (udp_len <= len);
        sound.then_some((Kind::Udp, TcpFlags(0)))
    }
}

/// `S` bytes at a constant offset of an array: the bounds check is done by the compiler.
#[inline(always)]
pub(super) fn load<const S: usize, const N: usize>(bytes: &[u8; N], at: usize) -> [u8; S] {
    let mut out = [0; S];
    out.copy_from_slice(&bytes[at..at + S]);
    out
}

/// A big-endian number at a constant offset of an array.
#[inline(always)]
pub(super) fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes(load(bytes, at))
}

/// A big-endian number at a constant offset of an array.
#[inline(always)]
pub(super) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes(load(bytes, at))
}

#[cfg(test)]
mod tests;
