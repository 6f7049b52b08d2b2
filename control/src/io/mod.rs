//! Carries out what the core decides, on one thread; the only reader of the clock.
//!
//! One loop: signals first, then what clients and the data plane say, then what is due. The core
//! does what is due on every call, so that no flood of messages can hold up the lease.

mod agent;
mod alert;
mod command;
mod descriptors;
pub mod file;
mod heartbeat;
mod here;
mod line;
pub mod log;
mod mail;
mod maintenance;
mod metrics;
mod pair;
mod peer;
pub mod probe;
pub mod replicator;
mod regular;
mod secret;
mod socket;
mod sorry;
mod store;
mod webhook;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::config::{self, Config, Errors};
use crate::log::{Level, Record};
use crate::node::{ClientId, HaReport, Identity, Input, Node, Output};
use crate::time::{Instant, Stamp};
use log::Log;
use pair::Pair;
use probe::Paths;
use probe::prober::Prober;
use socket::Socket;
pub use socket::{CLIENTS_MAX, IDLE_MAX, READERS_MAX, TRANSFER_MAX};

/// Events that wait for the loop; whoever sends more waits.
const EVENTS: usize = 64;

/// Most reports of checks taken in at a time.
const RUNS_AT_ONCE: usize = 64;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Name of the instance.
    pub instance: String,
    /// Directory of the sockets.
    pub run_dir: PathBuf,
    /// Directory of what survives a restart.
    pub state_dir: PathBuf,
}

/// Reads the name of an instance from the command line: it becomes part of paths.
///
/// # Errors
/// It is not 1 to 63 bytes of `[A-Za-z0-9._-]`, or it is `.` or `..`.
pub fn instance_name(text: &str) -> Result<String, String> {
    if crate::config::is_name(text) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 63 of A-Z a-z 0-9 . _ -".to_owned())
}

/// What tasks tell the loop.
enum Event {
    Input(Input),
    /// The fencing command has ended.
    Fenced(Result<(), String>),
    /// Something that gets a reply.
    Request(ClientId, oneshot::Sender<String>, Input),
}

