//! The agent socket: control asks, the data plane answers.
//!
//! Runs on threads of its own, one for each session (at most [`SESSIONS`]); none of them touches a
//! packet. A session that only renews leases keeps the real-time priority it begins with; one that asks
//! for anything else loses it. What changes the desired state goes to the steward; the rest is answered from what the
//! threads share. Protocol: `dataplane_api::message`, described in `docs/protocols.md`.

mod asking;

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dataplane_api::message::{
    CAPTURE_BYTES_MAX, CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX, CAPTURED_PAGE_MAX, CONNS_PAGE_MAX,
    How, LINE_MAX, PATH_PROBES_MAX, PATH_TIMEOUT_MAX, PathAnswer, PathResult, PathTarget, Reply,
    Request,
};
use dataplane_api::service::Snapshot;

use crate::clock::{self, Instant};
use crate::forward::explain::Question;
use crate::lease::Grant;
use crate::runtime::Runtime;
use crate::{priority, status, why};

/// Sessions at once: control with its heartbeat, its probes and its questions, a successor that has
/// begun before it is gone, and those who look.
pub const SESSIONS: usize = 16;
/// How long the steward may take to apply a snapshot.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to read a reply, to finish a line it has begun, and to say hello.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request, in bytes, that is read with real-time priority.
const PROMPT_LINE: usize = 1024;
/// How long a session may be silent: control renews its lease far more often. Without a limit, sixteen
/// forgotten sessions would keep control out for good.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// Longest lease: the longest that control's configuration allows. A longer one is a mistake, and would
/// let a data plane without control answer for VIPs that another node has taken over.
pub const LEASE_MAX: Duration = Duration::from_secs(60);
/// How often a session looks whether its path probes have been answered.
const PROBE_STEP: Duration = Duration::from_micros(500);
/// Pause when no connection can be taken (out of descriptors): a session ends sooner or later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A snapshot on its way to the steward, and where the outcome goes: settings that need a restart.
pub struct Apply {
    /// The desired state.
    pub snapshot: Box<Snapshot>,
    /// Outcome.
    pub outcome: Sender<Result<Vec<String>, String>>,
}

/// An order to end connections on its way to the steward, and where the outcome goes: how many.
pub struct End {
    /// Name of the service.
    pub service: String,
    /// The real.
    pub real: std::net::IpAddr,
    /// Its port as in the snapshot.
    pub port: Option<u16>,
    /// In which way.
    pub how: How,
    /// Outcome.
    pub outcome: Sender<Result<u64, String>>,
}

/// What every session needs.
pub struct Agent {
    /// Set when the first snapshot has been applied.
    pub runtime: Arc<OnceLock<Arc<Runtime>>>,
    /// To the steward.
    pub apply: Sender<Apply>,
    /// To the steward.
    pub end: Sender<End>,
    /// Wakes the steward.
    pub wake: UnixStream,
    /// Random for each start.
    pub boot_id: String,
}

