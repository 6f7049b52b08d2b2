//! Two nodes' failover machines, with real beats, under a network, clocks and operators that do what they
//! like: thousands of histories, each made of one number. `SEED=n` replays one and prints what happens in
//! it; `SEEDS=n` runs another count.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a history is printed for whoever asks for it")]
#![allow(unreachable_pub, reason = "its modules are of one test")]

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/cluster.rs"]
mod cluster;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/scenarios.rs"]
mod scenarios;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use control::failover::exchange::{Command, Evidence, Setup};
use control::failover::settings::{
    Auth, AuthMode, Failback, Fencing, Group, Link, Path, Replication, Settings,
};
use control::seal::{Keyring, Mode};

use cluster::{Cluster, FULL};
use network::{MS, Network, Random, Time};

/// Histories of a run, if `SEEDS` says nothing else.
const SEEDS: u64 = 2500;

/// What sort of history a seed makes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The network is perfect; nodes, processes and operators are not. Both answer for moments only.
    Strict,
    /// The network is cut, one-way and whole.
    Cuts,
    /// It loses, repeats and reorders, too.
    Lossy,
}

fn settings(node: usize, random: &mut Random, kind: Kind) -> Settings {
    let names = ["lb1", "lb2"];
    let keepalive = random.pick(&[20, 50, 100, 100]) * MS;
    let deadtime = keepalive * random.pick(&[4, 4, 6]);
    let nanos = Duration::from_nanos;
    let address = "10.9.0.1:6940".parse().unwrap();
    let paths = random.range(1, 4);
    let groups = random.range(1, 4);
    let prefers = [random.range(0, 3), random.range(0, 3), random.range(0, 3)];
    let fencing = (kind != Kind::Lossy && random.percent(10))
        .then(|| Fencing { command: vec!["off".to_owned()], timeout: nanos(1) });
    Settings {
        node: names[node].to_owned(),
        peer: names[1 - node].to_owned(),
        keepalive: nanos(keepalive),
        warntime: nanos(2 * keepalive),
        deadtime: nanos(deadtime),
        initdead: nanos(deadtime * random.range(2, 5)),
        failback: random.pick(&[Failback::Off, Failback::WhenSynced, Failback::Manual]),
        paths: (0..paths)
            .map(|n| Path {
                name: format!("path{n}"),
                link: Link::Unicast { local: address, remote: address, interface: None },
            })
            .collect(),
        auth: Auth { keys: vec![], mode: AuthMode::Enforce },
        groups: (0..groups)
            .map(|n| Group {
                name: format!("group{n}"),
                prefer: names.get(prefers[n as usize] as usize).map(|n| (*n).to_owned()),
                addresses: vec![],
                gateways: vec![],
            })
            .collect(),
        pings: vec![],
        fencing,
        replication: Some(Replication {
            local: address,
            remote: address,
            encrypt: false,
            digest: nanos(MS),
        }),
    }
}

fn cluster(seed: u64, kind: Kind) -> Cluster {
    let key = "42".repeat(32);
    let setups = [0, 1].map(|node| Setup {
        settings: settings(node, &mut Random(seed ^ 0x5e77), kind),
        keyring: Keyring::parse(Mode::Enforce, &[(1, &key)]).unwrap(),
        config_hash: 1,
    });
    let mut random = Random(seed ^ 0xbad);
    let keepalive = setups[0].settings.keepalive.as_nanos() as u64;
    let lossy = kind == Kind::Lossy;
    let paths = setups[0].settings.paths.len();
    let network = Network {
        paths,
        up: vec![[true; 2]; paths],
        loss: if lossy { random.range(1, 30) } else { 0 },
        repeat: if lossy { random.range(0, 30) } else { 0 },
        delay: (MS / 20, random.range(MS / 10, keepalive / if lossy { 1 } else { 4 })),
        random: Random(random.next()),
    };
    let sync_time = random.range(10, 400) * MS * if random.percent(30) { 5 } else { 1 };
    Cluster::new(setups, network, sync_time, random.next())
}

/// Something goes wrong, or somebody wants something.
fn disturb(cluster: &mut Cluster, random: &mut Random, kind: Kind, unit: Time) {
    let node = random.range(0, 2) as usize;
    let span = random.range(unit / 4, 6 * unit);
    let now = cluster.now;
    cluster.checks.disturbed(now);
    match random.range(0, 16) {
        0 => cluster.stop(node, span),
        1 => cluster.suspend(node, span, false),
        2 => {
            cluster.crash(node, random.percent(50));
            cluster.restart_later(node, span);
        }
        3 => {
            cluster.kill_plane(node);
            cluster.plane_later(node, span);
        }
        4 | 5 => {
            let some = |random: &mut Random| random.pick(&[0, 1, 2, 2]);
            let (interfaces, pings) = (some(random), some(random));
            cluster.see(node, Evidence { interfaces, pings, ..FULL });
        }
        6 | 7 => {
            let group = random.range(0, cluster.groups.len() as u64) as usize;
            let group = random.percent(70).then(|| cluster.groups[group].clone());
            let to = random.pick(&[None, Some("lb1"), Some("lb2")]).map(str::to_owned);
            cluster.command(node, Command::Switchover { group, to, force: random.percent(10) });
        }
        8 => cluster.command(node, Command::Maintenance(random.percent(50))),
        9 => {
            cluster.command(node, Command::Leave);
            cluster.restart_later(node, 4 * unit + span);
        }
        10 => cluster.attack(random.range(1, 60)),
        11 if kind != Kind::Strict => cluster.suspend(node, span, true),
        _ if kind == Kind::Strict => {}
        11 | 12 => {
            // All paths, both ways.
            cluster.note(|| "partition".to_owned());
            cluster.network.up.iter_mut().for_each(|path| *path = [false; 2]);
        }
        13 => {
            cluster.note(|| format!("nothing of node {node} arrives"));
            cluster.network.up.iter_mut().for_each(|path| path[node] = false);
        }
        14 => {
            let path = random.range(0, cluster.network.paths as u64) as usize;
            cluster.note(|| format!("path {path} is cut"));
            cluster.network.up[path] = [random.percent(30), random.percent(30)];
        }
        _ => {
            cluster.note(|| "heal".to_owned());
            cluster.network.heal();
        }
    }
}

