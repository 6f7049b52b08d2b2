//! TCP segments of our own: resets of a connection, and the question that makes a peer say where it is.
//!
//! Pure, run by workers, off the fast path. We do not follow sequence numbers; each segment is made
//! from a packet of the connection, whose sender knows them (RFC 9293 sections 3.10.7.1, 3.10.7.4).

use crate::address::Mac;
use crate::frame::Frame;
use crate::wire::checksum;
use crate::wire::packet::{Fragment, Kind, Packet, TcpFlags};

use super::nat::Endpoint;
use super::{ETHERNET, IPV4, IPV6, TTL, chunk};

/// Bytes of a TCP header without options.
const TCP: usize = 20;
/// A window that no firewall wonders at.
const WINDOW: u16 = 1024;
/// Room for any segment of ours.
pub const SEGMENT: usize = ETHERNET + IPV6 + TCP;

/// Numbers and flags of a segment.
#[derive(Clone, Copy)]
struct Segment {
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
}

/// The RST that answers a packet: to its sender, as from its receiver, with the number that the
/// sender waits for. None if it must not be answered: it is an RST, or no whole TCP packet.
#[must_use]
pub fn answer(frame: &[u8], packet: &Packet, out: &mut [u8; SEGMENT]) -> Option<usize> {
    let (sequence, acknowledgment) = numbers(frame, packet)?;
    let flags = packet.tcp_flags;
    let segment = if flags.has(TcpFlags::ACK) {
        Segment { sequence: acknowledgment, acknowledgment: 0, flags: TcpFlags::RST }
    } else {
        let head = frame.get(usize::from(packet.transport) + 12)? >> 4;
        let len = u32::from(packet.end.checked_sub(packet.transport + u16::from(head) * 4)?);
        let controls = u32::from(flags.has(TcpFlags::SYN)) + u32::from(flags.has(TcpFlags::FIN));
        let acknowledgment = sequence.wrapping_add(len).wrapping_add(controls);
        Segment { sequence: 0, acknowledgment, flags: TcpFlags::RST | TcpFlags::ACK }
    };
    let from = Endpoint { address: packet.destination, port: packet.destination_port };
    let to = Endpoint { address: packet.source, port: packet.source_port };
    let (mut there, mut here) = (Mac::default(), Mac::default());
    there.0.copy_from_slice(frame.get(6..12)?);
    here.0.copy_from_slice(frame.get(..6)?);
    Some(build(from, to, (there, here), segment, out))
}

/// Turns a packet into the RST that its sender might have sent in its place: the same ends, the same
/// numbers, no data. False, and nothing changed, under the conditions of [`answer`], or if it is a SYN.
#[must_use]
pub fn instead(frame: &mut Frame<'_>, packet: &Packet) -> bool {
    if packet.tcp_flags.has(TcpFlags::SYN) && !packet.tcp_flags.has(TcpFlags::ACK) {
        return false;
    }
    let Some((sequence, acknowledgment)) = numbers(frame.bytes(), packet) else { return false };
    let ack = packet.tcp_flags.0 & TcpFlags::ACK;
    let segment = Segment { sequence, acknowledgment, flags: TcpFlags::RST | ack };
    let from = Endpoint { address: packet.source, port: packet.source_port };
    let to = Endpoint { address: packet.destination, port: packet.destination_port };
    let (mut there, mut here) = (Mac::default(), Mac::default());
    if let Some(link) = chunk::<12>(frame.bytes_mut(), 0) {
        there.0.copy_from_slice(&link[..6]);
        here.0.copy_from_slice(&link[6..]);
    }
    let mut bytes = [0; SEGMENT];
    let len = build(from, to, (there, here), segment, &mut bytes);
    // Shorter than or as long as what it replaces; that cannot fail.
    if len > frame.bytes().len() || !frame.resize(len) {
        return false;
    }
    frame.bytes_mut().copy_from_slice(&bytes[..len]);
    true
}

/// A SYN; the Ethernet addresses are left open.
#[must_use]
pub fn syn(from: Endpoint, to: Endpoint, sequence: u32, out: &mut [u8; SEGMENT]) -> usize {
    let segment = Segment { sequence, acknowledgment: 0, flags: TcpFlags::SYN };
    build(from, to, (Mac::default(), Mac::default()), segment, out)
}

/// A bare ACK from one end to another with numbers that mean nothing. One that is not acceptable
/// makes its receiver send an ACK with the right ones (RFC 9293 section 3.10.7.4); a receiver that
/// knows of no connection sends an RST.
#[must_use]
pub fn probe(
    from: Endpoint,
    to: Endpoint,
    link: (Mac, Mac),
    sequence: u32,
    out: &mut [u8; SEGMENT],
) -> usize {
    let segment = Segment { sequence, acknowledgment: !sequence, flags: TcpFlags::ACK };
    build(from, to, link, segment, out)
}

/// Sequence and acknowledgment number of a TCP packet that may be answered by an RST.
fn numbers(frame: &[u8], packet: &Packet) -> Option<(u32, u32)> {
    let whole = packet.kind == Kind::Tcp && packet.fragment == Fragment::None;
    if !whole || packet.tcp_flags.has(TcpFlags::RST) {
        return None;
    }
    let header = frame.get(usize::from(packet.transport)..)?.first_chunk::<TCP>()?;
    let number = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    Some((number(4), number(8)))
}

/// Writes a frame; its length.
fn build(
    from: Endpoint,
    to: Endpoint,
    (there, here): (Mac, Mac),
    segment: Segment,
    out: &mut [u8; SEGMENT],
) -> usize {
    *out = [0; SEGMENT];
    let v4 = to.address.is_v4();
    out[..6].copy_from_slice(&there.0);
    out[6..12].copy_from_slice(&here.0);
    let transport = if v4 {
        out[12..14].copy_from_slice(&[0x08, 0x00]);
        let header = &mut out[ETHERNET..ETHERNET + IPV4];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&((IPV4 + TCP) as u16).to_be_bytes());
        header[6] = 0x40; // don't fragment
        header[8] = TTL;
        header[9] = 6;
        header[12..16].copy_from_slice(&from.address.v4_bits().to_be_bytes());
        header[16..20].copy_from_slice(&to.address.v4_bits().to_be_bytes());
        let sum = checksum::plain(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        ETHERNET + IPV4
    } else {
        out[12..14].copy_from_slice(&[0x86, 0xdd]);
        let header = &mut out[ETHERNET..ETHERNET + IPV6];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(TCP as u16).to_be_bytes());
        header[6..8].copy_from_slice(&[6, TTL]);
        for (end, at) in [(from, 8), (to, 24)] {
            header[at..at + 16].copy_from_slice(&end.address.bits().to_be_bytes());
        }
        ETHERNET + IPV6
    };
    let tcp = &mut out[transport..transport + TCP];
    tcp[..2].copy_from_slice(&from.port.to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port.to_be_bytes());
    tcp[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
    tcp[12] = (TCP as u8 / 4) << 4;
    tcp[13] = segment.flags;
    // Of a SYN alone it means something.
    tcp[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    let sum = checksum::transport(from.address, to.address, 6, tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    transport + TCP
}
