//! `sh`: the client's address decides (`ip_vs_sh.c`).
//!
//! As in the kernel, reals are dealt into a table in turn, each as often in a row as its weight,
//! and a hash of the client (with flag `port`, its port too) points into it. Three departures:
//!
//! - Weights are divided by their common divisor, and scaled down if they still exceed the table.
//!   The kernel does neither, so that there two reals of weight 300 leave the second with nothing.
//! - The table has 256 slots, as in the kernel, but grows when that is less than two for each real.
//! - A real of weight 0 keeps its (one) slot only with flag `fallback`: its clients go elsewhere,
//!   all others stay. Without the flag the kernel refuses those clients, until the real is taken
//!   out of the list; xvip drains where LVS users remove, so the drained real has no slot at all.
//!
//! A real over its threshold keeps its slots; without `fallback` its clients are refused.

use dataplane_api::service::SchedulerFlags;

use super::hash::{REQUEST, Slots, hash};
use super::load::Loads;
use super::{Request, Target, available, common_divisor};

/// Slots of the table at least: `IP_VS_SH_TAB_SIZE`.
pub(super) const SLOTS: usize = 256;

/// The client's address decides.
#[derive(Debug)]
pub struct SourceHash {
    slots: Slots,
    flags: SchedulerFlags,
}

impl SourceHash {
    pub(super) fn build(flags: SchedulerFlags, targets: &[Target]) -> Self {
        let divisor = common_divisor(targets);
        let weights = targets.iter().map(|t| usize::from(t.weight.get() / divisor));
        let slots = deal(weights.map(|w| if flags.fallback { w.max(1) } else { w }).collect());
        Self { slots, flags }
    }

    pub(super) fn pick(
        &self,
        request: &Request,
        targets: &[Target],
        loads: &Loads,
    ) -> Option<usize> {
        let port = if self.flags.port { request.client_port } else { 0 };
        let hash = hash(request.client, port, REQUEST);
        self.slots.pick(hash, self.flags.fallback, targets.len(), |i| available(targets, loads, i))
    }
}

/// Deals targets into a table, each `turns` times in a row, over and over until it is full.
pub(super) fn deal(mut turns: Vec<usize>) -> Slots {
    let size = SLOTS.max((2 * turns.len()).next_power_of_two());
    let sum: usize = turns.iter().sum();
    if sum > size {
        // At most half the table and one each, so that nobody is left out.
        for turns in turns.iter_mut().filter(|turns| **turns > 0) {
            *turns = (*turns * (size / 2) / sum).max(1);
        }
    }
    let round: Vec<u16> =
        (0..).zip(turns).flat_map(|(i, turns)| std::iter::repeat_n(i, turns)).collect();
    Slots::new(round.into_iter().cycle().take(size).collect())
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Sh;

    use super::super::tests::{Bench, request};
    use super::*;

    const FALLBACK: SchedulerFlags = SchedulerFlags { port: false, fallback: true };

    /// Slots of each of the targets.
    fn shares(weights: &[u16]) -> Vec<usize> {
        let bench = Bench::new(Sh, weights);
        let built = SourceHash::build(SchedulerFlags::default(), bench.targets());
        let mut shares = vec![0; weights.len()];
        built.slots.targets().iter().for_each(|&index| shares[usize::from(index)] += 1);
        shares
    }

    #[test]
    fn slots_follow_the_weights() {
        assert_eq!(shares(&[1, 1]), [128, 128]);
        assert_eq!(shares(&[3, 1]), [192, 64]);
        assert_eq!(shares(&[300, 300]), [128, 128], "weights beyond the table");
        assert_eq!(shares(&[3, 0, 1]), [192, 0, 64]);
        assert_eq!(shares(&[65535, 1]), [254, 2]);
        let [a, b] = shares(&[1000, 999])[..] else { panic!("two") };
        assert!(a.abs_diff(b) <= 4, "{a} {b}");
    }

    #[test]
    fn every_real_has_a_slot_however_many_there_are() {
        for n in [100, 128, 129, 1000, 8192] {
            assert!(shares(&vec![7; n]).iter().all(|&share| share > 0), "{n}");
        }
        let uneven: Vec<u16> = (0..1000).map(|i| if i % 7 == 0 { 65535 } else { 1 }).collect();
        assert!(shares(&uneven).iter().all(|&share| share > 0));
    }

    #[test]
    fn a_client_stays_whatever_its_port_and_clients_spread() {
        let bench = Bench::new(Sh, &[1, 1, 1, 1]);
        for client in 0..100 {
            let picked = bench.pick_for(&request(client));
            for client_port in 1..50 {
                assert_eq!(bench.pick_for(&Request { client_port, ..request(client) }), picked);
            }
        }
        assert!(bench.counts(4000).iter().all(|count| (850..1150).contains(count)));
    }

    #[test]
    fn with_port_connections_of_one_client_spread() {
        let bench = Bench::new(Sh, &[1, 1]).flags(SchedulerFlags { port: true, fallback: false });
        let picked = |client_port| bench.pick_for(&Request { client_port, ..request(1) }).unwrap();
        let second = (0..1000).filter(|&port| picked(port) == 1).count();
        assert!((400..600).contains(&second), "{second}");
    }

    #[test]
    fn without_fallback_an_overloaded_real_refuses_its_clients() {
        let bench = Bench::new(Sh, &[1, 1, 1]);
        let before: Vec<_> = (0..300).map(|client| bench.pick_for(&request(client))).collect();
        let bench = bench.limited(1, 1);
        bench.load(1, 1, 0);
        for (client, before) in (0..).zip(before) {
            let expected = before.filter(|&index| index != 1);
            assert_eq!(bench.pick_for(&request(client)), expected);
        }
    }

    #[test]
    fn with_fallback_only_the_clients_of_the_lost_real_move_and_they_spread() {
        for drained in [false, true] {
            let bench = Bench::new(Sh, &[1, 1, 1, 1]).flags(FALLBACK);
            let before: Vec<_> = (0..2000).map(|client| bench.pick_for(&request(client))).collect();
            let bench = if drained {
                bench.reload(|targets| targets[1].weight = dataplane_api::service::Weight::DRAINED)
            } else {
                bench.load(1, 1, 0);
                bench.limited(1, 1)
            };
            let mut moved = [0; 4];
            for (client, before) in (0..).zip(before) {
                let after = bench.pick_for(&request(client));
                if before == Some(1) {
                    moved[after.unwrap()] += 1;
                } else {
                    assert_eq!(after, before);
                }
            }
            assert_eq!(moved[1], 0);
            assert!([0, 2, 3].iter().all(|&i| moved[i] > 100), "{moved:?}");
        }
    }

    #[test]
    fn the_last_available_real_of_hundreds_is_found() {
        let mut bench = Bench::new(Sh, &[1; 300]).flags(FALLBACK);
        for index in (0..300u16).filter(|&index| index != 77) {
            bench.load(index, 1, 0);
        }
        bench = bench.reload(|targets| {
            targets.iter_mut().for_each(|target| target.upper_threshold = Some(1));
        });
        for client in 0..200 {
            assert_eq!(bench.pick_for(&request(client)), Some(77));
        }
    }
}
