//! Histories with a name: what a user would see, and how soon.

use std::sync::Arc;
use std::time::Duration;

use control::failover::exchange::{Command, Evidence, Setup};
use control::failover::settings::Failback;
use control::failover::view::View;

use crate::cluster::{Cluster, FULL};
use crate::network::{MS, Network, Random};

/// Two nodes as the defaults have them, a perfect network, one group; `change` may alter the settings.
fn pair(change: impl Fn(&mut Setup)) -> Cluster {
    let mut random = Random(1);
    let key = "42".repeat(32);
    let setups = [0, 1].map(|node| {
        let mut settings = crate::settings(node, &mut Random(9), crate::Kind::Strict);
        settings.keepalive = Duration::from_millis(50);
        settings.warntime = Duration::from_millis(100);
        settings.deadtime = Duration::from_millis(200);
        settings.initdead = Duration::from_millis(600);
        settings.failback = Failback::Off;
        settings.fencing = None;
        settings.groups.truncate(1);
        settings.groups[0].prefer = Some("lb1".to_owned());
        settings.paths.truncate(1);
        let keyring = control::seal::Keyring::parse(control::seal::Mode::Enforce, &[(1, &key)]);
        let mut setup = Setup { settings, keyring: keyring.unwrap(), config_hash: 1 };
        change(&mut setup);
        setup
    });
    let network = Network {
        paths: 1,
        up: vec![[true; 2]],
        loss: 0,
        repeat: 0,
        delay: (MS / 20, MS / 2),
        random: Random(random.next()),
    };
    Cluster::new(setups, network, 100 * MS, 5)
}

/// Both have started and lb1 owns the group.
fn settled(change: impl Fn(&mut Setup)) -> Cluster {
    let mut cluster = pair(change);
    cluster.start(0);
    cluster.start(1);
    cluster.run(3000 * MS);
    assert_eq!(cluster.checks.owner(0), [true, false]);
    cluster
}

fn view(cluster: &Cluster, node: usize) -> View {
    cluster.view(node).unwrap()
}

/// Milliseconds until this is the owner, at most two seconds.
fn until(cluster: &mut Cluster, owner: [bool; 2]) -> u64 {
    let from = cluster.now;
    while cluster.checks.owner(0) != owner {
        cluster.run(cluster.now + MS);
        let ms = (cluster.now - from) / MS;
        assert!(ms < 2000, "{:?} {:?}", view(cluster, 0), view(cluster, 1));
    }
    (cluster.now - from) / MS
}

fn switch(to: Option<&str>) -> Command {
    Command::Switchover { group: None, to: to.map(str::to_owned), force: false }
}

#[test]
fn the_other_node_answers_soon_after_a_power_off_and_keeps_it_when_the_first_comes_back() {
    let mut cluster = settled(|_| {});
    cluster.crash(0, true);
    let took = until(&mut cluster, [false, true]);
    assert!((150..=210).contains(&took), "{took}ms");
    cluster.start(0);
    cluster.run(cluster.now + 5000 * MS);
    assert_eq!(cluster.checks.owner(0), [false, true], "fail-back is off");
    let reason = &view(&cluster, 1).groups[0].reason;
    assert!(reason.contains("lb1 has been silent") && reason.contains("prefers lb1"), "{reason}");
}

#[test]
fn a_node_that_comes_back_gets_its_group_only_when_it_knows_every_connection() {
    let mut cluster = settled(|s| s.settings.failback = Failback::WhenSynced);
    cluster.crash(0, true);
    until(&mut cluster, [false, true]);
    cluster.sync_time = 1500 * MS;
    cluster.start(0);
    cluster.run(cluster.now + 1400 * MS);
    assert_eq!(cluster.checks.owner(0), [false, true]);
    assert!(view(&cluster, 0).learning.is_some());
    assert!(until(&mut cluster, [true, false]) < 900);
}

#[test]
fn a_node_that_still_learns_is_given_nothing_unless_by_force() {
    let mut cluster = settled(|_| {});
    cluster.crash(1, true);
    cluster.run(cluster.now + 1000 * MS);
    cluster.sync_time = 5000 * MS;
    cluster.start(1);
    cluster.run(cluster.now + 1500 * MS);
    cluster.command(0, switch(Some("lb2")));
    cluster.command(1, switch(Some("lb2")));
    cluster.see(0, Evidence { pings: 1, ..FULL });
    cluster.run(cluster.now + 2000 * MS);
    assert_eq!(cluster.checks.owner(0), [true, false]);
    let force = Command::Switchover { group: None, to: Some("lb2".to_owned()), force: true };
    cluster.command(0, force);
    until(&mut cluster, [false, true]);
}

#[test]
fn an_operator_moves_nothing_to_a_node_that_sees_less_unless_by_force() {
    let mut cluster = settled(|_| {});
    cluster.see(1, Evidence { pings: 1, ..FULL });
    cluster.run(cluster.now + 500 * MS);
    for node in [0, 1] {
        cluster.command(node, switch(Some("lb2")));
        cluster.run(cluster.now + 1000 * MS);
        assert_eq!(cluster.checks.owner(0), [true, false], "asked of node {node}");
    }
    let force = Command::Switchover { group: None, to: Some("lb2".to_owned()), force: true };
    cluster.command(0, force);
    until(&mut cluster, [false, true]);
    cluster.run(cluster.now + 10_000 * MS);
    assert_eq!(cluster.checks.owner(0), [false, true], "and there it stays");
}

