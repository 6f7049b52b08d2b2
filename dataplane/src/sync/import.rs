//! What comes from the peer: connections into the table, and out of it again.
//!
//! Pure but for the table, which workers use meanwhile. Nothing that the peer says touches a
//! connection of a VIP that is owned here; what it says of the others is the truth. Each record is
//! taken or counted as refused.

use std::collections::BTreeMap;

use dataplane_api::record::{Operation, Record};
use dataplane_api::sync::{ALL, BUCKETS, Stream};

use super::digest::{Marks, bucket, fingerprint};
use super::names::{NOWHERE, View};
use crate::conn::{Conn, Found, Handle, Identity, LastHop, Origin, Outcome, State};
use crate::service::ServiceTable;

use dataplane_api::service::Forwarding;

/// How often a state is written again because a worker was changing the connection.
const ATTEMPTS: usize = 8;

/// Records refused since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Service, VIP, real or local address is not known here.
    pub unknown: u32,
    /// No room, or another connection in the way.
    pub no_room: u32,
    /// The connection is our own.
    pub own: u32,
}

/// The other side of the stream.
#[derive(Debug)]
pub struct Import {
    /// Connections that came from the peer, of VIPs that are not owned here.
    heard: Marks,
    /// Of the pass now being made by the peer, counted here.
    pass: u16,
    /// Passes begun and not ended: of which bucket, and what [`Self::pass`] was then.
    open: BTreeMap<u16, u16>,
    /// A pass over all has ended in this session.
    whole: bool,
    refusals: Refusals,
    /// Connections of this node that have become the peer's to tell of.
    given: Vec<Handle>,
    /// The other way round.
    taken: Vec<Handle>,
}

/// Why a record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Unknown,
    NoRoom,
    Own,
}

impl Import {
    /// For a table of this capacity.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            heard: Marks::new(capacity),
            pass: 0,
            open: BTreeMap::new(),
            whole: false,
            refusals: Refusals::default(),
            given: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// A session begins: what is there of the peer is read from the table.
    pub fn begin(&mut self, view: &View<'_>) {
        self.open.clear();
        self.whole = false;
        self.refusals = Refusals::default();
        // Passes are counted anew; what is there of another time is older than any.
        for index in 0..view.shared.conns.high() {
            if let Some((found, origin)) = view.shared.conns.at(index)
                && origin.is_imported()
            {
                let old = Origin::imported(origin.life(), self.pass);
                view.shared.conns.set_origin(&found.handle, origin, old);
            }
        }
        self.recount(view);
    }

    /// Other VIPs are owned here than before: finds out what is the peer's now.
    pub fn recount(&mut self, view: &View<'_>) {
        let high = view.shared.conns.high();
        self.heard.reset(high);
        if view.shared.conns.imported() == 0 {
            return;
        }
        for index in 0..high {
            if let Some((found, origin)) = view.shared.conns.at(index)
                && origin.is_imported()
                && !view.owns(&found.conn)
                && let Some(record) = view.names.record(Operation::Upsert, &found)
            {
                self.heard.set(found.handle, fingerprint(&record));
            }
        }
    }

    /// Takes in an item of the peer's stream; of a digest, the buckets that differ.
    pub fn take(&mut self, item: &Stream, view: &View<'_>) -> Option<(u16, Vec<u16>)> {
        match item {
            Stream::Changes { records, .. } => {
                records.iter().for_each(|record| self.record(record, view));
            }
            Stream::Begin { bucket, .. } => {
                self.pass = self.pass.wrapping_add(1);
                self.open.insert(*bucket, self.pass);
            }
            Stream::End { bucket, owned, .. } => {
                if let Some(since) = self.open.remove(bucket) {
                    self.end(*bucket, since, owned, view);
                    self.whole |= *bucket == ALL;
                }
            }
            Stream::Digest { first, sums } => {
                let ours = self.heard.sums().iter().zip(0_u16..).skip(usize::from(*first));
                let differ = ours.zip(sums).filter(|((ours, _), theirs)| *ours != *theirs);
                return Some((*first, differ.map(|((_, bucket), _)| bucket).collect()));
            }
        }
        None
    }

    /// A worker has noted that a connection is no more.
    pub fn ended(&mut self, handle: Handle) {
        self.heard.clear(handle);
    }

