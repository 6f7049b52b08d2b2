//! The loop of the heartbeat: polls, tells the machine, does as it says.

mod report;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;

use super::evidence::{Job, Seen};
use super::lease::{Agent, Said};
use super::path::Way;
use super::{Born, Order, Start, boottime, nanos, random, realtime};
use crate::alike::Alike;
use crate::failover::exchange::{Evidence, Input, Nanos, Output};
use crate::failover::machine::Machine;
use crate::failover::settings::Settings;
use crate::node::HaReport;
use crate::verbs::HaHeartbeat;

/// Messages taken from one path at a time.
const AT_ONCE: usize = 64;
/// Shortest time that the data plane has to answer.
const PATIENCE_MIN: Nanos = 100_000_000;

pub(super) struct Thread {
    machine: Machine,
    settings: Settings,
    agent: Agent,
    ways: Vec<Way>,
    alike: Alike,
    orders: (Receiver<Order>, Arc<OwnedFd>),
    jobs: Sender<Job>,
    reports: mpsc::Sender<HaReport>,
    backlog: VecDeque<HaReport>,
    lost: u64,
    evidence: Evidence,
    /// Whether the data plane knows our groups.
    ready: bool,
    alive: bool,
    show_at: Nanos,
    shown: HaHeartbeat,
    /// Told to the machine when it has been through with what it does now.
    inputs: VecDeque<Input<'static>>,
    ended: bool,
}

impl Thread {
    pub(super) fn new(
        start: Start,
        born: &Born,
        agent: PathBuf,
        orders: (Receiver<Order>, Arc<OwnedFd>),
        jobs: Sender<Job>,
        reports: mpsc::Sender<HaReport>,
    ) -> Self {
        let settings = start.setup.settings.clone();
        let (patience, ping) = times(&settings);
        let pings_wanted = u8::try_from(settings.pings.len()).unwrap_or(u8::MAX);
        Self {
            machine: Machine::new(start.setup, born.nonce, born.first_epoch, boottime()),
            agent: Agent::new(agent, patience, ping),
            ways: settings.paths.iter().cloned().map(Way::new).collect(),
            alike: start.alike,
            settings,
            orders,
            jobs,
            reports,
            backlog: VecDeque::new(),
            lost: 0,
            evidence: Evidence { pings_wanted, ..Evidence::default() },
            ready: false,
            alive: false,
            show_at: 0,
            shown: HaHeartbeat::default(),
            inputs: VecDeque::new(),
            ended: false,
        }
    }

    pub(super) fn run(mut self) {
        let (granted, warnings) = realtime::ask();
        (self.shown.realtime, self.shown.locked) = (granted.realtime, granted.locked);
        self.shown.warnings = warnings;
        let _ = self.jobs.send(Job::scene(&self.settings));
        while !self.ended {
            let woken = self.wait();
            let now = boottime();
            self.orders(&woken);
            self.feed(now);
            self.network(now);
            self.data_plane(now, woken.agent);
            self.feed(now);
            self.tell(Input::Tick, now);
            self.feed(now);
            self.compare(now);
            self.show(now);
        }
    }

