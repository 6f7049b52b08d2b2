//! `fo`: always the heaviest available real (`ip_vs_fo.c`).

use super::load::Loads;
use super::{Target, candidates};

/// The heaviest available real, the first of equals.
#[derive(Debug)]
pub struct Failover;

impl Failover {
    pub(super) fn pick(&self, targets: &[Target], loads: &Loads) -> Option<usize> {
        heaviest(candidates(targets, loads))
    }
}

/// The first of the heaviest targets (`max_by_key` would take the last).
pub(super) fn heaviest<'a>(targets: impl Iterator<Item = (usize, &'a Target)>) -> Option<usize> {
    targets
        .reduce(|best, next| if next.1.weight > best.1.weight { next } else { best })
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Fo;

    use super::super::tests::{Bench, order, pick_with};

    #[test]
    fn the_heaviest_takes_all_whatever_its_load() {
        for (weights, expected) in
            [([1, 5, 3], Some(1)), ([5, 5, 3], Some(0)), ([0, 0, 1], Some(2)), ([0, 0, 0], None)]
        {
            assert_eq!(pick_with(Fo, &weights, &[(9, 0), (9, 0), (0, 0)]), expected);
        }
    }

    #[test]
    fn the_next_takes_over_and_gives_back() {
        let bench = Bench::new(Fo, &[1, 5, 3]).limited(1, 4);
        bench.load(1, 4, 0);
        assert_eq!(order(&bench, 3), "CCC");
        bench.unload(1, 2);
        assert_eq!(order(&bench, 3), "BBB");
    }
}
