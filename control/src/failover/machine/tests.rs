use std::time::Duration;

use super::*;
use crate::failover::exchange::{Command, Testimony};
use crate::failover::settings::{Auth, AuthMode, Failback, Group as GroupSettings, Link, Path};
use crate::failover::view::View;
use crate::seal::{Keyring, Mode};

const MS: Nanos = 1_000_000;

fn setup(node: &str, peer: &str, mode: Mode, keys: &[(u8, &str)]) -> Setup {
    let address = "10.9.0.1:6940".parse().unwrap();
    let settings = Settings {
        node: node.to_owned(),
        peer: peer.to_owned(),
        keepalive: Duration::from_millis(50),
        warntime: Duration::from_millis(100),
        deadtime: Duration::from_millis(200),
        initdead: Duration::from_millis(400),
        failback: Failback::Off,
        paths: ["eth0", "eth1"]
            .map(|name| Path {
                name: name.to_owned(),
                link: Link::Unicast { local: address, remote: address, interface: None },
            })
            .into(),
        auth: Auth { keys: vec![], mode: AuthMode::Enforce },
        groups: vec![GroupSettings {
            name: "web".to_owned(),
            prefer: None,
            addresses: vec![],
            gateways: vec![],
        }],
        pings: vec![],
        fencing: None,
        replication: None,
    };
    Setup { settings, keyring: Keyring::parse(mode, keys).unwrap(), config_hash: 0 }
}

const KEY: &str = "4242424242424242424242424242424242424242424242424242424242424242";

/// Both, each with what the other gets of it, and the time.
struct Pair {
    machines: [Machine; 2],
    now: Nanos,
    /// What was sent: by node, path, bytes.
    wire: Vec<(usize, usize, Vec<u8>)>,
    outputs: [Vec<Output>; 2],
}

impl Pair {
    fn new(modes: [Mode; 2]) -> Self {
        let names = [("lb1", "lb2"), ("lb2", "lb1")];
        let machines = [0, 1].map(|n: usize| {
            let setup = setup(names[n].0, names[n].1, modes[n], &[(1, KEY)]);
            Machine::new(setup, 100 + n as u64, 1000, 0)
        });
        let mut pair = Self { machines, now: 0, wire: Vec::new(), outputs: [vec![], vec![]] };
        let evidence = Evidence { interfaces: 1, interfaces_wanted: 1, pings: 0, pings_wanted: 0 };
        for node in [0, 1] {
            pair.tell(node, Input::DataPlane { alive: true });
            pair.tell(node, Input::Evidence(evidence));
        }
        pair
    }

    fn tell(&mut self, node: usize, input: Input<'_>) {
        let mut todo = self.machines[node].handle(input, self.now);
        while !todo.is_empty() {
            let mut more = Vec::new();
            for output in todo {
                let answer = match &output {
                    Output::Send { path, bytes } => {
                        self.wire.push((node, *path, bytes.clone()));
                        None
                    }
                    Output::Lease { group, epoch, .. } => {
                        Some(Input::Leased { group: group.clone(), epoch: *epoch })
                    }
                    Output::Release { group, .. } => Some(Input::Released { group: group.clone() }),
                    _ => None,
                };
                self.outputs[node].push(output);
                if let Some(answer) = answer {
                    more.extend(self.machines[node].handle(answer, self.now));
                }
            }
            todo = more;
        }
    }

    /// Time passes; what passes the filter arrives.
    fn run(&mut self, span: Nanos, arrives: impl Fn(usize, usize) -> bool) {
        for _ in 0..span / (10 * MS) {
            self.now += 10 * MS;
            self.tell(0, Input::Tick);
            self.tell(1, Input::Tick);
            for (from, path, bytes) in std::mem::take(&mut self.wire) {
                if arrives(from, path) {
                    self.tell(1 - from, Input::Received { path, bytes: &bytes });
                }
            }
        }
    }

    fn view(&self, node: usize) -> View {
        self.machines[node].view(self.now)
    }

    fn roles(&self) -> [String; 2] {
        [0, 1].map(|n| self.view(n).groups[0].role.clone())
    }
}

