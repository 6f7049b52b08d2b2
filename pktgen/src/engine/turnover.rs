//! Opens, uses and closes connections, one after the other, at a pace: what `cps` measures.
//!
//! Run by every worker on its share of the flows, which are used in turn. Open-loop: a connection
//! begins when it is due, whatever became of those before it. Nothing is sent again: a lost packet
//! is a failed connection.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use anyhow::Context;
use dataplane::clock;
use dataplane::device::Device;
use dataplane::frame::Outbox;
use hdrhistogram::Histogram;

use super::answer::{Answerer, CLOSING, path};
use super::next_hop::Follower;
use super::sockets::{CLIENT, Worker};
pub use super::step::{Part, Step};
use crate::craft::{FRAME_MIN, Template};
use crate::meter::{Flow, stage};
use crate::parse::flag;
use crate::rate::Pacer;
use crate::size::FCS;
use crate::spec::Protocol;
use crate::stamp::{self, Stamp, Way};

/// Most connections begun between two looks at what came in.
const BURST: u64 = 32;
/// Most connections looked at between two such looks, of those whose answers other workers may get.
const LOOKS: usize = 256;
/// How long a connection may be overdue and still begin.
const OVERDUE: Duration = Duration::from_millis(500);
/// Longest time to an answer that is told apart, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Answer = 0,
    Reply = 1,
    Close = 2,
}

/// A connection under way.
#[derive(Clone, Copy, Debug)]
struct Slot {
    due: u64,
    wait: Wait,
}

/// The packets of the clients.
struct Packets {
    open: Template,
    data: Template,
    close: Option<Template>,
}

/// One worker's connections.
struct Ring<'a> {
    step: &'a Step<'a>,
    packets: Packets,
    follower: Follower,
    /// First flow, distance to the next, number of them.
    share: (u32, u32, u32),
    /// Whose turn it is.
    turn: u32,
    /// Those under way, by place.
    slots: Vec<Option<Slot>>,
    /// How many these are.
    under_way: u64,
    /// Place and due time in the order of beginning, those that have ended included: the oldest is
    /// the next whose patience ends.
    order: VecDeque<(u32, u64)>,
    /// Places of which something came, or that found the transmit ring full.
    ready: Vec<u32>,
    /// The same of those that are looked at in turn, if other workers may get their answers.
    rounds: VecDeque<(u32, u64)>,
    part: Part,
}

/// Begins connections as they are due and brings them to their end, then answers until `stop`.
///
/// # Errors
/// If addresses are of two families, or the clients are elsewhere.
pub fn run(worker: &mut Worker, step: &Step<'_>, stop: &AtomicBool) -> anyhow::Result<Part> {
    let tallies = worker.tallies.clone();
    // Every data packet is answered.
    let mut answerer = Answerer::new(step.scene, &tallies, 1.0)?;
    answerer.heard = Some(Vec::new());
    let mut ring = Ring::new(worker, step)?;
    let pacer = Pacer::new(step.rate).part(worker.id, worker.of);
    let duration = step.duration.as_nanos() as u64;
    let (mut next, mut done) = (0, false);
    while !stop.load(Acquire) {
        let now = clock::now();
        let at = now.since(step.start).as_nanos() as u64;
        if now >= step.start {
            let halted = step.halt.load(Relaxed);
            let due = pacer.due(at.min(duration - 1));
            ring.follow();
            if !halted {
                ring.part.due = due;
                next = ring.begin(worker, &pacer, (next, due), at);
            }
            ring.go_on(worker, at, &mut answerer.heard);
            let over = halted || (at >= duration && next >= due);
            if over && ring.under_way == 0 && !done {
                done = true;
                step.done.fetch_add(1, Release);
            }
        }
        let Worker { device, counters, .. } = worker;
        device.poll(counters, |frames, verdicts, outbox| {
            answerer.burst(frames, verdicts, outbox, clock::now().nanos());
        });
    }
    for slot in ring.slots.iter().flatten() {
        ring.part.silent[slot.wait as usize] += 1;
    }
    Ok(ring.part)
}

