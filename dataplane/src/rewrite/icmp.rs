//! ICMP and ICMPv6: echo replies and errors of our own, made in place of the packet that asked for
//! them, and translation of errors that pass through (RFC 792, RFC 4443, RFC 5508).
//!
//! Runs on the worker, off the fast path; the caller limits the rate of what we originate.

use dataplane_api::counter::Reason;

use crate::address::{Address, Mac};
use crate::frame::Frame;
use crate::wire::checksum::{self, Update};
use crate::wire::packet::{Fragment, Kind, Packet, parse_quoted};

use super::nat::{self, Change};
use super::{ETHERNET, IPV4, IPV6, TTL, chunk, set_word, word};

/// Bytes of an ICMP header.
const ICMP: usize = 8;
/// Longest ICMP error over IPv4, IP header included (RFC 1812 section 4.3.2.3).
const ERROR_V4: usize = 576;
/// Longest ICMPv6 error, IP header included (RFC 4443 section 2.4 c).
const ERROR_V6: usize = 1280;
/// TOS of ICMP errors: precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// Turns an echo request into its reply: addresses swapped, TTL fresh, extension headers and Ethernet
/// padding cut off. False, and nothing changed, if it may not be answered: not an echo request, a
/// fragment, or from or to a group.
pub fn echo_reply(frame: &mut Frame<'_>, packet: &Packet) -> bool {
    if packet.kind != Kind::EchoRequest || packet.fragment != Fragment::None {
        return false;
    }
    let end = usize::from(packet.end);
    let bytes = frame.bytes_mut();
    if !answerable(bytes, packet) || bytes.len() < end {
        return false;
    }
    turn(bytes);
    let end = if packet.is_v4() {
        let Some(header) = chunk::<IPV4>(bytes, packet.network) else { return false };
        let old = word(header, 8);
        header[8] = TTL;
        let update = Update::new().word(old, word(header, 8));
        set_word(header, 10, update.apply(word(header, 10)));
        swap(header, 12, 4);
        end
    } else {
        let start = usize::from(packet.network) + IPV6;
        let len = end.saturating_sub(usize::from(packet.transport));
        let Some(header) = chunk::<IPV6>(bytes, packet.network) else { return false };
        set_word(header, 4, len as u16);
        header[6..8].copy_from_slice(&[58, TTL]);
        swap(header, 8, 16);
        bytes.copy_within(end - len..end, start);
        start + len
    };
    let (at, answer) =
        if packet.is_v4() { (packet.transport, 0) } else { (packet.network + IPV6 as u16, 129) };
    if let Some(header) = chunk::<4>(bytes, at) {
        let old = word(header, 0);
        header[0] = answer;
        let update = Update::new().word(old, word(header, 0));
        set_word(header, 2, update.apply(word(header, 2)));
    }
    frame.resize(end)
}

/// Turns the packet into the answer "time to live exceeded in transit" from `source`; see
/// [`too_big`] for when it does not.
pub fn time_exceeded(frame: &mut Frame<'_>, packet: &Packet, source: Address) -> bool {
    let kind = if packet.is_v4() { [11, 0] } else { [3, 0] };
    error(frame, packet, source, kind, 0)
}

/// Turns the packet into the answer "too big" from `source` (RFC 1191, RFC 8201), with the `mtu` that
/// would fit, in bytes.
///
/// It quotes the packet as it stands in the frame, so it must not have been rewritten yet. False, and
/// nothing changed, if no error may be sent about it (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4
/// e): it is an ICMP error or a later fragment, or its source or destination is a group; if `source`
/// is of the other family; or if the frame has no headroom.
pub fn too_big(frame: &mut Frame<'_>, packet: &Packet, source: Address, mtu: u16) -> bool {
    let kind = if packet.is_v4() { [3, 4] } else { [2, 0] };
    error(frame, packet, source, kind, u32::from(mtu))
}

fn error(
    frame: &mut Frame<'_>,
    packet: &Packet,
    source: Address,
    kind: [u8; 2],
    rest: u32,
) -> bool {
    let later = matches!(packet.fragment, Fragment::Later { .. });
    let about_error =
        matches!(packet.kind, Kind::IcmpError | Kind::NeighborRequest | Kind::NeighborAnswer);
    if later || about_error || source.is_v4() != packet.is_v4() {
        return false;
    }
    if !answerable(frame.bytes_mut(), packet) || frame.bytes().len() < usize::from(packet.end) {
        return false;
    }
    let (header, longest) = if packet.is_v4() { (IPV4, ERROR_V4) } else { (IPV6, ERROR_V6) };
    let Some(&addresses) = frame.bytes().first_chunk::<ETHERNET>() else { return false };
    if !frame.prepend(header + ICMP) {
        return false;
    }
    let len = longest.min(header + ICMP + packet.ip_len());
    // Shrinking always succeeds.
    let _ = frame.resize(ETHERNET + len);
    let bytes = frame.bytes_mut();
    if let Some(ethernet) = bytes.first_chunk_mut::<ETHERNET>() {
        *ethernet = addresses;
    }
    turn(bytes);
    let icmp = (ETHERNET + header) as u16;
    if let Some(place) = chunk::<ICMP>(bytes, icmp) {
        place[..4].copy_from_slice(&[kind[0], kind[1], 0, 0]);
        place[4..].copy_from_slice(&rest.to_be_bytes());
    }
    let segment = bytes.get(usize::from(icmp)..).unwrap_or_default();
    let sum = if packet.is_v4() {
        !checksum::sum(segment)
    } else {
        checksum::transport(source, packet.source, 58, segment)
    };
    if let Some(place) = chunk::<2>(bytes, icmp + 2) {
        *place = sum.to_be_bytes();
    }
    if packet.is_v4() {
        write_v4(bytes, source, packet.source, len);
    } else {
        write_v6(bytes, source, packet.source, len);
    }
    true
}