#[test]
fn a_dead_data_plane_hands_over_sooner_than_silence_would() {
    let mut cluster = settled(|_| {});
    cluster.kill_plane(0);
    let took = until(&mut cluster, [false, true]);
    assert!(took <= 150, "{took}ms");
}

#[test]
fn a_switchover_leaves_no_moment_without_an_answer() {
    let mut cluster = settled(|_| {});
    for (node, to, owner) in
        [(0, Some("lb2"), [false, true]), (0, None, [true, false]), (1, Some("lb2"), [false, true])]
    {
        cluster.command(node, switch(to));
        let from = cluster.now;
        while cluster.checks.owner(0) != owner {
            cluster.run(cluster.now + MS / 50);
            assert_ne!(cluster.checks.owner(0), [false, false], "nobody answers");
            assert!(cluster.now - from < 20 * MS);
        }
        cluster.run(cluster.now + 500 * MS);
    }
}

#[test]
fn an_orderly_stop_hands_over_at_once() {
    let mut cluster = settled(|_| {});
    cluster.command(0, Command::Leave);
    let took = until(&mut cluster, [false, true]);
    assert!(took <= 10, "{took}ms");
    cluster.run(cluster.now + 1000 * MS);
    assert!(cluster.nodes[0].left);
    assert_eq!(view(&cluster, 1).peer.state, "left");
}

#[test]
fn in_maintenance_nothing_moves_but_by_order() {
    let mut cluster = settled(|_| {});
    cluster.command(1, Command::Maintenance(true));
    cluster.run(cluster.now + 100 * MS);
    assert!(view(&cluster, 0).maintenance);
    cluster.see(0, Evidence { pings: 0, ..FULL });
    cluster.run(cluster.now + 3000 * MS);
    assert_eq!(cluster.checks.owner(0), [true, false]);
    // A data plane is exchanged; its node takes the group up again.
    cluster.kill_plane(0);
    cluster.run(cluster.now + 1000 * MS);
    assert_eq!(cluster.checks.owner(0), [false, false]);
    cluster.plane_later(0, 0);
    assert!(until(&mut cluster, [true, false]) < 100);
    cluster.command(0, switch(Some("lb2")));
    until(&mut cluster, [false, true]);
    cluster.see(0, FULL);
    cluster.crash(1, true);
    cluster.run(cluster.now + 3000 * MS);
    assert_eq!(cluster.checks.owner(0), [false, false]);
    cluster.command(0, Command::Maintenance(false));
    until(&mut cluster, [true, false]);
}

#[test]
fn who_sees_more_gets_it_and_equal_evidence_moves_nothing() {
    let mut cluster = settled(|_| {});
    let less = Evidence { pings: 1, ..FULL };
    for (node, evidence) in [(1, less), (0, less), (1, Evidence { pings: 0, ..FULL })] {
        cluster.see(node, evidence);
        cluster.run(cluster.now + 2000 * MS);
        assert_eq!(cluster.checks.owner(0), [true, false]);
    }
    cluster.see(0, Evidence { pings: 0, ..FULL });
    cluster.run(cluster.now + 5000 * MS);
    assert_eq!(cluster.checks.owner(0), [true, false], "both are blind");
    // A moment is not enough; three beats are.
    cluster.see(1, FULL);
    cluster.run(cluster.now + 100 * MS);
    assert_eq!(cluster.checks.owner(0), [true, false]);
    let took = until(&mut cluster, [false, true]);
    assert!(took <= 120, "{took}ms");
}

#[test]
fn a_blind_node_takes_nothing_from_a_silent_one() {
    let mut cluster = settled(|_| {});
    cluster.see(1, Evidence { pings: 0, ..FULL });
    cluster.network.up[0] = [false; 2];
    cluster.run(cluster.now + 3000 * MS);
    assert_eq!(cluster.checks.owner(0), [true, false]);
    assert!(view(&cluster, 1).groups[0].reason.contains("sees nothing"));
}

#[test]
fn a_node_that_is_not_heard_lets_go_before_the_other_takes() {
    let mut cluster = settled(|_| {});
    cluster.checks.strict = Some(0);
    cluster.network.up[0] = [false, true];
    let took = until(&mut cluster, [false, true]);
    assert!(took <= 210, "{took}ms");
    cluster.run(cluster.now + 2000 * MS);
    assert_eq!(cluster.checks.owner(0), [false, true]);
}

#[test]
fn a_stopped_process_gives_everything_up_before_it_says_anything() {
    let mut cluster = settled(|_| {});
    cluster.checks.strict = Some(0);
    cluster.stop(0, 1000 * MS);
    let took = until(&mut cluster, [false, true]);
    assert!(took <= 210, "{took}ms");
    cluster.run(cluster.now + 2000 * MS);
    assert_eq!((cluster.checks.owner(0), view(&cluster, 0).fenced_itself), ([false, true], 1));
}

