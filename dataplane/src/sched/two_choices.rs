//! `twos`: two reals are drawn, weight by weight, and the less loaded takes it (`ip_vs_twos.c`;
//! Mitzenmacher, "The power of two choices in randomized load balancing", 2001).
//!
//! The randomness is a hash of the shared position: no clock, no seed, and no two workers draw the
//! same numbers.

use super::hash::{mix, scale};
use super::load::Loads;
use super::{Shared, Target, available, candidates, overhead};

/// The less loaded of two drawn reals.
#[derive(Debug)]
pub struct TwoChoices {
    /// Sum of the weights up to and including each target.
    sums: Box<[u32]>,
}

impl TwoChoices {
    pub(super) fn build(targets: &[Target]) -> Self {
        let sums = targets.iter().scan(0, |sum, target| {
            *sum += u32::from(target.weight.get());
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    pub(super) fn pick(&self, targets: &[Target], loads: &Loads, shared: &Shared) -> Option<usize> {
        let random = mix(shared.claim());
        let draws = [random, mix(random)];
        let [first, second] = match draws.map(|draw| self.draw(draw)) {
            [Some(a), Some(b)] if [a, b].iter().all(|&i| available(targets, loads, i)) => [a, b],
            // Fresh numbers: these have just shown where they lie.
            _ => among_available(draws.map(|draw| mix(!draw)), targets, loads)?,
        };
        // The first of equals, as the kernel does.
        let cost =
            |index: usize| targets.get(index).map(|t| (overhead(loads.of(t.real)), t.weight));
        let ((load_a, weight_a), (load_b, weight_b)) = (cost(first)?, cost(second)?);
        let second_is_better =
            load_b * u64::from(weight_a.get()) < load_a * u64::from(weight_b.get());
        Some(if second_is_better { second } else { first })
    }

    fn draw(&self, random: u64) -> Option<usize> {
        let place = scale(random, *self.sums.last()? as usize) as u32;
        let index = self.sums.partition_point(|&sum| sum <= place);
        (index < self.sums.len()).then_some(index)
    }
}

/// The same draw among those that are available now: a walk, so only when one drawn was not.
fn among_available(draws: [u64; 2], targets: &[Target], loads: &Loads) -> Option<[usize; 2]> {
    let weight = |target: &Target| usize::from(target.weight.get());
    let total: usize = candidates(targets, loads).map(|(_, target)| weight(target)).sum();
    let mut left = draws.map(|draw| scale(draw, total));
    let mut drawn = [None; 2];
    let mut last = None;
    for (index, target) in candidates(targets, loads) {
        last = Some(index);
        for (left, drawn) in left.iter_mut().zip(&mut drawn) {
            match left.checked_sub(weight(target)) {
                _ if drawn.is_some() => {}
                Some(rest) => *left = rest,
                None => *drawn = last,
            }
        }
    }
    // `last` only if one became unavailable between the two walks.
    Some([drawn[0].or(last)?, drawn[1].or(last)?])
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Twos;

    use super::super::tests::{Bench, order};

    #[test]
    fn idle_reals_are_drawn_by_weight() {
        let counts = Bench::new(Twos, &[6, 3, 1, 0]).counts(20_000);
        let near = |count: u64, share: u64| count.abs_diff(share) < share / 10;
        assert!(near(counts[0], 12_000) && near(counts[1], 6_000) && near(counts[2], 2_000));
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn the_less_loaded_of_two_wins() {
        let bench = Bench::new(Twos, &[1, 1]);
        bench.load(0, 1, 0);
        let counts = bench.counts(8000);
        // Only when the loaded one is drawn twice.
        assert!(counts[0].abs_diff(2000) < 200, "{counts:?}");
    }

    #[test]
    fn load_is_measured_by_weight() {
        let bench = Bench::new(Twos, &[3, 1]);
        bench.load(0, 2, 0);
        bench.load(1, 1, 0);
        let counts = bench.counts(8000);
        // 2/3 beats 1/1 but when the second is drawn twice.
        assert!(counts[1].abs_diff(500) < 100, "{counts:?}");
    }

    #[test]
    fn an_overloaded_real_leaves_its_draws_to_the_others_by_weight() {
        let bench = Bench::new(Twos, &[6, 3, 1]).limited(0, 1);
        bench.load(0, 1, 0);
        let counts = bench.counts(8000);
        assert!(counts[1].abs_diff(6000) < 300 && counts[0] == 0, "{counts:?}");
    }

    #[test]
    fn the_draws_repeat_from_a_fresh_start() {
        let orders = [0, 1].map(|_| order(&Bench::new(Twos, &[1, 2, 3]), 200));
        assert_eq!(orders[0], orders[1]);
    }

    #[test]
    fn connections_that_stay_balance_far_better_than_chance() {
        let bench = Bench::new(Twos, &[1; 50]);
        let mut counts = [0u32; 50];
        for _ in 0..5000 {
            let index = bench.pick().unwrap();
            bench.load(index as u16, 1, 0);
            counts[index] += 1;
        }
        assert!(counts.iter().all(|count| (95..=105).contains(count)), "{counts:?}");
    }
}
