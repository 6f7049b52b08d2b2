use std::collections::BTreeMap;

use dataplane_api::message::{RealStatus, ServiceStatus};
use dataplane_api::service::Snapshot;

use super::*;
use crate::check::Outcome;

/// A node with a service of `reals` reals, checked each 100 ms, three failures to fall.
fn file(reals: usize, extra: &str) -> Config {
    let list: Vec<_> = (1..=reals)
        .map(|n| format!("{{ address = \"10.0.{}.{}:80\" }}", n / 250, n % 250 + 1))
        .collect();
    let text = format!(
        "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\nlisten = \"192.0.2.1:80\"\n\
         check = [{{ type = \"tcp\", interval = \"100ms\", timeout = \"50ms\" }}]\n{extra}\n\
         real = [{}]\n",
        list.join(",")
    );
    config::parse(&text, "x.toml").unwrap_or_else(|e| panic!("{e}"))
}

/// The shell's prober, in the bench's time: every probe once in its interval.
struct Servers {
    /// Outcome by last byte of the address; up if absent.
    dead: BTreeMap<String, Outcome>,
    plans: Vec<(Instant, Snapshot)>,
    answers: bool,
}

impl Servers {
    fn new() -> Self {
        Self { dead: BTreeMap::new(), plans: vec![], answers: true }
    }

    fn kill(&mut self, address: &str) {
        self.dead.insert(address.to_owned(), Outcome::down("connect: connection refused"));
    }

    /// Lets `rounds` intervals pass; the data plane answers what it is asked, if it does.
    fn rounds(&mut self, bench: &mut Bench, rounds: usize) {
        for _ in 0..rounds {
            bench.now = bench.now.after(Duration::from_millis(100));
            let probes = wanted(bench);
            let runs = probes.iter().map(|probe| {
                let address = probe.target.address.to_string();
                let outcome = self.dead.get(&address).cloned().unwrap_or_else(Outcome::up);
                (Arc::clone(probe), Report { outcome, took: Duration::from_millis(1) })
            });
            let runs = runs.collect();
            bench.input(Input::Probed(runs));
            self.answer(bench);
        }
    }

    fn answer(&mut self, bench: &mut Bench) {
        for request in &bench.asked {
            if let Request::Apply { snapshot } = request {
                self.plans.push((bench.now, (**snapshot).clone()));
            }
        }
        if self.answers {
            bench.settle(None);
        } else {
            // Remembered as asked; not counted twice.
            bench.asked.retain(|r| !matches!(r, Request::Apply { .. }));
        }
    }

    fn weights(&self) -> Vec<u16> {
        let (_, snapshot) = self.plans.last().unwrap();
        snapshot.services[0].reals.iter().map(|r| r.weight.get()).collect()
    }
}

/// What the shell was last told to run.
fn wanted(bench: &Bench) -> Arc<ProbeSet> {
    let mut sets = bench.out.iter().filter_map(|o| match o {
        Output::Probes(probes) => Some(Arc::clone(probes)),
        _ => None,
    });
    sets.next_back().unwrap()
}

fn logged(bench: &Bench, event: &str) -> usize {
    let records = bench.out.iter().filter_map(|o| match o {
        Output::Log(record) => Some(record.event),
        _ => None,
    });
    records.filter(|e| *e == event).count()
}

fn running(config: Config) -> (Bench, Servers) {
    let mut bench = Bench::with(config);
    let mut servers = Servers::new();
    bench.connect();
    // What a process before us left: nothing.
    bench.asked.pop_front();
    bench.reply(super::status());
    servers.answer(&mut bench);
    servers.rounds(&mut bench, 1);
    (bench, servers)
}

#[test]
fn a_dead_server_gets_no_new_connection_after_fall_times_interval() {
    let (mut bench, mut servers) = running(file(3, ""));
    let first = servers.plans.len();
    servers.rounds(&mut bench, 20);
    assert_eq!(servers.plans.len(), first, "while nothing changes, nothing is sent");
    let died = bench.now;
    servers.kill("10.0.0.3");
    servers.rounds(&mut bench, 20);
    assert_eq!(servers.weights(), [1, 0, 1]);
    let (at, snapshot) = &servers.plans[first];
    assert_eq!(at.since(died), 300, "and well below a second");
    assert!(snapshot.services[0].reals[1].down);
    assert_eq!(logged(&bench, "real_down"), 1);
    servers.dead.clear();
    servers.rounds(&mut bench, 20);
    assert_eq!((servers.plans.len(), servers.weights()), (first + 2, vec![1, 1, 1]));
    assert_eq!(logged(&bench, "real_up"), 1);
}

