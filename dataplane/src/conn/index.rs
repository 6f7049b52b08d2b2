//! From a hash to entries: buckets of slots, one cache line each, two to choose from.
//!
//! A slot is tag 16, unused 16, entry number plus one 32; 0 is empty. The index lives in private
//! memory: the entries say everything that is needed to build it anew.

use super::memory::{Region, Unavailable};
use super::sync::{AtomicU64, Line, Ordering};
use crate::address::Address;
use crate::prefetch::prefetch;

/// Slots of a bucket.
#[cfg(not(loom))]
pub(super) const SLOTS: usize = 8;
/// As few as possible, so that loom sees every collision early.
#[cfg(loom)]
pub(super) const SLOTS: usize = 2;
/// While the first bucket has fewer than this in use, it is taken, so that most lookups need only
/// one. Simulated with 16 Mi entries in a table of 16 Mi: 4.6 % are in their second bucket and none
/// finds both full; with 7 it is 2.1 %, and 22 do.
const PREFERRED: usize = SLOTS * 3 / 4;

/// Hash of the client's side of a connection, which requests and replies both carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    /// Bits that say nothing about the bucket. One is always set: 0 is an empty slot.
    #[inline(always)]
    pub(super) fn tag(self) -> u16 {
        (self.0.wrapping_mul(SPREAD[1]) >> 48) as u16 | 0x8000
    }
}

/// What [`super::Table::prefetch_entry`] learnt, for [`super::Table::find`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    /// Number plus one of the first entry in the bucket that has the tag; 0: none.
    pub(super) entry: u32,
}

impl Probe {
    /// Whether the connection, if there is one, is in its second bucket.
    #[inline(always)]
    #[must_use]
    pub fn is_elsewhere(self) -> bool {
        self.entry == 0
    }
}

/// Two secret numbers, drawn when the table is created: nobody outside can tell which clients share
/// a bucket.
pub(super) type Seeds = [u64; 2];

#[derive(Debug)]
pub(super) struct Index {
    buckets: Region<Line>,
    seeds: Seeds,
}

/// The index as lookups see it: small, so that a worker keeps it in registers through a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets<'a> {
    lines: &'a [Line],
    seeds: Seeds,
}

impl<'a> Buckets<'a> {
    #[inline(always)]
    pub(super) fn hash(self, client: Address, port: u16, protocol: u8) -> Hash {
        let (high, low) = client.halves();
        let [a, b] = self.seeds;
        let flow = u64::from(port) << 8 | u64::from(protocol);
        let h = fold(high ^ a, low ^ b);
        Hash(fold(h ^ a.rotate_left(32), flow.wrapping_mul(SPREAD[0]) ^ b.rotate_left(32)))
    }

    /// The bucket that is taken while it has room.
    #[inline(always)]
    pub(super) fn first(self, hash: Hash) -> u32 {
        // Less than 2^32 times less than 2^32.
        ((hash.0 >> 32).wrapping_mul(self.lines.len() as u64) >> 32) as u32
    }

    /// The other one: always another.
    #[inline(always)]
    pub(super) fn second(self, hash: Hash) -> u32 {
        let (count, first) = (self.lines.len() as u64, self.first(hash));
        let second = ((hash.0 & 0xffff_ffff).wrapping_mul(count) >> 32) as u32;
        let next = if u64::from(first) + 1 == count { 0 } else { first + 1 };
        if second == first { next } else { second }
    }

    #[inline(always)]
    pub(super) fn line(self, number: u32) -> &'a Line {
        &self.lines[number as usize]
    }

    #[inline(always)]
    pub(super) fn prefetch(self, hash: Hash) {
        prefetch(self.line(self.first(hash)));
    }

    /// An entry in the first bucket that has the tag; else asks for the second bucket.
    #[inline(always)]
    pub(super) fn probe(self, hash: Hash) -> Probe {
        let entry = first_with(self.line(self.first(hash)), hash.tag());
        if entry == 0 {
            prefetch(self.line(self.second(hash)));
        }
        Probe { entry }
    }

    /// The first entry in the second bucket that has the tag.
    #[inline(always)]
    pub(super) fn probe_second(self, hash: Hash) -> Probe {
        Probe { entry: first_with(self.line(self.second(hash)), hash.tag()) }
    }
}

