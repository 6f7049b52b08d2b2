//! A client's tie to its real.

use std::net::IpAddr;

use dataplane::conn::State;
use dataplane_api::counter::Event;
use dataplane_api::service::{Forwarding, Protocol, Scheduler, Service};

use crate::harness::{OUTSIDE, With, World, ip, real, service, vip};
use crate::packet::{ACK, FIN, Frame, SYN, Seen, tcp};

fn shop(v6: bool, timeout: u32, mask: (u8, u8)) -> Service {
    let listen: &[&str] = if v6 {
        &["[2001:db8::1]:80", "[2001:db8::1]:443"]
    } else {
        &["192.0.2.1:80", "192.0.2.1:443", "192.0.2.2:8000-8010"]
    };
    let service = service("shop", Protocol::Tcp, listen, Forwarding::Nat);
    let service = service.scheduler(Scheduler::Rr).persistent(timeout, mask.0, mask.1);
    (11..14).fold(service, |s, n| s.real(real(v6, n), None, 1))
}

fn open(world: &mut World, from: &str, port: u16, to: (IpAddr, u16)) -> IpAddr {
    let source = ip(from);
    let frame = tcp(source.is_ipv6(), SYN).from(source).by_port(port).to(to.0, to.1);
    Seen::of(&world.request(&frame)).destination
}

fn web(v6: bool) -> (IpAddr, u16) {
    (vip(v6), 80)
}

#[test]
fn a_client_comes_back_to_its_real_on_every_port_of_the_service() {
    let mut world = World::new(&[shop(false, 300, (32, 128))]);
    let a = open(&mut world, "198.51.100.7", 1, web(false));
    for to in
        [(vip(false), 80), (vip(false), 443), (ip("192.0.2.2"), 8000), (ip("192.0.2.2"), 8010)]
    {
        assert_eq!(open(&mut world, "198.51.100.7", 1000 + to.1, to), a);
    }
    let b = open(&mut world, "198.51.100.8", 1, web(false));
    assert_ne!(a, b, "another client, in turn");
    assert_eq!(open(&mut world, "198.51.100.7", 3, web(false)), a);
    assert_eq!(world.event(Event::PersistenceHit), 5);
    assert_eq!(world.shared.conns.templates(), 2);
}

#[test]
fn the_mask_says_who_is_one_client_in_both_families() {
    let cases = [
        (false, (24, 128), "198.51.100.7", "198.51.100.250", "198.51.101.7"),
        (false, (31, 128), "198.51.100.6", "198.51.100.7", "198.51.100.8"),
        (true, (32, 64), "2001:db8:1::7", "2001:db8:1::ffff:1", "2001:db8:1:1::7"),
        (true, (32, 127), "2001:db8:1::6", "2001:db8:1::7", "2001:db8:1::8"),
    ];
    for (v6, mask, one, same, other) in cases {
        let mut world = World::new(&[shop(v6, 300, mask)]);
        let a = open(&mut world, one, 1, web(v6));
        assert_eq!(open(&mut world, same, 2, web(v6)), a, "{same} as {one}");
        assert_ne!(open(&mut world, other, 3, web(v6)), a, "{other} unlike {one}");
    }
}

#[test]
fn the_tie_ends_after_its_timeout_without_a_packet() {
    let mut world = World::new(&[shop(false, 100, (32, 128))]);
    let a = open(&mut world, "198.51.100.7", 1, web(false));
    world.seconds(99);
    world.sweep();
    assert_eq!(open(&mut world, "198.51.100.7", 2, web(false)), a);
    world.seconds(99);
    world.sweep();
    assert_eq!(open(&mut world, "198.51.100.7", 3, web(false)), a, "each opening starts it anew");
    // Also where nobody swept.
    world.seconds(101);
    assert_ne!(open(&mut world, "198.51.100.7", 4, web(false)), a);
    world.seconds(101);
    world.sweep();
    assert_eq!((world.shared.conns.templates(), world.conns().len()), (0, 0));
}

