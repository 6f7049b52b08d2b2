//! The longest time in which nothing came: what a fail-over costs the clients.
//!
//! Written by all workers, once a burst in which something valid came.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use dataplane::clock::Instant;

/// Of one way of the traffic.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Silence {
    /// When something last came, nanoseconds of the monotonic clock.
    last: AtomicU64,
    /// How long the longest silence was, and when it began. Apart for a moment at most.
    longest: AtomicU64,
    since: AtomicU64,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// When it began, nanoseconds of the monotonic clock.
    pub since: u64,
    /// Its length in nanoseconds.
    pub nanos: u64,
}

impl Silence {
    /// The traffic begins: it is silent from here on.
    pub fn start(&self, at: Instant) {
        self.last.store(at.nanos(), Relaxed);
        self.longest.store(0, Relaxed);
        self.since.store(at.nanos(), Relaxed);
    }

    /// Something came by `now`, nanoseconds of the monotonic clock.
    #[inline(always)]
    pub fn heard(&self, now: u64) {
        // The latest of all workers' clocks, so that a gap is one of all of them.
        let last = self.last.fetch_max(now, Relaxed);
        let gap = now.saturating_sub(last);
        if gap > self.longest.load(Relaxed) && gap > self.longest.fetch_max(gap, Relaxed) {
            self.since.store(last, Relaxed);
        }
    }

    /// The longest until now, with the one from the last packet that came until `end`, when the last
    /// one was sent.
    #[must_use]
    pub fn longest(&self, end: u64) -> Gap {
        let last = self.last.load(Relaxed);
        let before = Gap { since: self.since.load(Relaxed), nanos: self.longest.load(Relaxed) };
        let after = Gap { since: last, nanos: end.saturating_sub(last) };
        if after.nanos > before.nanos { after } else { before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_wherever_it_lies() {
        let gap = |times: &[u64], end| {
            let silence = Silence::default();
            silence.start(Instant::from_nanos(100));
            times.iter().for_each(|time| silence.heard(*time));
            let Gap { since, nanos } = silence.longest(end);
            (since, nanos)
        };
        assert_eq!(gap(&[150, 160, 170], 180), (100, 50), "before the first");
        assert_eq!(gap(&[110, 120, 190, 200], 210), (120, 70), "in the middle");
        assert_eq!(gap(&[110, 120, 130], 900), (130, 770), "nothing came any more");
        assert_eq!(gap(&[], 900), (100, 800), "nothing ever came");
        assert_eq!(gap(&[130, 120, 140], 130), (100, 30), "another worker's clock was read later");
    }
}
