//! Which connections are to end: by order, and because their real is down.

use std::collections::BTreeSet;
use std::sync::Arc;

use dataplane_api::message::How;

use crate::address::{Address, RealId};
use crate::agent::End;
use crate::clock::{self, Instant};
use crate::ending::{Ending, Endings};
use crate::published::Facts;
use crate::runtime::Runtime;
use crate::service::{Fate, RealRecord};

/// What the steward keeps of it.
#[derive(Default)]
pub(super) struct Ends {
    /// In force.
    pub(super) table: Arc<Endings>,
    /// Reals that are down and have been dealt with.
    settled: BTreeSet<RealId>,
}

impl Ends {
    /// Begins what has become necessary, and takes off the list what has ended.
    pub(super) fn follow(&mut self, facts: &Facts, runtime: &Runtime, now: Instant) {
        let services = &facts.services;
        let dead =
            |id: &RealId| services.real(*id).is_some_and(|r| r.down && r.fate == Fate::Reset);
        self.settled.retain(dead);
        let mut table = Endings::clone(&self.table);
        table.retain(|id, ending| {
            let done = ending.is_done();
            if done && dead(id) {
                self.settled.insert(*id);
            }
            !done && services.real(*id).is_some() && (dead(id) || !ending.is_standing())
        });
        for (id, _) in services.reals().filter(|(id, _)| dead(id)) {
            if !self.settled.contains(&id) && !table.contains_key(&id) {
                let count = runtime.forward.loads.of(id).total();
                let ending = Ending::new(How::Reset, None, count, runtime.workers.len(), now);
                table.insert(id, Arc::new(ending));
            }
        }
        if !same(&table, &self.table) {
            self.table = Arc::new(table);
        }
    }

    /// Takes an order; how many connections and ties it is for.
    ///
    /// # Errors
    /// There is no such service or real.
    pub(super) fn order(
        &mut self,
        end: &End,
        facts: &Facts,
        runtime: &Runtime,
    ) -> Result<u64, String> {
        let id = find(end, facts)?;
        let now = clock::now();
        let count =
            |initial| Ending::new(end.how, Some(now.tick()), initial, runtime.workers.len(), now);
        let (all, mut found) = (count(0), 0);
        runtime.forward.conns.each(|_, conn| {
            found += u32::from(conn.identity.real == id && all.concerns(conn));
        });
        if found > 0 {
            let mut table = Endings::clone(&self.table);
            table.insert(id, Arc::new(count(found)));
            self.table = Arc::new(table);
        }
        Ok(u64::from(found))
    }
}

fn same(a: &Endings, b: &Endings) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
}

fn find(end: &End, facts: &Facts) -> Result<RealId, String> {
    let services = &facts.services;
    let service = services.services().find(|s| s.name == end.service);
    let service = service.ok_or_else(|| format!("there is no service {:?}", end.service))?;
    let (address, port) = (Address::from(end.real), end.port.unwrap_or(0));
    let is = |r: &RealRecord| r.service == service.id && r.address == address && r.port == port;
    let mut reals: Vec<_> = services.reals().filter(|(_, r)| is(r)).collect();
    // A removed one may have its address from another method; the one in force goes first.
    reals.sort_by_key(|(_, r)| !r.configured);
    reals.first().map(|(id, _)| *id).ok_or_else(|| {
        let port = end.port.map_or_else(String::new, |p| format!(" port {p}"));
        format!("service {} has no real server {}{port}", service.name, end.real)
    })
}
