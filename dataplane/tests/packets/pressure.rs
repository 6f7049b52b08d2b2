//! Floods and a full table.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::conn::State;
use dataplane::counters::Counters;
use dataplane::device::Device;
use dataplane::device::memory::MemoryDevice;
use dataplane::forward::{Local, Pipeline, Tables};
use dataplane::lease::Fresh;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Protocol};

use crate::harness::{INSIDE, OUTSIDE, With, World, real, service, snapshot, vip, web};
use crate::packet::{ACK, FIN, Frame, RST, SYN, Seen, tcp, udp};

fn sized(protocol: Protocol, capacity: u32, half_open: u32) -> World {
    let service = web(false, protocol, Forwarding::Nat).real(real(false, 11), Some(8080), 1);
    World::sized(&snapshot(&[service]), capacity, half_open)
}

fn stranger(n: u32) -> IpAddr {
    IpAddr::from((0x0b00_0000 + n).to_be_bytes())
}

fn establish(world: &mut World, port: u16) {
    let got = world.request(&tcp(false, SYN).by_port(port));
    world.reply(&Frame::answer(&got, SYN | ACK));
    world.request(&tcp(false, ACK).by_port(port));
}

fn established(world: &World) -> usize {
    world.conns().iter().filter(|conn| conn.state == State::Established).count()
}

// B1
#[test]
fn a_syn_flood_stays_in_its_bound_and_touches_nothing_established() {
    let mut world = sized(Protocol::Tcp, 4096, 512);
    for port in 1..=1000 {
        establish(&mut world, port);
    }
    let mut refused = 0;
    for burst in 0..1000 {
        let frames: Vec<_> =
            (0..50).map(|n| tcp(false, SYN).from(stranger(burst * 50 + n)).bytes()).collect();
        for fate in world.burst(0, OUTSIDE, &frames) {
            refused += u64::from(fate.sent.is_empty());
        }
        assert!(world.shared.conns.half_open() <= 512);
        world.advance(Duration::from_micros(50));
    }
    world.audit();
    assert_eq!(refused, world.drops(Reason::HalfOpenLimit));
    assert!(world.event(Event::HalfOpenEvicted) + refused >= 49_000);
    assert_eq!(established(&world), 1000);
    // Whoever comes now, in the midst of it, gets through: most at once, all when they try again.
    let mut tries = 0;
    for port in 2000..2100 {
        let syn = tcp(false, SYN).by_port(port);
        let got = loop {
            tries += 1;
            assert!(tries < 250, "too many are refused");
            let fate = world.receive(OUTSIDE, &syn);
            if !fate.sent.is_empty() {
                break fate.one(INSIDE);
            }
            assert_eq!(fate.dropped(), Reason::HalfOpenLimit);
            // It tries again after a second; the flood has gone on meanwhile.
            world.advance(Duration::from_secs(1));
            for burst in 0..20 {
                let first = 100_000 + tries * 1000 + burst * 50;
                let syns = (first..first + 50).map(|n| tcp(false, SYN).from(stranger(n)).bytes());
                world.burst(0, OUTSIDE, &syns.collect::<Vec<_>>());
            }
        };
        world.reply(&Frame::answer(&got, SYN | ACK));
        world.request(&tcp(false, ACK).by_port(port));
    }
    assert_eq!(established(&world), 1100);
    for port in (1..=1000).chain(2000..2100) {
        world
            .burst(0, OUTSIDE, &[tcp(false, ACK).by_port(port).bytes()])
            .pop()
            .unwrap()
            .one(INSIDE);
    }
}

// B1
#[test]
fn a_udp_flood_evicts_only_flows_of_one_packet() {
    let mut world = sized(Protocol::Udp, 1024, 128);
    let got = world.request(&udp(false));
    world.reply(&Frame::answer(&got, 0));
    for n in 0..20_000 {
        world.burst(0, OUTSIDE, &[udp(false).from(stranger(n)).bytes()]);
    }
    world.audit();
    assert!(world.shared.conns.half_open() <= 128);
    let before = world.event(Event::ConnOpened);
    world.request(&udp(false));
    assert_eq!(world.event(Event::ConnOpened), before);
}

