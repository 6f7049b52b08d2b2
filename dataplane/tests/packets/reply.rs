//! Replies that follow the routing table instead of the client's last hop.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::address::{Address, DeviceId, Mac};
use dataplane::routes::{Prefix, RouteTable, Router, Way};
use dataplane_api::counter::Reason;
use dataplane_api::service::{Forwarding, Protocol};

use crate::harness::{
    CLIENT_MAC, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, client, either, mac_of,
    real, web,
};
use crate::packet::{ACK, Frame, SYN, Seen, fragment, icmp_error, tcp, udp};

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];

fn world(v6: bool, protocol: Protocol, method: Forwarding) -> World {
    World::new(&[web(v6, protocol, method).real(real(v6, 11), Some(8080), 1)])
}

fn way(device: DeviceId, router: Router) -> Way {
    Way { device, router, mtu: u16::MAX, weight: 1 }
}

fn known(mac: [u8; 6]) -> Router {
    Router::Known(Mac(mac))
}

/// The client's network is behind this way.
fn route(world: &mut World, v6: bool, way: Way, neighbors: &[(DeviceId, IpAddr, [u8; 6])]) {
    let address = either(v6, "198.51.100.0", "2001:db8:1::").into();
    let length = if v6 { 64 } else { 24 };
    let neighbors =
        neighbors.iter().map(|(device, a, mac)| (*device, Address::from(*a), Mac(*mac)));
    let table = RouteTable::new(&[(Prefix { address, length }, vec![way])], neighbors);
    world.change(|facts| facts.replies = Some(Arc::new(table)));
}

/// Where the real's answer goes.
fn answer(world: &mut World, request: &[u8], device: DeviceId) -> Seen {
    Seen::of(&world.receive(INSIDE, &Frame::answer(request, SYN | ACK)).one(device))
}

#[test]
fn a_live_connection_follows_the_route_to_another_router_and_another_interface() {
    for (method, v6) in [
        (Forwarding::Nat, false),
        (Forwarding::Nat, true),
        (Forwarding::Fullnat, false),
        (Forwarding::Fullnat, true),
    ] {
        let mut world = world(v6, Protocol::Tcp, method);
        let request = world.request(&tcp(v6, SYN));
        let back = answer(&mut world, &request, OUTSIDE);
        assert_eq!(back.macs, (OUTSIDE_MAC, CLIENT_MAC), "no table: the last hop");
        route(&mut world, v6, way(OUTSIDE, known(ROUTER)), &[]);
        let routed = answer(&mut world, &request, OUTSIDE);
        assert_eq!(routed.macs, (OUTSIDE_MAC, ROUTER));
        assert_eq!((routed.destination, routed.ports), (client(v6), (80, 40000)));
        route(&mut world, v6, way(INSIDE, known(OTHER)), &[]);
        assert_eq!(answer(&mut world, &request, INSIDE).macs, (INSIDE_MAC, OTHER));
        // Where requests come from changes nothing.
        let moved = Frame { macs: (OTHER, OUTSIDE_MAC), ..tcp(v6, ACK) };
        world.request(&moved);
        assert_eq!(answer(&mut world, &request, INSIDE).macs, (INSIDE_MAC, OTHER));
        assert_eq!((world.all_drops(), world.shared.asks.pop()), (0, None));
    }
}

#[test]
fn an_unresolved_router_is_asked_for_and_the_last_hop_serves_on_the_same_interface_only() {
    for v6 in [false, true] {
        let mut world = world(v6, Protocol::Tcp, Forwarding::Nat);
        let request = world.request(&tcp(v6, SYN));
        let router = either(v6, "192.0.2.253", "fe80::b").into();
        route(&mut world, v6, way(OUTSIDE, Router::Unknown(router)), &[]);
        assert_eq!(answer(&mut world, &request, OUTSIDE).macs, (OUTSIDE_MAC, CLIENT_MAC));
        assert_eq!(world.shared.asks.pop(), Some((OUTSIDE, router)));
        route(&mut world, v6, way(INSIDE, Router::Unknown(router)), &[]);
        let fate = world.receive(INSIDE, &Frame::answer(&request, SYN | ACK));
        assert_eq!(fate.dropped(), Reason::NextHopUnresolved);
        assert_eq!(world.shared.asks.pop(), Some((INSIDE, router)));
        assert_eq!(world.shared.asks.pop(), None);
    }
}

