//! `lc`: the real with the fewest connections (`ip_vs_lc.c`).

use super::load::Loads;
use super::{Target, candidates, least, overhead};

/// The real with the fewest connections, whatever its weight.
#[derive(Debug)]
pub struct LeastConnections;

impl LeastConnections {
    pub(super) fn pick(&self, targets: &[Target], loads: &Loads) -> Option<usize> {
        least(candidates(targets, loads).map(|(i, t)| (i, overhead(loads.of(t.real)), 1)))
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Lc;

    use super::super::tests::pick_with;

    #[test]
    fn the_fewest_connections_win_an_active_one_counts_for_256() {
        for (loads, expected) in [
            ([(0, 0), (0, 0), (0, 0)], 0),
            ([(1, 0), (1, 0), (1, 0)], 0),
            ([(2, 0), (1, 0), (1, 0)], 1),
            ([(1, 0), (0, 255), (0, 254)], 2),
            ([(1, 0), (0, 256), (1, 1)], 0),
            ([(1, 0), (0, 255), (2, 0)], 1),
        ] {
            assert_eq!(pick_with(Lc, &[1, 9, 1], &loads), Some(expected), "{loads:?}");
        }
        assert_eq!(pick_with(Lc, &[0, 1, 1], &[(0, 0), (5, 0), (4, 0)]), Some(2));
    }
}
