//! The whole process between two networks: who is told, and when, that an address is ours.
//!
//! Needs root; skipped loudly otherwise, failed under `REQUIRE_NETNS=1`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(unsafe_code)]

mod lab;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use dataplane::address::Address;
use dataplane::clock::{self, Instant};
use dataplane::wire::neighbor;
use dataplane::wire::packet::{self, Kind};
use dataplane_api::message::{GroupStatus, Reply, Request, Status};
use serde_json::json;

const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";
const MAIL: &str = "192.0.2.20";
const GATEWAY: &str = "10.0.1.254";
const PATIENCE: Duration = Duration::from_secs(15);
/// A host that is neither we nor the kernel's.
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn soon() -> Instant {
    clock::now().after(PATIENCE)
}

/// Runs something on a thread in a namespace.
fn inside<T: Send + 'static>(ns: &lab::NetNs, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let work = || {
            ns.enter();
            work()
        };
        scope.spawn(work).join().unwrap()
    })
}

/// Hears every frame of a namespace that has one interface, and can send there.
struct Wire {
    socket: OwnedFd,
    ifindex: i32,
}

impl Wire {
    fn new(ns: &lab::NetNs, interface: &str) -> Self {
        inside(ns, || {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            // SAFETY: makes a descriptor, which nobody else owns.
            let socket = unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all);
                assert!(fd >= 0, "{}", std::io::Error::last_os_error());
                OwnedFd::from_raw_fd(fd)
            };
            Self { socket, ifindex: lab::ifindex(interface).cast_signed() }
        })
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: all zeroes is a valid address structure.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = self.ifindex;
        // SAFETY: the frame and the address are as long as is said.
        let sent = unsafe {
            let (bytes, to) = (frame.as_ptr().cast(), (&raw const to).cast());
            let size = size_of::<libc::sockaddr_ll>() as u32;
            libc::sendto(self.socket.as_raw_fd(), bytes, frame.len(), 0, to, size)
        };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }

    /// The next frame, if one comes before `until`, and when.
    fn next(&self, until: Instant) -> Option<(Instant, Vec<u8>)> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let left = until.since(clock::now());
        let (tv_sec, tv_nsec) = (left.as_secs() as i64, i64::from(left.subsec_nanos()));
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec { tv_sec, tv_nsec })).unwrap() == 0 {
            return None;
        }
        let mut bytes = vec![0; 2048];
        let (length, _) =
            rustix::net::recv(&self.socket, bytes.as_mut_slice(), rustix::net::RecvFlags::empty())
                .unwrap();
        bytes.truncate(length);
        Some((clock::now(), bytes))
    }

    /// Forgets what has been heard so far.
    fn drain(&self) {
        while self.next(Instant::ZERO).is_some() {}
    }

    /// Waits for a frame in which `mac` says that an address is its own.
    fn claim(&self, wanted: &str, mac: [u8; 6], until: Instant) -> Option<Instant> {
        let wanted = address(wanted);
        loop {
            let (at, frame) = self.next(until)?;
            if claimed(&frame) == Some((wanted, mac)) {
                return Some(at);
            }
        }
    }
}

fn claimed(frame: &[u8]) -> Option<(Address, [u8; 6])> {
    let packet = packet::parse(frame).ok()?;
    let known = matches!(packet.kind, Kind::NeighborRequest | Kind::NeighborAnswer);
    let claim = neighbor::claim(frame, &packet).ok().filter(|_| known)?;
    Some((claim.address, claim.mac.0))
}

/// An ARP frame to everybody.
fn arp(operation: u8, mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &mac].concat();
    let mut frame = [&head[..], &sender, &[0; 6], &target].concat();
    frame.resize(60, 0);
    frame
}

fn v4(text: &str) -> [u8; 4] {
    let IpAddr::V4(v4) = text.parse().unwrap() else { panic!() };
    v4.octets()
}

/// A session on the agent socket.
struct Session {
    reader: BufReader<UnixStream>,
}

impl Session {
    fn ask(&mut self, request: &Request) -> Reply {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).unwrap();
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn lease(&mut self, group: Option<&str>, ttl_ms: u32, epoch: u64) -> Reply {
        let group = group.map(str::to_owned);
        self.ask(&Request::Lease { ttl_ms, epoch, group, until_ns: None })
    }

    fn leased(&mut self, group: &str, ttl_ms: u32, epoch: u64) {
        assert_eq!(self.lease(Some(group), ttl_ms, epoch), Reply::Leased);
    }

