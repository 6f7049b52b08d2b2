//! `ovf`: the heaviest real until it is full, then the next (`ip_vs_ovf.c`).
//!
//! Full means as many active connections as its weight. The kernel compares with `>` and so lets
//! one more in than the weight says; here the weight is the limit, as `ipvsadm(8)` describes it.
//! When all are full, none takes the connection. UDP flows of one packet are never active and do
//! not count.

use super::failover::heaviest;
use super::load::Loads;
use super::{Target, candidates};

/// The heaviest real with fewer active connections than its weight, the first of equals.
#[derive(Debug)]
pub struct Overflow;

impl Overflow {
    pub(super) fn pick(&self, targets: &[Target], loads: &Loads) -> Option<usize> {
        heaviest(
            candidates(targets, loads).filter(|(_, target)| {
                loads.of(target.real).active() < u32::from(target.weight.get())
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::service::Scheduler::Ovf;

    use super::super::tests::{Bench, pick_with};

    #[test]
    fn the_heaviest_fills_up_then_the_next_then_nobody() {
        let bench = Bench::new(Ovf, &[2, 4, 3]);
        let mut taken = String::new();
        while let Some(index) = bench.pick() {
            taken.push((b'A' + index as u8) as char);
            bench.load(index as u16, 1, 0);
        }
        assert_eq!(taken, "BBBBCCCAA");
        bench.unload(1, 1);
        assert_eq!(bench.pick(), Some(1));
    }

    #[test]
    fn inactive_connections_do_not_fill_a_real() {
        assert_eq!(pick_with(Ovf, &[1, 2], &[(0, 0), (1, 50)]), Some(1));
        assert_eq!(pick_with(Ovf, &[2, 2], &[(1, 0), (0, 0)]), Some(0), "the first of equals");
    }
}
