//! Events, alerts and metrics as clients and targets meet them.

use dataplane_api::message::{InterfaceStatus, TableStatus};

use super::*;
use crate::event::{Event, Kind};

const TARGET: &str =
    "[alert]\ndigest = 0\nseverity = \"info\"\ncommand = { argv = \"/bin/true\" }\n";

fn kinds(reply: &Value) -> Vec<String> {
    let events = reply["result"]["events"].as_array().unwrap().iter();
    events.map(|e| e["kind"].as_str().unwrap().to_owned()).collect()
}

impl Bench {
    /// What clients have been told, in order.
    fn told(&self) -> Vec<Value> {
        let lines = self.out.iter().filter_map(|o| match o {
            Output::Reply(_, line) => Some(serde_json::from_str(line).unwrap()),
            _ => None,
        });
        lines.collect()
    }

    fn ask_events(&mut self, after: u64, limit: u32, wait_ms: u32) -> Option<Value> {
        let before = self.told().len();
        self.clients += 1;
        let boot_id = Some(self.boot.to_owned());
        let verb = Verb::Events { after, boot_id, limit, wait_ms, max_age_ms: None };
        let line = serde_json::to_vec(&verb).unwrap();
        self.input(Input::Client(ClientId(9000 + self.clients), user(0, &[]), line));
        self.told().get(before).cloned()
    }

    fn logged(&self, event: &str) -> usize {
        let logs = self.out.iter();
        logs.filter(|o| matches!(o, Output::Log(r) if r.event == event)).count()
    }

    fn look(&mut self, status: Status) {
        self.now = self.now.after(Duration::from_secs(2));
        let now = self.now;
        self.node.look(&status, now);
        self.input(Input::Tick);
    }
}

fn seen(link: &str, used: u64) -> Status {
    let interface = InterfaceStatus {
        name: "eth0".into(),
        link: link.into(),
        attached: link == "up",
        ..Default::default()
    };
    let table = TableStatus { capacity: 100, used, ..Default::default() };
    Status { interfaces: vec![interface], table, ..Default::default() }
}

#[test]
fn a_follower_gets_each_event_once_and_waits_for_the_next() {
    let mut bench = Bench::up();
    let first = bench.ask_events(0, 1000, 10_000).unwrap();
    assert_eq!(kinds(&first), ["control_started", "data_plane_back"]);
    let next = first["result"]["next"].as_u64().unwrap();
    assert_eq!(bench.ask_events(next, 10, 10_000), None, "it waits");
    let before = bench.told().len();
    let session = bench.session();
    bench.input(Input::Disconnected(session, "gone".into()));
    let told = bench.told()[before].clone();
    assert_eq!(kinds(&told), ["data_plane_lost"]);
    let next = told["result"]["next"].as_u64().unwrap();
    assert_eq!(bench.ask_events(next, 10, 1000), None);
    bench.now = bench.now.after(Duration::from_secs(2));
    bench.input(Input::Tick);
    let nothing = bench.told().last().unwrap().clone();
    assert_eq!((kinds(&nothing).len(), nothing["result"]["next"].as_u64()), (0, Some(next)));
}

#[test]
fn a_slow_follower_is_told_how_many_it_missed() {
    let mut bench = Bench::up();
    for n in 0..1500 {
        let event = Event::new(Kind::RealDown, bench.now, format!("{n}")).service("a").real("b");
        bench.node.event(event);
    }
    let page = bench.ask_events(2, 10, 0).unwrap();
    assert_eq!(page["result"]["missed"], 500, "1502 events, 1000 of them kept");
    assert_eq!(page["result"]["events"][0]["number"], 503);
    assert_eq!(page["result"]["next"], 512);
    // After a restart numbers mean nothing: everything is new, and nothing is waited for.
    bench.boot = "before";
    let all = bench.ask_events(1502, 1, 10_000).unwrap();
    assert_eq!((&all["result"]["missed"], &all["result"]["next"]), (&0.into(), &503.into()));
}

#[test]
fn a_data_plane_that_never_comes_is_told_once() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        let session = bench.session();
        bench.now = bench.now.after(Duration::from_secs(1));
        bench.input(Input::Disconnected(session, "no such file".into()));
        bench.now = bench.now.after(Duration::from_secs(1));
        bench.input(Input::Tick);
    }
    assert_eq!(bench.logged("data_plane_lost"), 1);
}

#[test]
fn interfaces_and_table_are_told_once_each_way() {
    let mut bench = Bench::up();
    for link in ["up", "down", "up", "down", "down", "down", "up", "up"] {
        bench.look(seen(link, 10));
    }
    assert_eq!((bench.logged("interface_down"), bench.logged("interface_up")), (1, 1));
    for used in [89, 90, 95, 85, 91, 80, 79, 85] {
        bench.look(seen("up", used));
    }
    assert_eq!((bench.logged("table_nearly_full"), bench.logged("table_relieved")), (1, 1));
}

#[test]
fn an_alert_goes_out_and_comes_back_as_delivered_or_as_an_event() {
    let mut bench = Bench::up();
    bench.node.config = Arc::new(config(TARGET));
    bench.node.watch_config(bench.now);
    for attempt in 0..3 {
        if attempt == 0 {
            bench.node.event(Event::new(Kind::ConfigFailed, bench.now, "why"));
        }
        bench.now = bench.now.after(Duration::from_secs(60));
        bench.input(Input::Tick);
        let sent = bench.out.iter().rev().find_map(|o| match o {
            Output::Alert(delivery) => Some(delivery.id),
            _ => None,
        });
        bench.input(Input::Alerted(sent.unwrap(), Err("refused".into())));
    }
    assert_eq!(bench.logged("alert_failed"), 3);
    assert_eq!(bench.logged("alert_undeliverable"), 1);
    let status = bench.node.alert_status(bench.now);
    assert!(status[0].pending >= 1, "the loss of the silent data plane waits as well");
    assert_eq!(status[0].error.as_deref(), Some("refused"));
    bench.input(Input::Stop);
    assert_eq!(bench.logged("alerts_unsent"), 1);
}

#[test]
fn metrics_are_served_where_the_file_says_and_nowhere_else() {
    let mut bench = Bench::up();
    let listens = |bench: &Bench| {
        let all = bench.out.iter().filter_map(|o| match o {
            Output::Listen(address) => Some(*address),
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    assert!(listens(&bench).is_empty());
    let address: SocketAddr = "127.0.0.1:9105".parse().unwrap();
    bench.node.config = Arc::new(config("[metrics]\nlisten = \"127.0.0.1:9105\"\n"));
    bench.input(Input::Tick);
    for _ in 0..3 {
        bench.input(Input::Listening(address, Err("in use".into())));
    }
    assert_eq!(bench.node.metrics_status().unwrap().error.as_deref(), Some("in use"));
    assert_eq!(bench.logged("metrics"), 1, "once, however often it is tried");
    bench.input(Input::Scrape(ClientId(7), Format::OpenMetrics));
    let Some(Output::Reply(ClientId(7), text)) = bench.out.last() else { panic!() };
    assert!(text.starts_with("# HELP xvip_build_info ") && text.ends_with("# EOF\n"));
    bench.node.config = Arc::new(config(""));
    bench.input(Input::Tick);
    assert_eq!(listens(&bench), [Some(address), None]);
}
