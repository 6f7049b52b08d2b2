//! What the locality schedulers remember: for each destination, the reals that serve it.
//!
//! A fixed array of atomics, written by all workers without locks. Writers may interleave, and two
//! destinations may (once in 2^64) share a tag: an entry is a hint. Whoever reads a real from it
//! checks that it is still a target and available, so the worst is a connection that goes to a real
//! which has not cached its destination.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::hash::{REQUEST, hash, scale};
use super::{Target, limits};
use crate::address::{Address, RealId};
use crate::clock::{Instant, Tick};

/// Entries, in sets of [`WAYS`]: as many as the kernel has hash buckets (`IP_VS_LBLC_TAB_SIZE`). A
/// service has few destinations, unless it stands for a whole network of them.
const ENTRIES: usize = 1024;
const WAYS: usize = 4;

/// Reals of one destination.
pub(super) const MEMBERS: usize = 8;
const WORDS: usize = MEMBERS / LANES;
/// Reals in one word.
const LANES: usize = 4;

/// An entry not used for six minutes is forgotten, and a set not changed for six minutes shrinks:
/// the kernel's `ENTRY_TIMEOUT`, after which it may evict. (Its sysctl `lblc_expiration`, a day, is
/// for lists that grow without bound; here the least recently used makes room at any time.)
const EXPIRY: u32 = Tick::in_seconds(6 * 60);

const _: () = assert!(limits::REALS < u16::MAX as usize, "a lane holds a real's number plus one");

/// Destinations and their reals.
#[derive(Debug)]
pub(super) struct Cache(Box<[Entry]>);

/// The reals of one destination.
#[derive(Debug, Default)]
#[repr(align(32))]
pub(super) struct Entry {
    /// Hash of the destination, 0 if free.
    tag: AtomicU64,
    /// Lanes of 16 bits: a real's number plus one, 0 if free.
    reals: [AtomicU64; WORDS],
    used: AtomicU32,
    changed: AtomicU32,
}

impl Default for Cache {
    fn default() -> Self {
        Self((0..ENTRIES).map(|_| Entry::default()).collect())
    }
}

impl Cache {
    /// The entry of a destination, unless it has expired; counts as its use.
    pub(super) fn find(&self, destination: Address, now: Instant) -> Option<&Entry> {
        let (tag, set) = self.set(destination);
        let entry = set.iter().find(|entry| entry.tag.load(Relaxed) == tag)?;
        if entry.idle(now) > EXPIRY {
            return None;
        }
        store(&entry.used, now.tick());
        Some(entry)
    }

    /// Makes `real` the only one of a destination; the least recently used of the set makes room.
    pub(super) fn replace(&self, destination: Address, real: RealId, now: Instant) {
        let (tag, set) = self.set(destination);
        let age = |entry: &&Entry| match entry.tag.load(Relaxed) {
            found if found == tag => (2, 0),
            0 => (1, 0),
            _ => (0, entry.idle(now)),
        };
        let Some(entry) = set.iter().max_by_key(age) else { return };
        let [first, rest @ ..] = &entry.reals;
        first.store(0, Relaxed);
        rest.iter().for_each(|word| word.store(0, Relaxed));
        entry.tag.store(tag, Relaxed);
        entry.used.store(now.tick().0, Relaxed);
        entry.changed.store(now.tick().0, Relaxed);
        first.store(lane(real), Relaxed);
    }

    /// What is in it now.
    pub(super) fn copy(&self) -> Self {
        let number = |n: &AtomicU64| AtomicU64::new(n.load(Relaxed));
        let copy = |entry: &Entry| Entry {
            tag: number(&entry.tag),
            reals: entry.reals.each_ref().map(number),
            used: entry.used.load(Relaxed).into(),
            changed: entry.changed.load(Relaxed).into(),
        };
        Self(self.0.iter().map(copy).collect())
    }

    fn set(&self, destination: Address) -> (u64, &[Entry]) {
        let tag = hash(destination, 0, REQUEST).max(1);
        let first = scale(tag, ENTRIES / WAYS) * WAYS;
        (tag, self.0.get(first..first + WAYS).unwrap_or_default())
    }
}

impl Entry {
    /// Its reals.
    pub(super) fn members(&self) -> impl Iterator<Item = RealId> {
        self.reals.iter().flat_map(|word| {
            let word = word.load(Relaxed);
            (0..LANES).filter_map(move |at| ((word >> (16 * at)) as u16).checked_sub(1).map(RealId))
        })
    }

