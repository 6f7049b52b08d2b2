//! The real `xvip-control` and `xvip` against a data plane that is played by the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod process {
    pub(crate) mod agent;
    mod pair;
    pub(crate) mod world;
}

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use dataplane_api::message::Request;
use process::agent::Agent;
use process::world::{GOOD, World, wait};
use serde_json::{Value, json};

fn is_apply(r: &Request) -> bool {
    matches!(r, Request::Apply { .. })
}

fn is_lease(r: &Request) -> bool {
    matches!(r, Request::Lease { ttl_ms, .. } if *ttl_ms > 0)
}

fn services(r: &Request) -> Option<usize> {
    match r {
        Request::Apply { snapshot } => Some(snapshot.services.len()),
        _ => None,
    }
}

#[test]
fn the_data_plane_gets_the_snapshot_and_then_a_lease_that_is_renewed_before_a_third_is_gone() {
    let world = World::new(GOOD);
    let agent = Agent::start(&world.agent_path());
    let _control = world.control();
    agent.wait_for("leases", |log| log.iter().filter(|(_, r)| is_lease(r)).count() >= 8);
    let log = agent.log();
    assert!(matches!(log[0].1, Request::Hello { version: dataplane_api::VERSION }));
    assert_eq!(services(&log[1].1), Some(1));
    let at: Vec<_> = log.iter().filter(|(_, r)| is_lease(r)).map(|(at, _)| *at).collect();
    let mut gaps: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    // GOOD has a lease of 600 ms: renewed each 200 ms, with room for a busy machine.
    let median = gaps[gaps.len() / 2];
    assert!((Duration::from_millis(150)..Duration::from_millis(400)).contains(&median), "{gaps:?}");
}

#[test]
fn a_data_plane_that_comes_late_dies_and_returns_is_told_everything_again() {
    let world = World::new(GOOD);
    let control = world.control();
    let status = world.xvip(&["status", "--json"]);
    assert_eq!(status.code, 0, "{status:?}");
    let absent: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(absent["agent"]["state"], "connecting");
    assert!(absent["agent"]["reason"].as_str().unwrap().contains("cannot connect"), "{absent}");
    assert_eq!(absent["data_plane"], Value::Null);
    let services = world.xvip(&["services"]);
    assert_eq!(services.code, 1);
    assert!(services.stderr.contains("never heard of"), "{services:?}");
    for _ in 0..3 {
        let agent = Agent::start(&world.agent_path());
        agent.wait_for("apply and lease", |log| {
            log.iter().any(|(_, r)| is_apply(r)) && log.iter().any(|(_, r)| is_lease(r))
        });
        let up = |v: &Value| v["agent"]["state"] == "connected" && v["agent"]["applied"] == true;
        wait("status says so", || up(&world.json(&["status"])));
        drop(agent);
        wait("loss is seen", || world.json(&["status"])["agent"]["state"] == "connecting");
    }
    let last = world.xvip(&["status"]);
    assert!(last.stdout.contains("as it was") && last.stdout.contains("pid 4242"), "{last:?}");
    let services = world.xvip(&["services"]);
    assert!(services.stderr.contains("last heard of"), "{services:?}");
    let log = control.stop();
    assert_eq!(log.matches("event=data_plane_back").count(), 3, "{log}");
    assert_eq!(log.matches("event=data_plane_lost").count(), 3, "{log}");
}

