//! How regularly beats come, and what that says of `deadtime`.

use hdrhistogram::Histogram;

use crate::failover::exchange::Nanos;
use crate::failover::view::DeadtimeView;

/// Longest gap told apart from longer ones, in microseconds.
const LONGEST: u64 = 60_000_000;
/// Gaps from which on anything is said of their tail.
const ENOUGH: u64 = 200;
/// Gaps after which the older half counts half: the picture follows the network in about a day of
/// `keepalive = "50ms"`.
const REMEMBERED: u64 = 1_000_000;
/// Beats of the longest deadtime that is suggested.
const LONGEST_ADVICE: u64 = 1200;
const YEAR_NS: f64 = 365.25 * 86_400e9;
/// Chance of a false failover that the suggested deadtime stays under, in each year.
const TOLERABLE: f64 = 0.1;

/// Gaps between beats, on one path or over all.
#[derive(Debug)]
pub struct Gaps {
    histogram: Histogram<u32>,
    last: Option<Nanos>,
    /// Longest ever, in microseconds.
    max_us: u64,
}

impl Default for Gaps {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 2);
        let histogram = histogram.expect("bounds and digits are in the permitted range");
        Self { histogram, last: None, max_us: 0 }
    }
}

impl Gaps {
    /// A beat has come; how long after the one before, in nanoseconds.
    pub fn beat(&mut self, now: Nanos) -> Option<Nanos> {
        let gap = now.saturating_sub(self.last.replace(now)?);
        let us = (gap / 1000).clamp(1, LONGEST);
        if self.histogram.len() >= REMEMBERED {
            self.halve();
        }
        self.histogram.saturating_record(us);
        self.max_us = self.max_us.max(gap / 1000);
        Some(gap)
    }

    /// What follows is not a gap of the network: the peer was away, or we were.
    pub const fn interrupt(&mut self) {
        self.last = None;
    }

    /// Middle, 99th percentile and longest, in microseconds.
    #[must_use]
    pub fn summary(&self) -> (u64, u64, u64) {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        (at(0.5), at(0.99), self.max_us)
    }

    fn halve(&mut self) {
        let counts: Vec<(u64, u32)> = self
            .histogram
            .iter_recorded()
            .map(|v| (v.value_iterated_to(), v.count_at_value().div_ceil(2)))
            .collect();
        self.histogram.reset();
        for (value, count) in counts {
            self.histogram.saturating_record_n(value, count);
        }
    }

    /// Share of the gaps that are longer. Beyond what was seen often enough to count it, the tail
    /// goes on as an exponential: as steep as it was between its 50th and its last percentiles.
    fn beyond(&self, us: u64) -> f64 {
        let total = self.histogram.len() as f64;
        let longer = total - self.histogram.count_between(0, us.min(LONGEST)) as f64;
        if longer >= 10.0 {
            return longer / total;
        }
        let tail = 10.0 / total;
        let (from, to) = (self.histogram.value_at_quantile(0.5), self.at(1.0 - tail));
        // A line that never varies still has the resolution of a scheduler.
        let scale = ((to.saturating_sub(from)) as f64 / (0.5 / tail).ln()).max(100.0);
        tail * (-(us.saturating_sub(to) as f64) / scale).exp()
    }

    fn at(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// What the gaps say of a deadtime.
    #[must_use]
    pub fn advise(&self, deadtime: Nanos, keepalive: Nanos) -> DeadtimeView {
        let samples = self.histogram.len();
        let configured_ms = deadtime / 1_000_000;
        if samples < ENOUGH {
            let text = format!("{samples} of {ENOUGH} gaps measured that it takes to say anything");
            return DeadtimeView { configured_ms, samples, text, ..DeadtimeView::default() };
        }
        let a_year = YEAR_NS / keepalive as f64;
        let false_per_year = self.beyond(deadtime / 1000) * a_year;
        // The chance only falls with the deadtime.
        let safe = |beats: u64| self.beyond(beats * keepalive / 1000) * a_year < TOLERABLE;
        let (mut low, mut high) = (3, LONGEST_ADVICE + 1);
        while low < high {
            let middle = low.midpoint(high);
            (low, high) = if safe(middle) { (low, middle) } else { (middle + 1, high) };
        }
        let suggested = (low <= LONGEST_ADVICE).then_some(low * keepalive);
        let suggested_ms = suggested.map(|dead| dead.div_ceil(1_000_000));
        let expected = match false_per_year {
            n if n < 0.001 => "practically none".to_owned(),
            n if n < 10.0 => format!("{n:.3}"),
            n => format!("{n:.0}"),
        };
        let advice = match suggested_ms {
            Some(ms) if ms > configured_ms => format!("; {ms}ms would be safer"),
            Some(ms) if ms < configured_ms => format!("; {ms}ms would do"),
            Some(_) => String::new(),
            None => "; no deadtime would be safe on these paths".to_owned(),
        };
        let text = format!("false failovers in a year: {expected}{advice}");
        DeadtimeView {
            configured_ms,
            samples,
            false_per_year: Some(false_per_year),
            suggested_ms,
            text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn measured(gaps: impl Iterator<Item = u64>) -> Gaps {
        let (mut out, mut now) = (Gaps::default(), 0);
        for gap in gaps {
            out.beat(now);
            now += gap;
        }
        out
    }

    #[test]
    fn a_steady_line_bears_a_short_deadtime_and_a_lossy_one_does_not() {
        let steady = measured((0..50_000).map(|i| 10 * MS + i % 7 * 20_000));
        let advice = steady.advise(40 * MS, 10 * MS);
        assert!(advice.false_per_year.unwrap() < 0.001, "{advice:?}");
        assert_eq!(advice.suggested_ms, Some(30));
        // One beat in ten is lost, independently: gaps of n + 1 intervals.
        let mut seed = 1_u64;
        let lossy = measured((0..50_000).map(move |_| {
            let mut gap = 10 * MS;
            loop {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if !(seed >> 33).is_multiple_of(10) {
                    return gap;
                }
                gap += 10 * MS;
            }
        }));
        let advice = lossy.advise(40 * MS, 10 * MS);
        let expected = advice.false_per_year.unwrap();
        // Four intervals and more: four losses in a row, 1 in 10,000 of 3,155,760,000 beats a year.
        assert!((50_000.0..1_000_000.0).contains(&expected), "{advice:?}");
        let suggested = advice.suggested_ms.unwrap();
        assert!((80..=200).contains(&suggested), "{advice:?}");
        assert!(advice.text.contains("would be safer"));
    }

    #[test]
    fn little_measured_says_nothing_and_an_interruption_is_no_gap() {
        let mut gaps = measured((0..100).map(|_| 10 * MS));
        assert_eq!(gaps.advise(40 * MS, 10 * MS).false_per_year, None);
        gaps.interrupt();
        assert_eq!(gaps.beat(3600 * 1000 * MS), None);
        assert!(gaps.summary().2 < 20_000);
    }

    #[test]
    fn the_memory_of_gaps_is_bounded_and_forgets() {
        let mut gaps = measured((0..REMEMBERED).map(|_| 50 * MS));
        assert!(gaps.histogram.len() <= REMEMBERED);
        let mut now = REMEMBERED * 50 * MS;
        for _ in 0..2 * REMEMBERED {
            now += 5 * MS;
            gaps.beat(now);
        }
        assert!(gaps.histogram.len() <= REMEMBERED);
        assert!((4_900..5_100).contains(&gaps.summary().0), "{:?}", gaps.summary());
    }
}
