//! The data phase by programs in the kernel: for rates beyond AF_XDP's copy mode.
//!
//! Run by the main thread. Requests and replies are two streams, both open-loop and each at its own
//! share of the rate: a reply does not wait for a request, so that what one way loses does not
//! lower the load on the other. The sockets' program is off the interfaces meanwhile; packets that
//! are no data go to the kernel, which has no use for them.
//!
//! What arrives is judged in the softirq of the processor that sent it, on a veth that of the device
//! under test, at some 130 ns a packet. Receive packet steering can move that to the generator's
//! core (`rps_cpus` of the interface, in `/sys/class/net` as mounted inside its namespace), but its
//! interrupt between processors costs a virtual machine more than it takes away.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use dataplane::clock::{self, Instant};
use hdrhistogram::Histogram;

use self::run::{Pace, Progress, Run};
use super::next_hop::Follower;
use super::silence::Gap;
use super::sockets::Sockets;
use super::xsk::{self, QUIET, TICK, Way, connections};
use super::{Live, Phase, Plan, Scene, Side, Watch};
use crate::bpf::image::{End, Traffic};
use crate::bpf::layout::{Heard, Tally, WAYS, value};
use crate::order::Order;
use crate::report::{Latency, Line};
use crate::size::{self, FCS, GAP, Size};
use crate::stamp::{self, TIME_UNIT};

pub mod run;

/// Frames handed over at once, at most: what `NAPI` takes in one go.
const BATCH: u32 = 64;
/// How often it is asked whether all has arrived.
const LOOK: Duration = Duration::from_millis(2);
/// How often the kernel is asked whether the interfaces are still there.
const CHECK: Duration = Duration::from_millis(100);

/// Sends and judges as planned, on these cores.
///
/// # Errors
/// If the kernel cannot do it. What goes wrong on the way is in [`Phase::faults`].
pub fn data(
    sockets: &mut Sockets,
    scene: &Scene,
    plan: Plan,
    cores: &[usize],
    watch: &mut Watch<'_>,
) -> anyhow::Result<Phase> {
    sockets.detach();
    let phase = stretch(sockets, scene, plan, cores, watch);
    // The interface may be what has gone.
    let attached = sockets.attach();
    let phase = phase?;
    if phase.faults.is_empty() {
        attached?;
    }
    Ok(phase)
}

/// The same, with the interfaces free.
fn stretch(
    sockets: &Sockets,
    scene: &Scene,
    plan: Plan,
    cores: &[usize],
    watch: &mut Watch<'_>,
) -> anyhow::Result<Phase> {
    let flows = scene.open_flows();
    let mut phase = Phase::default();
    if flows.is_empty() {
        phase.notes.push("no connection is open, so nothing was sent".to_owned());
        return Ok(phase);
    }
    let mut order = Order::new(flows.len() as u32, plan.seed);
    let flows: Vec<u32> = (0..flows.len()).map(|_| flows[order.draw() as usize]).collect();
    let sent_before = xsk::sent_there(scene, stamp::Way::Reply);
    let run = load(scene, &flows, plan, cores)?;
    let replies = if scene.server.is_some() && scene.rules.method.replies_pass() {
        plan.replies
    } else {
        0.0
    };
    let pace =
        Pace { pps: plan.request_pps / (1.0 - replies), duration: plan.duration, batch: BATCH };
    let start = clock::now();
    let stop = AtomicBool::new(false);
    let first = start.after(run::LEAD).nanos();
    run.data().listen(first)?;
    let mut overseer =
        Overseer { start, told: Duration::ZERO, checked: Duration::ZERO, hops: Hops::default() };
    run.go(&pace, cores, &stop, || {
        if watch.interrupted.load(Relaxed) && !stop.swap(true, Relaxed) {
            let after = clock::now().since(start).as_secs_f64();
            phase.notes.push(format!("interrupted after {after:.1} s"));
        }
        if let Some(trouble) = overseer.look(&run, scene, sockets, watch)
            && !stop.swap(true, Relaxed)
        {
            let after = clock::now().since(start).as_secs_f64();
            phase.faults.push(format!("{trouble}, {after:.1} s into the traffic"));
        }
    })?;
    let progress = run.progress()?;
    settle(&run, scene, &progress, plan.patience, watch)?;
    finish(&mut phase, scene, &run, &progress, (plan, replies, stop.load(Relaxed)))?;
    phase.start = first;
    phase.silence = silence(&run, scene, plan, first + (phase.seconds * 1e9) as u64)?;
    let lasting = lasting(scene, &run, &progress, &flows)?;
    record(scene, &run, &progress, &flows)?;
    xsk::judge_flows(&mut phase, scene, &flows, plan);
    phase.alive_at_end = lasting.unwrap_or(phase.alive);
    if scene.server.is_none() {
        xsk::estimate(&mut phase, scene, sent_before, plan);
    }
    Ok(phase)
}

