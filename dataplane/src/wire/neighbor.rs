//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861) for addresses of ours.
//!
//! Run by the worker that got the message, and for announcements by whoever takes a VIP. It judges
//! questions and claims, and writes answers, announcements and questions; whether to is for the caller
//! to decide.

use dataplane_api::counter::Reason;

use super::checksum;
use super::packet::{Kind, Packet, load, u32_at};
use super::walk;
use crate::address::{Address, Mac};
use crate::frame::Frame;

/// A question "who has `target`?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The address asked for.
    pub target: Address,
    /// Who asks; unspecified (of its family) for a probe (duplicate address detection).
    pub sender: Address,
    /// Its link-layer address.
    pub sender_mac: Mac,
}

/// Somebody says that an address is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: Address,
    /// The link-layer address at which it is said to be.
    pub mac: Mac,
}

/// Bytes of an ARP frame.
const ARP_LEN: usize = 14 + 28;
/// Bytes of a neighbour advertisement with its one option: Ethernet, IPv6, ICMPv6.
const ADVERTISEMENT_LEN: usize = 14 + 40 + 24 + 8;
/// Bytes of a neighbour solicitation without options.
const SOLICITATION_LEN: usize = 14 + 40 + 24;
/// `ff02::1` and its Ethernet address (RFC 2464 section 7).
const ALL_NODES: Address = Address::from_bits(0xff02 << 112 | 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// First 104 bits of the groups of neighbour solicitation, `ff02::1:ff00:0/104`.
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

/// Flags of an advertisement (RFC 4861 section 4.4), in the first word behind its checksum.
const SOLICITED: u32 = 0x4000_0000;
const OVERRIDE: u32 = 0x2000_0000;

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
/// Option types (RFC 4861 section 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// Reads the question out of a frame that [`super::packet::parse`] took for one.
///
/// # Errors
/// [`Reason::Malformed`] for lengths that do not fit and a wrong checksum; [`Reason::BadSource`]
/// for a sender that cannot be a host; [`Reason::NeighborIgnored`] for what is well-formed and no
/// question, as the announcement of an address by its owner.
pub fn request(frame: &[u8], packet: &Packet) -> Result<Request, Reason> {
    if packet.kind != Kind::NeighborRequest {
        return Err(Reason::NeighborIgnored);
    }
    let ethernet: &[u8; 14] = frame.first_chunk().ok_or(Reason::Malformed)?;
    let request = if packet.is_v4() {
        arp(frame.get(14..).and_then(|body| body.first_chunk()).ok_or(Reason::Malformed)?)?
    } else {
        let message = frame
            .get(usize::from(packet.transport)..usize::from(packet.end))
            .ok_or(Reason::Malformed)?;
        solicitation(message, packet, Mac(load(ethernet, 6)))?
    };
    if request.sender_mac.is_group() {
        return Err(Reason::BadSource);
    }
    if request.sender == request.target {
        return Err(Reason::NeighborIgnored);
    }
    Ok(request)
}

/// Reads out of a frame that [`super::packet::parse`] took for ARP or neighbour discovery which address
/// its sender says to have: every neighbour that hears it may send there from now on.
///
/// # Errors
/// As [`request`]; [`Reason::NeighborIgnored`] also for a question of somebody without an address
/// (duplicate address detection).
pub fn claim(frame: &[u8], packet: &Packet) -> Result<Claim, Reason> {
    let ethernet: &[u8; 14] = frame.first_chunk().ok_or(Reason::Malformed)?;
    let message = frame
        .get(usize::from(packet.transport)..usize::from(packet.end))
        .ok_or(Reason::Malformed)?;
    let claim = match (packet.kind, packet.is_v4()) {
        (Kind::NeighborRequest | Kind::NeighborAnswer, true) => {
            let body: &[u8; 28] = message.first_chunk().ok_or(Reason::Malformed)?;
            Claim { address: packet.source, mac: Mac(load(body, 8)) }
        }
        (Kind::NeighborRequest, false) => {
            let request = solicitation(message, packet, Mac(load(ethernet, 6)))?;
            Claim { address: request.sender, mac: request.sender_mac }
        }
        (Kind::NeighborAnswer, false) => advertisement(message, packet, Mac(load(ethernet, 6)))?,
        _ => return Err(Reason::NeighborIgnored),
    };
    if claim.mac.is_group() || claim.mac == Mac::default() {
        return Err(Reason::BadSource);
    }
    let nobody = if packet.is_v4() {
        walk::is_no_host_v4(claim.address.v4_bits())
    } else {
        walk::is_no_host_v6(claim.address)
    };
    if nobody { Err(Reason::NeighborIgnored) } else { Ok(claim) }
}

/// The checks of RFC 4861 section 7.1.2; the hop limit and the code were the parser's.
fn advertisement(message: &[u8], packet: &Packet, mac: Mac) -> Result<Claim, Reason> {
    let fixed: &[u8; 24] = message.first_chunk().ok_or(Reason::Malformed)?;
    let (sender, to) = (packet.source, packet.destination);
    if checksum::transport(sender, to, walk::ICMPV6, message) != 0 {
        return Err(Reason::Malformed);
    }
    let option = link_layer(&message[24..], TARGET_LINK_LAYER)?;
    Ok(Claim { address: Address::v6(load(fixed, 8)), mac: option.unwrap_or(mac) })
}

fn arp(body: &[u8; 28]) -> Result<Request, Reason> {
    // Hardware Ethernet, protocol IPv4, address lengths 6 and 4, operation "request".
    if load(body, 0) != [0, 1, 8, 0, 6, 4, 0, 1] {
        return Err(Reason::NeighborIgnored);
    }
    let (sender, target) = (u32_at(body, 14), u32_at(body, 24));
    if sender != 0 && walk::is_no_host_v4(sender) {
        return Err(Reason::BadSource);
    }
    if walk::is_no_host_v4(target) {
        return Err(Reason::NeighborIgnored);
    }
    Ok(Request {
        target: Address::v4(target),
        sender: Address::v4(sender),
        sender_mac: Mac(load(body, 8)),
    })
}

/// The checks of RFC 4861 section 7.1.1; the hop limit, the code and who can be a sender were the parser's.
fn solicitation(message: &[u8], packet: &Packet, mac: Mac) -> Result<Request, Reason> {
    let (sender, group) = (packet.source, packet.destination);
    let fixed: &[u8; 24] = message.first_chunk().ok_or(Reason::Malformed)?;
    if checksum::transport(sender, group, walk::ICMPV6, message) != 0 {
        return Err(Reason::Malformed);
    }
    let target = Address::v6(load(fixed, 8));
    let option = link_layer(&message[24..], SOURCE_LINK_LAYER)?;
    if sender == Address::UNSPECIFIED {
        // A probe goes to the group of its target and does not say who asks.
        if option.is_some() || group.bits() >> 24 != SOLICITED_NODE >> 24 {
            return Err(Reason::NeighborIgnored);
        }
    }
    if walk::is_no_host_v6(target) {
        return Err(Reason::NeighborIgnored);
    }
    Ok(Request { target, sender, sender_mac: option.unwrap_or(mac) })
}

/// Walks the options, all of them: one of length zero spoils the message (RFC 4861 section 4.6).
fn link_layer(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, Reason> {
    let mut mac = None;
    while let [kind, len, ..] = *options {
        let (option, rest) =
            options.split_at_checked(usize::from(len) * 8).ok_or(Reason::Malformed)?;
        let option: &[u8; 8] = option.first_chunk().ok_or(Reason::Malformed)?;
        if kind == wanted {
            if len != 1 {
                return Err(Reason::Malformed);
            }
            mac = Some(Mac(load(option, 2)));
        }
        options = rest;
    }
    if options.is_empty() { Ok(mac) } else { Err(Reason::Malformed) }
}

/// Turns the frame with the question into the one with the answer: `request.target` is at `mac`.
///
/// The reply to an ARP request goes to its sender, also if that is a probe (RFC 5227 section
/// 2.1.1); a solicited advertisement likewise, but for a probe it is not solicited and goes to all
/// nodes (RFC 4861 section 7.2.4). False, and nothing changed, if the buffer is too small.
#[must_use]
pub fn answer(frame: &mut Frame<'_>, packet: &Packet, request: &Request, mac: Mac) -> bool {
    if packet.is_v4() {
        if !frame.resize(ARP_LEN) {
            return false;
        }
        if let Some(bytes) = frame.bytes_mut().first_chunk_mut() {
            let to = (request.sender, request.sender_mac);
            write_arp(bytes, ARP_REPLY, (request.target, mac), to, request.sender_mac);
        }
    } else {
        if !frame.resize(ADVERTISEMENT_LEN) {
            return false;
        }
        if let Some(bytes) = frame.bytes_mut().first_chunk_mut() {
            if request.sender == Address::UNSPECIFIED {
                let to = (ALL_NODES, ALL_NODES_MAC);
                write_advertisement(bytes, (request.target, mac), to, OVERRIDE);
            } else {
                let to = (request.sender, request.sender_mac);
                write_advertisement(bytes, (request.target, mac), to, SOLICITED | OVERRIDE);
            }
        }
    }
    true
}

/// Writes the frame that tells a link that `address` is at `mac`, and returns its length: a
/// gratuitous ARP request (RFC 5227 section 3), or an unsolicited neighbour advertisement (RFC
/// 4861 section 7.2.6).
#[must_use]
pub fn announcement(address: Address, mac: Mac, buffer: &mut [u8; 128]) -> usize {
    if address.is_v4() {
        if let Some(bytes) = buffer.first_chunk_mut() {
            let target = (address, Mac([0; 6]));
            write_arp(bytes, ARP_REQUEST, (address, mac), target, Mac::BROADCAST);
        }
        ARP_LEN
    } else {
        if let Some(bytes) = buffer.first_chunk_mut() {
            let to = (ALL_NODES, ALL_NODES_MAC);
            write_advertisement(bytes, (address, mac), to, OVERRIDE);
        }
        ADVERTISEMENT_LEN
    }
}

/// Writes the frame that asks a link who has `address`, and returns its length. It does not say who
/// asks, and so changes no neighbour's mind: an ARP probe (RFC 5227 section 2.1.1), or the solicitation
/// of duplicate address detection (RFC 4862 section 5.4.2), which is answered to all nodes.
#[must_use]
pub fn question(address: Address, mac: Mac, buffer: &mut [u8; 128]) -> usize {
    if address.is_v4() {
        if let Some(bytes) = buffer.first_chunk_mut() {
            let (nobody, target) = ((Address::v4(0), mac), (address, Mac([0; 6])));
            write_arp(bytes, ARP_REQUEST, nobody, target, Mac::BROADCAST);
        }
        ARP_LEN
    } else {
        if let Some(bytes) = buffer.first_chunk_mut() {
            write_solicitation(bytes, address, mac);
        }
        SOLICITATION_LEN
    }
}

fn write_solicitation(bytes: &mut [u8; SOLICITATION_LEN], address: Address, mac: Mac) {
    let octets = address.octets();
    let group = Address::from_bits(SOLICITED_NODE | address.bits() & 0xff_ffff);
    // The group's Ethernet address: RFC 2464 section 7.
    bytes[..6].copy_from_slice(&[0x33, 0x33, 0xff, octets[13], octets[14], octets[15]]);
    bytes[6..12].copy_from_slice(&mac.0);
    bytes[12..14].copy_from_slice(&walk::IPV6.to_be_bytes());
    bytes[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 24, walk::ICMPV6, 255]);
    bytes[22..38].fill(0);
    bytes[38..54].copy_from_slice(&group.octets());
    bytes[54..62].copy_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0]);
    bytes[62..78].copy_from_slice(&octets);
    let checksum = checksum::transport(Address::UNSPECIFIED, group, walk::ICMPV6, &bytes[54..]);
    bytes[56..58].copy_from_slice(&checksum.to_be_bytes());
}

