//! The life of a packet.
//!
//! Runs on a worker, once for each burst. A burst goes through in stages, so that while one packet
//! waits for memory the others are worked on: read all headers, hash and prefetch all buckets,
//! prefetch all entries, then rewrite all. No I/O, no clock, no allocation.

mod client;
mod deliver;
mod observe;
mod open;
mod related;

use std::sync::Mutex;

use dataplane_api::counter::{Event, Reason};

use crate::address::{Mac, VipId};
use crate::clock::Instant;
use crate::conn::tcp::Direction;
use crate::conn::{self, Ended, Found, Identity, LastHop, Ports, Probe, State, Table};
use crate::counters::Counters;
use crate::fragment::Fragments;
use crate::frame::{Frame, Outbox, Verdict};
use crate::limits::{self, BURST};
use crate::published::{DeviceInfo, Published};
use crate::routes::Asks;
use crate::sched::load::Loads;
use crate::service::{Class, RealRecord};
use crate::wire::packet::{self, Fragment, Kind, Packet};

use deliver::deliver;
pub use deliver::{Delivery, Paths};
use observe::observe;

/// What all workers share.
pub struct Shared {
    /// Connections.
    pub conns: Table,
    /// Local ports of full NAT.
    pub ports: Ports,
    /// Connections of each real.
    pub loads: Loads,
    /// Datagrams in pieces. Fragments are rare, so a lock does.
    pub fragments: Mutex<Fragments<Delivery>>,
    /// Path MTUs that tunnels have learnt.
    pub paths: Paths,
    /// Neighbours that replies have to wait for.
    pub asks: Asks,
}

impl Shared {
    /// Puts right what hangs on a connection that has left the table.
    pub fn ended(&self, conn: &conn::Conn) {
        let identity = &conn.identity;
        if conn.state != State::Template {
            self.loads.of(identity.real).closed(conn.state.is_active());
        }
        if let Some((local, port)) = identity.local {
            self.ports.release(identity.protocol, local, port);
        }
    }
}

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
    /// Whether VIPs may be answered.
    pub lease: bool,
    /// When the burst was received.
    pub now: Instant,
}

impl Tables<'_> {
    fn event(&self, event: Event) {
        self.counters.event(event);
    }

    /// Settles a connection that had to go for a new one.
    fn make_way(&self, why: Ended, conn: &conn::Conn) {
        self.shared.ended(conn);
        self.event(match why {
            Ended::Evicted => Event::HalfOpenEvicted,
            Ended::Replaced => Event::ConnReused,
        });
    }

    fn real(&self, identity: &Identity) -> Option<&RealRecord> {
        self.published.services.real(identity.real)
    }
}

/// A packet between the stages.
#[derive(Clone, Copy)]
struct Slot {
    packet: Packet,
    path: Path,
    hash: conn::Hash,
    probe: Probe,
}

/// Which way a packet goes through the stages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Verdict is known.
    Done,
    /// From a client to a VIP.
    Request(VipId),
    /// From a real, to a client.
    Reply,
    /// From a real, to a local address of full NAT.
    LocalReply(u8),
    /// Anything but TCP and UDP with ports.
    Related,
}

/// The stages' working memory.
pub struct Pipeline {
    slots: Box<[Slot; BURST]>,
}

impl Default for Pipeline {
    fn default() -> Self {
        let empty = Slot {
            packet: Packet::EMPTY,
            path: Path::Done,
            hash: conn::Hash::default(),
            probe: Probe::default(),
        };
        Self { slots: Box::new([empty; BURST]) }
    }
}

impl Pipeline {
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
        let slots = &mut self.slots[..count];
        for ((frame, verdict), slot) in frames.iter().zip(verdicts.iter_mut()).zip(&mut *slots) {
            read(frame, verdict, slot, tables);
        }
        probe(slots, tables.shared);
        for ((frame, verdict), slot) in frames.iter_mut().zip(&mut *verdicts).zip(&*slots) {
            *verdict = match slot.path {
                Path::Done => *verdict,
                Path::Request(vip) => request(frame, slot, vip, outbox, tables),
                Path::Reply => reply(frame, slot, outbox, tables),
                Path::LocalReply(local) => local_reply(frame, slot, local, outbox, tables),
                Path::Related => related::related(frame, &slot.packet, outbox, tables),
            };
            if let Verdict::Drop(reason) = *verdict {
                tables.counters.drop(reason);
            }
        }
    }
}

