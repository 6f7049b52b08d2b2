//! Whether the path did its work: a fast wrong answer is not worth measuring.

use anyhow::{Context, ensure};
use dataplane::wire::packet;
use dataplane::wire::{checksum, packet::Packet};
use dataplane_api::service::Forwarding;

use super::traffic::{Family, Role};

/// Bytes of the Ethernet header.
const ETHERNET: usize = 14;

/// Checks a frame that was sent: addresses by its method and direction, TTL, and full checksums.
pub(crate) fn sent(
    frame: &[u8],
    method: Forwarding,
    family: Family,
    request: bool,
) -> anyhow::Result<()> {
    let inner = if method == Forwarding::Tunnel {
        let outer = if family == Family::V4 { 20 } else { 40 };
        let header = frame.get(ETHERNET..ETHERNET + outer).context("shorter than its headers")?;
        ensure!(family == Family::V6 || checksum::plain(header) == 0, "wrong outer checksum");
        [&frame[..ETHERNET], &frame[ETHERNET + outer..]].concat()
    } else {
        frame.to_vec()
    };
    let packet = packet::parse(&inner).map_err(|r| anyhow::anyhow!("not a packet: {r:?}"))?;
    addresses(&packet, method, family, request)?;
    let segment = &inner[usize::from(packet.transport)..usize::from(packet.end)];
    let sum = checksum::transport(packet.source, packet.destination, packet.protocol, segment);
    ensure!(sum == 0, "wrong TCP checksum");
    let ttl = if method == Forwarding::Direct { 64 } else { 63 };
    ensure!(packet.ttl == ttl, "TTL {} instead of {ttl}", packet.ttl);
    Ok(())
}

fn addresses(
    packet: &Packet,
    method: Forwarding,
    family: Family,
    request: bool,
) -> anyhow::Result<()> {
    let role = |address: dataplane::address::Address| {
        let bits = address.bits();
        let is = |role| (family.address(role, 0).bits() ^ bits) >> 16 == 0;
        let roles = [Role::Vip, Role::Real, Role::Local];
        roles.into_iter().find(|r| is(*r)).unwrap_or(Role::Client)
    };
    let expected = match (method, request) {
        (Forwarding::Nat, true) => (Role::Client, Role::Real),
        (Forwarding::Fullnat, true) => (Role::Local, Role::Real),
        (Forwarding::Direct | Forwarding::Tunnel, _) => (Role::Client, Role::Vip),
        (Forwarding::Nat | Forwarding::Fullnat, false) => (Role::Vip, Role::Client),
    };
    let found = (role(packet.source), role(packet.destination));
    ensure!(found == expected, "goes from {} to {}", packet.source, packet.destination);
    Ok(())
}
