//! Ownership of addresses: a lease for each group of them.
//!
//! Granted by the agent's threads, one at a time; read by every worker, once a burst, without a lock.
//! A lease ends by itself: whoever granted it need not be alive for that, nor the machine awake (see
//! [`crate::clock`]).

use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::address::{Address, DeviceId, GroupId};
use crate::clock::Instant;
use crate::limits::{CLAIMED, GROUPS};

/// How often an address is announced again because somebody else claims it, at most: two hosts that
/// both insist do not flood the link.
const INSIST: Duration = Duration::from_secs(1);

/// The groups whose lease was fresh when a burst began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fresh(u32);

impl Fresh {
    /// No group's.
    pub const NONE: Self = Self(0);
    /// Every group's.
    pub const ALL: Self = Self(u32::MAX);

    /// That of one group alone.
    #[must_use]
    pub const fn only(group: GroupId) -> Self {
        Self(1 << (group.0 as u32 % u32::BITS))
    }

    /// Whether that of a group is.
    #[inline]
    #[must_use]
    pub const fn contains(self, group: GroupId) -> bool {
        self.0 & Self::only(group).0 != 0
    }

    /// Those of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A permission to answer for the addresses of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Milliseconds from now; 0 takes it back.
    pub ttl_ms: u32,
    /// Number of this ownership.
    pub epoch: u64,
    /// It ends no later than at this moment.
    pub until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Slot {
    until: AtomicU64,
    epoch: AtomicU64,
    term: AtomicU64,
    announced: AtomicU64,
    claims: AtomicU64,
}

/// The leases of all groups, by the number of the group.
#[derive(Debug, Default)]
pub struct Leases {
    slots: [Slot; GROUPS],
    /// Number of the last term.
    terms: Mutex<u64>,
    /// When an address was last announced on an interface because of a claim.
    insisted: Mutex<BTreeMap<(Address, DeviceId), Instant>>,
}

impl Leases {
    fn slot(&self, group: GroupId) -> &Slot {
        &self.slots[group.index() % GROUPS]
    }

    /// Whether the lease of a group is fresh.
    #[must_use]
    pub fn is_fresh(&self, group: GroupId, now: Instant) -> bool {
        now.nanos() < self.slot(group).until.load(Acquire)
    }

    /// Which of `groups` have a fresh lease.
    #[inline]
    #[must_use]
    pub fn fresh(&self, groups: Fresh, now: Instant) -> Fresh {
        let (mut left, mut fresh) = (groups.0, 0);
        while left != 0 {
            let group = left.trailing_zeros();
            left &= left - 1;
            fresh |= u32::from(self.is_fresh(GroupId(group as u8), now)) << group;
        }
        Fresh(fresh)
    }

    /// Number of the uninterrupted ownership of a group under one epoch, if it is owned: another for
    /// each epoch, and for each time that its lease had run out or been given up.
    #[must_use]
    pub fn term(&self, group: GroupId, now: Instant) -> Option<u64> {
        self.is_fresh(group, now).then(|| self.slot(group).term.load(Relaxed))
    }

    /// Milliseconds left.
    #[must_use]
    pub fn left_ms(&self, group: GroupId, now: Instant) -> u64 {
        self.slot(group).until.load(Acquire).saturating_sub(now.nanos()) / 1_000_000
    }

    /// Epoch of the last grant.
    #[must_use]
    pub fn epoch(&self, group: GroupId) -> u64 {
        self.slot(group).epoch.load(Relaxed)
    }

    /// Notes that an address of a group has been announced.
    pub fn note_announced(&self, group: GroupId) {
        self.slot(group).announced.fetch_add(1, Relaxed);
    }

    /// Announcements under the current epoch.
    #[must_use]
    pub fn announced(&self, group: GroupId) -> u64 {
        self.slot(group).announced.load(Relaxed)
    }

