//! The AF_XDP engine: one data phase over the sockets of a run.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use dataplane::clock;
use hdrhistogram::Histogram;

use super::data::{Part, Stretch, run};
use super::sockets::{Go, Sockets, Tallies};
use super::{Live, Phase, Plan, Scene, Watch};
use crate::meter::{Lane, Tally};
use crate::report::{Direction, Latency};
use crate::stamp;

/// Time from the start of the threads to the first packet.
const LEAD: Duration = Duration::from_millis(20);
/// Nothing came for so long: what is missing is lost. Long, because a balancer that had to wait for
/// its core still sends what waits in its rings.
pub(crate) const QUIET: Duration = Duration::from_secs(1);
/// How often people are told.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Sends and judges as planned.
///
/// # Errors
/// If threads cannot be started. What goes wrong on the way is in [`Phase::faults`].
pub fn data(
    sockets: &mut Sockets,
    scene: &Scene,
    plan: Plan,
    watch: &mut Watch<'_>,
) -> anyhow::Result<Phase> {
    let flows = scene.open_flows();
    for number in &flows {
        if let Some(flow) = scene.flows.get(*number as usize) {
            flow.requests.start();
            flow.replies.start();
        }
    }
    let start = clock::now().after(LEAD);
    scene.silences.iter().for_each(|silence| silence.start(start));
    let stretch = Stretch {
        scene,
        plan,
        flows: &flows,
        start,
        sent: AtomicU32::new(0),
        halt: AtomicBool::new(false),
    };
    let sent_before = sent_there(scene, stamp::Way::Reply);
    let tallies = sockets.tallies();
    let before = Totals::of(&tallies);
    let refused = scene.refused.load(Relaxed);
    let statistics = sockets.statistics();
    let mut phase = Phase::default();
    let mut overseer = Overseer::new(plan, tallies.len() as u32);
    let parts = sockets.run(
        |worker, stop| run(worker, &stretch, stop),
        |trouble| {
            let now = clock::now().since(start);
            if let Some(trouble) = trouble
                && phase.faults.is_empty()
            {
                phase
                    .faults
                    .push(format!("{trouble}, {:.1} s into the traffic", now.as_secs_f64()));
                stretch.halt.store(true, Relaxed);
            }
            if watch.interrupted.load(Relaxed) && !stretch.halt.swap(true, Relaxed) {
                phase.notes.push(format!("interrupted after {:.1} s", now.as_secs_f64()));
            }
            let totals = Totals::of(&tallies).since(&before);
            overseer.look(now, &totals, stretch.sent.load(Acquire), scene, watch)
        },
    )?;
    let parts = parts.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let totals = Totals::of(&tallies).since(&before);
    let flows = if scene.client.is_some() { flows } else { scene.open_flows() };
    finish(&mut phase, scene, &flows, &totals, parts, plan);
    phase.start = start.nanos();
    let end = phase.start + (phase.seconds * 1e9) as u64;
    phase.silence = listened(scene, plan).map(|way| scene.silences[way].longest(end));
    estimate(&mut phase, scene, sent_before, plan);
    if totals.homeless > 0 {
        phase.notes.push(format!(
            "{} answers of the real servers had nowhere to go: nobody answered for their next hop",
            totals.homeless
        ));
    }
    let refused = scene.refused.load(Relaxed) - refused;
    if refused > 0 {
        phase.faults.push(format!("{refused} connections were reset during the traffic"));
    }
    phase.lost_here.extend(sockets.dropped_since(&statistics));
    Ok(phase)
}

/// Decides when a phase is over.
struct Overseer {
    plan: Plan,
    workers: u32,
    told: Duration,
    heard: (u64, Duration),
    sent_at: Option<Duration>,
}

impl Overseer {
    fn new(plan: Plan, workers: u32) -> Self {
        let zero = Duration::ZERO;
        Self { plan, workers, told: zero, heard: (0, zero), sent_at: None }
    }

