use std::time::Duration;

use dataplane_api::message::{RealStatus, ServiceStatus, Status};

use super::*;
use crate::check::Passed;
use crate::config;
use crate::overrides::Overrides;
use crate::plan::{Plan, plan};

const HEAD: &str = "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\n\
                    listen = \"192.0.2.1:80\"\n";
const CHECKED: &str = "check = [{ type = \"tcp\", interval = \"100ms\", rise = 2, fall = 3 }]\n";

/// Health of a service, with a clock.
struct Ward {
    config: Config,
    health: Health,
    now: Instant,
    events: Vec<Event>,
}

impl Ward {
    /// A service with these lines and `reals` reals, 10.0.0.1 and on.
    fn new(lines: &str, reals: usize) -> Self {
        let config = Self::read(lines, &(1..=reals).collect::<Vec<_>>());
        let (health, now) = (Health::default(), Instant::from_millis(0));
        let mut ward = Self { config, health, now, events: vec![] };
        ward.health.configure(&ward.config, now);
        ward
    }

    fn read(lines: &str, reals: &[usize]) -> Config {
        let reals: Vec<_> =
            reals.iter().map(|n| format!("{{ address = \"10.0.0.{n}:80\" }}")).collect();
        let text = format!("{HEAD}{lines}real = [{}]\n", reals.join(","));
        config::parse(&text, "x").unwrap_or_else(|e| panic!("{e}"))
    }

    fn reload(&mut self, lines: &str, reals: &[usize]) {
        self.config = Self::read(lines, reals);
        self.health.configure(&self.config, self.now);
    }

    fn key(n: usize) -> RealKey {
        RealKey {
            service: "web".into(),
            address: format!("10.0.0.{n}").parse().unwrap(),
            port: Some(80),
        }
    }

    fn real(&self, n: usize) -> &Real {
        self.health.real(&Self::key(n)).unwrap()
    }

    /// Every check of real `n` ends so, 100 ms later.
    fn run(&mut self, n: usize, outcome: Outcome) {
        self.run_check(n, None, outcome);
    }

    fn run_check(&mut self, n: usize, index: Option<usize>, outcome: Outcome) {
        self.pass(100);
        let probes: Vec<_> = self.real(n).checks.iter().map(|c| Arc::clone(&c.probe)).collect();
        for (at, probe) in probes.iter().enumerate() {
            if index.is_none_or(|index| index == at) {
                let report = Report { outcome: outcome.clone(), took: Duration::from_millis(3) };
                self.health.report(probe, &report, self.now);
            }
        }
        self.events.extend(self.health.take_events());
    }

