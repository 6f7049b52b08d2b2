//! `lblcr`: a destination keeps a small set of reals, which grows under load (`ip_vs_lblcr.c`).
//!
//! The least loaded real of the set takes the connection. When that is overloaded in the sense of
//! `lblc`, the choice of `wlc` joins the set; a set that did not change for six minutes loses its
//! most loaded real. A set has at most eight reals (the kernel's has no limit); a ninth displaces
//! the most loaded one.

use super::cache::{Entry, Lookup};
use super::load::Loads;
use super::locality::busy;
use super::{Request, Shared, Target, WeightedLeastConnections, least, overhead};
use crate::address::RealId;

/// A destination keeps a set of reals.
#[derive(Debug)]
pub struct LocalityReplicated {
    lookup: Lookup,
}

impl LocalityReplicated {
    pub(super) fn build(targets: &[Target]) -> Self {
        Self { lookup: Lookup::new(targets) }
    }

    pub(super) fn pick(
        &self,
        request: &Request,
        targets: &[Target],
        loads: &Loads,
        shared: &Shared,
    ) -> Option<usize> {
        let now = request.now;
        let Some(entry) = shared.cache.find(request.destination, now) else {
            let index = WeightedLeastConnections.pick(targets, loads)?;
            shared.cache.replace(request.destination, targets.get(index)?.real, now);
            return Some(index);
        };
        let members = entry.members().filter_map(|real| {
            let index = self.lookup.find(real)?;
            let target = targets.get(index).filter(|target| target.available(loads))?;
            Some((index, overhead(loads.of(real)), u64::from(target.weight.get())))
        });
        let chosen = least(members);
        if entry.settled(now)
            && entry.members().count() > 1
            && let Some(real) = self.most_loaded(entry, targets, loads)
        {
            entry.remove(real, now);
        }
        if let Some(index) = chosen
            && let Some(target) = targets.get(index)
            && !busy(target, targets, loads)
        {
            return Some(index);
        }
        let index = WeightedLeastConnections.pick(targets, loads)?;
        let real = targets.get(index)?.real;
        if !entry.insert(real, now)
            && let Some(displaced) = self.most_loaded(entry, targets, loads)
        {
            entry.remove(displaced, now);
            entry.insert(real, now);
        }
        Some(index)
    }

    /// The member to let go: one that is no target any more or drained, else the most loaded for
    /// its weight.
    fn most_loaded(&self, entry: &Entry, targets: &[Target], loads: &Loads) -> Option<RealId> {
        let cost = |real: RealId| {
            let target = self.lookup.find(real).and_then(|index| targets.get(index));
            let weight = target.map_or(0, |target| u64::from(target.weight.get()));
            (real, overhead(loads.of(real)), weight)
        };
        let most = entry.members().map(cost).max_by(|(_, load_a, a), (_, load_b, b)| {
            (*a == 0).cmp(&(*b == 0)).then_with(|| (load_a * b).cmp(&(load_b * a)))
        });
        most.map(|(real, ..)| real)
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Lblcr;

    use super::super::tests::{Bench, to};
    use super::*;

    /// The set of destination 1.
    fn set(bench: &Bench, seconds: u64) -> Vec<u16> {
        let request = to(1, seconds);
        let entry = bench.shared().cache.find(request.destination, request.now).unwrap();
        let mut set: Vec<u16> = entry.members().map(|real| real.0).collect();
        set.sort_unstable();
        set
    }

    #[test]
    fn the_set_grows_under_load_and_its_least_loaded_serves() {
        let bench = Bench::new(Lblcr, &[2, 2, 2]);
        assert_eq!(bench.pick_for(&to(1, 0)), Some(0));
        bench.load(0, 2, 0);
        assert_eq!(bench.pick_for(&to(1, 1)), Some(0), "not over its weight");
        bench.load(0, 1, 0);
        assert_eq!(bench.pick_for(&to(1, 2)), Some(1));
        assert_eq!(set(&bench, 2), [0, 1]);
        bench.load(1, 1, 0);
        assert_eq!(bench.pick_for(&to(1, 3)), Some(1), "C is idle, but not in the set");
        bench.load(1, 4, 0);
        bench.load(2, 1, 0);
        assert_eq!(bench.pick_for(&to(1, 4)), Some(0), "C has half its weight: nobody joins");
    }

    #[test]
    fn a_set_unchanged_for_six_minutes_loses_its_most_loaded_real() {
        let bench = Bench::new(Lblcr, &[2, 2]);
        bench.pick_for(&to(1, 0));
        bench.load(0, 3, 0);
        bench.pick_for(&to(1, 10));
        for second in (10..=369).step_by(60) {
            bench.pick_for(&to(1, second));
            assert_eq!(set(&bench, second), [0, 1]);
        }
        assert_eq!(bench.pick_for(&to(1, 371)), Some(1));
        assert_eq!(set(&bench, 371), [1]);
        bench.pick_for(&to(1, 700));
        bench.pick_for(&to(1, 800));
        assert_eq!(set(&bench, 800), [1], "the last one stays");
    }

    #[test]
    fn a_set_has_at_most_eight_reals() {
        let bench = Bench::new(Lblcr, &[10; 12]);
        for second in 0..12 {
            let index = bench.pick_for(&to(1, second)).unwrap();
            bench.load(index as u16, 11 + second as u32, 0);
        }
        // Each was overloaded in turn; the most loaded gave way to the newest.
        let set = set(&bench, 12);
        assert_eq!(set.len(), 8);
        assert!(set.contains(&11) && !set.contains(&7), "{set:?}");
    }

    #[test]
    fn a_real_that_is_gone_leaves_the_set_before_a_loaded_one() {
        let bench = Bench::new(Lblcr, &[2, 2, 2]);
        bench.pick_for(&to(1, 0));
        bench.load(0, 3, 0);
        bench.pick_for(&to(1, 1));
        bench.load(1, 4, 0);
        assert_eq!(set(&bench, 1), [0, 1]);
        bench.unload(0, 3);
        let bench = bench.reload(|targets| {
            targets.remove(0);
        });
        bench.pick_for(&to(1, 2));
        assert_eq!(set(&bench, 2), [0, 1, 2]);
        for second in [300, 371] {
            bench.pick_for(&to(1, second));
        }
        assert_eq!(set(&bench, 371), [1, 2]);
    }

    #[test]
    fn a_set_whose_reals_are_gone_or_full_takes_another() {
        let bench = Bench::new(Lblcr, &[2, 2, 2]);
        assert_eq!(bench.pick_for(&to(1, 0)), Some(0));
        let bench = bench.reload(|targets| {
            targets.remove(0);
        });
        let index = bench.pick_for(&to(1, 1)).unwrap();
        assert_eq!(bench.targets()[index].real, RealId(1));
        let bench = bench.limited(0, 1);
        bench.load(1, 1, 0);
        let index = bench.pick_for(&to(1, 2)).unwrap();
        assert_eq!(bench.targets()[index].real, RealId(2));
    }
}