    fn status(&mut self) -> Status {
        let Reply::Status(status) = self.ask(&Request::Status) else { panic!() };
        *status
    }

    fn group(&mut self, name: &str) -> GroupStatus {
        let groups = self.status().groups;
        groups.iter().find(|g| g.name == name).unwrap_or_else(|| panic!("{groups:?}")).clone()
    }
}

/// A data plane with `eth0` towards clients (and the peer), `eth1` towards a real.
struct Rig {
    process: Child,
    run_dir: tempfile::TempDir,
    table: PathBuf,
    us: lab::NetNs,
    lan: lab::NetNs,
    farm: lab::NetNs,
}

impl Rig {
    /// `eth1` is down at first.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let [us, lan, farm] = std::array::from_fn(|_| lab::NetNs::new());
        for (name, peer, other, ours, theirs) in [
            ("eth0", "lan0", &lan, "192.0.2.2/24", "192.0.2.1/24"),
            ("eth1", "farm0", &farm, "10.0.1.2/24", "10.0.1.1/24"),
        ] {
            us.ip(&format!("link add {name} type veth peer name {peer} netns {}", other.name()));
            us.ip(&format!("addr add {ours} dev {name}"));
            other.ip(&format!("addr add {theirs} dev {peer}"));
            other.ip("link set lo up");
            other.ip(&format!("link set {peer} up"));
            // An AF_XDP socket would get segments without a checksum.
            let ethtool = ["netns", "exec", other.name(), "ethtool", "-K", peer, "tx", "off"];
            assert!(Command::new("ip").args(ethtool).output().unwrap().status.success());
        }
        us.ip("link set eth0 up");
        let instance = format!("xvown{}-{}", COUNT.fetch_add(1, Relaxed), std::process::id());
        let run_dir = tempfile::tempdir().unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", us.name(), env!("CARGO_BIN_EXE_xvip-dataplane")])
            .args(["--instance", &instance, "--run-dir"])
            .arg(run_dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let table = PathBuf::from(format!("/dev/shm/{instance}.table"));
        let rig = Self { process, run_dir, table, us, lan, farm };
        let mut session = rig.session();
        let groups = json!([
            {"name": "web", "addresses": [VIP, VIP6], "gateways": [GATEWAY]},
            {"name": "mail", "addresses": [MAIL], "gateways": []},
        ]);
        let applied = session.ask(&Request::Apply { snapshot: Box::new(snapshot(groups)) });
        assert!(matches!(applied, Reply::Applied { .. }), "{applied:?}");
        rig.wait("eth0 is up", |status| attached(status, "eth0"));
        rig
    }

    fn session(&self) -> Session {
        let deadline = soon();
        let stream = loop {
            match UnixStream::connect(self.run_dir.path().join("agent.sock")) {
                Ok(stream) => break stream,
                Err(e) => assert!(clock::now() < deadline, "{e}"),
            }
            std::thread::park_timeout(Duration::from_millis(10));
        };
        let mut session = Session { reader: BufReader::new(stream) };
        let hello = session.ask(&Request::Hello { version: dataplane_api::VERSION });
        assert!(matches!(hello, Reply::Hello { .. }), "{hello:?}");
        session
    }

    fn wait(&self, what: &str, met: impl Fn(&Status) -> bool) {
        let (mut session, deadline) = (self.session(), soon());
        loop {
            let status = session.status();
            if met(&status) {
                return;
            }
            assert!(clock::now() < deadline, "not seen: {what}: {status:#?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn mac(&self, name: &str) -> [u8; 6] {
        let status = self.session().status();
        let interface = status.interfaces.iter().find(|i| i.name == name).unwrap();
        let bytes = interface.mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap());
        bytes.collect::<Vec<_>>().try_into().unwrap()
    }
}

fn attached(status: &Status, name: &str) -> bool {
    status.interfaces.iter().any(|i| i.name == name && i.attached && i.link == "up")
}

impl Drop for Rig {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = soon();
        while matches!(self.process.try_wait(), Ok(None)) && clock::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.table);
    }
}