// B2
#[test]
fn a_full_table_refuses_and_counts_and_recovers() {
    let mut world = sized(Protocol::Tcp, 64, 64);
    let mut full = 0;
    for port in 1..=100 {
        let fate = world.receive(OUTSIDE, &tcp(false, SYN).by_port(port));
        if fate.sent.is_empty() {
            assert_eq!(fate.dropped(), Reason::TableFull);
            full += 1;
            continue;
        }
        let got = fate.one(INSIDE);
        world.reply(&Frame::answer(&got, SYN | ACK));
        world.request(&tcp(false, ACK).by_port(port));
    }
    assert_eq!(established(&world), 100 - full);
    assert!(full >= 36);
    assert_eq!(world.drops(Reason::TableFull), full as u64);
    // Those inside are served, and those that end make room.
    for conn in world.conns() {
        world.request(&tcp(false, FIN | ACK).by_port(conn.identity.client_port));
    }
    world.seconds(61);
    world.sweep();
    assert_eq!((world.conns().len(), world.load(real(false, 11))), (0, (0, 0)));
    establish(&mut world, 5000);
}

// B2
#[test]
fn in_a_full_table_a_new_connection_takes_the_place_of_a_half_open_one() {
    let mut world = sized(Protocol::Tcp, 64, 64);
    for n in 0..64 {
        world.receive(OUTSIDE, &tcp(false, SYN).from(stranger(n)));
    }
    let got = Seen::of(&world.request(&tcp(false, SYN)));
    assert_eq!(got.destination, real(false, 11));
    assert!(world.event(Event::HalfOpenEvicted) >= 1);
    assert!(world.shared.conns.used() <= 64);
}

// B3, under pressure.
#[test]
fn evicted_connections_of_full_nat_give_their_ports_back() {
    let service = web(false, Protocol::Tcp, Forwarding::Fullnat).real(real(false, 11), None, 1);
    let mut world = World::sized(&snapshot(&[service]), 256, 32);
    for n in 0..500 {
        world.receive(OUTSIDE, &tcp(false, SYN).from(stranger(n)));
    }
    assert_eq!(world.drops(Reason::NoLocalPort), 0, "64 ports, and never more than 33 in use");
    // In a table that is almost empty one to evict is always found, however low the bound.
    let service = web(false, Protocol::Tcp, Forwarding::Fullnat).real(real(false, 11), None, 1);
    let mut world = World::sized(&snapshot(&[service]), 4096, 4);
    for n in 0..200 {
        world.receive(OUTSIDE, &tcp(false, SYN).from(stranger(n)));
    }
    assert_eq!(world.event(Event::HalfOpenEvicted), 196);
    assert_eq!(world.drops(Reason::HalfOpenLimit), 0);
    assert_eq!(world.drops(Reason::NoLocalPort), 0);
}

// B3, as above, where a flood is refused: few half-open ones hide among many established.
#[test]
fn refused_connections_of_full_nat_give_their_ports_back() {
    let services = [
        web(false, Protocol::Tcp, Forwarding::Fullnat).real(real(false, 11), None, 1),
        service("busy", Protocol::Tcp, &["192.0.2.1:81"], Forwarding::Nat).real(
            real(false, 12),
            None,
            1,
        ),
    ];
    let mut world = World::sized(&snapshot(&services), 4096, 4);
    for n in 0..600 {
        let to_busy = |flags| tcp(false, flags).from(stranger(n)).to(vip(false), 81);
        let got = world.request(&to_busy(SYN));
        world.reply(&Frame::answer(&got, SYN | ACK));
        world.request(&to_busy(ACK));
    }
    assert_eq!(established(&world), 600);
    for n in 600..800 {
        world.receive(OUTSIDE, &tcp(false, SYN).from(stranger(n)));
    }
    assert!(world.drops(Reason::HalfOpenLimit) > 64);
    assert_eq!(world.drops(Reason::NoLocalPort), 0);
}

