//! `wlc`: the real with the fewest connections for its weight (`ip_vs_wlc.c`).

use super::load::Loads;
use super::{Target, candidates, least, overhead};

/// The real with the fewest connections for its weight.
#[derive(Debug)]
pub struct WeightedLeastConnections;

impl WeightedLeastConnections {
    pub(super) fn pick(&self, targets: &[Target], loads: &Loads) -> Option<usize> {
        least(candidates(targets, loads).map(|(index, target)| {
            (index, overhead(loads.of(target.real)), u64::from(target.weight.get()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Wlc;

    use super::super::tests::{Bench, pick_with};

    #[test]
    fn the_fewest_connections_for_the_weight_win() {
        for (weights, loads, expected) in [
            ([1, 1, 1], [(0, 0), (0, 0), (0, 0)], 0),
            ([1, 2, 3], [(1, 0), (2, 0), (3, 0)], 0),
            ([1, 2, 3], [(1, 0), (2, 0), (2, 0)], 2),
            ([4, 2, 1], [(4, 1), (2, 0), (1, 1)], 1),
            ([65535, 65534, 1], [(300, 0), (299, 0), (0, 1)], 2),
            ([65535, 65534, 0], [(300, 0), (300, 0), (0, 0)], 0),
            ([0, 1, 1], [(0, 0), (9, 0), (8, 0)], 2),
        ] {
            assert_eq!(pick_with(Wlc, &weights, &loads), Some(expected), "{weights:?} {loads:?}");
        }
    }

    #[test]
    fn connections_that_stay_end_up_in_proportion_to_the_weights() {
        let bench = Bench::new(Wlc, &[5, 3, 2]);
        let mut counts = [0; 3];
        for _ in 0..1000 {
            let index = bench.pick().unwrap();
            bench.load(index as u16, 1, 0);
            counts[index] += 1;
        }
        assert_eq!(counts, [500, 300, 200]);
    }
}
