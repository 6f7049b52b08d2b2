//! The life of a packet.
//!
//! Runs on a worker, once for each burst. A burst goes through in stages, so that while one packet
//! waits for memory the others are worked on: read all headers, hash and prefetch all buckets,
//! prefetch all entries, then rewrite all. No I/O, no clock, no allocation.

mod captured;
mod client;
mod deliver;
mod ender;
mod ending;
pub mod explain;
mod express;
mod find;
mod neighbor;
mod observe;
mod open;
mod probe;
mod related;
mod shared;

use dataplane_api::counter::{Event, Reason};

use crate::address::{Mac, VipId};
use crate::clock::Instant;
use crate::conn::tcp::Direction;
use crate::conn::{self, Found, Identity, LastHop};
use crate::counters::Counters;
use crate::frame::{Frame, Outbox, Verdict};
use crate::lease::Fresh;
use crate::limits::{self, BURST};
use crate::published::Published;
use crate::rewrite::nat::Endpoint;
use crate::service::{Class, RealRecord};
use crate::wire::packet::{self, Fragment, Kind, Packet};

use deliver::deliver;
pub use deliver::{Delivery, Paths};
pub use ender::Ender;
use ending::Course;
use express::{Lane, Slot};
pub use neighbor::{announce, send_question};
use observe::observe;
use open::Arrival;
pub use probe::send_probes;
pub use shared::{Shared, expired};

/// What one worker keeps between bursts.
pub struct Local {
    worker: usize,
    workers: usize,
    port_cursor: u32,
    icmp_tokens: u32,
    icmp_refilled: Instant,
    identification: u32,
    scratch: Box<[u8; limits::FRAME_SIZE]>,
}

impl Local {
    /// State of worker `worker` of `workers`.
    #[must_use]
    pub fn new(worker: usize, workers: usize) -> Self {
        Self {
            worker,
            workers: workers.max(1),
            port_cursor: 0,
            icmp_tokens: limits::ICMP_PER_SECOND,
            icmp_refilled: Instant::ZERO,
            identification: 0,
            scratch: Box::new([0; limits::FRAME_SIZE]),
        }
    }

    /// Takes the right to send one ICMP error: a token bucket of one second's worth.
    fn may_send_icmp(&mut self, now: Instant) -> bool {
        const EACH: u64 = 1_000_000_000 / limits::ICMP_PER_SECOND as u64;
        let elapsed = u64::try_from(now.since(self.icmp_refilled).as_nanos()).unwrap_or(u64::MAX);
        let earned = u32::try_from(elapsed / EACH).unwrap_or(u32::MAX);
        self.icmp_tokens = self.icmp_tokens.saturating_add(earned).min(limits::ICMP_PER_SECOND);
        // The rest of the time counts towards the next one.
        self.icmp_refilled = Instant::from_nanos(now.nanos() - elapsed % EACH);
        let may = self.icmp_tokens > 0;
        self.icmp_tokens -= u32::from(may);
        may
    }
}

/// What a burst is forwarded with.
pub struct Tables<'a> {
    /// Services, next hops, devices.
    pub published: &'a Published,
    /// Shared by the workers.
    pub shared: &'a Shared,
    /// Of this worker.
    pub counters: &'a Counters,
    /// Of this worker.
    pub local: &'a mut Local,
    /// The groups whose addresses may be answered for.
    pub lease: Fresh,
    /// When the burst was received.
    pub now: Instant,
}

impl Tables<'_> {
    fn event(&self, event: Event) {
        self.counters.event(event);
    }

    fn real(&self, identity: &Identity) -> Option<&RealRecord> {
        self.published.services.real(identity.real)
    }
}

/// The stages' working memory.
pub struct Pipeline {
    slots: Box<[Slot; BURST]>,
    express: bool,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self { slots: Box::new([Slot::default(); BURST]), express: true }
    }
}

impl Pipeline {
    /// One in which every packet takes the long way: what the express lane is tested against.
    #[must_use]
    pub fn without_express() -> Self {
        Self { express: false, ..Self::default() }
    }

