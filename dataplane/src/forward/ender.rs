//! Goes through the table for connections that are to end: a worker's part of it, between bursts.
//!
//! What has packets ends by those (`ending.rs`). This finds what is idle: it ends what needs no
//! packet, asks both sides of a TCP connection for one, and counts what is left.

use std::sync::Arc;
use std::time::Duration;

use dataplane_api::counter::{Event, Reason};

use super::{Tables, client, deliver};
use crate::address::{DeviceId, Mac};
use crate::clock::{Instant, Tick};
use crate::conn::{Conn, Found, Handle, State};
use crate::ending::{Ending, Endings};
use crate::frame::Outbox;
use crate::limits;
use crate::rewrite::nat::Endpoint;
use crate::rewrite::reset::{self, SEGMENT};
use crate::service::Fate;

/// The part is gone through once in this time, or as fast as [`limits::ENDING_STEP`] allows.
const PASS: Duration = Duration::from_secs(1);
/// An idle connection is asked in one of this many passes.
const ASK_EVERY: u32 = 5;
/// Answers of a real to a connection of UDP that is to move are waited for this long after the
/// client's last packet.
const ANSWERS: u32 = Tick::in_seconds(2);

/// One worker's progress.
pub struct Ender {
    worker: usize,
    first: u32,
    last: u32,
    cursor: u32,
    pass: u32,
    begun: Instant,
    /// What the pass is for.
    endings: Arc<Endings>,
}

impl Ender {
    /// Of worker `worker` of `workers`, on a table of `capacity`.
    #[must_use]
    pub fn new(worker: usize, workers: usize, capacity: u32) -> Self {
        let part = |n: usize| (u64::from(capacity) * n as u64 / workers.max(1) as u64) as u32;
        let (first, last) = (part(worker), part(worker + 1));
        let begun = Instant::ZERO;
        Self { worker, first, last, cursor: last, pass: 0, begun, endings: Arc::default() }
    }

    /// Does one bounded step; true if there is more to do at once.
    #[inline]
    pub fn step(&mut self, outbox: &mut dyn Outbox, tables: &mut Tables<'_>) -> bool {
        !tables.published.endings.is_empty() && self.work(outbox, tables)
    }

    #[cold]
    fn work(&mut self, outbox: &mut dyn Outbox, tables: &mut Tables<'_>) -> bool {
        if !Arc::ptr_eq(&self.endings, &tables.published.endings) {
            // The counts of a pass that began without some of them say nothing.
            self.endings = Arc::clone(&tables.published.endings);
            self.pass = 0;
            self.begin(tables.now);
        } else if self.cursor >= self.last {
            if tables.now.since(self.begun) < PASS {
                return false;
            }
            self.pass = self.pass.wrapping_add(1);
            self.begin(tables.now);
        }
        let end = self.last.min(self.cursor.saturating_add(limits::ENDING_STEP));
        let mut left = limits::ENDINGS;
        while self.cursor < end && left > 0 {
            left -= u32::from(self.look(outbox, tables));
            self.cursor += 1;
        }
        if self.cursor >= self.last {
            self.endings.values().for_each(|ending| ending.finish(self.worker));
            return false;
        }
        true
    }

    fn begin(&mut self, now: Instant) {
        self.cursor = self.first;
        self.begun = now;
        self.endings.values().for_each(|ending| ending.begin(self.worker));
    }

    /// Looks at one entry; true if there was something to do.
    fn look(&self, outbox: &mut dyn Outbox, tables: &mut Tables<'_>) -> bool {
        let concerns = |found: &Found| {
            let ending = self.endings.get(&found.conn.identity.real)?;
            ending.concerns(&found.conn).then_some(ending)
        };
        let Some(found) = tables.shared.conns.get(self.cursor, |_| true) else { return false };
        let Some(ending) = concerns(&found) else { return false };
        match ending.fate(&found.conn) {
            Fate::Keep => false,
            Fate::Drop => remove(found.handle, Event::ConnDropped, tables),
            Fate::Move => self.leave(ending, &found, tables),
            Fate::Reset => self.reset(ending, &found, outbox, tables),
        }
    }

    /// UDP: what is idle is forgotten, if the next packet finds somebody else.
    fn leave(&self, ending: &Ending, found: &Found, tables: &Tables<'_>) -> bool {
        let identity = &found.conn.identity;
        let service = tables.published.services.service(identity.service);
        let other = service.is_some_and(|s| s.has_other(identity.real, &tables.shared.loads));
        if other && (found.conn.idle(tables.now.tick()) > ANSWERS || ending.is_over(tables.now)) {
            return remove(found.handle, Event::ConnMoved, tables);
        }
        if other || !ending.is_over(tables.now) {
            ending.count(self.worker);
        }
        false
    }

    /// TCP: what is half-open or has not answered for long is forgotten; what is idle is asked.
    fn reset(
        &self,
        ending: &Ending,
        found: &Found,
        outbox: &mut dyn Outbox,
        tables: &mut Tables<'_>,
    ) -> bool {
        match found.conn.state {
            // Ended already; they are kept for stray packets alone.
            State::Close | State::TimeWait => return false,
            // The client's next SYN opens a new one.
            State::SynReceived => return remove(found.handle, Event::ConnDropped, tables),
            _ if ending.is_over(tables.now) => {
                return remove(found.handle, Event::ConnDropped, tables);
            }
            _ => ending.count(self.worker),
        }
        let due = self.pass.is_multiple_of(ASK_EVERY);
        if due {
            ask(&found.conn, outbox, tables);
        }
        due
    }
}

fn remove(handle: Handle, why: Event, tables: &Tables<'_>) -> bool {
    if tables.remove(handle).is_some_and(|found| found.conn.state != State::Template) {
        tables.event(why);
    }
    true
}

/// Asks both sides, or the client alone if the real does not answer through us, where they are.
fn ask(conn: &Conn, outbox: &mut dyn Outbox, tables: &mut Tables<'_>) {
    let services = &tables.published.services;
    let identity = &conn.identity;
    let Some(real) = tables.real(identity) else { return };
    let (forwarding, address) = (real.forwarding, real.address);
    let client = Endpoint { address: identity.client, port: identity.client_port };
    let Some(vip) = services.vip(identity.vip) else { return };
    let vip = Endpoint { address: vip, port: identity.vip_port };
    // Another number each time, should one happen to be in the window.
    let sequence = (tables.now.nanos() as u32).wrapping_mul(0x9e37_79b1);
    if let Ok((hop, mac, _)) = client::next_hop(identity.client, conn.last_hop, tables) {
        send(vip, client, (hop.mac, mac), hop.device, sequence, outbox, tables);
    }
    let Ok((hop, device)) = deliver::next_hop(identity.real, tables) else { return };
    if !forwarding.is_one_way() {
        let local = identity
            .local
            .and_then(|(local, port)| Some(Endpoint { address: services.local(local)?, port }));
        let from = local.unwrap_or(client);
        let to = Endpoint { address, port: identity.real_port };
        send(from, to, (hop.mac, device.mac), hop.device, sequence, outbox, tables);
    }
}

fn send(
    from: Endpoint,
    to: Endpoint,
    link: (Mac, Mac),
    device: DeviceId,
    sequence: u32,
    outbox: &mut dyn Outbox,
    tables: &Tables<'_>,
) {
    let mut bytes = [0; SEGMENT];
    let len = reset::probe(from, to, link, sequence, &mut bytes);
    if outbox.send(device, &bytes[..len]) {
        tables.event(Event::EndProbe);
    } else {
        tables.counters.drop(Reason::TxFull);
    }
}
