//! `wrr`: each real in turn, the heavier ones more often (`ip_vs_wrr.c`).
//!
//! LVS walks rows: the first takes only the heaviest reals, each further row also those whose
//! weight is one step (the greatest common divisor) lower, the last row takes all. Weights 4, 3, 2
//! give A, AB, ABC, ABC, and again. Here nothing walks: consecutive rows of equal members form a
//! *band*, a position is turned into band and rank by binary search, and the real of that rank is
//! read off a [`Ranks`] of the reals sorted by weight. So any weights cost the same, and one
//! counter is all that workers share.

use super::load::Loads;
use super::{Shared, Target, available, common_divisor};

/// Each real in turn, the heavier ones more often.
#[derive(Debug)]
pub struct WeightedRoundRobin {
    /// Weight of each target, divided by their common divisor.
    weights: Box<[u16]>,
    bands: Box<[Band]>,
    ranks: Ranks,
    /// Positions until the order repeats: the sum of `weights`, 0 if all are 0.
    period: u64,
}

/// Consecutive rows with the same members.
#[derive(Debug)]
struct Band {
    /// Position of its first row.
    start: u64,
    /// Targets of at least this weight are in.
    weight: u16,
    /// How many those are.
    members: u32,
}

/// A position, resolved.
struct Turn<'a> {
    band: &'a Band,
    /// Position in the period.
    within: u64,
    index: usize,
}

impl WeightedRoundRobin {
    pub(super) fn build(targets: &[Target]) -> Self {
        let divisor = common_divisor(targets);
        let weights: Box<[u16]> = targets.iter().map(|t| t.weight.get() / divisor).collect();
        let mut heaviest_first: Vec<u32> =
            (0..).zip(&weights).filter(|&(_, &w)| w > 0).map(|(i, _)| i).collect();
        heaviest_first.sort_by_key(|&index| std::cmp::Reverse(weights[index as usize]));

        let mut bands = Vec::new();
        let mut period = 0;
        let mut sorted = heaviest_first.iter().map(|&i| weights[i as usize]).zip(1u32..).peekable();
        while let Some((weight, members)) = sorted.next() {
            let lighter = sorted.peek().map_or(0, |&(weight, _)| weight);
            if lighter < weight {
                bands.push(Band { start: period, weight, members });
                period += u64::from(weight - lighter) * u64::from(members);
            }
        }
        let ranks = Ranks::new(&heaviest_first);
        Self { weights, bands: bands.into(), ranks, period }
    }

    pub(super) fn pick(&self, targets: &[Target], loads: &Loads, shared: &Shared) -> Option<usize> {
        let available = |index| available(targets, loads, index);
        shared.rotate(
            available,
            |position| self.turn(position).map(|turn| turn.index),
            |from| self.next(from, available),
        )
    }

    /// Whose turn it is at `position`.
    fn turn(&self, position: u64) -> Option<Turn<'_>> {
        let within = position.checked_rem(self.period)?;
        let after = self.bands.partition_point(|band| band.start <= within);
        let band = self.bands.get(after.checked_sub(1)?)?;
        let members = u64::from(band.members);
        let rank = (within - band.start).checked_rem(members)? as u32;
        let index = self.ranks.select(band.members, rank) as usize;
        Some(Turn { band, within, index })
    }

    /// The first position from `from` on whose target is available.
    fn next(&self, from: u64, available: impl Fn(usize) -> bool) -> Option<(u64, usize)> {
        let (heaviest, fallback) = self
            .weights
            .iter()
            .zip(0..)
            .filter(|&(&weight, index)| weight > 0 && available(index))
            .map(|(&weight, index)| (weight, index))
            .max_by_key(|&(weight, _)| weight)?;
        // Bands above the heaviest available target hold nobody; from there on, every row holds it.
        // So four steps suffice: rest of this row, rest of the period, jump, one whole row.
        let mut position = from;
        for _ in 0..4 {
            let turn = self.turn(position)?;
            if turn.band.weight > heaviest {
                let open = self.bands.partition_point(|band| band.weight > heaviest);
                position += self.bands.get(open)?.start - turn.within;
                continue;
            }
            let rest = self.weights.iter().enumerate().skip(turn.index);
            for (index, _) in rest.filter(|&(_, &weight)| weight >= turn.band.weight) {
                if available(index) {
                    return Some((position, index));
                }
                position += 1;
            }
        }
        // Only if the target became unavailable meanwhile.
        Some((position, fallback))
    }
}

