//! From nothing to a running data plane, and back: everything that needs privileges, in order.

mod beginning;
mod memory;
mod places;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender, unbounded};
use dataplane::agent::{Agent, Apply, End};
use dataplane::bell::Bell;
use dataplane::clock;
use dataplane::device::xsk::{Memory, Port, XskDevice};
use dataplane::kernel::Monitor;
use dataplane::limits;
use dataplane::log;
use dataplane::published::{Cell, Facts, Published};
use dataplane::runtime::{Report, Runtime, WorkerShare};
use dataplane::steer::Steer;
use dataplane::steward::{Parts, Steward};
use dataplane::sync::Sync;
use dataplane::worker::{Command, Worker};
use dataplane::{priority, privilege};
use dataplane_api::service::Snapshot;
use rustix::process::{Resource, Rlimit};

use beginning::{Beginning, Beginnings, Source};
use places::Places;
pub(crate) use places::unmounter;

/// File descriptors wanted: 64 workers with 16 interfaces, and the rest.
const DESCRIPTORS: u64 = 4096;

/// Runs the data plane until SIGTERM or SIGINT.
pub(crate) fn run(instance: &str, run_dir: Option<PathBuf>) -> anyhow::Result<()> {
    let started = clock::now();
    log::start(privilege::confine_worker)?;
    let places = Places::new(instance, run_dir)?;
    places::make_directory(&places.run_dir)?;
    let lock = places::lock(&places.lock)?;
    let mut ground = match prepare(&places) {
        Ok(ground) => ground,
        Err(error) => {
            places::abandon(&places, lock);
            return Err(error);
        }
    };
    let mut beginnings = Beginnings::new(&places, &ground.applied, &ground.signals.stop);
    let (running, rest, source, crew) = loop {
        let Some((beginning, source)) = beginnings.next() else {
            ground.steer.shutdown()?;
            return places::clean_up(&places, &mut ground.unmounter, lock);
        };
        match launch(beginning, ground.boot_id.clone(), started) {
            Ok((running, rest, crew)) => break (running, rest, source, crew),
            Err(error) => beginnings.failed(source, &error),
        }
    };
    // The last thing that needed more: anchoring the workers' memory (see `device/umem.rs`).
    privilege::reduce_to_steward()?;
    let mut steward = Steward::new(Parts {
        runtime: Arc::clone(&running),
        steer: ground.steer,
        monitor: ground.monitor,
        memories: crew.memories,
        commands: crew.commands,
        retired: crew.retired,
        apply: ground.applied,
        end: ground.ends,
        wake: ground.woken,
        state_path: places.state.clone(),
        snapshot: rest.snapshot,
        ids: rest.ids,
    });
    let _ = ground.runtime.set(Arc::clone(&running));
    start_sync(ground.sync, &running)?;
    match source {
        Source::Left => {}
        // The session may have ended meanwhile; the state counts, not the answer.
        Source::Sent(Apply { outcome, .. }) => drop(outcome.send(Ok(Vec::new()))),
        Source::LeftOn(apply) => drop(ground.again.send(apply)),
    }
    let mut failed = false;
    steward.run(|| {
        failed = crew.threads.iter().any(JoinHandle::is_finished);
        failed || ground.signals.stop()
    });
    if failed {
        // Program and pins stay: packets are dropped, not refused, until a new process adopts them.
        bail!("a worker has ended; see the log. Start the data plane again: connections are kept");
    }
    dismiss(&running, crew.threads);
    steward.shut_down()?;
    places::clean_up(&places, &mut ground.unmounter, lock)
}

/// What does not depend on a snapshot.
struct Ground {
    unmounter: Child,
    steer: Steer,
    monitor: Monitor,
    woken: UnixStream,
    signals: Signals,
    boot_id: String,
    sync: UnixListener,
    runtime: Arc<OnceLock<Arc<Runtime>>>,
    applied: Receiver<Apply>,
    ends: Receiver<End>,
    /// Into `applied`.
    again: Sender<Apply>,
}

