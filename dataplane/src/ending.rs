//! Connections that are to end: whose, which of them, and how many are left.
//!
//! Made by the steward, by order of control or because a real is down; published with everything else
//! that packets are forwarded by. Workers count in it what they find.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use dataplane_api::message::How;

use crate::address::RealId;
use crate::clock::{Instant, Tick};
use crate::conn::{Conn, State};
use crate::limits;
use crate::service::Fate;

/// By real.
pub type Endings = BTreeMap<RealId, Arc<Ending>>;

/// Connections of one real that are to end.
#[derive(Debug)]
pub struct Ending {
    how: How,
    /// Opened up to this tick; all if absent.
    until: Option<Tick>,
    /// After it what has not answered is forgotten.
    deadline: Instant,
    /// How many there were at first.
    initial: u32,
    shares: Box<[Share]>,
}

/// What one worker has found in its part of the table.
#[derive(Debug, Default)]
struct Share {
    /// So far, in the pass that it makes.
    counting: AtomicU32,
    /// In its last whole pass, plus one; 0 before the first.
    counted: AtomicU32,
}

impl Ending {
    /// An order for the connections opened up to the tick `until`, or for all; `initial` of them are
    /// there now.
    #[must_use]
    pub fn new(how: How, until: Option<Tick>, initial: u32, workers: usize, now: Instant) -> Self {
        let shares = (0..workers.clamp(1, limits::WORKERS)).map(|_| Share::default()).collect();
        Self { how, until, deadline: now.after(limits::ENDING_PATIENCE), initial, shares }
    }

    /// Whether the connection is among them.
    #[must_use]
    pub fn concerns(&self, conn: &Conn) -> bool {
        self.until.is_none_or(|until| conn.created == until || until.since(conn.created) > 0)
    }

    /// What is to become of such a connection. A template always goes.
    #[must_use]
    pub fn fate(&self, conn: &Conn) -> Fate {
        let tcp = conn.identity.protocol == 6;
        match self.how {
            _ if conn.state == State::Template => Fate::Drop,
            How::Drop => Fate::Drop,
            How::Reset | How::Move if tcp => Fate::Reset,
            How::Reset | How::Move => Fate::Move,
        }
    }

    /// Whether it is for all connections, those to come included, as long as the real is down.
    #[must_use]
    pub fn is_standing(&self) -> bool {
        self.until.is_none()
    }

    /// Whether patience has ended.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// How many are left, as far as is known.
    #[must_use]
    pub fn left(&self) -> u32 {
        let counted = |share: &Share| share.counted.load(Relaxed).checked_sub(1);
        let sum = self.shares.iter().map(counted).sum::<Option<u32>>();
        sum.unwrap_or(self.initial)
    }

    /// Whether all workers have looked and found none.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.shares.iter().all(|share| share.counted.load(Relaxed) == 1)
    }

    /// The worker begins a pass.
    pub(crate) fn begin(&self, worker: usize) {
        if let Some(share) = self.shares.get(worker) {
            share.counting.store(0, Relaxed);
        }
    }

    /// The worker has found one that stays for now.
    pub(crate) fn count(&self, worker: usize) {
        if let Some(share) = self.shares.get(worker) {
            share.counting.store(share.counting.load(Relaxed).saturating_add(1), Relaxed);
        }
    }

    /// The worker has been through its part of the table.
    pub(crate) fn finish(&self, worker: usize) {
        if let Some(share) = self.shares.get(worker) {
            share.counted.store(share.counting.load(Relaxed).saturating_add(1), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_sum_of_whole_passes_and_done_when_all_found_none() {
        let ending = Ending::new(How::Reset, None, 7, 2, Instant::ZERO);
        assert_eq!((ending.left(), ending.is_done()), (7, false), "nobody has looked yet");
        ending.begin(0);
        ending.count(0);
        ending.finish(0);
        assert_eq!(ending.left(), 7, "the other worker has not looked yet");
        ending.finish(1);
        assert_eq!((ending.left(), ending.is_done()), (1, false));
        ending.begin(0);
        ending.finish(0);
        assert_eq!((ending.left(), ending.is_done()), (0, true));
    }
}