    fn look(
        &mut self,
        now: Duration,
        totals: &Totals,
        sent: u32,
        scene: &Scene,
        watch: &mut Watch<'_>,
    ) -> Go {
        if now >= self.told + TICK {
            self.told = now;
            (watch.tick)(&Live {
                phase: "traffic",
                elapsed: now,
                connections: connections(scene),
                requests: [totals.requests.sent, totals.requests.received],
                replies: [totals.replies.sent, totals.replies.received],
            });
        }
        let received = totals.requests.received + totals.replies.received;
        if received != self.heard.0 {
            self.heard = (received, now);
        }
        // The servers alone listen as long as they are told to, and then until it is quiet.
        let over = sent >= self.workers
            && (scene.client.is_some() || self.over(now) || watch.interrupted.load(Relaxed));
        if !over {
            return Go::On;
        }
        let since = *self.sent_at.get_or_insert(now);
        let both = scene.client.is_some() && scene.server.is_some();
        let complete = both
            && totals.requests.received >= totals.requests.sent
            && totals.replies.received >= totals.replies.sent;
        let quiet = now >= self.heard.1.max(since) + QUIET.min(self.plan.patience);
        let late = now >= since + self.plan.patience;
        if complete || quiet || late { Go::Stop } else { Go::On }
    }

    fn over(&self, now: Duration) -> bool {
        !self.plan.duration.is_zero() && now >= self.plan.duration
    }
}

/// Connections open, refused, closed.
pub(crate) fn connections(scene: &Scene) -> [u64; 3] {
    [&scene.opened, &scene.refused, &scene.closed].map(|count| count.load(Relaxed))
}

fn finish(
    phase: &mut Phase,
    scene: &Scene,
    flows: &[u32],
    totals: &Totals,
    parts: Vec<Part>,
    plan: Plan,
) {
    let mut latency: [Option<Histogram<u64>>; 2] = [None, None];
    let mut elapsed = 0;
    let (mut due, mut refused) = (0, 0);
    for part in parts {
        elapsed = elapsed.max(part.elapsed);
        due += part.due;
        refused += part.refused;
        for (all, one) in latency.iter_mut().zip(part.latency) {
            match all {
                Some(all) => {
                    let _ = all.add(one);
                }
                None => *all = Some(one),
            }
        }
    }
    if elapsed == 0 {
        elapsed = plan.duration.as_nanos() as u64;
    }
    phase.seconds = elapsed as f64 / 1e9;
    let [request_latency, reply_latency] = latency.map(|all| all.as_ref().and_then(summary));
    phase.requests = totals.requests.direction(due, phase.seconds, request_latency);
    let mut replies = totals.replies;
    // Crafted, but not taken by the ring.
    let owed = replies.sent;
    replies.sent = replies.sent.saturating_sub(refused);
    phase.replies = replies.direction(owed, phase.seconds, reply_latency);
    if refused > 0 {
        phase.notes.push(format!("{refused} replies were due and found the transmit ring full"));
    }
    judge_flows(phase, scene, flows, plan);
}

/// The way whose silence tells what the clients feel: replies, or requests where the servers are
/// here and send none. None without clients: their pauses are not known.
pub(crate) fn listened(scene: &Scene, plan: Plan) -> Option<usize> {
    scene.client.as_ref()?;
    let answers = plan.replies > 0.0 && scene.answers();
    (answers || scene.server.is_some()).then_some(usize::from(answers))
}

/// Which connections carried packets.
pub(crate) fn judge_flows(phase: &mut Phase, scene: &Scene, flows: &[u32], plan: Plan) {
    let answers = plan.replies > 0.0 && scene.answers();
    let (client, server) = (scene.client.is_some(), scene.server.is_some());
    let mut least = u64::MAX;
    for number in flows {
        let Some(flow) = scene.flows.get(*number as usize) else { continue };
        let (there, back) = (flow.requests.received(), flow.replies.received());
        let alive = (!server || there > 0) && (!client || !answers || back > 0);
        phase.alive += u64::from(alive);
        // What the other process has sent on it is not known here.
        let known = server && client;
        let lasting = !known || is_late(&flow.requests) && (!answers || is_late(&flow.replies));
        phase.alive_at_end += u64::from(alive && lasting);
        least = least.min(u64::from(there) + u64::from(back));
    }
    phase.least_packets = if flows.is_empty() { 0 } else { least };
}

/// Whether one of the last two packets arrived.
fn is_late(lane: &Lane) -> bool {
    lane.sent().wrapping_sub(lane.highest()) <= 1
}

