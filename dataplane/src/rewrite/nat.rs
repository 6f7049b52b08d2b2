//! Network address translation: `nat` and `fullnat`, towards the real and back, IPv4 and IPv6, TCP
//! and UDP, in one code path.
//!
//! Runs on the worker for every translated packet, so it allocates nothing and sums nothing but what
//! changed.

use crate::address::Address;
use crate::frame::Frame;
use crate::wire::checksum::Update;
use crate::wire::packet::{Kind, Packet};

use super::{IPV4, IPV6, age_v4, chunk, load, store};

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
pub(crate) fn translate(bytes: &mut [u8], packet: &Packet, change: &Change, decrement_ttl: bool) {
    let addresses = network(bytes, packet, change, decrement_ttl);
    match packet.kind {
        Kind::Tcp => tcp(bytes, packet.transport, change, addresses),
        Kind::Udp => udp(bytes, packet.transport, change, addresses),
        Kind::LaterFragment
        | Kind::EchoRequest
        | Kind::IcmpError
        | Kind::NeighborRequest
        | Kind::NeighborAnswer => {}
    }
}

/// Translates the IP header only, and returns what this means for a checksum that covers the
/// addresses: as numbers lie in memory, like all sums here.
#[inline(always)]
pub(super) fn network(
    bytes: &mut [u8],
    packet: &Packet,
    change: &Change,
    decrement_ttl: bool,
) -> Update {
    let mut update = Update::new();
    if packet.is_v4() {
        let Some(header) = chunk::<IPV4>(bytes, packet.network) else { return update };
        for (end, at) in [(change.source, 12), (change.destination, 16)] {
            if let Some(Endpoint { address, .. }) = end {
                debug_assert!(address.is_v4());
                let new = address.v4_bits().to_be_bytes();
                update = update.long(u32::from_ne_bytes(load(header, at)), u32::from_ne_bytes(new));
                store(header, at, new);
            }
        }
        if decrement_ttl {
            age_v4(header, packet.ttl, update);
        } else {
            store(header, 10, update.apply(u16::from_ne_bytes(load(header, 10))).to_ne_bytes());
        }
        return update;
    }
    let Some(header) = chunk::<IPV6>(bytes, packet.network) else { return update };
    header[7] = header[7].saturating_sub(u8::from(decrement_ttl));
    for (end, at) in [(change.source, 8), (change.destination, 24)] {
        if let Some(Endpoint { address, .. }) = end {
            debug_assert!(!address.is_v4());
            let (high, low) = address.halves();
            for (new, at) in [(high, at), (low, at + 8)] {
                let (old, new) = (u64::from_ne_bytes(load(header, at)), new.to_be());
                update = update.quad(old, new);
                store(header, at, new.to_ne_bytes());
            }
        }
    }
    update
}

/// Writes the ports.
#[inline(always)]
fn ports<const N: usize>(header: &mut [u8; N], change: &Change, mut update: Update) -> Update {
    for (end, at) in [(change.source, 0), (change.destination, 2)] {
        if let Some(Endpoint { port, .. }) = end {
            update = update.word(u16::from_ne_bytes(load(header, at)), port.to_be());
            store(header, at, port.to_be_bytes());
        }
    }
    update
}

#[inline(always)]
fn tcp(bytes: &mut [u8], at: u16, change: &Change, update: Update) {
    if let Some(header) = chunk::<18>(bytes, at) {
        let update = ports(header, change, update);
        store(header, 16, update.apply(u16::from_ne_bytes(load(header, 16))).to_ne_bytes());
    } else if let Some(header) = chunk::<4>(bytes, at) {
        // Only in a quote: it may end after eight bytes (RFC 792), before the checksum.
        ports(header, change, update);
    }
}

#[inline(always)]
fn udp(bytes: &mut [u8], at: u16, change: &Change, update: Update) {
    if let Some(header) = chunk::<8>(bytes, at) {
        let update = ports(header, change, update);
        store(header, 6, update.apply_udp(u16::from_ne_bytes(load(header, 6))).to_ne_bytes());
    }
}

#[cfg(test)]
mod tests;
