//! A data plane in memory: services, reals, and a table full of connections that were all opened by
//! packets. Several workers may forward with it, as they share it in the data plane.

use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use dataplane::address::DeviceId;
use dataplane::clock::{self, Instant};
use dataplane::conn::{Ports, Probe, Table};
use dataplane::counters::Counters;
use dataplane::forward::{Local, Paths, Pipeline, Shared, Tables};
use dataplane::fragment::Fragments;
use dataplane::frame::{Frame, Outbox, Verdict};
use dataplane::ids::{Ids, Used};
use dataplane::limits::{BURST, FRAME_SIZE, HEADROOM};
use dataplane::published::Published;
use dataplane::routes::Asks;
use dataplane::sched::load::Loads;
use dataplane::wire::packet::{self, TcpFlags};
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::Forwarding;

use super::shape::{
    GATEWAY_MAC, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, REAL_MAC, REAL_PORT, Shape, published,
    snapshot,
};
use super::traffic::{Ends, Family, Patch, Random, Role, Template};
use crate::machine;

/// The table has room for an eighth more connections than there are: one filled to the last entry
/// may refuse a connection whose two buckets are both full.
const SPARE: u32 = 8;
/// Frame buffers, used in turn as those of a UMEM are.
const FRAMES: usize = 4096;
/// Most connections that full NAT can have in a service of one protocol: 64 local addresses, a few
/// ports left free so that finding one stays quick.
pub(crate) const FULLNAT_MAX: u32 = 4_000_000;

/// From whom the packets come that are measured.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// From clients.
    Request,
    /// From reals.
    Reply,
}

/// Packets of one direction, in an order without a pattern.
pub(crate) struct Traffic {
    template: Template,
    device: DeviceId,
    /// One for each connection.
    pub(crate) patches: Vec<Patch>,
}

/// Everything a worker forwards with.
pub(crate) struct Scene {
    shape: Shape,
    published: Arc<Published>,
    /// Table and all.
    pub(crate) shared: Arc<Shared>,
    counters: Counters,
    local: Local,
    pipeline: Pipeline,
    verdicts: [Verdict; BURST],
    ring: Vec<Buffer>,
    at: usize,
    clock: fn() -> Instant,
    /// Resident memory that table and local ports took for each connection there is room for.
    pub(crate) bytes_per_connection: f64,
}

#[derive(Clone)]
#[repr(align(2048))]
struct Buffer([u8; FRAME_SIZE]);

/// What the path sends besides the frame it got: nothing, for whole packets.
struct Nowhere;

impl Outbox for Nowhere {
    fn send(&mut self, _: DeviceId, _: &[u8]) -> bool {
        false
    }
}

impl Scene {
    /// An empty table for `connections`, and a service of this method.
    pub(crate) fn new(
        method: Forwarding,
        family: Family,
        connections: u32,
    ) -> anyhow::Result<Self> {
        Self::of(Shape::plain(method, family, connections))
    }

    /// An empty table, and services.
    pub(crate) fn of(shape: Shape) -> anyhow::Result<Self> {
        let snapshot = snapshot(&shape);
        let ids =
            Ids::default().assign(None, &snapshot, &Used::default()).map_err(anyhow::Error::msg)?;
        let before = machine::resident();
        let capacity = shape.connections + shape.connections / SPARE;
        let conns = Table::new_private(capacity, shape.connections);
        let ports = Ports::new(snapshot.local.addresses.len()).context("local ports")?;
        let bytes = machine::resident().saturating_sub(before);
        let shared = Shared {
            conns,
            ports,
            loads: Loads::default(),
            fragments: Mutex::new(Fragments::new()),
            paths: Paths::default(),
            asks: Asks::default(),
            capture: Default::default(),
            probes: Default::default(),
            leases: Default::default(),
            resolver: Default::default(),
            changes: Default::default(),
        };
        let published = Arc::new(published(&snapshot, &ids, &shape)?);
        let bytes_per_connection = bytes as f64 / f64::from(capacity);
        Ok(Self::worker(shape, published, Arc::new(shared), bytes_per_connection, (0, 1)))
    }

    /// Another worker on the same table: number `number` of `workers`.
    pub(crate) fn beside(&self, number: usize, workers: usize) -> Self {
        let (published, shared) = (Arc::clone(&self.published), Arc::clone(&self.shared));
        let worker = (number, workers);
        Self::worker(self.shape, published, shared, self.bytes_per_connection, worker)
    }

    fn worker(
        shape: Shape,
        published: Arc<Published>,
        shared: Arc<Shared>,
        bytes_per_connection: f64,
        (number, workers): (usize, usize),
    ) -> Self {
        Self {
            shape,
            published,
            shared,
            counters: Counters::default(),
            local: Local::new(number, workers),
            pipeline: Pipeline::default(),
            verdicts: [Verdict::Held; BURST],
            ring: vec![Buffer([0; FRAME_SIZE]); FRAMES],
            at: 0,
            clock: clock::now,
            bytes_per_connection,
        }
    }

