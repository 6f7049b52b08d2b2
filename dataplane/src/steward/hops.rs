//! Next hops of the reals, kept in step with the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::address::{Address, DeviceId, RealId};
use crate::clock::Instant;
use crate::kernel::Monitor;
use crate::kernel::state::{KernelState, Route};
use crate::next_hop::{self, NextHop};
use crate::published::{Hop, HopState};
use crate::service::ServiceTable;

use super::{CONFIRM, PERIOD, RECHECK};

/// The next hops as last worked out.
#[derive(Default)]
pub(super) struct Hops {
    by_real: BTreeMap<RealId, NextHop>,
    /// Kernel index and address of every next hop.
    neighbors: BTreeMap<(u32, IpAddr), Neighbor>,
    worked_out: Option<Instant>,
    problems: Vec<String>,
}

/// A next hop, and when the kernel was last asked to resolve it.
struct Neighbor {
    known: bool,
    asked: Option<Instant>,
}

impl Hops {
    /// Whether they should be worked out again though nothing seems to have changed.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.worked_out.is_none_or(|then| now.since(then) >= RECHECK)
    }

    /// Works out the next hop of every real. False if the kernel did not answer for all of them.
    pub(super) fn work_out(
        &mut self,
        monitor: &mut Monitor,
        kernel: &KernelState,
        slots: &BTreeMap<u32, DeviceId>,
        services: &ServiceTable,
        now: Instant,
    ) -> bool {
        let asked = std::mem::take(&mut self.neighbors);
        *self = Self { worked_out: Some(now), ..Self::default() };
        let mut routes: BTreeMap<Address, Option<Route>> = BTreeMap::new();
        let mut complete = true;
        for (id, real) in services.reals() {
            let problems = &mut self.problems;
            let route = routes.entry(real.address).or_insert_with(|| {
                monitor.route(real.address.into(), 0).unwrap_or_else(|e| {
                    problems.push(format!("route of {}: {e:#}", real.address));
                    complete = false;
                    None
                })
            });
            let hop = next_hop::compute(real.address, route.as_ref(), kernel, slots);
            if let Some(problem) = hop.problem.as_ref().filter(|_| real.configured) {
                self.problems.push(format!("real server {}: {problem}", real.name));
            }
            if let Some(neighbor) = hop.neighbor {
                let known = hop.hop.state == HopState::Resolved;
                let asked = asked.get(&neighbor).and_then(|n| n.asked);
                self.neighbors.insert(neighbor, Neighbor { known, asked });
            }
            self.by_real.insert(id, hop);
        }
        self.problems.sort();
        self.problems.dedup();
        complete
    }

    /// Has the kernel resolve neighbours; what it refused. Known ones are asked for too: our traffic
    /// does not pass the kernel, so nobody else would keep them fresh.
    pub(super) fn ask(&mut self, monitor: &mut Monitor, now: Instant) -> Vec<String> {
        let mut problems = Vec::new();
        for ((ifindex, address), neighbor) in &mut self.neighbors {
            let period = if neighbor.known { CONFIRM } else { PERIOD };
            if neighbor.asked.is_some_and(|then| now.since(then) < period) {
                continue;
            }
            neighbor.asked = Some(now);
            if let Err(e) = monitor.resolve(*ifindex, *address) {
                problems.push(format!("{e:#}"));
            }
        }
        problems
    }

    /// By the real's number, for the workers.
    pub(super) fn table(&self) -> Vec<Hop> {
        let count = self.by_real.keys().next_back().map_or(0, |id| id.index() + 1);
        let mut table = vec![Hop::default(); count];
        for (id, hop) in &self.by_real {
            table[id.index()] = hop.hop;
        }
        table
    }

    /// Reals that cannot be reached, and why.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }
}