#[test]
fn the_first_by_name_begins_and_is_verified_with_what_the_other_sees() {
    let mut pair = Pair::new([Mode::Enforce; 2]);
    pair.run(1000 * MS, |_, _| true);
    assert_eq!(pair.roles(), ["active", "standby"]);
    let asked = pair.outputs[1].iter().find_map(|o| match o {
        Output::Resolve { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let testimony = Testimony { macs: vec![[2; 6]], silent: 0, asked: 1 };
    let (group, ticket): (Arc<str>, u32) = ("web".into(), asked.unwrap());
    pair.tell(1, Input::Resolved { group: group.clone(), ticket, testimony: testimony.clone() });
    let epoch = pair.view(0).groups[0].epoch;
    let missing = Err("eth1 is not attached".to_owned());
    pair.tell(0, Input::Verified { group: group.clone(), epoch, result: missing });
    let view = pair.view(0);
    assert_eq!(view.groups[0].verification.as_deref(), Some("degraded"));
    assert!(view.groups[0].epoch > epoch, "it is announced again");
    pair.outputs[0].clear();
    pair.run(1000 * MS, |_, _| true);
    let again = pair.outputs[0].iter().any(|o| matches!(o, Output::Verify { .. }));
    assert!(again, "it is asked again");
    let epoch = view.groups[0].epoch;
    pair.tell(0, Input::Verified { group, epoch, result: Ok("3211 packets".to_owned()) });
    let group = &pair.view(0).groups[0];
    assert_eq!(group.verified_by.as_deref(), Some("3211 packets"));
    assert!(group.verified_after_ms.is_some());
}

#[test]
fn one_path_is_enough_and_the_other_is_reported() {
    let mut pair = Pair::new([Mode::Enforce; 2]);
    pair.run(1000 * MS, |_, _| true);
    pair.run(3000 * MS, |_, path| path == 1);
    assert_eq!(pair.roles(), ["active", "standby"]);
    let view = pair.view(1);
    assert_eq!((view.paths[0].up, view.paths[1].up), (false, true));
    assert_eq!(view.peer.state, "alive");
    let down = |o: &Output| matches!(o, Output::Event(e) if e.kind == EventKind::PathDown);
    assert_eq!(pair.outputs[1].iter().filter(|o| down(o)).count(), 1);
}

#[test]
fn gaps_and_losses_are_measured_for_each_path() {
    let mut pair = Pair::new([Mode::Enforce; 2]);
    pair.run(15_000 * MS, |_, _| true);
    pair.run(150 * MS, |_, path| path == 0);
    pair.run(500 * MS, |_, _| true);
    let view = pair.view(1);
    let [first, second] = &view.paths[..] else { panic!("{view:?}") };
    assert!((45_000..55_000).contains(&first.gap_p50_us), "{first:?}");
    assert_eq!((first.lost, first.late), (0, 0), "{first:?}");
    assert_eq!((second.lost, second.late), (3, 1), "{second:?}");
    assert!(second.gap_max_us >= 190_000 && first.gap_max_us <= 60_000);
    assert!(view.deadtime.false_per_year.unwrap() < 0.001, "{:?}", view.deadtime);
}

#[test]
fn authentication_is_brought_in_node_by_node_while_they_go_on_hearing_each_other() {
    use Mode::{Enforce, Permissive, ReceiveOnly};
    let steps = [
        [ReceiveOnly, ReceiveOnly],
        [Permissive, ReceiveOnly],
        [Permissive, Permissive],
        [Enforce, Permissive],
        [Enforce, Enforce],
    ];
    for modes in steps {
        let mut pair = Pair::new(modes);
        pair.run(1000 * MS, |_, _| true);
        assert_eq!(pair.roles(), ["active", "standby"], "{modes:?}");
        let plain = pair.view(1).refused.plain;
        assert_eq!(plain > 0, modes[0] == ReceiveOnly, "{modes:?}");
    }
    let mut pair = Pair::new([ReceiveOnly, Enforce]);
    pair.run(1000 * MS, |_, _| true);
    assert!(pair.view(1).refused.bad_mac > 10 && pair.view(1).peer.state == "never");
}

#[test]
fn a_command_that_cannot_be_carried_out_says_why() {
    let mut pair = Pair::new([Mode::Enforce; 2]);
    pair.run(1000 * MS, |_, _| true);
    let ask = |pair: &mut Pair, group: Option<&str>, to: Option<&str>| {
        let (group, to) = (group.map(Into::into), to.map(str::to_owned));
        pair.outputs[0].clear();
        let command = Command::Switchover { group, to, force: false };
        pair.tell(0, Input::Command { ticket: 3, command });
        pair.run(100 * MS, |_, _| true);
        pair.outputs[0].iter().find_map(|o| match o {
            Output::Answer { ticket: 3, result } => Some(result.clone()),
            _ => None,
        })
    };
    let no = |text: &str| Some(Err(text.to_owned()));
    assert_eq!(ask(&mut pair, Some("mail"), None), no("there is no group `mail`"));
    assert_eq!(ask(&mut pair, None, Some("lb3")), no("there is no node `lb3`: only lb1 and lb2"));
    let stays = "nothing to move: lb1 owns it".to_owned();
    assert_eq!(ask(&mut pair, None, Some("lb1")), Some(Ok(stays)));
    assert_eq!(ask(&mut pair, None, None), Some(Ok("moved: web".to_owned())));
    pair.tell(0, Input::DataPlane { alive: false });
    let why = "web: our data plane does not answer";
    assert_eq!(ask(&mut pair, None, Some("lb1")), no(why));
    pair.run(1000 * MS, |_, _| false);
    assert_eq!(ask(&mut pair, None, Some("lb1")), no("lb2 is not there"));
}

#[test]
fn a_data_plane_that_refuses_or_says_nothing_does_not_own() {
    let mut pair = Pair::new([Mode::Enforce; 2]);
    pair.run(1000 * MS, |_, _| true);
    let failed = Input::LeaseFailed { group: "web".into(), reason: "no such group".to_owned() };
    pair.tell(0, failed);
    pair.run(100 * MS, |_, _| true);
    assert_eq!(pair.roles(), ["standby", "active"]);
    assert!(pair.view(0).groups[0].reason.contains("no such group"), "{:?}", pair.view(0));
}
