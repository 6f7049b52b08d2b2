//! Runs every probe that is wanted, on a thread and an event loop of its own: whatever the servers
//! do, the loop that renews the lease does not notice.
//!
//! One task for each probe: never two runs of one at a time, a period that begins at the start of a
//! run, and a phase of its own (by its hash), so that a thousand probes are spread over the
//! interval. Reports go to the main loop by a bounded queue; a full one delays probes.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::{Paths, run};
use crate::check::{Outcome, Probe, ProbeSet, Report};

/// One run, ended.
pub(in crate::io) type Run = (Arc<Probe>, Report);

/// Reports that wait for the main loop.
const REPORTS: usize = 256;
/// Requests to run a probe at once that wait; one more is lost, for it comes round soon anyway.
const URGENT: usize = 256;
/// Most runs at a time; more wait.
pub(in crate::io) const RUNS_MAX: usize = 4096;
/// Probes begin at multiples of this, from [`EPOCH`] on.
const GRID: Duration = Duration::from_millis(10);
static EPOCH: OnceLock<Instant> = OnceLock::new();
/// Latest first run of a probe that is new: a server is looked at soon, whatever the interval.
const FIRST_MAX: Duration = Duration::from_secs(1);

/// The way to the prober. It ends when this is dropped.
pub(in crate::io) struct Prober {
    wanted: watch::Sender<Arc<ProbeSet>>,
    urgent: mpsc::Sender<Arc<Probe>>,
}

impl Prober {
    /// Starts the thread; `runs_max`: as many at a time as there are descriptors for; `paths`: the way
    /// to the data plane.
    ///
    /// # Errors
    /// The kernel has no thread or no event queue for us.
    pub(in crate::io) fn start(
        runs_max: usize,
        paths: Paths,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Run>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the event loop of the checks")?;
        let (wanted, wishes) = watch::channel(Arc::default());
        let (urgent, hurries) = mpsc::channel(URGENT);
        let (reports, queue) = mpsc::channel(REPORTS);
        let work = Work {
            reports,
            paths: Arc::new(paths),
            room: Arc::new(Semaphore::new(runs_max.clamp(1, RUNS_MAX))),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            by_task: HashMap::new(),
        };
        std::thread::Builder::new()
            .name("checks".to_owned())
            .spawn(move || {
                runtime.block_on(work.serve(wishes, hurries));
                // A name service or a disk that hangs in a helper thread must not keep us.
                runtime.shutdown_background();
            })
            .context("cannot start the thread of the checks")?;
        Ok((Self { wanted, urgent }, queue))
    }

    /// Runs these from now on, and no others.
    pub(in crate::io) fn want(&self, probes: Arc<ProbeSet>) {
        self.wanted.send_replace(probes);
    }

    /// Runs this one now, if it is not running.
    pub(in crate::io) fn hurry(&self, probe: Arc<Probe>) {
        let _ = self.urgent.try_send(probe);
    }
}

/// A task that runs one probe.
struct Task {
    hurry: Arc<Notify>,
    handle: AbortHandle,
}

struct Work {
    reports: mpsc::Sender<Run>,
    paths: Arc<Paths>,
    room: Arc<Semaphore>,
    tasks: JoinSet<()>,
    running: HashMap<Arc<Probe>, Task>,
    by_task: HashMap<Id, Arc<Probe>>,
}

