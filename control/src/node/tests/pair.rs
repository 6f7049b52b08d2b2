//! One of two nodes, as the main loop has it.

use super::*;
use crate::check::{Outcome, Report};
use crate::event::Kind;
use crate::failover::exchange::{Command, Event as Happened, EventKind};
use crate::failover::view::{GroupView, View};

const HA: &str = "[node]\nname = \"lb1\"\n[ha]\nnodes = [\"lb1\", \"lb2\"]\n\
    key = [{ id = 1, file = \"/k\" }]\n\
    path = [{ type = \"udp\", lb1 = \"10.9.0.1:1\", lb2 = \"10.9.0.2:1\" }]\n\
    ping = [{ name = \"router\", addresses = [\"192.0.2.251\", \"192.0.2.252\"], fall = 2 }]\n\
    fencing = { command = [\"/off\", \"{peer}\", \"from-{node}\"] }\n";

impl Bench {
    fn paired() -> Self {
        let mut bench = Self::with(config(HA));
        bench.connect();
        bench.settle(None);
        bench
    }

    fn orders(&self) -> Vec<&HaOrder> {
        let orders = self.out.iter().filter_map(|o| match o {
            Output::Ha(order) => Some(order),
            _ => None,
        });
        orders.collect()
    }

    fn happens(&mut self, kind: EventKind, group: Option<&str>, reason: &str) {
        let group = group.map(Into::into);
        let event = Happened { kind, group, reason: reason.into() };
        self.input(Input::Ha(HaReport::Event(event)));
    }

    fn kinds(&self) -> Vec<Kind> {
        self.node.watch.events.iter().map(|(_, _, event)| event.kind).collect()
    }
}

fn state(role: &str, verification: Option<&str>) -> Input {
    let group = GroupView {
        name: "default".into(),
        role: role.into(),
        epoch: 5000,
        verification: verification.map(Into::into),
        verified_by: Some("eth1 carries nothing".into()),
        ..GroupView::default()
    };
    let view = View { groups: vec![group], ..View::default() };
    Input::Ha(HaReport::State(Box::new(HaState { view, ..HaState::default() })))
}

#[test]
fn the_main_loop_of_a_pair_never_leases_and_tells_the_heartbeat_what_is_in_force() {
    let mut bench = Bench::paired();
    bench.pass(60_000);
    bench.settle(None);
    let leases = |b: &Bench| b.sent().iter().any(|r| matches!(r, Request::Lease { .. }));
    assert!(!leases(&bench));
    let mut bench = Bench::paired();
    assert!(
        matches!(bench.orders()[0], HaOrder::Configure(Some(pair)) if pair.settings.node == "lb1")
    );
    // Without [ha] it is a node alone from the moment that the data plane runs that.
    bench.out.retain(|o| matches!(o, Output::Connect(_)));
    bench.input(Input::Reload);
    bench.input(Input::Loaded(Ok(Box::new(config("[node]\nname = \"lb1\"\n")))));
    bench.settle(None);
    assert!(matches!(bench.orders()[..], [HaOrder::Configure(None)]), "{:?}", bench.orders());
    assert!(leases(&bench));
    // And back.
    bench.input(Input::Reload);
    bench.input(Input::Loaded(Ok(Box::new(config(HA)))));
    bench.settle(None);
    bench.pass(60_000);
    assert!(!leases(&bench));
}

#[test]
fn a_target_is_reached_while_one_of_its_addresses_answers() {
    let mut bench = Bench::paired();
    let probes = bench.out.iter().rev().find_map(|o| match o {
        Output::Probes(set) => Some(Arc::clone(set)),
        _ => None,
    });
    let probes: Vec<_> = probes.unwrap().iter().cloned().collect();
    assert_eq!(probes.len(), 2, "the prober pings");
    let run = |bench: &mut Bench, probe: usize, outcome: Outcome| {
        let report = Report { outcome, took: Duration::from_millis(1) };
        bench.input(Input::Probed(vec![(Arc::clone(&probes[probe]), report)]));
    };
    let pings = |bench: &Bench| {
        let last = |o: &&HaOrder| match o {
            HaOrder::Pings(n) => Some(*n),
            _ => None,
        };
        bench.orders().iter().rev().find_map(last)
    };
    assert_eq!(pings(&bench), Some(0));
    run(&mut bench, 0, Outcome::up());
    assert_eq!(pings(&bench), Some(1));
    run(&mut bench, 1, Outcome::down("no answer"));
    run(&mut bench, 1, Outcome::down("no answer"));
    run(&mut bench, 0, Outcome::down("no answer"));
    assert_eq!(pings(&bench), Some(1), "one lost ping is none");
    run(&mut bench, 0, Outcome::down("no answer"));
    assert_eq!(pings(&bench), Some(0));
    let client = bench.ask(&Verb::Ha {});
    let answer = &bench.answers(client)[0]["result"]["pings"][0];
    assert_eq!((&answer["reached"], &answer["name"]), (&false.into(), &"router".into()));
}