fn snapshot(groups: serde_json::Value) -> dataplane_api::service::Snapshot {
    let service = |name: &str, listen: &str, real: &str| {
        json!({"name": name, "protocol": "tcp", "listen": [listen], "forwarding": "nat",
            "scheduler": "wrr", "reals": [{"name": "a", "address": real, "port": 8080}]})
    };
    serde_json::from_value(json!({
        "engine": {"cores": [0], "poll": "adaptive", "connections": 1024,
                   "half_open_percent": 25, "frames": 1024},
        "interfaces": [{"name": "eth0"}, {"name": "eth1"}],
        "timeouts": dataplane_api::service::Timeouts::default(),
        "local": dataplane_api::service::LocalPool::default(),
        "reply": "last-hop",
        "services": [
            service("web", &format!("{VIP}:80"), "10.0.1.1"),
            service("web6", &format!("[{VIP6}]:80"), "fd00::1"),
            service("mail", &format!("{MAIL}:25"), "10.0.1.1"),
        ],
        "groups": groups,
    }))
    .unwrap()
}

#[test]
fn a_takeover_is_announced_within_milliseconds_and_by_group() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    let (wire, mac, mut session) = (Wire::new(&rig.lan, "lan0"), rig.mac("eth0"), rig.session());
    let mut took = Vec::new();
    for round in 0..40_u64 {
        // New epochs, and leases that had been given up, in turn.
        if round % 2 == 0 {
            session.leased("web", 0, round);
        }
        wire.drain();
        let asked = clock::now();
        session.leased("web", 3000, round + 1);
        let first = wire.claim(VIP, mac, soon()).expect("an announcement");
        took.push(first.since(asked));
        assert!(wire.claim(VIP6, mac, soon()).is_some());
    }
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("from the lease to the first announcement: median {median:?}, most {most:?}");
    // Without the wake-ups it is up to 120 ms: a nap of the steward and one of the worker.
    assert!(median < Duration::from_millis(5), "{took:?}");
    assert!(most < Duration::from_millis(100), "{took:?}");
    let group = session.group("web");
    assert_eq!((group.epoch, group.foreign_claims), (40, 0));
    assert!(group.lease_ms > 0 && group.lease_ms <= 3000 && group.announced >= 3, "{group:?}");
    assert_eq!(session.group("mail"), GroupStatus { name: "mail".into(), ..Default::default() });
}

#[test]
fn a_group_without_a_lease_is_not_answered_for_and_people_are_told_so() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    let (wire, mut session) = (Wire::new(&rig.lan, "lan0"), rig.session());
    session.leased("mail", 3000, 1);
    wire.drain();
    wire.send(&arp(1, OTHER_MAC, v4("192.0.2.66"), v4(VIP)));
    wire.send(&arp(1, OTHER_MAC, v4("192.0.2.66"), v4(MAIL)));
    let deadline = soon();
    loop {
        let (_, frame) = wire.next(deadline).expect("an answer");
        match claimed(&frame) {
            Some((who, _)) if who == address(MAIL) => break,
            Some((who, _)) => assert_ne!(who, address(VIP), "not ours to answer for"),
            None => {}
        }
    }
    let mut why = |vip: &str, vip_port| {
        let question = Request::Why {
            client: "198.51.100.7".parse().unwrap(),
            client_port: None,
            vip: vip.parse().unwrap(),
            vip_port,
            protocol: dataplane_api::service::Protocol::Tcp,
        };
        let Reply::Why(why) = session.ask(&question) else { panic!() };
        let step = why.steps.iter().find(|s| s.stage == "lease").unwrap();
        (step.ok, step.verdict.clone())
    };
    let (ok, verdict) = why(MAIL, 25);
    assert!(ok && verdict.starts_with("group mail: VIPs are answered for another "), "{verdict}");
    let (ok, verdict) = why(VIP, 80);
    assert!(!ok && verdict.contains("this node does not own group web"), "{verdict}");
    let all = session.lease(None, 3000, 50);
    assert_eq!(
        (all, session.group("web").epoch, session.group("mail").epoch),
        (Reply::Leased, 50, 50)
    );
    let Reply::Error { message } = session.lease(Some("nobody"), 3000, 1) else { panic!() };
    assert_eq!(message, "there is no group `nobody`: the snapshot has web, mail");
    let late = Request::Lease {
        ttl_ms: 3000,
        epoch: 51,
        group: None,
        until_ns: Some(clock::now().nanos() - 1),
    };
    assert_eq!(session.ask(&late), Reply::Leased);
    assert_eq!(session.status().lease_ms, 0, "decided too long ago");
}