impl Work {
    async fn serve(
        mut self,
        mut wishes: watch::Receiver<Arc<ProbeSet>>,
        mut hurries: mpsc::Receiver<Arc<Probe>>,
    ) {
        loop {
            tokio::select! {
                changed = wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = Arc::clone(&wishes.borrow_and_update());
                    self.adopt(&wanted);
                }
                Some(probe) = hurries.recv() => {
                    if let Some(task) = self.running.get(&probe) {
                        task.hurry.notify_one();
                    }
                }
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await,
            }
        }
    }

    /// Starts and stops tasks by the difference.
    fn adopt(&mut self, wanted: &ProbeSet) {
        let by_task = &mut self.by_task;
        self.running.retain(|probe, task| {
            let keep = wanted.contains(probe);
            if !keep {
                task.handle.abort();
                by_task.remove(&task.handle.id());
            }
            keep
        });
        for probe in wanted {
            if !self.running.contains_key(probe) {
                self.begin(Arc::clone(probe), first(probe));
            }
        }
    }

    fn begin(&mut self, probe: Arc<Probe>, wait: Duration) {
        let hurry = Arc::new(Notify::new());
        let means = Means {
            paths: Arc::clone(&self.paths),
            room: Arc::clone(&self.room),
            reports: self.reports.clone(),
        };
        let task = repeat(Arc::clone(&probe), wait, Arc::clone(&hurry), means);
        let handle = self.tasks.spawn(task);
        self.by_task.insert(handle.id(), Arc::clone(&probe));
        self.running.insert(probe, Task { hurry, handle });
    }

    /// A task ends by itself only if a check panics: a mistake of ours, not of the server.
    async fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(probe) = self.by_task.remove(&id) else { return };
        self.running.remove(&probe);
        let outcome =
            Outcome::cannot_run("the check failed by a mistake in xvip; please report it");
        let report = Report { outcome, took: Duration::ZERO };
        let _ = self.reports.send((Arc::clone(&probe), report)).await;
        let wait = probe.interval;
        self.begin(probe, wait);
    }
}

/// What every task needs.
struct Means {
    paths: Arc<Paths>,
    room: Arc<Semaphore>,
    reports: mpsc::Sender<Run>,
}

/// Runs a probe until the task is aborted.
async fn repeat(probe: Arc<Probe>, wait: Duration, hurry: Arc<Notify>, means: Means) {
    let Means { paths, room, reports } = means;
    let mut due = Instant::now() + wait;
    let epoch = *EPOCH.get_or_init(Instant::now);
    let mut begun = false;
    loop {
        let hurried = tokio::select! {
            () = tokio::time::sleep_until(on_grid(due, epoch)) => false,
            () = hurry.notified() => true,
        };
        // Never closed.
        let Ok(permit) = room.acquire().await else { return };
        let began = Instant::now();
        let report = run(&probe, &paths).await;
        drop(permit);
        if reports.send((Arc::clone(&probe), report)).await.is_err() {
            return;
        }
        if !hurried {
            // The first of them sets the phase, over the whole interval if that is long.
            due += if begun { probe.interval } else { second(&probe) };
            begun = true;
        }
        // After a long run, when that has ended.
        due = due.max(began + probe.interval / 2).max(Instant::now());
    }
}

/// The next point of time, common to all probes, that is not before `due`: those that are due
/// together cost one wake-up.
fn on_grid(due: Instant, epoch: Instant) -> Instant {
    let since = due.saturating_duration_since(epoch).as_micros();
    let whole = since.div_ceil(GRID.as_micros()) * GRID.as_micros();
    epoch + Duration::from_micros(u64::try_from(whole).unwrap_or(u64::MAX))
}

/// When a new probe runs first: spread over its interval, but soon.
fn first(probe: &Probe) -> Duration {
    probe.interval.min(FIRST_MAX).mul_f64(share(probe))
}

/// How long after the first run the second one is: nearly all come round at once otherwise where
/// intervals are long.
fn second(probe: &Probe) -> Duration {
    if probe.interval <= FIRST_MAX {
        return probe.interval;
    }
    probe.interval.mul_f64(0.5 + share(probe) / 2.0)
}

/// A number from 0 to 1, another one for each probe, and always the same.
fn share(probe: &Probe) -> f64 {
    let mut hasher = DefaultHasher::new();
    probe.hash(&mut hasher);
    let bits = u32::try_from(hasher.finish() >> 40).unwrap_or(0);
    f64::from(bits) / f64::from(1_u32 << 24)
}