    /// Stops its clock: for counting, where every packet should meet the same.
    pub(crate) fn stop_clock(&mut self) {
        self.clock = || Instant::from_nanos(1 << 40);
    }

    /// Opens every connection as its packets would: SYN, the real's SYN-ACK where it passes through
    /// us, ACK. `timed` gets the nanoseconds of each burst of SYNs. Returns the packets to measure
    /// with: an ACK of each client, and of each real.
    pub(crate) fn open(
        &mut self,
        mut timed: impl FnMut(u64),
    ) -> anyhow::Result<(Traffic, Option<Traffic>)> {
        let shape = self.shape;
        let Shape { method, family, .. } = shape;
        let two_way = !method.is_one_way();
        let to_vip = |i| Ends { source: family.client(i), destination: shape.vip(i) };
        let from_client =
            |flags| Template::new(family, flags, (GATEWAY_MAC, OUTSIDE_MAC), to_vip(0));
        let (syn, ack) = (from_client(TcpFlags::SYN), from_client(TcpFlags::ACK));
        let answered = Ends {
            source: (family.address(Role::Real, 0), REAL_PORT),
            destination: if method == Forwarding::Fullnat {
                (family.address(Role::Local, 0), 0)
            } else {
                family.client(0)
            },
        };
        let from_real = |flags| Template::new(family, flags, (REAL_MAC, INSIDE_MAC), answered);
        let syn_ack = from_real(TcpFlags::SYN | TcpFlags::ACK);
        let mut requests = self.traffic(ack.clone(), OUTSIDE);
        let mut replies = self.traffic(from_real(TcpFlags::ACK), INSIDE);
        let mut burst = Vec::with_capacity(BURST);
        let mut sent = Vec::with_capacity(BURST);
        let connections: Vec<u32> = (0..shape.connections).collect();
        for numbers in connections.chunks(BURST) {
            let patches = |template: &Template| {
                numbers.iter().map(|&i| template.patch(to_vip(i))).collect::<Vec<_>>()
            };
            let (syns, acks) = (patches(&syn), patches(&ack));
            sent.clear();
            let before = (self.clock)();
            self.write(&syn, &syns);
            let written = (self.clock)();
            self.burst(&syn, &syns, OUTSIDE, |bytes| sent.push(packet::parse(bytes)));
            let forwarding = (self.clock)().since(written);
            timed(forwarding.saturating_sub(written.since(before)).as_nanos() as u64);
            if two_way {
                burst.clear();
                for packet in &sent {
                    let packet = packet.map_err(|r| anyhow::anyhow!("bad frame sent: {r:?}"))?;
                    let ends = Ends::of(&packet).reverse();
                    burst.push(syn_ack.patch(ends));
                    replies.patches.push(replies.template.patch(ends));
                }
                self.burst(&syn_ack, &burst, INSIDE, |_| {});
            }
            self.burst(&ack, &acks, OUTSIDE, |_| {});
            requests.patches.extend(acks);
        }
        self.check_drops()?;
        let (used, half_open) = (self.shared.conns.used(), self.shared.conns.half_open());
        let evicted = self.counters.events(Event::HalfOpenEvicted);
        ensure!(
            used == shape.connections && half_open == 0,
            "of {} connections {used} were opened, {half_open} of them half, {evicted} evicted",
            shape.connections
        );
        let mut random = Random(u64::from(shape.connections));
        random.shuffle(&mut requests.patches);
        random.shuffle(&mut replies.patches);
        Ok((requests, two_way.then_some(replies)))
    }

    fn traffic(&self, template: Template, device: DeviceId) -> Traffic {
        Traffic { template, device, patches: Vec::with_capacity(self.shape.connections as usize) }
    }

    /// Puts packets where the next burst will be received.
    fn write(&mut self, template: &Template, patches: &[Patch]) {
        write(&mut self.ring, self.at, template, patches);
    }

    /// Writes and forwards a burst and shows what was sent.
    fn burst(
        &mut self,
        template: &Template,
        patches: &[Patch],
        device: DeviceId,
        mut show: impl FnMut(&[u8]),
    ) {
        write(&mut self.ring, self.at, template, patches);
        let mut frames = frames(&mut self.ring, self.at, patches.len(), template.len(), device);
        let frames = &mut frames[..patches.len()];
        let mut tables = Tables {
            published: &self.published,
            shared: &self.shared,
            counters: &self.counters,
            local: &mut self.local,
            lease: dataplane::lease::Fresh::ALL,
            now: (self.clock)(),
        };
        self.pipeline.forward(frames, &mut self.verdicts, &mut Nowhere, &mut tables);
        for frame in frames {
            show(frame.bytes());
        }
        self.at = (self.at + BURST) % FRAMES;
    }

