//! Schedulers: which real takes a new connection.
//!
//! A scheduler is built from the reals of a snapshot and never changes; what must move (the
//! position of a round robin, the load of the reals) is shared by all workers and handed in.
//! [`Built::build`] runs in the thread that applies a snapshot; [`Built::pick`] runs in every
//! worker, once for a new connection. It never allocates, locks, reads a clock or divides by zero,
//! and ends in bounded time: at worst a few walks over the reals of the service.
//!
//! The algorithms are those of LVS (`net/netfilter/ipvs/ip_vs_*.c` of Linux); where one departs
//! from the kernel, its file says so and why. A real of weight 0, or over its upper threshold,
//! takes no new connection under any of them.

mod cache;
mod destination_hash;
mod failover;
mod hash;
mod least_connections;
pub mod load;
mod locality;
mod locality_replicated;
mod maglev;
mod never_queue;
mod overflow;
mod round_robin;
mod shortest_expected_delay;
mod source_hash;
mod two_choices;
mod weighted_least_connections;
mod weighted_round_robin;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dataplane_api::service::{Scheduler, SchedulerFlags, Weight};

pub use destination_hash::DestinationHash;
pub use failover::Failover;
pub use least_connections::LeastConnections;
pub use locality::Locality;
pub use locality_replicated::LocalityReplicated;
pub use maglev::Maglev;
pub use never_queue::NeverQueue;
pub use overflow::Overflow;
pub use round_robin::RoundRobin;
pub use shortest_expected_delay::ShortestExpectedDelay;
pub use source_hash::SourceHash;
pub use two_choices::TwoChoices;
pub use weighted_least_connections::WeightedLeastConnections;
pub use weighted_round_robin::WeightedRoundRobin;

use crate::address::{Address, RealId};
use crate::clock::Instant;
use crate::limits;
use load::{Load, Loads};

/// A real as schedulers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose load counts.
    pub real: RealId,
    /// Where packets are sent; with the port, what hashing schedulers know it by.
    pub address: Address,
    /// Port packets are sent to; 0 if the real keeps the client's choice.
    pub port: u16,
    /// Share of new connections; 0 takes none.
    pub weight: Weight,
    /// Connections at which it stops taking new ones.
    pub upper_threshold: Option<u32>,
    /// Connections below which it takes new ones again.
    pub lower_threshold: Option<u32>,
}

impl Target {
    /// Whether it takes a new connection now.
    #[must_use]
    pub fn takes_new(&self, loads: &Loads) -> bool {
        self.available(loads)
    }

    #[inline]
    fn available(&self, loads: &Loads) -> bool {
        self.weight.get() > 0
            && (self.upper_threshold.is_none()
                || !loads.of(self.real).overloaded(self.upper_threshold, self.lower_threshold))
    }
}

/// The first packet of a connection (or its persistence key).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Source address, masked if the service is persistent.
    pub client: Address,
    /// Source port; 0 for a persistence key.
    pub client_port: u16,
    /// The VIP.
    pub destination: Address,
    /// Port of the VIP.
    pub destination_port: u16,
    /// When the burst began; the locality schedulers age their caches by it.
    pub now: Instant,
}

/// What moves: one per service, shared by all workers, survives reloads (also those which change
/// the scheduler). About 32 KiB, allocated here and never again.
#[derive(Debug, Default)]
#[repr(align(64))] // Two services on one cache line would slow each other down.
pub struct Shared {
    position: AtomicU64,
    cache: cache::Cache,
}

/// Positions a worker claims before it takes the best real it has seen. More than one is needed
/// only when other workers pass the gap of an overloaded real at the same moment.
const CLAIMS: usize = 16;

impl Shared {
    /// At the first position, nothing cached.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is in it now.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { position: self.position.load(Relaxed).into(), cache: self.cache.copy() }
    }

    /// A number nobody else gets.
    #[inline]
    fn claim(&self) -> u64 {
        self.position.fetch_add(1, Relaxed)
    }

    /// Claims positions until one belongs to an available target. `at` names the target of a
    /// position, `next` the first available one from a position on, with its own position.
    ///
    /// Every available position is claimed by exactly one worker, so shares are exact whatever the
    /// interleaving; a gap is jumped over in one step (`fetch_max`), never walked.
    #[inline]
    fn rotate(
        &self,
        available: impl Fn(usize) -> bool,
        at: impl Fn(u64) -> Option<usize>,
        next: impl Fn(u64) -> Option<(u64, usize)>,
    ) -> Option<usize> {
        let mut seen = None;
        for _ in 0..CLAIMS {
            let position = self.claim();
            let index = at(position)?;
            if available(index) {
                return Some(index);
            }
            let (free, index) = next(position.wrapping_add(1))?;
            seen = Some(index);
            self.position.fetch_max(free, Relaxed);
        }
        seen
    }
}

