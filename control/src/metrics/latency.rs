//! How long checks take, in buckets.

use std::collections::BTreeMap;
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds; what takes longer is counted beyond them.
pub(super) const BOUNDS_US: [u64; 14] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) counts: [u64; BOUNDS_US.len() + 1],
    pub(super) total_us: u64,
}

/// Times of checks by type.
#[derive(Debug, Default)]
pub struct Latency {
    pub(super) types: BTreeMap<&'static str, Buckets>,
}

impl Latency {
    /// Counts one run of a check of this type.
    pub fn record(&mut self, kind: &'static str, took: Duration) {
        let buckets = self.types.entry(kind).or_default();
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = buckets.counts.get_mut(at) {
            *count += 1;
        }
        buckets.total_us = buckets.total_us.saturating_add(us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_holds_it() {
        let mut latency = Latency::default();
        for us in [0, 500, 501, 1_000_000, 10_000_001, u64::MAX] {
            latency.record("tcp", Duration::from_micros(us));
        }
        let buckets = &latency.types["tcp"];
        let filled: Vec<_> = buckets.counts.iter().enumerate().filter(|(_, n)| **n > 0).collect();
        assert_eq!(filled, [(0, &2), (1, &1), (10, &1), (14, &2)]);
    }
}
