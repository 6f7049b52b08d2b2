//! Which connection a packet belongs to, or the packet that an ICMP error quotes.
//!
//! Run by the workers on the long way. A packet and its quote carry the same two ends, in the same
//! or the opposite order; so whoever asks says which end is which.

use super::Tables;
use crate::address::VipId;
use crate::conn::{Found, Hash};
use crate::rewrite::nat::Endpoint;

/// The connection of a client to a port of a VIP. `hash` is that of the client's end.
#[inline(always)]
pub(super) fn of_vip(
    hash: Hash,
    client: Endpoint,
    (vip, vip_port): (VipId, u16),
    protocol: u8,
    tables: &Tables<'_>,
) -> Option<Found> {
    tables.shared.conns.find_now(hash, |identity| {
        identity.client == client.address
            && identity.client_port == client.port
            && identity.vip == vip
            && identity.vip_port == vip_port
            && identity.protocol == protocol
    })
}

/// The connection of a client with a real of `nat`.
#[inline(always)]
pub(super) fn of_real(
    client: Endpoint,
    real: Endpoint,
    protocol: u8,
    tables: &Tables<'_>,
) -> Option<Found> {
    let (services, conns) = (&tables.published.services, &tables.shared.conns);
    let hash = conns.hash(client.address, client.port, protocol);
    conns.find_now(hash, |identity| {
        identity.client == client.address
            && identity.client_port == client.port
            && identity.real_port == real.port
            && identity.protocol == protocol
            && identity.local.is_none()
            && services.real(identity.real).is_some_and(|r| r.answers_from(real.address))
    })
}

/// The connection that uses a port of a local address towards a real of `fullnat`.
pub(super) fn of_local(
    (local, local_port): (u8, u16),
    real: Endpoint,
    protocol: u8,
    tables: &Tables<'_>,
) -> Option<Found> {
    let entry = tables.shared.ports.lookup(protocol, local, local_port)?;
    let services = &tables.published.services;
    tables.shared.conns.get(entry, |identity| {
        identity.local == Some((local, local_port))
            && identity.protocol == protocol
            && identity.real_port == real.port
            && services.real(identity.real).is_some_and(|r| r.address == real.address)
    })
}
