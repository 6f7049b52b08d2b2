//! IP in IP: `tunnel` forwarding. IPv4 and IPv6, each in each, in one code path (RFC 2003, RFC 2473,
//! RFC 4213).
//!
//! Runs on the worker for every packet towards a real of a tunnelled service. The reply goes from
//! the real straight to the client.

use dataplane_api::counter::Reason;

use crate::address::Address;
use crate::frame::Frame;
use crate::limits::FRAME_SIZE;
use crate::wire::checksum::Update;
use crate::wire::packet::Packet;

use super::{ETHERNET, IPV4, IPV6, TTL, age_v4, chunk, set_long, set_word};

/// Bytes of the IPv6 fragment header.
const FRAGMENT_HEADER: usize = 8;
/// Every IPv6 link carries packets of this size (RFC 8200 section 5).
const IPV6_MTU_MIN: u16 = 1280;
/// The More Fragments flag of IPv4.
const V4_MORE: u16 = 0x2000;
/// The Don't Fragment flag of IPv4.
const V4_DONT_FRAGMENT: u16 = 0x4000;

/// The way to one real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Outer source: an address of ours.
    pub source: Address,
    /// Outer destination: the real; of the same family.
    pub destination: Address,
    /// Largest packet, outer header included, that the path to the real carries, in bytes.
    pub mtu: u16,
}

/// A packet in its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulated {
    /// In the frame.
    Whole,
    /// In two fragments: the first in the frame, the second in the scratch buffer.
    Split {
        /// Bytes of the second one, Ethernet header included.
        second: usize,
    },
}

impl Tunnel {
    /// Bytes the outer header takes.
    #[inline(always)]
    #[must_use]
    pub const fn overhead(&self) -> u16 {
        if self.destination.is_v4() { IPV4 as u16 } else { IPV6 as u16 }
    }

    /// The MTU to report to the sender of a packet that was too big. Never below 1280 for IPv6, which
    /// is why packets of up to that size are fragmented instead (RFC 2473 section 7.1).
    #[must_use]
    pub fn inner_mtu(&self, packet: &Packet) -> u16 {
        let room = self.mtu.saturating_sub(self.overhead());
        if packet.is_v4() { room } else { room.max(IPV6_MTU_MIN) }
    }

    /// The largest MSS whose segments fit without fragmentation, for inner IPv4 or IPv6.
    #[must_use]
    pub const fn mss(&self, inner_v4: bool) -> u16 {
        let headers = if inner_v4 { IPV4 + 20 } else { IPV6 + 20 };
        self.mtu.saturating_sub(self.overhead()).saturating_sub(headers as u16)
    }

    /// Payload bytes of the first of two fragments: 0 if `packet` may not, or cannot, be cut in two.
    fn split(&self, packet: &Packet) -> usize {
        let whole = packet.ip_len();
        if packet.dont_fragment && whole > usize::from(self.inner_mtu(packet)) {
            return 0;
        }
        if packet.dont_fragment && packet.is_v4() {
            return 0;
        }
        let first = usize::from(self.mtu).saturating_sub(self.header(true)) & !7;
        if whole > 2 * first { 0 } else { first }
    }

    /// Bytes of the outer header, of a fragment or not.
    const fn header(&self, fragment: bool) -> usize {
        match (self.destination.is_v4(), fragment) {
            (true, _) => IPV4,
            (false, false) => IPV6,
            (false, true) => IPV6 + FRAGMENT_HEADER,
        }
    }
}

/// Puts the packet into the tunnel: takes one off its TTL (the caller has checked that it is greater
/// than one), cuts off Ethernet padding, and puts an outer header in front, with DSCP and ECN of the
/// inner one (RFC 6040 section 4.1, normal mode).
///
/// The Ethernet header moves in front, with the new type and the old addresses: the caller sets them
/// with [`link`](super::link), in both pieces if there are two. An outer IPv4 header takes the inner
/// Don't Fragment flag (RFC 2003 section 3.1), and has it set for inner IPv6. `identification` (its
/// lower half for outer IPv4) should differ between packets to the same real.
///
/// # Errors
/// The frame is unchanged. [`Reason::TooBig`]: it exceeds the path and may not be fragmented, or not
/// even two fragments would do (only with paths below 1000 bytes); tell the sender with
/// [`too_big`](super::icmp::too_big) and [`Tunnel::inner_mtu`]. [`Reason::NoHeadroom`]: no room for
/// the outer header.
pub fn encapsulate(
    frame: &mut Frame<'_>,
    packet: &Packet,
    tunnel: &Tunnel,
    identification: u32,
    scratch: &mut [u8; FRAME_SIZE],
) -> Result<Encapsulated, Reason> {
    let whole = packet.ip_len();
    if usize::from(tunnel.mtu) >= tunnel.header(false) + whole {
        wrap(frame, packet, tunnel.header(false))?;
        let piece = Piece { offset: 0, len: whole, more: false, identification };
        tunnel.write(frame.bytes_mut(), packet, &piece);
        return Ok(Encapsulated::Whole);
    }
    let cut = tunnel.split(packet);
    let start = ETHERNET + tunnel.header(true);
    let second = start + whole.saturating_sub(cut);
    if cut == 0 || second > scratch.len() {
        return Err(Reason::TooBig);
    }
    wrap(frame, packet, tunnel.header(true))?;
    let bytes = frame.bytes_mut();
    if let (Some(tail), Some(room)) =
        (bytes.get(start + cut..start + whole), scratch.get_mut(start..second))
    {
        room.copy_from_slice(tail);
    }
    if let (Some(from), Some(to)) = (bytes.first_chunk::<ETHERNET>(), scratch.first_chunk_mut()) {
        *to = *from;
    }
    let piece = Piece { offset: 0, len: cut, more: true, identification };
    tunnel.write(bytes, packet, &piece);
    let piece = Piece { offset: cut, len: whole - cut, more: false, identification };
    tunnel.write(scratch, packet, &piece);
    // Shrinking always succeeds.
    let _ = frame.resize(start + cut);
    Ok(Encapsulated::Split { second })
}

