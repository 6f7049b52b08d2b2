//! The measured stretch of traffic, over AF_XDP sockets.
//!
//! Run by every worker on its share of the flows. Open-loop: what is due follows from the clock
//! alone. A worker that was held up sends what is overdue a little faster than the pace (each packet
//! carries the time when it was due, so the delay shows in the latency), so that its own stall does
//! not become a burst that overruns the device under test. What is overdue for too long is not sent
//! at all, and shows as due and not sent.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use dataplane::clock::{self, Instant};
use dataplane::device::Device;
use dataplane::frame::Outbox;
use dataplane::prefetch::prefetch;
use hdrhistogram::Histogram;

use super::answer::{Answerer, path};
use super::next_hop::Follower;
use super::sockets::{CLIENT, Worker};
use super::{Plan, Scene};
use crate::craft::Template;
use crate::order::Order;
use crate::rate::Pacer;
use crate::size;
use crate::stamp::{self, Stamp, Way};

/// Most packets sent between two looks at what came in.
const BURST: usize = 32;
/// How long a packet may be overdue and still be sent.
const OVERDUE: Duration = Duration::from_millis(500);
/// How much faster than the pace overdue packets are sent.
const CATCH_UP: f64 = 1.25;
/// Packets that may leave at once in spite of it.
const AT_ONCE: f64 = 64.0;

/// What one worker brings home.
pub struct Part {
    /// Requests that were due.
    pub due: u64,
    /// Nanoseconds from the start until its last request was sent.
    pub elapsed: u64,
    /// Latency of requests and replies.
    pub latency: [Histogram<u64>; 2],
    /// Frames that were judged and then not taken by the ring of the servers' interface.
    pub refused: u64,
}

/// What all workers of a phase share.
pub struct Stretch<'a> {
    /// The run.
    pub scene: &'a Scene,
    /// What to do.
    pub plan: Plan,
    /// The open connections.
    pub flows: &'a [u32],
    /// When packet 0 is due.
    pub start: Instant,
    /// Workers that have sent everything.
    pub sent: std::sync::atomic::AtomicU32,
    /// True: send no more.
    pub halt: AtomicBool,
}

/// Sends this worker's share, then answers until `stop`.
///
/// # Errors
/// If addresses are of two families.
pub fn run(worker: &mut Worker, stretch: &Stretch<'_>, stop: &AtomicBool) -> anyhow::Result<Part> {
    let tallies = worker.tallies.clone();
    let refused = refusals(worker);
    let mut answerer = Answerer::new(stretch.scene, &tallies, stretch.plan.replies_per_request())?;
    let mut sender = Sender::new(worker, stretch)?;
    let duration = stretch.plan.duration.as_nanos() as u64;
    let mut finished = sender.is_none();
    if finished {
        stretch.sent.fetch_add(1, Release);
    }
    let mut elapsed = 0;
    while !stop.load(Acquire) {
        let now = clock::now();
        if let Some(sender) = &mut sender
            && !finished
        {
            let at = now.since(stretch.start).as_nanos() as u64;
            let end = at >= duration || stretch.halt.load(Relaxed);
            // Nothing is due at the very start before it, nor at the end.
            let due = if now < stretch.start {
                0
            } else {
                sender.pacer.due(at.min(duration.saturating_sub(1)))
            };
            sender.burst(worker, stretch, due, at);
            if end && (sender.next >= sender.due || stretch.halt.load(Relaxed)) {
                finished = true;
                elapsed = at;
                stretch.sent.fetch_add(1, Release);
            }
        }
        let Worker { device, counters, .. } = worker;
        device.poll(counters, |frames, verdicts, outbox| {
            answerer.burst(frames, verdicts, outbox, clock::now().nanos());
        });
    }
    Ok(Part {
        due: sender.map_or(0, |sender| sender.due),
        elapsed,
        latency: answerer.latency,
        refused: refusals(worker) - refused,
    })
}

/// Frames that were to be sent back and could not.
fn refusals(worker: &Worker) -> u64 {
    use dataplane_api::counter::Reason::{DeviceDown, TxError, TxFull};
    [DeviceDown, TxError, TxFull].into_iter().map(|reason| worker.counters.drops(reason)).sum()
}

/// The clients of one worker.
struct Sender<'a> {
    flows: Box<[u32]>,
    order: Order,
    pacer: Pacer,
    templates: Vec<(u16, Template)>,
    follower: Follower,
    least: u16,
    stretch: &'a Stretch<'a>,
    /// Packets that may leave now, and when (since the start) that was counted.
    budget: (f64, u64),
    /// Packets that are due by now, the next one to send, and the flows of those after it.
    due: u64,
    next: u64,
    ahead: [u32; BURST],
    /// Of `ahead`, the first one that was not sent.
    used: usize,
}

