//! Connections that have to end: of dead reals, of removed ones, and by order.

use std::net::IpAddr;

use dataplane::conn::State;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::How;
use dataplane_api::service::{Dead, Forwarding, Protocol, Scheduler, Service};

use crate::harness::{
    CLIENT_MAC, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, client, mac_of, real, vip,
    web,
};
use crate::packet::{ACK, FIN, Frame, PSH, RST, SYN, Seen, tcp, udp};

const METHODS: [Forwarding; 4] =
    [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel];

fn one_way(method: Forwarding) -> bool {
    matches!(method, Forwarding::Direct | Forwarding::Tunnel)
}

fn two(v6: bool, protocol: Protocol, method: Forwarding) -> Service {
    let port = (!one_way(method)).then_some(8080);
    web(v6, protocol, method).scheduler(Scheduler::Rr).real(real(v6, 11), port, 1).real(
        real(v6, 12),
        port,
        1,
    )
}

fn down(mut service: Service, n: usize, dead: Dead) -> Service {
    service.reals[n].down = true;
    Service { dead, ..service }
}

fn without(mut service: Service, n: usize) -> Service {
    service.reals.remove(n);
    service
}

/// An established connection of the client's port with the first real; what that saw of the SYN.
fn establish(world: &mut World, v6: bool, method: Forwarding, port: u16) -> Vec<u8> {
    let got = world.request(&tcp(v6, SYN).by_port(port));
    if !one_way(method) {
        world.reply(&Frame { payload: vec![], ..Frame::answer(&got, SYN | ACK) });
    }
    world.request(&tcp(v6, ACK).by_port(port));
    world.request(&tcp(v6, ACK).by_port(port));
    got
}

/// What a real has got, out of its tunnel.
fn unwrapped(method: Forwarding, bytes: &[u8]) -> Seen {
    let seen = Seen::of(bytes);
    if method == Forwarding::Tunnel { Seen::of(&seen.inner()) } else { seen }
}

/// Ends, ports, flags, numbers, bytes of data.
type Brief = (IpAddr, IpAddr, (u16, u16), Option<u8>, (u32, u32), usize);

/// What of a segment counts.
fn brief(seen: &Seen) -> Brief {
    (seen.source, seen.destination, seen.ports, seen.flags, seen.numbers, seen.payload.len())
}

#[test]
fn a_packet_of_the_client_resets_both_sides_with_the_numbers_they_wait_for() {
    for (v6, method) in [false, true].into_iter().flat_map(|v6| METHODS.map(|m| (v6, m))) {
        let mut world = World::new(&[two(v6, Protocol::Tcp, method)]);
        let got = unwrapped(method, &establish(&mut world, v6, method, 40000));
        world.end(real(v6, 11), How::Reset);
        let frame = tcp(v6, PSH | ACK).numbered(1000, 2000).data(b"more");
        let mut fate = world.receive(OUTSIDE, &frame);
        assert_eq!(fate.sent.len(), 2, "{method:?}");
        let (to, answer) = fate.sent.remove(0);
        let answer = Seen::of(&answer);
        assert_eq!((to, answer.macs), (OUTSIDE, (OUTSIDE_MAC, CLIENT_MAC)));
        let back = (vip(v6), client(v6), (80, 40000), Some(RST), (2000, 0), 0);
        assert_eq!(brief(&answer), back, "{method:?}");
        let (to, on) = fate.sent.remove(0);
        assert_eq!((to, Seen::of(&on).macs), (INSIDE, (INSIDE_MAC, mac_of(real(v6, 11)))));
        let there = (got.source, got.destination, got.ports, Some(RST | ACK), (1000, 2000), 0);
        assert_eq!(brief(&unwrapped(method, &on)), there, "{method:?}");
        assert_eq!((world.state(), world.event(Event::ConnReset)), (State::Close, 1));
        // What is on its way still is answered alike, and the entry goes by itself.
        assert_eq!(world.receive(OUTSIDE, &frame).sent.len(), 2);
        assert_eq!(world.event(Event::ConnReset), 1);
        world.seconds(11);
        world.sweep();
        assert!(world.conns().is_empty());
    }
}

