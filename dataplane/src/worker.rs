//! The life of a core.
//!
//! A worker is one pinned thread that owns one queue of every interface. It never waits for another
//! thread: what the steward wants of it comes through a channel that it looks into between bursts.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::Poll;

use crate::address::{Address, DeviceId, GroupId};
use crate::clock::{self, Instant};
use crate::counters::Counters;
use crate::device::Device;
use crate::device::xsk::{Port, XskDevice};
use crate::forward::{self, Ender, Local, Pipeline, Tables};
use crate::published::Published;
use crate::runtime::Runtime;

/// What the steward wants of a worker.
#[allow(clippy::large_enum_variant, reason = "a handful a minute, each moved once")]
pub enum Command {
    /// Serve this socket.
    Install(DeviceId, Port),
    /// Serve the interface no longer.
    Remove(DeviceId),
    /// Tell the neighbours that an address of this group is ours.
    Announce(DeviceId, Address, GroupId),
}

/// One worker, ready to run.
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// Shared with the others.
    pub runtime: Arc<Runtime>,
    /// Its queues.
    pub device: XskDevice,
    /// From the steward.
    pub commands: Receiver<Command>,
    /// Sockets it has let go, for the steward to close.
    pub retired: Sender<Port>,
    /// How it waits.
    pub poll: Poll,
}

/// Longest sleep of an idle worker: how long a command waits at worst, unless the bell is rung.
const NAP: Duration = Duration::from_millis(20);
/// Time without traffic after which an adaptive worker sleeps: about two system calls' worth.
const SPIN: Duration = Duration::from_micros(50);
/// How often a worker that has traffic looks for commands: looking costs a fence, each turn a few
/// per cent of forwarding, and nobody waits for one.
const OBEY: Duration = Duration::from_micros(100);
/// Every connection is looked at for expiry once in this time.
const SWEEP: Duration = Duration::from_secs(5);
/// Most connections looked at between two bursts: 0.2 ms if all of them have ended.
const SWEEP_STEP: u64 = 1024;
/// Most held fragments expired between two bursts.
const FRAGMENT_STEP: usize = 16;

impl Worker {
    /// Runs until [`Runtime::stop`].
    pub fn run(mut self) {
        let runtime = Arc::clone(&self.runtime);
        let Some(share) = runtime.workers.get(self.number) else { return };
        let counters = &share.counters;
        let mut pipeline = Pipeline::default();
        let mut local = Local::new(self.number, runtime.workers.len());
        let capacity = runtime.forward.conns.capacity();
        let mut ender = Ender::new(self.number, runtime.workers.len(), capacity);
        let mut sweeper = Sweeper::new(self.number, &runtime);
        let (mut version, mut published) = (runtime.cell.version(), runtime.cell.get());
        let mut busy_until = clock::now();
        let mut obey_at = busy_until;
        while !runtime.stop.load(Relaxed) {
            let now = clock::now();
            let orders = (now >= obey_at).then(|| self.commands.len());
            // After a look at how many orders there are: each relies on what was published before it.
            if runtime.cell.version() != version {
                (version, published) = (runtime.cell.version(), runtime.cell.get());
            }
            let mut tables = Tables {
                published: &published,
                shared: &runtime.forward,
                counters,
                local: &mut local,
                lease: runtime.leases().fresh(published.services.group_mask(), now),
                now,
            };
            if let Some(orders) = orders {
                self.obey(orders, &tables);
                obey_at = now.after(OBEY);
            }
            let polled = self.device.poll(counters, |frames, verdicts, outbox| {
                pipeline.forward(frames, verdicts, outbox, &mut tables);
            });
            counters.polls.add(1);
            if polled > 0 {
                counters.busy_polls.add(1);
                busy_until = now.after(SPIN);
            }
            forward::send_probes(&mut self.device, &mut tables);
            let ending = ender.step(&mut self.device, &mut tables);
            let behind = ending | sweeper.sweep(&runtime, &published, counters, now);
            if self.poll == Poll::Adaptive && !behind && polled == 0 && now > busy_until {
                counters.event(Event::Sleep);
                self.device.wait_or_hear(NAP, share.bell.fd());
                share.bell.hush();
                obey_at = now;
            }
        }
    }

    fn obey(&mut self, orders: usize, tables: &Tables<'_>) {
        for _ in 0..orders {
            let Ok(command) = self.commands.try_recv() else { break };
            let old = match command {
                Command::Install(device, port) => self.device.install(device, port),
                Command::Remove(device) => self.device.remove(device),
                Command::Announce(device, address, group) => {
                    forward::announce(device, address, group, &mut self.device, tables);
                    None
                }
            };
            if let Some(port) = old {
                // A steward that is gone has no use for the socket; the process ends anyhow.
                let _ = self.retired.send(port);
            }
        }
        // The other workers have no queue of an interface that has fewer than they are.
        while self.number == 0 && forward::send_question(&mut self.device, tables) {}
    }
}

/// Ends connections that have been idle too long: this worker's share of the table, at an even pace.
struct Sweeper {
    worker: usize,
    first: u64,
    last: u64,
    cursor: u64,
    swept: Instant,
}

impl Sweeper {
    fn new(worker: usize, runtime: &Runtime) -> Self {
        let capacity = u64::from(runtime.forward.conns.capacity());
        let (number, count) = (worker as u64, runtime.workers.len().max(1) as u64);
        let first = capacity * number / count;
        let last = capacity * (number + 1) / count;
        Self { worker, first, last, cursor: first, swept: clock::now() }
    }

    /// Does what is due, at most one step. True if there is more.
    fn sweep(
        &mut self,
        runtime: &Runtime,
        published: &Published,
        counters: &Counters,
        now: Instant,
    ) -> bool {
        let share = self.last - self.first;
        let pace = (SWEEP.as_nanos() as u64 / share.max(1)).max(1);
        let due = now.since(self.swept).as_nanos() as u64 / pace;
        let step = due.min(SWEEP_STEP).min(self.last - self.cursor);
        if step < 64 && step < self.last - self.cursor {
            return false;
        }
        let behind = due > SWEEP_STEP;
        self.swept = if behind { self.swept.after(Duration::from_nanos(step * pace)) } else { now };
        let mut cursor = self.cursor as u32;
        let tick = now.tick();
        let services = &published.services;
        runtime.forward.conns.sweep(
            &mut cursor,
            step as u32,
            tick,
            |conn| services.service(conn.identity.service).map_or(0, |s| s.timeout(conn.state)),
            |found| {
                let by = (self.worker, now, counters);
                forward::expired(&found, &runtime.forward, services, by);
            },
        );
        self.cursor += step;
        if self.cursor >= self.last {
            self.cursor = self.first;
        }
        if let Ok(mut fragments) = runtime.forward.fragments.try_lock() {
            for _ in 0..fragments.expire(now, FRAGMENT_STEP) {
                counters.drop(Reason::FragmentTimeout);
            }
        }
        behind
    }
}
