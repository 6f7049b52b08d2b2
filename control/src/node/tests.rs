mod health;

use std::collections::VecDeque;
use std::time::Duration;

use dataplane_api::message::{Reply, Request, Status};
use serde_json::Value;

use super::*;
use crate::config;
use crate::overrides::Then;
use crate::verbs::{Verb, Which};

mod operate;
mod pair;
mod telling;

const FILE: &str =
    "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"a\"\nlisten = \"192.0.2.1:80\"\n";

fn config(extra: &str) -> Config {
    config::parse(&format!("{FILE}{extra}"), "x.toml").unwrap()
}

/// A node with a clock of its own, and what it did.
struct Bench {
    node: Node,
    now: Instant,
    out: Vec<Output>,
    clients: u64,
    /// `boot_id` that followers of events name.
    boot: &'static str,
    /// What the data plane has been asked and has not answered.
    asked: VecDeque<Request>,
}

impl Bench {
    fn new() -> Self {
        Self::with(config(""))
    }

    fn with(config: Config) -> Self {
        let who = Identity {
            instance: "t".into(),
            host: "h".into(),
            file: "x.toml".into(),
            pid: 1,
            uid: 0,
            boot_id: "b".into(),
            epoch: 1000,
        };
        let now = Instant::from_millis(0);
        let mut bench = Self {
            node: Node::new(who, config, now),
            now,
            out: vec![],
            clients: 0,
            boot: "b",
            asked: VecDeque::new(),
        };
        bench.input(Input::Tick);
        bench
    }

    /// As [`Bench::new`], connected, with hello, apply and first lease answered.
    fn up() -> Self {
        let mut bench = Self::new();
        bench.connect();
        bench.settle(None);
        bench
    }

    fn connect(&mut self) {
        let session = self.session();
        self.input(Input::Connected(session));
        assert!(matches!(self.asked.pop_front(), Some(Request::Hello { .. })));
        self.reply(hello(dataplane_api::VERSION));
    }

    fn session(&self) -> u64 {
        let mut connects = self.out.iter().filter_map(|o| match o {
            Output::Connect(session) => Some(*session),
            _ => None,
        });
        connects.next_back().unwrap()
    }

    fn input(&mut self, input: Input) {
        for output in self.node.handle(input, self.now) {
            match &output {
                Output::Connect(_) => self.asked.clear(),
                Output::Send(_, request) => self.asked.push_back((**request).clone()),
                _ => {}
            }
            self.out.push(output);
        }
    }

    /// Answers everything asked, as a data plane would that refuses the next snapshot or does not.
    fn settle(&mut self, mut refuse: Option<&str>) {
        while let Some(request) = self.asked.pop_front() {
            self.reply(match request {
                Request::Hello { version } => hello(version),
                Request::Apply { .. } => refuse.take().map_or_else(applied, error),
                Request::Lease { .. } => Reply::Leased,
                Request::Status => status(),
                Request::Conns { .. } => Reply::Conns { conns: vec![], next: None },
                Request::EndConns { .. } => Reply::Ending { conns: 3 },
                other => error(&format!("not played: {other:?}")),
            });
        }
    }

    fn reply(&mut self, reply: Reply) {
        let session = self.session();
        self.input(Input::Agent(session, Box::new(reply)));
    }

    /// Lets time pass, ticking at each deadline; what happened meanwhile is forgotten first.
    fn pass(&mut self, ms: u64) {
        self.out.retain(|o| matches!(o, Output::Connect(_)));
        let end = self.now.after(Duration::from_millis(ms));
        let mut ticks = 0;
        while let Some(at) = self.node.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.input(Input::Tick);
            ticks += 1;
            assert!(ticks < 10_000, "spins at {at:?}");
        }
        self.now = end;
    }

    fn sent(&self) -> Vec<&Request> {
        let sent = |o: &'_ Output| matches!(o, Output::Send(..));
        self.out
            .iter()
            .filter(|o| sent(o))
            .map(|o| match o {
                Output::Send(_, request) => &**request,
                _ => unreachable!(),
            })
            .collect()
    }

    fn ask(&mut self, verb: &Verb) -> ClientId {
        self.clients += 1;
        let client = ClientId(self.clients);
        self.input(Input::Client(client, user(0, &[]), serde_json::to_vec(verb).unwrap()));
        client
    }

    fn answers(&self, client: ClientId) -> Vec<Value> {
        let answers = self.out.iter().filter_map(|o| match o {
            Output::Reply(to, line) if *to == client => Some(serde_json::from_str(line).unwrap()),
            _ => None,
        });
        answers.collect()
    }

    /// Numbers of the writes of the overrides asked for.
    fn stores(&self) -> Vec<u64> {
        let stores = self.out.iter().filter_map(|o| match o {
            Output::Store(write, _) => Some(*write),
            _ => None,
        });
        stores.collect()
    }

    fn exits(&self) -> usize {
        self.out.iter().filter(|o| matches!(o, Output::Exit(0))).count()
    }
}