impl Agent {
    /// Accepts sessions until the process ends.
    pub fn serve(self, listener: &UnixListener) {
        let agent = Arc::new(self);
        let sessions = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::park_timeout(ACCEPT_PAUSE);
                continue;
            };
            let place = Place::take(&sessions);
            if place.number > SESSIONS {
                let _ = reply(&stream, &error(format!("{SESSIONS} sessions are open already")));
                continue;
            }
            let agent = Arc::clone(&agent);
            // Without a thread the session ends before it begins.
            let _ = std::thread::Builder::new().name("agent".into()).spawn(move || {
                let _place = place;
                // A session that breaks off is the client's affair; it comes back.
                let _ = agent.session(&stream);
            });
        }
    }

    fn session(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        let mut reader = BufReader::new(stream);
        let (mut greeted, mut prompt) = (false, true);
        loop {
            stream.set_read_timeout(Some(if greeted { IDLE_MAX } else { IO_TIMEOUT }))?;
            if reader.fill_buf()?.is_empty() {
                return Ok(());
            }
            let line = match read_line(&mut reader, stream)? {
                Ok(line) => line,
                Err(message) => return reply(stream, &error(message)),
            };
            // Before it is read: only leases and greetings are that short and always will be.
            if prompt && line.len() > PROMPT_LINE {
                prompt = priority::ordinary().is_err();
            }
            let request = serde_json::from_slice::<Request>(&line);
            if prompt && !matches!(request, Ok(Request::Hello { .. } | Request::Lease { .. })) {
                prompt = priority::ordinary().is_err();
            }
            let answer = match request {
                Ok(Request::Hello { version }) => {
                    greeted = version == dataplane_api::VERSION;
                    self.hello()
                }
                Ok(_) if !greeted => error(format!(
                    "the first request must be `hello` with version {}",
                    dataplane_api::VERSION
                )),
                Ok(request) => self.answer(request),
                Err(e) => error(format!("not a request of this protocol: {e}")),
            };
            reply(stream, &answer)?;
        }
    }

    fn hello(&self) -> Reply {
        Reply::Hello {
            version: dataplane_api::VERSION,
            pid: std::process::id(),
            boot_id: self.boot_id.clone(),
        }
    }

    fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Hello { .. } => self.hello(),
            Request::Apply { snapshot } => self.apply(snapshot),
            other => match (self.runtime.get(), other) {
                (Some(_), Request::EndConns { service, real, port, how }) => {
                    let (outcome, done) = bounded(1);
                    let end = End { service, real, port, how, outcome };
                    let sent = self.end.send(end).is_ok();
                    self.ask_steward(sent, &done)
                        .map_or_else(|e| e, |conns| Reply::Ending { conns })
                }
                (Some(runtime), Request::Lease { ttl_ms, epoch, group, until_ns }) => {
                    let until = until_ns.map(Instant::from_nanos);
                    self.lease(runtime, group.as_deref(), &Grant { ttl_ms, epoch, until })
                }
                (Some(runtime), other) => answer(runtime, other),
                (None, _) => error("no snapshot has been applied yet".into()),
            },
        }
    }

    /// Nothing is logged: it may come twenty times a second for each group.
    fn lease(&self, runtime: &Runtime, group: Option<&str>, grant: &Grant) -> Reply {
        let ttl_ms = grant.ttl_ms;
        if Duration::from_millis(ttl_ms.into()) > LEASE_MAX {
            let most = LEASE_MAX.as_millis();
            return error(format!(
                "ttl_ms {ttl_ms}: a lease may last {most} ms; the last one stands"
            ));
        }
        let mut change = runtime.leases().change();
        let published = runtime.cell.get();
        let services = &published.services;
        let (mut known, mut news) = (false, false);
        let wanted = |name: &str| group.is_none_or(|group| group == name);
        for (id, _) in services.groups().iter().filter(|(_, name)| wanted(name)) {
            known = true;
            news |= change.renew(*id, grant, clock::now());
        }
        drop(change);
        if let Some(group) = group.filter(|_| !known) {
            let there: Vec<&str> = services.groups().iter().map(|(_, n)| n.as_str()).collect();
            let there = match there[..] {
                [""] => "the snapshot has no groups".to_owned(),
                _ => format!("the snapshot has {}", there.join(", ")),
            };
            return error(format!("there is no group `{}`: {there}", group.escape_default()));
        }
        if news {
            // The steward announces; if it does not hear this, it looks ten times a second.
            let _ = (&self.wake).write(&[1]);
        }
        Reply::Leased
    }

    fn apply(&self, snapshot: Box<Snapshot>) -> Reply {
        let (outcome, done) = bounded(1);
        let sent = self.apply.send(Apply { snapshot, outcome }).is_ok();
        self.ask_steward(sent, &done)
            .map_or_else(|e| e, |needs_restart| Reply::Applied { needs_restart })
    }

    /// Waits for the outcome of what has been sent to the steward.
    fn ask_steward<T>(&self, sent: bool, done: &Receiver<Result<T, String>>) -> Result<T, Reply> {
        let woken = match (&self.wake).write(&[1]) {
            Ok(_) => true,
            // Somebody has been waking it for long: that will do.
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        };
        if !sent || !woken {
            return Err(error("the data plane is stopping".into()));
        }
        match done.recv_timeout(APPLY_TIMEOUT) {
            Ok(outcome) => outcome.map_err(error),
            Err(_) => Err(error(format!("no answer within {APPLY_TIMEOUT:?}; see the log"))),
        }
    }
}