impl<'a> Ring<'a> {
    fn new(worker: &Worker, step: &'a Step<'a>) -> anyhow::Result<Self> {
        let path = path(step.scene).context("the clients are in another process")?;
        let len = usize::from(step.size.saturating_sub(FCS));
        let data = Template::data(&path, len)?;
        let packets = match path.protocol {
            Protocol::Tcp => Packets {
                open: Template::bare(&path, flag::SYN)?,
                data,
                close: Some(Template::bare(&path, flag::FIN | flag::ACK)?),
            },
            Protocol::Udp => Packets { open: Template::data(&path, FRAME_MIN)?, data, close: None },
        };
        let flows = step.scene.rules.clients.flows;
        let count = flows.saturating_sub(worker.id).div_ceil(worker.of);
        let part = Part {
            due: 0,
            begun: 0,
            completed: 0,
            refused: 0,
            silent: [0; 3],
            unfree: 0,
            latency: Histogram::new_with_bounds(1, LATENCY_MAX, 3)?,
        };
        Ok(Self {
            step,
            packets,
            follower: Follower::default(),
            share: (worker.id, worker.of, count),
            turn: 0,
            slots: vec![None; count as usize],
            under_way: 0,
            order: VecDeque::new(),
            ready: Vec::new(),
            rounds: VecDeque::new(),
            part,
        })
    }

    /// The VIP may have moved.
    fn follow(&mut self) {
        if let Some(client) = &self.step.scene.client
            && let Some(mac) = self.follower.moved(&client.next_hop)
        {
            let Packets { open, data, close } = &mut self.packets;
            [Some(open), Some(data), close.as_mut()]
                .into_iter()
                .flatten()
                .for_each(|template| template.send_to(mac));
        }
    }

    /// Begins a burst of those from `next` to `due`; returns the next one.
    fn begin(
        &mut self,
        worker: &mut Worker,
        pacer: &Pacer,
        (mut next, due): (u64, u64),
        at: u64,
    ) -> u64 {
        if let Some(since) = at.checked_sub(OVERDUE.as_nanos() as u64) {
            // What is overdue for longer is not begun, and shows as due and not begun.
            next = next.max(pacer.due(since).min(due));
        }
        for _ in 0..due.saturating_sub(next).min(BURST) {
            let Some(place) = self.free() else {
                self.part.unfree += 1;
                next += 1;
                continue;
            };
            let number = self.share.0 + place * self.share.1;
            let Some(flow) = self.step.scene.flows.get(number as usize) else { break };
            flow.reset();
            if !worker.device.send(CLIENT, self.opening(number)) {
                break;
            }
            flow.reach(stage::ASKED);
            let due = pacer.at(next);
            if let Some(slot) = self.slots.get_mut(place as usize) {
                *slot = Some(Slot { due, wait: Wait::Answer });
            }
            self.turn = (place + 1) % self.share.2.max(1);
            self.under_way += 1;
            self.order.push_back((place, due));
            if self.share.1 > 1 {
                self.rounds.push_back((place, due));
            }
            self.part.begun += 1;
            self.step.so_far[0].fetch_add(1, Relaxed);
            next += 1;
        }
        next
    }

    /// Place of a flow that is not under way, near the one whose turn it is.
    fn free(&self) -> Option<u32> {
        let count = self.share.2;
        (0..count.min(64))
            .map(|step| (self.turn + step) % count)
            .find(|place| matches!(self.slots.get(*place as usize), Some(None)))
    }

    fn opening(&mut self, number: u32) -> &[u8] {
        let rules = &self.step.scene.rules;
        let client = rules.clients.of(number);
        match rules.protocol {
            Protocol::Tcp => self.packets.open.numbered(client, 0, number.wrapping_add(1)),
            Protocol::Udp => {
                let stamp = Stamp { flow: number, sequence: 0, time: 0 };
                self.packets.open.stamped(client, stamp, rules.key, Way::Request)
            }
        }
    }