/// Answers "which is the `rank`-th smallest of the first `len` values" in as many steps as the
/// values have bits: a wavelet matrix (Claude, Navarro, Ordóñez: "The wavelet matrix", 2015), with
/// plain counts in place of bit vectors.
#[derive(Debug)]
struct Ranks {
    /// For each bit, highest first: how many of the values before a place have it clear. Values
    /// with the bit clear come first on the next level.
    levels: Box<[Box<[u32]>]>,
}

impl Ranks {
    fn new(values: &[u32]) -> Self {
        let bits = values.iter().max().map_or(0, |max| u32::BITS - max.leading_zeros());
        let mut values = values.to_vec();
        let levels = (0..bits).rev().map(|bit| {
            let clear = |value: &u32| value >> bit & 1 == 0;
            let mut count = 0;
            let mut before = vec![0];
            before.extend(values.iter().map(|value| {
                count += u32::from(clear(value));
                count
            }));
            let (first, second): (Vec<u32>, Vec<u32>) = values.iter().partition(|v| clear(v));
            values = [first, second].concat();
            before.into_boxed_slice()
        });
        Self { levels: levels.collect() }
    }

    /// `rank` must be less than `len`, and `len` at most the number of values.
    fn select(&self, len: u32, mut rank: u32) -> u32 {
        let (mut first, mut end, mut value) = (0, len, 0);
        for before in &self.levels {
            let (clear_first, clear_end) = (before[first as usize], before[end as usize]);
            let clear = clear_end - clear_first;
            value <<= 1;
            if rank < clear {
                (first, end) = (clear_first, clear_end);
            } else {
                rank -= clear;
                value |= 1;
                let all = before[before.len() - 1];
                (first, end) = (all + first - clear_first, all + end - clear_end);
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Bench, Kernel, order};
    use super::*;
    use dataplane_api::service::Scheduler::Wrr;

    #[test]
    fn weights_4_3_2_give_the_classic_order_forever() {
        let bench = Bench::new(Wrr, &[4, 3, 2]);
        for _ in 0..1000 {
            assert_eq!(order(&bench, 9), "AABABCABC");
        }
    }

    #[test]
    fn a_common_divisor_changes_nothing() {
        assert_eq!(order(&Bench::new(Wrr, &[400, 300, 200]), 18), "AABABCABCAABABCABC");
    }

    #[test]
    fn an_overloaded_real_is_passed_over_and_the_others_keep_their_order() {
        let bench = Bench::new(Wrr, &[4, 3, 2]).limited(0, 1);
        bench.load(0, 1, 0);
        assert_eq!(order(&bench, 10), "BBCBCBBCBC");
    }

    #[test]
    fn extreme_weights_are_exact_and_a_huge_gap_is_jumped() {
        let bench = Bench::new(Wrr, &[65535, 1]);
        let picks = bench.counts(65536);
        assert_eq!(picks, [65535, 1]);
        let bench = bench.limited(0, 1);
        bench.load(0, 1, 0);
        assert_eq!(order(&bench, 3), "BBB");
    }

    #[test]
    fn eight_thousand_reals_of_different_weights_share_exactly() {
        let weights: Vec<u16> = (0..8192).map(|i| (i * 37 % 509) as u16).collect();
        let built = WeightedRoundRobin::build(Bench::new(Wrr, &weights).targets());
        let mut counts = vec![0u16; weights.len()];
        for position in 0..built.period {
            counts[built.turn(position).unwrap().index] += 1;
        }
        assert_eq!(counts, weights);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_kernel(
            weights in prop::collection::vec(prop_oneof![0u16..12, 0u16..400], 1..24),
            factor in 1u16..100,
            busy in any::<u32>(),
        ) {
            let weights: Vec<u16> = weights.iter().map(|w| w * factor).collect();
            for busy in [0, busy] {
                let mut bench = Bench::new(Wrr, &weights);
                let mut kernel = Kernel::new(&weights);
                for index in (0..weights.len()).filter(|index| busy >> index & 1 == 1) {
                    bench = bench.limited(index, 1);
                    bench.load(index as u16, 1, 0);
                    kernel.overload(index);
                }
                let picks = 3 * weights.iter().map(|w| usize::from(w / factor)).sum::<usize>();
                for pick in 0..picks.max(3) {
                    prop_assert_eq!(bench.pick(), kernel.pick(), "pick {} of {:?}", pick, weights);
                }
            }
        }

        #[test]
        fn a_period_gives_each_real_its_weight(
            weights in prop::collection::vec(0u16..300, 1..40),
        ) {
            let bench = Bench::new(Wrr, &weights);
            let divisor = u64::from(common_divisor(bench.targets()));
            let period = weights.iter().map(|&w| u64::from(w)).sum::<u64>() / divisor;
            let counts = bench.counts(period as usize);
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count * divisor, u64::from(*weight));
            }
        }
    }
}
