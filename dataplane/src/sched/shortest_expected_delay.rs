//! `sed`: the real that would finish the connection first, its own included (`ip_vs_sed.c`).

use super::load::Loads;
use super::{Target, candidates, least};

/// The real with the least `(active + 1) / weight`.
#[derive(Debug)]
pub struct ShortestExpectedDelay;

impl ShortestExpectedDelay {
    pub(super) fn pick(&self, targets: &[Target], loads: &Loads) -> Option<usize> {
        least(candidates(targets, loads).map(|(index, target)| {
            let delay = u64::from(loads.of(target.real).active()) + 1;
            (index, delay, u64::from(target.weight.get()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Sed;

    use super::super::tests::pick_with;

    #[test]
    fn the_new_connection_counts_too_and_inactive_ones_do_not() {
        for (weights, loads, expected) in [
            ([1, 1, 1], [(0, 0), (0, 0), (0, 0)], 0),
            // Idle, but slow: 1/1 against 2/3.
            ([1, 3, 1], [(0, 0), (1, 0), (0, 0)], 1),
            ([1, 3, 1], [(0, 0), (2, 0), (0, 0)], 0),
            ([1, 1, 1], [(1, 0), (0, 900), (1, 0)], 1),
            ([0, 1, 2], [(0, 0), (1, 0), (3, 0)], 1),
        ] {
            assert_eq!(pick_with(Sed, &weights, &loads), Some(expected), "{weights:?} {loads:?}");
        }
    }
}
