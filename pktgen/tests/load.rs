//! The generator on real sockets, with something between its two sides that misbehaves as told:
//! whatever it does has to be found, and counted exactly.
//!
//! Needs root; skipped loudly otherwise, failed under `REQUIRE_NETNS=1`.

#![allow(clippy::unwrap_used)]

#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;
#[path = "load/relay.rs"]
mod relay;

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lab::{NetNs, ifindex};
use pktgen::engine::{Live, Phase, Plan, Watch};
use pktgen::flow::Addresses;
use pktgen::load::Load;
use pktgen::neighbors::Stations;
use pktgen::options;
use pktgen::packet_socket::Neighbors;
use pktgen::report::{Direction, Limit};
use pktgen::size::Size;
use pktgen::spec::{Engine, Spec};
use relay::{Deeds, Manners, Relay};

/// Something between `cli0` and `srv0`: the VIP is the one real server itself.
struct Bench {
    net: NetNs,
    vip: IpAddr,
    neighbors: Option<Neighbors>,
    heir: Option<Option<Neighbors>>,
    _alone: MutexGuard<'static, ()>,
}

/// Two runs at once would take each other's time.
static ALONE: Mutex<()> = Mutex::new(());

impl Bench {
    fn new(vip: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let net = NetNs::new();
        net.enter();
        net.veth("cli0", "front");
        net.veth("back", "srv0");
        let vip: IpAddr = vip.parse().unwrap();
        let addresses = Addresses::new(vip, 1).unwrap();
        let stations = Stations { addresses, mac: [2, 0, 0, 0, 0, 7], distinct: false };
        let front = ("front".to_owned(), ifindex("front"), stations);
        let neighbors = Some(Neighbors::start(&[front]).unwrap());
        Self { net, vip, neighbors, heir: None, _alone: alone }
    }
}

fn spec(vip: IpAddr, protocol: &str) -> Spec {
    let (clients, reals, port) = if vip.is_ipv6() {
        ("2001:db8:18::1+50", "2001:db8:19::1+1", format!("[{vip}]:80"))
    } else {
        ("198.18.0.1+50", "198.19.0.1+1", format!("{vip}:80"))
    };
    let flags = [
        ("client", "cli0"),
        ("server", "srv0"),
        ("vip", port.as_str()),
        ("protocol", protocol),
        ("clients", clients),
        ("reals", reals),
        ("real_port", "80"),
        ("connections", "500"),
        ("rate", "2kpps"),
        ("seconds", "1"),
        ("cores", "0"),
    ];
    let mut spec = options::build("load", &flags, None).unwrap().spec;
    spec.reals = Addresses::new(vip, 1).unwrap();
    spec.patience = Duration::from_secs(2);
    spec
}

fn plan(spec: &Spec, size: Size, seconds: f64) -> Plan {
    Plan {
        request_pps: spec.request_pps(),
        replies: spec.replies,
        size,
        duration: Duration::from_secs_f64(seconds),
        patience: spec.patience,
        seed: 1,
    }
}

static GO_ON: AtomicBool = AtomicBool::new(false);

/// A whole run; also how many openings were sent again.
fn run(spec: &Spec, size: Size) -> (Phase, u64) {
    let mut tick = |_: &Live| {};
    let mut watch = Watch { interrupted: &GO_ON, tick: &mut tick };
    let mut load = Load::start(spec).unwrap();
    assert_eq!(load.open(&mut watch).unwrap(), Vec::<String>::new());
    assert_eq!(load.connections().opened, 500);
    let phase = load.data(plan(spec, size, 1.0), &mut watch).unwrap();
    assert_eq!(phase.faults, Vec::<String>::new());
    if spec.protocol == pktgen::spec::Protocol::Tcp {
        assert_eq!(load.close(&mut watch).unwrap(), 500);
    }
    let repeated = load.connections().repeated;
    (phase, repeated)
}

/// A run of which no part had to wait so long for its core that it came after the end.
fn in_peace(run: impl Fn() -> (Phase, u64, [Deeds; 2])) -> (Phase, u64, [Deeds; 2]) {
    for _ in 0..10 {
        let found = run();
        let ways = [&found.0.requests, &found.0.replies];
        let longest = ways.into_iter().filter_map(|way| way.latency).map(|l| l.max).max();
        if longest.is_some_and(|longest| longest < 500_000_000) {
            return found;
        }
        eprintln!("too busy a machine, {longest:?} ns; once more");
    }
    panic!("in ten runs a packet took half a second through two threads");
}