#[test]
fn operators_get_their_answer_when_it_is_done_and_in_any_case() {
    let mut bench = Bench::paired();
    let switch = Verb::Switchover { group: None, to: Some("lb2".into()), force: false };
    let (one, two) = (bench.ask(&switch), bench.ask(&Verb::HaMaintenance { on: true }));
    let orders = bench.orders();
    let tickets: Vec<u64> = orders
        .iter()
        .filter_map(|o| match o {
            HaOrder::Command(ticket, _) => Some(*ticket),
            _ => None,
        })
        .collect();
    assert_eq!(tickets.len(), 2);
    bench.pass(300);
    let result = Ok("lb2 owns it".to_owned());
    bench.input(Input::Ha(HaReport::Answer { ticket: tickets[0], result }));
    assert_eq!(bench.answers(one)[0]["result"]["took_ms"], 300);
    bench.pass(10_000);
    assert_eq!(bench.answers(two)[0]["error"]["code"], "conflict");
    bench.input(Input::Ha(HaReport::Answer { ticket: tickets[1], result: Ok(String::new()) }));
    assert_eq!(bench.answers(two).len(), 1, "one answer each");
    let client = {
        let mut alone = Bench::up();
        let client = alone.ask(&switch);
        assert!(alone.answers(client)[0]["error"]["message"].as_str().unwrap().contains("[ha]"));
        client
    };
    let _ = client;
}

#[test]
fn what_happens_is_told_and_a_degraded_takeover_ends_with_the_ownership() {
    let mut bench = Bench::paired();
    bench.happens(EventKind::Taken, Some("default"), "nobody owned it");
    bench.happens(EventKind::PeerDead, None, "silent on all paths for 210ms");
    bench.happens(EventKind::Taken, Some("default"), "lb2 was silent (epoch 7)");
    bench.happens(EventKind::Unverified, Some("default"), "eth1 carries nothing");
    bench.input(state("active", Some("degraded")));
    let client = bench.ask(&Verb::Status {});
    bench.settle(None);
    let status = &bench.answers(client)[0];
    assert_eq!(status["result"]["ha"]["groups"][0]["degraded"], "eth1 carries nothing");
    assert_eq!(status["epoch"], 5000);
    bench.happens(EventKind::Released, Some("default"), "lb2 has taken it");
    bench.happens(EventKind::PathDown, None, "udp-eth2 brings no beats");
    let kinds = bench.kinds();
    let wanted = [
        Kind::RoleTaken,
        Kind::PeerDead,
        Kind::RoleTakenOver,
        Kind::TakeoverDegraded,
        Kind::TakeoverVerified,
        Kind::RoleReleased,
        Kind::PathDown,
    ];
    assert!(kinds.ends_with(&wanted), "{kinds:?}");
    let (_, _, path) = bench.node.watch.events.back().unwrap();
    assert_eq!(path.subject.as_deref(), Some("path udp-eth2"));
}

#[test]
fn an_orderly_stop_waits_until_the_other_node_has_everything_but_not_for_ever() {
    let mut bench = Bench::paired();
    bench.input(Input::Stop);
    assert!(matches!(bench.orders().last(), Some(HaOrder::Command(0, Command::Leave))));
    bench.pass(2000);
    assert_eq!(bench.exits(), 0);
    bench.input(Input::Ha(HaReport::Left));
    assert_eq!(bench.exits(), 1);
    let mut bench = Bench::paired();
    bench.input(Input::Stop);
    bench.pass(7000);
    assert_eq!(bench.exits(), 1, "the heartbeat says nothing");
}

#[test]
fn the_fencing_command_is_told_whom_it_is_about() {
    let mut bench = Bench::paired();
    bench.input(Input::Ha(HaReport::Fence));
    match bench.orders().last() {
        Some(HaOrder::Fence(fencing)) => {
            assert_eq!(fencing.command, ["/off", "lb2", "from-lb1"]);
        }
        other => panic!("{other:?}"),
    }
}
