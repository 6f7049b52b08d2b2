//! How well it goes: what would live on, how late the peer is, how much there is of it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::limits::{LATENCY_NS, RATE_NS};

/// What is remembered of an item until the peer has applied it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// When the first of its changes happened, on the data plane's clock.
    pub since_ns: Option<u64>,
    /// They are changes as they came, not part of a pass: how late they are is measured.
    pub live: bool,
    /// Records in it.
    pub records: u16,
    /// Of them, those that are not removals.
    pub upserts: u16,
    /// It is the end of this pass over all.
    pub end: Option<u16>,
    /// Everything that happened before this moment has been said by now; 0: not known.
    pub clean_ns: u64,
}

/// How late changes are known to the peer, in microseconds, over the last ten to twenty seconds;
/// while a pass is made it is not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Changes counted.
    pub count: u64,
    /// Half of them are faster.
    pub p50_us: u64,
    /// 99 of 100 are.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// What happened in the last whole second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Records sent.
    pub records_out: u64,
    /// Records received.
    pub records_in: u64,
    /// Bytes sent, in datagrams.
    pub bytes_out: u64,
    /// Bytes received, in datagrams that were the peer's.
    pub bytes_in: u64,
}

/// Counts and measures.
pub(super) struct Meter {
    latency: [Histogram<u64>; 2],
    turned_ns: u64,
    counting: Rates,
    rates: Rates,
    counted_ns: u64,
    /// Sent, received, since the start.
    pub(super) totals: Rates,
}

/// Up to ten minutes in microseconds, to two figures: 15 KB, and no growth.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 2).expect("the bounds are constants that fit")
}

impl Meter {
    pub(super) fn new(now: u64) -> Self {
        let latency = [histogram(), histogram()];
        let (counting, rates) = (Rates::default(), Rates::default());
        Self { latency, turned_ns: now, counting, rates, counted_ns: now, totals: rates }
    }

    /// The peer has applied what `mark` stands for.
    pub(super) fn applied(&mut self, mark: &Mark, now: u64) {
        if let Some(since) = mark.since_ns.filter(|_| mark.live) {
            let us = now.saturating_sub(since) / 1000;
            self.latency[0].saturating_record_n(us.max(1), u64::from(mark.records));
        }
    }

    pub(super) fn sent(&mut self, records: u64, bytes: usize) {
        for rates in [&mut self.counting, &mut self.totals] {
            rates.records_out += records;
            rates.bytes_out += bytes as u64;
        }
    }

    pub(super) fn received(&mut self, records: u64, bytes: usize) {
        for rates in [&mut self.counting, &mut self.totals] {
            rates.records_in += records;
            rates.bytes_in += bytes as u64;
        }
    }

    pub(super) fn tick(&mut self, now: u64) {
        let passed = now.saturating_sub(self.counted_ns);
        if passed >= RATE_NS {
            let each = |n: u64| {
                u64::try_from(u128::from(n) * 1_000_000_000 / u128::from(passed)).unwrap_or(0)
            };
            let c = std::mem::take(&mut self.counting);
            self.rates = Rates {
                records_out: each(c.records_out),
                records_in: each(c.records_in),
                bytes_out: each(c.bytes_out),
                bytes_in: each(c.bytes_in),
            };
            self.counted_ns = now;
        }
        if now.saturating_sub(self.turned_ns) >= LATENCY_NS {
            self.latency.swap(0, 1);
            self.latency[0].reset();
            self.turned_ns = now;
        }
    }

    pub(super) fn rates(&self) -> Rates {
        self.rates
    }

    pub(super) fn latency(&self) -> Latency {
        let mut both = self.latency[0].clone();
        // Same bounds: it cannot fail.
        let _ = both.add(&self.latency[1]);
        Latency {
            count: both.len(),
            p50_us: both.value_at_quantile(0.5),
            p99_us: both.value_at_quantile(0.99),
            max_us: both.max(),
        }
    }
}
