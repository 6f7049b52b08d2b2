//! Makes the generator's packets: whole frames from templates, and answers in place.
//!
//! Pure; run by every worker for every packet it sends. A template is built once with all that stays
//! the same summed up, so that a packet costs a handful of stores and additions whatever its length.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;

use crate::parse::{ETHERNET, ETHERTYPE_V4, ETHERTYPE_V6, TCP, UDP, View, add_bytes, flag, fold};
use crate::spec::Protocol;
use crate::stamp::{self, Stamp, Way};

/// Smallest frame that is sent, without its check sequence.
pub const FRAME_MIN: usize = 60;
/// TTL of everything sent.
const TTL: u8 = 64;
/// Option "maximum segment size" of a SYN: 1,460 or 1,440 bytes (RFC 9293 section 3.7.1).
const MSS_V4: u16 = 1460;
const MSS_V6: u16 = 1440;

/// What all packets of one side have in common.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// MAC address of the sender.
    pub source_mac: [u8; 6],
    /// MAC address of the next hop.
    pub destination_mac: [u8; 6],
    /// Any of the senders' addresses: all but its low 32 bits is in every packet.
    pub source: IpAddr,
    /// Where all packets go.
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// A frame to be completed for a flow.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    v6: bool,
    protocol: Protocol,
    /// Offset of the transport header.
    transport: usize,
    /// Offset of the payload.
    payload: usize,
    /// Sum of the IPv4 header without source and checksum.
    ip_sum: u64,
    /// Sum of the segment and its pseudo-header without what is filled in.
    sum: u64,
}

impl Template {
    /// A data packet whose frame is `len` bytes (without check sequence), raised to what a stamp
    /// needs.
    ///
    /// # Errors
    /// If the addresses are of two families.
    pub fn data(path: &Path, len: usize) -> anyhow::Result<Self> {
        let v6 = path.destination.is_ipv6();
        let header = ETHERNET + if v6 { 40 } else { 20 };
        let (header, least) = match path.protocol {
            Protocol::Tcp => (header + 20, stamp::TCP_PAYLOAD),
            Protocol::Udp => (header + 8, stamp::UDP_PAYLOAD),
        };
        let payload = len.max(FRAME_MIN).saturating_sub(header).max(least);
        Self::new(path, flag::ACK, false, payload)
    }

    /// A packet of TCP's opening or closing with these flags; a SYN says its segment size.
    ///
    /// # Errors
    /// If the addresses are of two families.
    pub fn bare(path: &Path, flags: u8) -> anyhow::Result<Self> {
        Self::new(path, flags, flags & flag::SYN != 0, 0)
    }

