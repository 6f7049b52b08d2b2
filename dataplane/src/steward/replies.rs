//! Keeps the way of replies to clients in step with the kernel's routes, if the configuration has
//! replies follow them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane_api::service::ReplyPath;

use super::{CONFIRM, PERIOD, RECHECK, Steward};
use crate::address::DeviceId;
use crate::clock::{self, Instant};
use crate::kernel::routes::Entry;
use crate::limits;
use crate::reply_routes;
use crate::routes::RouteTable;

/// Least time between two looks at what workers ask for: at most 2560 neighbours a second are
/// resolved for clients, whoever they claim to be.
const ASK_PERIOD: Duration = Duration::from_millis(100);
/// A dump of routes is followed by this many times its own duration without one, so that a large
/// table costs a tenth of the steward's time at most.
const DUMP_REST: u32 = 9;

/// What is known of the way of replies.
#[derive(Default)]
pub(super) struct Replies {
    /// Routes, links or addresses changed, or may have.
    pub(super) changed: bool,
    /// What the workers should have.
    pub(super) table: Option<Arc<RouteTable>>,
    /// The kernel's routes, once they have been read.
    entries: Option<Vec<Entry>>,
    read: Option<Instant>,
    /// Not read again before.
    rest: Option<Instant>,
    /// Routers to keep resolved, and whether they are.
    routers: BTreeMap<(u32, IpAddr), bool>,
    /// Neighbours of all kinds that the kernel has been asked for of late.
    asked: BTreeMap<(u32, IpAddr), Instant>,
    answered: Option<Instant>,
    problems: Vec<String>,
    /// Why the routes could not be read.
    unread: Option<String>,
}

impl Steward {
    /// Compiles the table anew if something has changed, and has neighbours resolved.
    pub(super) fn find_replies(&mut self, now: Instant) {
        if self.parts.runtime.cell.get().services.reply == ReplyPath::LastHop {
            self.replies = Replies::default();
            return;
        }
        let read = self.read_routes(now);
        if (read || self.stale)
            && let Some(entries) = &self.replies.entries
        {
            let slots: BTreeMap<u32, DeviceId> =
                self.attached.iter().map(|(slot, a)| (a.ifindex, *slot)).collect();
            let compiled = reply_routes::compile(entries, &self.kernel, &slots);
            if self.replies.table.as_deref() != Some(&compiled.table) {
                self.replies.table = Some(Arc::new(compiled.table));
            }
            self.replies.routers = compiled.routers;
            self.replies.problems = compiled.problems;
        }
        self.resolve_for_replies(now);
        self.problems.extend(self.replies.unread.iter().chain(&self.replies.problems).cloned());
    }

    /// Reads the kernel's routes if that is due. True if they were read.
    fn read_routes(&mut self, now: Instant) -> bool {
        let recheck = self.replies.read.is_none_or(|at| now.since(at) >= RECHECK);
        let rests = self.replies.rest.is_some_and(|until| now < until);
        if !(self.replies.changed || recheck) || rests {
            return false;
        }
        let began = clock::now();
        let outcome = self.parts.monitor.routes();
        let end = clock::now();
        self.replies.rest = Some(end.after(end.since(began) * DUMP_REST));
        match outcome {
            Ok(entries) => {
                self.replies.entries = Some(entries);
                self.replies.read = Some(now);
                self.replies.changed = false;
                self.replies.unread = None;
                true
            }
            Err(e) => {
                let how = if self.replies.entries.is_some() { "old routes" } else { "last hop" };
                self.replies.unread = Some(format!("replies go by {how}: {e:#}"));
                false
            }
        }
    }

    /// Keeps routers resolved, and has those neighbours resolved that workers ask for.
    fn resolve_for_replies(&mut self, now: Instant) {
        self.replies.asked.retain(|_, at| now.since(*at) < CONFIRM);
        let mut wanted: Vec<_> = self
            .replies
            .routers
            .iter()
            .map(|(router, known)| (*router, if *known { CONFIRM } else { PERIOD }))
            .collect();
        if self.replies.answered.is_none_or(|at| now.since(at) >= ASK_PERIOD) {
            self.replies.answered = Some(now);
            let asks = std::iter::from_fn(|| self.parts.runtime.forward.asks.pop());
            for (device, address) in asks.take(limits::NEIGHBOR_ASKS) {
                if let Some(attached) = self.attached.get(&device) {
                    wanted.push(((attached.ifindex, address.into()), PERIOD));
                }
            }
        }
        let asked = &mut self.replies.asked;
        for (neighbor, period) in wanted {
            if asked.get(&neighbor).is_some_and(|at| now.since(*at) < period) {
                continue;
            }
            asked.insert(neighbor, now);
            if let Err(e) = self.parts.monitor.resolve(neighbor.0, neighbor.1) {
                // Its table is full, or a link is going down: most others would fare no better, and
                // will be asked for again.
                self.problems.push(format!("{e:#}"));
                return;
            }
        }
    }
}