fn answer(runtime: &Runtime, request: Request) -> Reply {
    match request {
        Request::Status => Reply::Status(Box::new(status::status(runtime, clock::now()))),
        Request::Conns { cursor, limit, filter } => {
            if !(1..=CONNS_PAGE_MAX).contains(&limit) {
                return error(format!("limit must be 1 to {CONNS_PAGE_MAX}, not {limit}"));
            }
            let (conns, next) = status::conns(runtime, cursor, limit, &filter, clock::now());
            Reply::Conns { conns, next }
        }
        Request::Why { client, client_port, vip, vip_port, protocol } => {
            let (client, vip) = (client.into(), vip.into());
            let question = Question { client, client_port, vip, vip_port, protocol };
            Reply::Why(Box::new(why::why(runtime, &question, clock::now())))
        }
        Request::Capture { filter, packets_max, seconds, bytes } => {
            let fits = (1..=CAPTURE_PACKETS_MAX).contains(&packets_max)
                && (1..=CAPTURE_SECONDS_MAX).contains(&seconds)
                && (64..=CAPTURE_BYTES_MAX).contains(&bytes);
            if !fits {
                return error(format!(
                    "packets_max must be 1 to {CAPTURE_PACKETS_MAX}, seconds 1 to \
                     {CAPTURE_SECONDS_MAX}, bytes 64 to {CAPTURE_BYTES_MAX}"
                ));
            }
            let now = clock::now();
            let times = (now, now.after(Duration::from_secs(seconds.into())));
            let begun = runtime.forward.capture.start(filter, packets_max, bytes, times);
            begun.map_or_else(error, |()| Reply::Capturing)
        }
        Request::Captured { limit } if !(1..=CAPTURED_PAGE_MAX).contains(&limit) => {
            error(format!("limit must be 1 to {CAPTURED_PAGE_MAX}, not {limit}"))
        }
        Request::Captured { limit } => Reply::Captured(Box::new(status::captured(
            runtime,
            limit,
            (clock::now(), clock::unix_nanos()),
        ))),
        Request::EndCapture => {
            runtime.forward.capture.stop();
            Reply::CaptureEnded
        }
        Request::PathProbe { targets, timeout_ms } => path_probe(runtime, &targets, timeout_ms),
        Request::Resolve { addresses, timeout_ms } => {
            asking::resolve(runtime, &addresses, timeout_ms)
                .map_or_else(error, |answers| Reply::Resolved { answers })
        }
        Request::Hello { .. }
        | Request::Apply { .. }
        | Request::EndConns { .. }
        | Request::Lease { .. } => error("already answered".into()),
    }
}

fn path_probe(runtime: &Runtime, targets: &[PathTarget], timeout_ms: u32) -> Reply {
    let fits = (1..=PATH_PROBES_MAX).contains(&targets.len())
        && (1..=PATH_TIMEOUT_MAX).contains(&timeout_ms);
    if !fits {
        return error(format!(
            "targets must be 1 to {PATH_PROBES_MAX}, timeout_ms 1 to {PATH_TIMEOUT_MAX}"
        ));
    }
    let published = runtime.cell.get();
    let probes = &runtime.forward.probes;
    let (begun, timeout) = (clock::now(), Duration::from_millis(timeout_ms.into()));
    let places: Vec<_> = targets
        .iter()
        .map(|target| {
            let (real, source, vip) = why::path(&published, target)?;
            probes.start(real, source, vip, clock::now())
        })
        .collect();
    let waits = |place: &Option<usize>| place.is_some_and(|n| probes.answer(n).is_none());
    while places.iter().any(waits) && clock::now().since(begun) < timeout {
        std::thread::park_timeout(PROBE_STEP);
    }
    let result = |(place, target): (Option<usize>, _)| {
        let heard = place.map(|place| {
            let heard = probes.answer(place);
            probes.finish(place);
            heard.unwrap_or((PathAnswer::Silent, timeout.as_micros() as u64))
        });
        match heard {
            Some((answer, after)) if answer != PathAnswer::NotSent => (answer, after),
            _ if why::is_unresolved(&runtime.cell.get(), target) => (PathAnswer::Unresolved, 0),
            _ => (PathAnswer::NotSent, 0),
        }
    };
    let results = places.into_iter().zip(targets).map(result);
    let results = results.map(|(answer, after_us)| PathResult { answer, after_us }).collect();
    Reply::PathProbed { results }
}

/// A session's place among those open, given back however it ends.
struct Place {
    number: usize,
    sessions: Arc<AtomicUsize>,
}

impl Place {
    fn take(sessions: &Arc<AtomicUsize>) -> Self {
        let number = sessions.fetch_add(1, Ordering::Relaxed) + 1;
        Self { number, sessions: Arc::clone(sessions) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A line that has begun, newline included; or what is wrong with it, after which there is no telling
/// where the next one begins.
fn read_line(
    reader: &mut BufReader<&UnixStream>,
    stream: &UnixStream,
) -> io::Result<Result<Vec<u8>, String>> {
    let deadline = clock::now().after(IO_TIMEOUT);
    let mut line = Vec::new();
    loop {
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return Ok(Err(format!("the request was not complete after {IO_TIMEOUT:?}")));
        }
        stream.set_read_timeout(Some(left))?;
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(e) => return Err(e),
        };
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let newline = chunk.iter().position(|byte| *byte == b'\n');
        let take = newline.map_or(chunk.len(), |at| at + 1);
        if line.len() + take > LINE_MAX {
            return Ok(Err(format!("a request may have at most {LINE_MAX} bytes")));
        }
        line.extend_from_slice(&chunk[..take]);
        reader.consume(take);
        if newline.is_some() {
            return Ok(Ok(line));
        }
    }
}

fn error(message: String) -> Reply {
    Reply::Error { message }
}

fn reply(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}