fn found(way: &Direction, deeds: Deeds) {
    assert_eq!(way.corrupted, deeds.damaged, "{way:?}");
    assert_eq!(way.duplicated, deeds.repeated, "{way:?}");
    assert_eq!(way.lost, deeds.lost + deeds.damaged, "{way:?}");
    assert_eq!(way.sent, way.received + way.lost, "{way:?}");
    assert_eq!(way.strayed, 0, "{way:?}");
}

#[test]
fn what_a_bad_balancer_does_to_packets_is_counted_exactly() {
    if !lab::is_root() {
        return;
    }
    let manners = Manners {
        lose: 23,
        repeat: 19,
        damage: 29,
        delay: 17,
        lose_opening: 50,
        ..Default::default()
    };
    for (vip, protocol, size) in [
        ("198.18.255.1", "tcp", Size::Fixed(64)),
        ("2001:db8:18::ffff:1", "udp", Size::Imix),
        ("198.18.255.1", "udp", Size::Fixed(65)),
        ("2001:db8:18::ffff:1", "tcp", Size::Fixed(1518)),
    ] {
        let (phase, repeated, [there, back]) = in_peace(|| {
            let bench = Bench::new(vip);
            let relay = Relay::start("front", "back", manners);
            let (phase, repeated) = run(&spec(bench.vip, protocol), size);
            let deeds = relay.end();
            (phase, repeated, deeds)
        });
        assert!(
            there.lost > 5 && there.damaged > 5 && back.repeated > 5,
            "{there:?} {back:?} {phase:?}"
        );
        found(&phase.requests, there);
        found(&phase.replies, back);
        // Late ones are out of order if the flow had another packet meanwhile, which with 500 flows
        // is rare: one flow is another test's.
        assert!(phase.requests.reordered <= there.delayed, "{phase:?}");
        assert_eq!(phase.replies.sent, phase.requests.received, "a reply to each");
        if protocol == "tcp" {
            assert!(there.lost_openings > 5 && repeated > 0, "{there:?}, {repeated} sent again");
        }
        assert!(phase.alive > 50, "{phase:?}");
        let latency = phase.requests.latency.unwrap();
        assert_eq!(latency.samples, phase.requests.received);
        assert!(latency.min < latency.max && latency.max < 2_000_000_000, "{latency:?}");
    }
}

#[test]
fn two_processes_find_what_one_finds() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new("198.18.255.1");
    let relay =
        Relay::start("front", "back", Manners { lose: 23, damage: 29, ..Default::default() });
    let here = Spec { server: None, ..spec(bench.vip, "tcp") };
    let there = Spec { client: None, ..here.clone() };
    let there = Spec { server: Some("srv0".into()), ..there };
    let mut reflector = Load::start(&there).unwrap();
    let over = AtomicBool::new(false);
    let (phase, reflected) = std::thread::scope(|scope| {
        let reflector = scope.spawn(|| {
            let mut watch = Watch { interrupted: &over, tick: &mut |_: &Live| {} };
            let forever = Plan { duration: Duration::ZERO, ..plan(&there, Size::Fixed(64), 0.0) };
            let phase = reflector.data(forever, &mut watch).unwrap();
            assert_eq!(reflector.connections().closed, 500);
            phase
        });
        let (phase, _) = run(&here, Size::Fixed(64));
        over.store(true, Relaxed);
        (phase, reflector.join().unwrap())
    });
    let [out, back] = relay.end();
    assert_eq!(phase.replies.corrupted, back.damaged);
    assert_eq!(reflected.requests.corrupted, out.damaged);
    let lost = phase.requests.lost + phase.replies.lost;
    assert_eq!(lost, out.lost + out.damaged + back.lost + back.damaged, "there and back");
    // What is lost at the end of a flow cannot be told from what was lost on the other way.
    assert!(phase.requests.lost >= out.lost + out.damaged, "{phase:?}");
    assert!(phase.requests.lost < lost, "{phase:?}");
    assert_eq!(reflected.requests.received, reflected.replies.sent, "a reply to each");
    assert!(reflected.requests.sent <= phase.requests.sent, "{reflected:?}");
    assert!(reflected.requests.lost > 0 && reflected.requests.latency.is_none(), "{reflected:?}");
}

