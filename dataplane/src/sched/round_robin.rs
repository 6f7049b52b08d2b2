//! `rr`: each real in turn, whatever its weight (`ip_vs_rr.c`).

use super::load::Loads;
use super::{Shared, Target, available};

/// Each real in turn.
#[derive(Debug)]
pub struct RoundRobin {
    /// Targets with a weight.
    members: Box<[u16]>,
}

impl RoundRobin {
    pub(super) fn build(targets: &[Target]) -> Self {
        let weights = targets.iter().map(|target| target.weight.get());
        Self { members: (0..).zip(weights).filter(|&(_, w)| w > 0).map(|(i, _)| i).collect() }
    }

    pub(super) fn pick(&self, targets: &[Target], loads: &Loads, shared: &Shared) -> Option<usize> {
        let available = |index| available(targets, loads, index);
        shared.rotate(
            available,
            |position| self.at(position),
            |from| {
                let positions = from..from.saturating_add(self.members.len() as u64);
                positions
                    .filter_map(|position| Some((position, self.at(position)?)))
                    .find(|&(_, index)| available(index))
            },
        )
    }

    fn at(&self, position: u64) -> Option<usize> {
        let turn = position.checked_rem(self.members.len() as u64)?;
        self.members.get(turn as usize).map(|&index| usize::from(index))
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Rr;

    use super::super::tests::{Bench, order};

    #[test]
    fn each_in_turn_whatever_its_weight() {
        assert_eq!(order(&Bench::new(Rr, &[9, 1, 4]), 7), "ABCABCA");
        assert_eq!(order(&Bench::new(Rr, &[9, 0, 4, 0]), 5), "ACACA");
    }

    #[test]
    fn the_turn_of_an_overloaded_real_goes_to_nobody_in_particular() {
        let bench = Bench::new(Rr, &[1, 1, 1, 1]).limited(1, 2);
        bench.load(1, 2, 0);
        assert_eq!(order(&bench, 9), "ACDACDACD", "C gets no double share");
        bench.unload(1, 2);
        assert_eq!(order(&bench, 4), "ABCD");
    }

    #[test]
    fn a_reload_goes_on_where_it_was() {
        let bench = Bench::new(Rr, &[1, 1, 1]);
        assert_eq!(order(&bench, 2), "AB");
        assert_eq!(order(&bench.reload(|_| {}), 2), "CA");
    }
}