    fn down(&mut self, n: usize) {
        for _ in 0..3 {
            self.run(n, Outcome::down("connection refused"));
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
        self.health.tick(self.now);
    }

    fn plan(&self) -> Plan {
        plan(&self.config, &self.health, &Overrides::default())
    }

    fn weights(&self) -> Vec<u16> {
        self.plan().snapshot.services[0].reals.iter().map(|r| r.weight.get()).collect()
    }

    fn told(&mut self) -> Vec<(Kind, String)> {
        self.events.drain(..).map(|e| (e.kind, e.reason)).collect()
    }
}

#[test]
fn a_dead_server_is_out_after_fall_failures_and_back_after_rise_passes() {
    let mut ward = Ward::new(CHECKED, 2);
    ward.run(1, Outcome::up());
    ward.run(2, Outcome::up());
    assert_eq!(ward.told(), [], "that all is well is no news");
    for _ in 0..2 {
        ward.run(1, Outcome::down("connection refused"));
        assert_eq!(ward.weights(), [1, 1]);
    }
    ward.run(1, Outcome::up());
    ward.down(1);
    assert_eq!(ward.weights(), [0, 1]);
    assert!(ward.plan().snapshot.services[0].reals[0].down);
    let reason = "tcp 10.0.0.1:80: connection refused".to_owned();
    assert_eq!(ward.told(), [(Kind::RealDown, reason)]);
    ward.run(1, Outcome::up());
    ward.run(1, Outcome::down("again"));
    ward.run(1, Outcome::up());
    assert_eq!(ward.weights(), [0, 1], "passes that are not in a row");
    ward.run(1, Outcome::up());
    assert_eq!(ward.weights(), [1, 1]);
    assert_eq!(ward.told(), [(Kind::RealUp, "tcp 10.0.0.1:80: passed, after 1 s".into())]);
    assert_eq!(ward.real(1).flaps(ward.now), 2);
    ward.pass(600_000);
    assert_eq!(ward.real(1).flaps(ward.now), 0);
}

#[test]
fn a_check_that_cannot_be_run_takes_no_server_down_and_is_told_once() {
    let mut ward = Ward::new(CHECKED, 1);
    ward.run(1, Outcome::up());
    for _ in 0..10 {
        ward.run(1, Outcome::cannot_run("too many open files"));
    }
    assert_eq!(ward.weights(), [1]);
    assert_eq!(ward.real(1).state(), State::CannotCheck);
    assert_eq!(ward.told(), [(Kind::RealCannotCheck, "too many open files".into())]);
    ward.run(1, Outcome::down("no answer"));
    assert_eq!(ward.real(1).state(), State::Up, "one failure is not three");
    assert_eq!(ward.told(), [(Kind::RealCheckable, String::new())]);
    ward.down(1);
    ward.told();
    ward.run(1, Outcome::cannot_run("too many open files"));
    assert_eq!(ward.weights(), [0], "nor does it bring one back");
}

#[test]
fn before_the_first_word_a_server_counts_as_configured() {
    let up = Ward::new(CHECKED, 1);
    assert_eq!((up.weights(), up.real(1).state()), (vec![1], State::Unknown));
    let lines = format!("{CHECKED}health = {{ start = \"down\" }}\n");
    let mut down = Ward::new(&lines, 1);
    assert_eq!(down.weights(), [0]);
    assert!(!down.plan().snapshot.services[0].reals[0].down, "not dead: nothing is known");
    down.run(1, Outcome::up());
    assert_eq!(down.weights(), [0]);
    down.run(1, Outcome::up());
    assert_eq!(down.weights(), [1]);
    assert_eq!(down.told().first().unwrap().0, Kind::RealUp);
    let unchecked = Ward::new("health = { start = \"down\" }\n", 1);
    assert_eq!((unchecked.weights(), unchecked.real(1).state()), (vec![1], State::Up));
}

#[test]
fn several_checks_are_joined_by_all_or_any() {
    let two = "check = [{ type = \"tcp\", fall = 1 }, { type = \"tcp\", port = 81, fall = 1 }]\n";
    for (require, weights) in [("all", [0]), ("any", [1])] {
        let lines = format!("{two}health = {{ require = \"{require}\" }}\n");
        let mut ward = Ward::new(&lines, 1);
        ward.run(1, Outcome::up());
        ward.run_check(1, Some(1), Outcome::down("x"));
        assert_eq!(ward.weights(), weights, "{require}");
        ward.run_check(1, Some(0), Outcome::down("x"));
        assert_eq!(ward.weights(), [0], "{require}");
    }
}

#[test]
fn one_probe_serves_every_service_that_asks_the_same() {
    let text = format!(
        "{HEAD}{CHECKED}real = [{{ address = \"10.0.0.1:80\" }}]\n\
         [[service]]\nname = \"b\"\nlisten = \"192.0.2.2:80\"\n\
         check = [{{ type = \"tcp\", interval = \"100ms\", rise = 9, fall = 1 }}]\n\
         real = [{{ address = \"10.0.0.1:80\" }}]\n\
         [[service]]\nname = \"c\"\nlisten = \"192.0.2.3:80\"\n\
         check = [{{ type = \"tcp\", interval = \"200ms\" }}]\n\
         real = [{{ address = \"10.0.0.1:80\" }}]\n"
    );
    let config = config::parse(&text, "x").unwrap();
    let mut health = Health::default();
    health.configure(&config, Instant::default());
    assert_eq!(health.probes().len(), 2, "only the interval makes two of them");
    let probe = health.probes().iter().find(|p| p.interval.as_millis() == 100).unwrap().clone();
    let report = Report { outcome: Outcome::down("x"), took: Duration::ZERO };
    health.report(&probe, &report, Instant::default());
    let serving = |health: &Health| {
        let plan = plan(&config, health, &Overrides::default());
        plan.services.iter().map(|s| s.serving).collect::<Vec<_>>()
    };
    assert_eq!(serving(&health), [1, 0, 1], "each counts for itself");
}

#[test]
fn state_is_kept_by_identity_when_a_reload_moves_adds_and_changes() {
    let mut ward = Ward::new(CHECKED, 3);
    for n in 1..=3 {
        ward.run(n, Outcome::up());
    }
    ward.down(2);
    ward.events.clear();
    let since = ward.real(2).since;
    ward.pass(5000);
    ward.reload(CHECKED, &[9, 3, 2]);
    assert_eq!(ward.weights(), [1, 1, 0], "a new one, a healthy one, the dead one");
    assert_eq!(ward.real(2).since, since);
    assert_eq!(ward.real(3).checks[0].counts.runs, 1);
    let slower = CHECKED.replace("100ms", "5s");
    ward.reload(&slower, &[2, 3]);
    assert_eq!(ward.weights(), [0, 1], "another interval is no recovery, and no failure");
    ward.run(2, Outcome::up());
    ward.run(2, Outcome::up());
    assert_eq!(ward.weights(), [1, 1]);
    ward.reload("", &[2, 3]);
    assert_eq!((ward.weights(), ward.health.probes().len()), (vec![1, 1], 0));
}

#[test]
fn what_is_removed_while_something_is_wrong_with_it_is_told_to_be_over() {
    let mut ward = Ward::new(CHECKED, 2);
    ward.run(1, Outcome::up());
    ward.down(1);
    for _ in 0..3 {
        ward.run(2, Outcome::cannot_run("no descriptor"));
    }
    let begun: Vec<_> = ward.events.drain(..).map(|e| e.key()).collect();
    ward.reload(CHECKED, &[9]);
    let ended: Vec<_> = ward.health.take_events();
    assert!(ended.iter().all(|e| e.reason == "no longer configured"));
    assert_eq!(begun, ended.iter().map(Event::key).collect::<Vec<_>>());
    ward.reload(CHECKED, &[9]);
    assert_eq!(ward.health.take_events(), []);
}

#[test]
fn a_recovered_server_gets_its_weight_by_steps_and_never_nothing() {
    let lines = format!("{CHECKED}health = {{ slow_start = \"10s\" }}\n");
    let mut ward = Ward::new(&lines, 2);
    ward.run(1, Outcome::up());
    assert_eq!(ward.weights(), [1, 1], "a start is no recovery");
    ward.down(1);
    ward.run(1, Outcome::up());
    ward.run(1, Outcome::up());
    assert_eq!(ward.real(1).state(), State::SlowStart);
    let mut seen = vec![ward.weights()];
    while let Some(at) = ward.health.next_deadline() {
        ward.health.take_changed();
        let wait = at.since(ward.now);
        assert!(wait > 0 && wait <= 1000, "{wait}");
        ward.pass(wait);
        assert!(seen.len() == 10 || ward.health.take_changed(), "each step is a plan");
        seen.push(ward.weights());
        assert!(seen.len() < 20);
    }
    let ramp: Vec<_> = seen.iter().map(|w| (w[0], w[1])).collect();
    let steps: Vec<_> = (1..10).map(|n| (n * 10, 100)).chain([(1, 1), (1, 1)]).collect();
    assert_eq!(ramp, steps);
    assert_eq!(ward.real(1).state(), State::Up);
}

#[test]
fn below_the_panic_floor_nobody_is_removed() {
    let lines = format!("{CHECKED}health = {{ panic_floor = 50 }}\n");
    let mut ward = Ward::new(&lines, 4);
    for n in 1..=4 {
        ward.run(n, Outcome::up());
    }
    ward.down(1);
    ward.down(2);
    assert_eq!(ward.weights(), [0, 0, 1, 1], "half is not less than half");
    ward.down(3);
    assert_eq!(ward.weights(), [1, 1, 1, 1]);
    let service = &ward.plan().services[0];
    assert!(service.panic);
    assert_eq!(service.reals[0].state, State::Down, "people see it as it is");
    assert!(ward.plan().snapshot.services[0].reals.iter().all(|r| !r.down));
    ward.down(4);
    assert_eq!(ward.weights(), [1, 1, 1, 1]);
    ward.run(1, Outcome::up());
    ward.run(1, Outcome::up());
    ward.run(2, Outcome::up());
    ward.run(2, Outcome::up());
    assert_eq!(ward.weights(), [1, 1, 0, 0]);
    let starting =
        Ward::new(&format!("{CHECKED}health = {{ start = \"down\", panic_floor = 50 }}\n"), 2);
    assert_eq!(starting.weights(), [0, 0], "a start is no panic");
}

#[test]
fn a_check_may_ask_for_a_part_of_the_weight() {
    let mut ward = Ward::new(CHECKED, 2);
    let part = |percent| Outcome::Up(Passed { weight_percent: Some(percent), note: None });
    ward.run(2, Outcome::up());
    ward.run(1, part(30));
    assert_eq!(ward.weights(), [30, 100]);
    ward.run(1, part(0));
    assert_eq!(ward.weights(), [0, 1]);
    assert!(!ward.plan().snapshot.services[0].reals[0].down, "it serves those it has");
    ward.run(1, part(100));
    assert_eq!(ward.weights(), [1, 1]);
    assert_eq!(ward.told().len(), 3);
}

#[test]
fn what_clients_suffer_makes_the_next_failure_the_last() {
    let lines = format!("{CHECKED}health = {{ passive = {{ unanswered = 5 }} }}\n");
    let mut ward = Ward::new(&lines, 2);
    ward.run(1, Outcome::up());
    ward.run(2, Outcome::up());
    let status = |unanswered| {
        let real = |n, syn_unanswered| RealStatus {
            address: format!("10.0.0.{n}:80"),
            syn_unanswered,
            ..RealStatus::default()
        };
        let reals = vec![real(1, unanswered), real(2, 1000)];
        let service = ServiceStatus { name: "web".into(), reals, ..ServiceStatus::default() };
        Status { boot_id: "d".into(), services: vec![service], ..Status::default() }
    };
    ward.health.evidence(&status(100));
    ward.health.evidence(&status(104));
    assert!(ward.health.take_urgent().is_empty(), "what was before, and too little");
    ward.health.evidence(&status(109));
    assert_eq!(ward.health.take_urgent().len(), 1);
    assert_eq!(ward.weights(), [1, 1], "evidence alone is no verdict");
    ward.run(1, Outcome::down("no answer within 1s"));
    assert_eq!(ward.weights(), [0, 1]);
    let restarted = Status { boot_id: "e".into(), ..status(500) };
    ward.health.evidence(&restarted);
    assert!(ward.health.take_urgent().is_empty(), "a new process counts anew");
}

#[test]
fn what_a_process_before_us_found_dead_gets_nothing_until_it_passes() {
    let mut ward = Ward::new(CHECKED, 3);
    ward.run(3, Outcome::up());
    let real = |n| RealStatus {
        address: format!("10.0.0.{n}:80"),
        weight: 0,
        down: n != 2,
        ..RealStatus::default()
    };
    let reals = vec![real(1), real(2), real(3)];
    let service = ServiceStatus { name: "web".into(), reals, ..ServiceStatus::default() };
    let status = Status { services: vec![service], ..Status::default() };
    let overrides = Overrides::default();
    ward.health.inherit(&status, &ward.config.clone(), &overrides, ward.now);
    assert_eq!(ward.weights(), [0, 1, 1], "not the drained one, nor the one that has passed since");
    ward.run(1, Outcome::up());
    ward.run(1, Outcome::up());
    assert_eq!(ward.weights(), [1, 1, 1]);
    ward.health.inherit(&status, &ward.config.clone(), &overrides, ward.now);
    assert_eq!(ward.weights(), [1, 1, 1], "only once");
}
