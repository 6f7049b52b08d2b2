//! Which fragments belong together: a fragment other than the first carries no ports, so it follows
//! the decision made for its first fragment (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! One [`Fragments`] is shared by all workers (its owner puts a lock around it), because the fragments
//! of one datagram may arrive on any queue. Everything is allocated at the start and bounded: a flood
//! of fragments evicts what is oldest, and nothing waits.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use dataplane_api::counter::Reason;

use crate::address::{Address, DeviceId};
use crate::clock::Instant;
use crate::frame::Frame;
use crate::limits::{FRAGMENTED_DATAGRAMS, FRAME_SIZE, HEADROOM, HELD_FRAGMENTS};
use crate::wire::packet::{Fragment, Packet};

/// How long a fragment waits for its first one. Fragments overtake each other by milliseconds; a
/// second leaves room for a slow path, and is short enough not to keep memory for a lost one.
pub const HOLD: Duration = Duration::from_secs(1);
/// How long the decision for a datagram is remembered: as long as Linux waits to reassemble one
/// (`net.ipv4.ipfrag_time`).
pub const REMEMBER: Duration = Duration::from_secs(30);
/// After this time another first fragment is a new datagram. An IPv4 identification has 16 bits, so
/// one in use again is more likely than a first fragment that comes late.
pub const REUSE: Duration = HOLD;

/// What the fragments of one datagram have in common. The family is that of the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    source: Address,
    destination: Address,
    identification: u32,
    protocol: u8,
}

impl Key {
    /// That of the datagram the packet is a fragment of.
    ///
    /// IPv6 datagrams are told apart without the protocol: a later fragment may name another next
    /// header than the first, whose word counts (RFC 8200 section 4.5).
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            identification: packet.identification,
            protocol: if packet.is_v4() { packet.protocol } else { 0 },
        }
    }
}

/// What to do with a later fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow<T> {
    /// As was decided for the first one.
    Decision(T),
    /// Nothing: it has been copied, and waits for the first one.
    Held,
    /// Drop it for this reason.
    Full(Reason),
}

/// Whether a later fragment would lie over the header that carries the ports and their checksum, so
/// that the receiver might see others than those judged here (RFC 1858 section 3, RFC 3128). A first
/// fragment without a whole transport header is refused when parsed, and a UDP header ends where the
/// earliest later fragment can begin.
#[must_use]
pub fn rewrites_ports(packet: &Packet) -> bool {
    const TCP: u8 = 6;
    const TCP_HEADER: u16 = 20;
    match packet.fragment {
        Fragment::Later { offset, .. } => {
            offset < 8 || packet.protocol == TCP && offset < TCP_HEADER
        }
        Fragment::None | Fragment::First => false,
    }
}

/// The fragments being followed; `T` is what was decided for a first fragment.
pub struct Fragments<T> {
    decisions: Ring<T>,
    held: Ring<Held>,
    frames: Box<[[u8; FRAME_SIZE]]>,
    evicted: usize,
}

/// A fragment in the buffer of the same index.
#[derive(Clone, Copy)]
struct Held {
    device: DeviceId,
    len: u16,
}

impl<T: Copy> Default for Fragments<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Fragments<T> {
    /// None; allocates about 1.5 MB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            decisions: Ring::new(FRAGMENTED_DATAGRAMS),
            held: Ring::new(HELD_FRAGMENTS),
            frames: vec![[0; FRAME_SIZE]; HELD_FRAGMENTS].into_boxed_slice(),
            evicted: 0,
        }
    }

    /// Records the decision for a first fragment, and returns the one that counts: an earlier one for
    /// the same datagram stays. Call [`release`](Self::release) under the same lock.
    pub fn first(&mut self, key: &Key, value: T, now: Instant) -> T {
        if let Some((at, earlier)) = self.decisions.find(key) {
            if now.since(at) < REUSE {
                return earlier;
            }
            self.decisions.take(key);
        }
        self.decisions.push(*key, now, value);
        value
    }

    /// What to do with a later fragment; if it must wait, it is copied. When there is no room the
    /// oldest waiting fragment is dropped instead; [`expire`](Self::expire) counts it.
    pub fn later(&mut self, key: &Key, frame: &Frame<'_>, now: Instant) -> Follow<T> {
        if let Some((at, value)) = self.decisions.find(key)
            && now.since(at) < REMEMBER
        {
            return Follow::Decision(value);
        }
        let bytes = frame.bytes();
        if bytes.len() > FRAME_SIZE - HEADROOM {
            return Follow::Full(Reason::FragmentTimeout);
        }
        let held = Held { device: frame.device(), len: bytes.len() as u16 };
        let (slot, evicted) = self.held.push(*key, now, held);
        self.evicted += usize::from(evicted);
        if let Some(room) = self.frames.get_mut(slot)
            && let Some(room) = room.get_mut(HEADROOM..HEADROOM + bytes.len())
        {
            room.copy_from_slice(bytes);
        }
        Follow::Held
    }

    /// Hands out and forgets the fragments that wait for this datagram, in order of arrival, each in
    /// a buffer with [`HEADROOM`] bytes in front; returns how many. `send` runs under the caller's
    /// lock, so it should copy and be gone.
    pub fn release(&mut self, key: &Key, mut send: impl FnMut(&mut Frame<'_>)) -> usize {
        let mut count = 0;
        while let Some((slot, held)) = self.held.take(key) {
            if let Some(buffer) = self.frames.get_mut(slot) {
                send(&mut Frame::new(buffer, HEADROOM, usize::from(held.len), held.device));
                count += 1;
            }
        }
        count
    }

    /// Forgets what is too old, looking at no more than `max` fragments and `max` decisions. Returns
    /// how many waiting fragments were dropped since the last call, for want of time or of room:
    /// [`Reason::FragmentTimeout`].
    pub fn expire(&mut self, now: Instant, max: usize) -> usize {
        self.decisions.expire(now, REMEMBER, max);
        std::mem::take(&mut self.evicted) + self.held.expire(now, HOLD, max)
    }

    /// Fragments waiting.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.held.live
    }

    /// Datagrams whose decision is remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.decisions.live
    }
}

