//! Netlink messages as bytes: telling them apart, and reading what matters. Pure.
//!
//! Management thread. Nothing here trusts a length, and what is not understood is left out.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NetlinkBuffer, NetlinkHeader, NlasIterator, ParseableParametrized};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, LinkHeader, LinkMessage, LinkMessageBuffer};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use super::state::Route;

const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
const RTM_DELADDR: u16 = libc::RTM_DELADDR;
const RTM_NEWNEIGH: u16 = libc::RTM_NEWNEIGH;
const RTM_DELNEIGH: u16 = libc::RTM_DELNEIGH;

/// The messages of a datagram; ends at the first that is cut off.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
        let mut header = NetlinkHeader::default();
        header.length = buffer.length();
        header.message_type = buffer.message_type();
        header.flags = buffer.flags();
        header.sequence_number = buffer.sequence_number();
        let payload = buffer.payload();
        let end = (header.length as usize).next_multiple_of(4).min(datagram.len());
        datagram = &datagram[end..];
        Some((header, payload))
    })
}

/// Whether such an event changes the picture of links, addresses and neighbours.
pub(super) fn is_state(kind: u16) -> bool {
    matches!(kind, RTM_NEWLINK..=RTM_DELLINK | RTM_NEWADDR..=RTM_DELADDR)
        || matches!(kind, RTM_NEWNEIGH..=RTM_DELNEIGH)
}

/// Whether such an event may change the answer to [`super::Monitor::route`]. Links and addresses
/// do: IPv4 routes vanish with them without a word.
pub(super) fn touches_routes(kind: u16) -> bool {
    !matches!(kind, RTM_NEWNEIGH..=RTM_DELNEIGH)
}

pub(super) fn parse(kind: u16, payload: &[u8]) -> Option<Message> {
    match kind {
        RTM_NEWLINK => Some(Message::NewLink(parse_link(payload)?)),
        RTM_DELLINK => Some(Message::DelLink(parse_link(payload)?)),
        kind => Message::parse_with_param(payload, kind).ok(),
    }
}

/// As the crate's own parser, but an attribute that it does not understand (a driver's statistics
/// of a later kernel) costs that attribute and not the link.
fn parse_link(payload: &[u8]) -> Option<LinkMessage> {
    let mut message = LinkMessage::default();
    message.header = LinkHeader::parse(payload).ok()?;
    let family = message.header.interface_family;
    message.attributes = NlasIterator::new(payload.get(size_of::<LinkMessageBuffer>()..)?)
        .map_while(Result::ok)
        .filter_map(|attribute| LinkAttribute::parse_with_param(&attribute, family).ok())
        .collect();
    Some(message)
}

/// What `NLMSG_ERROR` and `NLMSG_DONE` carry: 0 or a negative error number.
pub(super) fn errno(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(code) if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Ok(()),
    }
}

pub(super) fn route_of(message: &RouteMessage) -> Option<Route> {
    let local = match message.header.kind {
        RouteType::Unicast => false,
        RouteType::Local => true,
        // Broadcast, multicast, blackhole: nothing that a real could be behind.
        _ => return None,
    };
    let mut interface = None;
    let mut route = Route { ifindex: 0, gateway: None, source: None, mtu: None, local };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => interface = Some(*ifindex),
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => route.gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => route.gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = Some(*mtu);
                    }
                }
            }
            _ => {}
        }
    }
    route.ifindex = interface?;
    Some(route)
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