/// Tells the kernel all about the run; `flows` in the order of sending.
fn load(scene: &Scene, flows: &[u32], plan: Plan, cores: &[usize]) -> anyhow::Result<Run> {
    let rules = &scene.rules;
    let least = size::least(rules.vip.is_ipv6(), rules.protocol);
    let round = match plan.size {
        Size::Fixed(_) => 1,
        Size::Imix => size::IMIX_ROUND.len() as u64,
    };
    let sizes: Vec<u16> = (0..round).map(|n| plan.size.of(n, least)).collect();
    let used = scene.flows.iter().map(|flow| flow.requests.sent().max(flow.replies.sent()));
    let of = |number: u32| scene.flows.get(number as usize);
    let server = scene.server.as_ref().map(|side| {
        let peer = scene.server_peer().context("no request has come, so nobody to reply to")?;
        anyhow::Ok(End { index: side.index, mac: side.mac, peer })
    });
    let end = |side: &Side| End {
        index: side.index,
        mac: side.mac,
        peer: side.next_hop.mac().unwrap_or_default(),
    };
    let traffic = Traffic {
        vip: rules.vip,
        protocol: rules.protocol,
        method: rules.method,
        clients: rules.clients,
        reals: rules.reals,
        real_port: rules.real_port,
        key: rules.key,
        base: used.max().unwrap_or(0),
        heard: &|flow| of(flow).map_or(0, |flow| flow.replies.highest()),
        sizes: &sizes,
        replies: plan.replies,
        open: flows,
        real: &|flow| of(flow).map_or(0, |flow| flow.real.load(Relaxed)),
        local: &|flow| of(flow).and_then(|flow| scene.local(flow)),
        client: scene.client.as_ref().map(end),
        server: server.transpose()?,
    };
    Run::new(&traffic, cores.len().min(flows.len()))
}

/// Looks at a running phase.
struct Overseer {
    start: Instant,
    told: Duration,
    checked: Duration,
    hops: Hops,
}

/// Where the programs send, so that they follow a balancer that moves.
#[derive(Default)]
struct Hops {
    client: Follower,
    server: Option<[u8; 6]>,
}

impl Hops {
    /// Tells the programs of a move: of the VIP as the neighbours tell, on the servers' side where
    /// the last request came from.
    fn look(&mut self, run: &Run, scene: &Scene) -> anyhow::Result<()> {
        let moved = scene.client.as_ref().and_then(|side| self.client.moved(&side.next_hop));
        let from = match &scene.server {
            Some(_) => {
                let [[a, b, c, d, e, f, ..], _] = run.data().heard()?.map(|heard| heard.peer);
                Some([a, b, c, d, e, f]).filter(|mac| *mac != [0; 6])
            }
            None => None,
        };
        let came = from.is_some() && from != self.server;
        if let Some(mac) = from.filter(|_| came) {
            self.server = from;
            scene.learn_server_peer(mac);
        }
        if moved.is_some() || came {
            let client = scene.client.as_ref().and_then(|side| side.next_hop.mac());
            let macs = [client, scene.server_peer()].map(Option::unwrap_or_default);
            run.send_to(macs)?;
        }
        Ok(())
    }
}