    /// Forwards a burst: fills in a verdict for each frame and counts the drops.
    ///
    /// Packets besides those in `frames` (held fragments, second halves) go to `outbox`. Frames
    /// beyond [`BURST`] keep the verdict they have.
    pub fn forward(
        &mut self,
        frames: &mut [Frame<'_>],
        verdicts: &mut [Verdict],
        outbox: &mut dyn Outbox,
        tables: &mut Tables<'_>,
    ) {
        let count = frames.len().min(verdicts.len()).min(BURST);
        let (frames, verdicts) = (&mut frames[..count], &mut verdicts[..count]);
        if tables.shared.capture.is_active() && captured::forward(frames, verdicts, outbox, tables)
        {
            return;
        }
        let first = frames.first().filter(|_| self.express);
        let Some(lane) = first.and_then(|frame| Lane::new(frame, tables)) else {
            for (frame, verdict) in frames.iter_mut().zip(verdicts) {
                *verdict = long_way(frame, outbox, tables);
            }
            return;
        };
        let slots = &mut self.slots[..count];
        for (frame, slot) in frames.iter().zip(&mut *slots) {
            lane.look(frame, slot);
        }
        lane.probe(slots);
        for ((frame, verdict), slot) in frames.iter_mut().zip(verdicts).zip(&*slots) {
            *verdict = match lane.forward(frame, slot, tables) {
                Some(device) => Verdict::Transmit(device),
                None => other(lane, frame, slot, outbox, tables),
            };
        }
    }
}

/// What the express lane does not take to its end.
#[inline(never)]
fn other(
    lane: Lane<'_>,
    frame: &mut Frame<'_>,
    slot: &Slot,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    match lane.tunnel(frame, slot) {
        Some(real) => counted(deliver::by_tunnel(frame, real, outbox, tables), tables),
        None => long_way(frame, outbox, tables),
    }
}

fn counted(verdict: Verdict, tables: &Tables<'_>) -> Verdict {
    if let Verdict::Drop(reason) = verdict {
        tables.counters.drop(reason);
    }
    verdict
}

/// Any packet at all: reads it, finds or opens its connection, notes what it does to it, and sends
/// it on; or counts why not.
#[inline(never)]
fn long_way(frame: &mut Frame<'_>, outbox: &mut dyn Outbox, tables: &mut Tables<'_>) -> Verdict {
    let verdict = any(frame, outbox, tables).unwrap_or_else(Verdict::Drop);
    counted(verdict, tables)
}

fn any(
    frame: &mut Frame<'_>,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Result<Verdict, Reason> {
    let packet = packet::parse(frame.bytes())?;
    let device = tables.published.device(frame.device()).ok_or(Reason::DeviceDown)?;
    let anybody = matches!(packet.kind, Kind::NeighborRequest | Kind::NeighborAnswer);
    if !anybody && frame.bytes().first_chunk() != Some(&device.mac.0) {
        return Err(Reason::NotOurMac);
    }
    if !matches!(packet.kind, Kind::Tcp | Kind::Udp) {
        return Ok(related::related(frame, &packet, outbox, tables));
    }
    Ok(match tables.published.services.classify(packet.destination) {
        Class::Vip(vip) => request(frame, &packet, vip, outbox, tables),
        Class::Other => reply(frame, &packet, outbox, tables),
        Class::Local(local) => local_reply(frame, &packet, local, outbox, tables),
    })
}

/// A packet from a client.
fn request(
    frame: &mut Frame<'_>,
    packet: &Packet,
    vip: VipId,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let hash = tables.shared.conns.hash(packet.source, packet.source_port, packet.protocol);
    let found =
        find::of_vip(hash, sender(packet), (vip, packet.destination_port), packet.protocol, tables);
    let hop = LastHop { mac: source_mac(frame), device: frame.device() };
    let arrival = Arrival { packet, vip, hash, last_hop: hop };
    let mut moved = None;
    let found = match found {
        Some(found) => match ending::from_client(frame, &arrival, &found, outbox, tables) {
            Course::On => Some(found),
            Course::Anew => None,
            Course::Moved(to) => {
                moved = Some(to);
                None
            }
            Course::Done(verdict) => return verdict,
        },
        None => None,
    };
    let known = found.and_then(|found| {
        let one_way = tables.real(&found.conn.identity)?.forwarding.is_one_way();
        let direction = if one_way { Direction::FromClientOnly } else { Direction::FromClient };
        observe(&found, packet, direction, tables).then_some(found.conn)
    });
    let identity = match known {
        Some(conn) => {
            follow_client(frame, found.as_ref(), &conn, tables);
            conn.identity
        }
        None => {
            open::note_checksum(frame, packet, tables);
            match moved.unwrap_or_else(|| open::open(&arrival, tables)) {
                Ok(identity) => identity,
                Err(reason) => return Verdict::Drop(reason),
            }
        }
    };
    let delivery = Delivery::to_real(&identity, tables);
    finish(frame, packet, &delivery, outbox, tables)
}

/// A packet from a real of `nat`.
fn reply(
    frame: &mut Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let found = find::of_real(receiver(packet), sender(packet), packet.protocol, tables);
    answer(frame, packet, found, outbox, tables)
}

/// A packet from a real of `fullnat`.
fn local_reply(
    frame: &mut Frame<'_>,
    packet: &Packet,
    local: u8,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let port = (local, packet.destination_port);
    let found = find::of_local(port, sender(packet), packet.protocol, tables);
    answer(frame, packet, found, outbox, tables)
}

/// The end that a packet comes from.
fn sender(packet: &Packet) -> Endpoint {
    Endpoint { address: packet.source, port: packet.source_port }
}

/// The end that it goes to.
fn receiver(packet: &Packet) -> Endpoint {
    Endpoint { address: packet.destination, port: packet.destination_port }
}

#[inline(always)]
fn answer(
    frame: &mut Frame<'_>,
    packet: &Packet,
    found: Option<Found>,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let Some(found) = found else {
        let heard = !tables.shared.probes.is_idle() && probe::hear(frame, packet, outbox, tables);
        return if heard { Verdict::Held } else { Verdict::Drop(Reason::NoReplyConnection) };
    };
    if let Some(verdict) = ending::from_real(frame, packet, &found, outbox, tables) {
        return verdict;
    }
    if !observe(&found, packet, Direction::FromReal, tables) {
        return Verdict::Drop(Reason::NoReplyConnection);
    }
    let delivery = Delivery::to_client(&found.conn, tables);
    finish(frame, packet, &delivery, outbox, tables)
}

/// Auto last hop: replies go where the client's packets come from now.
#[inline(always)]
fn follow_client(frame: &Frame<'_>, found: Option<&Found>, conn: &conn::Conn, tables: &Tables<'_>) {
    let hop = LastHop { mac: source_mac(frame), device: frame.device() };
    if let Some(found) = found
        && hop != conn.last_hop
    {
        tables.shared.conns.set_last_hop(&found.handle, hop);
    }
}

fn source_mac(frame: &Frame<'_>) -> Mac {
    let mut mac = Mac::default();
    if let Some(bytes) = frame.bytes().get(6..12) {
        mac.0.copy_from_slice(bytes);
    }
    mac
}

/// Sends the packet on; if it is a first fragment, the others follow.
#[inline(always)]
fn finish(
    frame: &mut Frame<'_>,
    packet: &Packet,
    delivery: &Delivery,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let verdict = deliver(frame, packet, delivery, outbox, tables);
    if packet.fragment == Fragment::First {
        // A copy, here and below, lets what is common stay in registers: only what is lent to a
        // function that is not inlined must lie in memory.
        let delivery = *delivery;
        related::first_fragment(packet, &delivery, outbox, tables);
    }
    verdict
}
