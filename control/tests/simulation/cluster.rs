//! Two nodes: machine, data plane, clock, and what the shell would do; and the queue of all that happens.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use control::failover::exchange::{Command, Evidence, Input, Output, Setup, Standing, Testimony};
use control::failover::machine::Machine;
use control::failover::view::View;

use crate::checks::Checks;
use crate::network::{MS, Network, Random, Stranger, Time};

/// What a data plane has of a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lease {
    /// By the node's clock.
    pub until: Time,
    pub epoch: u64,
}

/// A clock that runs a little fast or slow, and can stand still.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: Time,
    ppm: i64,
    stood: Time,
    /// From when to when it stands still.
    stands: (Time, Time),
}

impl Clock {
    fn local(&self, now: Time) -> Time {
        let (from, until) = self.stands;
        // Before it stands, while it does, and after.
        let run = now.min(from) + now.saturating_sub(until) - self.stood;
        (self.offset + run).saturating_add_signed(run as i64 / 1_000_000 * self.ppm)
    }

    fn stand(&mut self, from: Time, until: Time) {
        self.stood += self.stands.1 - self.stands.0;
        self.stands = (from, until);
    }

    fn global(&self, local: Time, now: Time) -> Time {
        let rest = local.saturating_sub(self.local(now));
        now + rest.saturating_add_signed(-(rest as i64 / 1_000_000 * self.ppm))
    }
}

/// A node.
#[derive(Debug)]
pub struct Node {
    pub machine: Option<Machine>,
    /// Number of its life: what belongs to another does not count.
    life: u64,
    pub clock: Clock,
    /// Control does not run until then.
    pub stopped: Option<Time>,
    /// Nothing of it runs until then.
    pub suspended: Option<Time>,
    inbox: VecDeque<(usize, Vec<u8>)>,
    pub data_plane: bool,
    pub leases: Vec<Lease>,
    order_at: Time,
    reply_at: Time,
    pub evidence: Evidence,
    pub synced: bool,
    /// What its machine has been told of that.
    told: Option<bool>,
    wake: u64,
    pub sends: u64,
    pub left: bool,
}

/// Something that is to happen.
#[derive(Debug)]
enum Event {
    Wake { node: usize, wake: u64 },
    Deliver { to: usize, path: usize, bytes: Vec<u8> },
    Order { node: usize, life: u64, sent: Time, output: Output },
    Reply { node: usize, life: u64, input: Input<'static> },
    Resume { node: usize },
    PowerOff { node: usize },
    Start { node: usize },
    Plane { node: usize },
    Look,
}

#[derive(Debug)]
struct Entry(Time, u64, Event);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Both nodes and what is between them.
pub struct Cluster {
    pub now: Time,
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
    pub nodes: [Node; 2],
    pub setups: [Setup; 2],
    pub groups: Vec<Arc<str>>,
    pub network: Network,
    pub stranger: Stranger,
    pub random: Random,
    pub checks: Checks,
    /// Time that a bulk copy of the connections takes.
    pub sync_time: Time,
    joined_since: Option<Time>,
    parted_since: Option<Time>,
    pub fencing_failed: bool,
    pub trace: Option<Vec<String>>,
}

impl Cluster {
    pub fn new(setups: [Setup; 2], network: Network, sync_time: Time, seed: u64) -> Self {
        let groups: Vec<Arc<str>> =
            setups[0].settings.groups.iter().map(|g| g.name.as_str().into()).collect();
        let mut random = Random(seed);
        let nodes = [0, 1].map(|_| Node {
            machine: None,
            life: 0,
            clock: Clock {
                offset: random.range(1, 1_000_000) * MS,
                ppm: random.range(0, 400) as i64 - 200,
                stood: 0,
                stands: (0, 0),
            },
            stopped: None,
            suspended: None,
            inbox: VecDeque::new(),
            data_plane: true,
            leases: vec![Lease::default(); groups.len()],
            order_at: 0,
            reply_at: 0,
            evidence: FULL,
            synced: false,
            told: None,
            wake: 0,
            sends: 0,
            left: false,
        });
        let settings = &setups[0].settings;
        let nanos = |d: Duration| d.as_nanos() as u64;
        let checks = Checks::new(
            groups.len(),
            nanos(settings.keepalive),
            nanos(settings.deadtime),
            &network,
        );
        let mut cluster = Self {
            now: 0,
            queue: BinaryHeap::new(),
            number: 0,
            nodes,
            setups,
            groups,
            stranger: Stranger::new(random.next()),
            network,
            random,
            checks,
            sync_time,
            joined_since: None,
            parted_since: None,
            fencing_failed: false,
            trace: None,
        };
        cluster.at(0, Event::Look);
        cluster
    }

