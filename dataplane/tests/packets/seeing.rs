//! What people are shown: what would become of a packet, and copies of packets.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::address::DeviceId;
use dataplane::forward::explain::{Question, explain};
use dataplane::frame::Verdict;
use dataplane::published::HopState;
use dataplane::rewrite::nat::Endpoint;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::{CaptureFilter, PathAnswer, Why};
use dataplane_api::service::{Forwarding, Protocol, Scheduler, Service, Weight};

use crate::harness::{
    INSIDE, INSIDE_MAC, OUTSIDE, With, World, client, mac_of, own, real, vip, web,
};
use crate::packet::{ACK, Frame, RST, SYN, Seen, tcp, udp};

const SCHEDULERS: [Scheduler; 14] = [
    Scheduler::Rr,
    Scheduler::Wrr,
    Scheduler::Lc,
    Scheduler::Wlc,
    Scheduler::Sh,
    Scheduler::Dh,
    Scheduler::Mh,
    Scheduler::Sed,
    Scheduler::Nq,
    Scheduler::Lblc,
    Scheduler::Lblcr,
    Scheduler::Fo,
    Scheduler::Ovf,
    Scheduler::Twos,
];

fn three(scheduler: Scheduler) -> Service {
    let service = web(false, Protocol::Tcp, Forwarding::Nat).scheduler(scheduler);
    (11..14).fold(service, |s, n| s.real(real(false, n), Some(8080), u16::from(n)))
}

fn ask(world: &World, from: IpAddr, port: Option<u16>, vip_port: u16) -> Why {
    let question = Question {
        client: from.into(),
        client_port: port,
        vip: vip(false).into(),
        vip_port,
        protocol: Protocol::Tcp,
    };
    explain(Why::default(), &question, &world.published, &world.shared, world.now)
}

/// Everything that is counted.
fn counts(world: &World) -> Vec<u64> {
    let events = Event::ALL.iter().map(|e| world.event(*e));
    let drops = Reason::ALL.iter().map(|r| world.drops(*r));
    events.chain(drops).collect()
}

#[test]
fn why_names_the_real_that_the_next_packet_finds_and_moves_nothing() {
    for (scheduler, persistent) in SCHEDULERS.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let mut service = three(scheduler);
        if persistent {
            service = service.persistent(300, 32, 128);
        }
        let mut world = World::new(&[service]);
        for port in 1..40 {
            let from = IpAddr::from([198, 51, 100, (port % 5) as u8]);
            let before = (counts(&world), world.conns());
            let first = ask(&world, from, Some(port), 80);
            // `twos` draws from its position, so it too says the same twice.
            for _ in 0..3 {
                assert_eq!(ask(&world, from, Some(port), 80), first, "{scheduler:?}");
            }
            assert_eq!((counts(&world), world.conns()), before, "{scheduler:?}");
            world.request(&tcp(false, SYN).from(from).by_port(port));
            let id = world.real_id(world.real_of(port).unwrap());
            let name = world.published.services.real(id).unwrap().name.clone();
            assert_eq!(first.real, Some(name), "{scheduler:?} {persistent} {port}");
            assert_eq!(first.failed, None);
            world.advance(Duration::from_millis(700));
        }
    }
}

#[test]
fn why_ends_at_the_first_stage_that_fails() {
    let service = three(Scheduler::Rr);
    let mut world = World::new(std::slice::from_ref(&service));
    let failed = |world: &World, from: IpAddr, port: u16| ask(world, from, None, port).failed;
    assert_eq!(failed(&world, client(false), 81).as_deref(), Some("service"));
    assert_eq!(failed(&world, vip(false), 80).as_deref(), Some("source"));
    world.hop(real(false, 11), |hop| hop.state = HopState::Unresolved);
    let why = ask(&world, client(false), None, 80);
    assert_eq!(why.failed.as_deref(), Some("next-hop"));
    assert!(why.steps.last().unwrap().verdict.contains("next_hop_unresolved"));
    let syn = tcp(false, SYN);
    assert_eq!(world.receive(OUTSIDE, &syn).dropped(), Reason::NextHopUnresolved, "so it is");
    let mut none = service;
    none.reals[0].down = true;
    none.reals[1].weight = Weight::DRAINED;
    none.reals[2].upper_threshold = Some(1);
    world.reload(&[none]);
    world.request(&syn);
    let why = ask(&world, client(false), None, 80);
    assert_eq!(why.failed.as_deref(), Some("scheduler"));
    let verdict = &why.steps.last().unwrap().verdict;
    for state in ["real-0: down", "real-1: weight 0", "real-2: over its upper threshold"] {
        assert!(verdict.contains(state), "{verdict}");
    }
}