    /// Adds a real; `false` if there is no room (or another worker was faster).
    pub(super) fn insert(&self, real: RealId, now: Instant) -> bool {
        if self.members().any(|member| member == real) {
            return true;
        }
        let done = self.swap(0, lane(real));
        if done {
            store(&self.changed, now.tick());
        }
        done
    }

    /// Takes a real out.
    pub(super) fn remove(&self, real: RealId, now: Instant) {
        if self.swap(lane(real), 0) {
            store(&self.changed, now.tick());
        }
    }

    /// Whether it was the same for six minutes.
    pub(super) fn settled(&self, now: Instant) -> bool {
        now.tick().since(Tick(self.changed.load(Relaxed))) > EXPIRY
    }

    fn idle(&self, now: Instant) -> u32 {
        now.tick().since(Tick(self.used.load(Relaxed)))
    }

    /// Replaces the first lane that holds `old`. One attempt for each word: whoever loses a race
    /// leaves the set as the winner made it.
    fn swap(&self, old: u64, new: u64) -> bool {
        self.reals.iter().any(|word| {
            let current = word.load(Relaxed);
            let at = (0..LANES).map(|at| 16 * at).find(|at| (current >> at) & 0xffff == old);
            at.is_some_and(|at| {
                let next = current & !(0xffff << at) | new << at;
                word.compare_exchange(current, next, Relaxed, Relaxed).is_ok()
            })
        })
    }
}

fn lane(real: RealId) -> u64 {
    u64::from(real.0.wrapping_add(1))
}

/// Stores only a change, so that a busy entry's line stays shared between the cores.
fn store(cell: &AtomicU32, tick: Tick) {
    if cell.load(Relaxed) != tick.0 {
        cell.store(tick.0, Relaxed);
    }
}

/// Where each real stands among the targets.
#[derive(Debug)]
pub(super) struct Lookup(Box<[(RealId, u16)]>);

impl Lookup {
    pub(super) fn new(targets: &[Target]) -> Self {
        let mut places: Vec<_> = targets.iter().map(|target| target.real).zip(0..).collect();
        places.sort_unstable();
        Self(places.into())
    }

    /// `None` if it is no target (any more).
    pub(super) fn find(&self, real: RealId) -> Option<usize> {
        let at = self.0.binary_search_by_key(&real, |&(real, _)| real).ok()?;
        self.0.get(at).map(|&(_, index)| usize::from(index))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(seconds))
    }

    fn destination(number: u32) -> Address {
        Address::v4(0x0a00_0000 + number)
    }

    fn members(cache: &Cache, number: u32, seconds: u64) -> Vec<u16> {
        let entry = cache.find(destination(number), at(seconds));
        entry.map_or(Vec::new(), |entry| entry.members().map(|real| real.0).collect())
    }

    #[test]
    fn hundreds_of_destinations_are_remembered_at_once() {
        let cache = Cache::default();
        for number in 0..400 {
            cache.replace(destination(number), RealId(number as u16), at(0));
        }
        let known = (0..400).filter(|&n| members(&cache, n, 1) == [n as u16]).count();
        assert!(known > 380, "{known}");
    }

    #[test]
    fn a_destination_in_use_survives_a_flood_of_others() {
        let cache = Cache::default();
        cache.replace(destination(0), RealId(5), at(0));
        for number in 1..100_000 {
            let seconds = u64::from(number) / 100;
            assert_eq!(members(&cache, 0, seconds), [5], "{number}");
            cache.replace(destination(number), RealId(6), at(seconds));
        }
    }

    #[test]
    fn members_come_and_go_in_eight_places() {
        let cache = Cache::default();
        cache.replace(destination(1), RealId(0), at(0));
        let entry = cache.find(destination(1), at(0)).unwrap();
        assert!((1..8).all(|real| entry.insert(RealId(real), at(0))));
        assert!(entry.insert(RealId(7), at(0)), "in already");
        assert!(!entry.insert(RealId(8), at(0)), "full");
        entry.remove(RealId(3), at(0));
        entry.remove(RealId(99), at(0));
        assert!(entry.insert(RealId(8191), at(0)));
        assert_eq!(members(&cache, 1, 0), [0, 1, 2, 8191, 4, 5, 6, 7]);
        cache.replace(destination(1), RealId(2), at(0));
        assert_eq!(members(&cache, 1, 0), [2]);
    }
}
