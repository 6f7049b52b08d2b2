//! Opens all connections, and closes them in order.
//!
//! Run by every worker on its share of the flows, at the pace that was asked for, or slower: no more
//! wait for an answer at once than a balancer's receive ring holds, because this part measures
//! nothing. What was not answered is sent again until it is, or patience ends; everybody answers for
//! all flows meanwhile.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dataplane::clock::{self, Instant};
use dataplane::device::Device;
use dataplane::frame::Outbox;

use super::Scene;
use super::answer::{Answerer, CLOSING, path};
use super::next_hop::Follower;
use super::sockets::{CLIENT, Worker};
use crate::craft::{FRAME_MIN, Template};
use crate::meter::stage;
use crate::parse::flag;
use crate::rate::Pacer;
use crate::spec::Protocol;
use crate::stamp::{Stamp, Way};

/// Time before an unanswered packet is sent again (the first timeout of RFC 6298 is a second; here
/// the network is a cable).
const AGAIN: Duration = Duration::from_millis(250);
/// Most connections, of all workers, that wait for an answer at once.
const WAITING: u64 = 1024;
/// Nothing moved for so long: those that wait are given up for now.
const STALL: Duration = Duration::from_millis(100);
/// Most packets sent between two looks at what came in.
const BURST: u64 = 32;
/// Longest sleep when nothing is due.
const NAP: Duration = Duration::from_millis(1);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Open them.
    Open,
    /// Close them.
    Close,
}

/// What a worker sends to move a flow on.
struct Movers {
    syn: Template,
    ack: Template,
    fin: Template,
    /// The first packet of a UDP flow.
    opening: Template,
    follower: Follower,
}

impl Movers {
    /// The VIP may have moved.
    fn follow(&mut self, scene: &Scene) {
        if let Some(client) = &scene.client
            && let Some(mac) = self.follower.moved(&client.next_hop)
        {
            let Self { syn, ack, fin, opening, .. } = self;
            [syn, ack, fin, opening].into_iter().for_each(|template| template.send_to(mac));
        }
    }
}

/// Brings this worker's share of the first `flows` flows to the goal, then answers until `stop`.
/// `pace` is that of all workers together.
///
/// # Errors
/// If addresses are of two families.
pub fn run(
    worker: &mut Worker,
    scene: &Scene,
    (goal, flows): (Goal, u32),
    pace: f64,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let tallies = worker.tallies.clone();
    let mut answerer = Answerer::new(scene, &tallies, 0.0)?;
    let mut movers = movers(scene)?;
    let mut turn: Vec<u32> = match movers {
        Some(_) => (worker.id..flows).step_by(worker.of as usize).collect(),
        None => Vec::new(),
    };
    let wanted = goal_stage(scene, goal);
    turn.retain(|flow| needs(scene, *flow, goal, wanted));
    let mut first = true;
    while !stop.load(Relaxed) {
        let pacer = Pacer::new(pace).part(worker.id, worker.of);
        let start = clock::now();
        let (mut next, mut looked) = (0, 0);
        let mut again: Vec<u32> = Vec::new();
        let mut window = Window::new(moved(scene, goal), worker.of, start);
        // One round over all that are left, and time for the last answers.
        while !stop.load(Relaxed) {
            let now = clock::now();
            let due = pacer.due(now.since(start).as_nanos() as u64).min(turn.len() as u64);
            let room = window.room(moved(scene, goal), now);
            if let Some(movers) = &mut movers {
                movers.follow(scene);
            }
            if window.stalled {
                // Now rather than after the round: a balancer soon forgets half-closed connections.
                let waiting = &turn[looked as usize..next as usize];
                again.extend(waiting.iter().filter(|flow| needs(scene, **flow, goal, wanted)));
                looked = next;
            }
            for _ in 0..(due.saturating_sub(next) + again.len() as u64).min(BURST).min(room) {
                let Some(movers) = &mut movers else { break };
                let flow = again.last().copied().unwrap_or_else(|| turn[next as usize]);
                if !send(worker, scene, movers, flow, goal) {
                    break;
                }
                tallies.repeated.add(u64::from(!first || !again.is_empty()));
                if again.pop().is_none() {
                    next += 1;
                }
                window.sent(now);
            }
            let Worker { device, counters, .. } = worker;
            let received = device.poll(counters, |frames, verdicts, outbox| {
                answerer.burst(frames, verdicts, outbox, clock::now().nanos());
            });
            if next == turn.len() as u64 && again.is_empty() && now.since(window.quiet) >= AGAIN {
                break;
            }
            if received == 0 && (due <= next && again.is_empty() || room == 0) {
                let until = pacer.at(due).saturating_sub(now.since(start).as_nanos() as u64);
                device.wait(Duration::from_nanos(until).clamp(NAP / 20, NAP));
            }
        }
        turn.retain(|flow| needs(scene, *flow, goal, wanted));
        first = false;
    }
    Ok(())
}