impl<'a> Sender<'a> {
    /// None if the clients are elsewhere, or this worker has no open connection.
    fn new(worker: &Worker, stretch: &'a Stretch<'a>) -> anyhow::Result<Option<Self>> {
        let Some(path) = path(stretch.scene) else { return Ok(None) };
        let flows: Box<[u32]> = stretch
            .flows
            .iter()
            .skip(worker.id as usize)
            .step_by(worker.of as usize)
            .copied()
            .collect();
        if flows.is_empty() {
            return Ok(None);
        }
        let least = size::least(path.destination.is_ipv6(), path.protocol);
        let mut templates: Vec<(u16, Template)> = Vec::new();
        for n in 0..size::IMIX_ROUND.len() as u64 {
            let size = stretch.plan.size.of(n, least);
            if templates.iter().all(|(known, _)| *known != size) {
                let template = Template::data(&path, usize::from(size - size::FCS))?;
                templates.push((size, template));
            }
        }
        let mut order = Order::new(flows.len() as u32, stretch.plan.seed ^ u64::from(worker.id));
        let ahead = std::array::from_fn(|_| flows[order.draw() as usize]);
        Ok(Some(Self {
            order,
            flows,
            pacer: Pacer::new(stretch.plan.request_pps).part(worker.id, worker.of),
            templates,
            follower: Follower::default(),
            least,
            stretch,
            budget: (AT_ONCE, 0),
            due: 0,
            next: 0,
            ahead,
            used: 0,
        }))
    }

    /// Sends a burst of what is due.
    #[inline]
    fn burst(&mut self, worker: &mut Worker, stretch: &Stretch<'_>, due: u64, at: u64) {
        self.follow(stretch.scene);
        self.due = self.due.max(due);
        if self.next < self.due {
            let oldest = self.pacer.due(at.saturating_sub(OVERDUE.as_nanos() as u64));
            if at > OVERDUE.as_nanos() as u64 && self.next < oldest {
                self.next = oldest.min(self.due);
            }
        }
        let rules = &stretch.scene.rules;
        let count = (self.due - self.next).min(self.allowed(worker.of, at)) as usize;
        let mut sent = 0;
        for _ in 0..count {
            let number = self.ahead[self.used];
            let Some(flow) = stretch.scene.flows.get(number as usize) else { break };
            let sequence = flow.requests.next();
            let due = self.pacer.at(self.next);
            let time = stamp::time(stretch.start.nanos() + due);
            let stamp = Stamp { flow: number, sequence, time };
            let size = stretch.plan.size.of(self.next, self.least);
            let Some((_, template)) = self.templates.iter_mut().find(|(s, _)| *s == size) else {
                break;
            };
            let client = rules.clients.of(number);
            let frame = template.stamped(client, stamp, rules.key, Way::Request);
            if !worker.device.send(CLIENT, frame) {
                flow.requests.put_back(sequence);
                break;
            }
            self.next += 1;
            sent += 1;
            self.advance();
        }
        if sent > 0 {
            self.budget.0 -= sent as f64;
            worker.tallies.requests.sent.add(sent);
        }
    }

    /// The VIP may have moved.
    #[inline(always)]
    fn follow(&mut self, scene: &Scene) {
        if let Some(client) = &scene.client
            && let Some(mac) = self.follower.moved(&client.next_hop)
        {
            self.templates.iter_mut().for_each(|(_, template)| template.send_to(mac));
        }
    }

    /// How many may leave now.
    #[inline(always)]
    fn allowed(&mut self, workers: u32, at: u64) -> u64 {
        let pace = self.stretch.plan.request_pps / f64::from(workers) * CATCH_UP / 1e9;
        let gained = at.saturating_sub(self.budget.1) as f64 * pace;
        self.budget = ((self.budget.0 + gained).min(AT_ONCE), at);
        (self.budget.0 as u64).min(BURST as u64)
    }

    /// Takes the next flow in order into the cache, a burst before it is needed.
    #[inline(always)]
    fn advance(&mut self) {
        let number = self.flows[self.order.draw() as usize];
        if let Some(flow) = self.stretch.scene.flows.get(number as usize) {
            prefetch(flow);
        }
        self.ahead[self.used] = number;
        self.used = (self.used + 1) % BURST;
    }
}