    fn record(&mut self, record: &Record, view: &View<'_>) {
        let outcome = match view.names.identity(record) {
            None => Err(Refusal::Unknown),
            Some(identity) => match record.operation {
                Operation::Upsert => self.upsert(record, identity, view),
                Operation::Remove => self.remove(record, &identity, view),
            },
        };
        let Err(refusal) = outcome else { return };
        let total = &view.shared.changes.refused;
        let (count, total) = match refusal {
            Refusal::Unknown => (&mut self.refusals.unknown, &total.unknown),
            Refusal::NoRoom => (&mut self.refusals.no_room, &total.no_room),
            Refusal::Own => (&mut self.refusals.own, &total.own),
        };
        *count = count.saturating_add(1);
        total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn upsert(
        &mut self,
        record: &Record,
        identity: Identity,
        view: &View<'_>,
    ) -> Result<(), Refusal> {
        // `Record::decode` lets no other through.
        let state = State::from_number(record.state).ok_or(Refusal::Unknown)?;
        let (seen, synack) = (view.now.tick(), record.synack);
        let last_hop = view.names.last_hop(record);
        let conn = Conn { identity, last_hop, state, synack, seen, created: seen };
        let owned = view.owns(&conn);
        let origin = Origin::imported(record.origin, self.pass);
        let Some((found, old)) = find(&identity, view) else {
            return self.insert(record, &conn, origin, view);
        };
        if owned {
            // It came when nobody knew yet on which interface its client is.
            if old.is_imported() && found.conn.last_hop == NOWHERE && last_hop != NOWHERE {
                view.shared.conns.set_last_hop(&found.handle, last_hop);
            }
            return Err(Refusal::Own);
        }
        if old.is_imported() && found.conn.identity == identity {
            let conns = &view.shared.conns;
            if conns.set_origin(&found.handle, old, origin) && follow(found, &conn, view) {
                self.heard.set(found.handle, fingerprint(record));
                self.given.push(found.handle);
                return Ok(());
            }
        }
        // Another life, with another real, or one that was opened here when the VIP was ours.
        self.drop(found.handle, view);
        self.insert(record, &conn, origin, view)
    }

    fn insert(
        &mut self,
        record: &Record,
        conn: &Conn,
        origin: Origin,
        view: &View<'_>,
    ) -> Result<(), Refusal> {
        let shared = view.shared;
        let identity = conn.identity;
        let hash = shared.conns.hash(identity.client, identity.client_port, identity.protocol);
        let (heard, given) = (&mut self.heard, &mut self.given);
        let mut ended = |_, found: Found| {
            shared.settled(&found.conn);
            heard.clear(found.handle);
            given.push(found.handle);
        };
        let reservation = shared.conns.reserve(hash, &mut ended).ok_or(Refusal::NoRoom)?;
        if let Some((local, port)) = identity.local
            && !shared.ports.claim(identity.protocol, local, port, reservation.index())
        {
            return Err(Refusal::NoRoom);
        }
        // As in `forward/open.rs`: counted before anybody can find it.
        let (load, active) = (shared.loads.of(identity.real), conn.state.is_active());
        let template = conn.state == State::Template;
        if template {
            load.tied()
        } else {
            load.opened(active)
        }
        let services = view.names.services();
        let same_reply = |other: &Identity| same_reply(services, other, &identity);
        let outcome =
            shared.conns.insert_from(reservation, hash, (conn, origin), same_reply, &mut ended);
        if let Outcome::Inserted(handle) = outcome {
            if view.owns(conn) {
                // It went to the wrong node; from now on it is ours.
                self.taken.push(handle);
            } else {
                self.heard.set(handle, fingerprint(record));
            }
            return Ok(());
        }
        shared.settled(conn);
        Err(match outcome {
            // Opened by a packet this very moment.
            Outcome::Exists(_) => Refusal::Own,
            _ => Refusal::NoRoom,
        })
    }

    fn remove(
        &mut self,
        record: &Record,
        identity: &Identity,
        view: &View<'_>,
    ) -> Result<(), Refusal> {
        // Ended here too: that is what is wanted.
        let Some((found, origin)) = find(identity, view) else { return Ok(()) };
        if view.owns(&found.conn) {
            return Err(Refusal::Own);
        }
        // The removal of an old life does not end a new one.
        if origin.is_imported() && origin.life() == record.origin {
            self.drop(found.handle, view);
        }
        Ok(())
    }

    /// Ends a connection that is not ours to keep.
    fn drop(&mut self, handle: Handle, view: &View<'_>) {
        if let Some(conn) = view.shared.conns.remove(&handle) {
            view.shared.settled(&conn);
        }
        self.heard.clear(handle);
        self.given.push(handle);
    }

    /// A pass has ended: what the peer has not named in it is gone, if it is of a group that the peer
    /// owned all the time. A node that owns nothing does not name what it has been told itself: that is
    /// still there, and in the moment of a takeover may be all there is.
    fn end(&mut self, which: u16, since: u16, owned: &[u32], view: &View<'_>) {
        for index in 0..view.shared.conns.high() {
            let Some((life, print)) = self.heard.get(index) else { continue };
            if which != ALL && which != bucket(print) {
                continue;
            }
            match view.shared.conns.at(index) {
                Some((found, origin)) if found.handle.generation() == life => {
                    let named = origin.pass().wrapping_sub(since) < u16::MAX / 2;
                    if named {
                        continue;
                    }
                    if view.owns(&found.conn) {
                        self.heard.forget(index);
                    } else if view.group(&found.conn).is_some_and(|group| owned.contains(&group)) {
                        self.drop(found.handle, view);
                    }
                }
                _ => self.heard.forget(index),
            }
        }
    }

    /// Connections that the peer tells of from now on, or that are no more: not ours to tell of.
    pub fn given(&mut self) -> std::vec::Drain<'_, Handle> {
        self.given.drain(..)
    }