/// How many connections have come to their end, good or bad.
fn moved(scene: &Scene, goal: Goal) -> u64 {
    let good = match goal {
        Goal::Open => &scene.opened,
        Goal::Close => &scene.closed,
    };
    good.load(Relaxed) + scene.refused.load(Relaxed)
}

/// How many connections of a worker wait for an answer. All workers together move as many as is
/// seen; this one is taken to have its share of them.
struct Window {
    size: u64,
    workers: u64,
    sent: u64,
    base: u64,
    moved: u64,
    /// When something was last sent or moved.
    quiet: Instant,
    /// Those that waited have just been given up.
    stalled: bool,
}

impl Window {
    fn new(moved: u64, workers: u32, now: Instant) -> Self {
        let workers = u64::from(workers);
        Self {
            size: (WAITING / workers).max(BURST),
            workers,
            sent: 0,
            base: moved,
            moved,
            quiet: now,
            stalled: false,
        }
    }

    /// How many more may wait.
    fn room(&mut self, moved: u64, now: Instant) -> u64 {
        if moved != self.moved {
            (self.moved, self.quiet) = (moved, now);
        }
        let waiting = self.sent.saturating_sub((moved - self.base) / self.workers);
        self.stalled = waiting >= self.size && now.since(self.quiet) >= STALL;
        if self.stalled {
            (self.sent, self.base, self.quiet) = (0, moved, now);
            return self.size;
        }
        self.size.saturating_sub(waiting)
    }

    fn sent(&mut self, now: Instant) {
        self.sent += 1;
        self.quiet = now;
    }
}

fn goal_stage(scene: &Scene, goal: Goal) -> u8 {
    match goal {
        Goal::Open => scene.open_stage(),
        Goal::Close => stage::CLOSED,
    }
}

/// Whether something is left to do for a flow.
fn needs(scene: &Scene, flow: u32, goal: Goal, wanted: u8) -> bool {
    let Some(flow) = scene.flows.get(flow as usize) else { return false };
    let reached = flow.stage();
    let can = goal == Goal::Open || reached & stage::ANSWERED != 0;
    can && reached & stage::REFUSED == 0 && reached & wanted != wanted
}

fn movers(scene: &Scene) -> anyhow::Result<Option<Movers>> {
    let Some(path) = path(scene) else { return Ok(None) };
    Ok(Some(match path.protocol {
        Protocol::Tcp => Movers {
            syn: Template::bare(&path, flag::SYN)?,
            ack: Template::bare(&path, flag::ACK)?,
            fin: Template::bare(&path, flag::FIN | flag::ACK)?,
            opening: Template::data(&path, FRAME_MIN)?,
            follower: Follower::default(),
        },
        Protocol::Udp => {
            let opening = Template::data(&path, FRAME_MIN)?;
            let [syn, ack, fin] = std::array::from_fn(|_| opening.clone());
            Movers { syn, ack, fin, opening, follower: Follower::default() }
        }
    }))
}

/// Sends what moves a flow on; false if there was no room.
fn send(worker: &mut Worker, scene: &Scene, movers: &mut Movers, number: u32, goal: Goal) -> bool {
    let Some(flow) = scene.flows.get(number as usize) else { return true };
    let client = scene.rules.clients.of(number);
    let ack = number.wrapping_add(1);
    let frame = match (scene.rules.protocol, goal) {
        (Protocol::Udp, _) => {
            let stamp = Stamp { flow: number, sequence: 0, time: 0 };
            movers.opening.stamped(client, stamp, scene.rules.key, Way::Request)
        }
        (Protocol::Tcp, Goal::Close) => movers.fin.numbered(client, CLOSING, ack),
        (Protocol::Tcp, Goal::Open) if flow.is(stage::ANSWERED) => {
            movers.ack.numbered(client, 1, ack)
        }
        (Protocol::Tcp, Goal::Open) => movers.syn.numbered(client, 0, ack),
    };
    if !worker.device.send(CLIENT, frame) {
        return false;
    }
    flow.reach(stage::ASKED);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_a_ring_holds_and_the_lost_are_given_up() {
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let mut window = Window::new(7, 2, at(0));
        for _ in 0..512 {
            assert!(window.room(7, at(1)) > 0);
            window.sent(at(1));
        }
        assert_eq!(window.room(7, at(2)), 0, "half of the ring for each of two workers");
        assert_eq!(window.room(27, at(3)), 10, "its share of what moved");
        for _ in 0..10 {
            window.sent(at(4));
        }
        assert_eq!(window.room(27, at(103)), 0);
        assert_eq!(window.room(27, at(104)), 512, "nothing moved for a tenth of a second");
        window.sent(at(105));
        assert_eq!(window.room(26 + 3, at(106)), 512);
    }
}