/// First stage: what is this packet, and where in the table is its connection?
#[inline(always)]
fn read(frame: &Frame<'_>, verdict: &mut Verdict, slot: &mut Slot, tables: &Tables<'_>) {
    slot.path = Path::Done;
    if let Err(reason) = packet::parse_into(frame.bytes(), &mut slot.packet) {
        *verdict = Verdict::Drop(reason);
        return;
    }
    let packet = &slot.packet;
    let Some(DeviceInfo { mac, .. }) = tables.published.device(frame.device()) else {
        *verdict = Verdict::Drop(Reason::DeviceDown);
        return;
    };
    if frame.bytes().first_chunk() != Some(&mac.0) && packet.kind != Kind::NeighborRequest {
        *verdict = Verdict::Drop(Reason::NotOurMac);
        return;
    }
    if !matches!(packet.kind, Kind::Tcp | Kind::Udp) {
        slot.path = Path::Related;
        return;
    }
    let conns = &tables.shared.conns;
    match tables.published.services.classify(packet.destination) {
        Class::Vip(vip) => {
            slot.hash = conns.hash(packet.source, packet.source_port, packet.protocol);
            slot.path = Path::Request(vip);
            conns.prefetch(slot.hash);
        }
        Class::Other => {
            slot.hash = conns.hash(packet.destination, packet.destination_port, packet.protocol);
            slot.path = Path::Reply;
            conns.prefetch(slot.hash);
        }
        Class::Local(local) => {
            slot.path = Path::LocalReply(local);
            tables.shared.ports.prefetch(packet.protocol, local, packet.destination_port);
        }
    }
}

/// Second stage: asks for the entries. A connection in its second bucket costs one more wait, so all
/// of those are waited for together.
#[inline(always)]
fn probe(slots: &mut [Slot], shared: &Shared) {
    let conns = &shared.conns;
    let mut elsewhere = 0_u64;
    for (i, slot) in slots.iter_mut().enumerate() {
        if matches!(slot.path, Path::Request(_) | Path::Reply) {
            slot.probe = conns.prefetch_entry(slot.hash);
            elsewhere |= u64::from(slot.probe.is_elsewhere()) << (i % BURST);
        } else if let Path::LocalReply(local) = slot.path
            && let Packet { protocol, destination_port, .. } = slot.packet
            && let Some(entry) = shared.ports.lookup(protocol, local, destination_port)
        {
            conns.prefetch_index(entry);
        }
    }
    while elsewhere != 0 {
        if let Some(slot) = slots.get_mut(elsewhere.trailing_zeros() as usize) {
            slot.probe = conns.prefetch_elsewhere(slot.hash);
        }
        elsewhere &= elsewhere - 1;
    }
}

/// Last stage of a packet from a client.
#[inline(always)]
fn request(
    frame: &mut Frame<'_>,
    slot: &Slot,
    vip: VipId,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let packet = &slot.packet;
    let found = tables.shared.conns.find(slot.hash, slot.probe, |identity| {
        identity.client == packet.source
            && identity.client_port == packet.source_port
            && identity.vip == vip
            && identity.vip_port == packet.destination_port
            && identity.protocol == packet.protocol
    });
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
            let hop = LastHop { mac: source_mac(frame), device: frame.device() };
            open::note_checksum(frame, packet, tables);
            match open::open(packet, vip, slot.hash, hop, tables) {
                Ok(identity) => identity,
                Err(reason) => return Verdict::Drop(reason),
            }
        }
    };
    let delivery = Delivery::to_real(&identity, tables);
    finish(frame, packet, &delivery, outbox, tables)
}

/// Last stage of a packet from a real of `nat`.
#[inline(always)]
fn reply(
    frame: &mut Frame<'_>,
    slot: &Slot,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let packet = &slot.packet;
    let services = &tables.published.services;
    let found = tables.shared.conns.find(slot.hash, slot.probe, |identity| {
        identity.client == packet.destination
            && identity.client_port == packet.destination_port
            && identity.real_port == packet.source_port
            && identity.protocol == packet.protocol
            && identity.local.is_none()
            && services.real(identity.real).is_some_and(|r| r.answers_from(packet.source))
    });
    answer(frame, packet, found, outbox, tables)
}

/// Last stage of a packet from a real of `fullnat`.
fn local_reply(
    frame: &mut Frame<'_>,
    slot: &Slot,
    local: u8,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let packet = &slot.packet;
    let found = find_local(
        packet,
        local,
        packet.destination_port,
        packet.source,
        packet.source_port,
        tables,
    );
    answer(frame, packet, found, outbox, tables)
}

/// The connection that uses a local port towards a real.
fn find_local(
    packet: &Packet,
    local: u8,
    local_port: u16,
    real: crate::address::Address,
    real_port: u16,
    tables: &Tables<'_>,
) -> Option<Found> {
    let shared = tables.shared;
    let entry = shared.ports.lookup(packet.protocol, local, local_port)?;
    let services = &tables.published.services;
    shared.conns.get(entry, |identity| {
        identity.local == Some((local, local_port))
            && identity.protocol == packet.protocol
            && identity.real_port == real_port
            && services.real(identity.real).is_some_and(|r| r.address == real)
    })
}

#[inline(always)]
fn answer(
    frame: &mut Frame<'_>,
    packet: &Packet,
    found: Option<Found>,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let Some(found) = found else { return Verdict::Drop(Reason::NoReplyConnection) };
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
