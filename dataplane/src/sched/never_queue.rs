//! `nq`: an idle real if there is one, else the one with the shortest expected delay
//! (`ip_vs_nq.c`).

use super::load::Loads;
use super::{ShortestExpectedDelay, Target, candidates};

/// An idle real (no active connection) first, the first of them; else as `sed`.
#[derive(Debug)]
pub struct NeverQueue;

impl NeverQueue {
    pub(super) fn pick(&self, targets: &[Target], loads: &Loads) -> Option<usize> {
        candidates(targets, loads)
            .find(|(_, target)| loads.of(target.real).active() == 0)
            .map(|(index, _)| index)
            .or_else(|| ShortestExpectedDelay.pick(targets, loads))
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Nq;

    use super::super::tests::pick_with;

    #[test]
    fn an_idle_real_goes_first_however_slow_it_is() {
        for (weights, loads, expected) in [
            ([1, 100, 1], [(1, 0), (1, 0), (0, 7)], 2),
            ([1, 100, 1], [(0, 0), (0, 0), (0, 0)], 0),
            ([1, 3, 1], [(1, 0), (2, 0), (1, 0)], 1),
            ([1, 3, 0], [(1, 0), (2, 0), (0, 0)], 1),
        ] {
            assert_eq!(pick_with(Nq, &weights, &loads), Some(expected), "{weights:?} {loads:?}");
        }
    }
}
