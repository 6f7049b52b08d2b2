//! States and timeouts of connections, as packets make them.

use dataplane::conn::State;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Protocol, Scheduler, Timeouts};

use crate::harness::{INSIDE, OUTSIDE, With, World, ip, real, service, vip, web};
use crate::packet::{ACK, FIN, Frame, PSH, RST, SYN, Seen, tcp, udp};

/// A service by `nat` on two reals in turn.
fn two_reals() -> World {
    let service = web(false, Protocol::Tcp, Forwarding::Nat).scheduler(Scheduler::Rr);
    World::new(&[service.real(real(false, 11), None, 1).real(real(false, 12), None, 1)])
}

/// Packets: from the client (`true`) or its real, and their flags.
type Steps<'a> = &'a [(bool, u8)];

/// Plays packets, from the client (`true`) or its real; all must be forwarded.
fn play(world: &mut World, steps: Steps<'_>) {
    for (from_client, flags) in steps {
        if *from_client {
            world.request(&tcp(false, *flags));
        } else {
            let to = world.real_of(40000).unwrap();
            let request = tcp(false, 0).to(to, 80);
            world.reply(&Frame::answer(&request.bytes(), *flags));
        }
    }
}

const OPEN: [(bool, u8); 3] = [(true, SYN), (false, SYN | ACK), (true, ACK)];

fn established() -> World {
    let mut world = two_reals();
    play(&mut world, &OPEN);
    assert_eq!(world.state(), State::Established);
    world
}