#[test]
fn why_follows_a_connection_that_there_is() {
    let mut world = World::new(&[three(Scheduler::Rr)]);
    let got = world.request(&tcp(false, SYN));
    world.reply(&Frame { payload: vec![], ..Frame::answer(&got, SYN | ACK) });
    world.request(&tcp(false, ACK));
    world.advance(Duration::from_millis(5500));
    let why = ask(&world, client(false), Some(40000), 80);
    assert_eq!((why.real.as_deref(), why.failed), (Some("real-0"), None));
    let stage = why.steps.iter().find(|s| s.stage == "connection").unwrap();
    assert!(stage.verdict.starts_with("ESTABLISHED with real-0, idle for 5 s"), "{stage:?}");
    assert_eq!(ask(&world, client(false), Some(40001), 80).real.as_deref(), Some("real-1"));
}

/// Before, verdict, after.
type Taken = Vec<(Vec<u8>, Verdict, Vec<u8>)>;

fn start(world: &World, filter: CaptureFilter, packets: u32) {
    let times = (world.now, world.now.after(Duration::from_secs(60)));
    world.shared.capture.start(filter, packets, 2048, times).unwrap();
}

fn taken(world: &World, limit: usize) -> Taken {
    let mut taken = Vec::new();
    let session = world.shared.capture.session().unwrap();
    session.fetch(limit, |record| {
        let copies = (record.before.kept().to_vec(), record.after.kept().to_vec());
        taken.push((copies.0, record.verdict, copies.1));
    });
    taken
}

fn of_client() -> CaptureFilter {
    CaptureFilter { client: Some(client(false)), ..CaptureFilter::default() }
}

#[test]
fn a_capture_has_both_sides_of_requests_and_replies_of_every_method() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel] {
        let service = web(false, Protocol::Tcp, method).real(real(false, 11), None, 1);
        let mut world = World::new(&[service]);
        start(&world, of_client(), 100);
        let syn = tcp(false, SYN);
        let got = world.request(&syn);
        let other = tcp(false, SYN).from(IpAddr::from([203, 0, 113, 1]));
        world.request(&other);
        let mut expected = vec![(syn.bytes(), Verdict::Transmit(INSIDE), got.clone())];
        if !method.is_one_way() {
            let answer = Frame { payload: vec![], ..Frame::answer(&got, SYN | ACK) };
            let back = world.reply(&answer);
            expected.push((answer.bytes(), Verdict::Transmit(OUTSIDE), back));
        }
        let lost = tcp(false, ACK).by_port(9);
        world.receive(OUTSIDE, &lost);
        expected.push((lost.bytes(), Verdict::Drop(Reason::NoConnection), vec![]));
        assert_eq!(taken(&world, 100), expected, "{method:?}");
        assert!(taken(&world, 100).is_empty(), "each once");
    }
}

#[test]
fn each_field_of_a_filter_counts_and_all_of_them_together() {
    let service = web(false, Protocol::Tcp, Forwarding::Nat).real(real(false, 11), Some(8080), 1);
    let any = CaptureFilter::default;
    let cases = [
        (any(), 1),
        (CaptureFilter { client_port: Some(40000), ..of_client() }, 1),
        (CaptureFilter { client_port: Some(40001), ..of_client() }, 0),
        (CaptureFilter { client: Some(real(false, 12)), ..any() }, 0),
        (CaptureFilter { vip: Some(vip(false)), vip_port: Some(80), ..any() }, 1),
        (CaptureFilter { vip: Some(vip(false)), vip_port: Some(8080), ..any() }, 0),
        (CaptureFilter { real: Some(real(false, 11)), ..of_client() }, 1),
        (CaptureFilter { real: Some(real(false, 12)), ..of_client() }, 0),
        (CaptureFilter { protocol: Some(Protocol::Tcp), ..any() }, 1),
        (CaptureFilter { protocol: Some(Protocol::Udp), ..any() }, 0),
    ];
    for (filter, count) in cases {
        let mut world = World::new(std::slice::from_ref(&service));
        start(&world, filter.clone(), 10);
        world.request(&tcp(false, SYN));
        assert_eq!(taken(&world, 10).len(), count, "{filter:?}");
    }
}

