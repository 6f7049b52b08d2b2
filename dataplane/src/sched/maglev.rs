//! `mh`: the client's address decides, and few clients move when a real comes or goes
//! (`ip_vs_mh.c`; Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
//!
//! Every real has its own order of preference over the slots of a table, drawn from its address and
//! port. The reals take slots in turns, each the one it likes best of those left. The result
//! depends on the set of reals only, not on their order, so two nodes always agree.
//!
//! Turns follow the weight: the k-th turn of a real comes at time `k / weight`. Weights are thus
//! exact to one slot, whatever their size (the kernel rounds them to a few bits), and every real
//! has at least one. A real of weight 0 has none.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use dataplane_api::service::SchedulerFlags;

use super::hash::{REQUEST, Slots, hash, scale};
use super::load::Loads;
use super::{Request, Target, available};
use crate::address::Address;
use crate::limits;

/// Slots of the table, a prime: with 655 for each of 100 reals, shares differ by 0.2 %.
pub(super) const SLOTS: usize = 65_537;

const _: () = assert!(limits::REALS < SLOTS);

/// Salts of a real's first slot and of its stride.
const SALTS: [u64; 2] = [0x6d61_676c_6576_2d31, 0x6d61_676c_6576_2d32];

/// The client's address decides, consistently.
#[derive(Debug)]
pub struct Maglev {
    slots: Slots,
    flags: SchedulerFlags,
}

/// A real while the table is filled.
struct Player {
    /// Slots it has; its next turn comes at `taken / weight`.
    taken: u64,
    weight: u64,
    /// Breaks ties.
    identity: (Address, u16),
    index: u16,
    slot: usize,
    stride: usize,
}

impl Player {
    fn new(index: u16, target: &Target) -> Self {
        let [first, stride] = SALTS.map(|salt| hash(target.address, target.port, salt));
        Self {
            taken: 0,
            weight: u64::from(target.weight.get()),
            identity: (target.address, target.port),
            index,
            slot: scale(first, SLOTS),
            stride: scale(stride, SLOTS - 1) + 1,
        }
    }

    /// Goes to the next slot of its preference. The stride is prime to the number of slots, so that
    /// all are visited before one comes again.
    fn advance(&mut self) {
        self.slot += self.stride;
        if self.slot >= SLOTS {
            self.slot -= SLOTS;
        }
    }
}