#[test]
fn reload_takes_a_good_file_and_refuses_a_bad_one_with_its_place() {
    let world = World::new(GOOD);
    let agent = Agent::start(&world.agent_path());
    let control = world.control();
    agent.wait_for("apply", |log| log.iter().any(|(_, r)| is_apply(r)));
    let epoch = world.request(&json!({"verb": "hello"}))["epoch"].as_u64().unwrap();
    world.write(&GOOD.replace("wrr", "wlr"));
    let bad = world.xvip(&["reload"]);
    assert_eq!(bad.code, 2, "{bad:?}");
    assert!(
        bad.stderr.contains("xvip.toml:10:13") && bad.stderr.contains("did you mean"),
        "{bad:?}"
    );
    let status = world.json(&["status"]);
    assert_eq!(status["config"]["last_reload"]["ok"], false);
    assert_eq!(agent.log().iter().filter(|(_, r)| is_apply(r)).count(), 1);

    let two = format!("{GOOD}\n[[service]]\nname = \"b\"\nlisten = \"192.0.2.99:53\"\n");
    world.write(&two);
    let good = world.xvip(&["reload", "--json"]);
    let result: Value = serde_json::from_str(&good.stdout).unwrap();
    assert_eq!((good.code, &result["applied"], &result["services"]), (0, &json!(true), &json!(2)));
    assert_eq!(agent.log().iter().rev().find_map(|(_, r)| services(r)), Some(2));
    // A VIP that nobody announced yet: a new epoch makes the data plane announce it.
    agent.wait_for("new epoch", |log| {
        log.iter().any(|(_, r)| matches!(r, Request::Lease { epoch: e, .. } if *e > epoch))
    });

    world.write(GOOD);
    control.signal(rustix::process::Signal::HUP);
    agent.wait_for("apply after SIGHUP", |log| {
        log.iter().rev().find_map(|(_, r)| services(r)) == Some(1)
    });
    let log = control.stop();
    assert!(log.contains("event=config_failed"), "{log}");
    assert_eq!(log.matches("event=config_reloaded").count(), 2, "{log}");
}

#[test]
fn a_configuration_that_the_data_plane_refuses_is_rolled_back() {
    let world = World::new(GOOD);
    let agent = Agent::start(&world.agent_path());
    let _control = world.control();
    agent.wait_for("apply", |log| log.iter().any(|(_, r)| is_apply(r)));
    agent.refuse_service("poison");
    world.write(&format!("{GOOD}\n[[service]]\nname = \"poison\"\nlisten = \"192.0.2.9:53\"\n"));
    let reload = world.xvip(&["reload"]);
    assert_eq!(reload.code, 1, "{reload:?}");
    assert!(
        reload.stderr.contains("nothing changed: the data plane refused: no poison"),
        "{reload:?}"
    );
    agent.wait_for("the old state again", |log| {
        log.iter().rev().find_map(|(_, r)| services(r)) == Some(1)
    });
    let status = world.json(&["status"]);
    assert_eq!(
        (&status["config"]["services"], &status["agent"]["applied"]),
        (&json!(1), &json!(true))
    );
}