#[test]
fn a_capture_is_bounded_in_frames_rate_time_and_memory_and_loses_no_packet() {
    let service = web(false, Protocol::Udp, Forwarding::Direct).real(real(false, 11), None, 1);
    let flood = |world: &mut World, count: usize| {
        (0..count).for_each(|_| drop(world.request(&udp(false))));
    };
    let mut world = World::new(std::slice::from_ref(&service));
    start(&world, of_client(), 20);
    flood(&mut world, 50);
    assert_eq!(taken(&world, 100).len(), 20);
    assert!(!world.shared.capture.is_active(), "it has ended by itself");
    // Nobody fetches: 1,024 buffers, and the rest is counted.
    let mut world = World::new(std::slice::from_ref(&service));
    start(&world, of_client(), 100_000);
    flood(&mut world, 1100);
    let session = world.shared.capture.session().unwrap();
    assert_eq!(session.missed(), (76, 0));
    assert_eq!(taken(&world, 2000).len(), 1024);
    flood(&mut world, 10);
    assert_eq!(taken(&world, 2000).len(), 10, "fetched ones are used again");
    // Ten thousand a second.
    let mut world = World::new(&[service]);
    start(&world, of_client(), 100_000);
    let mut count = 0;
    for _ in 0..11 {
        flood(&mut world, 1000);
        count += taken(&world, 2000).len();
    }
    let session = world.shared.capture.session().unwrap();
    assert_eq!((count, session.missed()), (10_000, (0, 1000)));
    world.seconds(1);
    flood(&mut world, 1);
    assert_eq!(taken(&world, 10).len(), 1);
    world.seconds(60);
    flood(&mut world, 1);
    assert!(taken(&world, 10).is_empty() && !world.shared.capture.is_active());
    assert_eq!(world.all_drops(), 0);
}

#[test]
fn there_is_one_capture_at_a_time_and_an_ended_one_makes_way() {
    let mut world = World::new(&[three(Scheduler::Rr)]);
    start(&world, of_client(), 10);
    let again = |world: &World| {
        let times = (world.now, world.now.after(Duration::from_secs(1)));
        world.shared.capture.start(of_client(), 10, 64, times)
    };
    assert!(again(&world).unwrap_err().contains("running already"));
    world.shared.capture.stop();
    world.request(&tcp(false, SYN));
    assert!(world.shared.capture.session().is_none());
    again(&world).unwrap();
    let long = tcp(false, SYN).by_port(7).data(&[7; 500]);
    world.request(&long);
    let kept = taken(&world, 10);
    assert_eq!((kept[0].0.len(), kept[0].2.len()), (64, 64), "as much as was asked for");
    world.seconds(2);
    again(&world).unwrap();
}