#[test]
fn a_packet_of_the_real_resets_both_sides_too() {
    for (v6, method) in
        [false, true].into_iter().flat_map(|v6| [METHODS[0], METHODS[1]].map(|m| (v6, m)))
    {
        let mut world = World::new(&[two(v6, Protocol::Tcp, method)]);
        let got = establish(&mut world, v6, method, 40000);
        world.end(real(v6, 11), How::Move);
        let mut fate = world.receive(INSIDE, &Frame::answer(&got, PSH | ACK).numbered(500, 900));
        assert_eq!(fate.sent.len(), 2, "{method:?}");
        let (to, answer) = fate.sent.remove(0);
        assert_eq!(to, INSIDE);
        let got = Seen::of(&got);
        let back = (got.source, got.destination, got.ports, Some(RST), (900, 0), 0);
        assert_eq!(brief(&Seen::of(&answer)), back, "{method:?}");
        let (to, on) = fate.sent.remove(0);
        assert_eq!(to, OUTSIDE);
        let there = (vip(v6), client(v6), (80, 40000), Some(RST | ACK), (500, 900), 0);
        assert_eq!(brief(&Seen::of(&on)), there, "{method:?}");
        assert_eq!(world.state(), State::Close);
    }
}

#[test]
fn an_rst_of_either_side_goes_on_as_it_is_and_is_not_answered() {
    let mut world = World::new(&[two(false, Protocol::Tcp, Forwarding::Nat)]);
    establish(&mut world, false, Forwarding::Nat, 40000);
    world.end(real(false, 11), How::Reset);
    let on = world.request(&tcp(false, RST).numbered(77, 0));
    assert_eq!(Seen::of(&on).numbers, (77, 0));
    assert_eq!((world.state(), world.event(Event::ConnReset)), (State::Close, 0));
}

#[test]
fn a_fin_is_counted_in_the_answer_to_a_packet_without_ack() {
    // No stack sends such a FIN; but whoever does is told the number behind it (RFC 9293 3.10.7.1).
    let mut world = World::new(&[two(false, Protocol::Tcp, Forwarding::Nat)]);
    establish(&mut world, false, Forwarding::Nat, 40000);
    world.end(real(false, 11), How::Reset);
    let frame = tcp(false, FIN).numbered(1000, 0).data(b"four");
    let fate = world.receive(OUTSIDE, &frame);
    let answer = Seen::of(&fate.sent[0].1);
    assert_eq!((answer.flags, answer.numbers), (Some(RST | ACK), (0, 1005)));
}

#[test]
fn an_idle_connection_is_asked_on_both_sides_and_its_answer_resets_it() {
    for (v6, method) in [false, true].into_iter().flat_map(|v6| METHODS.map(|m| (v6, m))) {
        let mut world = World::new(&[two(v6, Protocol::Tcp, method)]);
        let got = Seen::of(&establish(&mut world, v6, method, 40000));
        world.seconds(300);
        let ending = world.end(real(v6, 11), How::Reset);
        assert_eq!((ending.left(), ending.is_done()), (1, false));
        let mut asked = world.enders().into_iter();
        let (to, probe) = asked.next().unwrap();
        let probe = Seen::of(&probe);
        assert_eq!((to, probe.macs), (OUTSIDE, (OUTSIDE_MAC, CLIENT_MAC)), "{method:?}");
        let there = (vip(v6), client(v6), (80, 40000), Some(ACK), probe.numbers, 0);
        assert_eq!(brief(&probe), there);
        if one_way(method) {
            assert!(asked.next().is_none(), "{method:?}: what the real says would not reach us");
        } else {
            let (to, probe) = asked.next().unwrap();
            let probe = Seen::of(&probe);
            assert_eq!((to, probe.macs), (INSIDE, (INSIDE_MAC, mac_of(real(v6, 11)))));
            let there = (got.source, got.destination, got.ports, Some(ACK), probe.numbers, 0);
            assert_eq!(brief(&probe), there, "{method:?}");
        }
        assert_eq!((ending.left(), ending.is_done()), (1, false));
        assert!(world.enders().is_empty(), "not asked again in the next second");
        // The client answers what it cannot accept with an ACK.
        let fate = world.receive(OUTSIDE, &tcp(v6, ACK).numbered(31, 41));
        assert_eq!(Seen::of(&fate.sent[0].1).numbers, (41, 0));
        assert_eq!(unwrapped(method, &fate.sent[1].1).numbers, (31, 41));
        assert!(world.enders().is_empty());
        assert_eq!((ending.left(), ending.is_done()), (0, true));
    }
}