#[test]
fn a_lease_ends_by_itself_and_a_reload_keeps_it() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    let mut session = rig.session();
    session.leased("mail", 60_000, 7);
    // The order of groups says nothing, and a new group has no lease, whatever its place.
    let groups = json!([
        {"name": "new", "addresses": [VIP], "gateways": []},
        {"name": "mail", "addresses": [MAIL], "gateways": []},
        {"name": "web", "addresses": [], "gateways": []},
    ]);
    let applied = session.ask(&Request::Apply { snapshot: Box::new(snapshot(groups)) });
    assert!(matches!(applied, Reply::Applied { .. }), "{applied:?}");
    let groups = session.status().groups;
    let shown: Vec<_> = groups.iter().map(|g| (g.name.as_str(), g.lease_ms > 0, g.epoch)).collect();
    assert_eq!(shown, [("new", false, 0), ("mail", true, 7), ("web", false, 0)]);
    let wrong = json!([{"name": "new", "addresses": ["192.0.2.99"], "gateways": []}]);
    let refused = session.ask(&Request::Apply { snapshot: Box::new(snapshot(wrong)) });
    assert!(matches!(refused, Reply::Error { .. }), "{refused:?}");
    assert_eq!(session.status().groups.len(), 3, "nothing changed");
    session.leased("mail", 50, 8);
    rig.wait("the end of the lease", |status| status.lease_ms == 0);
}

#[test]
fn a_claim_on_the_wire_is_answered_and_counted() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    let (wire, mac, mut session) = (Wire::new(&rig.lan, "lan0"), rig.mac("eth0"), rig.session());
    session.leased("web", 30_000, 1);
    assert!(wire.claim(VIP, mac, soon()).is_some());
    // Past the first announcements: what comes now comes because of the claim.
    rig.wait("both are announced", |s| s.events["announced"] >= 3);
    wire.drain();
    let claimed = clock::now();
    for _ in 0..5 {
        wire.send(&arp(2, OTHER_MAC, v4(VIP), v4(VIP)));
    }
    let answered = wire.claim(VIP, mac, soon()).unwrap();
    eprintln!("from a claim to our announcement: {:?}", answered.since(claimed));
    assert!(answered.since(claimed) < Duration::from_millis(500));
    rig.wait("five claims", |s| s.groups[0].foreign_claims == 5 && s.events["foreign_claim"] == 5);
    // A claim on what we do not own is not ours to answer.
    wire.send(&arp(1, OTHER_MAC, v4(MAIL), v4(MAIL)));
    assert_eq!(session.group("mail").foreign_claims, 0);
}

#[test]
fn the_standby_learns_who_has_an_address() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    let mut session = rig.session();
    // The peer, with the VIPs as a kernel has them.
    rig.lan.ip(&format!("addr add {VIP}/32 dev lan0"));
    rig.lan.ip(&format!("addr add {VIP6}/128 dev lan0 nodad"));
    let mac = inside(&rig.lan, || {
        let mut monitor = dataplane::kernel::Monitor::open().unwrap();
        monitor.dump().unwrap().link_named("lan0").unwrap().mac.to_string()
    });
    let mut resolve = |addresses: &[&str], timeout_ms| {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        session.ask(&Request::Resolve { addresses, timeout_ms })
    };
    let Reply::Resolved { answers } = resolve(&[VIP, VIP6, MAIL], 600) else { panic!() };
    let shown: Vec<_> = answers
        .iter()
        .map(|a| (a.address.to_string(), a.interface.as_str(), a.mac.as_str()))
        .collect();
    let expected = [VIP, VIP6].map(|vip| (vip.to_owned(), "eth0", mac.as_str()));
    assert_eq!(shown, expected, "and nobody has {MAIL}");
    for (addresses, timeout, words) in [
        (&["198.51.100.1"][..], 100, "no VIP, local address or gateway"),
        (&[], 100, "addresses must be 1 to 64"),
        (&[VIP], 0, "timeout_ms 1 to 5000"),
    ] {
        let Reply::Error { message } = resolve(addresses, timeout) else { panic!("{words}") };
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn an_interface_that_comes_up_later_is_announced_on_within_a_second() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    let (wire, mut session) = (Wire::new(&rig.farm, "farm0"), rig.session());
    session.leased("web", 30_000, 1);
    rig.wait("announced on eth0", |s| s.groups[0].announced >= 3);
    wire.drain();
    let mac = rig.mac("eth1");
    let up = clock::now();
    rig.us.ip("link set eth1 up");
    let first = wire.claim(GATEWAY, mac, soon()).expect("the gateway, announced");
    eprintln!("from link up to the announcement: {:?}", first.since(up));
    assert!(first.since(up) < Duration::from_secs(1), "{:?}", first.since(up));
    // And what is not owned is not: no frame of ours names it until the next one does.
    wire.drain();
    session.leased("mail", 30_000, 1);
    assert!(wire.claim(MAIL, mac, soon()).is_some());
}