impl Overseer {
    /// Tells people, and returns what is wrong with an interface.
    fn look(
        &mut self,
        run: &Run,
        scene: &Scene,
        sockets: &Sockets,
        watch: &mut Watch<'_>,
    ) -> Option<String> {
        let now = clock::now().since(self.start);
        if let Err(error) = self.hops.look(run, scene) {
            return Some(format!("the next hop cannot be followed: {error:#}"));
        }
        if now >= self.told + TICK {
            self.told = now;
            tell(run, scene, now, watch);
        }
        if now < self.checked + CHECK {
            return None;
        }
        self.checked = now;
        sockets.trouble()
    }
}

fn tell(run: &Run, scene: &Scene, elapsed: Duration, watch: &mut Watch<'_>) {
    // Figures for people: what cannot be read now is in the report.
    let sent = run.progress().unwrap_or_default().sent;
    let received = [0, 1].map(|way| run.tally(way).map_or(0, |tally| tally.received));
    (watch.tick)(&Live {
        phase: "traffic",
        elapsed,
        connections: connections(scene),
        requests: [sent[0], received[0]],
        replies: [sent[1], received[1]],
    });
}

/// Waits until everything has arrived, or nothing more comes.
fn settle(
    run: &Run,
    scene: &Scene,
    progress: &Progress,
    patience: Duration,
    watch: &Watch<'_>,
) -> anyhow::Result<()> {
    let both = scene.client.is_some() && scene.server.is_some();
    let start = clock::now();
    let (mut heard, mut changed) = (0, start);
    loop {
        let [there, back] = [run.tally(0)?, run.tally(1)?];
        let now = clock::now();
        let received = there.received + back.received;
        if received != heard {
            (heard, changed) = (received, now);
        }
        let sent = progress.accepted;
        let complete = both && there.received >= sent[0] && back.received >= sent[1];
        let quiet = now.since(changed) >= QUIET.min(patience);
        let late = now.since(start) >= patience || watch.interrupted.load(Relaxed);
        if complete || quiet || late {
            return Ok(());
        }
        std::thread::park_timeout(LOOK);
    }
}

/// The figures of both ways.
fn finish(
    phase: &mut Phase,
    scene: &Scene,
    run: &Run,
    progress: &Progress,
    (plan, replies, stopped): (Plan, f64, bool),
) -> anyhow::Result<()> {
    // What would have been due after an early end was not.
    let unsent = if stopped { 0 } else { progress.unsent };
    phase.seconds = if stopped {
        let rate = plan.request_pps / (1.0 - replies);
        (progress.sent[0] + progress.sent[1]) as f64 / rate
    } else {
        plan.duration.as_secs_f64()
    };
    let unsent_replies = (unsent as f64 * replies).round() as u64;
    let owed = [unsent - unsent_replies, unsent_replies];
    let mut directions = Vec::with_capacity(WAYS);
    for (way, owed) in owed.into_iter().enumerate() {
        let tally = run.tally(way)?;
        let sent = progress.sent[way];
        let counts = Way {
            sent,
            received: tally.received,
            wire_bytes: tally.bytes + tally.received * u64::from(FCS + GAP),
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            corrupted: tally.corrupted,
            strayed: tally.strayed,
        };
        directions.push(counts.direction(sent + owed, phase.seconds, latency(&tally)?));
        if tally.earlier > 0 {
            phase.notes.push(format!("{} packets came from an earlier stretch", tally.earlier));
        }
    }
    phase.replies = directions.pop().unwrap_or_default();
    phase.requests = directions.pop().unwrap_or_default();
    let sides = [&scene.client, &scene.server];
    for (way, side) in sides.into_iter().enumerate() {
        // An interface that takes no such frames at all does not even count them as refused.
        let refused = progress.sent[way].saturating_sub(progress.accepted[way]);
        if let Some(side) = side
            && refused > 0
        {
            phase.lost_here.push(Line {
                place: format!("generator {}: tx refused", side.interface),
                packets: refused,
            });
            phase.notes.push(format!(
                "{} refused {refused} packets: the ring of its peer was full (`tx dropped`), or \
                 its peer takes no XDP frames: the balancer has to run in native mode",
                side.interface
            ));
        }
    }
    Ok(())
}