#[test]
fn who_never_answers_is_asked_for_half_a_minute_and_then_forgotten() {
    let mut world = World::new(&[two(false, Protocol::Tcp, Forwarding::Nat)]);
    establish(&mut world, false, Forwarding::Nat, 40000);
    let ending = world.end(real(false, 11), How::Reset);
    let asked: usize = (0..29).map(|_| world.enders().len()).sum();
    assert_eq!((asked, ending.left()), (12, 1), "each side each fifth second");
    assert_eq!(world.event(Event::EndProbe), 12);
    world.enders();
    world.enders();
    assert!(world.conns().is_empty() && ending.is_done());
    assert_eq!(world.event(Event::ConnDropped), 1);
}

#[test]
fn what_is_opened_after_the_order_and_what_another_real_has_is_untouched() {
    let mut world = World::new(&[two(false, Protocol::Tcp, Forwarding::Nat)]);
    establish(&mut world, false, Forwarding::Nat, 40000);
    establish(&mut world, false, Forwarding::Nat, 40001);
    world.end(real(false, 11), How::Reset);
    world.seconds(1);
    establish(&mut world, false, Forwarding::Nat, 40002);
    assert_eq!(world.real_of(40002), Some(real(false, 11)), "its weight is as it was");
    world.enders();
    for port in [40001, 40002] {
        let data = tcp(false, PSH | ACK).by_port(port).data(b"untouched");
        assert_eq!(Seen::of(&world.request(&data)).payload, b"untouched");
    }
    assert_eq!(world.event(Event::ConnReset), 0);
}

#[test]
fn a_dropped_connection_is_forgotten_and_nobody_is_told() {
    let mut world = World::new(&[two(false, Protocol::Tcp, Forwarding::Fullnat)]);
    let got = establish(&mut world, false, Forwarding::Fullnat, 40000);
    let ending = world.end(real(false, 11), How::Drop);
    let late = world.receive(INSIDE, &Frame::answer(&got, PSH | ACK));
    assert_eq!(late.dropped(), Reason::ConnEnded);
    let data = tcp(false, PSH | ACK);
    assert_eq!(world.receive(OUTSIDE, &data).dropped(), Reason::NoConnection);
    assert!(world.enders().is_empty() && ending.is_done());
    // The idle one goes without a packet, and its client may begin anew at once.
    world.seconds(1);
    establish(&mut world, false, Forwarding::Fullnat, 40001);
    establish(&mut world, false, Forwarding::Fullnat, 40002);
    world.end(real(false, 11), How::Drop);
    world.enders();
    assert_eq!(world.conns().len(), 1);
    assert_eq!(world.event(Event::ConnDropped), 2);
}

#[test]
fn a_client_that_opens_anew_meanwhile_is_served() {
    for how in [How::Reset, How::Drop, How::Move] {
        let mut world = World::new(&[two(false, Protocol::Tcp, Forwarding::Nat)]);
        establish(&mut world, false, Forwarding::Nat, 40000);
        world.end(real(false, 11), how);
        let got = Seen::of(&world.request(&tcp(false, SYN)));
        assert_eq!(got.destination, real(false, 12), "in turn");
        assert_eq!(world.state(), State::SynReceived);
    }
}

