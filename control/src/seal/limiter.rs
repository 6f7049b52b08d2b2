//! A token bucket: what is looked at before any proof is computed, so that a flood costs little.

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    /// Nanoseconds that one token takes to grow.
    cost: u64,
    /// Most nanoseconds that can be saved up.
    most: u64,
    saved: u64,
    last: u64,
}

impl Limiter {
    /// A full bucket. `per_second` is 1 to 10^9, `burst` at least 1.
    #[must_use]
    pub fn new(per_second: u64, burst: u64, now: u64) -> Self {
        let cost = 1_000_000_000 / per_second.clamp(1, 1_000_000_000);
        let most = cost.saturating_mul(burst.max(1));
        Self { cost, most, saved: most, last: now }
    }

    /// Takes a token, if there is one. `now` in nanoseconds.
    pub fn take(&mut self, now: u64) -> bool {
        let grown = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        self.saved = self.saved.saturating_add(grown).min(self.most);
        let enough = self.saved >= self.cost;
        if enough {
            self.saved -= self.cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let mut limiter = Limiter::new(100, 5, 0);
        assert_eq!((0..50).filter(|_| limiter.take(0)).count(), 5);
        // A flood of a hundred thousand for two seconds.
        let taken = (1..=200_000).filter(|i| limiter.take(i * 10_000)).count();
        assert_eq!(taken, 200);
        assert!(limiter.take(u64::MAX) && limiter.take(0), "time that runs backwards is no time");
    }
}
