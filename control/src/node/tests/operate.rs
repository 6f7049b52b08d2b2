//! What operators do: overrides, confirmation, rights.

use dataplane_api::message::{RealStatus, ServiceStatus};
use dataplane_api::service::Templates;

use super::*;
use crate::overrides::{Overrides, decode};

const REALS: &str = "real = [{ name = \"r\", address = \"10.0.0.1:80\", weight = 5 }, \
                     { name = \"s\", address = \"10.0.0.2:80\" }]\n";

/// A node with two reals, connected.
fn up() -> Bench {
    let mut bench = Bench::up();
    bench.input(Input::Reload);
    bench.input(Input::Loaded(Ok(Box::new(config(REALS)))));
    bench.settle(None);
    bench.forget();
    bench
}

impl Bench {
    fn forget(&mut self) {
        self.out.retain(|o| matches!(o, Output::Connect(_)));
    }

    /// Weights of the last snapshot sent; `None` if none was.
    fn weights(&self) -> Option<Vec<u16>> {
        let mut applies = self.sent().into_iter().filter_map(|r| match r {
            Request::Apply { snapshot } => Some(snapshot),
            _ => None,
        });
        let snapshot = applies.next_back()?;
        Some(snapshot.services[0].reals.iter().map(|r| r.weight.get()).collect())
    }

    /// The data plane says how many connections `r` has, now.
    fn conns(&mut self, active: u64) {
        self.real(RealStatus { active, ..RealStatus::default() });
    }

    /// The data plane says how many connections of `r` it has still to reset, now.
    fn ending(&mut self, ending: u64) {
        self.real(RealStatus { ending, ..RealStatus::default() });
    }

    fn real(&mut self, real: RealStatus) {
        let real = RealStatus { address: "10.0.0.1:80".into(), ..real };
        let service =
            ServiceStatus { name: "a".into(), reals: vec![real], ..ServiceStatus::default() };
        let status = Status { services: vec![service], ..Status::default() };
        let polled = |b: &Bench| b.asked.iter().any(|r| matches!(r, Request::Status));
        if !polled(self) {
            self.pass(2000);
        }
        while let Some(request) = self.asked.pop_front() {
            self.reply(match request {
                Request::Status => Reply::Status(Box::new(status.clone())),
                Request::Apply { .. } => applied(),
                Request::EndConns { .. } => Reply::Ending { conns: 3 },
                _ => Reply::Leased,
            });
        }
    }

    fn saved(&mut self) {
        let write = self.node.maintain.store.asked();
        self.input(Input::Stored(write, Ok(())));
    }

    fn reload(&mut self, text: &str, confirm_s: Option<u32>) -> ClientId {
        let client = self.ask(&Verb::Reload { confirm_s });
        self.input(Input::Loaded(Ok(Box::new(config(text)))));
        self.settle(None);
        client
    }

    fn events(&self, name: &str) -> Vec<String> {
        let lines = self.out.iter().filter_map(|o| match o {
            Output::Log(record) if record.event == name => Some(record.to_string()),
            _ => None,
        });
        lines.collect()
    }
}

#[test]
fn a_drain_is_answered_when_it_is_in_force_and_on_disk() {
    let mut bench = up();
    let client = bench.ask(&drain("r", None, None));
    assert_eq!(bench.weights(), Some(vec![0, 1]));
    assert!(bench.answers(client).is_empty(), "the data plane has not taken it");
    bench.conns(12);
    assert!(bench.answers(client).is_empty(), "it is not on disk");
    bench.saved();
    let answer = &bench.answers(client)[0]["result"];
    assert_eq!((&answer["applied"], &answer["saved"]), (&true.into(), &true.into()), "{answer}");
    let real = &answer["reals"][0];
    assert_eq!((&real["state"], &real["conns"]), (&"drained".into(), &12.into()));
}