fn prepare(places: &Places) -> anyhow::Result<Ground> {
    raise_descriptors()?;
    privilege::prepare_limits()?;
    privilege::mount_bpffs(&places.bpf)?;
    let unmounter = places::spawn_unmounter(&places.bpf)?;
    let steer = Steer::open(&places.bpf.join("xvip"))?;
    let monitor = Monitor::open()?;
    let (wake, woken) = UnixStream::pair().context("socket pair")?;
    // Both ends: a steward that is late must not hold up who wakes it.
    for end in [&wake, &woken] {
        end.set_nonblocking(true).context("socket pair")?;
    }
    let signals = Signals::catch()?;
    let boot_id = random_id()?;
    let runtime = Arc::new(OnceLock::new());
    let (again, applied) = unbounded();
    let (end, ends) = unbounded();
    let agent = Agent {
        runtime: Arc::clone(&runtime),
        apply: again.clone(),
        end,
        wake,
        boot_id: boot_id.clone(),
    };
    start_agent(places, agent)?;
    let sync = places::listen(&places.sync)?;
    Ok(Ground {
        unmounter,
        steer,
        monitor,
        woken,
        signals,
        boot_id,
        sync,
        runtime,
        applied,
        ends,
        again,
    })
}

/// Descriptors for every socket of every queue; the usual soft limit of 1,024 is for `select`.
fn raise_descriptors() -> anyhow::Result<()> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= DESCRIPTORS) {
        return Ok(());
    }
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.max(DESCRIPTORS));
    let raised = Rlimit { current: Some(DESCRIPTORS), maximum: Some(wanted) };
    if rustix::process::setrlimit(Resource::Nofile, raised).is_err() {
        // Without the right to lift the hard limit: as far as that allows.
        let limit = Rlimit { current: maximum, maximum };
        rustix::process::setrlimit(Resource::Nofile, limit)
            .context("cannot raise RLIMIT_NOFILE to its hard limit")?;
    }
    Ok(())
}

/// Opens the agent socket and serves it, with fewer rights, on a thread.
fn start_agent(places: &Places, agent: Agent) -> anyhow::Result<()> {
    let listener = places::listen(&places.agent)?;
    std::thread::Builder::new()
        .name("agent".into())
        .spawn(move || {
            if let Err(e) = priority::realtime() {
                // Sessions work as well without; on a busy machine a lease may come late.
                log!("level=info event=agent-not-realtime reason=\"{e}\"");
            }
            match privilege::reduce_to_steward() {
                Ok(()) => agent.serve(&listener),
                Err(e) => log!("level=error event=agent-not-confined reason=\"{e:#}\""),
            }
        })
        .context("agent thread")?;
    Ok(())
}

/// Serves the replication socket on a thread without capabilities. Nobody accepts a session before
/// there is a table; whoever connects waits.
fn start_sync(listener: UnixListener, runtime: &Arc<Runtime>) -> anyhow::Result<()> {
    let sync = Sync::new(Arc::clone(runtime), listener).context("replication socket")?;
    std::thread::Builder::new()
        .name("sync".into())
        .spawn(move || match privilege::reduce_to_nothing() {
            Ok(()) => sync.run(),
            Err(e) => log!("level=error event=sync-not-confined reason=\"{e:#}\""),
        })
        .context("sync thread")?;
    Ok(())
}

/// What remains of a beginning when the table has gone to the workers.
struct Rest {
    snapshot: Snapshot,
    ids: dataplane::ids::Ids,
}

/// From a beginning to running workers; if that fails, none is left and the table is let go.
fn launch(
    beginning: Beginning,
    boot_id: String,
    started: clock::Instant,
) -> anyhow::Result<(Arc<Runtime>, Rest, Crew)> {
    let (runtime, rest) = running(beginning, boot_id, started)?;
    let (retire, retired) = unbounded();
    let mut crew =
        Crew { threads: Vec::new(), memories: Vec::new(), commands: Vec::new(), retired };
    match hire(&mut crew, &retire, &runtime, &rest.snapshot) {
        Ok(()) => Ok((runtime, rest, crew)),
        Err(error) => {
            dismiss(&runtime, crew.threads);
            Err(error)
        }
    }
}

fn dismiss(runtime: &Runtime, threads: Vec<JoinHandle<()>>) {
    runtime.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
}

fn running(
    beginning: Beginning,
    boot_id: String,
    started: clock::Instant,
) -> anyhow::Result<(Arc<Runtime>, Rest)> {
    let Beginning { snapshot, ids, table, adopted } = beginning;
    let runtime = Arc::new(Runtime {
        cell: Cell::new(Published::new(Facts {
            services: Arc::new(beginning::compile(&snapshot, &ids)?),
            hops: Arc::default(),
            devices: Arc::default(),
            replies: None,
            endings: Arc::default(),
        })),
        forward: beginning::share(table)?,
        workers: worker_shares(&snapshot)?,
        stop: AtomicBool::new(false),
        boot_id,
        started,
        adopted,
        report: Mutex::new(Report::default()),
        segments: Mutex::default(),
    });
    Ok((runtime, Rest { snapshot, ids }))
}