#[test]
fn a_thousand_servers_that_die_while_the_data_plane_is_slow_are_one_more_plan() {
    let (mut bench, mut servers) = running(file(1000, ""));
    let first = servers.plans.len();
    servers.answers = false;
    for probe in wanted(&bench).iter() {
        servers.kill(&probe.target.address.to_string());
    }
    let report = Report { outcome: Outcome::down("x"), took: Duration::ZERO };
    for probe in wanted(&bench).iter() {
        for _ in 0..3 {
            bench.input(Input::Probed(vec![(Arc::clone(probe), report.clone())]));
        }
    }
    servers.answer(&mut bench);
    assert_eq!(servers.plans.len(), first + 1, "one is on its way");
    bench.reply(applied());
    servers.answer(&mut bench);
    assert_eq!(servers.plans.len(), first + 2);
    assert!(servers.weights().iter().all(|w| *w == 0));
    assert_eq!((logged(&bench, "real_down"), logged(&bench, "service_down")), (1000, 1));
}

#[test]
fn a_reload_keeps_the_dead_dead_and_no_plan_of_before_overtakes_it() {
    let (mut bench, mut servers) = running(file(2, ""));
    servers.kill("10.0.0.2");
    servers.rounds(&mut bench, 5);
    assert_eq!(servers.weights(), [0, 1]);
    servers.answers = false;
    bench.input(Input::Reload);
    bench.input(Input::Loaded(Ok(Box::new(file(3, "scheduler = \"rr\"")))));
    servers.answer(&mut bench);
    assert_eq!(servers.weights(), [0, 1, 1], "the new configuration, with what is known");
    let sent = servers.plans.len();
    servers.kill("10.0.0.3");
    servers.rounds(&mut bench, 5);
    assert_eq!(servers.plans.len(), sent, "not while it is on its way");
    servers.answers = true;
    bench.reply(applied());
    servers.answer(&mut bench);
    assert_eq!(servers.weights(), [0, 0, 1]);
    assert_eq!(servers.plans.last().unwrap().1.services[0].reals.len(), 3);
    assert_eq!(wanted(&bench).len(), 3, "the new server is looked at");
    servers.dead.clear();
    servers.rounds(&mut bench, 5);
    assert_eq!(servers.weights(), [1, 1, 1]);
}

#[test]
fn after_a_restart_of_control_a_dead_server_gets_nothing_meanwhile() {
    let mut bench = Bench::with(file(2, ""));
    bench.connect();
    assert!(!bench.sent().iter().any(|r| matches!(r, Request::Apply { .. })), "asks first");
    let dead = RealStatus { address: "10.0.0.2:80".into(), down: true, ..RealStatus::default() };
    let service =
        ServiceStatus { name: "web".into(), reals: vec![dead], ..ServiceStatus::default() };
    let status = Status { services: vec![service], ..Status::default() };
    bench.asked.pop_front();
    bench.reply(Reply::Status(Box::new(status)));
    let weights: Vec<_> = bench
        .sent()
        .iter()
        .filter_map(|r| match r {
            Request::Apply { snapshot } => {
                Some(snapshot.services[0].reals.iter().map(|r| r.weight.get()).collect::<Vec<_>>())
            }
            _ => None,
        })
        .collect();
    assert_eq!(weights, [[0, 1]]);
}

#[test]
fn a_data_plane_that_comes_back_is_told_of_the_dead_at_once() {
    let (mut bench, mut servers) = running(file(2, ""));
    servers.kill("10.0.0.2");
    servers.rounds(&mut bench, 5);
    let session = bench.session();
    bench.input(Input::Disconnected(session, "gone".into()));
    servers.kill("10.0.0.3");
    servers.rounds(&mut bench, 5);
    bench.pass(1000);
    bench.connect();
    let Some(Request::Apply { snapshot }) = bench.asked.front() else { panic!("no apply") };
    assert!(snapshot.services[0].reals.iter().all(|r| r.down && r.weight.get() == 0));
}

#[test]
fn services_and_status_tell_the_state_its_reason_and_since_when() {
    let (mut bench, mut servers) = running(file(2, ""));
    servers.kill("10.0.0.2");
    servers.rounds(&mut bench, 10);
    for (verb, pointer) in [
        (Verb::Services {}, "/result/health/0/reals/0"),
        (Verb::Status {}, "/result/health/troubles/0"),
    ] {
        let client = bench.ask(&verb);
        bench.settle(None);
        let answers = bench.answers(client);
        let real = answers[0].pointer(pointer).unwrap_or_else(|| panic!("{answers:?}"));
        assert_eq!((&real["state"], &real["since_ms"]), (&"down".into(), &700.into()));
        assert_eq!(real["reason"], "tcp 10.0.0.2:80: connect: connection refused");
    }
    let client = bench.ask(&Verb::Services {});
    bench.settle(None);
    let check = &bench.answers(client)[0]["result"]["health"][0]["reals"][0]["checks"][0];
    assert_eq!((&check["took_us"], &check["runs"]), (&1000.into(), &11.into()), "{check}");
}
