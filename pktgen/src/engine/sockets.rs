//! The AF_XDP sockets of a run and the threads that poll them.
//!
//! Set up and watched by the main thread. In each phase every worker runs on a thread of its own,
//! pinned to its core, and owns its device; between phases nobody polls, and what comes in waits in
//! the rings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use anyhow::{Context, ensure};
use dataplane::address::DeviceId;
use dataplane::clock;
use dataplane::counters::Counters;
use dataplane::device::xsk::{Memory, Port, PortMonitor, XskDevice};
use dataplane::limits::INTERFACES;
use dataplane_api::service::CopyMode;

use super::{Scene, Side};
use crate::bpf::{Mode, Receive};
use crate::meter::Tally;
use crate::report::Line;
use crate::spec::{self, Copying, Spec};

/// Entries of every ring.
const RING: u32 = 2048;
/// The kernel releases the queue of a closed socket some milliseconds late.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// How often the main thread looks at a running phase.
const LOOK: Duration = Duration::from_millis(10);
/// How often it asks the kernel whether the interfaces are still there.
const CHECK: Duration = Duration::from_millis(100);

/// What one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tallies {
    /// Client to real server.
    pub requests: Tally,
    /// Real server to client.
    pub replies: Tally,
    /// Opening packets sent again.
    pub repeated: dataplane::counters::Counter,
    /// Frames that are no traffic of the run.
    pub foreign: dataplane::counters::Counter,
    /// Answers of the real servers that had nowhere to go: their next hop is not known.
    pub homeless: dataplane::counters::Counter,
}

/// One thread's part.
pub struct Worker {
    /// Number.
    pub id: u32,
    /// Workers there are.
    pub of: u32,
    /// Its sockets: queue `k` of the clients' interface is device `2 * k`, of the servers'
    /// `2 * k + 1`.
    pub device: XskDevice,
    /// Of the device.
    pub counters: Counters,
    /// Read by the main thread while it runs.
    pub tallies: Arc<Tallies>,
    core: usize,
}

/// Where clients' packets leave.
pub const CLIENT: DeviceId = DeviceId(0);

/// Whether a device is the servers' interface.
#[inline(always)]
#[must_use]
pub fn is_server(device: DeviceId) -> bool {
    device.0 & 1 == 1
}

struct Bound {
    interface: String,
    queue: u32,
    monitor: PortMonitor,
    port_fd: std::os::fd::OwnedFd,
}

/// All sockets of a run.
pub struct Sockets {
    workers: Vec<Worker>,
    bound: Vec<Bound>,
    sides: Vec<Side>,
    receive: Vec<Receive>,
    mode: spec::Mode,
    /// `copy` or `zero-copy`, of all.
    copy: &'static str,
    attached: &'static str,
}

/// Whether a phase goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// It ends now.
    Stop,
}

impl Sockets {
    /// Opens and attaches them all.
    ///
    /// # Errors
    /// What the kernel refused, with the interface and queue.
    pub fn open(spec: &Spec, scene: &Scene) -> anyhow::Result<Self> {
        let copy = match spec.copy {
            Copying::Auto => CopyMode::Auto,
            Copying::Copy => CopyMode::Copy,
            Copying::ZeroCopy => CopyMode::ZeroCopy,
        };
        let workers = spec.cores.len() as u32;
        let queues = spec.queues.max(1);
        ensure!(workers <= queues, "{workers} cores for {queues} queues: a worker needs a queue");
        let each = queues.div_ceil(workers) as usize;
        ensure!(each * 2 <= INTERFACES, "{queues} queues are too many for {workers} cores");
        let sides: Vec<Side> =
            [&scene.client, &scene.server].into_iter().flatten().cloned().collect();
        let mut all = Self {
            workers: Vec::new(),
            bound: Vec::new(),
            sides,
            receive: Vec::new(),
            mode: spec.mode,
            copy: "zero-copy",
            attached: "none",
        };
        for (id, core) in spec.cores.iter().enumerate() {
            let mine = (id as u32..queues).step_by(workers as usize);
            let ports = mine.clone().count() * all.sides.len();
            let memory = Memory::new(ports as u32 * 2 * RING + 128, RING)
                .context("memory for the generator's frames")?;
            let mut device = XskDevice::new(&memory)?;
            for (slot, queue) in mine.enumerate() {
                for (side, server) in [(&scene.client, 0), (&scene.server, 1)] {
                    let Some(side) = side else { continue };
                    let port = Port::open(&memory, &side.interface, queue, copy, BIND_PATIENCE)?;
                    all.copy = if port.zero_copy() { all.copy } else { "copy" };
                    all.bound.push(Bound {
                        interface: side.interface.clone(),
                        queue,
                        monitor: port.monitor(),
                        port_fd: port.fd().try_clone_to_owned()?,
                    });
                    let refused = device.install(DeviceId(2 * slot as u8 + server), port);
                    ensure!(refused.is_none(), "no room for queue {queue}");
                }
            }
            all.workers.push(Worker {
                id: id as u32,
                of: workers,
                device,
                counters: Counters::default(),
                tallies: Arc::default(),
                core: *core,
            });
        }
        all.attach()?;
        Ok(all)
    }

