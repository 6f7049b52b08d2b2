//! The netlink shell against a real kernel, in network namespaces made for each test.
//!
//! Needs root and `ip`. Without them the tests say so and pass; with `REQUIRE_NETNS=1` that fails.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use dataplane::address::{Address, DeviceId};
use dataplane::kernel::{KernelState, Monitor, Reachability};
use dataplane::published::HopState;
use dataplane::routes::{Exit, RouteTable};
use dataplane::{clock, next_hop};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace, removed with all that is in it.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Relaxed);
        let name = format!("xvkernel-{}-{count}", std::process::id());
        run(&format!("ip netns add {name}"));
        let namespace = Self(name);
        run(&format!("ip -n {} link set lo up", namespace.0));
        namespace
    }

    /// Runs `ip` in it.
    fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }

    /// Moves the calling thread into it, for good.
    fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "`{command}`: {status}");
}

/// Runs a test in a namespace of its own, on a thread of its own.
fn in_namespace(test: impl FnOnce(&Namespace) + Send) {
    let root = rustix::process::geteuid().is_root();
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_ok();
    if !root || !ip {
        let why = "needs root and `ip` to make network namespaces";
        assert!(std::env::var_os("REQUIRE_NETNS").is_none_or(|v| v != "1"), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let namespace = Namespace::new();
    std::thread::scope(|scope| {
        let run = || {
            namespace.enter();
            test(&namespace);
        };
        let outcome = scope.spawn(run).join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A monitor and what it knows.
struct Watch {
    monitor: Monitor,
    state: KernelState,
}

impl Watch {
    fn new() -> Self {
        let mut monitor = Monitor::open().unwrap();
        monitor.follow(["a0", "a1", "up0"]);
        let state = monitor.dump().unwrap();
        Self { monitor, state }
    }

    /// Takes in events until `met`; false if that takes longer than `limit`.
    fn within(&mut self, limit: Duration, met: impl Fn(&KernelState) -> bool) -> bool {
        let start = clock::now();
        while !met(&self.state) {
            if clock::now().since(start) > limit {
                return false;
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let fd = self.monitor.fd();
            let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
            let drained = self.monitor.drain(&mut self.state);
            assert!(!drained.lost, "events were lost or not understood");
        }
        true
    }

    /// Takes in events until `met`, at most fifteen seconds; then a dump must say the same.
    fn until(&mut self, what: &str, met: impl Fn(&KernelState) -> bool) {
        let seen = self.within(Duration::from_secs(15), &met);
        assert!(seen, "not seen: {what}; known: {:#?}", self.state);
        let dump = self.monitor.dump().unwrap();
        assert!(met(&dump), "events said {what}, a dump does not: {dump:#?}");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_life_of_a_link_is_seen_by_events_and_by_dumps() {
    in_namespace(|space| {
        let mut watch = Watch::new();
        assert!(watch.state.link_named("lo").is_some_and(|lo| !lo.ethernet && lo.up));
        space.ip("link add a0 numrxqueues 4 numtxqueues 4 type veth peer name b0");
        watch.until("a0 exists", |s| s.link_named("a0").is_some_and(|l| l.ethernet && !l.up));
        let a0 = watch.state.link_named("a0").unwrap().clone();
        assert_eq!((a0.rx_queues, a0.tx_queues, a0.driver.as_str()), (4, 4, "veth"));
        assert_eq!((a0.mtu, a0.xdp_program, a0.mac.is_group()), (1500, None, false));
        assert_eq!(watch.state.link_named("b0").unwrap().driver, "veth");

        space.ip("link set a0 up");
        watch.until("up, no carrier", |s| s.link_named("a0").is_some_and(|l| l.up && !l.running));
        space.ip("link set b0 up");
        watch.until("carrier", |s| s.link_named("a0").is_some_and(|l| l.running));
        space.ip("link set a0 mtu 1400");
        watch.until("mtu", |s| s.link_named("a0").is_some_and(|l| l.mtu == 1400));
        space.ip("link set a0 address 02:00:00:00:00:42");
        watch.until("mac", |s| s.link_named("a0").is_some_and(|l| l.mac.0[5] == 0x42));
        space.ip("addr add 192.0.2.1/24 dev a0");
        watch.until("address", |s| s.addresses.contains(&(a0.ifindex, ip("192.0.2.1"), 24)));
        space.ip("link set a0 down");
        watch.until("down", |s| s.link_named("a0").is_some_and(|l| !l.up));
        space.ip("link set a0 name a1");
        watch.until("renamed", |s| {
            s.link_named("a0").is_none() && s.link_named("a1").is_some_and(|l| l.rx_queues == 4)
        });
        space.ip("link del a1");
        watch.until("gone", |s| s.link_named("a1").is_none() && !s.is_local(ip("192.0.2.1")));
        space.ip("link add a0 type veth peer name b0");
        watch.until("recreated", |s| s.link_named("a0").is_some_and(|l| l.ifindex != a0.ifindex));
    });
}

#[test]
fn queues_are_those_in_use_and_not_those_allocated() {
    in_namespace(|space| {
        let mut watch = Watch::new();
        space.ip("link add a0 numrxqueues 4 numtxqueues 4 type veth peer name b0");
        watch.until("four", |s| s.link_named("a0").is_some_and(|l| l.rx_queues == 4));
        // Nothing announces this on rtnetlink: the next dump has to see it.
        if Command::new("ethtool").args(["-L", "a0", "rx", "2"]).status().is_ok_and(|s| s.success())
        {
            watch.state = watch.monitor.dump().unwrap();
            assert_eq!(watch.state.link_named("a0").unwrap().rx_queues, 2);
        } else {
            eprintln!("SKIPPED the change of queues: no ethtool");
        }
        // No channels: counted in sysfs or taken from the allocation, but never none.
        space.ip("link add up0 type bridge");
        watch.until("bridge", |s| s.link_named("up0").is_some_and(|l| l.rx_queues >= 1));
        assert_eq!(watch.state.link_named("up0").unwrap().driver, "bridge");
    });
}

#[test]
fn a_port_leaving_a_bridge_is_still_there() {
    in_namespace(|space| {
        let mut watch = Watch::new();
        space.ip("link add a0 type veth peer name b0");
        space.ip("link add up0 type bridge");
        space.ip("link set a0 master up0");
        space.ip("link set a0 nomaster");
        space.ip("link set a0 mtu 1300");
        watch.until("last change", |s| s.link_named("a0").is_some_and(|l| l.mtu == 1300));
    });
}

/// A second namespace behind `a0`, with 10.7.0.1 and fd07::1 here, and .2 and ::2 there.
fn neighbor_namespace(space: &Namespace) -> Namespace {
    let other = Namespace::new();
    space.ip(&format!("link add a0 type veth peer name b0 netns {}", other.0));
    other.ip("link set b0 address 02:00:00:00:07:02");
    for (space, device, last) in [(space, "a0", 1), (&other, "b0", 2)] {
        space.ip(&format!("addr add 10.7.0.{last}/24 dev {device}"));
        space.ip(&format!("addr add fd07::{last}/64 dev {device} nodad"));
        space.ip(&format!("link set {device} up"));
    }
    other
}

#[test]
fn a_neighbour_is_resolved_on_request_and_a_silent_one_reported() {
    in_namespace(|space| {
        let _other = neighbor_namespace(space);
        let mut watch = Watch::new();
        watch.until("carrier", |s| s.link_named("a0").is_some_and(|l| l.running));
        let a0 = watch.state.link_named("a0").unwrap().ifindex;
        for address in ["10.7.0.2", "fd07::2"] {
            let resolved = |s: &KernelState| {
                s.neighbors.get(&(a0, ip(address))).is_some_and(|n| {
                    n.reachability == Reachability::Usable
                        && n.mac.is_some_and(|mac| mac.0 == [2, 0, 0, 0, 7, 2])
                })
            };
            // Asked again as the steward does: while an address of ours is tentative, IPv6 cannot ask.
            for _ in 0..15 {
                watch.monitor.resolve(a0, ip(address)).unwrap();
                if watch.within(Duration::from_secs(1), resolved) {
                    break;
                }
            }
            watch.until(address, resolved);
        }
        // Three tries, 50 ms apart; as long as they last there is no event, but a dump shows them.
        std::fs::write("/proc/sys/net/ipv4/neigh/a0/retrans_time_ms", "50").unwrap();
        watch.monitor.resolve(a0, ip("10.7.0.99")).unwrap();
        let silent = |s: &KernelState| s.neighbors.get(&(a0, ip("10.7.0.99"))).copied();
        let tried = silent(&watch.monitor.dump().unwrap()).unwrap();
        assert_eq!((tried.mac, tried.reachability), (None, Reachability::Incomplete));
        watch.until("given up", |s| {
            silent(s).is_some_and(|n| n.reachability == Reachability::Failed)
        });
        // Asking again for one that is known is the way to refresh it, and no error.
        watch.monitor.resolve(a0, ip("10.7.0.2")).unwrap();
        let error = watch.monitor.resolve(9999, ip("10.7.0.2")).unwrap_err();
        assert!(format!("{error:#}").contains("10.7.0.2"), "{error:#}");
    });
}

#[test]
fn routes_are_the_kernels_with_gateway_source_and_mtu() {
    in_namespace(|space| {
        let other = neighbor_namespace(space);
        other.ip("addr add 10.7.0.254/24 dev b0");
        space.ip("route add 10.99.0.0/16 via 10.7.0.254 mtu 1380");
        space.ip("route add fd99::/64 via fd07::2");
        space.ip("route add 10.98.0.0/16 via inet6 fd07::2");
        space.ip("route add blackhole 10.97.0.0/16");
        space.ip("route add unreachable 10.96.0.0/16");
        space.ip("route add prohibit 10.95.0.0/16");
        space.ip("rule add fwmark 7 table 70");
        space.ip("route add 10.94.0.0/16 dev a0 table 70");
        let mut watch = Watch::new();
        watch.until("carrier", |s| s.link_named("a0").is_some_and(|l| l.running));
        let a0 = watch.state.link_named("a0").unwrap().ifindex;
        let mut route = |to: &str, mark| watch.monitor.route(ip(to), mark).unwrap();

        let near = route("10.7.0.2", 0).unwrap();
        assert_eq!((near.ifindex, near.gateway, near.mtu), (a0, None, None));
        assert_eq!(near.source, Some(ip("10.7.0.1")));
        let far = route("10.99.1.1", 0).unwrap();
        assert_eq!((far.gateway, far.mtu), (Some(ip("10.7.0.254")), Some(1380)));
        let v6 = route("fd99::5", 0).unwrap();
        assert_eq!((v6.gateway, v6.source), (Some(ip("fd07::2")), Some(ip("fd07::1"))));
        assert_eq!(route("10.98.0.1", 0).unwrap().gateway, Some(ip("fd07::2")));
        for nowhere in ["10.97.0.1", "10.96.0.1", "10.95.0.1", "203.0.113.1", "2001:db8::1"] {
            assert_eq!(route(nowhere, 0), None, "{nowhere}");
        }
        assert_eq!(route("10.94.0.1", 0), None);
        assert_eq!(route("10.94.0.1", 7).unwrap().ifindex, a0);
        assert!(route("10.7.0.1", 0).unwrap().local);

        // All together: the next hop of a real behind the router.
        watch.monitor.resolve(a0, ip("10.7.0.254")).unwrap();
        watch.until("router", |s| {
            s.neighbors.get(&(a0, ip("10.7.0.254"))).is_some_and(|n| n.mac.is_some())
        });
        let slots = [(a0, DeviceId(1))].into();
        let real = Address::from(ip("10.99.1.1"));
        let hop = next_hop::compute(real, Some(&far), &watch.state, &slots);
        assert_eq!((hop.hop.state, hop.hop.device), (HopState::Resolved, DeviceId(1)));
        assert_eq!((hop.hop.mac.0, hop.hop.mtu), ([2, 0, 0, 0, 7, 2], 1380));
    });
}

#[test]
fn a_change_of_routes_is_hinted_at_even_if_a_dump_threw_the_event_away() {
    in_namespace(|space| {
        let _other = neighbor_namespace(space);
        let mut watch = Watch::new();
        watch.until("carrier", |s| s.link_named("a0").is_some_and(|l| l.running));
        while watch.monitor.drain(&mut watch.state).routes_changed {}
        let unchanged = watch.monitor.drain(&mut watch.state);
        assert_eq!(unchanged, Default::default());
        for change in ["route add 10.99.0.0/16 via 10.7.0.2", "rule add fwmark 7 table 70"] {
            space.ip(change);
            assert!(watch.monitor.drain(&mut watch.state).routes_changed, "{change}");
        }
        space.ip("route del 10.99.0.0/16");
        watch.state = watch.monitor.dump().unwrap();
        assert!(watch.monitor.drain(&mut watch.state).routes_changed);
        assert!(!watch.monitor.drain(&mut watch.state).routes_changed);
    });
}

#[test]
fn an_overrun_is_noticed_and_a_dump_makes_up_for_it() {
    in_namespace(|space| {
        let mut monitor = Monitor::with_buffer(4096).unwrap();
        let mut state = monitor.dump().unwrap();
        space.ip("link add a0 type veth peer name b0");
        for round in 0..20 {
            space.ip(&format!("link set a0 mtu {}", 1300 + round));
        }
        space.ip("link set a0 name a1");
        let drained = monitor.drain(&mut state);
        assert!(drained.lost && drained.routes_changed, "{drained:?}");
        state = monitor.dump().unwrap();
        let a1 = state.link_named("a1").expect("the dump knows the last name");
        assert_eq!(a1.mtu, 1319);
        let _ = monitor.drain(&mut state);
        assert!(!monitor.drain(&mut state).lost, "the loss is over");
        assert_eq!(state.link_named("a1").unwrap().mtu, 1319, "nothing older came after");
        space.ip("link set a1 mtu 1350");
        assert!(monitor.drain(&mut state).changed);
        assert_eq!(state.link_named("a1").unwrap().mtu, 1350);
    });
}

#[test]
fn a_thousand_neighbours_come_in_one_dump() {
    in_namespace(|space| {
        let _other = neighbor_namespace(space);
        let mut batch = String::new();
        for n in 0..1000 {
            let address = format!("10.7.{}.{}", 1 + n / 250, 1 + n % 250);
            batch +=
                &format!("neigh add {address} lladdr 02:00:00:00:00:09 dev a0 nud permanent\n");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("batch");
        std::fs::write(&file, batch).unwrap();
        space.ip(&format!("-batch {}", file.display()));
        let watch = Watch::new();
        let permanent = |n: &&dataplane::kernel::Neighbor| n.mac.is_some_and(|m| m.0[5] == 9);
        assert_eq!(watch.state.neighbors.values().filter(permanent).count(), 1000);
    });
}

#[test]
fn the_table_for_replies_sends_where_the_kernel_would() {
    in_namespace(|space| {
        let _other = neighbor_namespace(space);
        add_routes(space);
        let mut watch = Watch::new();
        watch.until("carrier", |s| s.link_named("a0").is_some_and(|l| l.running));
        let a0 = watch.state.link_named("a0").unwrap().ifindex;
        let slots = [(a0, DeviceId(1))].into();
        let table = |watch: &mut Watch| {
            let entries = watch.monitor.routes().unwrap();
            dataplane::reply_routes::compile(&entries, &watch.state, &slots).table
        };
        let first = table(&mut watch);
        for client in [
            "10.7.0.2",
            "192.0.2.7",
            "10.99.1.1",
            "10.99.7.1",
            "10.99.8.1",
            "10.99.9.1",
            "10.99.10.1",
            "10.98.0.1",
            "10.94.0.1",
            "fd99::1",
            "fd99:1::1",
            "fd07::2",
            "fd97::1",
        ] {
            let kernel = watch.monitor.route(ip(client), 0).unwrap();
            let neighbor = kernel.map(|route| Address::from(route.gateway.unwrap_or(ip(client))));
            let found = match first.lookup(ip(client).into()) {
                Exit::Unresolved { device: DeviceId(1), neighbor, .. } => Some(neighbor),
                Exit::NoRoute => None,
                other => panic!("{client}: {other:?}"),
            };
            assert_eq!(found, neighbor, "{client}");
        }
        assert_eq!(
            first.lookup(ip("10.93.0.1").into()),
            Exit::NoRoute,
            "not by an interface of ours"
        );
        both_ways_are_used(&first);
        space.ip("route del 10.99.0.0/16 via 10.7.0.253");
        let Exit::Unresolved { neighbor, mtu, .. } =
            table(&mut watch).lookup(ip("10.99.1.1").into())
        else {
            panic!("no route")
        };
        assert_eq!(
            (neighbor, mtu),
            (ip("10.7.0.254").into(), 1380),
            "the one with the next metric"
        );
        space.ip("link set a0 down");
        watch.until("down", |s| !s.links[&a0].up);
        assert_eq!(table(&mut watch).lookup(ip("192.0.2.7").into()), Exit::NoRoute);
    });
}

fn add_routes(space: &Namespace) {
    for route in [
        "default via 10.7.0.9",
        "10.99.0.0/16 via 10.7.0.254 mtu 1380 metric 50",
        "10.99.0.0/16 via 10.7.0.253 metric 20",
        "10.99.7.0/24 dev a0",
        "10.99.8.0/24 via 10.7.0.252 tos 0x10",
        "10.98.0.0/16 via inet6 fd07::2",
        "10.96.0.0/16 nexthop via 10.7.0.7 weight 3 nexthop via 10.7.0.8",
        "10.94.0.0/16 dev a0 table 70",
        "10.93.0.0/16 dev lo",
        "fd99::/16 via fd07::9 metric 2000",
        "fd99::/16 via fd07::2 metric 100",
        "fd98::/16 nexthop via fd07::3 nexthop via fd07::4",
        "blackhole 10.99.9.0/24",
        "unreachable 10.99.10.0/24",
        "unreachable fd99:1::/32",
    ] {
        space.ip(&format!("route add {route}"));
    }
}

fn both_ways_are_used(table: &RouteTable) {
    for (net, ways) in [("10.96.0", ["10.7.0.7", "10.7.0.8"]), ("fd98:", ["fd07::3", "fd07::4"])] {
        let separator = if net.ends_with(':') { ":" } else { "." };
        let used: BTreeSet<_> = (1..64)
            .map(|n| match table.lookup(ip(&format!("{net}{separator}{n}")).into()) {
                Exit::Unresolved { neighbor, .. } => neighbor,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(used, ways.map(|way| ip(way).into()).into());
    }
}