/// All is well again.
fn mend(cluster: &mut Cluster, unit: Time) {
    cluster.note(|| "all is well from now on".to_owned());
    cluster.network.heal();
    cluster.network.loss = 0;
    // Whatever sleeps or is to start again does so.
    cluster.run(cluster.now + 12 * unit + 1500 * MS);
    for node in [0, 1] {
        cluster.start(node);
        cluster.plane_later(node, 0);
        cluster.see(node, FULL);
    }
    cluster.command(0, Command::Maintenance(false));
}

/// One history. The times that groups moved, and how long both answered.
fn history(seed: u64, cluster: &mut Cluster, kind: Kind) -> (u64, Time) {
    let mut random = Random(seed ^ 0xfa17);
    let settings = cluster.setups[0].settings.clone();
    let nanos = |d: Duration| d.as_nanos() as u64;
    let (unit, initdead) = (nanos(settings.deadtime), nanos(settings.initdead));
    if kind == Kind::Strict {
        cluster.checks.strict = Some(3 * cluster.network.delay.1 + 5 * MS);
    }
    cluster.restart_later(0, random.range(0, unit));
    cluster.restart_later(1, random.range(0, 3 * unit));
    cluster.run(random.range(0, initdead + 3 * unit));
    for _ in 0..random.range(1, 12) {
        disturb(cluster, &mut random, kind, unit);
        let pause = if random.percent(30) { 12 * unit } else { 2 * unit };
        cluster.run(cluster.now + random.range(0, pause));
    }
    mend(cluster, unit);
    let fencing = 11_000 * MS * u64::from(cluster.fencing_failed);
    let rest = 3 * initdead + 12 * unit + 2 * cluster.sync_time + 1500 * MS + fencing;
    cluster.run(cluster.now + rest);
    cluster.checks.settled(cluster.now);
    // Equal evidence moves nothing; verification may announce, and nobody notices.
    cluster.checks.still_from = Some(cluster.now);
    let (sent, from) = (cluster.nodes[0].sends, cluster.now);
    cluster.run(cluster.now + 15 * unit);
    cluster.checks.settled(cluster.now);
    let beats = (cluster.now - from) / nanos(settings.keepalive) * settings.paths.len() as u64;
    let sent = cluster.nodes[0].sends - sent;
    assert!(sent <= 2 * beats + 100, "I6: {sent} beats where {beats} are regular");
    for node in [0, 1] {
        let view = cluster.view(node).unwrap();
        assert!(view.groups.iter().all(|g| g.owner.is_some()), "{view:?}");
        assert!(serde_json::to_string(&view).unwrap().len() < 20_000);
    }
    (cluster.checks.changes(), cluster.checks.dual)
}

fn kind(seed: u64) -> Kind {
    [Kind::Strict, Kind::Cuts, Kind::Lossy][(seed % 3) as usize]
}

/// Plays it; on failure once more, with all that happens.
fn play(seed: u64, trace: bool) -> Result<(u64, Time), String> {
    let kind = kind(seed);
    let mut cluster = cluster(seed, kind);
    cluster.trace = trace.then(Vec::new);
    let outcome = catch_unwind(AssertUnwindSafe(|| history(seed, &mut cluster, kind)));
    if trace {
        let lines = cluster.trace.take().unwrap_or_default();
        println!("{}", lines.join("\n"));
        for node in [0, 1] {
            println!("node {node}: {}", serde_json::to_string_pretty(&cluster.view(node)).unwrap());
        }
    }
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        format!("SEED={seed} ({kind:?}): {}", text.unwrap_or_default())
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_one_node_answers_in_the_end_and_never_two_for_long() {
    if let Some(seed) = number("SEED") {
        play(seed, true).unwrap();
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (next, moved, dual) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || failed.len() >= 5 {
                    return failed;
                }
                match play(seed, false) {
                    Ok((moves, both)) => {
                        moved.fetch_add(moves, Ordering::Relaxed);
                        dual.fetch_add(both, Ordering::Relaxed);
                    }
                    Err(why) => failed.push(why),
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{}\nreplay with SEED=n", failed.join("\n"));
    // A simulation in which nothing happens proves nothing.
    let moved = moved.load(Ordering::Relaxed);
    assert!(moved > seeds, "only {moved} moves in {seeds} histories");
    println!("{seeds} histories, {moved} moves");
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..6 {
        let [first, second] = [0, 1].map(|_| {
            let mut cluster = cluster(seed, kind(seed));
            cluster.trace = Some(Vec::new());
            let _ = catch_unwind(AssertUnwindSafe(|| history(seed, &mut cluster, kind(seed))));
            cluster.trace.unwrap()
        });
        assert!(first.len() > 10 && first == second, "seed {seed}");
    }
}