    /// Attaches the receive program to the interfaces, unless it is.
    ///
    /// # Errors
    /// See [`Receive::attach`].
    pub fn attach(&mut self) -> anyhow::Result<()> {
        if !self.receive.is_empty() {
            return Ok(());
        }
        for side in &self.sides {
            let receive = Receive::attach(side.index, mode(self.mode, &side.driver))
                .with_context(|| side.interface.clone())?;
            for bound in self.bound.iter().filter(|b| b.interface == side.interface) {
                receive.set_socket(bound.queue, std::os::fd::AsFd::as_fd(&bound.port_fd))?;
            }
            self.attached = receive.mode().name();
            self.receive.push(receive);
        }
        Ok(())
    }

    /// Takes the receive program away: until [`Self::attach`], packets go to the kernel.
    pub fn detach(&mut self) {
        self.receive.clear();
    }

    /// Why an interface can carry nothing any more; none if all are well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        trouble(&self.bound)
    }

    /// How the sockets sit on the interfaces: `native` or `generic`, and `copy` or `zero-copy`.
    #[must_use]
    pub fn mode(&self) -> String {
        format!("{}, {}", self.attached, self.copy)
    }

    /// What each worker counts.
    #[must_use]
    pub fn tallies(&self) -> Vec<Arc<Tallies>> {
        self.workers.iter().map(|worker| worker.tallies.clone()).collect()
    }

    /// `XDP_STATISTICS` of all sockets, by interface and name; what a vanished interface had is
    /// missing.
    #[must_use]
    pub fn statistics(&self) -> BTreeMap<(String, &'static str), u64> {
        let mut sums = BTreeMap::new();
        for bound in &self.bound {
            for (name, value) in bound.monitor.statistics().unwrap_or_default() {
                *sums.entry((bound.interface.clone(), name)).or_default() += value;
            }
        }
        sums
    }

    /// What of the statistics grew, as lines of a ledger.
    #[must_use]
    pub fn dropped_since(&self, before: &BTreeMap<(String, &'static str), u64>) -> Vec<Line> {
        let mut lines = Vec::new();
        for ((interface, name), value) in self.statistics() {
            // What is dropped because the ring is full is counted under that name.
            let grown =
                value - before.get(&(interface.clone(), name)).copied().unwrap_or(0).min(value);
            let loss = matches!(name, "rx_dropped" | "rx_ring_full" | "rx_fill_ring_empty_descs");
            if loss && grown > 0 {
                lines.push(Line {
                    place: format!("generator {interface}: {}", name.replace('_', " ")),
                    packets: grown,
                });
            }
        }
        lines
    }

    /// Runs one phase: `work` on every worker until it returns, which it must soon after the flag
    /// it is given becomes true. `look` is called every 10 ms, with what is wrong with an interface
    /// if anything is.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn run<R: Send>(
        &mut self,
        work: impl Fn(&mut Worker, &AtomicBool) -> R + Sync,
        mut look: impl FnMut(Option<String>) -> Go,
    ) -> anyhow::Result<Vec<R>> {
        let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        let Self { workers, bound, .. } = self;
        let total = workers.len();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for worker in workers {
                let (work, stop, done) = (&work, &stop, &done);
                let spawned = std::thread::Builder::new()
                    .name(format!("worker {}", worker.id))
                    .spawn_scoped(scope, move || {
                        // Unpinned is slower, not wrong.
                        core_affinity::set_for_current(core_affinity::CoreId { id: worker.core });
                        let result = work(worker, stop);
                        done.fetch_add(1, Release);
                        result
                    });
                match spawned {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        stop.store(true, Release);
                        return Err(error).context("starting a worker");
                    }
                }
            }
            let mut checked = clock::now();
            while done.load(Acquire) < total && !threads.iter().all(|t| t.is_finished()) {
                std::thread::park_timeout(LOOK);
                let now = clock::now();
                let trouble = if now.since(checked) >= CHECK {
                    checked = now;
                    trouble(bound)
                } else {
                    None
                };
                if look(trouble) == Go::Stop {
                    stop.store(true, Release);
                }
            }
            let mut results = Vec::new();
            for thread in threads {
                results.push(thread.join().map_err(|_| anyhow::anyhow!("a worker died"))?);
            }
            Ok(results)
        })
    }
}

/// Why an interface can carry nothing any more; none if all are well.
fn trouble(bound: &[Bound]) -> Option<String> {
    bound.iter().find_map(|bound| {
        let error = bound.monitor.check().err()?;
        let what = match error.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => "is gone".to_owned(),
            Some(libc::ENETDOWN) => "is down".to_owned(),
            Some(libc::EAGAIN) => return None,
            _ => format!("failed: {error}"),
        };
        Some(format!("interface {} {what}", bound.interface))
    })
}

fn mode(wanted: spec::Mode, driver: &str) -> Mode {
    match wanted {
        // A veth has to make an XDP frame of every packet in native mode, which is slower.
        spec::Mode::Auto if driver == "veth" => Mode::Generic,
        spec::Mode::Auto => Mode::Auto,
        spec::Mode::Native => Mode::Native,
        spec::Mode::Generic => Mode::Generic,
    }
}