#[test]
fn a_disk_that_hangs_or_fails_delays_nothing_for_long_and_is_told() {
    let mut bench = up();
    let hangs = bench.ask(&drain("r", None, None));
    bench.settle(None);
    bench.pass(3000);
    let answer = &bench.answers(hangs)[0]["result"];
    assert_eq!((&answer["applied"], &answer["saved"]), (&true.into(), &false.into()));
    assert!(answer["notes"][0].as_str().unwrap().contains("survive"));
    let fails = bench.ask(&drain("s", None, None));
    bench.settle(None);
    let write = *bench.stores().last().unwrap();
    bench.input(Input::Stored(write, Err("disk full".into())));
    assert!(bench.answers(fails)[0]["result"]["notes"][0].as_str().unwrap().contains("disk full"));
    bench.settle(None);
    let status = bench.ask(&Verb::Status {});
    bench.settle(None);
    let warnings = bench.answers(status)[0]["result"]["control"]["warnings"].to_string();
    assert!(warnings.contains("disk full"), "{warnings}");
    for _ in 0..30 {
        bench.forget();
        bench.pass(1000);
        bench.settle(None);
        if !bench.stores().is_empty() {
            bench.saved();
            return assert_eq!(bench.node.maintain.store.problem(), None);
        }
    }
    panic!("it is not tried again");
}

#[test]
fn without_a_data_plane_a_decision_is_kept_and_given_to_it_when_it_comes() {
    let mut bench = up();
    let session = bench.session();
    bench.input(Input::Disconnected(session, "gone".into()));
    let client = bench.ask(&Verb::Weight { which: which("r"), weight: Some(9), for_s: None });
    bench.saved();
    assert_eq!(bench.answers(client)[0]["result"]["applied"], false);
    bench.pass(1000);
    bench.connect();
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![9, 1]));
}

#[test]
fn overrides_survive_reload_and_restart_by_identity() {
    let mut bench = up();
    bench.ask(&drain("r", None, None));
    bench.settle(None);
    let swapped = "real = [{ name = \"s\", address = \"10.0.0.2:80\" }, \
                   { name = \"renamed\", address = \"10.0.0.1:80\", weight = 5 }]\n";
    bench.reload(swapped, None);
    assert_eq!(bench.weights(), Some(vec![1, 0]), "by identity, not by position or name");
    bench.reload("", None);
    bench.reload(REALS, None);
    assert_eq!(bench.weights(), Some(vec![0, 1]), "and after it was gone for a while");
    let bytes = bench.out.iter().rev().find_map(|o| match o {
        Output::Store(_, bytes) => Some(bytes.clone()),
        _ => None,
    });
    let saved = decode(&bytes.unwrap_or_else(|| crate::overrides::encode(&bench.node.overrides)));
    let mut again = Bench::new();
    again.node.restore(saved.unwrap(), None);
    again.connect();
    again.settle(None);
    again.reload(REALS, None);
    assert_eq!(again.weights(), Some(vec![0, 1]));
}

#[test]
fn a_broken_file_of_overrides_is_told_and_not_fatal() {
    let mut bench = Bench::new();
    bench.node.restore(Overrides::default(), Some("it is broken".into()));
    bench.connect();
    bench.settle(None);
    assert_eq!(bench.events("overrides_not_restored").len(), 1);
    let client = bench.ask(&Verb::Overrides {});
    bench.settle(None);
    assert_eq!(bench.answers(client)[0]["result"]["problem"], "it is broken");
}

#[test]
fn an_override_with_a_time_ends_by_itself() {
    let mut bench = up();
    bench.ask(&Verb::Weight { which: which("r"), weight: Some(9), for_s: Some(60) });
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![9, 1]));
    for _ in 0..59 {
        bench.pass(1000);
        bench.settle(None);
        assert_eq!(bench.weights(), None);
    }
    bench.pass(1000);
    assert_eq!(bench.weights(), Some(vec![5, 1]));
    assert!(!bench.stores().is_empty(), "and it is gone from the disk too");
}

