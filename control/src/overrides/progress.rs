//! How a drain gets on: how many connections are left, and when the last will have ended.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

/// How far back the rate is taken from.
const WINDOW: Duration = Duration::from_secs(120);
/// Samples kept; with one each two seconds they fill the window.
const SAMPLES_MAX: usize = 64;

/// Samples of the number of connections of one real that takes no new ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    samples: VecDeque<(Instant, u64)>,
    /// Connections at the first sample.
    first: Option<u64>,
}

impl Progress {
    /// Takes in how many there are now.
    pub fn sample(&mut self, live: u64, now: Instant) {
        self.first.get_or_insert(live);
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, live));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| at.after(WINDOW) < now)
        {
            self.samples.pop_front();
        }
    }

    /// Connections at the last sample; `None` before the first.
    #[must_use]
    pub fn live(&self) -> Option<u64> {
        self.samples.back().map(|(_, live)| *live)
    }

    /// Connections at the first sample.
    #[must_use]
    pub const fn first(&self) -> Option<u64> {
        self.first
    }

    /// How long until the last has ended, if they go on ending at the rate of the last two minutes;
    /// `None` if none ended, or it is too early to tell.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let (from, before) = self.samples.front()?;
        let (to, live) = self.samples.back()?;
        if *live == 0 {
            return Some(Duration::ZERO);
        }
        let ended = before.saturating_sub(*live);
        let took = to.since(*from);
        let left = live.checked_mul(took)?.checked_div(ended)?;
        Some(Duration::from_millis(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(samples: &[(u64, u64)]) -> Progress {
        let mut progress = Progress::default();
        for (s, live) in samples {
            progress.sample(*live, Instant::from_millis(s * 1000));
        }
        progress
    }

    #[test]
    fn the_end_is_estimated_from_the_rate_at_which_connections_end() {
        assert_eq!(Progress::default().left(), None);
        assert_eq!(progress(&[(0, 100)]).left(), None, "too early");
        assert_eq!(progress(&[(0, 100), (10, 90)]).left(), Some(Duration::from_secs(90)));
        assert_eq!(progress(&[(0, 100), (10, 100)]).left(), None, "none ends");
        assert_eq!(progress(&[(0, 5), (10, 7)]).left(), None, "persistence brings more");
        assert_eq!(progress(&[(0, 5), (10, 0)]).left(), Some(Duration::ZERO));
        let (live, first) =
            (progress(&[(0, 9), (1, 4)]).live(), progress(&[(0, 9), (1, 4)]).first());
        assert_eq!((live, first), (Some(4), Some(9)));
    }

    #[test]
    fn only_the_last_two_minutes_count() {
        // A thousand ended at once, long ago; since then one each ten seconds.
        let mut samples = vec![(0, 2000), (2, 1000)];
        samples.extend((1..=30).map(|n| (2 + n * 10, 1000 - n)));
        let left = progress(&samples).left().unwrap();
        assert_eq!(left, Duration::from_secs(970 * 10));
    }

    #[test]
    fn samples_are_bounded() {
        let samples: Vec<_> = (0..10_000).map(|n| (n / 100, 5)).collect();
        assert!(progress(&samples).samples.len() <= SAMPLES_MAX);
    }
}
