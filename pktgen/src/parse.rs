//! Reads a received frame: which packet it is, and whether it is whole.
//!
//! Pure; run by every worker on every frame. It shares no code with the balancer's parser on purpose:
//! the judge must not make the mistakes of the judged. Only what a generator sends is understood
//! (no IP options, no extension headers, no fragments); anything else is `Foreign`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Protocol numbers.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
/// Ethernet types.
pub const ETHERTYPE_V4: u16 = 0x0800;
/// IPv6.
pub const ETHERTYPE_V6: u16 = 0x86dd;

/// TCP flags.
pub mod flag {
    /// Last packet of its side.
    pub const FIN: u8 = 0x01;
    /// Opens.
    pub const SYN: u8 = 0x02;
    /// Refuses.
    pub const RST: u8 = 0x04;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// Where the parts of a TCP or UDP packet lie; offsets from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Destination of the IP header around the packet's own, if it came through a tunnel.
    pub tunnel: Option<IpAddr>,
    /// The packet's own IP header.
    pub network: usize,
    /// TCP or UDP header.
    pub transport: usize,
    /// Payload.
    pub payload: usize,
    /// End of the IP packet; padding of Ethernet behind it is no part of it.
    pub end: usize,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// TCP flags, 0 for UDP.
    pub flags: u8,
    /// Sender.
    pub source: (IpAddr, u16),
    /// Receiver.
    pub destination: (IpAddr, u16),
}

/// Why a frame could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not TCP or UDP as a generator sends it.
    Foreign,
    /// An IPv4 header whose checksum is wrong, or lengths that contradict each other.
    Damaged,
}

/// Reads a frame; the transport checksum is not looked at ([`is_whole`]).
///
/// # Errors
/// See [`Unreadable`].
#[inline]
pub fn parse(frame: &[u8]) -> Result<View, Unreadable> {
    let outer = ip(frame, ETHERNET, half(frame, 12).ok_or(Unreadable::Foreign)?)?;
    match outer.protocol {
        IPV4_IN_IP => transport(frame, ip(frame, outer.next, ETHERTYPE_V4)?, Some(outer)),
        IPV6_IN_IP => transport(frame, ip(frame, outer.next, ETHERTYPE_V6)?, Some(outer)),
        _ => transport(frame, outer, None),
    }
}

/// Whether the transport checksum is right. UDP over IPv4 without one is not: we always send one.
#[inline]
#[must_use]
pub fn is_whole(frame: &[u8], view: &View) -> bool {
    let Some(segment) = frame.get(view.transport..view.end) else { return false };
    if view.protocol == UDP && segment.get(6..8) == Some(&[0, 0]) {
        return false;
    }
    let addresses = match view.source.0 {
        IpAddr::V4(_) => frame.get(view.network + 12..view.network + 20),
        IpAddr::V6(_) => frame.get(view.network + 8..view.network + 40),
    };
    let Some(addresses) = addresses else { return false };
    let sum = add_bytes(add_bytes(0, addresses), segment);
    fold(sum + u64::from(view.protocol) + segment.len() as u64) == 0xffff
}

/// An IP header.
#[derive(Clone, Copy)]
struct Ip {
    at: usize,
    next: usize,
    end: usize,
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
}

#[inline]
fn ip(frame: &[u8], at: usize, ethertype: u16) -> Result<Ip, Unreadable> {
    match ethertype {
        ETHERTYPE_V4 => ipv4(frame, at),
        ETHERTYPE_V6 => ipv6(frame, at),
        _ => Err(Unreadable::Foreign),
    }
}

#[inline]
fn ipv4(frame: &[u8], at: usize) -> Result<Ip, Unreadable> {
    let head: &[u8; 20] =
        frame.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Unreadable::Damaged)?;
    if fold(add_bytes(0, head)) != 0xffff {
        return Err(Unreadable::Damaged);
    }
    // The don't-fragment flag may be set; the other flag and the offset may not.
    if head[0] != 0x45 || u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0 {
        return Err(Unreadable::Foreign);
    }
    let end = at + usize::from(u16::from_be_bytes([head[2], head[3]]));
    if end > frame.len() || end < at + 20 {
        return Err(Unreadable::Damaged);
    }
    Ok(Ip {
        at,
        next: at + 20,
        end,
        protocol: head[9],
        source: Ipv4Addr::new(head[12], head[13], head[14], head[15]).into(),
        destination: Ipv4Addr::new(head[16], head[17], head[18], head[19]).into(),
    })
}

#[inline]
fn ipv6(frame: &[u8], at: usize) -> Result<Ip, Unreadable> {
    let head: &[u8; 40] =
        frame.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Unreadable::Damaged)?;
    if head[0] >> 4 != 6 {
        return Err(Unreadable::Damaged);
    }
    let end = at + 40 + usize::from(u16::from_be_bytes([head[4], head[5]]));
    if end > frame.len() {
        return Err(Unreadable::Damaged);
    }
    let address = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&head[at..at + 16]);
        IpAddr::from(Ipv6Addr::from(bytes))
    };
    Ok(Ip {
        at,
        next: at + 40,
        end,
        protocol: head[6],
        source: address(8),
        destination: address(24),
    })
}

#[inline]
fn transport(frame: &[u8], ip: Ip, outer: Option<Ip>) -> Result<View, Unreadable> {
    let segment = frame.get(ip.next..ip.end).ok_or(Unreadable::Damaged)?;
    let (header, flags) = match ip.protocol {
        TCP => {
            let fixed: &[u8; 20] = segment.first_chunk().ok_or(Unreadable::Damaged)?;
            (usize::from(fixed[12] >> 4) * 4, fixed[13])
        }
        UDP => {
            let fixed: &[u8; 8] = segment.first_chunk().ok_or(Unreadable::Damaged)?;
            if usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) != segment.len() {
                return Err(Unreadable::Damaged);
            }
            (8, 0)
        }
        _ => return Err(Unreadable::Foreign),
    };
    if header < 8 || header > segment.len() {
        return Err(Unreadable::Damaged);
    }
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    Ok(View {
        tunnel: outer.map(|outer| outer.destination),
        network: ip.at,
        transport: ip.next,
        payload: ip.next + header,
        end: ip.end,
        protocol: ip.protocol,
        flags,
        source: (ip.source, port(0)),
        destination: (ip.destination, port(2)),
    })
}

/// Adds the big-endian 16-bit words of `bytes` to a sum; an odd last byte counts as an upper half.
#[inline]
#[must_use]
pub fn add_bytes(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    // Words of 32 bits add up to the same after folding (RFC 1071 section 2(A)).
    let sum = words.iter().fold(sum, |sum, word| sum + u64::from(u32::from_be_bytes(*word)));
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// Folds a sum to 16 bits with end-around carries.
#[inline(always)]
#[must_use]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