/// Packets that the other side sent on all flows, as far as the highest numbers tell.
pub(crate) fn sent_there(scene: &Scene, way: stamp::Way) -> u64 {
    let lanes = scene.flows.iter().map(|flow| match way {
        stamp::Way::Request => &flow.requests,
        stamp::Way::Reply => &flow.replies,
    });
    lanes.map(|lane| u64::from(lane.highest())).sum()
}

/// One side is in another process: what it did is told by the numbers of its packets.
pub(crate) fn estimate(phase: &mut Phase, scene: &Scene, sent_before: u64, plan: Plan) {
    let seconds = phase.seconds.max(1e-9);
    let Phase { requests, replies, notes, .. } = phase;
    if scene.server.is_none() {
        let sent = sent_there(scene, stamp::Way::Reply) - sent_before;
        let each = plan.replies_per_request();
        replies.sent = sent.max(replies.received);
        replies.due = replies.sent;
        replies.lost = replies.sent - replies.received;
        replies.sent_pps = replies.sent as f64 / seconds;
        let reached = if each > 0.0 { (replies.sent as f64 / each).round() as u64 } else { 0 };
        requests.received = reached.min(requests.sent);
        requests.lost = if each > 0.0 { requests.sent - requests.received } else { 0 };
        requests.received_pps = requests.received as f64 / seconds;
        requests.latency = None;
        notes.push(
            "the real servers are in another process: what reached them is told by the numbers of \
             their replies, and latency of replies is that of the way there and back"
                .to_owned(),
        );
    } else if scene.client.is_none() {
        requests.sent = sent_there(scene, stamp::Way::Request).max(requests.received);
        requests.sent_pps = requests.sent as f64 / seconds;
        requests.due = requests.sent;
        requests.lost = requests.sent - requests.received;
        requests.latency = None;
        replies.latency = None;
        notes.push(
            "the clients are in another process: what they sent is told by the numbers of their \
             packets"
                .to_owned(),
        );
    }
}

/// Sums over all workers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) requests: Way,
    pub(crate) replies: Way,
    pub(crate) repeated: u64,
    pub(crate) homeless: u64,
}

/// One way of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) wire_bytes: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupted: u64,
    pub(crate) strayed: u64,
}

impl Totals {
    pub(crate) fn of(tallies: &[Arc<Tallies>]) -> Self {
        let mut all = Self::default();
        for one in tallies {
            all.requests.add(&one.requests);
            all.replies.add(&one.replies);
            all.repeated += one.repeated.get();
            all.homeless += one.homeless.get();
        }
        all
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.since(&before.requests),
            replies: self.replies.since(&before.replies),
            repeated: self.repeated - before.repeated,
            homeless: self.homeless - before.homeless,
        }
    }
}

impl Way {
    fn add(&mut self, tally: &Tally) {
        self.sent += tally.sent.get();
        self.received += tally.received.get();
        self.wire_bytes += tally.wire_bytes.get();
        self.duplicated += tally.duplicated.get();
        self.reordered += tally.reordered.get();
        self.corrupted += tally.corrupted.get();
        self.strayed += tally.strayed.get();
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            received: self.received - before.received,
            wire_bytes: self.wire_bytes - before.wire_bytes,
            duplicated: self.duplicated - before.duplicated,
            reordered: self.reordered - before.reordered,
            corrupted: self.corrupted - before.corrupted,
            strayed: self.strayed - before.strayed,
        }
    }

    pub(crate) fn direction(&self, due: u64, seconds: f64, latency: Option<Latency>) -> Direction {
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Direction {
            due,
            sent: self.sent,
            received: self.received,
            lost: self.sent.saturating_sub(self.received),
            duplicated: self.duplicated,
            reordered: self.reordered,
            corrupted: self.corrupted,
            strayed: self.strayed,
            sent_pps: rate(self.sent),
            received_pps: rate(self.received),
            received_bps: rate(self.wire_bytes * 8),
            latency,
        }
    }
}

/// The figures of a distribution; none of an empty one.
#[must_use]
pub fn summary(all: &Histogram<u64>) -> Option<Latency> {
    (!all.is_empty()).then(|| Latency {
        samples: all.len(),
        min: all.min(),
        mean: all.mean(),
        p50: all.value_at_quantile(0.5),
        p90: all.value_at_quantile(0.9),
        p99: all.value_at_quantile(0.99),
        p999: all.value_at_quantile(0.999),
        max: all.max(),
    })
}