    fn at(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Entry(at.max(self.now), self.number, event)));
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:10.3}ms {}", self.now as f64 / 1e6, text()));
        }
    }

    /// Everything up to that time happens.
    pub fn run(&mut self, until: Time) {
        while self.queue.peek().is_some_and(|Reverse(entry)| entry.0 <= until) {
            let Some(Reverse(Entry(at, _, event))) = self.queue.pop() else { return };
            self.now = at;
            self.happen(event);
            self.look();
        }
        self.now = until;
        self.look();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, wake } if self.nodes[node].wake == wake => {
                self.handle(node, Input::Tick);
            }
            Event::Wake { .. } => {}
            Event::Deliver { to, path, bytes } => self.deliver(to, path, bytes),
            Event::Order { node, life, sent, output } => self.order(node, life, sent, output),
            Event::Reply { node, life, input } if self.nodes[node].life == life => {
                if self.runs(node) {
                    self.handle(node, input);
                } else if self.nodes[node].machine.is_some() {
                    // It waits in the socket.
                    let at = self.wakes_at(node);
                    self.at(at, Event::Reply { node, life, input });
                }
            }
            Event::Reply { .. } => {}
            Event::Resume { node } => self.resume(node),
            Event::PowerOff { node } => {
                self.crash(node, true);
                let at = self.now + self.random.range(1, 1000) * MS;
                self.at(at, Event::Start { node });
            }
            Event::Start { node } => self.start(node),
            Event::Plane { node } => self.start_plane(node),
            Event::Look => {
                self.replicate();
                self.at(self.now + 10 * MS, Event::Look);
            }
        }
    }

    fn deliver(&mut self, to: usize, path: usize, bytes: Vec<u8>) {
        let node = &mut self.nodes[to];
        if node.machine.is_none() || node.suspended.is_some() {
            return;
        }
        if node.stopped.is_some() {
            // The socket's buffer keeps what came first.
            if node.inbox.len() < 32 {
                node.inbox.push_back((path, bytes));
            }
            return;
        }
        self.handle(to, Input::Received { path, bytes: &bytes });
    }

    pub fn runs(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.machine.is_some() && node.stopped.is_none() && node.suspended.is_none()
    }

    fn wakes_at(&self, node: usize) -> Time {
        let node = &self.nodes[node];
        node.stopped.max(node.suspended).unwrap_or(self.now) + 1000
    }

    fn resume(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.suspended.is_some_and(|until| until <= now) {
            node.suspended = None;
        }
        if node.stopped.is_some_and(|until| until <= now) {
            node.stopped = None;
        }
        if !self.runs(at) {
            return;
        }
        self.note(|| format!("node {at} runs again"));
        // Either a timer, or what has come meanwhile, is seen first.
        if self.random.percent(50) {
            self.handle(at, Input::Tick);
        }
        while let Some((path, bytes)) = self.nodes[at].inbox.pop_front() {
            self.handle(at, Input::Received { path, bytes: &bytes });
        }
        self.handle(at, Input::Tick);
    }

    /// Something happens to a machine, and what it wants is done.
    pub fn handle(&mut self, at: usize, input: Input<'_>) {
        if !self.runs(at) {
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[at];
        let local = node.clock.local(now);
        let Some(machine) = &mut node.machine else { return };
        let outputs = machine.handle(input, local);
        assert!(outputs.len() <= 64, "{} outputs at once", outputs.len());
        let deadline = machine.next_deadline();
        for output in outputs {
            self.output(at, output);
        }
        let node = &mut self.nodes[at];
        node.wake += 1;
        let (wake, due) = (node.wake, node.clock.global(deadline, now));
        let late = self.random.range(0, MS / 4);
        if deadline < u64::MAX {
            self.at(due.max(now + 1000) + late, Event::Wake { node: at, wake });
        }
    }

    fn output(&mut self, at: usize, output: Output) {
        let life = self.nodes[at].life;
        match output {
            Output::Send { path, bytes } => {
                self.nodes[at].sends += 1;
                self.stranger.listen(path, 1 - at, &bytes);
                for arrival in self.network.carry(path, at, self.now) {
                    self.at(arrival, Event::Deliver { to: 1 - at, path, bytes: bytes.clone() });
                }
            }
            Output::Lease { .. } | Output::Release { .. } => {
                let node = &mut self.nodes[at];
                let delay = self.random.range(MS / 50, MS / 2);
                node.order_at = (self.now + delay).max(node.order_at + 1);
                let due = node.order_at;
                let sent = node.clock.local(self.now);
                self.at(due, Event::Order { node: at, life, sent, output });
            }
            Output::Fence => {
                self.note(|| format!("node {at} fences"));
                let due = self.now + self.random.range(50, 300) * MS;
                let works = self.random.percent(80);
                self.fencing_failed |= !works;
                if works {
                    self.at(due, Event::PowerOff { node: 1 - at });
                }
                let result = if works { Ok(()) } else { Err("no power switch".to_owned()) };
                self.at(due + 1, Event::Reply { node: at, life, input: Input::Fenced(result) });
            }
            Output::Verify { group, epoch, .. } => {
                let result =
                    if self.random.percent(80) { Ok(String::new()) } else { Err("no".into()) };
                let input = Input::Verified { group, epoch, result };
                let due = self.now + self.random.range(1, 100) * MS;
                self.at(due, Event::Reply { node: at, life, input });
            }
            Output::Resolve { group, ticket } => {
                let testimony = Testimony { asked: 1, ..Testimony::default() };
                let input = Input::Resolved { group, ticket, testimony };
                self.at(self.now + 20 * MS, Event::Reply { node: at, life, input });
            }
            Output::Event(event) => {
                let group = event.group.as_deref().unwrap_or("-").to_owned();
                self.note(|| format!("node {at} {group} {}: {}", event.kind.name(), event.reason));
            }
            Output::Answer { result, .. } => self.note(|| format!("node {at} answers {result:?}")),
            Output::Left => {
                self.note(|| format!("node {at} has left"));
                self.nodes[at].left = true;
                self.crash(at, false);
            }
        }
    }

    /// The data plane gets an order, in its turn.
    fn order(&mut self, at: usize, life: u64, sent: Time, output: Output) {
        if let Some(until) = self.nodes[at].suspended {
            return self.at(until + 1, Event::Order { node: at, life, sent, output });
        }
        let now = self.now;
        let node = &mut self.nodes[at];
        let (group, answer) = match output {
            Output::Lease { group, .. } if !node.data_plane => {
                let reason = "not there".to_owned();
                (None, Input::LeaseFailed { group, reason })
            }
            Output::Lease { group, epoch, ttl } => {
                // By the clock that both processes share: reading it late does not lengthen it.
                let until = sent + ttl.as_millis() as u64 * MS;
                let number = self.groups.iter().position(|g| *g == group);
                if let Some(number) = number {
                    node.leases[number] = Lease { until, epoch };
                }
                (number.map(|n| (n, epoch)), Input::Leased { group, epoch })
            }
            Output::Release { group, .. } => {
                if let Some(number) = self.groups.iter().position(|g| *g == group) {
                    node.leases[number].until = 0;
                }
                (None, Input::Released { group })
            }
            _ => return,
        };
        node.reply_at = (now + MS / 20).max(node.reply_at + 1);
        let due = node.reply_at;
        self.at(due, Event::Reply { node: at, life, input: answer });
        if let Some((number, epoch)) = group {
            self.checks.leased(at, life, number, epoch, now);
        }
    }

    /// Whether the data plane of a node has a lease, though it may sleep on it.
    fn holds(&self, at: usize, group: usize) -> bool {
        let node = &self.nodes[at];
        node.data_plane && node.leases[group].until > node.clock.local(self.now)
    }

    /// Whether it answers.
    fn answers(&self, at: usize, group: usize) -> bool {
        self.holds(at, group) && self.nodes[at].suspended.is_none()
    }

    /// What a node shows.
    pub fn view(&self, at: usize) -> Option<View> {
        let node = &self.nodes[at];
        node.machine.as_ref().map(|m| m.view(node.clock.local(self.now)))
    }

    fn look(&mut self) {
        for group in 0..self.groups.len() {
            let answers = [self.answers(0, group), self.answers(1, group)];
            let hear = self.network.is_joined() && self.runs(0) && self.runs(1);
            let synced = [self.nodes[0].synced, self.nodes[1].synced];
            let epochs = [0, 1].map(|n| self.nodes[n].leases[group].epoch);
            let before = self.checks.owner(group);
            let holds = [self.holds(0, group), self.holds(1, group)];
            self.checks.both(group, answers, hear, self.now);
            self.checks.look(group, holds, synced, epochs, self.now);
            if before != self.checks.owner(group) {
                self.note(|| format!("group {group} answered by {answers:?} epochs {epochs:?}"));
            }
        }
    }

    /// Replication: known after a while together, and forgotten when the session ends.
    fn replicate(&mut self) {
        let joined = self.network.is_joined() && self.runs(0) && self.runs(1);
        if joined {
            self.parted_since = None;
            self.joined_since.get_or_insert(self.now);
        } else {
            let parted = *self.parted_since.get_or_insert(self.now);
            if self.now - parted > 300 * MS {
                self.joined_since = None;
            }
        }
        let ready = self.nodes.iter().all(|n| n.data_plane);
        let synced =
            ready && self.joined_since.is_some_and(|since| self.now - since >= self.sync_time);
        for at in [0, 1] {
            // What was learned is known until the session begins anew.
            let parted = self.joined_since.is_none();
            if self.nodes[at].synced != synced && !(parted && self.nodes[at].synced) {
                self.nodes[at].synced = synced;
            }
            if self.nodes[at].told != Some(self.nodes[at].synced) {
                self.tell_standing(at);
            }
        }
    }

    fn tell_standing(&mut self, at: usize) {
        if !self.runs(at) {
            return;
        }
        let synced = self.nodes[at].synced;
        self.nodes[at].told = Some(synced);
        let standing = Standing {
            synced_here: synced,
            synced_there: synced,
            equal: synced,
            ..Standing::default()
        };
        self.handle(at, Input::Replication(standing));
    }

    // What may happen to nodes.

    pub fn start(&mut self, at: usize) {
        if self.nodes[at].machine.is_some() {
            return;
        }
        if let Some(until) = self.nodes[at].suspended {
            return self.at(until + 1, Event::Start { node: at });
        }
        let nonce = self.random.next();
        let local = self.nodes[at].clock.local(self.now);
        // Wall clocks are set, forwards and backwards.
        let epoch = 1_000_000 + self.now / MS + self.random.range(0, 100_000);
        self.note(|| format!("node {at} starts"));
        let node = &mut self.nodes[at];
        node.machine = Some(Machine::new(self.setups[at].clone(), nonce, epoch, local));
        node.life += 1;
        node.left = false;
        node.stopped = None;
        node.synced = false;
        node.inbox.clear();
        self.checks.started(at);
        self.joined_since = None;
        self.start_plane(at);
        self.handle(at, Input::Tick);
        self.handle(at, Input::DataPlane { alive: true });
        let evidence = self.nodes[at].evidence;
        self.handle(at, Input::Evidence(evidence));
        self.tell_standing(at);
    }

    pub fn crash(&mut self, at: usize, power: bool) {
        self.note(|| {
            format!("node {at} {}", if power { "is powered off" } else { "control ends" })
        });
        self.nodes[at].machine = None;
        self.checks.disturbed(self.now);
        if power {
            self.kill_plane(at);
        }
    }

    pub fn restart_later(&mut self, at: usize, after: Time) {
        self.at(self.now + after, Event::Start { node: at });
    }

    pub fn kill_plane(&mut self, at: usize) {
        self.note(|| format!("data plane {at} dies"));
        let node = &mut self.nodes[at];
        node.data_plane = false;
        node.leases.iter_mut().for_each(|l| l.until = 0);
        node.synced = false;
        self.joined_since = None;
        self.checks.plane_died(at);
        self.tell_standing(at);
        let node = &self.nodes[at];
        let (life, due) = (node.life, self.now + self.random.range(1, 30) * MS);
        let input = Input::DataPlane { alive: false };
        self.at(due, Event::Reply { node: at, life, input });
    }

    pub fn plane_later(&mut self, at: usize, after: Time) {
        self.at(self.now + after, Event::Plane { node: at });
    }

    fn start_plane(&mut self, at: usize) {
        if self.nodes[at].data_plane {
            return;
        }
        self.note(|| format!("data plane {at} starts"));
        self.nodes[at].data_plane = true;
        let (life, due) = (self.nodes[at].life, self.now + 35 * MS);
        let input = Input::DataPlane { alive: true };
        self.at(due, Event::Reply { node: at, life, input });
    }

    pub fn stop(&mut self, at: usize, span: Time) {
        self.note(|| format!("control {at} is stopped for {}ms", span / MS));
        self.nodes[at].stopped = Some(self.now + span);
        self.checks.disturbed(self.now);
        self.at(self.now + span, Event::Resume { node: at });
    }

    pub fn suspend(&mut self, at: usize, span: Time, clock_stands: bool) {
        if self.nodes[at].suspended.is_some() {
            return;
        }
        self.note(|| format!("machine {at} sleeps for {}ms", span / MS));
        if clock_stands {
            let now = self.now;
            self.nodes[at].clock.stand(now, now + span);
        }
        self.nodes[at].suspended = Some(self.now + span);
        self.checks.disturbed(self.now);
        self.at(self.now + span, Event::Resume { node: at });
    }

    pub fn see(&mut self, at: usize, evidence: Evidence) {
        self.note(|| format!("node {at} sees {evidence:?}"));
        self.nodes[at].evidence = evidence;
        self.handle(at, Input::Evidence(evidence));
    }

    pub fn command(&mut self, at: usize, command: Command) {
        self.note(|| format!("node {at} is told {command:?}"));
        self.checks.forced |= matches!(command, Command::Switchover { force: true, .. });
        self.handle(at, Input::Command { ticket: 7, command });
    }

    pub fn attack(&mut self, messages: u64) {
        self.note(|| format!("{messages} messages of a stranger"));
        for _ in 0..messages {
            let (path, to, bytes) = self.stranger.speak(self.network.paths);
            let at = self.now + self.random.range(0, 5 * MS);
            self.at(at, Event::Deliver { to, path, bytes });
        }
    }
}

/// A node that sees everything.
pub const FULL: Evidence =
    Evidence { interfaces: 2, interfaces_wanted: 2, pings: 2, pings_wanted: 2 };
