//! Who serves when others cannot: drained reals with clients tied to them, fallbacks.

use std::net::IpAddr;

use dataplane::conn::State;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::How;
use dataplane_api::service::{
    Dead, Forwarding, Protocol, Real, Scheduler, Service, Templates, Weight,
};

use crate::harness::{OUTSIDE, With, World, real, web};
use crate::packet::{ACK, Frame, SYN, Seen, tcp};

fn three() -> Service {
    let service = web(false, Protocol::Tcp, Forwarding::Nat).scheduler(Scheduler::Rr);
    (11..14).fold(service, |s, n| s.real(real(false, n), None, 1))
}

/// Its last `count` reals as fallbacks.
fn fallback(mut service: Service, count: usize) -> Service {
    service.fallback = service.reals.split_off(service.reals.len() - count);
    service
}

fn with(mut service: Service, n: usize, change: impl FnOnce(&mut Real)) -> Service {
    change(&mut service.reals[n]);
    service
}

fn open(world: &mut World, port: u16) -> IpAddr {
    Seen::of(&world.request(&tcp(false, SYN).by_port(port))).destination
}

fn drained(real: &mut Real) {
    real.weight = Weight::DRAINED;
}

#[test]
fn a_fallback_serves_only_while_no_other_does() {
    let service = fallback(three(), 1);
    let (first, second, last) = (real(false, 11), real(false, 12), real(false, 13));
    let mut world = World::new(std::slice::from_ref(&service));
    let picks: Vec<_> = (0..4).map(|n| open(&mut world, 100 + n)).collect();
    assert_eq!(picks, [first, second, first, second]);
    let one = with(service.clone(), 0, |r| r.down = true);
    world.reload(std::slice::from_ref(&one));
    assert_eq!(open(&mut world, 200), second);
    world.reload(&[with(one, 1, drained)]);
    assert_eq!([open(&mut world, 201), open(&mut world, 202)], [last, last]);
    assert_eq!(world.event(Event::FallbackUsed), 2);
    // A real that is full is no help either.
    let full = |r: &mut Real| r.upper_threshold = Some(1);
    world.reload(&[with(with(service.clone(), 0, full), 1, full)]);
    assert_eq!(open(&mut world, 203), last);
    world.reload(&[service]);
    assert_ne!(open(&mut world, 300), last);
    let data = tcp(false, ACK).by_port(201);
    assert_eq!(Seen::of(&world.request(&data)).destination, last, "it keeps what it has");
}

#[test]
fn several_fallbacks_share_and_a_dead_one_does_not_serve() {
    let mut service = fallback(three(), 2);
    service.reals[0].down = true;
    let mut world = World::new(std::slice::from_ref(&service));
    assert_ne!(open(&mut world, 1), open(&mut world, 2));
    service.fallback[0].down = true;
    world.reload(std::slice::from_ref(&service));
    assert_eq!([open(&mut world, 3), open(&mut world, 4)], [real(false, 13); 2]);
    service.fallback[1].down = true;
    world.reload(&[service]);
    let syn = tcp(false, SYN).by_port(5);
    assert_eq!(world.receive(OUTSIDE, &syn).dropped(), Reason::NoReal);
}

#[test]
fn nobody_is_tied_to_a_fallback_and_the_tie_to_a_dead_real_waits_for_it() {
    let service = fallback(three().persistent(300, 32, 128), 1);
    let mut world = World::new(std::slice::from_ref(&service));
    let home = open(&mut world, 1);
    let dead = |s| with(with(s, 0, |r: &mut Real| r.down = true), 1, |r: &mut Real| r.down = true);
    world.reload(&[dead(service.clone())]);
    assert_eq!(open(&mut world, 2), real(false, 13));
    assert_eq!(world.shared.conns.templates(), 1);
    world.reload(&[service]);
    for port in 3..6 {
        assert_eq!(open(&mut world, port), home);
    }
}

#[test]
fn clients_tied_to_a_drained_real_move_at_once_or_come_back_as_it_says() {
    let service = three().persistent(300, 32, 128);
    for templates in [Templates::Move, Templates::Honour] {
        let mut world = World::new(std::slice::from_ref(&service));
        assert_eq!(open(&mut world, 1), real(false, 11));
        let next = with(service.clone(), 0, |r| {
            drained(r);
            r.templates = templates;
        });
        world.reload(&[next]);
        let second = open(&mut world, 2);
        assert_eq!(second == real(false, 11), templates == Templates::Honour);
        assert_eq!(open(&mut world, 3), second, "tied to whoever has it now");
        // A stranger never gets there.
        for n in 1..7 {
            let stranger = tcp(false, SYN).from(IpAddr::from([203, 0, 113, n]));
            assert_ne!(Seen::of(&world.request(&stranger)).destination, real(false, 11));
        }
    }
}

#[test]
fn a_dead_real_is_not_honoured() {
    let service = three().persistent(300, 32, 128);
    let mut world = World::new(std::slice::from_ref(&service));
    open(&mut world, 1);
    let next = with(service, 0, |r| {
        drained(r);
        r.templates = Templates::Honour;
        r.down = true;
    });
    world.reload(&[Service { dead: Dead::Keep, ..next }]);
    assert_ne!(open(&mut world, 2), real(false, 11));
}

#[test]
fn ties_end_with_the_connections_that_are_told_to_go() {
    let service = three().persistent(300, 32, 128);
    let honour = |r: &mut Real| {
        drained(r);
        r.templates = Templates::Honour;
    };
    for how in [How::Reset, How::Drop, How::Move] {
        let mut world = World::new(std::slice::from_ref(&service));
        let got = world.request(&tcp(false, SYN).by_port(1));
        world.reply(&Frame { payload: vec![], ..Frame::answer(&got, SYN | ACK) });
        world.request(&tcp(false, ACK).by_port(1));
        world.reload(&[with(service.clone(), 0, honour)]);
        world.seconds(2);
        assert_eq!(open(&mut world, 2), real(false, 11));
        let ending = world.end(real(false, 11), how);
        assert_eq!(ending.left(), 3, "two connections and a tie");
        // At once, and for good: a late packet of an old connection does not bring it back.
        world.seconds(2);
        assert_ne!(open(&mut world, 3), real(false, 11), "{how:?}");
        world.enders();
        world.receive(OUTSIDE, &tcp(false, ACK).by_port(1));
        world.seconds(2);
        world.receive(OUTSIDE, &tcp(false, ACK).by_port(1));
        let ties = world.conns().into_iter().filter(|c| c.state == State::Template);
        let old = world.real_id(real(false, 11));
        assert_eq!(ties.filter(|c| c.identity.real == old).count(), 0, "{how:?}");
        assert_ne!(open(&mut world, 4), real(false, 11), "{how:?}");
    }
}
