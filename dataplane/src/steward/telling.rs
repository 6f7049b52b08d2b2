//! What neighbours are told of our addresses, and how they can ask for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Steward;
use crate::clock::Instant;
use crate::kernel::multicast::{Memberships, group_of};
use crate::service::ServiceTable;
use crate::worker::Command;

/// The groups that interfaces listen to for us.
#[derive(Default)]
pub(super) struct Listening {
    memberships: Option<Memberships>,
    /// What they were last worked out from, if that went well.
    settled: Option<(Arc<ServiceTable>, Vec<u32>)>,
}

impl Steward {
    /// Tells the neighbours where the VIPs are.
    pub(super) fn announce(&mut self, now: Instant) {
        let runtime = &self.parts.runtime;
        let published = runtime.cell.get();
        let services = &published.services;
        let term = |(address, group)| Some((address, runtime.leases().term(group, now)?));
        let owned = services.owned().filter_map(term).collect();
        let up = self
            .generations
            .iter()
            .filter(|(slot, _)| self.attached.get(slot).is_some_and(|a| a.up && a.error.is_none()));
        let up = up.map(|(slot, generation)| (*slot, *generation)).collect();
        let due = self.announcer.due(now, &owned, &up);
        for (device, address) in &due {
            let Some(group) = services.owner(*address) else { continue };
            if let Some(worker) = self.parts.commands.first() {
                // A worker that is gone ends the process; nothing to add here.
                let _ = worker.send(Command::Announce(*device, *address, group));
            }
        }
        if !due.is_empty() {
            runtime.ring();
        }
    }

    /// Has every interface listen where neighbours ask for our addresses, owned or not: a takeover must
    /// not have to wait for it.
    pub(super) fn listen_to_neighbors(&mut self) {
        let services = Arc::clone(&self.parts.runtime.cell.get().services);
        let interfaces: Vec<u32> = self.attached.values().map(|a| a.ifindex).collect();
        let settled = self.listening.settled.as_ref();
        if settled.is_some_and(|(s, i)| Arc::ptr_eq(s, &services) && *i == interfaces) {
            return;
        }
        let groups: BTreeSet<_> = services.owned().filter_map(|(a, _)| group_of(a)).collect();
        let each = |ifindex: &u32| groups.iter().map(|mac| (*ifindex, *mac)).collect::<Vec<_>>();
        let wanted = interfaces.iter().flat_map(each).collect();
        let memberships = match &mut self.listening.memberships {
            Some(memberships) => Ok(memberships),
            none => Memberships::open().map(|memberships| none.insert(memberships)),
        };
        match memberships.and_then(|memberships| memberships.follow(&wanted)) {
            Ok(()) => self.listening.settled = Some((services, interfaces)),
            Err(e) => self.problems.push(format!(
                "neighbours may not be able to ask for IPv6 addresses of ours (multicast groups): {e}"
            )),
        }
    }
}