#[test]
fn connections_of_a_dead_real_stay_or_are_reset_as_the_service_says() {
    for (dead, sent) in [(Dead::Keep, 1), (Dead::Reset, 2), (Dead::Move, 2)] {
        let service = two(false, Protocol::Tcp, Forwarding::Nat);
        let mut world = World::new(std::slice::from_ref(&service));
        establish(&mut world, false, Forwarding::Nat, 40000);
        world.reload(&[down(service.clone(), 0, dead)]);
        let fate = world.receive(OUTSIDE, &tcp(false, PSH | ACK).data(b"x"));
        assert_eq!(fate.sent.len(), sent, "{dead:?}");
        // Nobody new, whatever its weight; and all of it when it is back.
        for port in 50000..50004 {
            world.request(&tcp(false, SYN).by_port(port));
            assert_eq!(world.real_of(port), Some(real(false, 12)));
        }
        world.reload(&[service]);
        world.seconds(20);
        let ports = 51000..51004;
        ports.clone().for_each(|port| drop(world.request(&tcp(false, SYN).by_port(port))));
        assert!(ports.clone().any(|port| world.real_of(port) == Some(real(false, 11))));
    }
}

#[test]
fn a_syn_that_a_dead_real_left_unanswered_goes_to_another_when_it_is_repeated() {
    for (dead, method) in
        [Dead::Keep, Dead::Reset, Dead::Move].into_iter().flat_map(|d| METHODS.map(|m| (d, m)))
    {
        let service = two(false, Protocol::Tcp, method);
        let mut world = World::new(std::slice::from_ref(&service));
        world.request(&tcp(false, SYN));
        assert_eq!(world.real_of(40000), Some(real(false, 11)));
        world.reload(&[down(service.clone(), 0, dead)]);
        world.seconds(1);
        world.request(&tcp(false, SYN));
        assert_eq!(world.real_of(40000), Some(real(false, 12)), "{dead:?} {method:?}");
        assert_eq!((world.conns().len(), world.event(Event::ConnMoved)), (1, 1));
        // A removed one may be alive: only after a second.
        world.reload(&[without(service, 1)]);
        world.request(&tcp(false, SYN));
        assert_eq!(world.real_of(40000), Some(real(false, 12)), "{method:?}");
        world.seconds(1);
        world.request(&tcp(false, SYN));
        assert_eq!(world.real_of(40000), Some(real(false, 11)), "{method:?}");
    }
}

#[test]
fn a_syn_that_was_answered_stays_with_its_real() {
    let service = two(false, Protocol::Tcp, Forwarding::Nat);
    let mut world = World::new(std::slice::from_ref(&service));
    let got = world.request(&tcp(false, SYN));
    world.reply(&Frame { payload: vec![], ..Frame::answer(&got, SYN | ACK) });
    world.reload(&[down(service, 0, Dead::Keep)]);
    world.request(&tcp(false, SYN));
    assert_eq!(world.real_of(40000), Some(real(false, 11)));
}

/// A question of the client and whether it was answered; the real that got it.
fn ask(world: &mut World, v6: bool, method: Forwarding) -> IpAddr {
    let got = world.request(&udp(v6));
    if !one_way(method) {
        world.reply(&Frame::answer(&got, 0));
    }
    world.real_of(40000).unwrap()
}

#[test]
fn the_datagram_that_finds_its_server_removed_or_dead_goes_to_another_itself() {
    for (v6, method) in [false, true].into_iter().flat_map(|v6| METHODS.map(|m| (v6, m))) {
        let service = two(v6, Protocol::Udp, method);
        let dead = [Dead::Move, Dead::Reset].map(|how| down(service.clone(), 0, how));
        for (n, next) in
            [without(service.clone(), 0), dead[0].clone(), dead[1].clone()].into_iter().enumerate()
        {
            let mut world = World::new(std::slice::from_ref(&service));
            for _ in 0..3 {
                assert_eq!(ask(&mut world, v6, method), real(v6, 11));
            }
            world.reload(&[next]);
            // `ask` fails if a datagram is lost.
            for _ in 0..3 {
                assert_eq!(ask(&mut world, v6, method), real(v6, 12), "{method:?} {n}");
            }
            assert_eq!((world.event(Event::ConnMoved), world.all_drops()), (1, 0));
        }
    }
}

