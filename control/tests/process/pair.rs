//! Two real `xvip-control` on this machine, each with a data plane played by the test, and a heartbeat over
//! loopback.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dataplane_api::message::Request;
use rustix::process::Signal;
use serde_json::Value;

use super::agent::Agent;
use super::world::{Control, World, wait};

/// Silence after which the other node takes over; room for a busy machine is on top.
const DEADTIME: Duration = Duration::from_millis(300);
const ROOM: Duration = Duration::from_millis(400);

const TEXT: &str = r#"[node]
name = "NAME"
[[interface]]
name = "eth0"
[[service]]
name = "web"
listen = "192.0.2.10:80"
real = [{ address = "10.0.1.1:80" }]
[ha]
nodes = ["lb1", "lb2"]
keepalive = "50ms"
deadtime = "300ms"
initdead = "1s"
key = [{ id = 1, file = "KEY" }]
path = [{ type = "udp", lb1 = "127.0.0.1:PORT1", lb2 = "127.0.0.1:PORT2" }]
group = [{ name = "web", prefer = "lb1" }]
"#;

/// One node; its parts go in this order.
struct Side {
    control: Option<Control>,
    agent: Agent,
    world: World,
    /// Where the key of both is.
    _keys: Rc<World>,
}

impl Side {
    fn new(name: &str, ports: [u16; 2], key: &Path, keys: &Rc<World>) -> Self {
        let world = World::new("");
        let text = TEXT.replace("NAME", name).replace("KEY", key.to_str().unwrap());
        let text = text.replace("PORT1", &ports[0].to_string());
        world.write(&text.replace("PORT2", &ports[1].to_string()));
        let agent = Agent::start(&world.agent_path());
        agent.is_healthy();
        Self { control: None, agent, world, _keys: Rc::clone(keys) }
    }

    fn start(&mut self) {
        self.control = Some(self.world.control());
    }

    fn owns(&self) -> bool {
        self.agent.owns("web")
    }

    fn ha(&self) -> Value {
        self.world.json(&["ha"])
    }

    fn leases(&self) -> usize {
        let log = self.agent.log();
        log.iter().filter(|(_, r)| matches!(r, Request::Lease { ttl_ms: 1.., .. })).count()
    }
}

fn free_ports() -> [u16; 2] {
    let sockets = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|s| s.local_addr().unwrap().port())
}

/// Both running, the first one active.
fn pair() -> [Side; 2] {
    let ports = free_ports();
    let keys = World::new("");
    let key = keys.path("ha.key");
    std::fs::write(&key, format!("{}\n", "ab".repeat(32))).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let keys = Rc::new(keys);
    let mut pair = ["lb1", "lb2"].map(|name| Side::new(name, ports, &key, &keys));
    pair.iter_mut().for_each(Side::start);
    wait("one of them is active", || pair.iter().any(Side::owns));
    wait("they know of each other", || {
        pair.iter().all(|s| s.ha()["view"]["peer"]["state"] == "alive")
    });
    if pair[1].owns() {
        pair.reverse();
    }
    assert!(pair[0].owns() && !pair[1].owns());
    pair
}

#[expect(clippy::disallowed_methods, reason = "the test measures how long it takes")]
fn time_until(what: &str, condition: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    wait(what, condition);
    begin.elapsed()
}

#[test]
fn the_other_node_takes_over_when_one_is_killed_and_never_do_both_own() {
    let [mut one, two] = pair();
    let before = two.agent.log().len();
    assert_eq!(two.leases(), 0, "a standby asks for no lease");
    one.control.take().unwrap().kill();
    let mut both = false;
    let took = time_until("the other one takes over", || {
        both |= one.owns() && two.owns();
        two.owns()
    });
    assert!(took < DEADTIME + ROOM, "{took:?}");
    assert!(!both, "the lease of the dead one had ended before");
    assert!(two.agent.log().len() > before);
    let epoch = |side: &Side| side.ha()["view"]["groups"][0]["epoch"].as_u64().unwrap();
    let first = epoch(&two);
    // It comes back, learns, and takes nothing away.
    one.start();
    wait("it is seen again", || two.ha()["view"]["peer"]["state"] == "alive");
    wait("and sees", || one.ha()["view"]["peer"]["state"] == "alive");
    assert!(two.owns() && !one.owns());
    assert!(epoch(&two) >= first);
    let events = two.world.xvip(&["events", "--json"]).stdout;
    assert!(events.contains("role_taken_over") && events.contains("peer_dead"), "{events}");
}

#[test]
fn a_node_that_was_stopped_leases_nothing_when_it_goes_on() {
    let [one, two] = pair();
    let control = one.control.as_ref().unwrap();
    control.signal(Signal::STOP);
    wait("the other one takes over", || two.owns());
    assert!(!one.owns());
    let before = one.leases();
    control.signal(Signal::CONT);
    wait("it says that it fenced itself", || {
        one.world.xvip(&["events", "--json"]).stdout.contains("fenced_itself")
    });
    wait("it stands by", || one.ha()["view"]["groups"][0]["role"] == "standby");
    // What it had written before it was stopped may have been read since: it is good for nothing.
    assert!(one.leases() <= before + 1 && !one.owns() && two.owns());
    assert_eq!(one.ha()["view"]["fenced_itself"], 1);
}

#[test]
fn an_orderly_stop_and_a_switchover_hand_over_at_once() {
    let [mut one, two] = pair();
    let name = one.ha()["view"]["node"].as_str().unwrap().to_owned();
    let switch = one.world.xvip(&["switchover", "web"]);
    assert_eq!(switch.code, 0, "{switch:?}");
    assert!(two.owns() && !one.owns(), "{switch:?}");
    let back = two.world.xvip(&["switchover", "--to", &name]);
    assert_eq!(back.code, 0, "{back:?}");
    assert!(one.owns() && !two.owns());
    assert_eq!(one.world.xvip(&["switchover", "nosuch"]).code, 1);

    let on = one.world.xvip(&["maintenance", "on"]);
    assert_eq!(on.code, 0, "{on:?}");
    wait("both know", || two.ha()["view"]["maintenance"] == true);
    assert_eq!(one.world.xvip(&["maintenance", "off"]).code, 0);
    wait("both know", || two.ha()["view"]["maintenance"] == false);

    let mut gap = 0;
    let control = one.control.take().unwrap();
    let stopper = std::thread::spawn(move || control.stop());
    let took = time_until("the other one takes over", || {
        gap += u32::from(!one.owns() && !two.owns());
        two.owns()
    });
    // Each look takes ten milliseconds: a takeover by silence would be thirty of them.
    assert!(gap < 15, "{gap} looks found nobody, {took:?}");
    let log = stopper.join().unwrap();
    assert!(log.contains("reason=\"VIPs given up\""), "{log}");
}

#[test]
fn what_the_files_differ_in_is_named_and_stops_nothing() {
    let [one, two] = pair();
    let file = std::fs::read_to_string(two.world.config_path()).unwrap();
    two.world.write(&file.replace("10.0.1.1:80", "10.0.1.2:80"));
    assert_eq!(two.world.xvip(&["reload"]).code, 0);
    wait("the difference is named", || {
        let found = one.ha()["differences"].to_string();
        found.contains("line 8: service[web].real[10.0.1.1:80].address is not in the file")
            && found.contains("line 8 of lb")
    });
    assert!(one.owns() && !two.owns());
    two.world.write(&file);
    assert_eq!(two.world.xvip(&["reload"]).code, 0);
    wait("and is gone", || one.ha()["differences"].as_array().unwrap().is_empty());
}
