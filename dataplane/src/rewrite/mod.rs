//! What a forwarding method does to a packet: pure functions on one frame, run by the worker that
//! received it.
//!
//! Checksums are updated, never repaired: a change of a field is applied to the checksum that covers
//! it (RFC 1624), so that a packet damaged before it reached us is still seen as damaged by its
//! receiver. No function writes outside the packet (a tunnel header goes into the headroom of the
//! frame), and none panics, whatever the bytes. Where a [`Packet`] is asked for, it must be what
//! [`parse`](crate::wire::packet::parse) said of this frame; a rewritten frame keeps its offsets, but
//! the addresses and ports of the `Packet` are then those before the rewrite.
//!
//! `direct` forwarding changes nothing but the Ethernet addresses: it is [`link`].

pub mod fragment_v4;
pub mod icmp;
pub mod mss;
pub mod nat;
pub mod reset;
#[cfg(test)]
mod testing;
pub mod tunnel;

use crate::address::Mac;
use crate::frame::Frame;
use crate::wire::checksum::Update;
use crate::wire::packet::Packet;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options; packets with options are refused when parsed.
const IPV4: usize = 20;
/// Bytes of the fixed IPv6 header.
const IPV6: usize = 40;
/// TTL and hop limit of packets of our own, and of tunnel headers (RFC 1700).
const TTL: u8 = 64;

/// Sets the Ethernet addresses.
#[inline(always)]
pub fn link(frame: &mut Frame<'_>, destination: Mac, source: Mac) {
    if let Some(header) = chunk::<12>(frame.bytes_mut(), 0) {
        header[..6].copy_from_slice(&destination.0);
        header[6..].copy_from_slice(&source.0);
    }
}

/// Takes one off TTL or hop limit, with the IPv4 header checksum. The caller has checked that it is
/// greater than one (RFC 1812 section 5.3.1); zero stays zero.
#[inline]
pub fn decrement_ttl(frame: &mut Frame<'_>, packet: &Packet) {
    let bytes = frame.bytes_mut();
    if packet.is_v4() {
        if let Some(header) = chunk::<IPV4>(bytes, packet.network) {
            age_v4(header, packet.ttl, Update::new());
        }
    } else if let Some(header) = chunk::<IPV6>(bytes, packet.network) {
        header[7] = header[7].saturating_sub(1);
    }
}

/// Takes one off `ttl`, that of an IPv4 header, and applies this and the `other` changes to its
/// checksum.
/// Sums are of numbers as they lie in memory: in which order of bytes a sum is made does not matter
/// (RFC 1071 section 2(B)), and nothing has to be swapped.
#[inline(always)]
fn age_v4(header: &mut [u8; IPV4], ttl: u8, other: Update) {
    // One less is one less, from wherever: so what changes is a constant.
    let [one, zero] = [[1, 0], [0, 0]].map(u16::from_ne_bytes);
    let update = if ttl == 0 { other } else { other.word(one, zero) };
    header[8] = ttl.saturating_sub(1);
    store(header, 10, update.apply(u16::from_ne_bytes(load(header, 10))).to_ne_bytes());
}

/// The `S` bytes at a constant offset of a header.
#[inline(always)]
fn load<const S: usize, const N: usize>(header: &[u8; N], at: usize) -> [u8; S] {
    let mut out = [0; S];
    out.copy_from_slice(&header[at..at + S]);
    out
}

/// Writes the `S` bytes at a constant offset of a header.
#[inline(always)]
fn store<const S: usize, const N: usize>(header: &mut [u8; N], at: usize, bytes: [u8; S]) {
    header[at..at + S].copy_from_slice(&bytes);
}

/// The `N` bytes at `at`; `None` if they are not all there.
#[inline(always)]
fn chunk<const N: usize>(bytes: &mut [u8], at: u16) -> Option<&mut [u8; N]> {
    let at = usize::from(at);
    bytes.get_mut(at..at + N)?.try_into().ok()
}

/// The big-endian word at `at` of a header.
#[inline(always)]
fn word<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// Writes the big-endian word at `at` of a header.
#[inline(always)]
fn set_word<const N: usize>(header: &mut [u8; N], at: usize, word: u16) {
    header[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Writes the big-endian double word at `at` of a header.
#[inline(always)]
fn set_long<const N: usize>(header: &mut [u8; N], at: usize, long: u32) {
    header[at..at + 4].copy_from_slice(&long.to_be_bytes());
}
