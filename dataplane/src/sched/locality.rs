//! `lblc`: a destination keeps its real while that is not overloaded (`ip_vs_lblc.c`).
//!
//! For services whose reals cache what lies behind many destinations. The real of a new destination
//! is that of `wlc`. It stays until it is gone, takes no connections, has more active connections
//! than its weight while another real has less than half of its own, or until no connection asked
//! for the destination for six minutes (see `cache`). The kernel keeps to a real over its upper
//! threshold; here no scheduler does.

use super::cache::Lookup;
use super::load::Loads;
use super::{Request, Shared, Target, WeightedLeastConnections, candidates};

/// A destination keeps its real.
#[derive(Debug)]
pub struct Locality {
    lookup: Lookup,
}

impl Locality {
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
        let entry = shared.cache.find(request.destination, request.now);
        if let Some(real) = entry.and_then(|entry| entry.members().next())
            && let Some(index) = self.lookup.find(real)
            && let Some(target) = targets.get(index)
            && target.available(loads)
            && !busy(target, targets, loads)
        {
            return Some(index);
        }
        let index = WeightedLeastConnections.pick(targets, loads)?;
        shared.cache.replace(request.destination, targets.get(index)?.real, request.now);
        Some(index)
    }
}

/// Whether a target has more active connections than its weight while another has room: fewer than
/// half its weight.
pub(super) fn busy(target: &Target, targets: &[Target], loads: &Loads) -> bool {
    let active = |target: &Target| u64::from(loads.of(target.real).active());
    let weight = |target: &Target| u64::from(target.weight.get());
    active(target) > weight(target)
        && candidates(targets, loads).any(|(_, other)| active(other) * 2 < weight(other))
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Lblc;
    use dataplane_api::service::Weight;

    use super::super::tests::{Bench, to};

    #[test]
    fn a_destination_stays_with_its_real_though_others_have_less_to_do() {
        let bench = Bench::new(Lblc, &[10, 10, 10]);
        assert_eq!(bench.pick_for(&to(1, 0)), Some(0));
        bench.load(0, 9, 0);
        assert_eq!(bench.pick_for(&to(1, 1)), Some(0));
        assert_eq!(bench.pick_for(&to(2, 1)), Some(1), "another destination goes where wlc says");
    }

    #[test]
    fn it_moves_when_its_real_is_over_its_weight_and_another_under_half_of_its_own() {
        let bench = Bench::new(Lblc, &[4, 4]);
        assert_eq!(bench.pick_for(&to(1, 0)), Some(0));
        bench.load(0, 5, 0);
        bench.load(1, 2, 0);
        assert_eq!(bench.pick_for(&to(1, 1)), Some(0), "2 is half of 4, not less");
        bench.unload(1, 1);
        assert_eq!(bench.pick_for(&to(1, 2)), Some(1));
        bench.unload(0, 5);
        assert_eq!(bench.pick_for(&to(1, 3)), Some(1), "and stays there");
    }

    #[test]
    fn it_moves_when_its_real_is_drained_over_its_threshold_or_gone() {
        let bench = Bench::new(Lblc, &[4, 4, 4]);
        assert_eq!(bench.pick_for(&to(1, 0)), Some(0));
        let bench = bench.reload(|targets| targets[0].weight = Weight::DRAINED);
        assert_eq!(bench.pick_for(&to(1, 1)), Some(1));
        let bench = bench.limited(1, 1);
        bench.load(1, 1, 0);
        assert_eq!(bench.pick_for(&to(1, 2)), Some(2));
        let bench = bench.reload(|targets| {
            targets.remove(2);
            targets[0].weight = Weight::new(1);
        });
        assert_eq!(bench.pick_for(&to(1, 3)), Some(0));
    }

    #[test]
    fn a_real_keeps_its_destinations_when_a_reload_moves_it_in_the_list() {
        let bench = Bench::new(Lblc, &[4, 4, 4]);
        assert_eq!(bench.pick_for(&to(1, 0)), Some(0));
        let bench = bench.reload(|targets| targets.reverse());
        assert_eq!(bench.pick_for(&to(1, 1)), Some(2));
    }

    #[test]
    fn it_is_forgotten_after_six_minutes_without_use() {
        let bench = Bench::new(Lblc, &[4, 4]);
        assert_eq!(bench.pick_for(&to(1, 0)), Some(0));
        bench.load(0, 1, 0);
        assert_eq!(bench.pick_for(&to(1, 359)), Some(0));
        assert_eq!(bench.pick_for(&to(1, 359 + 359)), Some(0), "use counts, not age");
        assert_eq!(bench.pick_for(&to(1, 718 + 361)), Some(1));
    }
}
