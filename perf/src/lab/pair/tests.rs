//! What a pair is told, and, as root, the topology with one balancer of two.

use super::config::Pair;
use super::node::Node;
use super::*;
use crate::lab::balancer::{Config, binary};
use crate::lab::generator::{Traffic, only};
use crate::lab::wait_until;
use std::path::Path;
use std::time::Duration;

#[test]
fn the_two_files_differ_in_the_name_of_the_node_only() {
    let pair = Pair::tuned().falling_back();
    let texts = [0, 1].map(|n| pair.text(&Config::default(), n, Path::new("/k")));
    let differing: Vec<_> =
        texts[0].lines().zip(texts[1].lines()).filter(|(a, b)| a != b).collect();
    assert_eq!(differing, [("name = \"lb1\"", "name = \"lb2\"")]);
    let file: toml::Table = texts[1].parse().unwrap();
    let ha = file["ha"].as_table().unwrap();
    assert_eq!(ha["deadtime"].as_str(), Some("50ms"));
    assert_eq!(ha["failback"].as_str(), Some("when-synced"));
    assert_eq!(ha["path"].as_array().unwrap().len(), 2);
    assert_eq!(ha["replication"]["lb2"].as_str(), Some("192.0.2.2:6941"));
    assert_eq!(ha["group"][0]["gateways"][0].as_str(), Some("198.19.255.254"));
    assert_eq!(pair.words(), "tuned (keepalive 10ms, warntime 20ms, deadtime 50ms)");
}

#[test]
fn counters_are_read_by_their_names() {
    let text = r#"{"nftables":[{"metainfo":{}},
        {"counter":{"name":"servers","packets":3,"bytes":9}},
        {"counter":{"name":"clients","packets":7,"bytes":9}}]}"#;
    assert_eq!(parse_counters(text).unwrap(), Resets { clients: 7, servers: 3 });
    assert!(parse_counters(r#"{"nftables":[]}"#).is_err());
}

#[test]
fn what_a_node_says_of_itself_is_read_and_nothing_is_taken_for_granted() {
    let said = |role: &str, verification: &str, synced: bool| -> super::ha::Ha {
        let text = format!(
            r#"{{"configured":true,"view":{{"node":"lb1","groups":[{{"name":"all","role":"{role}",
            "verification":{verification}}}]}},"replication":{{"state":"open","synced":{synced},
            "latency":{{"count":3,"p99_us":12}}}},"warnings":[]}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    let owner = said("active", "\"verified\"", true);
    assert!(owner.active() && !owner.standby() && owner.verified() && owner.synced());
    assert!(!said("active", "\"verifying\"", true).verified());
    assert!(said("standby", "null", false).standby() && !said("standby", "null", false).synced());
    let nothing: super::ha::Ha =
        serde_json::from_str(r#"{"configured":false,"view":null}"#).unwrap();
    assert!(!nothing.active() && !nothing.standby() && !nothing.verified() && !nothing.synced());
}

fn may_run() -> bool {
    let binaries = ["xvip-dataplane", "xvip-control", "xvip-pktgen"];
    if rustix::process::geteuid().is_root() && binaries.iter().all(|b| binary(b).is_ok()) {
        return true;
    }
    assert_ne!(std::env::var("REQUIRE_NETNS").as_deref(), Ok("1"), "needs root and all binaries");
    eprintln!("SKIPPED: needs root and all binaries");
    false
}

#[test]
fn traffic_passes_the_switch_through_one_balancer_and_stops_when_its_cables_are_pulled() {
    if !may_run() {
        return;
    }
    let lab = Lab::pair(Ends::Generator).unwrap();
    let config = Config {
        connections: 2_000,
        poll: dataplane_api::service::Poll::Adaptive,
        ..Config::default()
    };
    let mut node = Node::new(&lab, 0, &config.text()).unwrap();
    node.up(&lab).unwrap();
    wait_until("the balancer is there", Duration::from_secs(30), || {
        node.must_run()?;
        Ok((node.attached() && node.status().is_some_and(|s| s.lease_ms > 0)).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", node.tails()));
    let traffic = Traffic {
        connections: 1_000,
        open_rate: 5_000,
        rate: "5kpps".into(),
        seconds: 3.0,
        max_loss: 0.999,
        ..Traffic::default()
    };
    let report = traffic.run(&lab).unwrap();
    let trial = only(&report).unwrap();
    assert_eq!(trial.connections.alive_at_end, 1_000, "{report:?}");
    assert_eq!(lab.resets().unwrap(), Resets::default());
    let mut running = traffic.start(&lab).unwrap();
    wait_until("all connections are there", Duration::from_secs(30), || {
        running.must_run()?;
        Ok((node.established() == 1_000).then_some(()))
    })
    .unwrap();
    std::thread::park_timeout(Duration::from_secs(1));
    node.power_off(&lab).unwrap();
    let report = running.finish().unwrap();
    let trial = only(&report).unwrap();
    assert_eq!((trial.connections.alive, trial.connections.alive_at_end), (1_000, 0));
    assert!(trial.longest_silence.unwrap().ms > 500.0, "{:?}", trial.longest_silence);
    assert!(!Path::new("/run").join(lab.prefix()).join("lb1").exists());
}
