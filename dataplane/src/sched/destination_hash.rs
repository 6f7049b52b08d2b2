//! `dh`: the address the client asked for decides (`ip_vs_dh.c`).
//!
//! Reals are dealt into the table of `sh` in turn, one slot each, whatever their weight. Unlike in
//! the kernel, a real of weight 0 has no slot (see `sh` for why). A real over its threshold refuses
//! what is hashed to it.

use super::hash::{REQUEST, Slots, hash};
use super::load::Loads;
use super::source_hash::deal;
use super::{Request, Target, available};

/// The VIP's address decides.
#[derive(Debug)]
pub struct DestinationHash {
    slots: Slots,
}

impl DestinationHash {
    pub(super) fn build(targets: &[Target]) -> Self {
        Self { slots: deal(targets.iter().map(|t| usize::from(t.weight.get() > 0)).collect()) }
    }

    pub(super) fn pick(
        &self,
        request: &Request,
        targets: &[Target],
        loads: &Loads,
    ) -> Option<usize> {
        let hash = hash(request.destination, 0, REQUEST);
        self.slots.pick(hash, false, targets.len(), |index| available(targets, loads, index))
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Dh;

    use super::super::tests::{Bench, request};
    use super::*;
    use crate::address::Address;

    #[test]
    fn the_destination_decides_and_nothing_else() {
        let bench = Bench::new(Dh, &[9, 1, 1]);
        let mut counts = [0; 3];
        for host in 0..3000 {
            let destination = Address::v4(0xc000_0200 + host);
            let picked = bench.pick_for(&Request { destination, ..request(1) });
            let other = Request { destination, client_port: 7, destination_port: 9, ..request(2) };
            assert_eq!(bench.pick_for(&other), picked);
            counts[picked.unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn an_overloaded_real_refuses_its_destinations() {
        let bench = Bench::new(Dh, &[1, 1]);
        let index = bench.pick().unwrap();
        let bench = bench.limited(index, 1);
        bench.load(index as u16, 1, 0);
        assert_eq!(bench.pick(), None);
    }
}