/// The only clock.
struct Clock {
    start: std::time::Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    fn now(&self) -> Instant {
        Instant::from_millis(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn stamp() -> Stamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Stamp { unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// Runs control until it is told to stop; the exit status.
///
/// # Errors
/// The process cannot begin: configuration ([`Errors`]), directory, lock or socket.
pub fn run(options: Options) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the event loop")?;
    let log = Log::start().context("cannot start the log")?;
    let descriptors = descriptors::raise().context("cannot raise the limit of open files")?;
    let runs_max = descriptors.saturating_sub(descriptors::OWN) / 2;
    let status = runtime.block_on(serve(options, &log, runs_max));
    // A read of the configuration file that hangs must not keep us.
    runtime.shutdown_background();
    log.finish();
    status
}

async fn serve(options: Options, log: &Log, runs_max: u64) -> anyhow::Result<u8> {
    let clock = Clock::start();
    let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    // After the signals are caught: a SIGHUP during a slow start must not end us.
    let config = file::load(&options.config)?;
    let _lock = prepare(&options.run_dir)?;
    let path = options.run_dir.join("control.sock");
    let socket = Socket::listen(&path);
    let mut socket = socket.with_context(|| format!("cannot listen at {}", path.display()))?;
    let who = identity(&options);
    let record = Record::new(Level::Info, "started").with("instance", &who.instance);
    let record = record.with("pid", who.pid).with("boot_id", &who.boot_id);
    log.record(&record.with("config", &who.file), Clock::stamp());
    let (events, mut queue) = mpsc::channel(EVENTS);
    let paths = Paths::new(Some(options.run_dir.join("agent.sock")));
    let runs_max = usize::try_from(runs_max).unwrap_or(usize::MAX);
    let (prober, mut reports) = Prober::start(runs_max, paths)?;
    let (said, mut heard) = mpsc::channel(heartbeat::REPORTS);
    let node = Node::new(who, config, clock.now());
    let mut shell = Shell::start(node, clock, log, options, events, prober, said)?;
    let mut runs = Vec::new();
    let mut status = shell.handle(Input::Tick);
    socket.open_to(shell.node.is_shared());
    while status.is_none() {
        let pause = shell.pause();
        let input = tokio::select! {
            biased;
            _ = terminate.recv() => Input::Stop,
            _ = interrupt.recv() => Input::Stop,
            _ = hangup.recv() => Input::Reload,
            Some(report) = heard.recv() => Input::Ha(shell.pair.complete(report)),
            Some(event) = queue.recv() => shell.event(event),
            count = reports.recv_many(&mut runs, RUNS_AT_ONCE) => {
                if count == 0 {
                    // A new process checks again; this one never would.
                    bail!("the thread of the checks has ended by a mistake in xvip");
                }
                Input::Probed(std::mem::take(&mut runs))
            }
            accepted = socket.accept() => {
                match accepted {
                    Ok(stream) => {
                        let peer = peer::of(&stream);
                        let role = shell.node.role(&peer);
                        socket.serve(stream, peer, role, shell.events.clone());
                    }
                    // Out of descriptors: a client leaves sooner or later; do not spin until then.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                Input::Tick
            }
            () = tokio::time::sleep(pause) => Input::Tick,
        };
        if shell.pair.has_died() {
            // The other node takes over; a new process may own things again.
            bail!("the thread of the heartbeat has ended by a mistake in xvip");
        }
        status = shell.handle(input);
        socket.open_to(shell.node.is_shared());
    }
    socket.close().await;
    let Shell { writer, sorry, .. } = shell;
    sorry.end();
    writer.finish().await;
    Ok(status.unwrap_or(0))
}

/// The effects' side of the loop.
struct Shell<'a> {
    node: Node,
    clock: Clock,
    log: &'a Log,
    options: Options,
    events: mpsc::Sender<Event>,
    /// Clients that wait for a reply.
    replies: BTreeMap<ClientId, oneshot::Sender<String>>,
    agent: Option<agent::Session>,
    watcher: Option<maintenance::Watcher>,
    writer: store::Writer,
    sorry: sorry::Server,
    prober: Prober,
    metrics: Option<metrics::Server>,
    pair: Pair,
}

impl<'a> Shell<'a> {
    /// The parts that carry out effects, and what the last process has left for the core.
    fn start(
        mut node: Node,
        clock: Clock,
        log: &'a Log,
        options: Options,
        events: mpsc::Sender<Event>,
        prober: Prober,
        said: mpsc::Sender<HaReport>,
    ) -> anyhow::Result<Self> {
        let (overrides, problem) = store::load(&options.state_dir, Clock::stamp().unix_ms);
        node.restore(overrides, problem);
        let writer = store::Writer::start(options.state_dir.clone(), events.clone());
        let pair = Pair::new(options.run_dir.clone(), events.clone(), said);
        let sorry = sorry::Server::start(options.run_dir.join("sorry.addresses"))?;
        Ok(Self {
            node,
            clock,
            log,
            options,
            events,
            replies: BTreeMap::new(),
            agent: None,
            watcher: None,
            writer,
            sorry,
            prober,
            metrics: None,
            pair,
        })
    }

    /// What a task says.
    fn event(&mut self, event: Event) -> Input {
        match event {
            Event::Input(input) => input,
            Event::Fenced(result) => {
                self.pair.fenced(result);
                Input::Tick
            }
            Event::Request(client, reply, input) => {
                self.replies.insert(client, reply);
                input
            }
        }
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        let deadline = self.node.next_deadline();
        deadline
            .map_or(Duration::from_secs(60), |at| Duration::from_millis(at.since(self.clock.now())))
    }

    /// Tells the core, does as it says; the exit status if that is the end.
    fn handle(&mut self, input: Input) -> Option<u8> {
        let mut status = None;
        let now = self.clock.now();
        self.node.set_clock(Clock::stamp().unix_ms, now);
        for output in self.node.handle(input, now) {
            match output {
                Output::Connect(session) => {
                    let path = self.options.run_dir.join("agent.sock");
                    self.agent = Some(agent::Session::start(session, path, self.events.clone()));
                }
                Output::Disconnect(_) => self.agent = None,
                Output::Send(session, request) => {
                    if let Some(agent) = &self.agent {
                        agent.send(session, request);
                    }
                }
                Output::Probes(probes) => self.prober.want(probes),
                Output::ProbeNow(probe) => self.prober.hurry(probe),
                Output::Alert(delivery) => alert::start(delivery, self.events.clone()),
                Output::Listen(address) => {
                    // The old one first: it may be another address of the same port.
                    self.metrics = None;
                    let events = self.events.clone();
                    self.metrics = address.map(|at| metrics::Server::start(at, events));
                }
                Output::Ha(order) => self.pair.order(order),
                Output::Load => self.load(),
                Output::Parse(client, file, text) => self.parse(client, file, text),
                Output::Store(write, bytes) => self.writer.write(write, bytes),
                Output::Sorry(pages) => {
                    let problems = self.sorry.serve(&pages);
                    let _ = self.events.try_send(Event::Input(Input::SorryProblems(problems)));
                }
                Output::Watch(directory) => {
                    let start = |d| maintenance::Watcher::start(d, self.events.clone());
                    self.watcher = directory.map(start);
                }
                Output::Reply(client, line) => {
                    if let Some(reply) = self.replies.remove(&client) {
                        let _ = reply.send(line);
                    }
                }
                Output::Log(record) => self.log.record(&record, Clock::stamp()),
                Output::Exit(code) => status = Some(code),
            }
        }
        status
    }

    fn parse(&self, client: ClientId, file: String, text: String) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let name = file.clone();
            let parsed = tokio::task::spawn_blocking(move || parse_sent(&text, &file)).await;
            let parsed = parsed.unwrap_or_else(|e| {
                Err(Errors::unreadable(&name, format!("cannot be read: {e}"), None))
            });
            let _ = events.send(Event::Input(Input::Parsed(client, parsed.map(Box::new)))).await;
        });
    }

