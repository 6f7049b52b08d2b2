//! The steward: the thread that keeps what is in step with what should be.
//!
//! It owns the steering program, the netlink sockets and the desired state. Each second, and on each
//! hint (netlink event, new snapshot), it compares the desired with the real and mends the
//! difference; no single event matters. It never touches a packet, and no worker ever waits for it.

pub mod check;
mod endings;
mod groups;
mod hops;
mod interfaces;
mod replies;
mod rules;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use dataplane_api::counter::Event;
use dataplane_api::message::InterfaceStatus;
use dataplane_api::service::{Engine, Snapshot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::address::{Address, DeviceId};
use crate::agent::{Apply, End};
use crate::announce::Announcer;
use crate::clock::{self, Instant};
use crate::device::xsk::{Memory, Port};
use crate::ids::{Ids, Used};
use crate::kernel::netlink::Monitor;
use crate::kernel::state::KernelState;
use crate::published::{DeviceInfo, Facts, Published};
use crate::reconcile::{Attached, Plan, Reconciler};
use crate::runtime::Runtime;
use crate::service::ServiceTable;
use crate::state_file::State;
use crate::steer::Steer;
use crate::worker::Command;
use endings::Ends;
use hops::Hops;
use interfaces::Serving;
use replies::Replies;
use telling::Listening;

/// How often everything is compared, events or not; and how often the kernel is asked to resolve a
/// neighbour that does not answer.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a warning about something that happened stands.
const NEWS: Duration = Duration::from_secs(60);
/// How often it is asked to confirm one that did.
const CONFIRM: Duration = Duration::from_secs(5);
/// How often routes are asked for although nothing is known to have changed.
const RECHECK: Duration = Duration::from_secs(10);

/// What the steward starts with.
pub struct Parts {
    /// Shared with workers and agent.
    pub runtime: Arc<Runtime>,
    /// Steering program.
    pub steer: Steer,
    /// Netlink.
    pub monitor: Monitor,
    /// One UMEM for each worker.
    pub memories: Vec<Memory>,
    /// To each worker.
    pub commands: Vec<Sender<Command>>,
    /// Sockets that workers let go.
    pub retired: Receiver<Port>,
    /// Snapshots from the agent.
    pub apply: Receiver<Apply>,
    /// Orders to end connections, from the agent.
    pub end: Receiver<End>,
    /// Readable when there is one of either, or a signal came.
    pub wake: UnixStream,
    /// Where the state is kept.
    pub state_path: PathBuf,
    /// The state in force.
    pub snapshot: Snapshot,
    /// Its numbers.
    pub ids: Ids,
}

/// The steward.
pub struct Steward {
    parts: Parts,
    engine: Engine,
    kernel: KernelState,
    dumped: Instant,
    /// Routes and hops have to be worked out anew.
    stale: bool,
    reconciler: Reconciler,
    attached: BTreeMap<DeviceId, Attached>,
    serving: BTreeMap<DeviceId, Serving>,
    /// Changes when an interface comes up or is attached anew.
    generations: BTreeMap<DeviceId, u64>,
    generation: u64,
    hops: Hops,
    replies: Replies,
    announcer: Announcer,
    listening: Listening,
    ends: Ends,
    /// Services that have a sorry page, or had one and the kernel still has connections.
    pages: BTreeSet<String>,
    problems: Vec<String>,
    /// Connections that began with a partial checksum.
    partial: Watch,
    /// Frames that the kernel dropped for us as too long.
    long: BTreeMap<DeviceId, Watch>,
}

/// A count that is news while it rises, and for a while after.
#[derive(Default)]
struct Watch {
    count: u64,
    rose: Option<Instant>,
}

impl Watch {
    fn rises(&mut self, count: u64, now: Instant) -> bool {
        if count > self.count {
            self.rose = Some(now);
        }
        self.count = count;
        self.rose.is_some_and(|then| now.since(then) < NEWS)
    }
}

impl Steward {
    /// Takes charge.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        // An adopted table keeps the size it was made with, whatever the snapshot says by now.
        let connections = parts.runtime.forward.conns.capacity();
        Self {
            engine: Engine { connections, ..parts.snapshot.engine.clone() },
            parts,
            kernel: KernelState::default(),
            dumped: Instant::ZERO,
            stale: true,
            reconciler: Reconciler::default(),
            attached: BTreeMap::new(),
            serving: BTreeMap::new(),
            generations: BTreeMap::new(),
            generation: 0,
            hops: Hops::default(),
            replies: Replies::default(),
            announcer: Announcer::default(),
            listening: Listening::default(),
            ends: Ends::default(),
            pages: BTreeSet::new(),
            problems: Vec::new(),
            partial: Watch::default(),
            long: BTreeMap::new(),
        }
    }

    /// Runs until `stop` says so.
    pub fn run(&mut self, mut stop: impl FnMut() -> bool) {
        self.follow();
        while !stop() {
            let now = clock::now();
            self.round(now);
            self.sleep(clock::now());
            self.drain_wake();
            // A takeover waits for nothing else.
            self.announce(clock::now());
            while let Ok(apply) = self.parts.apply.try_recv() {
                let outcome = self.apply(*apply.snapshot);
                if let Err(message) = &outcome {
                    crate::log!("level=error event=apply-refused reason={message:?}");
                }
                // The session may have ended meanwhile; the state counts, not the answer.
                let _ = apply.outcome.send(outcome);
            }
            while let Ok(end) = self.parts.end.try_recv() {
                let outcome = self.end(&end);
                let _ = end.outcome.send(outcome);
            }
        }
    }

    /// Takes program and pins off; the last thing a process does.
    ///
    /// # Errors
    /// What could not be undone.
    pub fn shut_down(self) -> anyhow::Result<()> {
        self.parts.steer.shutdown()
    }

    /// One comparison of everything.
    fn round(&mut self, now: Instant) {
        self.problems.clear();
        self.listen(now);
        self.watch_senders(now);
        self.check_sockets();
        let plan = self.reconcile(now);
        self.find_replies(now);
        self.find_hops(now);
        let runtime = &self.parts.runtime;
        self.ends.follow(&runtime.cell.get(), runtime, now);
        self.publish();
        self.publish_segments();
        self.steer_packets();
        self.announce(now);
        self.listen_to_neighbors();
        self.report(&plan);
    }

    fn listen(&mut self, now: Instant) {
        let drained = self.parts.monitor.drain(&mut self.kernel);
        self.stale |= drained.changed || drained.routes_changed;
        self.replies.changed |= drained.routes_changed;
        if drained.lost || now.since(self.dumped) >= PERIOD {
            match self.parts.monitor.dump() {
                Ok(kernel) => {
                    self.stale |= self.kernel != kernel;
                    self.kernel = kernel;
                    self.dumped = now;
                }
                Err(e) => self.problems.push(format!("the kernel did not answer: {e:#}")),
            }
        }
    }

    /// Senders that rely on offloads which an AF_XDP socket does not see done lose packets in
    /// silence; this says so, and for a minute after the last sign of it.
    fn watch_senders(&mut self, now: Instant) {
        let workers = self.parts.runtime.workers.iter();
        let partial = workers.map(|w| w.counters.events(Event::PartialChecksum)).sum();
        if self.partial.rises(partial, now) {
            self.problems.push(format!(
                "{partial} connections began with a checksum that the sender left to its interface: \
                 run `ethtool -K INTERFACE tx off` there (a veth does not fill it in)"
            ));
        }
        for (slot, dropped) in self.long_frames() {
            let Some(name) = self.attached.get(&slot).map(|a| a.name.clone()) else { continue };
            if self.long.entry(slot).or_default().rises(dropped, now) {
                self.problems.push(format!(
                    "interface {name}: the kernel dropped {dropped} frames for us (rx_dropped), as it \
                     does with those longer than a frame buffer: run `ethtool -K {name} gro off lro off` \
                     here, and `ethtool -K INTERFACE tso off gso off` at senders on a veth"
                ));
            }
        }
    }

    fn follow(&mut self) {
        let names = self.parts.snapshot.interfaces.iter().map(|i| i.name.as_str());
        self.parts.monitor.follow(names);
    }

    /// Next hops of all reals, by the kernel's routes and neighbours.
    fn find_hops(&mut self, now: Instant) {
        let stale = std::mem::take(&mut self.stale);
        if stale || self.hops.is_due(now) {
            let published = self.parts.runtime.cell.get();
            let slots = self.attached.iter().map(|(slot, a)| (a.ifindex, *slot)).collect();
            let monitor = &mut self.parts.monitor;
            self.stale =
                !self.hops.work_out(monitor, &self.kernel, &slots, &published.services, now);
        }
        self.problems.extend(self.hops.ask(&mut self.parts.monitor, now));
    }

    /// Publishes hops and devices if they differ from what the workers have.
    fn publish(&mut self) {
        let cell = &self.parts.runtime.cell;
        let current = cell.get();
        let hops = self.hops.table();
        let devices = self.devices();
        let replies = &self.replies.table;
        let endings = Arc::clone(&self.ends.table);
        let same = *current.hops == *hops
            && *current.devices == *devices
            && Arc::ptr_eq(&current.endings, &endings);
        if !same || current.replies != *replies {
            let services = Arc::clone(&current.services);
            let replies = replies.clone();
            let (hops, devices) = (hops.into(), devices.into());
            cell.set(Published::new(Facts { services, hops, devices, replies, endings }));
        }
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        let count = self.attached.keys().next_back().map_or(0, |slot| slot.index() + 1);
        let mut devices = vec![DeviceInfo::default(); count];
        for (slot, attached) in &self.attached {
            let Some(link) = self.kernel.links.get(&attached.ifindex) else { continue };
            let own = |v4: bool| {
                let mut addresses = self.kernel.addresses.iter();
                let found = addresses.find(|(ifindex, address, _)| {
                    *ifindex == link.ifindex && address.is_ipv4() == v4 && !is_link_local(*address)
                });
                found.map_or(Address::UNSPECIFIED, |(_, address, _)| (*address).into())
            };
            devices[slot.index()] = DeviceInfo {
                mac: link.mac,
                mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
                usable: attached.up && attached.error.is_none(),
                v4: own(true),
                v6: own(false),
            };
        }
        devices
    }

    fn steer_packets(&mut self) {
        let published = self.parts.runtime.cell.get();
        let snapshot = &self.parts.snapshot;
        self.pages.extend(snapshot.services.iter().filter(|s| s.sorry).map(|s| s.name.clone()));
        let pages = !self.pages.is_empty();
        let counted = if pages { self.parts.steer.kernel_flows(clock::now()) } else { Ok(0) };
        let flows = counted.unwrap_or_else(|e| {
            self.problems.push(format!("steering program: {e:#}"));
            1
        });
        if flows == 0 {
            let has = |name: &String| snapshot.services.iter().any(|s| s.sorry && s.name == *name);
            self.pages.retain(has);
        }
        let kept = rules::Kept { flows, services: &self.pages };
        let rules = rules::rules(snapshot, &published.services, &self.kernel, kept);
        if let Err(e) = self.parts.steer.apply(&rules) {
            self.problems.push(format!("steering program: {e:#}"));
        }
        let report = &self.parts.runtime.report;
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        (report.rules, report.kernel_flows) = (Arc::new(rules), flows);
    }

    fn report(&mut self, plan: &Plan) {
        let interfaces: Vec<InterfaceStatus> = self
            .parts
            .snapshot
            .interfaces
            .iter()
            .zip(&plan.conditions)
            .enumerate()
            .map(|(index, (wanted, condition))| {
                self.interface_status(DeviceId(index as u8), &wanted.name, condition)
            })
            .collect();
        let mut report = self.parts.runtime.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.interfaces = interfaces;
        // Without an answer the last one stands.
        if let Ok(stats) = self.parts.steer.stats() {
            report.no_socket = stats.no_socket;
        }
        report.warnings = self.problems.iter().chain(self.hops.problems()).cloned().collect();
    }

    /// Makes a snapshot the desired state; returns what needs a restart to take effect.
    fn apply(&mut self, snapshot: Snapshot) -> Result<Vec<String>, String> {
        check::check(&snapshot)?;
        let runtime = Arc::clone(&self.parts.runtime);
        let used = used(&runtime);
        let ids = self.parts.ids.assign(Some(&self.parts.snapshot), &snapshot, &used)?;
        let current = runtime.cell.get();
        let services = ServiceTable::compile(&snapshot, &ids, Some(&current.services))?;
        let state = State::new(runtime.forward.conns.table_id(), snapshot, ids);
        state
            .write(&self.parts.state_path)
            .map_err(|e| format!("cannot write {}: {e}", self.parts.state_path.display()))?;
        let mut change = runtime.leases().change();
        let before = current.services.groups();
        for (group, _) in services.groups().iter().filter(|g| !before.contains(g)) {
            change.reset(*group);
        }
        let facts = Facts { services: Arc::new(services), ..Facts::clone(&current) };
        runtime.cell.set(Published::new(facts));
        drop(change);
        (self.parts.snapshot, self.parts.ids) = (state.snapshot, state.ids);
        self.stale = true;
        self.follow();
        self.round(clock::now());
        crate::log!("level=info event=applied services={}", self.parts.snapshot.services.len());
        Ok(needs_restart(&self.engine, &self.parts.snapshot.engine))
    }

    /// Begins to end connections of a real.
    fn end(&mut self, end: &End) -> Result<u64, String> {
        let runtime = Arc::clone(&self.parts.runtime);
        let found = self.ends.order(end, &runtime.cell.get(), &runtime)?;
        self.publish();
        let End { service, real, how, .. } = end;
        crate::log!(
            "level=info event=ending service={service} real={real} how={how:?} connections={found}"
        );
        Ok(found)
    }

    fn sleep(&mut self, now: Instant) {
        let mut until = self.dumped.after(PERIOD);
        if let Some(deadline) = self.announcer.next_deadline() {
            until = until.min(deadline);
        }
        // A lease that becomes fresh rings; one that runs out is noticed within this time.
        let nap = until.since(now).clamp(Duration::from_millis(1), Duration::from_millis(100));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(nap.subsec_nanos()) };
        let netlink = self.parts.monitor.fd();
        let mut fds =
            [PollFd::new(&netlink, PollFlags::IN), PollFd::new(&self.parts.wake, PollFlags::IN)];
        // Interrupted or not, the next round looks at everything.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn drain_wake(&mut self) {
        use std::io::Read;
        let mut bytes = [0; 64];
        while matches!((&self.parts.wake).read(&mut bytes), Ok(count) if count == bytes.len()) {}
    }
}

/// What connections in the table refer to.
fn used(runtime: &Runtime) -> Used {
    let mut used = Used::default();
    runtime.forward.conns.each(|_, conn| used.note(conn));
    used
}

/// Names of the settings that differ and are fixed at start.
fn needs_restart(running: &Engine, wanted: &Engine) -> Vec<String> {
    let mut names = Vec::new();
    let mut compare = |name: &str, same: bool| {
        if !same {
            names.push(format!("engine.{name}"));
        }
    };
    compare("cores", running.cores == wanted.cores);
    compare("poll", running.poll == wanted.poll);
    compare("connections", running.connections == wanted.connections);
    compare("half_open_percent", running.half_open_percent == wanted.half_open_percent);
    compare("frames", running.frames == wanted.frames);
    names
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