fn user(uid: u32, groups: &[u32]) -> Peer {
    Peer { uid, gid: uid, pid: 1, groups: groups.into() }
}

fn hello(version: u32) -> Reply {
    Reply::Hello { version, pid: 7, boot_id: "d".into() }
}

fn which(real: &str) -> Which {
    Which { real: real.to_owned(), ..Which::default() }
}

fn drain(real: &str, deadline_s: Option<u32>, then: Option<Then>) -> Verb {
    let which = which(real);
    Verb::Drain { which, deadline_s, then, move_persistent: false, for_s: None }
}

fn applied() -> Reply {
    Reply::Applied { needs_restart: vec![] }
}

fn error(message: &str) -> Reply {
    Reply::Error { message: message.into() }
}

fn status() -> Reply {
    Reply::Status(Box::new(Status { pid: 7, ..Status::default() }))
}

fn is_lease(request: &Request) -> bool {
    matches!(request, Request::Lease { .. })
}

#[test]
fn the_lease_follows_the_apply_and_is_renewed_by_thirds_while_answers_come() {
    let mut bench = Bench::new();
    bench.connect();
    assert!(!bench.sent().into_iter().any(is_lease), "not before the snapshot is in");
    bench.settle(None);
    assert_eq!(
        bench.sent().last(),
        Some(&&Request::Lease { ttl_ms: 3000, epoch: 1000, group: None, until_ns: None })
    );
    for _ in 0..5 {
        bench.pass(1000);
        assert_eq!(bench.sent().iter().filter(|r| is_lease(r)).count(), 1);
        bench.settle(None);
    }
}

#[test]
fn a_silent_data_plane_is_dropped_and_everything_is_said_again() {
    let mut bench = Bench::up();
    let first = bench.session();
    bench.pass(15_000);
    assert!(bench.out.iter().any(|o| matches!(o, Output::Disconnect(s) if *s == first)));
    assert!(bench.session() > first);
    bench.out.retain(|o| matches!(o, Output::Connect(_)));
    bench.connect();
    assert!(bench.sent().iter().any(|r| matches!(r, Request::Apply { .. })));
}

#[test]
fn what_an_old_connection_still_says_is_not_heard() {
    let mut bench = Bench::up();
    let old = bench.session();
    bench.input(Input::Disconnected(old, "gone".into()));
    bench.pass(100);
    assert!(bench.session() > old);
    bench.input(Input::Agent(old, Box::new(error("late"))));
    bench.input(Input::Disconnected(old, "again".into()));
    bench.connect();
    bench.settle(None);
    assert!(bench.node.link.leased());
}

#[test]
fn attempts_to_connect_slow_down_to_one_a_second_and_never_end() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        let session = bench.session();
        bench.input(Input::Disconnected(session, "no such file".into()));
        bench.pass(1000);
        assert!(bench.session() > session);
    }
    let logs = bench.out.iter().filter(|o| matches!(o, Output::Log(_))).count();
    assert_eq!(logs, 0, "the same reason is said once, long ago");
}

#[test]
fn a_client_of_a_hanging_data_plane_is_answered_in_time_and_once() {
    let mut bench = Bench::up();
    let services = bench.ask(&Verb::Services {});
    let status_asked = bench.ask(&Verb::Status {});
    bench.pass(3000);
    let answer = bench.answers(services);
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0]["error"]["code"], "no-data-plane");
    assert_eq!(bench.answers(status_asked)[0]["ok"], true, "status always answers");
    bench.pass(20_000);
    assert!(bench.answers(services).is_empty() && bench.answers(status_asked).is_empty());
}

#[test]
fn status_tells_how_old_the_last_news_is() {
    let mut bench = Bench::up();
    let asked = bench.ask(&Verb::Status {});
    bench.settle(None);
    assert_eq!(bench.answers(asked)[0]["age_ms"], 0);
    let session = bench.session();
    bench.input(Input::Disconnected(session, "gone".into()));
    bench.now = bench.now.after(Duration::from_millis(700));
    let asked = bench.ask(&Verb::Status {});
    let answer = &bench.answers(asked)[0];
    assert_eq!(
        (&answer["age_ms"], &answer["result"]["agent"]["reason"]),
        (&700.into(), &"gone".into())
    );
}