#[test]
fn a_real_behind_a_gateway_address_answers_its_clients() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    rig.us.ip("link set eth1 up");
    rig.farm.ip(&format!("route add default via {GATEWAY}"));
    rig.wait("eth1 is up", |status| attached(status, "eth1"));
    let mut session = rig.session();
    session.leased("web", 60_000, 1);
    let listener = inside(&rig.farm, || TcpListener::bind("10.0.1.1:8080").unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(&word).unwrap();
        from.ip()
    });
    rig.wait("the next hop", |s| s.services.iter().any(|s| s.reals[0].next_hop == "resolved"));
    let said = inside(&rig.lan, || {
        let to: SocketAddr = format!("{VIP}:80").parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"ping").unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        word
    });
    assert_eq!(&said, b"ping");
    assert_eq!(server.join().unwrap(), "192.0.2.1".parse::<IpAddr>().unwrap(), "not hidden");
    // The real had nobody but us to ask for its gateway.
    let neighbors = Command::new("ip")
        .args(["-n", rig.farm.name(), "neigh", "show", GATEWAY])
        .output()
        .unwrap();
    let mac = rig.mac("eth1").map(|b| format!("{b:02x}")).join(":");
    let shown = String::from_utf8_lossy(&neighbors.stdout).into_owned();
    assert!(shown.contains(&mac), "{shown}");
    let group = session.group("web");
    assert!(group.packets >= 3, "{group:?}");
    assert_eq!(session.group("mail").packets, 0);
    // The kernel of the real can ping its gateway.
    let ping = ["netns", "exec", rig.farm.name(), "ping", "-c1", "-W5", GATEWAY];
    assert!(Command::new("ip").args(ping).stdout(Stdio::null()).status().unwrap().success());
}

#[test]
fn interfaces_listen_where_neighbours_ask_for_our_ipv6_addresses() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new();
    let maddr = || {
        let arguments = ["-n", rig.us.name(), "maddr", "show", "dev", "eth0"];
        let output = Command::new("ip").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let eventually = |what: &str, met: &dyn Fn(&str) -> bool| {
        let deadline = soon();
        while !met(&maddr()) {
            assert!(clock::now() < deadline, "{what}: {}", maddr());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    };
    // That of 2001:db8::10; no lease is needed.
    eventually("joined", &|text| text.contains("33:33:ff:00:00:10"));
    rig.us.ip("link del eth0");
    rig.us.ip(&format!("link add eth0 type veth peer name lan0 netns {}", rig.lan.name()));
    rig.us.ip("link set eth0 up");
    rig.lan.ip("link set lan0 up");
    eventually("joined again", &|text| text.contains("33:33:ff:00:00:10"));
    let mut without = snapshot(json!([]));
    without.services.retain(|service| service.name != "web6");
    let applied = rig.session().ask(&Request::Apply { snapshot: Box::new(without) });
    assert!(matches!(applied, Reply::Applied { .. }), "{applied:?}");
    eventually("left", &|text| !text.contains("33:33:ff:00:00:10"));
}

/// Set in the child of the test below.
const CASE: &str = "XVIP_CLOCK_CASE";

#[test]
fn the_clock_of_leases_counts_the_time_that_the_machine_sleeps() {
    if std::env::var_os(CASE).is_some() {
        println!("clock={}", clock::now().nanos());
        return;
    }
    if !lab::is_root() {
        return;
    }
    // As after a suspension of ten days: `CLOCK_BOOTTIME` alone has moved on.
    const SLEPT: u64 = 864_000;
    let test = "the_clock_of_leases_counts_the_time_that_the_machine_sleeps";
    let output = Command::new("unshare")
        .args(["--fork", "--time", "--boottime", &SLEPT.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CASE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let line =
        text.lines().find_map(|l| l.split_once("clock=")).unwrap_or_else(|| panic!("{error}"));
    let there: u64 = line.1.trim().parse().unwrap();
    let seconds = (there - clock::now().nanos()) / 1_000_000_000;
    assert!((SLEPT - 100..SLEPT + 100).contains(&seconds), "{seconds}");
}