#[test]
fn at_the_deadline_what_is_left_is_reset_once_the_data_plane_can_be_asked() {
    let mut bench = up();
    bench.ask(&drain("r", Some(10), Some(Then::Reset)));
    bench.settle(None);
    let session = bench.session();
    bench.input(Input::Disconnected(session, "gone".into()));
    bench.pass(11_000);
    let ends = |b: &Bench| {
        b.sent().iter().filter(|r| matches!(r, Request::EndConns { port: Some(80), .. })).count()
    };
    assert_eq!(ends(&bench), 0);
    assert_eq!(bench.events("real_deadline").len(), 1);
    bench.connect();
    bench.settle(None);
    assert_eq!(ends(&bench), 1, "as soon as it is there");
    bench.pass(5000);
    bench.settle(None);
    assert_eq!((ends(&bench), bench.events("connections_reset").len()), (0, 0), "once");
    assert_eq!(bench.node.overrides.next_ms(), None);
}

#[test]
fn an_order_that_a_data_plane_took_to_its_grave_is_given_to_the_next() {
    let mut bench = up();
    bench.ask(&drain("r", Some(10), Some(Then::Reset)));
    bench.settle(None);
    let ends = |b: &Bench| {
        b.sent().iter().filter(|r| matches!(r, Request::EndConns { port: Some(80), .. })).count()
    };
    bench.pass(11_000);
    bench.settle(None);
    assert_eq!(ends(&bench), 1);
    bench.forget();
    for _ in 0..5 {
        bench.ending(2);
        assert_eq!(ends(&bench), 0, "it is at it");
    }
    let saved = || crate::overrides::encode(&bench.node.overrides);
    assert!(decode(&saved()).unwrap().next_ms().is_some(), "a new control would begin again");
    bench.input(Input::Disconnected(bench.session(), "killed".into()));
    bench.pass(3000);
    bench.connect();
    bench.settle(None);
    assert_eq!(ends(&bench), 1, "again");
    bench.forget();
    bench.ending(0);
    let saved = crate::overrides::encode(&bench.node.overrides);
    assert_eq!(decode(&saved).unwrap().next_ms(), None, "over, and on disk");
    bench.input(Input::Disconnected(bench.session(), "killed".into()));
    bench.pass(3000);
    bench.connect();
    bench.settle(None);
    assert_eq!(ends(&bench), 0);
}

#[test]
fn a_real_that_is_enabled_before_the_deadline_loses_no_connection() {
    let mut bench = up();
    bench.ask(&drain("r", Some(10), Some(Then::Reset)));
    bench.settle(None);
    bench.ask(&Verb::Enable { which: which("r") });
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![5, 1]));
    for _ in 0..20 {
        bench.pass(1000);
        bench.settle(None);
        assert!(!bench.sent().iter().any(|r| matches!(r, Request::EndConns { .. })));
    }
}

#[test]
fn drained_is_not_dead_and_disabled_is() {
    let mut bench = up();
    let real = |b: &Bench| {
        let sent = b.sent();
        let Some(Request::Apply { snapshot }) =
            sent.into_iter().rfind(|r| matches!(r, Request::Apply { .. }))
        else {
            panic!("no snapshot");
        };
        let real = &snapshot.services[0].reals[0];
        (real.weight.get(), real.down, real.templates)
    };
    bench.ask(&drain("r", None, None));
    assert_eq!(real(&bench), (0, false, Templates::Honour));
    bench.settle(None);
    let which = which("r");
    let moved = Verb::Drain {
        which: which.clone(),
        deadline_s: None,
        then: None,
        move_persistent: true,
        for_s: None,
    };
    bench.ask(&moved);
    assert_eq!(real(&bench), (0, false, Templates::Move));
    bench.settle(None);
    bench.ask(&Verb::Disable { which, for_s: None });
    assert!(real(&bench).1);
}

