//! The way between two nodes: a session in which items arrive in order, once, or the session ends.
//!
//! What is not the peer's costs little and touches nothing: first the header is looked at (whoever
//! does not know our random session number is no part of a session), then a limiter, then the
//! proof.

use std::collections::VecDeque;

use bytes::Bytes;

use super::datagram::{Ack, BYE_BYTES, DATAGRAM_LEAST, Greeting, Header, Kind};
use super::event::Ended;
use super::guard::Guard;
use super::inbox::{Inbox, Refused as Unwanted};
use super::limits::{
    ACK_DELAY_NS, ACK_EVERY, CONTROL_MAX, DATAGRAM_MAX, DATAGRAMS, GREETINGS, IDLE_NS,
};
use super::meter::Mark;
use super::outbox::Outbox;
use super::session::{Belongs, Outcome, Session};
use super::view::Refused;
use crate::seal::{self, Limiter};

/// What became of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed(Ended),
    /// The peer speaks these versions, none of which is ours.
    Version(u8, u8),
}

/// One end.
pub(super) struct Link {
    guard: Guard,
    pub(super) session: Session,
    pub(super) outbox: Outbox,
    inbox: Inbox,
    pub(super) refused: Refused,
    control: VecDeque<Bytes>,
    /// Of the last datagram that was not data.
    number: u64,
    applied: u64,
    /// What we say of the peer, and the peer of us.
    complete: (bool, bool),
    ack_ns: Option<u64>,
    unacked: u32,
    idle_ns: u64,
    greetings: Limiter,
    datagrams: Limiter,
    changes: VecDeque<Change>,
}

impl Link {
    pub(super) fn new(guard: Guard, random: Box<dyn FnMut() -> u64 + Send>, now: u64) -> Self {
        Self {
            guard,
            session: Session::new(random),
            outbox: Outbox::new(),
            inbox: Inbox::new(),
            refused: Refused::default(),
            control: VecDeque::new(),
            number: 0,
            applied: 0,
            complete: (false, false),
            ack_ns: None,
            unacked: 0,
            idle_ns: 0,
            greetings: Limiter::new(GREETINGS.0, GREETINGS.1, now),
            datagrams: Limiter::new(DATAGRAMS.0, DATAGRAMS.1, now),
            changes: VecDeque::new(),
        }
    }

    /// Other keys, or another way of using them: another session.
    pub(super) fn set_guard(&mut self, guard: Guard, now: u64) {
        self.lose(Ended::Stopped, now);
        self.guard = guard;
    }

    /// Begins to look for the peer.
    pub(super) fn start(&mut self, now: u64) {
        self.session.greet(now);
        self.guard.close_session();
        self.reset(0);
    }

    /// Ends the session, and tells the peer why.
    pub(super) fn stop(&mut self, why: Ended) {
        let was_open = self.session.is_open();
        self.bye(why);
        self.session.close();
        self.guard.close_session();
        self.reset(0);
        if was_open {
            self.changes.push_back(Change::Closed(why));
        }
    }

    /// Ends the session, and looks for another.
    pub(super) fn lose(&mut self, why: Ended, now: u64) {
        if self.session.is_open() {
            self.bye(why);
            self.start(now);
            self.changes.push_back(Change::Closed(why));
        }
    }

    fn reset(&mut self, window: u16) {
        self.outbox.reset(window);
        self.inbox = Inbox::new();
        (self.applied, self.complete, self.ack_ns, self.unacked) = (0, (false, false), None, 0);
    }

    fn bye(&mut self, why: Ended) {
        if self.session.is_open() {
            let (from, to, version) = self.session.names();
            self.say(Kind::Bye, version, from, to, &[why.code(); BYE_BYTES]);
        }
    }

    /// Puts a datagram that is not data into the queue.
    fn say(&mut self, kind: Kind, version: u8, from: u64, to: u64, body: &[u8]) {
        self.number += 1;
        let header = Header { kind, version, from, to, number: self.number };
        if self.control.len() >= CONTROL_MAX {
            self.control.pop_front();
        }
        if let Some(bytes) = self.guard.seal(&header, body) {
            self.control.push_back(bytes.into());
        }
    }