    /// Reads the file beside the loop: it may lie on a file system that hangs.
    fn load(&self) {
        let (path, events) = (self.options.config.clone(), self.events.clone());
        tokio::spawn(async move {
            let name = path.display().to_string();
            let loaded = tokio::task::spawn_blocking(move || file::load(&path)).await;
            let loaded = loaded.unwrap_or_else(|e| {
                Err(Errors::unreadable(&name, format!("cannot read: {e}"), None))
            });
            let _ = events.send(Event::Input(Input::Loaded(loaded.map(Box::new)))).await;
        });
    }
}

/// Validates what a client sent beside the loop: a large file takes some time.
fn parse_sent(text: &str, file: &str) -> Result<Config, Errors> {
    here::complete(config::parse_with(text, file, false, here::HERE)?, file)
}

/// Makes the directory and locks it, as long as it is open: no file is left behind, and none that a
/// successor might have opened is removed.
fn prepare(run_dir: &Path) -> anyhow::Result<File> {
    let shown = run_dir.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(run_dir)
        .with_context(|| format!("cannot make {shown}"))?;
    let lock = File::open(run_dir).with_context(|| format!("cannot open {shown}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another xvip-control runs in {shown}; stop it, or use another --instance or --run-dir"
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {shown}"))
        }
    }
}

fn identity(options: &Options) -> Identity {
    let read = |path| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).ok();
    let epoch = Clock::stamp().unix_ms;
    let pid = std::process::id();
    Identity {
        instance: options.instance.clone(),
        host: read("/proc/sys/kernel/hostname").unwrap_or_else(|| "localhost".to_owned()),
        file: options.config.display().to_string(),
        pid,
        uid: rustix::process::geteuid().as_raw(),
        // Without /proc still different from the last start.
        boot_id: read("/proc/sys/kernel/random/uuid").unwrap_or_else(|| format!("{epoch}-{pid}")),
        epoch,
    }
}