// B11, as far as one step goes: the worker's pace is its own.
#[test]
fn an_expiry_storm_is_work_in_bounded_steps() {
    let mut world = sized(Protocol::Tcp, 4096, 4096);
    for n in 0..3000 {
        world.burst(0, OUTSIDE, &[tcp(false, SYN).from(stranger(n)).bytes()]);
    }
    let before = world.shared.conns.used();
    world.seconds(61);
    let services = &world.published.services;
    let (mut cursor, mut ended) = (0, 0);
    for _ in 0..4 {
        let used = world.shared.conns.used();
        world.shared.conns.sweep(
            &mut cursor,
            1024,
            world.now.tick(),
            |conn| services.service(conn.identity.service).map_or(0, |s| s.timeout(conn.state)),
            |found| {
                world.shared.settled(&found.conn);
                ended += 1;
            },
        );
        assert!(used - world.shared.conns.used() <= 1024);
    }
    assert_eq!((ended, world.shared.conns.used()), (before, 0));
    world.audit();
}

/// Two workers with packets of the same few connections, at once: what is counted besides the table
/// must agree with it afterwards.
#[test]
fn two_workers_at_once_on_the_same_connections_lose_no_count() {
    let nat = web(false, Protocol::Tcp, Forwarding::Nat).real(real(false, 11), Some(8080), 1);
    let mut full = web(false, Protocol::Tcp, Forwarding::Fullnat).real(real(false, 11), None, 1);
    (full.name, full.listen) = ("full".into(), vec!["192.0.2.1:81".parse().unwrap()]);
    let world = World::sized(&snapshot(&[nat, full]), 64, 8);
    let flags = [SYN, ACK, FIN | ACK, RST, SYN, ACK];
    let client = |n: u32| {
        let port = if n & 64 == 0 { 80 } else { 81 };
        let frame = tcp(false, flags[(n % 6) as usize]).by_port(1000 + (n >> 3 & 7) as u16);
        (OUTSIDE, frame.to(crate::harness::vip(false), port).bytes())
    };
    let answer = |n: u32| {
        let request = tcp(false, 0).by_port(1000 + (n >> 3 & 7) as u16).to(real(false, 11), 8080);
        let flags = [SYN | ACK, ACK, FIN | ACK, RST, SYN | ACK, SYN | ACK][(n % 6) as usize];
        (INSIDE, Frame::answer(&request.bytes(), flags).bytes())
    };
    let packets: Vec<_> =
        (0..256).map(|n| if n % 3 == 0 { answer(n) } else { client(n) }).collect();
    std::thread::scope(|scope| {
        for worker in 0..2_u32 {
            let (world, packets) = (&world, &packets);
            scope.spawn(move || {
                let (mut pipeline, mut local) =
                    (Pipeline::default(), Local::new(worker as usize, 2));
                let (counters, mut device) = (Counters::default(), MemoryDevice::new());
                let mut seed = worker + 1;
                for turn in 0..20_000_u64 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let (from, bytes) = &packets[(seed >> 24) as usize];
                    assert!(device.inject(*from, bytes));
                    let mut tables = Tables {
                        published: &world.published,
                        shared: &world.shared,
                        counters: &counters,
                        local: &mut local,
                        lease: Fresh::ALL,
                        now: world.now.after(Duration::from_millis(turn * 20)),
                    };
                    device.poll(&counters, |frames, verdicts, outbox| {
                        pipeline.forward(frames, verdicts, outbox, &mut tables);
                    });
                    device.collect();
                }
            });
        }
    });
    world.audit();
}