    /// Waits until something is there or due.
    fn wait(&mut self) -> Woken {
        let due = self.deadline();
        let left = due.saturating_sub(boottime());
        let timeout = Timespec {
            tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
        };
        let mut fds = vec![PollFd::new(&self.orders.1, PollFlags::IN)];
        let agent = self.agent.fd();
        if let Some((fd, writes)) = &agent {
            let out = if *writes { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::new(fd, PollFlags::IN | out));
        }
        let ways: Vec<_> = self.ways.iter().filter_map(|w| Some((w.fd()?, w))).collect();
        for (fd, way) in &ways {
            let out = if way.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::new(fd, PollFlags::IN | out));
        }
        let count = poll(&mut fds, Some(&timeout)).unwrap_or(0);
        let orders = !fds[0].revents().is_empty();
        let agent = agent.is_some() && !fds[1].revents().is_empty();
        drop(fds);
        drop(ways);
        if count == 0 && due > 0 {
            let late = boottime().saturating_sub(due);
            self.shown.late_max_us = self.shown.late_max_us.max(late / 1000);
            self.shown.late += u64::from(late > nanos(self.settings.keepalive));
        }
        Woken { orders, agent }
    }

    fn deadline(&self) -> Nanos {
        let ways = self.ways.iter().map(Way::next_deadline);
        let own = [self.machine.next_deadline(), self.agent.next_deadline(), self.show_at];
        let due = ways.chain(own).chain(self.alike.next_deadline());
        due.min().unwrap_or(self.show_at)
    }

    /// Takes in what the other threads say.
    fn orders(&mut self, woken: &Woken) {
        if woken.orders {
            let _ = rustix::io::read(self.orders.1.as_fd(), &mut [0; 8]);
        }
        while let Ok(order) = self.orders.0.try_recv() {
            match order {
                Order::Configure(start) => self.configure(*start),
                Order::Command { ticket, command } => {
                    self.inputs.push_back(Input::Command { ticket, command });
                }
                Order::Pings(reached) => {
                    self.evidence.pings = reached.min(self.evidence.pings_wanted);
                    self.inputs.push_back(Input::Evidence(self.evidence));
                }
                Order::Fenced(result) => self.inputs.push_back(Input::Fenced(result)),
                Order::Standing(standing) => self.inputs.push_back(Input::Replication(standing)),
                Order::Replication(source) => {
                    let _ = self.jobs.send(Job::Replication(source));
                }
                Order::Seen(seen) => self.seen(seen),
                Order::Resolved { group, ticket, testimony } => {
                    self.inputs.push_back(Input::Resolved { group, ticket, testimony });
                }
                Order::Verified { group, epoch, result } => {
                    self.inputs.push_back(Input::Verified { group, epoch, result });
                }
                Order::End => self.ended = true,
            }
        }
    }

    fn configure(&mut self, start: Start) {
        let Start { setup, mut alike } = start;
        let settings = setup.settings.clone();
        let mut before = std::mem::take(&mut self.ways);
        for path in &settings.paths {
            // One that stays the same is not opened anew.
            let old = before.iter().position(|w| w.path == *path);
            let way = old.map_or_else(|| Way::new(path.clone()), |at| before.swap_remove(at));
            self.ways.push(way);
        }
        drop(before);
        let (patience, ping) = times(&settings);
        self.agent.tune(patience, ping);
        self.evidence.pings_wanted = u8::try_from(settings.pings.len()).unwrap_or(u8::MAX);
        self.evidence.pings = self.evidence.pings.min(self.evidence.pings_wanted);
        let _ = self.jobs.send(Job::scene(&settings));
        alike.differs(self.alike.is_different(), random().unwrap_or(1), boottime());
        (self.alike, self.settings) = (alike, settings);
        self.inputs.push_back(Input::Settings(Box::new(setup)));
        self.inputs.push_back(Input::Evidence(self.evidence));
    }

    fn seen(&mut self, seen: Seen) {
        let Seen { ready, interfaces, interfaces_wanted, rates } = seen;
        // A data plane that is not there does not say which interfaces it would have.
        if interfaces_wanted > 0 || ready {
            let evidence = Evidence { interfaces, interfaces_wanted, ..self.evidence };
            if evidence != self.evidence {
                self.evidence = evidence;
                self.inputs.push_back(Input::Evidence(evidence));
            }
        }
        if !rates.is_empty() {
            self.inputs.push_back(Input::Rates(rates));
        }
        if ready {
            self.ready = true;
            self.liveness();
        }
    }

    /// Tells the machine whether the data plane is alive, if that is news.
    fn liveness(&mut self) {
        let alive = self.ready && self.agent.is_up();
        if alive != self.alive {
            self.alive = alive;
            self.inputs.push_back(Input::DataPlane { alive });
        }
    }

    fn said(&mut self, said: Vec<Said>) {
        for said in said {
            match said {
                Said::Up => self.liveness(),
                Said::Down(_) => {
                    // Whoever answers next may be another process, which knows no groups yet.
                    self.ready = false;
                    self.liveness();
                    let _ = self.jobs.send(Job::scene(&self.settings));
                }
                Said::Leased(group, epoch) => {
                    self.inputs.push_back(Input::Leased { group, epoch });
                }
                Said::LeaseFailed(group, reason) => {
                    self.inputs.push_back(Input::LeaseFailed { group, reason });
                }
                Said::Released(group) => self.inputs.push_back(Input::Released { group }),
            }
        }
    }

    fn data_plane(&mut self, now: Nanos, ready: bool) {
        if ready {
            let said = self.agent.ready(now);
            self.said(said);
        }
        let said = self.agent.tick(now);
        self.said(said);
    }

    /// Takes in what has come over the paths.
    fn network(&mut self, now: Nanos) {
        for path in 0..self.ways.len() {
            self.ways[path].tick(now);
            self.ways[path].flush();
            for _ in 0..AT_ONCE {
                let Some(bytes) = self.ways[path].receive(now) else { break };
                if Alike::is_mine(&bytes) {
                    // Refusals are not worth more than their count: nothing depends on these.
                    if let Ok(Some(reply)) = self.alike.message(&bytes, now) {
                        self.ways[path].send(&reply, now);
                    }
                } else {
                    self.tell(Input::Received { path, bytes: &bytes }, now);
                }
            }
        }
    }

    /// Tells the machine what has been noted for it.
    fn feed(&mut self, now: Nanos) {
        while let Some(input) = self.inputs.pop_front() {
            self.tell(input, now);
        }
    }

    fn tell(&mut self, input: Input<'_>, now: Nanos) {
        let outputs = self.machine.handle(input, now);
        if outputs.is_empty() {
            return;
        }
        // What was decided before a pause is not sent after it; the machine hears of the pause first.
        let stale = boottime().saturating_sub(now) > nanos(self.settings.keepalive);
        for output in outputs {
            self.perform(output, now, stale);
        }
    }

    fn perform(&mut self, output: Output, now: Nanos, stale: bool) {
        match output {
            Output::Send { .. } if stale => {}
            Output::Send { path, bytes } => {
                if let Some(way) = self.ways.get_mut(path) {
                    way.send(&bytes, now);
                }
            }
            // It says until when it is good, so that it is good for nothing if it is late.
            Output::Lease { group, epoch, ttl } => {
                let said = self.agent.lease(&group, epoch, ttl, now);
                self.said(said);
            }
            Output::Release { group, epoch } => {
                let said = self.agent.release(&group, epoch, now);
                self.said(said);
            }
            Output::Fence => self.report(HaReport::Fence),
            Output::Verify { group, epoch, testimony, peer_rate: rate } => {
                let asked = boottime();
                let _ = self.jobs.send(Job::Verify { group, epoch, testimony, rate, asked });
            }
            Output::Resolve { group, ticket } => {
                let _ = self.jobs.send(Job::Resolve { group, ticket });
            }
            Output::Event(event) => {
                self.report(HaReport::Event(event));
                self.show_at = now;
            }
            Output::Answer { ticket, result } => {
                self.report(HaReport::Answer { ticket, result });
                self.show_at = now;
            }
            Output::Left => self.report(HaReport::Left),
        }
    }

    /// Goes on with the comparison of the files, if one is under way.
    fn compare(&mut self, now: Nanos) {
        if self.alike.next_deadline().is_none_or(|due| due > now) {
            return;
        }
        let nonce = random().unwrap_or(1);
        let Some((attempt, bytes)) = self.alike.tick(nonce, now) else { return };
        // A serial line is for beats, unless there is nothing else.
        let open = |slow: bool| -> Vec<usize> {
            let ways = self.ways.iter().enumerate();
            ways.filter(|(_, w)| w.is_open() && w.is_slow() == slow).map(|(at, _)| at).collect()
        };
        let mut paths = open(false);
        if paths.is_empty() {
            paths = open(true);
        }
        let at = (attempt as usize).checked_rem(paths.len()).and_then(|n| paths.get(n).copied());
        if let Some(way) = at.and_then(|at| self.ways.get_mut(at)) {
            way.send(&bytes, now);
        }
    }
}

/// What there was when we woke up.
struct Woken {
    orders: bool,
    agent: bool,
}

/// How long the data plane may take to answer, and how often it is asked when there is nothing to say.
fn times(settings: &Settings) -> (Nanos, Nanos) {
    (nanos(settings.deadtime).max(PATIENCE_MIN), nanos(settings.keepalive).max(PATIENCE_MIN / 2))
}