#[test]
fn a_rate_beyond_any_machine_is_the_generators_limit_and_nobodys_loss() {
    if !lab::is_root() {
        return;
    }
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (engine, takes) in [("af_xdp", "off"), ("xdp", "on"), ("xdp", "off")] {
        let net = NetNs::new();
        net.enter();
        // A cable: whatever is sent arrives, so that nobody else can be the limit.
        net.veth("cli0", "srv0");
        // Only with it, or a program, a veth takes XDP frames.
        let done = Command::new("ethtool").args(["-K", "srv0", "gro", takes]).status().unwrap();
        assert!(done.success());
        let flags = [
            ("client", "cli0"),
            ("server", "srv0"),
            ("vip", "198.18.255.1:80"),
            ("reals", "198.18.255.1+1"),
            ("clients", "198.18.0.1+50"),
            ("connections", "200"),
            ("rate", "30mpps"),
            ("replies", "0"),
            ("size", "64"),
            ("seconds", "0.5"),
            ("engine", engine),
        ];
        let run = options::build("load", &flags, None).unwrap();
        let report = pktgen::run::run(&run, &GO_ON).unwrap();
        let trial = &report.trials[0];
        let told = format!("{engine}: {:?} {trial:?}", report.failures);
        assert!(trial.requests.due.abs_diff(15_000_000) <= 1, "{told}");
        assert!(trial.requests.sent > 10_000 && trial.requests.sent < 14_000_000, "{told}");
        assert_eq!((trial.limit, trial.unexplained), (Limit::Generator, 0), "{told}");
        assert!(!report.passed && report.failures[0].contains("it, not the balancer"), "{told}");
        if engine == "xdp" && takes == "off" {
            // Not even its own cable takes the frames: that is nobody else's loss either.
            let refused = trial.ledger.iter().find(|l| l.place == "generator cli0: tx refused");
            assert_eq!(refused.unwrap().packets, trial.requests.sent, "{told}");
            assert!(report.failures[1].contains("generator's sending side"), "{told}");
        } else {
            assert_eq!((trial.requests.lost, report.failures.len()), (0, 1), "{told}");
        }
    }
    drop(alone);
}

/// What happens to the VIP 0.4 s into the traffic, when its owner falls silent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Heir {
    /// Another takes it 0.1 s later, and says so.
    Announced,
    /// Another takes it 0.1 s later, and tells only who asks.
    Asked,
    /// Nobody does.
    Nobody,
}

/// The VIP moves from MAC address `02:00:00:00:00:07` to `…:08` under traffic of a second and a half.
fn move_the_vip(vip: &str, engine: Engine, heir: Heir) -> (Phase, Deeds) {
    let mut bench = Bench::new(vip);
    let relay = Relay::start("front", "back", Manners { native: true, ..Default::default() });
    relay.owner.store(7, Relaxed);
    let spec = Spec { engine, ..spec(bench.vip, "tcp") };
    // Stations beyond the first thousand are not announced.
    let silent = vip.replace("255.1", "251.1").replace("ffff:1", "fffe:fc01");
    let (first, count) = match heir {
        Heir::Asked => (silent.parse().unwrap(), 1025),
        _ => (bench.vip, 1),
    };
    let addresses = Addresses::new(first, count).unwrap();
    let stations = Stations { addresses, mac: [2, 0, 0, 0, 0, 8], distinct: false };
    let heirs = [("front".to_owned(), ifindex("front"), stations)];
    let mut tick = |live: &Live| {
        if live.phase != "traffic" {
            return;
        }
        if live.elapsed >= Duration::from_millis(400) && bench.neighbors.is_some() {
            relay.owner.store(8, Relaxed);
            bench.neighbors = None;
        }
        if live.elapsed >= Duration::from_millis(500) && bench.heir.is_none() {
            let heir = (heir != Heir::Nobody).then(|| Neighbors::start(&heirs).unwrap());
            bench.heir = Some(heir);
        }
    };
    let mut watch = Watch { interrupted: &GO_ON, tick: &mut tick };
    let mut load = Load::start(&spec).unwrap();
    load.open(&mut watch).unwrap();
    let seconds = if heir == Heir::Asked { 6.5 } else { 1.5 };
    let phase = load.data(plan(&spec, Size::Fixed(128), seconds), &mut watch).unwrap();
    drop(load);
    let [there, _] = relay.end();
    (phase, there)
}

#[test]
fn traffic_follows_a_vip_that_moves_and_the_silence_is_measured() {
    if !lab::is_root() {
        return;
    }
    for (vip, engine, heir) in [
        ("198.18.255.1", Engine::AfXdp, Heir::Announced),
        ("2001:db8:18::ffff:1", Engine::AfXdp, Heir::Announced),
        ("198.18.255.1", Engine::Xdp, Heir::Announced),
        ("198.18.255.1", Engine::AfXdp, Heir::Asked),
    ] {
        let (phase, there) = move_the_vip(vip, engine, heir);
        let told = format!("{vip} {engine:?} {heir:?}: {phase:?} {there:?}");
        let (count, moves) = &phase.moves;
        assert_eq!((*count, moves.len()), (1, 1), "{told}");
        assert_eq!((moves[0].from[5], moves[0].to[5]), (7, 8), "{told}");
        assert!(there.misdirected > 20, "{told}");
        assert_eq!(phase.requests.lost, there.misdirected, "what died is lost, no more: {told}");
        let silence = phase.silence.unwrap();
        let ms = silence.nanos / 1_000_000;
        // Asked for each second: it itself three times, then everybody. Both hear the first here.
        let most = if heir == Heir::Asked { 2500 } else { 700 };
        assert!((80..most).contains(&ms), "{ms} ms: {told}");
        let (since, moved) = (silence.since, moves[0].at.nanos());
        assert!(since < moved && moved < since + silence.nanos + 50_000_000, "{told}");
        assert!(phase.faults.is_empty() && phase.requests.received > 500, "{told}");
    }
}