    fn new(path: &Path, flags: u8, mss: bool, payload: usize) -> anyhow::Result<Self> {
        let ethernet = PacketBuilder::ethernet2(path.source_mac, path.destination_mac);
        let (ip, v6) = match (path.source, path.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(to)) => (ethernet.ipv4([0; 4], to.octets(), TTL), false),
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let from = from.to_bits() & !u128::from(u32::MAX);
                (ethernet.ipv6(from.to_be_bytes(), to.octets(), TTL), true)
            }
            _ => anyhow::bail!("clients and VIP are of two families"),
        };
        let port = path.destination.port();
        let body: Vec<u8> = (0..payload).map(|n| n as u8).collect();
        let mut bytes = Vec::new();
        match path.protocol {
            Protocol::Udp => ip.udp(0, port).write(&mut bytes, &body)?,
            Protocol::Tcp => {
                let mut tcp = ip.tcp(0, port, 0, u16::MAX);
                tcp = if flags & flag::SYN != 0 { tcp.syn() } else { tcp };
                tcp = if flags & flag::FIN != 0 { tcp.fin() } else { tcp };
                tcp = if flags & flag::RST != 0 { tcp.rst() } else { tcp };
                tcp = if flags & flag::ACK != 0 { tcp.ack(0) } else { tcp };
                if mss {
                    let size = if v6 { MSS_V6 } else { MSS_V4 };
                    let option = etherparse::TcpOptionElement::MaximumSegmentSize(size);
                    tcp = tcp.options(&[option])?;
                }
                tcp.write(&mut bytes, &body)?;
            }
        }
        let end = bytes.len();
        bytes.resize(end.max(FRAME_MIN), 0);
        let transport = ETHERNET + if v6 { 40 } else { 20 };
        let mut template = Self {
            bytes,
            v6,
            protocol: path.protocol,
            transport,
            payload: end - payload,
            ip_sum: 0,
            sum: 0,
        };
        template.sum_up(end, payload > 0);
        Ok(template)
    }

    /// Clears what is filled in for each packet and sums up the rest.
    fn sum_up(&mut self, end: usize, stamped: bool) {
        let (transport, payload) = (self.transport, self.payload);
        let bytes = &mut self.bytes;
        if !self.v6 {
            bytes[24..26].fill(0);
            // Don't fragment, and no identification (RFC 6864 section 4.1).
            bytes[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
            self.ip_sum = add_bytes(0, &bytes[ETHERNET..transport]);
        }
        let checksum = self.checksum_at();
        let bytes = &mut self.bytes;
        bytes[checksum..checksum + 2].fill(0);
        if stamped {
            let stamp = match self.protocol {
                Protocol::Tcp => stamp::TCP_PAYLOAD,
                Protocol::Udp => stamp::UDP_PAYLOAD,
            };
            bytes[payload..payload + stamp].fill(0);
        }
        let addresses = if self.v6 { 22..54 } else { 26..34 };
        let protocol = match self.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        let pseudo = u64::from(protocol) + (end - transport) as u64;
        self.sum = add_bytes(add_bytes(pseudo, &bytes[addresses]), &bytes[transport..end]);
    }

    #[inline(always)]
    fn checksum_at(&self) -> usize {
        self.transport
            + match self.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
            }
    }

    /// Sends it elsewhere from now on.
    pub fn send_to(&mut self, mac: [u8; 6]) {
        self.bytes[..6].copy_from_slice(&mac);
    }

    /// Whether it is a TCP packet.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.protocol == Protocol::Tcp
    }

    /// Bytes of the frame.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The frame of a data packet.
    #[inline]
    pub fn stamped(&mut self, client: (IpAddr, u16), stamp: Stamp, key: u32, way: Way) -> &[u8] {
        let transport = self.transport;
        let (head, payload) = self.bytes.split_at_mut(self.payload);
        let mut sum = self.sum;
        let written = match self.protocol {
            Protocol::Tcp => {
                sum += u64::from(stamp.flow) + u64::from(stamp.sequence);
                stamp.write_tcp(key, way, &mut head[transport..], payload)
            }
            Protocol::Udp => stamp.write_udp(key, way, payload),
        };
        debug_assert!(written, "a template has room for its stamp");
        let stamped = match self.protocol {
            Protocol::Tcp => stamp::TCP_PAYLOAD,
            Protocol::Udp => stamp::UDP_PAYLOAD,
        };
        // The payload begins at an even offset of the segment, so its words are the segment's.
        sum = add_bytes(sum, &payload[..stamped]);
        self.address(client, sum)
    }

    /// The frame of a packet without payload, with these numbers (TCP).
    #[inline]
    pub fn numbered(&mut self, client: (IpAddr, u16), sequence: u32, ack: u32) -> &[u8] {
        let at = self.transport + 4;
        self.bytes[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
        self.bytes[at + 4..at + 8].copy_from_slice(&ack.to_be_bytes());
        let sum = self.sum + u64::from(sequence) + u64::from(ack);
        self.address(client, sum)
    }

    /// Fills in the sender and the checksums.
    #[inline(always)]
    fn address(&mut self, (source, port): (IpAddr, u16), sum: u64) -> &[u8] {
        let low = match source {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => v6.to_bits() as u32,
        };
        if self.v6 {
            self.bytes[34..38].copy_from_slice(&low.to_be_bytes());
        } else {
            self.bytes[26..30].copy_from_slice(&low.to_be_bytes());
            let checksum = !fold(self.ip_sum + u64::from(low));
            self.bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        let (transport, checksum_at) = (self.transport, self.checksum_at());
        self.bytes[transport..transport + 2].copy_from_slice(&port.to_be_bytes());
        let mut checksum = !fold(sum + u64::from(low) + u64::from(port));
        if checksum == 0 && self.protocol == Protocol::Udp {
            checksum = 0xffff;
        }
        self.bytes[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        &self.bytes
    }
}

/// Turns a received packet around in its frame: addresses and ports change places, TTL is fresh.
/// The checksums are kept right. False, and nothing changed, if it came through a tunnel.
#[inline]
#[must_use]
pub fn turn(frame: &mut [u8], view: &View) -> bool {
    if view.tunnel.is_some() || frame.len() < view.end || view.end < view.transport + 8 {
        return false;
    }
    swap(frame, 0, 6, 6);
    let network = view.network;
    match view.source.0 {
        IpAddr::V4(_) => {
            swap(frame, network + 12, network + 16, 4);
            let old = u16::from_be_bytes([frame[network + 8], frame[network + 9]]);
            frame[network + 8] = TTL;
            let new = u16::from_be_bytes([frame[network + 8], frame[network + 9]]);
            amend(frame, network + 10, change(old, new));
        }
        IpAddr::V6(_) => {
            swap(frame, network + 8, network + 24, 16);
            frame[network + 7] = TTL;
        }
    }
    swap(frame, view.transport, view.transport + 2, 2);
    true
}

/// Gives a TCP packet without payload of ours other flags and numbers. False, and nothing changed,
/// if it is none.
#[inline]
#[must_use]
pub fn renumber(frame: &mut [u8], view: &View, flags: u8, sequence: u32, ack: u32) -> bool {
    if view.protocol != TCP {
        return false;
    }
    let Some(segment) = frame.get_mut(view.transport..view.end) else { return false };
    if segment.len() < 20 {
        return false;
    }
    let mut new = [0; 10];
    new[..4].copy_from_slice(&sequence.to_be_bytes());
    new[4..8].copy_from_slice(&ack.to_be_bytes());
    new[8..].copy_from_slice(&[segment[12], flags]);
    let sum = replace(&mut segment[4..14], &new);
    amend(segment, 16, sum);
    true
}

/// Writes another stamp into a data packet. False, and nothing changed, if it has no room for one.
#[inline]
#[must_use]
pub fn restamp(frame: &mut [u8], view: &View, stamp: Stamp, key: u32, way: Way) -> bool {
    let Some(segment) = frame.get_mut(view.transport..view.end) else { return false };
    let header = view.payload - view.transport;
    if view.protocol == TCP {
        if header < 20 || segment.len() < header + stamp::TCP_PAYLOAD {
            return false;
        }
        let (head, payload) = segment.split_at_mut(header);
        let mut sum = complement(&head[4..12]) + complement(&payload[..stamp::TCP_PAYLOAD]);
        let _ = stamp.write_tcp(key, way, head, payload);
        sum = add_bytes(add_bytes(sum, &head[4..12]), &payload[..stamp::TCP_PAYLOAD]);
        amend(segment, 16, sum);
    } else {
        let Some(payload) = segment.get_mut(8..8 + stamp::UDP_PAYLOAD) else { return false };
        let mut sum = complement(payload);
        let _ = stamp.write_udp(key, way, payload);
        sum = add_bytes(sum, payload);
        amend(segment, 6, sum);
        if segment[6..8] == [0, 0] {
            segment[6..8].fill(0xff);
        }
    }
    true
}

/// Takes the tunnel off a received packet: its own IP header moves to where the tunnel's was, and the
/// length of the frame is told (at least [`FRAME_MIN`]). None, and nothing changed, if there is no
/// tunnel.
#[inline]
#[must_use]
pub fn unwrap(frame: &mut [u8], view: &View) -> Option<(View, usize)> {
    view.tunnel?;
    let outer = view.network.checked_sub(ETHERNET)?;
    if view.end > frame.len() || view.network > view.end {
        return None;
    }
    frame.copy_within(view.network..view.end, ETHERNET);
    let ethertype = if view.source.0.is_ipv4() { ETHERTYPE_V4 } else { ETHERTYPE_V6 };
    frame[12..ETHERNET].copy_from_slice(&ethertype.to_be_bytes());
    let end = view.end - outer;
    let len = end.max(FRAME_MIN).min(frame.len());
    frame[end..len].fill(0);
    let inner = View {
        tunnel: None,
        network: ETHERNET,
        transport: view.transport - outer,
        payload: view.payload - outer,
        end,
        ..*view
    };
    Some((inner, len))
}

#[inline(always)]
fn swap(bytes: &mut [u8], a: usize, b: usize, len: usize) {
    for n in 0..len {
        bytes.swap(a + n, b + n);
    }
}

/// Sum of the complements of what is about to go (RFC 1624 equation 3).
#[inline(always)]
fn complement(old: &[u8]) -> u64 {
    u64::from(!fold(add_bytes(0, old)))
}

#[inline(always)]
fn change(old: u16, new: u16) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// Overwrites and returns the change of the sum.
#[inline(always)]
fn replace(at: &mut [u8], new: &[u8]) -> u64 {
    let sum = complement(at);
    at.copy_from_slice(new);
    add_bytes(sum, new)
}

/// Applies a change to the checksum at an offset.
#[inline(always)]
fn amend(bytes: &mut [u8], at: usize, change: u64) {
    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let new = !fold(u64::from(!old) + change);
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
}

#[cfg(test)]
mod tests;
