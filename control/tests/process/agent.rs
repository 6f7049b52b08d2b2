//! A data plane played by the test: answers each request as the real one would, and remembers it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dataplane_api::message::{
    Conn, ConnFilter, GroupStatus, InterfaceStatus, RealStatus, Reply, Request, ServiceStatus,
    Status, TableStatus,
};
use dataplane_api::service::Protocol;

use rustix::time::{ClockId, clock_gettime};

use super::world::wait;

const CONNS: u64 = 2500;

#[derive(Default)]
struct State {
    log: Vec<(Instant, Request)>,
    version: Option<u32>,
    poison: Option<String>,
    sessions: usize,
    streams: Vec<UnixStream>,
    lease: (u32, u64),
    /// Leases by group: until when, and the epoch.
    groups: BTreeMap<String, (Option<Instant>, u64)>,
    /// Whether its interface is there.
    healthy: bool,
    stop: bool,
}

pub(crate) struct Agent {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                {
                    let mut state = shared.lock().unwrap();
                    if state.stop {
                        return;
                    }
                    state.sessions += 1;
                    state.streams.push(stream.try_clone().unwrap());
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { path: path.to_owned(), state, thread: Some(thread) }
    }

    /// Everything asked so far, with the time.
    pub(crate) fn log(&self) -> Vec<(Instant, Request)> {
        self.state.lock().unwrap().log.clone()
    }

    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&[(Instant, Request)]) -> bool) {
        wait(what, || condition(&self.state.lock().unwrap().log));
    }

    pub(crate) fn speak_version(&self, version: u32) {
        self.state.lock().unwrap().version = Some(version);
    }

    pub(crate) fn refuse_service(&self, name: &str) {
        self.state.lock().unwrap().poison = Some(name.to_owned());
    }

    pub(crate) fn sessions(&self) -> usize {
        self.state.lock().unwrap().sessions
    }

    /// Its interface is there and up, as in real life.
    pub(crate) fn is_healthy(&self) {
        self.state.lock().unwrap().healthy = true;
    }

    /// Whether it answers for the addresses of the group now.
    #[expect(clippy::disallowed_methods, reason = "the test measures when leases end")]
    pub(crate) fn owns(&self, group: &str) -> bool {
        let state = self.state.lock().unwrap();
        state.groups.get(group).is_some_and(|(until, _)| until.is_some_and(|u| u > Instant::now()))
    }

    /// Sends text that nobody asked for.
    pub(crate) fn say(&self, text: &str) {
        let mut state = self.state.lock().unwrap();
        let _ = state.streams.last_mut().unwrap().write_all(text.as_bytes());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        {
            let mut state = self.state.lock().unwrap();
            state.stop = true;
            for stream in &state.streams {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        // Wakes the listener, which then sees that it is to stop.
        let _ = UnixStream::connect(&self.path);
        let _ = self.thread.take().unwrap().join();
        let _ = std::fs::remove_file(&self.path);
    }
}

#[expect(clippy::disallowed_methods, reason = "the test measures when requests come")]
fn serve(stream: &UnixStream, shared: &Mutex<State>) {
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let request: Request = serde_json::from_str(&line).unwrap();
        let reply = {
            let mut state = shared.lock().unwrap();
            state.log.push((Instant::now(), request.clone()));
            reply(&mut state, request)
        };
        let mut text = serde_json::to_string(&reply).unwrap();
        text.push('\n');
        if writer.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn reply(state: &mut State, request: Request) -> Reply {
    match request {
        Request::Hello { .. } => Reply::Hello {
            version: state.version.unwrap_or(dataplane_api::VERSION),
            pid: 4242,
            boot_id: "fake".to_owned(),
        },
        Request::Apply { snapshot } => {
            let names: Vec<String> = snapshot.groups.iter().map(|g| g.name.clone()).collect();
            state.groups.retain(|name, _| names.contains(name));
            for name in names {
                state.groups.entry(name).or_default();
            }
            match snapshot.services.iter().find(|s| Some(&s.name) == state.poison.as_ref()) {
                Some(bad) => Reply::Error { message: format!("no {} here", bad.name) },
                None => Reply::Applied { needs_restart: vec![] },
            }
        }
        Request::Lease { group: Some(group), ttl_ms, epoch, until_ns } => {
            lease(state, &group, ttl_ms, epoch, until_ns)
        }
        Request::Lease { ttl_ms, epoch, .. } => {
            state.lease = (ttl_ms, epoch);
            Reply::Leased
        }
        Request::Status => Reply::Status(Box::new(status(state))),
        Request::Conns { cursor, limit, filter } => conns(cursor, limit, &filter),
        other => Reply::Error { message: format!("not played: {other:?}") },
    }
}

#[expect(clippy::disallowed_methods, reason = "the test measures when leases end")]
fn lease(state: &mut State, group: &str, ttl_ms: u32, epoch: u64, until_ns: Option<u64>) -> Reply {
    let Some(slot) = state.groups.get_mut(group) else {
        return Reply::Error { message: format!("there is no group `{group}`") };
    };
    let boottime = clock_gettime(ClockId::Boottime);
    let boottime = Duration::new(boottime.tv_sec as u64, boottime.tv_nsec as u32);
    let left = until_ns.map(|ns| Duration::from_nanos(ns).saturating_sub(boottime));
    let ttl = Duration::from_millis(ttl_ms.into()).min(left.unwrap_or(Duration::MAX));
    *slot = ((!ttl.is_zero()).then(|| Instant::now() + ttl), epoch);
    Reply::Leased
}

#[expect(clippy::disallowed_methods, reason = "the test measures when leases end")]
fn status(state: &State) -> Status {
    let groups = state.groups.iter().map(|(name, (until, epoch))| {
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        let lease_ms = left.map_or(0, |l| u64::try_from(l.as_millis()).unwrap());
        GroupStatus { name: name.clone(), lease_ms, epoch: *epoch, ..GroupStatus::default() }
    });
    let groups = groups.collect();
    let interface = InterfaceStatus {
        name: "eth0".into(),
        link: "absent".into(),
        problem: Some("no such device".into()),
        ..InterfaceStatus::default()
    };
    let interface = match state.healthy {
        true => InterfaceStatus {
            link: "up".into(),
            attached: true,
            problem: None,
            mac: "02:00:00:00:00:01".into(),
            ..interface
        },
        false => interface,
    };
    let real = RealStatus {
        name: "10.0.1.1:80".into(),
        address: "10.0.1.1:80".into(),
        weight: 1,
        next_hop: "resolved".into(),
        bytes_in: 1536,
        ..RealStatus::default()
    };
    let service = ServiceStatus {
        name: "web".into(),
        protocol: "tcp".into(),
        listen: vec!["192.0.2.10:80".into()],
        forwarding: "nat".into(),
        scheduler: "wrr".into(),
        serves: "reals".into(),
        reals: vec![real],
    };
    Status {
        boot_id: "fake".into(),
        pid: 4242,
        lease_ms: state.lease.0.into(),
        epoch: state.lease.1,
        table: TableStatus { capacity: 1 << 20, ..TableStatus::default() },
        interfaces: vec![interface],
        groups,
        services: vec![service],
        drops: BTreeMap::from([("no_service".into(), 3), ("tx_full".into(), 0)]),
        ..Status::default()
    }
}

/// Pages over slots as the real one does: the cursor counts slots looked at, not connections found.
fn conns(cursor: u64, limit: u32, filter: &ConnFilter) -> Reply {
    let mut found = Vec::new();
    let mut at = cursor;
    while at < CONNS && found.len() < limit as usize {
        let conn = conn(at);
        if filter.state.as_ref().is_none_or(|s| *s == conn.state) {
            found.push(conn);
        }
        at += 1;
    }
    Reply::Conns { conns: found, next: (at < CONNS).then_some(at) }
}

fn conn(n: u64) -> Conn {
    let udp = n.is_multiple_of(4);
    Conn {
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        client_port: u16::try_from(10_000 + n).unwrap(),
        vip: [192, 0, 2, 10].into(),
        vip_port: 80,
        real: [10, 0, 1, 1].into(),
        real_port: 80,
        local: None,
        service: "web".into(),
        state: if udp { "UDP".into() } else { "ESTABLISHED".into() },
        idle_s: n,
        expires_s: 900,
    }
}
