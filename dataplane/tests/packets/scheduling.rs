//! Which real takes a connection, and what becomes of those it has when it goes.

use std::net::IpAddr;

use dataplane::conn::State;
use dataplane::published::HopState;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Protocol, Scheduler, Service};

use crate::harness::{INSIDE, OUTSIDE, With, World, local, real, service, snapshot, web};
use crate::packet::{ACK, FIN, Frame, SYN, Seen, tcp};

fn weighted(weights: &[(u8, u16)]) -> Service {
    let service = web(false, Protocol::Tcp, Forwarding::Nat);
    weights.iter().fold(service, |s, (n, weight)| s.real(real(false, *n), None, *weight))
}

/// Last byte of the real each of these client ports gets.
fn opened(world: &mut World, ports: std::ops::Range<u16>) -> Vec<u8> {
    let last = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    ports
        .map(|port| last(Seen::of(&world.request(&tcp(false, SYN).by_port(port))).destination))
        .collect()
}

#[test]
fn weights_4_3_2_give_a_a_b_a_b_c_a_b_c_for_ever() {
    let mut world = World::new(&[weighted(&[(11, 4), (12, 3), (13, 2)])]);
    for round in 0..5 {
        let got = opened(&mut world, 1000 + round * 9..1009 + round * 9);
        assert_eq!(got, [11, 11, 12, 11, 12, 13, 11, 12, 13]);
    }
}

#[test]
fn a_reload_that_changes_nothing_does_not_set_the_round_robin_back() {
    let services = [weighted(&[(11, 4), (12, 3), (13, 2)])];
    let mut world = World::new(&services);
    assert_eq!(opened(&mut world, 1..5), [11, 11, 12, 11]);
    world.reload(&services);
    assert_eq!(opened(&mut world, 5..10), [12, 13, 11, 12, 13]);
}

// B7
#[test]
fn weight_zero_takes_no_new_connection_and_keeps_those_it_has() {
    let mut world = World::new(&[weighted(&[(11, 1)])]);
    world.request(&tcp(false, SYN));
    world.reload(&[weighted(&[(11, 0), (12, 1)])]);
    assert_eq!(Seen::of(&world.request(&tcp(false, ACK))).destination, real(false, 11));
    assert_eq!(opened(&mut world, 1..4), [12, 12, 12]);
    world.reload(&[weighted(&[(11, 0), (12, 0)])]);
    let fate = world.receive(OUTSIDE, &tcp(false, SYN).by_port(9));
    assert_eq!((fate.dropped(), world.drops(Reason::NoReal)), (Reason::NoReal, 1));
}

// B7
#[test]
fn a_removed_real_keeps_its_connections_in_both_directions_until_they_end() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel] {
        let with = |n| web(false, Protocol::Tcp, method).real(real(false, n), None, 1);
        let mut world = World::new(&[with(11)]);
        let got = world.request(&tcp(false, SYN));
        world.reload(&[with(12)]);
        world.reload(&[with(13)]);
        let again = world.request(&tcp(false, SYN));
        assert_eq!(again[..6], got[..6], "the same machine");
        if !method.is_one_way() {
            world.reply(&Frame::answer(&got, SYN | ACK));
            world.request(&tcp(false, ACK));
            assert_eq!(world.state(), State::Established);
        }
        assert_eq!(world.load(real(false, 12)), (0, 0));
        let new = world.request(&tcp(false, SYN).by_port(7));
        assert_eq!(new[5], 13, "new ones go elsewhere");
        world.seconds(1000);
        world.sweep();
        // Nothing uses its number any more.
        world.reload(&[with(13)]);
        world.reload(&[with(13)]);
        assert_eq!(world.published.services.reals().count(), 1);
    }
}

#[test]
fn a_removed_service_keeps_its_connections_and_takes_no_new_ones() {
    let other = service("other", Protocol::Tcp, &["192.0.2.1:443"], Forwarding::Nat);
    let other = other.real(real(false, 12), None, 1);
    let mut world = World::new(&[weighted(&[(11, 1)]), other.clone()]);
    let got = world.request(&tcp(false, SYN));
    world.reload(&[other]);
    world.reply(&Frame::answer(&got, SYN | ACK));
    world.request(&tcp(false, ACK));
    world.seconds(800);
    world.sweep();
    assert_eq!(Seen::of(&world.request(&tcp(false, ACK))).destination, real(false, 11));
    let fate = world.receive(OUTSIDE, &tcp(false, SYN).by_port(7));
    assert_eq!(fate.dropped(), Reason::NoService);
    world.request(&tcp(false, FIN | ACK));
    let fate = world.receive(OUTSIDE, &tcp(false, SYN));
    assert_eq!(fate.dropped(), Reason::NoService, "nor in place of one that closes");
}

#[test]
fn a_changed_method_leaves_open_connections_with_theirs() {
    let mut world = World::new(&[weighted(&[(11, 1)])]);
    world.request(&tcp(false, SYN));
    let direct = web(false, Protocol::Tcp, Forwarding::Direct).real(real(false, 11), None, 1);
    world.reload(&[direct]);
    assert_eq!(Seen::of(&world.request(&tcp(false, ACK))).destination, real(false, 11));
    let new = world.request(&tcp(false, SYN).by_port(7));
    assert_eq!(Seen::of(&new).destination, crate::harness::vip(false));
}