    /// Forwards `bursts` bursts of `size` packets, from `cursor` on and around.
    #[inline(never)]
    pub(crate) fn forward(
        &mut self,
        traffic: &Traffic,
        cursor: &mut usize,
        size: usize,
        bursts: usize,
    ) {
        for _ in 0..bursts {
            let patches = next(&traffic.patches, cursor, size);
            self.burst(&traffic.template, patches, traffic.device, |_| {});
        }
    }

    /// The same without forwarding: what the receiving device would have done.
    #[inline(never)]
    pub(crate) fn restore(
        &mut self,
        traffic: &Traffic,
        cursor: &mut usize,
        size: usize,
        bursts: usize,
    ) {
        for _ in 0..bursts {
            let patches = next(&traffic.patches, cursor, size);
            let len = traffic.template.len();
            write(&mut self.ring, self.at, &traffic.template, patches);
            let mut frames = frames(&mut self.ring, self.at, patches.len(), len, traffic.device);
            std::hint::black_box(&mut frames);
            self.at = (self.at + BURST) % FRAMES;
        }
    }

    /// The bare lookup of requests: hash and prefetch, probe and prefetch, find. Returns how many
    /// were found.
    #[inline(never)]
    pub(crate) fn look_up(
        &self,
        traffic: &Traffic,
        cursor: &mut usize,
        size: usize,
        bursts: usize,
    ) -> usize {
        let (conns, finder) = (&self.shared.conns, self.shared.conns.finder());
        let template = &traffic.template;
        let mut hashes = [Default::default(); BURST];
        let mut probes = [Probe::default(); BURST];
        let mut found = 0;
        for _ in 0..bursts {
            let patches = next(&traffic.patches, cursor, size);
            for (patch, hash) in patches.iter().zip(&mut hashes) {
                let (low, port) = patch.client();
                *hash = finder.hash(template.source(low), port, 6);
                finder.prefetch(*hash);
            }
            for (hash, probe) in hashes[..patches.len()].iter().zip(&mut probes) {
                *probe = finder.prefetch_entry(*hash);
            }
            for (hash, probe) in hashes[..patches.len()].iter().zip(&mut probes) {
                if probe.is_elsewhere() {
                    *probe = finder.prefetch_elsewhere(*hash);
                }
            }
            for ((patch, hash), probe) in patches.iter().zip(&hashes).zip(&probes) {
                let (low, port) = patch.client();
                let client = template.source(low);
                let conn = conns.find(*hash, *probe, |identity| {
                    identity.client == client && identity.client_port == port
                });
                found += usize::from(conn.is_some());
            }
        }
        found
    }

    /// Forwards one burst and compares every byte that matters with what it should be.
    pub(crate) fn verify(&mut self, traffic: &Traffic) -> anyhow::Result<()> {
        let mut sent: Vec<Vec<u8>> = Vec::new();
        let patches = &traffic.patches[..traffic.patches.len().min(BURST)];
        self.burst(&traffic.template, patches, traffic.device, |bytes| sent.push(bytes.to_vec()));
        let Shape { method, family, .. } = self.shape;
        for bytes in &sent {
            super::verify::sent(bytes, method, family, traffic.device == OUTSIDE)
                .with_context(|| format!("a {method:?} packet over {family:?} left wrongly"))?;
        }
        ensure!(self.verdicts[..patches.len()].iter().all(|v| matches!(v, Verdict::Transmit(_))));
        self.check_drops()
    }

    /// Nothing may have been dropped.
    pub(crate) fn check_drops(&self) -> anyhow::Result<()> {
        let drops = |reason: &Reason| (*reason, self.counters.drops(*reason));
        let dropped: Vec<_> = Reason::ALL.iter().map(drops).filter(|(_, n)| *n > 0).collect();
        ensure!(dropped.is_empty(), "packets were dropped: {dropped:?}");
        Ok(())
    }
}

#[inline(always)]
fn next<'a>(patches: &'a [Patch], cursor: &mut usize, size: usize) -> &'a [Patch] {
    if *cursor + size > patches.len() {
        *cursor = 0;
    }
    let slice = &patches[*cursor..(*cursor + size).min(patches.len())];
    *cursor += size;
    slice
}

#[inline(always)]
fn write(ring: &mut [Buffer], at: usize, template: &Template, patches: &[Patch]) {
    for (buffer, patch) in ring[at..].iter_mut().zip(patches) {
        if let Some(room) = buffer.0[HEADROOM..].first_chunk_mut() {
            template.write(patch, room);
        }
    }
}

/// As the AF_XDP device makes them.
#[inline(always)]
fn frames(
    ring: &mut [Buffer],
    at: usize,
    count: usize,
    len: usize,
    device: DeviceId,
) -> [Frame<'_>; BURST] {
    let mut buffers = ring[at..].iter_mut().take(count);
    std::array::from_fn(|_| match buffers.next() {
        Some(buffer) => Frame::new(&mut buffer.0, HEADROOM, len, device),
        None => Frame::new(&mut [], 0, 0, device),
    })
}
