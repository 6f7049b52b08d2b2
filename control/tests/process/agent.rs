//! A data plane played by the test: answers each request as the real one would, and remembers it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dataplane_api::message::{
    Conn, ConnFilter, InterfaceStatus, RealStatus, Reply, Request, ServiceStatus, Status,
    TableStatus,
};
use dataplane_api::service::Protocol;

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
            match snapshot.services.iter().find(|s| Some(&s.name) == state.poison.as_ref()) {
                Some(bad) => Reply::Error { message: format!("no {} here", bad.name) },
                None => Reply::Applied { needs_restart: vec![] },
            }
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

fn status(state: &State) -> Status {
    let interface = InterfaceStatus {
        name: "eth0".into(),
        link: "absent".into(),
        problem: Some("no such device".into()),
        ..InterfaceStatus::default()
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