/// No slot.
const NONE: u32 = u32::MAX;

/// Values by key, in order of arrival, in a fixed number of slots. A full ring overwrites its oldest
/// slot. Values of one key form a chain, together with those of other keys in the same bucket, oldest
/// first; the hash is keyed at random, so that nobody outside can make a chain long with many keys.
struct Ring<V> {
    slots: Box<[Option<Slot<V>>]>,
    buckets: Box<[Chain]>,
    hasher: RandomState,
    /// Arrivals so far, and how many of these have left the ring or been passed over; each modulo
    /// the number of slots is a slot.
    next: usize,
    oldest: usize,
    live: usize,
}

#[derive(Clone, Copy)]
struct Slot<V> {
    key: Key,
    at: Instant,
    bucket: u32,
    following: u32,
    value: V,
}

#[derive(Clone, Copy)]
struct Chain {
    head: u32,
    tail: u32,
}

impl<V: Copy> Ring<V> {
    fn new(capacity: usize) -> Self {
        Self {
            slots: vec![None; capacity].into_boxed_slice(),
            buckets: vec![Chain { head: NONE, tail: NONE }; capacity].into_boxed_slice(),
            hasher: RandomState::new(),
            next: 0,
            oldest: 0,
            live: 0,
        }
    }

    fn bucket(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize % self.buckets.len()
    }

    fn slot(&self, index: u32) -> Option<&Slot<V>> {
        self.slots.get(index as usize)?.as_ref()
    }

    /// The oldest value of the key.
    fn find(&self, key: &Key) -> Option<(Instant, V)> {
        let mut index = self.buckets[self.bucket(key)].head;
        while let Some(slot) = self.slot(index) {
            if slot.key == *key {
                return Some((slot.at, slot.value));
            }
            index = slot.following;
        }
        None
    }

    /// Removes the oldest value of the key.
    fn take(&mut self, key: &Key) -> Option<(usize, V)> {
        let bucket = self.bucket(key);
        let (mut before, mut index) = (NONE, self.buckets[bucket].head);
        while let Some(slot) = self.slot(index) {
            if slot.key == *key {
                return Some((index as usize, self.unlink(before, index)?.value));
            }
            (before, index) = (index, slot.following);
        }
        None
    }

    /// Adds a value; says where, and whether a live one had to go for it.
    fn push(&mut self, key: Key, at: Instant, value: V) -> (usize, bool) {
        let mut evicted = false;
        if self.next - self.oldest == self.slots.len() {
            evicted = self.pass();
        }
        let index = self.next % self.slots.len();
        let bucket = self.bucket(&key);
        self.next += 1;
        self.live += 1;
        self.slots[index] = Some(Slot { key, at, bucket: bucket as u32, following: NONE, value });
        let chain = self.buckets[bucket];
        if let Some(Some(last)) = self.slots.get_mut(chain.tail as usize) {
            last.following = index as u32;
            self.buckets[bucket].tail = index as u32;
        } else {
            self.buckets[bucket] = Chain { head: index as u32, tail: index as u32 };
        }
        (index, evicted)
    }

    /// Removes the values that are `age` old, looking at no more than `max` slots; says how many.
    fn expire(&mut self, now: Instant, age: Duration, max: usize) -> usize {
        let mut dropped = 0;
        for _ in 0..max.min(self.next - self.oldest) {
            let index = self.oldest % self.slots.len();
            if self.slots[index].is_some_and(|slot| now.since(slot.at) < age) {
                break;
            }
            dropped += usize::from(self.pass());
        }
        dropped
    }

    /// Passes over the oldest slot; says whether there was something in it. The oldest slot of all
    /// is the first of its chain.
    fn pass(&mut self) -> bool {
        let index = self.oldest % self.slots.len();
        self.oldest += 1;
        self.unlink(NONE, index as u32).is_some()
    }

    /// Empties a slot, which stands in its chain behind slot `before`.
    fn unlink(&mut self, before: u32, index: u32) -> Option<Slot<V>> {
        let slot = self.slots.get_mut(index as usize)?.take()?;
        let bucket = slot.bucket as usize;
        match self.slots.get_mut(before as usize) {
            Some(Some(before)) => before.following = slot.following,
            _ => self.buckets[bucket].head = slot.following,
        }
        if self.buckets[bucket].tail == index {
            self.buckets[bucket].tail = before;
        }
        self.live -= 1;
        Some(slot)
    }
}

#[cfg(test)]
mod tests;