#[test]
fn the_end_of_a_drain_is_estimated_and_told() {
    let mut bench = up();
    bench.ask(&drain("r", None, None));
    for conns in [100, 90, 80] {
        bench.conns(conns);
        bench.pass(2000);
    }
    let client = bench.ask(&Verb::Overrides {});
    bench.conns(70);
    let real = &bench.answers(client)[0]["result"]["overrides"][0];
    let left = real["empty_in_ms"].as_u64().unwrap();
    assert!((5_000..30_000).contains(&left), "70 left, 10 end in each 2 s: {real}");
    assert_eq!((&real["conns"], &real["conns_before"]), (&70.into(), &100.into()));
    bench.conns(0);
    assert_eq!(bench.events("real_empty").len(), 1);
    bench.forget();
    bench.conns(0);
    assert_eq!(bench.events("real_empty").len(), 0, "once");
}

#[test]
fn files_of_the_maintenance_directory_drain_and_a_directory_that_cannot_be_read_changes_nothing() {
    let mut bench = up();
    bench.reload(&format!("{REALS}[control]\nmaintenance_dir = \"/m\"\n"), None);
    let watched = |o: &Output| matches!(o, Output::Watch(Some(path)) if path.ends_with("m"));
    assert!(bench.out.iter().any(watched));
    bench.input(Input::Maintenance(Ok(vec!["10.0.0.1".into(), "wrong".into()])));
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![0, 1]));
    bench.input(Input::Maintenance(Err("gone".into())));
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![0, 1]), "what was last read holds");
    let client = bench.ask(&Verb::Enable { which: which("r") });
    bench.settle(None);
    bench.saved();
    let note = bench.answers(client)[0]["result"]["notes"][0].to_string();
    assert!(note.contains("still drained by the file `10.0.0.1`"), "{note}");
    let client = bench.ask(&Verb::Overrides {});
    bench.settle(None);
    let directory = &bench.answers(client)[0]["result"]["maintenance"];
    let odd = (&directory["odd_count"], &directory["odd"][0], &directory["problem"]);
    assert_eq!(odd, (&1.into(), &"wrong".into(), &"gone".into()));
    bench.input(Input::Maintenance(Ok(vec![])));
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![5, 1]));
    bench.input(Input::Maintenance(Ok(vec!["s".into()])));
    bench.settle(None);
    bench.reload(REALS, None);
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![5, 1]), "no directory, no drain");
}

#[test]
fn what_does_not_exist_is_refused_and_nothing_changes() {
    let mut bench = up();
    let client = bench.ask(&drain("rr", None, None));
    let error = &bench.answers(client)[0]["error"];
    assert_eq!(error["code"], "not-found");
    assert!(error["message"].as_str().unwrap().contains("did you mean `r`?"), "{error}");
    assert_eq!((bench.weights(), bench.stores().len()), (None, 0));
}

#[test]
fn a_reload_that_is_not_confirmed_undoes_itself() {
    let mut bench = up();
    let client = bench.reload("", Some(60));
    assert_eq!(bench.answers(client)[0]["result"]["confirm_s"], 60);
    let second = bench.ask(&Verb::Reload { confirm_s: None });
    let error = &bench.answers(second)[0]["error"];
    assert_eq!(error["code"], "conflict", "{error}");
    for _ in 0..59 {
        bench.pass(1000);
        bench.settle(None);
        assert_eq!(bench.weights(), None);
    }
    bench.pass(1000);
    bench.settle(None);
    assert_eq!(bench.weights(), Some(vec![5, 1]));
    assert_eq!(bench.events("config_rolled_back").len(), 1);
    let status = bench.ask(&Verb::Status {});
    bench.settle(None);
    let result = &bench.answers(status)[0]["result"];
    assert_eq!(result["config"]["last_reload"]["ok"], false);
    assert!(result["control"]["warnings"][0].as_str().unwrap().contains("rolled back"));
    bench.reload("", None);
    assert_eq!(bench.weights(), Some(vec![]), "and now it can be loaded");
}