#[test]
fn a_client_on_the_link_is_resolved_and_asked_for_again_when_it_seems_to_have_moved() {
    for v6 in [false, true] {
        let mut world = world(v6, Protocol::Udp, Forwarding::Nat);
        let request = world.request(&udp(v6));
        let on_link = way(OUTSIDE, Router::OnLink);
        route(&mut world, v6, on_link, &[]);
        assert_eq!(answer(&mut world, &request, OUTSIDE).macs.1, CLIENT_MAC);
        let asked = Some((OUTSIDE, client(v6).into()));
        assert_eq!(world.shared.asks.pop(), asked, "not known yet");
        route(&mut world, v6, on_link, &[(OUTSIDE, client(v6), CLIENT_MAC)]);
        assert_eq!(answer(&mut world, &request, OUTSIDE).macs.1, CLIENT_MAC);
        assert_eq!(world.shared.asks.pop(), None, "known, and where its packets come from");
        route(&mut world, v6, on_link, &[(OUTSIDE, client(v6), OTHER)]);
        assert_eq!(answer(&mut world, &request, OUTSIDE).macs.1, OTHER);
        assert_eq!(world.shared.asks.pop(), asked, "its packets come from elsewhere");
    }
}

#[test]
fn without_a_route_or_with_its_interface_down_replies_are_dropped_and_counted() {
    let mut world = world(false, Protocol::Tcp, Forwarding::Nat);
    let request = world.request(&tcp(false, SYN));
    let reply = Frame::answer(&request, SYN | ACK);
    world.change(|facts| facts.replies = Some(Arc::default()));
    assert_eq!(world.receive(INSIDE, &reply).dropped(), Reason::NextHopUnresolved);
    route(&mut world, false, way(OUTSIDE, known(ROUTER)), &[]);
    world.device(OUTSIDE, |device| device.usable = false);
    assert_eq!(world.receive(INSIDE, &reply).dropped(), Reason::DeviceDown);
    world.change(|facts| facts.replies = None);
    world.device(OUTSIDE, |device| device.usable = true);
    assert_eq!(answer(&mut world, &request, OUTSIDE).macs.1, CLIENT_MAC);
}

#[test]
fn errors_fragments_and_the_mtu_of_the_route_are_minded() {
    for v6 in [false, true] {
        let mut world = world(v6, Protocol::Udp, Forwarding::Fullnat);
        let request = world.request(&udp(v6));
        let sent = Seen::of(&request);
        route(&mut world, v6, Way { mtu: 1300, ..way(OUTSIDE, known(ROUTER)) }, &[]);
        let kind = if v6 { [1, 4] } else { [3, 3] };
        let macs = (mac_of(real(v6, 11)), INSIDE_MAC);
        let error = icmp_error(macs, real(v6, 11), sent.source, kind, 0, &request[14..]);
        let told = Seen::of(&world.receive_bytes(INSIDE, &error).one(OUTSIDE));
        assert_eq!((told.macs, told.destination), ((OUTSIDE_MAC, ROUTER), client(v6)));

        let whole = Frame::answer(&request, 0).data(&[7; 1400]);
        let fate = world.receive(INSIDE, &whole);
        let told = Seen::of(&fate.one(INSIDE));
        assert_eq!(told.payload[..2], if v6 { [2, 0] } else { [3, 4] }, "too big");
        assert_eq!(told.payload[4..8], 1300_u32.to_be_bytes());

        let whole = whole.bytes();
        for (from, to) in [(0, 1024), (1024, 1408)] {
            let fate = world.receive_bytes(INSIDE, &fragment(&whole, from, to));
            let piece = Seen::unjudged(&fate.one(OUTSIDE));
            assert_eq!((piece.macs, piece.destination), ((OUTSIDE_MAC, ROUTER), client(v6)));
        }
    }
}