#[test]
fn a_path_probe_goes_the_way_of_its_real_and_its_answer_is_reset_the_same_way() {
    for (v6, method) in [Forwarding::Direct, Forwarding::Tunnel]
        .into_iter()
        .flat_map(|m| [false, true].map(|v6| (v6, m)))
    {
        let service = web(v6, Protocol::Tcp, method).real(real(v6, 11), None, 1);
        let mut world = World::new(std::slice::from_ref(&service.real(real(v6, 12), None, 1)));
        let host = own(v6, INSIDE);
        let id = world.real_id(real(v6, 12));
        let to = Endpoint { address: vip(v6).into(), port: 80 };
        let probe = world.shared.probes.start(id, host.into(), to, world.now).unwrap();
        let sent = world.send_probes();
        let inside = |(to, bytes): &(DeviceId, Vec<u8>)| {
            assert_eq!(*to, INSIDE);
            let seen = Seen::of(bytes);
            assert_eq!(seen.macs, (INSIDE_MAC, mac_of(real(v6, 12))));
            if method == Forwarding::Tunnel { Seen::of(&seen.inner()) } else { seen }
        };
        let syn = inside(&sent[0]);
        assert_eq!((syn.source, syn.destination, syn.flags), (host, vip(v6), Some(SYN)));
        assert_eq!((syn.ports.1, sent.len()), (80, 1));
        assert_eq!(world.shared.probes.answer(probe), None);
        world.advance(Duration::from_millis(3));
        // From the VIP, whoever it is, but not to this port, or from another one: no answer to it.
        let answer =
            Frame { source: vip(v6), destination: host, ..Frame::answer_to(&syn, SYN | ACK) };
        let answer = Frame { payload: vec![], ..answer }.numbered(700, syn.numbers.0 + 1);
        for odd in [
            answer.clone().to(host, syn.ports.0 + 1),
            answer.clone().by_port(81),
            answer.clone().from(client(v6)),
            Frame { flags: Some(ACK), ..answer.clone() },
        ] {
            assert_eq!(world.receive(INSIDE, &odd).dropped(), Reason::NoReplyConnection);
        }
        let mut fate = world.receive(INSIDE, &answer);
        assert_eq!(fate.verdict, Verdict::Held);
        let reset = inside(&fate.sent.pop().unwrap());
        assert_eq!((reset.flags, reset.numbers.0), (Some(RST), syn.numbers.0 + 1));
        assert_eq!((reset.ports, reset.destination), (syn.ports, vip(v6)));
        assert_eq!(world.shared.probes.answer(probe), Some((PathAnswer::Answered, 3000)));
        world.shared.probes.finish(probe);
        assert_eq!(world.receive(INSIDE, &answer).dropped(), Reason::NoReplyConnection);
        assert!(world.conns().is_empty() && world.shared.probes.is_idle());
    }
}

#[test]
fn a_path_probe_is_refused_or_not_sent() {
    let service = web(false, Protocol::Tcp, Forwarding::Direct).real(real(false, 11), None, 1);
    let mut world = World::new(std::slice::from_ref(&service));
    let id = world.real_id(real(false, 11));
    let to = Endpoint { address: vip(false).into(), port: 80 };
    let start = |world: &World| {
        let source = own(false, INSIDE).into();
        world.shared.probes.start(id, source, to, world.now)
    };
    let probe = start(&world).unwrap();
    let syn = Seen::of(&world.send_probes()[0].1);
    let refused = Frame { payload: vec![], ..Frame::answer_to(&syn, RST | ACK) };
    let fate = world.receive(INSIDE, &refused);
    assert_eq!((fate.verdict, fate.sent.len()), (Verdict::Held, 0), "an RST is not answered");
    let answer = world.shared.probes.answer(probe).unwrap();
    assert_eq!(answer.0, PathAnswer::Refused);
    world.shared.probes.finish(probe);
    world.hop(real(false, 11), |hop| hop.state = HopState::Unresolved);
    let probe = start(&world).unwrap();
    assert!(world.send_probes().is_empty());
    assert_eq!(world.shared.probes.answer(probe).unwrap().0, PathAnswer::NotSent);
    let more = (0..100).filter_map(|_| start(&world)).count();
    assert_eq!(more, 63, "a bounded number at one time");
}

#[test]
fn what_xvip_makes_itself_is_captured_too() {
    let mut world = World::new(&[three(Scheduler::Rr)]);
    let got = world.request(&tcp(false, SYN));
    world.reply(&Frame { payload: vec![], ..Frame::answer(&got, SYN | ACK) });
    world.request(&tcp(false, ACK));
    world.end(real(false, 11), dataplane_api::message::How::Reset);
    start(&world, of_client(), 10);
    let mut fate = world.receive(OUTSIDE, &tcp(false, ACK).numbered(5, 6));
    let taken = taken(&world, 10);
    assert_eq!(taken.len(), 2, "the answer, and what went on");
    assert_eq!((taken[0].0.len(), &taken[0].2), (0, &fate.sent.remove(0).1));
    assert_eq!(taken[1].2, fate.sent.remove(0).1);
    assert_eq!(Seen::of(&taken[0].2).numbers, (6, 0));
}