    /// Connections that came from the peer and are ours to tell of.
    pub fn taken(&mut self) -> std::vec::Drain<'_, Handle> {
        self.taken.drain(..)
    }

    /// Whether all that the peer had to tell has come, and no pass is being made.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole && self.open.is_empty()
    }

    /// Connections that are the peer's.
    #[must_use]
    pub fn heard(&self) -> u32 {
        self.heard.count()
    }

    /// What was refused.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// What we have of the peer.
    #[must_use]
    pub fn sums(&self) -> &[u64; BUCKETS] {
        self.heard.sums()
    }
}

/// The connection of this key, if there is one.
fn find(identity: &Identity, view: &View<'_>) -> Option<(Found, Origin)> {
    let conns = &view.shared.conns;
    let hash = conns.hash(identity.client, identity.client_port, identity.protocol);
    let key = |i: &Identity| (i.client, i.client_port, i.vip, i.vip_port, i.protocol);
    let found = conns.find_now(hash, |other| key(other) == key(identity))?;
    conns.at(found.handle.index()).filter(|(now, _)| now.handle == found.handle)
}

/// Makes state, time and last hop those of `conn`; false if it has ended meanwhile.
fn follow(found: Found, conn: &Conn, view: &View<'_>) -> bool {
    let shared = view.shared;
    let load = shared.loads.of(conn.identity.real);
    let mut found = found;
    for _ in 0..ATTEMPTS {
        let (was, is) = (found.conn.state.is_active(), conn.state.is_active());
        // As in `forward/observe.rs`: counted before anybody can see it.
        if was != is {
            load.opened(is);
        }
        let touched = shared.conns.touch(&found, conn.state, conn.synack, view.now.tick());
        if was != is {
            load.closed(if touched { was } else { is });
        }
        if touched {
            if conn.last_hop.mac != LastHop::default().mac {
                shared.conns.set_last_hop(&found.handle, conn.last_hop);
            }
            return true;
        }
        match shared.conns.at(found.handle.index()) {
            Some((again, _)) if again.handle == found.handle => found = again,
            _ => return false,
        }
    }
    // A worker has just seen it alive, so often that its state is the better one.
    true
}

/// Whether replies to two connections of one client and port could not be told apart.
fn same_reply(services: &ServiceTable, a: &Identity, b: &Identity) -> bool {
    let through_us = |id| services.real(id).filter(|r| r.forwarding == Forwarding::Nat);
    let same = match (through_us(a.real), through_us(b.real)) {
        (Some(a), Some(b)) => a.address == b.address,
        _ => false,
    };
    same && a.real_port == b.real_port && a.local.is_none() && b.local.is_none()
}
