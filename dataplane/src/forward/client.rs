//! Where replies to a client go: back to its last hop, or as the routing table has it.

use dataplane_api::counter::Reason;

use super::Tables;
use crate::address::{Address, Mac};
use crate::conn::LastHop;
use crate::routes::{Exit, RouteTable};

/// The next hop of packets to `client`, the MAC address of ours on the way there, and the largest IP
/// packet, in bytes, that it allows. `last` is where the client's own packets come from.
#[inline(always)]
pub(super) fn next_hop(
    client: Address,
    last: LastHop,
    tables: &Tables<'_>,
) -> Result<(LastHop, Mac, u16), Reason> {
    let (hop, mtu) = match &tables.published.replies {
        None => (last, u16::MAX),
        Some(routes) => by_route(routes, client, last, tables)?,
    };
    let device = tables.published.device(hop.device).filter(|d| d.usable);
    let device = device.ok_or(Reason::DeviceDown)?;
    Ok((hop, device.mac, device.mtu.min(mtu)))
}

#[inline(never)]
pub(super) fn by_route(
    routes: &RouteTable,
    client: Address,
    last: LastHop,
    tables: &Tables<'_>,
) -> Result<(LastHop, u16), Reason> {
    // No routing table tells of which link such an address is.
    if client.is_v6_link_local() {
        return Ok((last, u16::MAX));
    }
    let asks = &tables.shared.asks;
    match routes.lookup(client) {
        Exit::To { device, mac, on_link, mtu } => {
            // Either somebody else sends for it, or it has a new address that the kernel, which does
            // not see its packets, has not noticed.
            if on_link && last.device == device && last.mac != mac {
                asks.push(device, client);
            }
            Ok((LastHop { mac, device }, mtu))
        }
        Exit::Unresolved { device, neighbor, mtu } => {
            asks.push(device, neighbor);
            // Whoever brings the client's packets on that link takes some back for a moment.
            if last.device == device { Ok((last, mtu)) } else { Err(Reason::NextHopUnresolved) }
        }
        Exit::NoRoute => Err(Reason::NextHopUnresolved),
    }
}