#[test]
fn a_real_over_its_threshold_rests_until_it_is_under_the_lower_one() {
    let mut service = weighted(&[(11, 1)]);
    service.reals[0].upper_threshold = Some(3);
    service.reals[0].lower_threshold = Some(2);
    let mut world = World::new(&[service]);
    assert_eq!(opened(&mut world, 1..4), [11, 11, 11]);
    let refused = |world: &mut World, port| {
        let fate = world.receive(OUTSIDE, &tcp(false, SYN).by_port(port));
        !fate.sent.is_empty()
    };
    assert!(!refused(&mut world, 4));
    assert_eq!(world.drops(Reason::NoReal), 1);
    world.seconds(61);
    world.sweep();
    assert_eq!(opened(&mut world, 5..8), [11, 11, 11]);
    assert!(!refused(&mut world, 8));
}

#[test]
fn a_real_that_cannot_be_reached_gets_no_connection_and_the_reason_is_told() {
    let cases = [
        (HopState::Unresolved, Reason::NextHopUnresolved),
        (HopState::NoRoute, Reason::NextHopUnresolved),
        (HopState::DeviceDown, Reason::DeviceDown),
    ];
    for (state, reason) in cases {
        let mut world = World::new(&[weighted(&[(11, 1)])]);
        world.hop(real(false, 11), |hop| hop.state = state);
        assert_eq!(world.receive(OUTSIDE, &tcp(false, SYN)).dropped(), reason);
        assert_eq!((world.conns().len(), world.drops(reason)), (0, 1));
    }
    let mut world = World::new(&[weighted(&[(11, 1)])]);
    let got = world.request(&tcp(false, SYN));
    world.device(INSIDE, |device| device.usable = false);
    let fate = world.receive(OUTSIDE, &tcp(false, SYN).by_port(7));
    assert_eq!((fate.dropped(), world.conns().len()), (Reason::DeviceDown, 1));
    assert_eq!(world.receive(OUTSIDE, &tcp(false, SYN)).dropped(), Reason::DeviceDown);
    // And the way back.
    world.device(INSIDE, |device| device.usable = true);
    world.device(OUTSIDE, |device| device.usable = false);
    let answer = Frame::answer(&got, SYN | ACK);
    assert_eq!(world.receive(INSIDE, &answer).dropped(), Reason::DeviceDown);
    world.device(OUTSIDE, |device| device.usable = true);
    world.reply(&answer);
}

#[test]
fn a_tunnel_without_an_address_to_send_from_is_unresolved() {
    let service = web(false, Protocol::Tcp, Forwarding::Tunnel).real(real(true, 11), None, 1);
    let mut world = World::new(&[service]);
    for source in ["::", "10.0.0.254"] {
        world.hop(real(true, 11), |hop| hop.source = crate::harness::ip(source).into());
        let fate = world.receive(OUTSIDE, &tcp(false, SYN));
        assert_eq!(fate.dropped(), Reason::NextHopUnresolved);
    }
}

#[test]
fn every_scheduler_opens_connections_end_to_end() {
    use Scheduler::{Dh, Fo, Lblc, Lblcr, Lc, Mh, Nq, Ovf, Rr, Sed, Sh, Twos, Wlc, Wrr};
    for scheduler in [Rr, Wrr, Lc, Wlc, Sh, Dh, Mh, Sed, Nq, Lblc, Lblcr, Fo, Ovf, Twos] {
        let service = weighted(&[(11, 3), (12, 0), (13, 2)]).scheduler(scheduler);
        let mut world = World::new(&[service]);
        let got = opened(&mut world, 1..21);
        assert!(!got.contains(&12), "{scheduler:?}: weight 0");
        assert_eq!(world.event(Event::ConnOpened), 20);
        if matches!(scheduler, Rr | Wrr | Lc | Wlc) {
            assert!(got.contains(&11) && got.contains(&13), "{scheduler:?}");
        }
    }
}

#[test]
fn a_snapshot_that_cannot_be_followed_is_refused_in_words() {
    use dataplane::ids::{Ids, Used};
    use dataplane::service::ServiceTable;
    let nat = |address| web(false, Protocol::Tcp, Forwarding::Nat).real(address, None, 1);
    let mut twice = nat(real(false, 11));
    twice.listen.push(format!("{}:80", local(false)).parse().unwrap());
    let mut mixed = nat(real(false, 11));
    mixed.listen.push("[2001:db8::1]:80".parse().unwrap());
    let cases = [
        (nat(real(true, 11)), "fd00::b is of another address family"),
        (nat(crate::harness::ip("224.0.0.1")), "224.0.0.1 is not the address of a host"),
        (twice, "10.0.0.100 is a VIP and a local address"),
        (mixed, "2001:db8::1 is of another address family"),
    ];
    for (service, expected) in cases {
        let snapshot = snapshot(&[service]);
        let ids = Ids::default().assign(None, &snapshot, &Used::default()).unwrap();
        let error = ServiceTable::compile(&snapshot, &ids, None).unwrap_err();
        assert!(error.contains(expected) && error.contains("web"), "{error}");
    }
}
