//! What all workers share, and what has to be done when a connection ends, however it does.

use std::sync::Mutex;

use dataplane_api::counter::Event;

use super::{Delivery, Paths, Tables};
use crate::capture::Capture;
use crate::changes::Changes;
use crate::clock::Instant;
use crate::conn::{self, Ended, Found, Handle, Ports, State, Table};
use crate::counters::Counters;
use crate::fragment::Fragments;
use crate::lease::Leases;
use crate::probes::Probes;
use crate::resolver::Resolver;
use crate::routes::Asks;
use crate::sched::load::Loads;
use crate::service::{RealRecord, ServiceTable};

/// What all workers share.
pub struct Shared {
    /// Connections.
    pub conns: Table,
    /// Local ports of full NAT.
    pub ports: Ports,
    /// Connections of each real.
    pub loads: Loads,
    /// Datagrams in pieces. Fragments are rare, so a lock does.
    pub fragments: Mutex<Fragments<Delivery>>,
    /// Path MTUs that tunnels have learnt.
    pub paths: Paths,
    /// Neighbours that replies have to wait for.
    pub asks: Asks,
    /// Copies of frames for people.
    pub capture: Capture,
    /// Probes of the way to reals.
    pub probes: Probes,
    /// Ownership of addresses.
    pub leases: Leases,
    /// Questions of our own about addresses.
    pub resolver: Resolver,
    /// What happens to connections, for the peer.
    pub changes: Changes,
}

impl Shared {
    /// Puts right what hangs on a connection that has left the table, and notes its end; `counters`
    /// are those of worker `worker`.
    pub fn ended(&self, found: &Found, worker: usize, now: Instant, counters: &Counters) {
        self.settled(&found.conn);
        // Strangers open half-open ones by the million, and the peer never hears of one.
        if found.conn.state.is_half_open() {
            return;
        }
        if !self.changes.note(worker, found.handle, Some(&found.conn), now) {
            counters.event(Event::SyncOverflow);
        }
    }

    /// Puts right what hangs on a connection that has left the table.
    pub fn settled(&self, conn: &conn::Conn) {
        let identity = &conn.identity;
        let load = self.loads.of(identity.real);
        if conn.state == State::Template {
            load.untied();
        } else {
            load.closed(conn.state.is_active());
        }
        if let Some((local, port)) = identity.local {
            self.ports.release(identity.protocol, local, port);
        }
    }
}

/// Settles a connection whose time was up: counted, and, if its real never answered, noted as such.
/// Found by worker `worker`, whose counters these are.
pub fn expired(
    found: &Found,
    shared: &Shared,
    services: &ServiceTable,
    (worker, now, counters): (usize, Instant, &Counters),
) {
    shared.ended(found, worker, now, counters);
    let conn = &found.conn;
    counters.event(Event::ConnExpired);
    let two_way = |r: &RealRecord| !r.forwarding.is_one_way();
    let unanswered = conn.state == State::SynReceived && !conn.synack;
    if unanswered && services.real(conn.identity.real).is_some_and(two_way) {
        counters.real(conn.identity.real).syn_unanswered.add(1);
    }
}

impl Tables<'_> {
    /// Settles a connection that has left the table.
    pub(super) fn ended(&self, found: &Found) {
        self.shared.ended(found, self.local.worker, self.now, self.counters);
    }

    /// Ends a connection; the one caller who did it gets what it was.
    pub(super) fn remove(&self, handle: Handle) -> Option<Found> {
        let conn = self.shared.conns.remove(&handle)?;
        let found = Found { handle, conn };
        self.ended(&found);
        Some(found)
    }

    /// Notes that a connection is something else now.
    pub(super) fn changed(&self, handle: Handle) {
        if !self.shared.changes.note(self.local.worker, handle, None, self.now) {
            self.event(Event::SyncOverflow);
        }
    }

    /// Settles a connection that had to go for a new one.
    pub(super) fn make_way(&self, why: Ended, found: &Found) {
        self.ended(found);
        self.event(match why {
            Ended::Evicted => Event::HalfOpenEvicted,
            Ended::Replaced => Event::ConnReused,
        });
    }
}