    /// Notes that somebody else claims an address of a group that is ours. True if it should be
    /// announced again on that interface now.
    pub fn note_claim(
        &self,
        group: GroupId,
        address: Address,
        device: DeviceId,
        now: Instant,
    ) -> bool {
        self.slot(group).claims.fetch_add(1, Relaxed);
        // Held for a look into a map, by workers alone.
        let mut insisted = self.insisted.lock().unwrap_or_else(PoisonError::into_inner);
        let last = insisted.get(&(address, device));
        if last.is_some_and(|last| now.since(*last) < INSIST) {
            return false;
        }
        if insisted.len() >= CLAIMED {
            insisted.retain(|_, last| now.since(*last) < INSIST);
        }
        insisted.insert((address, device), now);
        true
    }

    /// Claims of others.
    #[must_use]
    pub fn claims(&self, group: GroupId) -> u64 {
        self.slot(group).claims.load(Relaxed)
    }

    /// Makes the caller the only one to change them: so the numbers of groups do not change between a
    /// look at their names and a grant.
    #[must_use]
    pub fn change(&self) -> Change<'_> {
        Change { leases: self, terms: self.terms.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The right to change leases. No worker ever waits for it.
pub struct Change<'a> {
    leases: &'a Leases,
    terms: MutexGuard<'a, u64>,
}

impl Change<'_> {
    /// Grants, renews or (`ttl_ms` 0) ends the lease of a group. True if that is news to whoever
    /// announces: a new term has begun, or one has ended.
    pub fn renew(&mut self, group: GroupId, grant: &Grant, now: Instant) -> bool {
        let slot = self.leases.slot(group);
        let until = now.after(Duration::from_millis(grant.ttl_ms.into()));
        let until = grant.until.map_or(until, |latest| until.min(latest));
        let will = grant.ttl_ms > 0 && now < until;
        let was = self.leases.is_fresh(group, now);
        let same = slot.epoch.load(Relaxed) == grant.epoch;
        if !same {
            slot.epoch.store(grant.epoch, Relaxed);
            slot.announced.store(0, Relaxed);
        }
        if will && !(was && same) {
            *self.terms += 1;
            slot.term.store(*self.terms, Relaxed);
        }
        slot.until.store(if will { until.nanos() } else { 0 }, Release);
        was != will || will && !same
    }

