//! When gratuitous ARP and unsolicited neighbour advertisements are due. Pure.
//!
//! Level-triggered: whatever is owned and can be reached by an interface that is up, and has not
//! been announced in this term of its lease since that interface came up, is announced; nobody has to say
//! that something happened. Runs on the management thread; a worker builds and sends the frames.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::address::{Address, DeviceId};
use crate::clock::Instant;

/// Most announcements handed out by one call of [`Announcer::due`].
pub const PER_CALL: usize = 256;
/// Time to the next call when there were more: a thousand VIPs on sixteen interfaces take a third
/// of a second, and no switch sees a burst.
const PACE: Duration = Duration::from_millis(5);
/// From each announcement to the next: at once, 1 s and 5 s after the first (a switch or router
/// that was still learning hears the second or third), then now and again, against a cache that a
/// former owner's late packet has changed back.
const GAPS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(60)];

/// Remembers what has been announced.
#[derive(Debug, Default)]
pub struct Announcer {
    entries: BTreeMap<(DeviceId, Address), Entry>,
    /// No sooner than this, because the last call left some over.
    held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    term: u64,
    generation: u64,
    sent: usize,
    next: Instant,
}

impl Announcer {
    /// What to announce now, those never announced first; at most [`PER_CALL`].
    ///
    /// `owned` are the addresses of groups whose lease is fresh, each with the term of that lease
    /// ([`crate::lease::Leases::term`]). `devices_up` are the interfaces that can send, each with a
    /// number that changes whenever it comes up or is attached anew.
    pub fn due(
        &mut self,
        now: Instant,
        owned: &BTreeMap<Address, u64>,
        devices_up: &BTreeMap<DeviceId, u64>,
    ) -> Vec<(DeviceId, Address)> {
        self.refresh(now, owned, devices_up);
        if self.held_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let mut due: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.next <= now)
            .map(|(key, entry)| (entry.sent > 0, entry.next, *key))
            .collect();
        due.sort_unstable();
        self.held_until = (due.len() > PER_CALL).then(|| now.after(PACE));
        due.truncate(PER_CALL);
        for (_, _, key) in &due {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.next = now.after(GAPS[entry.sent.min(GAPS.len() - 1)]);
                entry.sent += 1;
            }
        }
        due.into_iter().map(|(_, _, key)| key).collect()
    }

    /// When to call [`Announcer::due`] next if nothing else changes; none if nothing is owned.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = self.entries.values().map(|entry| entry.next).min()?;
        Some(self.held_until.map_or(next, |until| next.max(until)))
    }

    /// Forgets what is no longer owned or reachable, and starts what is new.
    fn refresh(
        &mut self,
        now: Instant,
        owned: &BTreeMap<Address, u64>,
        devices_up: &BTreeMap<DeviceId, u64>,
    ) {
        self.entries.retain(|(device, address), entry| {
            owned.get(address) == Some(&entry.term)
                && devices_up.get(device) == Some(&entry.generation)
        });
        if self.entries.is_empty() {
            self.held_until = None;
        }
        for (device, generation) in devices_up {
            for (address, term) in owned {
                self.entries.entry((*device, *address)).or_insert(Entry {
                    term: *term,
                    generation: *generation,
                    sent: 0,
                    next: now,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_nanos(milliseconds * 1_000_000)
    }

    /// The first `count` addresses, owned in this term.
    fn owned(count: u32, term: u64) -> BTreeMap<Address, u64> {
        (0..count).map(|n| (Address::v4(0xc000_0200 + n), term)).collect()
    }

    fn up(devices: &[(u8, u64)]) -> BTreeMap<DeviceId, u64> {
        devices.iter().map(|(id, generation)| (DeviceId(*id), *generation)).collect()
    }

    /// Times in milliseconds at which one VIP on one interface is announced, following deadlines.
    fn times(
        announcer: &mut Announcer,
        from: u64,
        until: u64,
        term: u64,
        up_again: u64,
    ) -> Vec<u64> {
        let (mut now, mut times) = (at(from), Vec::new());
        while now < at(until) {
            for _ in announcer.due(now, &owned(1, term), &up(&[(0, up_again)])) {
                times.push(now.nanos() / 1_000_000);
            }
            now = announcer.next_deadline().expect("a VIP is owned");
        }
        times
    }

    #[test]
    fn an_owned_vip_is_announced_at_once_then_twice_more_then_each_minute() {
        let mut announcer = Announcer::default();
        let times = times(&mut announcer, 10_000, 140_000, 1, 1);
        assert_eq!(times, [10_000, 11_000, 15_000, 75_000, 135_000]);
    }

    #[test]
    fn a_new_epoch_or_an_interface_that_came_up_again_starts_over() {
        let mut announcer = Announcer::default();
        times(&mut announcer, 0, 20_000, 1, 1);
        assert_eq!(times(&mut announcer, 20_000, 26_000, 2, 1), [20_000, 21_000, 25_000]);
        assert_eq!(times(&mut announcer, 30_000, 36_000, 2, 5), [30_000, 31_000, 35_000]);
    }

    #[test]
    fn a_new_address_or_interface_is_announced_without_repeating_the_others() {
        let mut announcer = Announcer::default();
        assert_eq!(announcer.due(at(0), &owned(2, 1), &up(&[(0, 1)])).len(), 2);
        assert_eq!(announcer.due(at(1), &owned(2, 1), &up(&[(0, 1)])), []);
        let more = announcer.due(at(2), &owned(3, 1), &up(&[(0, 1)]));
        assert_eq!(more, [(DeviceId(0), Address::v4(0xc000_0202))]);
        let other = announcer.due(at(3), &owned(3, 1), &up(&[(0, 1), (4, 1)]));
        assert!(other.len() == 3 && other.iter().all(|(device, _)| *device == DeviceId(4)));
    }

    #[test]
    fn without_a_lease_nothing_is_announced_and_regaining_it_starts_over() {
        let mut announcer = Announcer::default();
        let devices = up(&[(0, 1)]);
        assert_eq!(announcer.due(at(0), &BTreeMap::new(), &devices), []);
        assert_eq!(announcer.next_deadline(), None);
        assert_eq!(announcer.due(at(1), &owned(2, 1), &devices).len(), 2);
        assert_eq!(announcer.due(at(2), &BTreeMap::new(), &devices), []);
        assert_eq!(announcer.next_deadline(), None);
        assert_eq!(announcer.due(at(3), &owned(2, 1), &devices).len(), 2);
        // Lost and regained between two looks: nobody saw it, but the term is another.
        assert_eq!(announcer.due(at(4), &owned(2, 2), &devices).len(), 2);
    }

    #[test]
    fn groups_are_announced_each_by_its_own_lease() {
        let mut announcer = Announcer::default();
        let (web, mail) = (Address::v4(1), Address::v4(2));
        let devices = up(&[(0, 1), (1, 1)]);
        let of = |due: Vec<(DeviceId, Address)>| {
            due.into_iter().map(|(device, address)| (device.0, address)).collect::<Vec<_>>()
        };
        let one = announcer.due(at(0), &BTreeMap::from([(web, 1)]), &devices);
        assert_eq!(of(one), [(0, web), (1, web)]);
        let both = announcer.due(at(1), &BTreeMap::from([(web, 1), (mail, 7)]), &devices);
        assert_eq!(of(both), [(0, mail), (1, mail)]);
        let again = announcer.due(at(2), &BTreeMap::from([(web, 8), (mail, 7)]), &devices);
        assert_eq!(of(again), [(0, web), (1, web)]);
        assert_eq!(of(announcer.due(at(3), &BTreeMap::from([(mail, 7)]), &devices)), []);
        // An interface that comes up later hears of what is owned then, and of nothing else.
        let later = up(&[(0, 1), (1, 1), (5, 2)]);
        assert_eq!(of(announcer.due(at(4), &BTreeMap::from([(mail, 7)]), &later)), [(5, mail)]);
    }

    #[test]
    fn many_addresses_leave_paced_and_each_of_them_before_any_repeat() {
        let mut announcer = Announcer::default();
        let (devices, many) = (up(&[(0, 1), (1, 1)]), owned(1000, 1));
        let (mut seen, mut now, mut calls) = (BTreeSet::new(), at(0), 0);
        while seen.len() < 2000 {
            let due = announcer.due(now, &many, &devices);
            assert!(!due.is_empty() && due.len() <= PER_CALL);
            for key in due {
                assert!(seen.insert(key), "{key:?} repeated before all were announced once");
            }
            assert_eq!(announcer.due(now, &many, &devices), [], "the pace is kept");
            now = announcer.next_deadline().unwrap();
            calls += 1;
        }
        assert_eq!(calls, 8);
        assert!(now.since(at(0)) < Duration::from_millis(1100), "took {:?}", now.since(at(0)));
    }
}