fn write_arp(
    bytes: &mut [u8; ARP_LEN],
    operation: u16,
    sender: (Address, Mac),
    target: (Address, Mac),
    to: Mac,
) {
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&sender.1.0);
    bytes[12..14].copy_from_slice(&walk::ARP.to_be_bytes());
    bytes[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    bytes[20..22].copy_from_slice(&operation.to_be_bytes());
    bytes[22..28].copy_from_slice(&sender.1.0);
    bytes[28..32].copy_from_slice(&sender.0.v4_bits().to_be_bytes());
    bytes[32..38].copy_from_slice(&target.1.0);
    bytes[38..42].copy_from_slice(&target.0.v4_bits().to_be_bytes());
}

fn write_advertisement(
    bytes: &mut [u8; ADVERTISEMENT_LEN],
    (address, mac): (Address, Mac),
    (to, to_mac): (Address, Mac),
    flags: u32,
) {
    bytes[..6].copy_from_slice(&to_mac.0);
    bytes[6..12].copy_from_slice(&mac.0);
    bytes[12..14].copy_from_slice(&walk::IPV6.to_be_bytes());
    // Version 6, 32 bytes of ICMPv6, hop limit 255: the receiver's proof that it is a neighbour.
    bytes[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 32, walk::ICMPV6, 255]);
    bytes[22..38].copy_from_slice(&address.octets());
    bytes[38..54].copy_from_slice(&to.octets());
    bytes[54..58].copy_from_slice(&[136, 0, 0, 0]);
    bytes[58..62].copy_from_slice(&flags.to_be_bytes());
    bytes[62..78].copy_from_slice(&address.octets());
    bytes[78..80].copy_from_slice(&[TARGET_LINK_LAYER, 1]);
    bytes[80..86].copy_from_slice(&mac.0);
    let checksum = checksum::transport(address, to, walk::ICMPV6, &bytes[54..]);
    bytes[56..58].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests;
