//! Where the packets of one side go: a MAC address that may move while the run goes on, as it does
//! when another balancer takes the VIP.
//!
//! Written by the thread that watches the neighbours ([`crate::packet_socket`]), read by every worker
//! once a burst: one relaxed load.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use dataplane::clock::Instant;

/// Most moves whose time is kept; all are counted.
pub const KEPT_MAX: usize = 64;

/// A MAC address.
pub type Mac = [u8; 6];

/// One move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// When it was noticed.
    pub at: Instant,
    /// The MAC address before.
    pub from: Mac,
    /// And from then on.
    pub to: Mac,
}

/// A next hop.
#[derive(Debug, Default)]
pub struct NextHop {
    /// The address in the upper six bytes, 1 in the last: 0 is none known yet.
    bits: AtomicU64,
    moves: Mutex<(u64, Vec<Move>)>,
}

impl NextHop {
    /// One that is known.
    #[must_use]
    pub fn at(mac: Mac) -> Self {
        Self { bits: AtomicU64::new(bits(mac)), moves: Mutex::default() }
    }

    /// Its MAC address; none if it is not known yet.
    #[inline(always)]
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        mac(self.bits.load(Relaxed))
    }

    /// It was seen here. A first sight is no move.
    pub fn seen(&self, mac_now: Mac, at: Instant) {
        // One thread writes; a lock that is never waited for, but when a report is made.
        let old = self.bits.load(Relaxed);
        if old == bits(mac_now) {
            return;
        }
        self.bits.store(bits(mac_now), Relaxed);
        if let Some(from) = mac(old) {
            let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
            moves.0 += 1;
            if moves.1.len() < KEPT_MAX {
                moves.1.push(Move { at, from, to: mac_now });
            }
        }
    }

    /// How often it moved, and the first of these moves.
    #[must_use]
    pub fn moves(&self) -> (u64, Vec<Move>) {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What one worker knows of a next hop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Follower(u64);

impl Follower {
    /// The new MAC address, if it is another than at the last call.
    #[inline(always)]
    pub fn moved(&mut self, hop: &NextHop) -> Option<Mac> {
        let bits = hop.bits.load(Relaxed);
        if bits == self.0 {
            return None;
        }
        self.0 = bits;
        mac(bits)
    }
}

fn bits(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([a, b, c, d, e, f, 0, 1])
}

fn mac(bits: u64) -> Option<Mac> {
    let [a, b, c, d, e, f, ..] = bits.to_be_bytes();
    (bits != 0).then_some([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn only_another_address_is_a_move_and_each_follower_hears_of_it_once() {
        let hop = NextHop::default();
        let mut follower = Follower::default();
        assert_eq!((hop.mac(), follower.moved(&hop)), (None, None));
        hop.seen(A, Instant::from_nanos(1));
        hop.seen(A, Instant::from_nanos(2));
        assert_eq!(
            (hop.mac(), follower.moved(&hop), follower.moved(&hop)),
            (Some(A), Some(A), None)
        );
        assert_eq!(hop.moves(), (0, vec![]), "a first sight is no move");
        hop.seen(B, Instant::from_nanos(3));
        assert_eq!((follower.moved(&hop), follower.moved(&hop)), (Some(B), None));
        let moved = Move { at: Instant::from_nanos(3), from: A, to: B };
        assert_eq!(hop.moves(), (1, vec![moved]));
    }

    #[test]
    fn a_neighbour_that_flaps_is_counted_in_bounded_memory() {
        let hop = NextHop::at(A);
        for n in 0..1000 {
            hop.seen(if n % 2 == 0 { B } else { A }, Instant::from_nanos(n));
        }
        let (count, kept) = hop.moves();
        assert_eq!((count, kept.len()), (1000, KEPT_MAX));
    }
}
