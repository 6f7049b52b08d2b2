//! Network address translation: `nat` and `fullnat`, towards the real and back, IPv4 and IPv6, TCP
//! and UDP, in one code path.
//!
//! Runs on the worker for every translated packet, so it allocates nothing and sums nothing but what
//! changed.

use crate::address::Address;
use crate::frame::Frame;
use crate::wire::checksum::Update;
use crate::wire::packet::{Kind, Packet};

use super::{IPV4, IPV6, age_v4, chunk, set_long, set_word, word};

/// Address and port of one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address; of the family of the packet it is written into.
    pub address: Address,
    /// The port.
    pub port: u16,
}

/// What a translation writes; `None` leaves that end as it is.
///
/// `nat` changes the destination on the way in and the source on the way back; `fullnat` changes
/// both, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new source.
    pub source: Option<Endpoint>,
    /// The new destination.
    pub destination: Option<Endpoint>,
}

/// Translates the packet. `decrement_ttl` also takes one off the TTL; the caller has checked that it
/// is greater than one.
///
/// Checksums follow RFC 1624; a UDP checksum of zero (none) stays zero, and one that becomes zero is
/// written as 0xffff (RFC 768). A first fragment is translated like a whole packet, as its checksum
/// covers the whole datagram; of a later one only the addresses change.
#[inline]
pub fn apply(frame: &mut Frame<'_>, packet: &Packet, change: &Change, decrement_ttl: bool) {
    translate(frame.bytes_mut(), packet, change, decrement_ttl);
}

/// [`apply`] on bytes: those of a frame, or those that an ICMP error quotes.
#[inline(always)]
pub(super) fn translate(bytes: &mut [u8], packet: &Packet, change: &Change, decrement_ttl: bool) {
    let addresses = network(bytes, packet, change, decrement_ttl);
    let source = change.source.map_or(packet.source_port, |end| end.port);
    let destination = change.destination.map_or(packet.destination_port, |end| end.port);
    let old = long(packet.source_port, packet.destination_port);
    let ports = long(source, destination);
    let update = addresses.long(old, ports);
    match packet.kind {
        Kind::Tcp => tcp(bytes, packet.transport, ports, update),
        Kind::Udp => udp(bytes, packet.transport, ports, update),
        Kind::LaterFragment | Kind::EchoRequest | Kind::IcmpError | Kind::NeighborRequest => {}
    }
}

/// Translates the IP header only, and returns what this means for a checksum that covers the
/// addresses.
#[inline(always)]
pub(super) fn network(
    bytes: &mut [u8],
    packet: &Packet,
    change: &Change,
    decrement_ttl: bool,
) -> Update {
    let source = change.source.map_or(packet.source, |end| end.address);
    let destination = change.destination.map_or(packet.destination, |end| end.address);
    debug_assert!(source.is_v4() == packet.is_v4() && destination.is_v4() == packet.is_v4());
    if packet.is_v4() {
        let update = Update::new()
            .long(packet.source.v4_bits(), source.v4_bits())
            .long(packet.destination.v4_bits(), destination.v4_bits());
        if let Some(header) = chunk::<IPV4>(bytes, packet.network) {
            if decrement_ttl {
                age_v4(header, update);
            } else {
                set_word(header, 10, update.apply(word(header, 10)));
            }
            set_long(header, 12, source.v4_bits());
            set_long(header, 16, destination.v4_bits());
        }
        return update;
    }
    if let Some(header) = chunk::<IPV6>(bytes, packet.network) {
        header[7] = header[7].saturating_sub(u8::from(decrement_ttl));
        header[8..24].copy_from_slice(&source.octets());
        header[24..40].copy_from_slice(&destination.octets());
    }
    Update::new().address(packet.source, source).address(packet.destination, destination)
}

/// Two words as one.
#[inline(always)]
const fn long(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

#[inline(always)]
fn tcp(bytes: &mut [u8], at: u16, ports: u32, update: Update) {
    if let Some(header) = chunk::<18>(bytes, at) {
        set_long(header, 0, ports);
        set_word(header, 16, update.apply(word(header, 16)));
    } else if let Some(header) = chunk::<4>(bytes, at) {
        // Only in a quote: it may end after eight bytes (RFC 792), before the checksum.
        set_long(header, 0, ports);
    }
}

#[inline(always)]
fn udp(bytes: &mut [u8], at: u16, ports: u32, update: Update) {
    if let Some(header) = chunk::<8>(bytes, at) {
        set_long(header, 0, ports);
        set_word(header, 6, update.apply_udp(word(header, 6)));
    }
}

#[cfg(test)]
mod tests;