fn worker_shares(snapshot: &Snapshot) -> anyhow::Result<Box<[WorkerShare]>> {
    let share = |core: &u16| {
        let bell = Bell::new().context("eventfd")?;
        Ok(WorkerShare { core: *core, bell, ..WorkerShare::default() })
    };
    snapshot.engine.cores.iter().map(share).collect()
}

/// The workers.
struct Crew {
    threads: Vec<JoinHandle<()>>,
    memories: Vec<Memory>,
    commands: Vec<Sender<Command>>,
    retired: Receiver<Port>,
}

fn hire(
    crew: &mut Crew,
    retire: &Sender<Port>,
    runtime: &Arc<Runtime>,
    snapshot: &Snapshot,
) -> anyhow::Result<()> {
    let interfaces = u32::try_from(snapshot.interfaces.len()).unwrap_or(u32::MAX).max(1);
    let frames = snapshot.engine.frames.saturating_mul(interfaces).checked_next_power_of_two();
    let frames = frames.context("engine.frames: too many frames")?;
    // Half of an interface's frames can wait in its fill ring and half in its transmit ring; twice
    // that is spared for bursts and for fragments.
    let ring = (snapshot.engine.frames / 4).clamp(64, 32_768).next_power_of_two();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    for (number, core) in snapshot.engine.cores.iter().enumerate() {
        let memory = Memory::new(frames, ring).with_context(|| {
            let mib = (u64::from(frames) * limits::FRAME_SIZE as u64) >> 20;
            format!("frames of worker {number} ({mib} MiB; see engine.frames)")
        })?;
        let device = XskDevice::new(&memory)?;
        let (command, commands) = unbounded();
        let worker = Worker {
            number,
            runtime: Arc::clone(runtime),
            device,
            commands,
            retired: retire.clone(),
            poll: snapshot.engine.poll,
        };
        let core = cores.iter().find(|c| c.id == usize::from(*core)).copied();
        let thread = std::thread::Builder::new().name(format!("worker-{number}"));
        crew.threads.push(thread.spawn(move || work(worker, core)).context("worker thread")?);
        crew.memories.push(memory);
        crew.commands.push(command);
    }
    Ok(())
}

/// The first thing a worker does is to give up what it does not need.
fn work(worker: Worker, core: Option<core_affinity::CoreId>) {
    if let Some(share) = worker.runtime.workers.get(worker.number) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        share.tid.store(tid.unsigned_abs(), Ordering::Relaxed);
        let pinned = core.is_some_and(core_affinity::set_for_current);
        share.pinned.store(pinned, Ordering::Relaxed);
        if !pinned {
            log!("level=warn event=not-pinned worker={} core={}", worker.number, share.core);
        }
    }
    if let Err(e) = privilege::confine_worker() {
        log!("level=error event=not-confined worker={} reason=\"{e:#}\"", worker.number);
        return;
    }
    worker.run();
}

/// Signals, as flags and nothing more: a handler may run on a worker's thread, where a system call
/// would end the process (see `privilege.rs`). The steward looks at them at least ten times a second.
struct Signals {
    stop: Arc<AtomicBool>,
    /// Those that mean nothing to us, and would end the process by default.
    ignored: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
        let signals = Self { stop: Arc::default(), ignored: Arc::default() };
        let on = |signal, flag: &Arc<AtomicBool>| {
            signal_hook::flag::register(signal, Arc::clone(flag)).context("signal handler")
        };
        for signal in [SIGTERM, SIGINT] {
            on(signal, &signals.stop)?;
        }
        for signal in [SIGHUP, SIGUSR1, SIGUSR2] {
            on(signal, &signals.ignored)?;
        }
        Ok(signals)
    }

    fn stop(&self) -> bool {
        if self.ignored.swap(false, Ordering::Relaxed) {
            log!(
                "level=info event=signal-ignored reason=\"xvip-control reads the configuration again\""
            );
        }
        self.stop.load(Ordering::Relaxed)
    }
}

fn random_id() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
