//! Questions of our own: who answers for an address on the wire?
//!
//! The agent's threads ask, the first worker sends the questions, and whichever worker gets an answer
//! notes it. A worker does not wait for the lock: what it misses is asked again.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use dataplane_api::message::RESOLVE_MAX;

use crate::address::{Address, DeviceId, Mac};
use crate::limits::{INTERFACES, RESOLUTIONS, RESOLVE_ANSWERS};

/// An answer: for which address, on which interface, by whom.
pub type Answer = (Address, DeviceId, Mac);

/// Questions on their way.
#[derive(Debug)]
pub struct Resolver {
    /// How many are open: nearly always none.
    open: AtomicU32,
    asks: Mutex<[Option<Ask>; RESOLUTIONS]>,
    outgoing: ArrayQueue<(DeviceId, Address)>,
}

#[derive(Debug)]
struct Ask {
    addresses: BTreeSet<Address>,
    answers: BTreeSet<Answer>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            open: 0.into(),
            asks: Mutex::default(),
            outgoing: ArrayQueue::new(RESOLVE_MAX * INTERFACES),
        }
    }
}

impl Resolver {
    /// Begins to note who answers for these addresses; a number to [`Self::finish`] with. None if too
    /// many are asking.
    #[must_use]
    pub fn start(&self, addresses: BTreeSet<Address>) -> Option<usize> {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        let index = asks.iter().position(Option::is_none)?;
        asks[index] = Some(Ask { addresses, answers: BTreeSet::new() });
        self.open.fetch_add(1, Relaxed);
        Some(index)
    }

    /// Has the question put on these interfaces, once for each address that nobody has answered for.
    pub fn ask(&self, index: usize, devices: &[DeviceId]) {
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Some(ask)) = asks.get(index) else { return };
        let silent = |address: &&Address| !ask.answers.iter().any(|(a, ..)| a == *address);
        for address in ask.addresses.iter().filter(silent) {
            for device in devices {
                // Without room it is asked again later.
                let _ = self.outgoing.push((*device, *address));
            }
        }
    }

    /// What has been answered, in order of addresses.
    #[must_use]
    pub fn finish(&self, index: usize) -> Vec<Answer> {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ask) = asks.get_mut(index).and_then(Option::take) else { return Vec::new() };
        self.open.fetch_sub(1, Relaxed);
        ask.answers.into_iter().collect()
    }

    /// Whether nobody asks.
    #[inline]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.load(Relaxed) == 0
    }

    /// The next question to send.
    #[must_use]
    pub fn next(&self) -> Option<(DeviceId, Address)> {
        self.outgoing.pop()
    }

    /// Somebody says that an address is theirs.
    pub fn hear(&self, address: Address, device: DeviceId, mac: Mac) {
        let Ok(mut asks) = self.asks.try_lock() else { return };
        for ask in asks.iter_mut().flatten() {
            if ask.addresses.contains(&address) && ask.answers.len() < RESOLVE_ANSWERS {
                ask.answers.insert((address, device, mac));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_whoever_asked_and_answered_addresses_are_not_asked_for_again() {
        let resolver = Resolver::default();
        let [a, b, c] = [1, 2, 3].map(Address::v4);
        let (eth0, eth1) = (DeviceId(0), DeviceId(1));
        assert!(resolver.is_idle());
        resolver.hear(a, eth0, Mac([1; 6]));
        let first = resolver.start([a, b].into()).unwrap();
        let second = resolver.start([b, c].into()).unwrap();
        resolver.ask(first, &[eth0, eth1]);
        let asked: Vec<_> = std::iter::from_fn(|| resolver.next()).collect();
        assert_eq!(asked, [(eth0, a), (eth1, a), (eth0, b), (eth1, b)]);
        for _ in 0..2 {
            resolver.hear(b, eth1, Mac([2; 6]));
        }
        resolver.hear(b, eth1, Mac([3; 6]));
        resolver.hear(Address::v4(9), eth1, Mac([9; 6]));
        resolver.ask(first, &[eth0]);
        assert_eq!((resolver.next(), resolver.next()), (Some((eth0, a)), None));
        let both = [(b, eth1, Mac([2; 6])), (b, eth1, Mac([3; 6]))];
        assert_eq!(resolver.finish(first), both);
        assert!(!resolver.is_idle());
        assert_eq!(resolver.finish(second), both);
        assert!(resolver.is_idle() && resolver.finish(second).is_empty());
    }

    #[test]
    fn the_number_of_questions_and_of_answers_is_bounded() {
        let resolver = Resolver::default();
        let vip = Address::v4(1);
        let all: Vec<_> = std::iter::from_fn(|| resolver.start([vip].into())).collect();
        assert_eq!(all.len(), RESOLUTIONS);
        for n in 0..2 * RESOLVE_ANSWERS as u32 {
            let [.., c, d] = n.to_be_bytes();
            resolver.hear(vip, DeviceId(0), Mac([2, 0, 0, 0, c, d]));
        }
        assert_eq!(resolver.finish(all[0]).len(), RESOLVE_ANSWERS);
        assert!(resolver.start([vip].into()).is_some());
    }
}
