//! One pass over a frame: what it is and where its headers lie.
//!
//! Run by every worker on every frame. Plain TCP and UDP, nearly all there is, takes a straight
//! line without a loop ([`super::glance`]); that line only ever says "yes". Whatever it does not
//! recognise goes to `walk`, which knows every case, those of the straight line included, and names
//! the reason of a refusal. A property test holds the two to the same answers.

use dataplane_api::counter::Reason;

use super::glance::{LOOK, V4_HEAD, V4_TRANSPORT, V6_HEAD, V6_TRANSPORT, glance};
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
    /// ARP reply or IPv6 neighbour advertisement.
    NeighborAnswer,
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

    /// Whether this is ACK, and neither SYN nor FIN nor RST: most packets.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain_ack(self) -> bool {
        self.0 & (Self::ACK | Self::SYN | Self::FIN | Self::RST) == Self::ACK
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
pub(super) const ETHERNET: usize = 14;
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
    let plain = glance(frame).filter(|head| head.is_usual() && frame.len() <= walk::MAX_LEN);
    let plain = plain.and_then(|head| {
        if head.destination.is_v4() {
            frame.first_chunk().map(plain_v4)
        } else {
            frame.first_chunk().map(plain_v6)
        }
    });
    plain.map_or_else(|| walk::frame(frame), Ok)
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

/// Everything about a packet whose head [`glance`] accepted; nothing is judged.
#[inline(always)]
#[must_use]
pub fn plain_v4(head: &[u8; V4_HEAD]) -> Packet {
    let total_len = u16_at(head, 16);
    Packet {
        source: Address::v4(u32_at(head, 26)),
        destination: Address::v4(u32_at(head, 30)),
        transport: V4_TRANSPORT as u16,
        end: total_len.wrapping_add(ETHERNET as u16),
        identification: u32::from(u16_at(head, 18)),
        ttl: head[22],
        traffic_class: head[15],
        dont_fragment: head[20] & 0x40 != 0,
        ..plain_segment(&load(head, V4_TRANSPORT), head[23])
    }
}

/// The same for IPv6.
#[inline(always)]
#[must_use]
pub fn plain_v6(head: &[u8; V6_HEAD]) -> Packet {
    let payload_len = u16_at(head, 18);
    Packet {
        source: Address::v6(load(head, 22)),
        destination: Address::v6(load(head, 38)),
        transport: V6_TRANSPORT as u16,
        end: payload_len.wrapping_add(V6_TRANSPORT as u16),
        ttl: head[21],
        traffic_class: (u16_at(head, 14) >> 4) as u8,
        dont_fragment: true,
        ..plain_segment(&load(head, V6_TRANSPORT), head[20])
    }
}

#[inline(always)]
fn plain_segment(segment: &[u8; LOOK], protocol: u8) -> Packet {
    let tcp = protocol == walk::TCP;
    Packet {
        source_port: u16_at(segment, 0),
        destination_port: u16_at(segment, 2),
        network: ETHERNET as u16,
        kind: if tcp { Kind::Tcp } else { Kind::Udp },
        protocol,
        tcp_flags: TcpFlags(if tcp { segment[13] } else { 0 }),
        ..Packet::EMPTY
    }
}

/// `S` bytes at a constant offset of an array: the bounds check is done by the compiler.
#[inline(always)]
pub(crate) fn load<const S: usize, const N: usize>(bytes: &[u8; N], at: usize) -> [u8; S] {
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
pub(crate) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes(load(bytes, at))
}

#[cfg(test)]
mod tests;
