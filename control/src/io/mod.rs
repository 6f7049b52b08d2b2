//! Carries out what the core decides, on one thread; the only reader of the clock.
//!
//! One loop: signals first, then what clients and the data plane say, then what is due. The core
//! does what is due on every call, so that no flood of messages can hold up the lease.

mod agent;
pub mod file;
mod line;
pub mod log;
mod socket;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::config::Errors;
use crate::log::{Level, Record};
use crate::node::{ClientId, Identity, Input, Node, Output};
use crate::time::{Instant, Stamp};
use log::Log;
use socket::Socket;
pub use socket::{CLIENTS_MAX, IDLE_MAX, TRANSFER_MAX};

/// Events that wait for the loop; whoever sends more waits.
const EVENTS: usize = 64;

/// File descriptors wanted: clients, those being turned away, and our own.
const DESCRIPTORS: u64 = 4 * CLIENTS_MAX as u64;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Name of the instance.
    pub instance: String,
    /// Directory of the sockets.
    pub run_dir: PathBuf,
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
    raise_descriptors().context("cannot raise the limit of open files")?;
    let status = runtime.block_on(serve(options, &log));
    // A read of the configuration file that hangs must not keep us.
    runtime.shutdown_background();
    log.finish();
    status
}

/// As many as clients can take, so that they cannot keep us from the data plane or from our file.
fn raise_descriptors() -> std::io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= DESCRIPTORS) {
        return Ok(());
    }
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.max(DESCRIPTORS));
    let raised = Rlimit { current: Some(DESCRIPTORS), maximum: Some(wanted) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        // Without the right to lift the hard limit: as far as that allows.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(())
}

async fn serve(options: Options, log: &Log) -> anyhow::Result<u8> {
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
    let node = Node::new(who, config, clock.now());
    let mut shell =
        Shell { node, clock, log, options, events, replies: BTreeMap::new(), agent: None };
    let mut status = shell.handle(Input::Tick);
    while status.is_none() {
        let pause = shell.pause();
        let input = tokio::select! {
            biased;
            _ = terminate.recv() => Input::Stop,
            _ = interrupt.recv() => Input::Stop,
            _ = hangup.recv() => Input::Reload,
            Some(event) = queue.recv() => match event {
                Event::Input(input) => input,
                Event::Request(client, reply, input) => {
                    shell.replies.insert(client, reply);
                    input
                }
            },
            accepted = socket.accept() => {
                match accepted {
                    Ok(stream) => socket.serve(stream, shell.events.clone()),
                    // Out of descriptors: a client leaves sooner or later; do not spin until then.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                Input::Tick
            }
            () = tokio::time::sleep(pause) => Input::Tick,
        };
        status = shell.handle(input);
    }
    socket.close().await;
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
}

impl Shell<'_> {
    /// How long nothing is due.
    fn pause(&self) -> Duration {
        let deadline = self.node.next_deadline();
        deadline
            .map_or(Duration::from_secs(60), |at| Duration::from_millis(at.since(self.clock.now())))
    }

    /// Tells the core, does as it says; the exit status if that is the end.
    fn handle(&mut self, input: Input) -> Option<u8> {
        let mut status = None;
        for output in self.node.handle(input, self.clock.now()) {
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
                Output::Load => self.load(),
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
        // Without /proc still different from the last start.
        boot_id: read("/proc/sys/kernel/random/uuid").unwrap_or_else(|| format!("{epoch}-{pid}")),
        epoch,
    }
}