/// IPv4 header of an error. It is never fragmented, so its identification means nothing (RFC 6864).
fn write_v4(bytes: &mut [u8], source: Address, destination: Address, len: usize) {
    let Some(header) = chunk::<IPV4>(bytes, ETHERNET as u16) else { return };
    header[..2].copy_from_slice(&[0x45, ERROR_TOS]);
    set_word(header, 2, len as u16);
    header[4..12].copy_from_slice(&[0, 0, 0x40, 0, TTL, 1, 0, 0]);
    header[12..16].copy_from_slice(&source.v4_bits().to_be_bytes());
    header[16..20].copy_from_slice(&destination.v4_bits().to_be_bytes());
    let sum = checksum::sum(header);
    set_word(header, 10, !sum);
}

/// IPv6 header of an error.
fn write_v6(bytes: &mut [u8], source: Address, destination: Address, len: usize) {
    let Some(header) = chunk::<IPV6>(bytes, ETHERNET as u16) else { return };
    header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    set_word(header, 4, (len - IPV6) as u16);
    header[6..8].copy_from_slice(&[58, TTL]);
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
}

/// The packet that an ICMP error is about.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    /// What it is; its offsets count from `offset`. It travelled the other way: its source is the
    /// destination of the error.
    pub packet: Packet,
    /// Offset of its IP header in the frame.
    pub offset: usize,
}

/// Reads the packet that an ICMP error quotes.
///
/// # Errors
/// [`Reason::IcmpUnsupported`] if the packet is no ICMP error, or a fragment of one (its checksum
/// covers bytes that are elsewhere); [`Reason::Malformed`] if it ends before the quote, or quotes the
/// other family; else what [`parse_quoted`] says.
pub fn quoted(frame: &Frame<'_>, packet: &Packet) -> Result<Quoted, Reason> {
    if packet.kind != Kind::IcmpError || packet.fragment != Fragment::None {
        return Err(Reason::IcmpUnsupported);
    }
    let offset = usize::from(packet.transport) + ICMP;
    let quote = frame.bytes().get(offset..usize::from(packet.end)).ok_or(Reason::Malformed)?;
    let quoted = parse_quoted(quote)?;
    if quoted.is_v4() != packet.is_v4() {
        return Err(Reason::Malformed);
    }
    Ok(Quoted { packet: quoted, offset })
}

/// Translates an ICMP error: its own addresses by `outer` (ports ignored), those and the ports of the
/// packet it quotes by `inner`, all checksums with them, and takes one off its TTL.
///
/// The checksum of the quoted transport header is updated if it is quoted. As everywhere, the ICMP
/// checksum is updated: right if it was right.
pub fn translate(
    frame: &mut Frame<'_>,
    packet: &Packet,
    quoted: &Quoted,
    outer: &Change,
    inner: &Change,
) {
    let bytes = frame.bytes_mut();
    let addresses = nat::network(bytes, packet, outer, true);
    // The quote may be padded behind a short packet (RFC 4884): that is no transport header.
    let end = usize::from(packet.end).min(quoted.offset + usize::from(quoted.packet.end));
    let Some(quote) = bytes.get_mut(quoted.offset..end) else { return };
    // The quote starts at an even offset of the ICMP message, so its sum is a word of that sum.
    let before = checksum::sum(quote).to_be();
    nat::translate(quote, &quoted.packet, inner, false);
    let after = checksum::sum(quote).to_be();
    let update = if packet.is_v4() { Update::new() } else { addresses };
    if let Some(place) = chunk::<2>(bytes, packet.transport + 2) {
        *place = update.word(before, after).apply(u16::from_ne_bytes(*place)).to_ne_bytes();
    }
}

/// Whether an answer to the packet may be sent: not if its sender cannot be told from many.
fn answerable(bytes: &[u8], packet: &Packet) -> bool {
    let macs = bytes.first_chunk::<12>().is_some_and(|macs| {
        let [a, b, c, d, e, f, source @ ..] = *macs;
        !Mac([a, b, c, d, e, f]).is_group() && !Mac(source).is_group()
    });
    macs && is_host(packet.source) && is_host(packet.destination)
}

/// Whether it can be the address of one other host.
fn is_host(address: Address) -> bool {
    if address.is_v4() {
        let [first, ..] = address.v4_bits().to_be_bytes();
        return first != 0 && first != 127 && first < 224;
    }
    address.bits() > 1 && address.octets()[0] != 0xff
}

/// Swaps the Ethernet addresses.
fn turn(bytes: &mut [u8]) {
    if let Some(header) = bytes.first_chunk_mut::<12>() {
        swap(header, 0, 6);
    }
}

/// Swaps the `len` bytes at `at` with those behind them.
fn swap<const N: usize>(header: &mut [u8; N], at: usize, len: usize) {
    header[at..at + 2 * len].rotate_left(len);
}

#[cfg(test)]
mod tests;