    /// Looks at those of which something came, and gives up those that took too long. A connection
    /// that is lost costs nothing until then, however many of them there are.
    fn go_on(&mut self, worker: &mut Worker, at: u64, heard: &mut Option<Vec<u32>>) {
        let (first, step, _) = self.share;
        for flow in heard.iter_mut().flat_map(|heard| heard.drain(..)) {
            // Those of other workers are found by these themselves.
            if let Some(distance) = flow.checked_sub(first)
                && distance % step == 0
            {
                self.ready.push(distance / step);
            }
        }
        let mut ready = std::mem::take(&mut self.ready);
        for place in ready.drain(..) {
            self.look(worker, place, at);
        }
        if self.ready.is_empty() {
            self.ready = ready;
        }
        for _ in 0..self.rounds.len().min(LOOKS) {
            let Some((place, due)) = self.rounds.pop_front() else { break };
            if self.is_under_way(place, due) {
                self.look(worker, place, at);
                self.rounds.push_back((place, due));
            }
        }
        while let Some(&(place, due)) = self.order.front() {
            if self.is_under_way(place, due) {
                if at.saturating_sub(due) <= self.step.patience.as_nanos() as u64 {
                    break;
                }
                self.look(worker, place, at);
                if self.is_under_way(place, due) {
                    // Its answer came with the last of its patience.
                    break;
                }
            }
            self.order.pop_front();
        }
    }

    /// Whether the connection that began then is still the one at this place.
    fn is_under_way(&self, place: u32, due: u64) -> bool {
        self.slot(place).is_some_and(|slot| slot.due == due)
    }

    fn slot(&self, place: u32) -> Option<Slot> {
        self.slots.get(place as usize).copied().flatten()
    }

    /// Brings the connection at a place on as far as it goes now.
    fn look(&mut self, worker: &mut Worker, place: u32, at: u64) {
        let Some(mut slot) = self.slot(place) else { return };
        let number = self.share.0 + place * self.share.1;
        let Some(flow) = self.step.scene.flows.get(number as usize) else { return };
        let more = self.advance(worker, (place, number), &mut slot, flow, at);
        if let Some(entry) = self.slots.get_mut(place as usize) {
            *entry = more.then_some(slot);
        }
        self.under_way -= u64::from(!more);
    }

    /// Brings a connection on, if it can go on; false if it has come to an end.
    fn advance(
        &mut self,
        worker: &mut Worker,
        (place, number): (u32, u32),
        slot: &mut Slot,
        flow: &Flow,
        at: u64,
    ) -> bool {
        if flow.is(stage::REFUSED) {
            self.part.refused += 1;
            return false;
        }
        let answers = self.step.scene.answers();
        let ready = match slot.wait {
            Wait::Answer => flow.is(self.opened()),
            Wait::Reply if answers => flow.replies.received() > 0,
            Wait::Reply => flow.requests.received() > 0,
            Wait::Close => flow.is(stage::CLOSED),
        };
        if !ready {
            let given_up = at.saturating_sub(slot.due) > self.step.patience.as_nanos() as u64;
            if given_up {
                self.part.silent[slot.wait as usize] += 1;
            }
            return !given_up;
        }
        match slot.wait {
            Wait::Answer => {
                let took = at.saturating_sub(slot.due).clamp(1, LATENCY_MAX);
                if worker.device.send(CLIENT, self.data(number, flow)) {
                    let _ = self.part.latency.record(took);
                    slot.wait = Wait::Reply;
                } else {
                    self.ready.push(place);
                }
                true
            }
            Wait::Reply => {
                let client = self.step.scene.rules.clients.of(number);
                let Some(close) = &mut self.packets.close else { return self.complete() };
                let frame = close.numbered(client, CLOSING, number.wrapping_add(1));
                if worker.device.send(CLIENT, frame) {
                    slot.wait = Wait::Close;
                } else {
                    self.ready.push(place);
                }
                true
            }
            Wait::Close => self.complete(),
        }
    }

    fn complete(&mut self) -> bool {
        self.part.completed += 1;
        self.step.so_far[1].fetch_add(1, Relaxed);
        false
    }

    /// Stage at which a client may send.
    fn opened(&self) -> u8 {
        let scene = self.step.scene;
        match scene.rules.protocol {
            Protocol::Udp => scene.open_stage(),
            Protocol::Tcp => stage::ANSWERED,
        }
    }

    fn data(&mut self, number: u32, flow: &Flow) -> &[u8] {
        let rules = &self.step.scene.rules;
        // Always the first of its connection: a repetition, after a full ring, has the same number.
        flow.requests.put_back(1);
        let sequence = flow.requests.next();
        let time = stamp::time(clock::now().nanos());
        let stamp = Stamp { flow: number, sequence, time };
        self.packets.data.stamped(rules.clients.of(number), stamp, rules.key, Way::Request)
    }
}