#[test]
fn after_a_split_one_gives_way_within_an_interval_and_the_other_announces_again() {
    let mut cluster = settled(|_| {});
    cluster.network.up[0] = [false; 2];
    cluster.run(cluster.now + 1000 * MS);
    assert_eq!(cluster.checks.owner(0), [true, true]);
    let epochs = [0, 1].map(|n: usize| cluster.nodes[n].leases[0].epoch);
    cluster.network.heal();
    let took = until(&mut cluster, [false, true]);
    assert!(took <= 55, "the later ownership stays; {took}ms");
    cluster.run(cluster.now + 100 * MS);
    assert!(cluster.nodes[1].leases[0].epoch > *epochs.iter().max().unwrap());
}

#[test]
fn a_silent_peer_is_fenced_before_anything_is_taken_from_it() {
    let fencing = control::failover::settings::Fencing {
        command: vec!["off".to_owned()],
        timeout: Duration::from_secs(1),
    };
    let mut cluster = settled(|s| s.settings.fencing = Some(fencing.clone()));
    cluster.checks.strict = Some(0);
    cluster.trace = Some(Vec::new());
    cluster.network.up[0] = [false; 2];
    // Each of them fences the other; whoever is first lives.
    cluster.run(cluster.now + 30_000 * MS);
    let trace = cluster.trace.clone().unwrap().join("\n");
    let taken = trace.find("taken").expect("somebody takes it");
    assert!(trace[..taken].contains("is powered off"), "{trace}");
}

#[test]
fn whatever_a_stranger_sends_is_counted_and_changes_nothing() {
    let mut cluster = settled(|_| {});
    let before = [0, 1].map(|n| view(&cluster, n));
    for _ in 0..20 {
        cluster.attack(200);
        cluster.run(cluster.now + 50 * MS);
    }
    // A hundred thousand in a second, as anybody can make them up.
    let mut random = Random(3);
    for _ in 0..1000 {
        let now = cluster.now;
        for _ in 0..100 {
            let mut bytes = vec![0; 300];
            bytes.iter_mut().for_each(|b| *b = random.next() as u8);
            bytes[..2].copy_from_slice(&[1, 1]);
            bytes[2..9].copy_from_slice(b"xvHB\x01\x01\x01");
            bytes[9] = 0;
            bytes[10..14].copy_from_slice(&dataplane_api::record::tag(b"lb1").to_be_bytes());
            bytes[14..18].copy_from_slice(&dataplane_api::record::tag(b"lb2").to_be_bytes());
            cluster
                .handle(1, control::failover::exchange::Input::Received { path: 0, bytes: &bytes });
        }
        cluster.run(now + MS);
    }
    let after = [0, 1].map(|n| view(&cluster, n));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.groups[0].role, after.groups[0].role);
        assert_eq!(before.peer.state, after.peer.state);
        assert_eq!(before.peer.restarts, after.peer.restarts);
        let refused = after.refused;
        for (name, count) in refused.list() {
            assert!(
                count > 0 || name == "limited" || name == "unknown_key",
                "no {name}: {refused:?}"
            );
        }
    }
    let refused = after[1].refused;
    assert!(refused.limited > 90_000 && refused.bad_mac < 2_000, "{refused:?}");
    assert_eq!(cluster.checks.owner(0), [true, false]);
}

#[test]
fn keys_are_exchanged_and_groups_added_without_a_moment_without_an_answer() {
    let mut cluster = settled(|_| {});
    let (old, new) = ("42".repeat(32), "43".repeat(32));
    let steps: [&[(u8, &str)]; 3] =
        [&[(1, &old), (2, &new)], &[(2, &new), (1, &old)], &[(2, &new)]];
    for keys in steps {
        for node in [0, 1] {
            let mut setup = cluster.setups[node].clone();
            let mode = control::seal::Mode::Enforce;
            setup.keyring = control::seal::Keyring::parse(mode, keys).unwrap();
            let mut another = setup.settings.groups[0].clone();
            another.name = "another".to_owned();
            setup.settings.groups.push(another);
            cluster.handle(node, control::failover::exchange::Input::Settings(Box::new(setup)));
            for _ in 0..300 {
                cluster.run(cluster.now + MS);
                assert_eq!(cluster.checks.owner(0), [true, false]);
            }
        }
    }
    assert_eq!(view(&cluster, 0).groups.len(), 2);
    assert_eq!(view(&cluster, 0).peer.state, "alive");
}

#[test]
fn differences_of_configuration_are_named() {
    let other: Arc<str> = "only here".into();
    let mut cluster = pair(|setup| {
        if setup.settings.node == "lb1" {
            setup.settings.keepalive = Duration::from_millis(40);
            setup.settings.groups[0].name = other.to_string();
        }
    });
    cluster.start(0);
    cluster.start(1);
    cluster.run(1000 * MS);
    assert_eq!(
        view(&cluster, 0).differences,
        [
            "keepalive is 40ms on lb1 and 50ms on lb2",
            "group only here is on lb1 only",
            "1 groups are on lb2 only"
        ]
    );
}