impl Ord for Player {
    fn cmp(&self, other: &Self) -> Ordering {
        let due = (self.taken * other.weight).cmp(&(other.taken * self.weight));
        due.then_with(|| self.identity.cmp(&other.identity)).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Player {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Player {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Player {}

impl Maglev {
    pub(super) fn build(flags: SchedulerFlags, targets: &[Target]) -> Self {
        Self { slots: fill(targets), flags }
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

fn fill(targets: &[Target]) -> Slots {
    const FREE: u16 = u16::MAX;
    let with_weight = (0..).zip(targets).filter(|(_, target)| target.weight.get() > 0);
    let mut players: BinaryHeap<Reverse<Player>> =
        with_weight.map(|(index, target)| Reverse(Player::new(index, target))).collect();
    if players.is_empty() {
        return Slots::new(Vec::new());
    }
    let mut slots = vec![FREE; SLOTS];
    for _ in 0..SLOTS {
        let Some(mut first) = players.peek_mut() else { break };
        let player = &mut first.0;
        while slots[player.slot] != FREE {
            player.advance();
        }
        slots[player.slot] = player.index;
        player.taken += 1;
    }
    Slots::new(slots)
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Mh;
    use dataplane_api::service::Weight;
    use proptest::prelude::*;

    use super::super::tests::{Bench, request};
    use super::*;

    /// Who has each slot, by address.
    fn owners(targets: &[Target]) -> Vec<Address> {
        let slots = fill(targets);
        slots.targets().iter().map(|&index| targets[usize::from(index)].address).collect()
    }

    fn shares(targets: &[Target]) -> Vec<usize> {
        let mut shares = vec![0; targets.len()];
        fill(targets).targets().iter().for_each(|&index| shares[usize::from(index)] += 1);
        shares
    }

    #[test]
    fn equal_weights_have_equal_shares() {
        for n in [1, 2, 10, 100, 1000] {
            let shares = shares(Bench::new(Mh, &vec![3; n]).targets());
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{n} reals: {least} to {most}");
        }
    }

    #[test]
    fn a_removed_real_moves_few_clients_of_the_others() {
        for (n, removed) in [(10, 3), (10, 9), (100, 0), (100, 57)] {
            let bench = Bench::new(Mh, &vec![1; n]);
            let before = owners(bench.targets());
            let gone = bench.targets()[removed].address;
            let drained = bench.reload(|targets| targets[removed].weight = Weight::DRAINED);
            let after = owners(drained.targets());
            let others = before.iter().zip(&after).filter(|(before, _)| **before != gone);
            let moved = others.filter(|(before, after)| before != after).count();
            println!("{n} reals, one removed: {moved} of {SLOTS} slots of the others moved");
            assert!(moved * 100 <= SLOTS, "{n} reals: {moved}");
            assert!(!after.contains(&gone));
        }
    }

    #[test]
    fn a_drained_real_and_a_removed_one_make_the_same_table() {
        let bench = Bench::new(Mh, &[2, 5, 3]);
        let drained = bench.reload(|targets| targets[1].weight = Weight::DRAINED);
        let before = owners(drained.targets());
        let removed = drained.reload(|targets| {
            targets.remove(1);
        });
        assert_eq!(owners(removed.targets()), before);
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        for weights in [&[4, 3, 2][..], &[65535, 1], &[1000, 999, 1, 500], &[100, 100, 300]] {
            let sum: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let shares = shares(Bench::new(Mh, weights).targets());
            for (&share, &weight) in shares.iter().zip(weights) {
                let exact = u64::from(weight) * SLOTS as u64 / sum;
                assert!((share as u64).abs_diff(exact) <= 2, "{weights:?}: {shares:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn the_order_of_the_reals_does_not_matter(
            weights in prop::collection::vec(0u16..50, 2..30),
            shift in 1usize..29,
        ) {
            let bench = Bench::new(Mh, &weights);
            let before = owners(bench.targets());
            let turned = bench.reload(|targets| {
                targets.reverse();
                targets.rotate_left(shift % weights.len());
            });
            prop_assert_eq!(owners(turned.targets()), before);
        }
    }

    #[test]
    fn every_real_has_a_slot_beside_a_much_heavier_one() {
        let weights: Vec<u16> = (0..8192).map(|i| if i == 5000 { 65535 } else { 1 }).collect();
        let shares = shares(Bench::new(Mh, &weights).targets());
        assert!(shares.iter().all(|&share| share > 0));
        assert_eq!(shares[5000], SLOTS - 8191);
    }

    #[test]
    fn the_same_address_on_two_ports_is_two_reals() {
        let bench = Bench::new(Mh, &[1, 1]).reload(|targets| {
            targets[1].address = targets[0].address;
            targets[1].port = 81;
        });
        let counts = bench.counts(2000);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn flags_decide_about_ports_and_overloaded_reals() {
        for (port, fallback) in [(false, false), (false, true), (true, false), (true, true)] {
            let bench = Bench::new(Mh, &[1; 8]).flags(SchedulerFlags { port, fallback });
            let from = |client_port| Request { client_port, ..request(1) };
            let before: Vec<_> = (0..200).map(|p| bench.pick_for(&from(p)).unwrap()).collect();
            assert_eq!(before.iter().any(|&index| index != before[0]), port);

            let lost = before[0];
            let bench = bench.limited(lost, 1);
            bench.load(lost as u16, 1, 0);
            for (client_port, before) in (0..).zip(before) {
                let after = bench.pick_for(&from(client_port));
                if before != lost {
                    assert_eq!(after, Some(before));
                } else if fallback {
                    assert!(after.is_some_and(|index| index != lost));
                } else {
                    assert_eq!(after, None);
                }
            }
        }
    }
}