#[test]
fn a_vip_that_nobody_takes_is_silent_to_the_end() {
    if !lab::is_root() {
        return;
    }
    for engine in [Engine::AfXdp, Engine::Xdp] {
        let (phase, there) = move_the_vip("198.18.255.1", engine, Heir::Nobody);
        assert_eq!(phase.moves, (0, vec![]), "{phase:?}");
        assert_eq!(phase.requests.lost, there.misdirected, "{phase:?} {there:?}");
        let silence = phase.silence.unwrap();
        let begun = (silence.since - phase.start) / 1_000_000;
        let ended = begun + silence.nanos / 1_000_000;
        assert!((300..900).contains(&begun), "{begun} ms: {phase:?}");
        assert!((1400..1600).contains(&ended), "{ended} ms: {phase:?}");
    }
}

#[test]
fn on_a_single_connection_every_late_packet_is_out_of_order() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new("198.18.255.1");
    let relay = Relay::start("front", "back", Manners { delay: 50, ..Default::default() });
    let mut spec = spec(bench.vip, "udp");
    spec.connections = 1;
    spec.clients.flows = 1;
    let mut tick = |_: &Live| {};
    let mut watch = Watch { interrupted: &GO_ON, tick: &mut tick };
    let mut load = Load::start(&spec).unwrap();
    load.open(&mut watch).unwrap();
    let phase = load.data(plan(&spec, Size::Fixed(64), 0.5), &mut watch).unwrap();
    let [there, back] = relay.end();
    assert!(there.delayed > 2);
    // The last one of each way may have had none behind it.
    assert!(there.delayed - phase.requests.reordered <= 1, "{phase:?} {there:?}");
    assert!(back.delayed - phase.replies.reordered <= 1, "{phase:?} {back:?}");
}

#[test]
fn a_vip_that_nobody_has_that_resets_or_is_silent_is_told_apart() {
    if !lab::is_root() {
        return;
    }
    let mut tick = |_: &Live| {};
    let mut watch = Watch { interrupted: &GO_ON, tick: &mut tick };
    let bench = Bench::new("198.18.255.1");
    let mut good = spec(bench.vip, "tcp");
    good.patience = Duration::from_millis(600);

    let error = Load::start(&Spec { client: Some("gone0".into()), ..good.clone() }).err().unwrap();
    assert!(format!("{error:#}").contains("no interface gone0"), "{error:#}");
    let absent = Spec { vip: "198.18.255.9:80".parse().unwrap(), ..good.clone() };
    let error = Load::start(&absent).err().unwrap();
    assert!(format!("{error:#}").contains("198.18.255.9 does not answer on cli0"), "{error:#}");

    let relay = Relay::start("front", "back", Manners { reset: true, ..Default::default() });
    let error = Load::start(&good).unwrap().open(&mut watch).unwrap_err();
    assert!(error.to_string().contains("resets"), "{error:#}");
    relay.end();

    let relay = Relay::start("front", "back", Manners { mute: true, ..Default::default() });
    let error = Load::start(&good).unwrap().open(&mut watch).unwrap_err();
    assert!(error.to_string().contains("came out at the real servers"), "{error:#}");
    relay.end();
}

#[test]
fn an_interface_that_vanishes_ends_the_run_with_what_was_seen_until_then() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new("198.18.255.1");
    let relay = Relay::start("front", "back", Manners::default());
    let spec = spec(bench.vip, "tcp");
    let mut tick = |live: &Live| {
        if live.phase == "traffic" && live.replies[1] > 200 {
            bench.net.try_ip("link del srv0");
        }
    };
    let mut watch = Watch { interrupted: &GO_ON, tick: &mut tick };
    let mut load = Load::start(&spec).unwrap();
    load.open(&mut watch).unwrap();
    let phase = load.data(plan(&spec, Size::Fixed(64), 30.0), &mut watch).unwrap();
    assert!(phase.faults[0].contains("srv0 is gone"), "{:?}", phase.faults);
    assert!(phase.seconds < 25.0, "{}", phase.seconds);
    assert!(phase.requests.received > 200 && phase.requests.lost > 0, "{phase:?}");
    relay.end();
}