    /// Makes a number fit for another group: without a lease, and nothing counted.
    pub fn reset(&mut self, group: GroupId) {
        let slot = self.leases.slot(group);
        for word in [&slot.until, &slot.epoch, &slot.announced, &slot.claims] {
            word.store(0, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(0);
    const B: GroupId = GroupId(31);
    const BOTH: Fresh = Fresh::only(A).with(Fresh::only(B));

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn grant(ttl_ms: u32, epoch: u64) -> Grant {
        Grant { ttl_ms, epoch, until: None }
    }

    #[test]
    fn a_lease_ends_by_itself_and_at_once_when_given_up() {
        let leases = Leases::default();
        assert!(!leases.is_fresh(A, at(0)));
        leases.change().renew(A, &grant(3000, 7), at(1000));
        assert!(leases.is_fresh(A, at(3999)) && !leases.is_fresh(A, at(4000)));
        assert_eq!(leases.left_ms(A, at(3000)), 1000);
        leases.change().renew(A, &grant(0, 7), at(3000));
        assert!(!leases.is_fresh(A, at(3000)));
    }

    #[test]
    fn each_group_has_a_lease_of_its_own() {
        let leases = Leases::default();
        leases.change().renew(B, &grant(100, 1), at(0));
        assert_eq!(leases.fresh(BOTH, at(1)), Fresh::only(B));
        leases.change().renew(A, &grant(50, 9), at(0));
        assert_eq!(leases.fresh(BOTH, at(1)), BOTH);
        assert_eq!(leases.fresh(Fresh::only(A), at(1)), Fresh::only(A), "no more than asked for");
        assert_eq!(leases.fresh(BOTH, at(60)), Fresh::only(B));
        leases.change().renew(B, &grant(0, 1), at(70));
        assert_eq!(leases.fresh(BOTH, at(70)), Fresh::NONE);
        assert_eq!((leases.epoch(A), leases.epoch(B)), (9, 1));
    }

    #[test]
    fn a_lease_that_was_decided_before_a_pause_is_worth_nothing_after_it() {
        let leases = Leases::default();
        let old = Grant { until: Some(at(1100)), ..grant(100, 1) };
        assert!(leases.change().renew(A, &old, at(1000)));
        assert!(leases.is_fresh(A, at(1099)) && !leases.is_fresh(A, at(1100)));
        // Written before the machine slept, read after it.
        assert!(!leases.change().renew(A, &old, at(9000)));
        assert!(!leases.is_fresh(A, at(9000)));
        // Nor can a late one prolong what was granted.
        let far = Grant { until: Some(at(99_000)), ..grant(100, 1) };
        leases.change().renew(A, &far, at(9000));
        assert!(!leases.is_fresh(A, at(9100)));
    }

    #[test]
    fn a_term_ends_with_its_epoch_and_with_the_lease_and_renewals_are_no_news() {
        let leases = Leases::default();
        assert!(leases.change().renew(A, &grant(100, 1), at(0)));
        let first = leases.term(A, at(1));
        assert!(!leases.change().renew(A, &grant(100, 1), at(50)), "a renewal");
        assert_eq!(leases.term(A, at(51)), first);
        assert!(leases.change().renew(A, &grant(100, 2), at(60)), "a new epoch");
        let second = leases.term(A, at(61));
        assert!(second.is_some() && second != first);
        assert!(leases.change().renew(A, &grant(0, 2), at(70)), "given up");
        assert_eq!(leases.term(A, at(70)), None);
        assert!(!leases.change().renew(A, &grant(0, 2), at(71)), "nothing to give up");
        assert!(leases.change().renew(A, &grant(100, 2), at(72)), "taken again");
        let third = leases.term(A, at(73));
        assert!(third.is_some() && third != second);
        assert!(leases.change().renew(A, &grant(100, 2), at(500)), "it had run out");
        assert_ne!(leases.term(A, at(501)), third);
        // Terms of different groups are never mistaken for each other.
        leases.change().renew(B, &grant(100, 2), at(500));
        assert_ne!(leases.term(A, at(501)), leases.term(B, at(501)));
    }

    #[test]
    fn announcements_are_counted_by_epoch_and_claims_answered_once_a_second() {
        let leases = Leases::default();
        leases.change().renew(A, &grant(1000, 1), at(0));
        leases.note_announced(A);
        leases.change().renew(A, &grant(1000, 1), at(1));
        assert_eq!(leases.announced(A), 1);
        leases.change().renew(A, &grant(1000, 2), at(2));
        assert_eq!(leases.announced(A), 0);
        let (vip, other) = (Address::v4(1), Address::v4(2));
        let claim = |address, device, ms| leases.note_claim(A, address, DeviceId(device), at(ms));
        assert!(claim(vip, 0, 10));
        assert!(!claim(vip, 0, 1009));
        assert!(claim(other, 0, 20) && claim(vip, 1, 20), "each address on each interface");
        assert!(claim(vip, 0, 1010));
        assert_eq!((leases.claims(A), leases.claims(B)), (5, 0));
    }

    #[test]
    fn a_number_given_to_another_group_carries_nothing_over() {
        let leases = Leases::default();
        leases.change().renew(A, &grant(1000, 5), at(0));
        leases.note_claim(A, Address::v4(1), DeviceId(0), at(1));
        leases.change().reset(A);
        assert!(!leases.is_fresh(A, at(1)));
        assert_eq!((leases.epoch(A), leases.announced(A), leases.claims(A)), (0, 0, 0));
    }
}