impl Index {
    /// Room for `capacity` entries with half the slots empty.
    pub(super) fn new(capacity: u32, seeds: Seeds) -> Result<Self, Unavailable> {
        let buckets = (capacity as usize * 2).div_ceil(SLOTS).max(2);
        Ok(Self { buckets: Region::anonymous(buckets)?, seeds })
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Line>()
    }

    #[inline(always)]
    pub(super) fn buckets(&self) -> Buckets<'_> {
        Buckets { lines: &self.buckets, seeds: self.seeds }
    }

    /// Every slot of both buckets: its position and content.
    pub(super) fn slots(&self, hash: Hash) -> impl Iterator<Item = (usize, &AtomicU64)> {
        let buckets = self.buckets();
        [buckets.first(hash), buckets.second(hash)].into_iter().flat_map(move |bucket| {
            let first = bucket as usize * SLOTS;
            (first..).zip(&buckets.line(bucket).0[..SLOTS])
        })
    }

    /// The entries whose tag fits.
    pub(super) fn candidates(&self, hash: Hash) -> impl Iterator<Item = u32> {
        self.slots(hash).filter_map(move |(_, slot)| {
            let word = slot.load(Ordering::Acquire);
            (tag(word) == hash.tag()).then(|| (word as u32).wrapping_sub(1))
        })
    }

    /// Puts an entry into an empty slot and says where; `None` if both buckets are full.
    pub(super) fn place(&self, hash: Hash, entry: u32) -> Option<usize> {
        let word = slot_word(hash, entry);
        let buckets = self.buckets();
        let [one, two] = [buckets.first(hash), buckets.second(hash)];
        let used = |bucket: u32| {
            let slots = &buckets.line(bucket).0[..SLOTS];
            slots.iter().filter(|slot| slot.load(Ordering::Relaxed) != 0).count()
        };
        loop {
            let (first, second) = (used(one), used(two));
            let to = if first < PREFERRED || first <= second { one } else { two };
            if first.min(second) == SLOTS {
                return None;
            }
            for (at, slot) in buckets.line(to).0[..SLOTS].iter().enumerate() {
                let (ok, fail) = (Ordering::AcqRel, Ordering::Relaxed);
                if slot.load(Ordering::Relaxed) == 0
                    && slot.compare_exchange(0, word, ok, fail).is_ok()
                {
                    return Some(to as usize * SLOTS + at);
                }
            }
            // Others took the last ones since they were counted.
        }
    }

    /// Empties the slot of an entry. Only its owner may, before it gives the entry back: so no slot
    /// ever names an entry that has moved on.
    pub(super) fn clear(&self, hash: Hash, entry: u32) {
        let word = slot_word(hash, entry);
        for (_, slot) in self.slots(hash) {
            if slot.load(Ordering::Relaxed) == word {
                slot.store(0, Ordering::Release);
                return;
            }
        }
        debug_assert!(false, "entry {entry} was not in the index");
    }
}

/// What the first slot with this tag holds in its lower half; 0 if there is none.
#[inline(always)]
fn first_with(bucket: &Line, tag: u16) -> u32 {
    // No branch: which slot it is cannot be predicted. A slot with the tag is less than 2^48 once
    // the tag is taken out of it.
    let tag = u64::from(tag) << 48;
    bucket.0[..SLOTS].iter().rev().fold(0, |found, slot| {
        let word = slot.load(Ordering::Relaxed) ^ tag;
        if word >> 48 == 0 { word as u32 } else { found }
    })
}

pub(super) fn slot_word(hash: Hash, entry: u32) -> u64 {
    (u64::from(hash.tag()) << 48) | (u64::from(entry) + 1)
}

#[inline(always)]
pub(super) fn tag(slot: u64) -> u16 {
    (slot >> 48) as u16
}

/// Odd numbers with no pattern: the first digits of e and of the square root of 2.
const SPREAD: [u64; 2] = [0x2b7e_1516_28ae_d2a7, 0x6a09_e667_f3bc_c909];

/// 64 x 64 -> 128 bits, halves combined: every bit of both arguments reaches every bit of the result.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}