    fn greet(&mut self, kind: Kind, from: u64, to: u64, open: bool) {
        let body = self.session.greeting(open, self.guard.wants_encryption()).encode();
        self.say(kind, self.session.newest(), from, to, &body);
    }

    /// Takes a datagram in. The marks of what the peer has applied go to `applied`. Returns whether
    /// it was one of the peer's, of this session.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        now: u64,
        applied: &mut dyn FnMut(Mark),
    ) -> bool {
        if !(DATAGRAM_LEAST..=DATAGRAM_MAX).contains(&bytes.len()) {
            self.refused.malformed += 1;
            return false;
        }
        let Ok(header) = Header::decode(bytes) else {
            self.refused.malformed += 1;
            return false;
        };
        let Some(belongs) = self.admit(&header, now) else { return false };
        let body = match self.guard.open(&header, bytes) {
            Ok(body) => body,
            Err(refusal) => {
                *self.counter(refusal) += 1;
                return false;
            }
        };
        match belongs {
            Belongs::Greeting => self.greeted(&header, &body, now),
            _ => self.heard(&header, body, now, applied),
        }
    }

    /// What can be said of it before its proof is looked at, which costs time.
    fn admit(&mut self, header: &Header, now: u64) -> Option<Belongs> {
        let belongs = self.session.belongs(header);
        let limiter = match belongs {
            Belongs::Nowhere => {
                self.refused.old_session += 1;
                return None;
            }
            Belongs::Early => {
                self.refused.early += 1;
                return None;
            }
            Belongs::Greeting => &mut self.greetings,
            Belongs::Session => {
                if self.session.terms().is_none_or(|(version, _)| version != header.version) {
                    self.refused.version += 1;
                    return None;
                }
                if header.kind == Kind::Data
                    && let Err(why) = self.inbox.would_take(header.number)
                {
                    self.unwanted(why, now);
                    return None;
                }
                &mut self.datagrams
            }
        };
        if !limiter.take(now) {
            self.refused.limited += 1;
            return None;
        }
        Some(belongs)
    }

    fn unwanted(&mut self, why: Unwanted, now: u64) {
        match why {
            // Our acknowledgement may have been lost.
            Unwanted::Duplicate => {
                self.refused.duplicate += 1;
                self.ack_by(now + ACK_DELAY_NS);
            }
            Unwanted::OutOfWindow => self.refused.out_of_window += 1,
        }
    }

    fn counter(&mut self, refusal: seal::Refused) -> &mut u64 {
        match refusal {
            seal::Refused::UnknownKey => &mut self.refused.unknown_key,
            seal::Refused::BadMac => &mut self.refused.bad_mac,
            // Openers know no other.
            _ => &mut self.refused.malformed,
        }
    }

    fn greeted(&mut self, header: &Header, body: &[u8], now: u64) -> bool {
        let Ok(greeting) = Greeting::decode(body) else {
            self.refused.nonsense += 1;
            return false;
        };
        match self.session.greeted(header, greeting, now) {
            Outcome::Nothing => return true,
            Outcome::Answer { from, to } => {
                let open = from == self.session.names().0 && self.session.is_open();
                self.greet(Kind::Welcome, from, to, open);
                return open;
            }
            Outcome::Opened { hello } => return self.opened(greeting.encrypt, hello, now),
            Outcome::Stale => self.refused.old_session += 1,
            Outcome::Replayed => self.refused.replayed += 1,
            Outcome::Version { answer } => {
                self.refused.version += 1;
                let (low, high) = greeting.versions;
                let change = Change::Version(low, high);
                if self.changes.back() != Some(&change) {
                    self.changes.push_back(change);
                }
                if let Some((from, to)) = answer {
                    self.greet(Kind::Welcome, from, to, false);
                }
            }
        }
        false
    }

    /// A new session; greets the peer in it, and wants an answer if it is an answer itself.
    fn opened(&mut self, encrypt: bool, hello: bool, now: u64) -> bool {
        let (from, to, _) = self.session.names();
        let encrypted = encrypt || self.guard.wants_encryption();
        if !self.guard.open_session(from, to, encrypted) {
            self.start(now);
            self.changes.push_back(Change::Closed(Ended::NoKey));
            return false;
        }
        let window = self.session.terms().map_or(0, |(_, window)| window);
        self.reset(window);
        self.idle_ns = now;
        self.changes.push_back(Change::Opened);
        let kind = if hello { Kind::Hello } else { Kind::Welcome };
        self.greet(kind, from, to, !hello);
        true
    }

    fn heard(
        &mut self,
        header: &Header,
        body: Vec<u8>,
        now: u64,
        applied: &mut dyn FnMut(Mark),
    ) -> bool {
        match header.kind {
            Kind::Data => {
                self.session.heard(now);
                match self.inbox.put(header.number, body) {
                    Ok(odd) => {
                        self.unacked += 1;
                        let at_once = odd || self.unacked >= ACK_EVERY;
                        self.ack_by(if at_once { now } else { now + ACK_DELAY_NS });
                    }
                    Err(why) => self.unwanted(why, now),
                }
                true
            }
            Kind::Ack | Kind::Bye if !self.session.is_newer(header.number, now) => {
                self.refused.replayed += 1;
                false
            }
            Kind::Ack => {
                match Ack::decode(&body) {
                    Ok(ack) if self.outbox.acknowledged(&ack, now, applied).is_ok() => {
                        self.complete.1 = ack.complete;
                    }
                    Ok(_) | Err(_) => self.refused.nonsense += 1,
                }
                true
            }
            Kind::Bye => {
                let why = Ended::of_peer(body.first().copied().unwrap_or(0));
                self.start(now);
                self.changes.push_back(Change::Closed(why));
                true
            }
            Kind::Hello | Kind::Welcome => false,
        }
    }

    fn ack_by(&mut self, at: u64) {
        self.ack_ns = Some(self.ack_ns.map_or(at, |due| due.min(at)));
    }

    /// The body of the next data in order.
    pub(super) fn take(&mut self, now: u64) -> Option<(u64, Vec<u8>)> {
        let taken = self.inbox.take()?;
        self.ack_by(now + ACK_DELAY_NS);
        Some(taken)
    }

    /// Our data plane has applied what came in data up to this number.
    pub(super) fn applied(&mut self, number: u64, now: u64) {
        if number > self.applied && number <= self.inbox.taken() {
            self.applied = number;
            self.ack_by(now + ACK_DELAY_NS);
        }
    }

    /// Whether we say that the peer has all of ours.
    pub(super) fn set_complete(&mut self, complete: bool, now: u64) {
        if self.complete.0 != complete {
            self.complete.0 = complete;
            self.ack_by(now);
        }
    }

    /// Whether the peer says that we have all of its.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.1
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: u64) {
        if self.session.is_silent(now) {
            self.lose(Ended::Silence, now);
        }
        if !self.outbox.expire(now) {
            self.lose(Ended::Blocked, now);
        }
        if self.session.hello(now) {
            let (from, to, _) = self.session.names();
            self.greet(Kind::Hello, from, to, false);
        }
    }

    /// When something is due without anything being received.
    pub(super) fn deadline(&self) -> u64 {
        let ack = if self.session.is_open() { self.idle_ns } else { u64::MAX };
        let ack = ack.min(self.ack_ns.unwrap_or(u64::MAX));
        self.session.deadline().min(self.outbox.deadline()).min(ack)
    }

    /// The next datagram to send.
    pub(super) fn next(&mut self, now: u64) -> Option<Bytes> {
        if let Some(bytes) = self.control.pop_front() {
            return Some(bytes);
        }
        if !self.session.is_open() {
            return None;
        }
        let (from, to, version) = self.session.names();
        if now >= self.idle_ns || self.ack_ns.is_some_and(|at| at <= now) {
            let ack = Ack {
                delivered: self.inbox.taken(),
                applied: self.applied,
                complete: self.complete.0,
                held: self.inbox.held(),
            };
            self.say(Kind::Ack, version, from, to, &ack.encode());
            (self.ack_ns, self.unacked, self.idle_ns) = (None, 0, now + IDLE_NS);
            return self.control.pop_front();
        }
        let guard = &mut self.guard;
        self.outbox.next(now, &mut |number, body| {
            let header = Header { kind: Kind::Data, version, from, to, number };
            guard.seal(&header, body).map(Bytes::from)
        })
    }

    pub(super) fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// For tests: datagrams that wait, in and out.
    #[cfg(test)]
    pub(super) fn kept(&self) -> [usize; 2] {
        [self.inbox.kept(), self.control.len()]
    }
}