#[test]
fn reloads_asked_for_during_a_reload_are_one_more_reload() {
    let mut bench = Bench::new();
    let first = bench.ask(&Verb::Reload { confirm_s: None });
    let second = bench.ask(&Verb::Reload { confirm_s: None });
    let third = bench.ask(&Verb::Reload { confirm_s: None });
    bench.input(Input::Reload);
    let loads = |b: &Bench| b.out.iter().filter(|o| matches!(o, Output::Load)).count();
    assert_eq!(loads(&bench), 1);
    bench.input(Input::Loaded(Ok(Box::new(config("")))));
    assert_eq!((bench.answers(first).len(), bench.answers(second).len()), (1, 0));
    assert_eq!(loads(&bench), 2);
    bench.input(Input::Loaded(config::parse("x", "x.toml").map(Box::new)));
    for client in [second, third] {
        assert_eq!(bench.answers(client)[0]["error"]["code"], "config");
    }
    assert_eq!(loads(&bench), 2);
}

#[test]
fn a_refused_reload_falls_back_to_what_ran_before() {
    let mut bench = Bench::up();
    let client = bench.ask(&Verb::Reload { confirm_s: None });
    let two = config("[[service]]\nname = \"b\"\nlisten = \"192.0.2.2:80\"\n");
    bench.input(Input::Loaded(Ok(Box::new(two))));
    bench.settle(Some("no room"));
    assert_eq!(bench.answers(client)[0]["error"]["code"], "refused");
    let sizes: Vec<_> = bench
        .sent()
        .iter()
        .filter_map(|r| match r {
            Request::Apply { snapshot } => Some(snapshot.services.len()),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [1, 2, 1]);
}

#[test]
fn a_configuration_that_kills_the_data_plane_is_given_up() {
    let mut bench = Bench::up();
    let client = bench.ask(&Verb::Reload { confirm_s: None });
    let two = config("[[service]]\nname = \"b\"\nlisten = \"192.0.2.2:80\"\n");
    bench.input(Input::Loaded(Ok(Box::new(two))));
    let size = |b: &Bench| match b.asked.iter().find(|r| matches!(r, Request::Apply { .. })) {
        Some(Request::Apply { snapshot }) => snapshot.services.len(),
        _ => panic!("no apply"),
    };
    for services in [2, 2, 2, 1] {
        assert_eq!(size(&bench), services);
        let session = bench.session();
        bench.input(Input::Disconnected(session, "crashed".into()));
        assert_eq!(bench.answers(client).len(), usize::from(services == 2 && session == 1));
        bench.pass(1000);
        bench.connect();
    }
    assert_eq!(size(&bench), 1);
}

#[test]
fn status_tells_why_a_data_plane_without_configuration_refused_it() {
    let mut bench = Bench::new();
    bench.connect();
    bench.settle(Some("no room"));
    let client = bench.ask(&Verb::Status {});
    while bench.asked.pop_front().is_some() {
        bench.reply(error("no snapshot has been applied yet"));
    }
    let answers = bench.answers(client);
    assert_eq!(answers[0]["result"]["agent"]["refused"], "no room", "{answers:?}");
    for _ in 0..10 {
        bench.pass(1000);
        let logs = bench.out.iter().filter(|o| matches!(o, Output::Log(_))).count();
        while bench.asked.pop_front().is_some() {
            bench.reply(error("no snapshot has been applied yet"));
        }
        assert!(logs <= 1, "a line of the log for each lease");
    }
}

#[test]
fn a_refused_first_configuration_keeps_the_lease_and_is_tried_again() {
    let mut bench = Bench::new();
    bench.connect();
    bench.settle(Some("no room"));
    assert!(bench.sent().last().is_some_and(|r| is_lease(r)), "what it runs it goes on serving");
    for _ in 0..5 {
        assert!(bench.node.link.refused.is_some());
        bench.pass(999);
        bench.settle(None);
    }
    bench.pass(100);
    assert!(bench.sent().iter().any(|r| matches!(r, Request::Apply { .. })));
}

#[test]
fn a_new_address_gets_a_new_epoch_and_a_removed_one_does_not() {
    let mut bench = Bench::up();
    for (extra, epoch) in [
        ("[[service]]\nname = \"b\"\nlisten = \"192.0.2.2:80\"\n", 1001),
        ("", 1001),
        ("[[service]]\nname = \"b\"\nlisten = \"192.0.2.1:81\"\n", 1001),
        ("[fullnat]\naddresses = \"10.0.0.1\"\n", 1002),
    ] {
        bench.input(Input::Reload);
        bench.input(Input::Loaded(Ok(Box::new(config(extra)))));
        bench.settle(None);
        assert_eq!(
            bench.sent().last(),
            Some(&&Request::Lease { ttl_ms: 3000, epoch, group: None, until_ns: None }),
            "{extra}"
        );
    }
}

#[test]
fn a_stop_gives_the_lease_up_and_ends_even_if_nobody_answers() {
    for answered in [true, false] {
        let mut bench = Bench::up();
        let waiting = bench.ask(&Verb::Conns { cursor: 0, limit: 1, filter: Default::default() });
        bench.input(Input::Stop);
        assert_eq!(bench.answers(waiting)[0]["error"]["code"], "stopping");
        assert_eq!(
            bench.sent().last(),
            Some(&&Request::Lease { ttl_ms: 0, epoch: 1000, group: None, until_ns: None })
        );
        assert_eq!(bench.exits(), 0);
        if answered {
            bench.settle(None);
        } else {
            bench.pass(1000);
        }
        assert_eq!(bench.exits(), 1);
        assert_eq!(bench.node.next_deadline(), None);
    }
}

#[test]
fn a_stop_that_keeps_the_vips_ends_at_once_without_a_word() {
    let mut bench = Bench::up();
    bench.input(Input::Reload);
    bench.input(Input::Loaded(Ok(Box::new(config("[control]\non_stop = \"keep\"\n")))));
    bench.settle(None);
    bench.input(Input::Stop);
    assert_eq!(bench.exits(), 1);
    assert!(!bench.sent().iter().any(|r| matches!(r, Request::Lease { ttl_ms: 0, .. })));
}

mod whatever_happens {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Pass(u16),
        Connect,
        Lose,
        Reply(u8),
        Ask(u8),
        Load(u8),
        Stored(u8),
        Hup,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0_u16..4000).prop_map(Op::Pass),
            Just(Op::Connect),
            Just(Op::Lose),
            (0_u8..7).prop_map(Op::Reply),
            (0_u8..12).prop_map(Op::Ask),
            (0_u8..2).prop_map(Op::Stored),
            (0_u8..3).prop_map(Op::Load),
            Just(Op::Hup),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Replies may match the question or not: every client gets exactly one answer.
        #[test]
        fn every_request_gets_exactly_one_answer(ops in proptest::collection::vec(op(), 1..80)) {
            let mut bench = Bench::new();
            let mut answers = std::collections::BTreeMap::new();
            let mut count = |bench: &mut Bench| {
                for output in &bench.out {
                    if let Output::Reply(client, _) = output {
                        *answers.entry(*client).or_insert(0) += 1;
                    }
                }
                bench.out.retain(|o| matches!(o, Output::Connect(_)));
            };
            for op in ops {
                let session = bench.session();
                match op {
                    Op::Pass(ms) => bench.pass(ms.into()),
                    Op::Connect => bench.input(Input::Connected(session)),
                    Op::Lose => bench.input(Input::Disconnected(session, "lost".into())),
                    Op::Reply(n) => bench.reply(match n {
                        0 => hello(dataplane_api::VERSION),
                        1 => applied(),
                        2 => Reply::Leased,
                        3 => status(),
                        4 => Reply::Conns { conns: vec![], next: None },
                        5 => Reply::Ending { conns: 1 },
                        _ => error("no"),
                    }),
                    Op::Ask(n) => {
                        bench.ask(&match n {
                            0 => Verb::Hello {},
                            1 => Verb::Status {},
                            2 => Verb::Services {},
                            3 => Verb::Counters {},
                            4 => Verb::Conns { cursor: 0, limit: 1, filter: Default::default() },
                            5 => Verb::Reload { confirm_s: None },
                            6 => Verb::Reload { confirm_s: Some(2) },
                            7 => Verb::Confirm {},
                            8 => Verb::Rollback {},
                            9 => Verb::Overrides {},
                            10 => drain("r", Some(1), Some(Then::Reset)),
                            _ => Verb::Enable { which: which("r") },
                        });
                    }
                    Op::Stored(n) => {
                        let write = bench.stores().last().copied().unwrap_or(1);
                        let result = if n == 0 { Ok(()) } else { Err("no".to_owned()) };
                        bench.input(Input::Stored(write, result));
                    }
                    Op::Load(0) => bench.input(Input::Loaded(Ok(Box::new(config(""))))),
                    Op::Load(_) => bench.input(Input::Loaded(config::parse("", "x").map(Box::new))),
                    Op::Hup => bench.input(Input::Reload),
                }
                count(&mut bench);
            }
            bench.input(Input::Stop);
            count(&mut bench);
            bench.pass(2000);
            count(&mut bench);
            let once = |client| answers.get(&ClientId(client)) == Some(&1);
            prop_assert!((1..=bench.clients).all(once), "{answers:?}");
        }
    }
}