// B6
#[test]
fn closes_resets_and_odd_orders_lead_where_lvs_leads_them() {
    let (c, r) = (true, false);
    let cases: &[(Steps<'_>, State, u32)] = &[
        (&[(c, FIN | ACK)], State::CloseWait, 60),
        (&[(r, FIN | ACK)], State::FinWait, 120),
        (&[(c, FIN | ACK), (c, FIN | ACK)], State::CloseWait, 60),
        (&[(c, FIN | ACK), (r, ACK), (r, PSH | ACK)], State::CloseWait, 60),
        (&[(c, FIN | ACK), (r, FIN | ACK), (c, ACK)], State::TimeWait, 120),
        (&[(r, FIN | ACK), (c, FIN | ACK), (r, ACK)], State::TimeWait, 120),
        (&[(r, FIN | ACK), (c, ACK)], State::FinWait, 120),
        (&[(c, RST)], State::Close, 10),
        (&[(r, RST | ACK)], State::Close, 10),
        (&[(c, RST | ACK), (r, PSH | ACK)], State::Close, 10),
        (&[(c, SYN)], State::Established, 900),
        (&[(r, SYN | ACK)], State::Established, 900),
    ];
    for (steps, state, timeout) in cases {
        let mut world = established();
        play(&mut world, steps);
        assert_eq!(world.state(), *state, "{steps:?}");
        world.seconds(u64::from(*timeout));
        world.sweep();
        assert_eq!(world.conns().len(), 1, "{state:?} after {timeout} s");
        world.seconds(1);
        world.sweep();
        assert_eq!(world.conns().len(), 0, "{state:?} after {timeout} s and one");
        assert_eq!(world.event(Event::ConnExpired), 1);
        assert_eq!((world.load(real(false, 11)), world.load(real(false, 12))), ((0, 0), (0, 0)));
    }
}

// B6: null, xmas, SYN with FIN or RST.
#[test]
fn flags_that_no_stack_sends_are_refused_and_change_nothing() {
    let mut world = established();
    for flags in [0, PSH, SYN | FIN, SYN | RST, FIN | PSH | SYN | RST | ACK] {
        let fate = world.receive(OUTSIDE, &tcp(false, flags));
        if flags == PSH {
            fate.one(INSIDE);
        } else {
            assert_eq!(fate.dropped(), Reason::BadTcpFlags);
        }
        assert_eq!(world.state(), State::Established);
    }
    assert_eq!(world.drops(Reason::BadTcpFlags), 4);
}

#[test]
fn a_forged_ack_behind_a_forged_syn_stays_half_open() {
    let mut world = two_reals();
    for flags in [SYN, ACK, PSH | ACK, FIN | ACK, RST] {
        world.request(&tcp(false, flags));
        assert_eq!(world.state(), State::SynReceived);
    }
}

#[test]
fn a_connection_is_over_with_its_timeout_also_where_nobody_swept() {
    let mut world = established();
    world.seconds(901);
    let late = tcp(false, ACK | PSH);
    assert_eq!(world.receive(OUTSIDE, &late).dropped(), Reason::NoConnection);
    assert_eq!((world.conns().len(), world.event(Event::ConnExpired)), (0, 1));

    let mut world = established();
    let to = world.real_of(40000).unwrap();
    world.seconds(901);
    let answer = Frame::answer(&tcp(false, 0).to(to, 80).bytes(), ACK);
    assert_eq!(world.receive(INSIDE, &answer).dropped(), Reason::NoReplyConnection);
    assert_eq!(world.conns().len(), 0);
    // A packet of either side starts the time anew.
    let mut world = established();
    for from_client in [true, false, true] {
        world.seconds(600);
        play(&mut world, &[(from_client, ACK)]);
        world.sweep();
    }
    assert_eq!(world.state(), State::Established);
}

// B4
#[test]
fn a_syn_on_a_closing_connection_opens_a_new_one_with_the_same_packet() {
    let closings: [Steps<'_>; 5] = [
        &[(true, FIN | ACK)],
        &[(false, FIN | ACK)],
        &[(true, FIN | ACK), (false, FIN | ACK)],
        &[(true, RST)],
        &[(false, RST)],
    ];
    for closing in closings {
        for method in [Forwarding::Nat, Forwarding::Fullnat] {
            let service = web(false, Protocol::Tcp, method).scheduler(Scheduler::Rr);
            let reals = service.real(real(false, 11), None, 1).real(real(false, 12), None, 1);
            let mut world = World::new(&[reals]);
            let first = world.request(&tcp(false, SYN));
            world.reply(&Frame::answer(&first, SYN | ACK));
            world.request(&tcp(false, ACK));
            for (from_client, flags) in closing {
                if *from_client {
                    world.request(&tcp(false, *flags));
                } else {
                    world.reply(&Frame::answer(&first, *flags));
                }
            }
            assert!(world.state().is_closing());
            let second = world.request(&tcp(false, SYN));
            assert_eq!(world.state(), State::SynReceived);
            let (first, second) = (Seen::of(&first), Seen::of(&second));
            assert_ne!(first.destination, second.destination, "the scheduler was asked again");
            assert_eq!(world.event(Event::ConnReused), 1);
            assert_eq!(
                (world.load(first.destination), world.load(second.destination)),
                ((0, 0), (0, 1))
            );
            assert_eq!(world.all_drops(), 0, "the SYN was not dropped");
        }
    }
}

// B5
#[test]
fn a_syn_on_an_established_connection_goes_to_its_real_and_changes_nothing() {
    let mut world = established();
    let before = world.conn();
    let to = world.real_of(40000).unwrap();
    assert_eq!(Seen::of(&world.request(&tcp(false, SYN))).destination, to);
    assert_eq!(world.conn(), before);
    assert_eq!(world.event(Event::ConnReused), 0);
}

// B8
#[test]
fn udp_ends_after_the_timeouts_of_its_service() {
    let mut service = web(false, Protocol::Udp, Forwarding::Nat).real(real(false, 11), None, 1);
    service.timeouts = Some(Timeouts { udp_new: 2, udp: 20, ..Timeouts::default() });
    let mut world = World::new(&[service]);
    let got = world.request(&udp(false));
    world.seconds(3);
    world.sweep();
    assert_eq!(world.conns().len(), 0, "one packet, no answer");
    world.request(&udp(false));
    world.reply(&Frame::answer(&got, 0));
    world.seconds(19);
    world.sweep();
    assert_eq!(world.state(), State::Udp);
    world.seconds(2);
    // Over, and the packet opens the next one.
    world.request(&udp(false));
    assert_eq!((world.state(), world.event(Event::ConnOpened)), (State::UdpNew, 3));
}

#[test]
fn a_tcp_packet_that_opens_nothing_and_belongs_to_nothing_is_no_connection() {
    let mut world = two_reals();
    for flags in [ACK, SYN | ACK, FIN | ACK, RST, PSH | ACK] {
        assert_eq!(world.receive(OUTSIDE, &tcp(false, flags)).dropped(), Reason::NoConnection);
    }
    let stray = Frame::answer(&tcp(false, 0).to(real(false, 11), 80).bytes(), ACK);
    assert_eq!(world.receive(INSIDE, &stray).dropped(), Reason::NoReplyConnection);
    assert_eq!(world.conns().len(), 0);
}

/// Two VIPs that share their reals; whether replies can be told apart depends on the client's port.
fn two_vips(reals: u8, method: Forwarding) -> World {
    let of = |name, listen: &str| {
        let mut service = service(name, Protocol::Tcp, &[listen], method);
        for n in 0..reals {
            service = service.real(real(false, 11 + n), Some(8080), 1);
        }
        service
    };
    World::new(&[of("one", "192.0.2.1:80"), of("two", "192.0.2.2:80")])
}

#[test]
fn a_client_port_on_two_vips_of_one_real_is_a_conflict_and_goes_elsewhere_if_it_can() {
    let second = || tcp(false, SYN).to(ip("192.0.2.2"), 80);
    let mut world = two_vips(1, Forwarding::Nat);
    world.request(&tcp(false, SYN));
    assert_eq!(world.receive(OUTSIDE, &second()).dropped(), Reason::ReplyConflict);
    assert_eq!((world.conns().len(), world.drops(Reason::ReplyConflict)), (1, 1));

    let mut world = two_vips(2, Forwarding::Nat);
    let first = Seen::of(&world.request(&tcp(false, SYN)));
    let other = world.request(&second());
    assert_ne!(Seen::of(&other).destination, first.destination);
    let reply = Seen::of(&world.reply(&Frame::answer(&other, SYN | ACK)));
    assert_eq!(reply.source, ip("192.0.2.2"));

    // Full NAT tells them apart by its local port.
    let mut world = two_vips(1, Forwarding::Fullnat);
    let got = [world.request(&tcp(false, SYN)), world.request(&second())];
    for (request, from) in got.iter().zip([vip(false), ip("192.0.2.2")]) {
        assert_eq!(Seen::of(&world.reply(&Frame::answer(request, SYN | ACK))).source, from);
    }
}

#[test]
fn a_closing_connection_in_the_way_of_the_replies_of_a_new_one_makes_way() {
    let mut world = two_vips(1, Forwarding::Nat);
    let got = world.request(&tcp(false, SYN));
    world.reply(&Frame::answer(&got, RST | ACK));
    assert_eq!(world.state(), State::Close);
    world.request(&tcp(false, SYN).to(ip("192.0.2.2"), 80));
    assert_eq!((world.state(), world.event(Event::ConnReused)), (State::SynReceived, 1));
}

#[test]
fn a_reply_is_never_taken_for_that_of_a_connection_whose_real_answers_past_us() {
    let direct = web(false, Protocol::Tcp, Forwarding::Direct).real(real(false, 11), None, 1);
    let nat = service("nat", Protocol::Tcp, &["192.0.2.2:80"], Forwarding::Nat);
    let mut world = World::new(&[direct, nat.real(real(false, 11), None, 1)]);
    world.request(&tcp(false, SYN));
    let stray = Frame::answer(&tcp(false, 0).to(real(false, 11), 80).bytes(), SYN | ACK);
    assert_eq!(world.receive(INSIDE, &stray).dropped(), Reason::NoReplyConnection);
    let got = world.request(&tcp(false, SYN).to(ip("192.0.2.2"), 80));
    let reply = world.reply(&Frame::answer(&got, SYN | ACK));
    assert_eq!(Seen::of(&reply).source, ip("192.0.2.2"));
}