#[test]
fn a_datagram_stays_with_a_dead_server_if_no_other_takes_it_or_if_it_should() {
    let service = two(false, Protocol::Udp, Forwarding::Nat);
    let both = down(down(service.clone(), 0, Dead::Move), 1, Dead::Move);
    for next in [both, down(service.clone(), 0, Dead::Keep)] {
        let mut world = World::new(std::slice::from_ref(&service));
        ask(&mut world, false, Forwarding::Nat);
        world.reload(&[next]);
        assert_eq!(ask(&mut world, false, Forwarding::Nat), real(false, 11));
        assert_eq!((world.event(Event::ConnMoved), world.all_drops()), (0, 0));
    }
}

#[test]
fn datagrams_told_to_go_go_with_their_next_or_are_forgotten_when_answers_are_over() {
    let mut world = World::new(&[two(false, Protocol::Udp, Forwarding::Fullnat)]);
    let got = world.request(&udp(false));
    world.request(&udp(false).by_port(40001));
    world.request(&udp(false).by_port(40002));
    let ending = world.end(real(false, 11), How::Move);
    assert_eq!(ending.left(), 2, "the first and the third");
    world.reply(&Frame::answer(&got, 0));
    assert_eq!(Seen::of(&world.request(&udp(false))).destination, real(false, 12));
    world.enders();
    assert_eq!(ending.left(), 1, "an answer may be on its way");
    (0..3).for_each(|_| drop(world.enders()));
    assert!(ending.is_done());
    assert_eq!((world.conns().len(), world.event(Event::ConnMoved)), (2, 2));
}

#[test]
fn a_step_is_bounded_and_the_rest_follows() {
    let service = two(false, Protocol::Tcp, Forwarding::Direct);
    let mut world = World::sized(&crate::harness::snapshot(&[service]), 4096, 4096);
    for port in 1000..3000 {
        establish(&mut world, false, Forwarding::Direct, port);
    }
    let ending = world.end(real(false, 11), How::Reset);
    world.seconds(1);
    let (mut steps, mut asked) = (0, 0);
    for worker in 0..2 {
        let mut more = true;
        while more {
            let (sent, rest) = world.ender_step(worker);
            assert!(sent.len() <= 64, "{} at once", sent.len());
            (steps, asked, more) = (steps + 1, asked + sent.len(), rest);
        }
    }
    assert_eq!((asked, ending.left()), (1000, 1000));
    assert!(steps > 10, "{steps} steps");
}

#[test]
fn silence_and_refusals_are_held_against_a_real() {
    for method in METHODS {
        let mut world = World::new(&[two(false, Protocol::Tcp, method)]);
        let first = real(false, 11);
        let got = world.request(&tcp(false, SYN));
        assert_eq!(world.evidence(first), (0, 0));
        world.seconds(1);
        world.request(&tcp(false, SYN));
        world.seconds(2);
        world.request(&tcp(false, SYN));
        assert_eq!(world.evidence(first), (2, 0), "{method:?}: two repeated");
        if one_way(method) {
            world.seconds(62);
            world.sweep();
            assert_eq!(world.evidence(first), (2, 0), "{method:?}: it may have answered");
            continue;
        }
        world.reply(&Frame { payload: vec![], ..Frame::answer(&got, SYN | ACK) });
        world.request(&tcp(false, SYN));
        world.seconds(62);
        world.sweep();
        assert_eq!(world.evidence(first), (2, 0), "{method:?}: answered");
        for port in [50001, 50002, 50003, 50004] {
            let got = world.request(&tcp(false, SYN).by_port(port));
            let refused = Frame { payload: vec![], ..Frame::answer(&got, RST | ACK) };
            if world.real_of(port) == Some(first) && port < 50003 {
                world.reply(&refused);
            }
        }
        assert_eq!(world.evidence(first), (2, 1), "{method:?}: one refused");
        world.seconds(62);
        world.sweep();
        assert_eq!(world.evidence(first), (3, 1), "{method:?}: one never answered");
        // An established connection that is reset is no refusal.
        world.request(&tcp(false, SYN).by_port(6));
        let got = establish(&mut world, false, method, 7);
        world.reply(&Frame { payload: vec![], ..Frame::answer(&got, RST) });
        assert_eq!(world.evidence(first).1, 1);
    }
}