/// The longest time in which nothing came, until `end`.
fn silence(run: &Run, scene: &Scene, plan: Plan, end: u64) -> anyhow::Result<Option<Gap>> {
    if xsk::listened(scene, plan).is_none() {
        return Ok(None);
    }
    // Replies do not wait for requests here: the worse of the two ways is what a client would feel.
    let replies = plan.replies > 0.0 && scene.answers();
    let ways = run.data().heard()?.into_iter().zip([scene.server.is_some(), replies]);
    let gap = |heard: Heard| {
        let before = Gap { since: heard.since, nanos: heard.longest };
        let after = Gap { since: heard.last, nanos: end.saturating_sub(heard.last) };
        if after.nanos > before.nanos { after } else { before }
    };
    Ok(ways.filter(|(_, listened)| *listened).map(|(heard, _)| gap(heard)).max_by_key(|g| g.nanos))
}

/// The figures of a distribution; none of an empty one.
fn latency(tally: &Tally) -> anyhow::Result<Option<Latency>> {
    let mut all = Histogram::<u64>::new_with_bounds(1, 1 << 37, 3)?;
    for (bucket, count) in tally.buckets.into_iter().enumerate() {
        if count > 0 {
            all.record_n((value(bucket) * TIME_UNIT).max(1), count)?;
        }
    }
    let exact = |latency| Latency {
        min: tally.least * TIME_UNIT,
        max: tally.most * TIME_UNIT,
        mean: (tally.sum * TIME_UNIT) as f64 / tally.received.max(1) as f64,
        ..latency
    };
    Ok(xsk::summary(&all).map(exact))
}

/// Connections through which one of the last two packets of each way came; none if one side is elsewhere. To be
/// called before [`record`], which forgets what came last.
fn lasting(
    scene: &Scene,
    run: &Run,
    progress: &Progress,
    open: &[u32],
) -> anyhow::Result<Option<u64>> {
    if scene.client.is_none() || scene.server.is_none() || open.is_empty() {
        return Ok(None);
    }
    let used = scene.flows.iter().map(|flow| flow.requests.sent().max(flow.replies.sent()));
    let base = used.max().unwrap_or(0);
    let mut alive = vec![true; open.len()];
    for way in 0..WAYS {
        // Each flow in its turn: as often as all together, divided by how many they are.
        let turns = (progress.sent[way] / open.len() as u64) as u32;
        if turns == 0 {
            continue;
        }
        let flows = run.data().flows(way)?;
        for (place, alive) in alive.iter_mut().enumerate() {
            let (highest, received) = flows.get(place).copied().unwrap_or_default();
            *alive &= received > 0 && highest.wrapping_add(1) >= base.wrapping_add(turns);
        }
    }
    Ok(Some(alive.into_iter().filter(|alive| *alive).count() as u64))
}

/// Leaves the flows as if they had gone through the sockets.
fn record(scene: &Scene, run: &Run, progress: &Progress, open: &[u32]) -> anyhow::Result<()> {
    let [there, back] = [run.data().flows(0)?, run.data().flows(1)?];
    for (place, &number) in open.iter().enumerate() {
        let Some(flow) = scene.flows.get(number as usize) else { continue };
        let of = |flows: &[(u32, u32)]| flows.get(place).copied().unwrap_or_default();
        flow.requests.jump(progress.highest, of(&there).1);
        let (highest, received) = of(&back);
        let elsewhere = scene.server.is_none();
        flow.replies.jump(if elsewhere { highest } else { progress.highest }, received);
    }
    Ok(())
}