#[test]
fn a_reload_without_data_plane_is_kept_until_there_is_one() {
    let world = World::new(GOOD);
    let _control = world.control();
    world.write(&format!("{GOOD}\n[[service]]\nname = \"b\"\nlisten = \"192.0.2.99:53\"\n"));
    let reload = world.xvip(&["reload"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    assert!(reload.stdout.contains("once it is connected"), "{reload:?}");
    let agent = Agent::start(&world.agent_path());
    agent.wait_for("the new one", |log| log.iter().any(|(_, r)| services(r) == Some(2)));
}

#[test]
fn an_orderly_stop_gives_the_vips_up_and_a_kill_does_not() {
    let world = World::new(GOOD);
    let agent = Agent::start(&world.agent_path());
    let is_release = |r: &Request| matches!(r, Request::Lease { ttl_ms: 0, .. });
    let control = world.control();
    agent.wait_for("lease", |log| log.iter().any(|(_, r)| is_lease(r)));
    control.kill();
    // A new one takes the stale socket over, with a later epoch.
    let control = world.control();
    agent.wait_for("second session", |log| {
        log.iter().filter(|(_, r)| matches!(r, Request::Hello { .. })).count() == 2
            && log.last().is_some_and(|(_, r)| !matches!(r, Request::Hello { .. }))
    });
    wait("lease", || world.json(&["status"])["data_plane"]["epoch"] != json!(0));
    assert!(!agent.log().iter().any(|(_, r)| is_release(r)));
    let log = control.stop();
    assert!(log.contains("VIPs given up"), "{log}");
    assert!(agent.log().iter().any(|(_, r)| is_release(r)));
    assert!(!world.control_path().exists());
    let epochs: Vec<_> = agent
        .log()
        .iter()
        .filter_map(|(_, r)| if let Request::Lease { epoch, .. } = r { Some(*epoch) } else { None })
        .collect();
    assert!(epochs.is_sorted() && epochs.first() < epochs.last(), "{epochs:?}");
}

#[test]
fn versions_that_differ_are_named_on_both_sockets() {
    let world = World::new(GOOD);
    let agent = Agent::start(&world.agent_path());
    agent.speak_version(dataplane_api::VERSION + 1);
    let control = world.control();
    wait("reason", || {
        let status = world.json(&["status"]);
        status["agent"]["reason"].as_str().is_some_and(|r| r.contains("speaks version 2"))
    });
    assert!(!agent.log().iter().any(|(_, r)| is_apply(r)), "nothing is applied across versions");
    let reply = world.request(&json!({"verb": "hello", "version": 9}));
    assert_eq!(reply["error"]["code"], "version", "{reply}");
    agent.speak_version(dataplane_api::VERSION);
    agent.wait_for("apply once versions agree", |log| log.iter().any(|(_, r)| is_apply(r)));
    let log = control.stop();
    assert_eq!(log.matches("speaks version 2").count(), 1, "said once: {log}");
}

#[test]
fn a_data_plane_that_answers_nonsense_is_dropped_and_tried_again() {
    let world = World::new(GOOD);
    let agent = Agent::start(&world.agent_path());
    let _control = world.control();
    agent.wait_for("apply", |log| log.iter().any(|(_, r)| is_apply(r)));
    for nonsense in
        ["{}\n", "\u{0}\u{1}\n", "[[[[[[\n", "{\"reply\":\"leased\"}\n{\"reply\":\"leased\"}\n"]
    {
        let before = agent.sessions();
        agent.say(nonsense);
        wait("a new session", || agent.sessions() > before);
        wait("it works again", || world.json(&["status"])["agent"]["applied"] == true);
    }
}

#[test]
fn conns_are_paged_and_filtered_by_the_data_plane() {
    let world = World::new(GOOD);
    let _agent = Agent::start(&world.agent_path());
    let _control = world.control();
    wait("applied", || world.json(&["status"])["agent"]["applied"] == true);
    let table = world.xvip(&["conns"]);
    assert_eq!(table.stdout.lines().count(), 102, "{table:?}");
    assert!(table.stdout.contains("there are more"), "{table:?}");
    assert!(table.stdout.contains("[2001:db8::1]:10001"), "{table:?}");
    let all = world.json(&["conns", "--all"]);
    assert_eq!(all["conns"].as_array().unwrap().len(), 2500);
    assert_eq!(all["more"], false);
    let few = world.json(&["conns", "--limit", "1200", "--state", "UDP", "--service", "web"]);
    assert_eq!((few["conns"].as_array().unwrap().len(), &few["more"]), (625, &json!(false)));
    let usage = world.xvip(&["conns", "--limit", "0"]);
    assert_eq!(usage.code, 2, "{usage:?}");
}

#[test]
fn tables_are_for_people_and_json_is_for_programs() {
    let world = World::new(GOOD);
    let _agent = Agent::start(&world.agent_path());
    let _control = world.control();
    wait("applied", || world.json(&["status"])["agent"]["applied"] == true);
    let status = world.xvip(&["status"]).stdout;
    for part in ["node lb1", "agent       connected", "1.05M connections", "eth0", "no such device"]
    {
        assert!(status.contains(part), "{part}: {status}");
    }
    let services = world.xvip(&["services"]).stdout;
    assert!(services.contains("web  tcp 192.0.2.10:80  nat  wrr"), "{services}");
    assert!(services.contains("10.0.1.1:80") && services.contains("1.50 KiB"), "{services}");
    let counters = world.xvip(&["counters"]).stdout;
    assert!(counters.contains("no_service") && !counters.contains("tx_full"), "{counters}");
    assert!(world.xvip(&["counters", "--all"]).stdout.contains("tx_full"));
    let counters = world.json(&["counters"]);
    assert_eq!(counters["drops"].as_array().unwrap().len(), dataplane_api::counter::Reason::COUNT);
    let gone = world.xvip(&["status", "--socket", "/nonexistent/control.sock"]);
    assert_eq!(gone.code, 1);
    assert!(gone.stderr.contains("is it running?"), "{gone:?}");
}

#[test]
fn whoever_stops_reading_our_output_causes_no_complaint() {
    let world = World::new(GOOD);
    let _agent = Agent::start(&world.agent_path());
    let _control = world.control();
    wait("applied", || world.json(&["status"])["agent"]["applied"] == true);
    let mut child = world.xvip_command(&["conns", "--all"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn hostile_and_slow_clients_harm_nobody() {
    let world = World::new(&GOOD.replace("600ms", "3s"));
    let agent = Agent::start(&world.agent_path());
    let control = world.control();
    assert_eq!(world.control_path().metadata().unwrap().permissions().mode() & 0o777, 0o660);
    wait("applied", || world.json(&["status"])["agent"]["applied"] == true);

    // Half a request, then silence: counted from its first byte.
    let mut stalled = world.connect();
    stalled.write_all(b"{\"verb\":").unwrap();
    // A line without end: an operator may send a whole file, but no more.
    let mut long = world.connect();
    let _ = long.write_all(&vec![b'x'; 9 << 20]);
    let reply = first_line(&long);
    assert!(reply.contains("longer than 65536 bytes"), "{reply}");
    // Depth and digits beyond reason.
    for line in ["[".repeat(60_000), "{\"a\":".repeat(10_000), format!("1e{}", "9".repeat(60_000))]
    {
        assert_eq!(world.send(&line)["error"]["code"], "bad-request");
    }
    let mut deep = world.connect();
    let _ = deep.write_all("[".repeat(100_000).as_bytes());
    // Asks and asks, and never reads a reply.
    let mut greedy = world.connect();
    greedy.set_nonblocking(true).unwrap();
    for _ in 0..10_000 {
        if greedy.write_all(b"{\"verb\":\"conns\",\"limit\":1000}\n").is_err() {
            break;
        }
    }
    // Cut in the middle of a request.
    let mut cut = world.connect();
    cut.write_all(b"{\"verb\":\"rel").unwrap();
    drop(cut);
    // A request without newline, then the end: answered.
    let mut last = world.connect();
    last.write_all(b"{\"verb\":\"hello\"}").unwrap();
    last.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(first_line(&last).contains("\"ok\":true"));
    // 40 who stay: some are turned away, nobody waits.
    let crowd: Vec<_> = (0..40).map(|_| world.connect()).collect();
    wait("the crowd is counted", || {
        let mut extra = world.connect();
        let _ = extra.write_all(b"{\"verb\":\"hello\"}\n");
        first_line(&extra).contains("32 clients")
    });
    drop(crowd);
    wait("slots come back", || world.xvip(&["status"]).code == 0);
    assert!(first_line(&stalled).contains("not complete after 5 s"));

    let at: Vec<_> = agent.log().iter().filter(|(_, r)| is_lease(r)).map(|(at, _)| *at).collect();
    let worst = at.windows(2).map(|p| p[1] - p[0]).max().unwrap();
    assert!(worst < Duration::from_secs(3), "the lease was late: {worst:?}");
    let log = control.stop();
    let uid = rustix::process::getuid().as_raw();
    assert!(log.contains(&format!("event=bad_request uid={uid}")), "{log}");
}

fn first_line(stream: &std::os::unix::net::UnixStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut line = String::new();
    let _ = BufReader::new(stream).take(1 << 20).read_line(&mut line);
    line
}

#[test]
fn a_second_control_of_the_same_instance_does_not_start() {
    let world = World::new(GOOD);
    let _control = world.control();
    let output = world.control_command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another xvip-control runs"), "{text}");
}

#[test]
fn control_does_not_start_on_a_bad_file() {
    let world = World::new("");
    let output = world.control_command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("file is empty"), "{text}");
}

#[test]
fn check_prints_a_summary_or_every_error() {
    let world = World::new(GOOD);
    let file = world.config_path();
    let file = file.to_str().unwrap();
    let good = world.xvip(&["check", file]);
    assert_eq!(good.code, 0);
    assert!(good.stdout.contains("valid: 1 interface, 1 service, 1 real server"), "{good:?}");
    world.write(
        &GOOD.replace("10.0.1.1:80", "10.0.1.1:0").replace("name = \"web\"", "nmae = \"web\""),
    );
    let bad = world.xvip(&["check", file]);
    assert_eq!((bad.code, bad.stdout.as_str()), (2, ""));
    assert!(bad.stderr.contains("3 errors"), "{bad:?}");
    let json = world.xvip(&["check", file, "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["errors"][0]["line"], 7, "{json}");
    assert_eq!(json["errors"].as_array().unwrap().len(), 3);
}