/// Ages the packet and moves it `header` bytes away from its Ethernet header.
fn wrap(frame: &mut Frame<'_>, packet: &Packet, header: usize) -> Result<(), Reason> {
    if !frame.prepend(header) {
        return Err(Reason::NoHeadroom);
    }
    // Shrinking always succeeds.
    let _ = frame.resize(header + usize::from(packet.end));
    let bytes = frame.bytes_mut();
    let network = packet.network + header as u16;
    if packet.is_v4() {
        if let Some(inner) = chunk::<IPV4>(bytes, network) {
            age_v4(inner, packet.ttl, Update::new());
        }
    } else if let Some(inner) = chunk::<IPV6>(bytes, network) {
        inner[7] = inner[7].saturating_sub(1);
    }
    if let Some(&mut addresses) = chunk::<12>(bytes, header as u16)
        && let Some(to) = bytes.first_chunk_mut()
    {
        *to = addresses;
    }
    Ok(())
}

/// Which part of the inner packet follows the outer header, in bytes.
struct Piece {
    offset: usize,
    len: usize,
    more: bool,
    identification: u32,
}

impl Piece {
    const fn is_fragment(&self) -> bool {
        self.more || self.offset > 0
    }
}

impl Tunnel {
    /// Writes Ethernet type and outer header.
    #[inline(always)]
    fn write(&self, bytes: &mut [u8], inner: &Packet, piece: &Piece) {
        if self.destination.is_v4() {
            self.write_v4(bytes, inner, piece);
        } else {
            self.write_v6(bytes, inner, piece);
        }
    }

    #[inline(always)]
    fn write_v4(&self, bytes: &mut [u8], inner: &Packet, piece: &Piece) {
        let Some(header) = chunk::<{ 2 + IPV4 }>(bytes, ETHERNET as u16 - 2) else { return };
        header[..2].copy_from_slice(&[0x08, 0x00]);
        let Some(header) = header.last_chunk_mut::<IPV4>() else { return };
        let flags = match (piece.is_fragment(), piece.more) {
            (true, true) => V4_MORE,
            (false, _) if inner.dont_fragment => V4_DONT_FRAGMENT,
            _ => 0,
        };
        let words = [
            0x4500_0000 | u32::from(inner.traffic_class) << 16 | (IPV4 + piece.len) as u32,
            piece.identification << 16 | u32::from(flags) | (piece.offset >> 3) as u32,
            u32::from(TTL) << 24 | u32::from(protocol(inner)) << 16,
            self.source.v4_bits(),
            self.destination.v4_bits(),
        ];
        for (at, word) in words.into_iter().enumerate() {
            set_long(header, 4 * at, word);
        }
        // Summed from registers: loading what was just stored in pieces would have to wait. All ones
        // count as nothing in this sum.
        let sum = words.into_iter().fold(Update::new(), |sum, word| sum.long(u32::MAX, word));
        set_word(header, 10, sum.apply(u16::MAX));
    }

    #[inline(always)]
    fn write_v6(&self, bytes: &mut [u8], inner: &Packet, piece: &Piece) {
        let Some(header) = chunk::<{ 2 + IPV6 }>(bytes, ETHERNET as u16 - 2) else { return };
        header[..2].copy_from_slice(&[0x86, 0xdd]);
        let Some(header) = header.last_chunk_mut::<IPV6>() else { return };
        let class = inner.traffic_class;
        let len = self.header(piece.is_fragment()) - IPV6 + piece.len;
        header[..4].copy_from_slice(&[0x60 | class >> 4, class << 4, 0, 0]);
        set_word(header, 4, len as u16);
        header[6] = if piece.is_fragment() { 44 } else { protocol(inner) };
        header[7] = TTL;
        header[8..24].copy_from_slice(&self.source.octets());
        header[24..40].copy_from_slice(&self.destination.octets());
        if !piece.is_fragment() {
            return;
        }
        if let Some(header) = chunk::<FRAGMENT_HEADER>(bytes, (ETHERNET + IPV6) as u16) {
            header[..2].copy_from_slice(&[protocol(inner), 0]);
            set_word(header, 2, piece.offset as u16 | u16::from(piece.more));
            header[4..].copy_from_slice(&piece.identification.to_be_bytes());
        }
    }
}

/// Protocol number of the inner packet (RFC 2003, RFC 2473).
const fn protocol(inner: &Packet) -> u8 {
    if inner.is_v4() { 4 } else { 41 }
}

#[cfg(test)]
mod tests;