/// A scheduler compiled for one snapshot. `pick` must be given the targets that `build` was given;
/// others cost fairness, nothing else.
#[derive(Debug)]
pub enum Built {
    /// `rr`
    RoundRobin(RoundRobin),
    /// `wrr`
    WeightedRoundRobin(WeightedRoundRobin),
    /// `lc`
    LeastConnections(LeastConnections),
    /// `wlc`
    WeightedLeastConnections(WeightedLeastConnections),
    /// `sh`
    SourceHash(SourceHash),
    /// `dh`
    DestinationHash(DestinationHash),
    /// `mh`
    Maglev(Maglev),
    /// `sed`
    ShortestExpectedDelay(ShortestExpectedDelay),
    /// `nq`
    NeverQueue(NeverQueue),
    /// `lblc`
    Locality(Locality),
    /// `lblcr`
    LocalityReplicated(LocalityReplicated),
    /// `fo`
    Failover(Failover),
    /// `ovf`
    Overflow(Overflow),
    /// `twos`
    TwoChoices(TwoChoices),
}

impl Built {
    /// Compiles a scheduler. The first [`limits::REALS`] targets count. Allocates; `mh` is the
    /// dearest: 128 KiB, and 4 ms for 100 reals (10 ms for 8,192).
    #[must_use]
    pub fn build(kind: Scheduler, flags: SchedulerFlags, targets: &[Target]) -> Self {
        let targets = &targets[..targets.len().min(limits::REALS)];
        match kind {
            Scheduler::Rr => Self::RoundRobin(RoundRobin::build(targets)),
            Scheduler::Wrr => Self::WeightedRoundRobin(WeightedRoundRobin::build(targets)),
            Scheduler::Lc => Self::LeastConnections(LeastConnections),
            Scheduler::Wlc => Self::WeightedLeastConnections(WeightedLeastConnections),
            Scheduler::Sh => Self::SourceHash(SourceHash::build(flags, targets)),
            Scheduler::Dh => Self::DestinationHash(DestinationHash::build(targets)),
            Scheduler::Mh => Self::Maglev(Maglev::build(flags, targets)),
            Scheduler::Sed => Self::ShortestExpectedDelay(ShortestExpectedDelay),
            Scheduler::Nq => Self::NeverQueue(NeverQueue),
            Scheduler::Lblc => Self::Locality(Locality::build(targets)),
            Scheduler::Lblcr => Self::LocalityReplicated(LocalityReplicated::build(targets)),
            Scheduler::Fo => Self::Failover(Failover),
            Scheduler::Ovf => Self::Overflow(Overflow),
            Scheduler::Twos => Self::TwoChoices(TwoChoices::build(targets)),
        }
    }

    /// Index into `targets` of the real that takes the connection; `None` when none can.
    #[must_use]
    pub fn pick(
        &self,
        request: &Request,
        targets: &[Target],
        loads: &Loads,
        shared: &Shared,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(s) => s.pick(targets, loads, shared),
            Self::WeightedRoundRobin(s) => s.pick(targets, loads, shared),
            Self::LeastConnections(s) => s.pick(targets, loads),
            Self::WeightedLeastConnections(s) => s.pick(targets, loads),
            Self::SourceHash(s) => s.pick(request, targets, loads),
            Self::DestinationHash(s) => s.pick(request, targets, loads),
            Self::Maglev(s) => s.pick(request, targets, loads),
            Self::ShortestExpectedDelay(s) => s.pick(targets, loads),
            Self::NeverQueue(s) => s.pick(targets, loads),
            Self::Locality(s) => s.pick(request, targets, loads, shared),
            Self::LocalityReplicated(s) => s.pick(request, targets, loads, shared),
            Self::Failover(s) => s.pick(targets, loads),
            Self::Overflow(s) => s.pick(targets, loads),
            Self::TwoChoices(s) => s.pick(targets, loads, shared),
        }
    }
}

/// The index of an available target, if it is one.
#[inline]
fn available(targets: &[Target], loads: &Loads, index: usize) -> bool {
    targets.get(index).is_some_and(|target| target.available(loads))
}

/// Load as LVS weighs it (`ip_vs_dest_conn_overhead`): an active connection counts for 256 others.
/// Below 2^41, so that it can be multiplied by a weight.
#[inline]
fn overhead(load: &Load) -> u64 {
    u64::from(load.active()) * 256 + u64::from(load.inactive())
}

/// The available target with the least `cost / divisor`, the first of equals. `cost` must stay
/// below 2^48 and `divisor` be a weight (compared crosswise, without division).
#[inline]
fn least(targets: impl Iterator<Item = (usize, u64, u64)>) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    for (index, cost, divisor) in targets {
        if best.is_none_or(|(_, least, weight)| least * divisor > cost * weight) {
            best = Some((index, cost, divisor));
        }
    }
    best.map(|(index, ..)| index)
}

/// All available targets with their index.
#[inline]
fn candidates<'a>(
    targets: &'a [Target],
    loads: &'a Loads,
) -> impl Iterator<Item = (usize, &'a Target)> {
    targets.iter().enumerate().filter(|(_, target)| target.available(loads))
}

/// Greatest common divisor of all weights but 0; 1 if there is none.
fn common_divisor(targets: &[Target]) -> u16 {
    let divisor = targets.iter().map(|target| target.weight.get()).fold(0, gcd);
    divisor.max(1)
}

fn gcd(mut a: u16, mut b: u16) -> u16 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