#[test]
fn a_confirmed_reload_stays_and_a_rollback_does_not_wait() {
    let mut bench = up();
    bench.reload("", Some(5));
    let confirm = bench.ask(&Verb::Confirm {});
    assert_eq!(bench.answers(confirm)[0]["result"]["confirmed"], true);
    bench.pass(10_000);
    bench.settle(None);
    assert_eq!(bench.weights(), None);
    let again = bench.ask(&Verb::Confirm {});
    assert_eq!(bench.answers(again)[0]["error"]["code"], "conflict");
    bench.reload(REALS, Some(5));
    bench.forget();
    bench.ask(&Verb::Rollback {});
    assert_eq!(bench.weights(), Some(vec![]), "at once");
}

#[test]
fn a_reload_that_is_refused_needs_no_confirmation() {
    let mut bench = up();
    bench.ask(&Verb::Reload { confirm_s: Some(5) });
    bench.input(Input::Loaded(Ok(Box::new(config("")))));
    bench.settle(Some("no room"));
    bench.forget();
    bench.pass(6000);
    assert_eq!(bench.events("config_rolled_back").len(), 0);
    assert!(bench.node.reload.confirm.is_none());
}

#[test]
fn a_plan_says_what_a_reload_would_change_and_changes_nothing() {
    let mut bench = up();
    let client = bench.ask(&Verb::Plan { file: "new".into(), text: "x".into() });
    assert!(bench.out.iter().any(|o| matches!(o, Output::Parse(..))));
    bench.input(Input::Parsed(client, Ok(Box::new(config("")))));
    assert!(bench.answers(client).is_empty(), "connections are asked for first");
    bench.conns(7);
    let result = &bench.answers(client)[0]["result"];
    assert_eq!(result["differences"].as_array().unwrap().len(), 2, "{result}");
    assert_eq!(result["differences"][0]["conns"], 7);
    let hangs = bench.ask(&Verb::Plan { file: "new".into(), text: "x".into() });
    bench.input(Input::Parsed(hangs, Ok(Box::new(config("")))));
    let session = bench.session();
    bench.input(Input::Disconnected(session, "gone".into()));
    assert_eq!(bench.answers(hangs)[0]["ok"], true);
    let bad = bench.ask(&Verb::Plan { file: "new".into(), text: "x".into() });
    bench.input(Input::Parsed(bad, config::parse("x", "new").map(Box::new)));
    assert_eq!(bench.answers(bad)[0]["error"]["code"], "config");
    assert_eq!(bench.weights(), None);
}

#[test]
fn readers_look_operators_act_and_others_do_nothing() {
    let mut bench = up();
    let mut text = config(&format!("{REALS}[control]\noperators = \"ops\"\nreaders = \"look\"\n"));
    for (group, gid) in [(&mut text.control.operators, 50), (&mut text.control.readers, 60)] {
        group.as_mut().unwrap().gid = Some(gid);
    }
    bench.input(Input::Reload);
    bench.input(Input::Loaded(Ok(Box::new(text))));
    bench.settle(None);
    for (peer, looks, acts) in [
        (user(0, &[]), true, true),
        (user(1000, &[]), false, false),
        (user(1000, &[7, 60]), true, false),
        (user(60, &[]), true, false),
        (user(1000, &[50]), true, true),
    ] {
        let shown = format!("{peer:?}");
        let mut ask = |verb: &Verb| {
            bench.clients += 1;
            let client = ClientId(bench.clients);
            let line = serde_json::to_vec(verb).unwrap();
            bench.input(Input::Client(client, peer.clone(), line));
            bench.answers(client).first().map(|a| a["error"]["code"].clone())
        };
        let forbidden = |answer: Option<Value>| answer == Some("forbidden".into());
        assert_eq!(!forbidden(ask(&Verb::Hello {})), looks, "{shown}");
        let verbs = [
            drain("r", None, None),
            Verb::Reload { confirm_s: None },
            Verb::Plan { file: String::new(), text: String::new() },
            Verb::Confirm {},
            Verb::Rollback {},
        ];
        for verb in verbs {
            assert_eq!(!forbidden(ask(&verb)), acts, "{shown} {verb:?}");
        }
    }
}