#[test]
fn the_tie_lasts_while_a_connection_has_packets() {
    let mut world = World::new(&[shop(false, 60, (32, 128))]);
    let request = tcp(false, SYN);
    let got = world.request(&request);
    world.reply(&Frame::answer(&got, SYN | ACK));
    let a = Seen::of(&got).destination;
    // Odd steps: packets at any moment count.
    for step in 0..40_u64 {
        world.advance(std::time::Duration::from_millis(7_000 + 613 * step));
        world.request(&tcp(false, ACK));
        world.sweep();
        assert_eq!(world.shared.conns.templates(), 1, "after step {step}");
    }
    assert_eq!(open(&mut world, "198.51.100.7", 2, web(false)), a);
    world.request(&tcp(false, FIN | ACK));
    world.seconds(61);
    world.sweep();
    assert_eq!(world.shared.conns.templates(), 0);
}

#[test]
fn a_real_with_weight_zero_or_gone_or_overloaded_is_not_honoured() {
    for change in ["drained", "removed", "overloaded"] {
        let mut world = World::new(&[shop(false, 300, (32, 128))]);
        let a = open(&mut world, "198.51.100.7", 1, web(false));
        let mut service = shop(false, 300, (32, 128));
        let at = service.reals.iter().position(|r| r.address == a).unwrap();
        match change {
            "drained" => service.reals[at].weight = dataplane_api::service::Weight::DRAINED,
            "removed" => drop(service.reals.remove(at)),
            _ => service.reals[at].upper_threshold = Some(1),
        }
        world.reload(&[service]);
        let b = open(&mut world, "198.51.100.7", 2, web(false));
        assert_ne!(a, b, "{change}");
        // The old connection stays, and does not bring the tie back.
        world.seconds(2);
        let old = tcp(false, ACK).by_port(1);
        assert_eq!(Seen::of(&world.request(&old)).destination, a);
        let c = open(&mut world, "198.51.100.7", 3, web(false));
        if change == "overloaded" {
            // Its tie is to the first still, and holds again once there is room.
            assert_ne!(c, a);
        } else {
            assert_eq!(c, b, "{change}");
        }
    }
}

#[test]
fn two_services_tie_a_client_each_to_its_own_real() {
    let mut other = shop(false, 300, (32, 128));
    other.name = "other".into();
    other.listen = vec!["192.0.2.9:80".parse().unwrap()];
    let mut world = World::new(&[shop(false, 300, (32, 128)), other]);
    let (one, two) = (web(false), (ip("192.0.2.9"), 80));
    open(&mut world, "198.51.100.8", 1, one);
    let (a, b) =
        (open(&mut world, "198.51.100.7", 1, one), open(&mut world, "198.51.100.7", 2, two));
    assert_ne!(a, b, "each in its own turn");
    assert_eq!(open(&mut world, "198.51.100.7", 3, two), b);
    assert_eq!(open(&mut world, "198.51.100.7", 4, one), a);
    for _ in 0..3 {
        world.seconds(301);
        world.sweep();
        assert_eq!(world.conns().len(), 0);
        open(&mut world, "198.51.100.7", 2, two);
    }
}

#[test]
fn udp_is_persistent_too() {
    let mut service = shop(false, 300, (32, 128));
    service.protocol = Protocol::Udp;
    let mut world = World::new(&[service]);
    let a = Seen::of(&world.request(&crate::packet::udp(false))).destination;
    let b = Seen::of(&world.request(&crate::packet::udp(false).by_port(2))).destination;
    assert_eq!(a, b);
}

// B1, for templates.
#[test]
fn a_flood_of_strangers_makes_no_more_templates_than_half_open_connections() {
    let snapshot = crate::harness::snapshot(&[shop(false, 300, (32, 128))]);
    let mut world = World::sized(&snapshot, 256, 64);
    for n in 0..1000_u32 {
        let source = IpAddr::from((0x0b00_0000 + n).to_be_bytes());
        world.burst(0, OUTSIDE, &[tcp(false, SYN).from(source).bytes()]);
    }
    world.audit();
    assert!(world.shared.conns.templates() <= 64);
    // A client that is no stranger gets its tie with the handshake.
    let request = tcp(false, SYN).by_port(9);
    let got = world.request(&request);
    world.reply(&Frame::answer(&got, SYN | ACK));
    world.request(&tcp(false, ACK).by_port(9));
    let ties = world
        .conns()
        .iter()
        .filter(|c| {
            c.state == State::Template && IpAddr::from(c.identity.client) == ip("198.51.100.7")
        })
        .count();
    assert_eq!(ties, 1);
    assert_eq!(open(&mut world, "198.51.100.7", 10, web(false)), Seen::of(&got).destination);
}
