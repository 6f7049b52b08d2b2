//! The sending side of a session: numbers, windows, and what is to be sent again.
//!
//! Two windows hold a sender back: that of the receiver, which keeps so many datagrams until it is
//! their turn, and one of our own that follows loss (RFC 9002, section 7, in short), because a
//! burst of a thousand datagrams is more than the receive buffers of most hosts hold.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::datagram::{Ack, bit};
use super::limits::{
    BODY_MAX, FLIGHT_MIN, PENDING_MAX, REORDER, RESEND_FIRST_NS, RESEND_NS, TRIES_MAX,
    UNAPPLIED_MAX, WINDOW,
};
use super::meter::Mark;

/// A datagram on its way.
struct Flight {
    /// As it was sealed; sent again as it is, so that no nonce is used for two contents.
    bytes: Bytes,
    sent_ns: u64,
    /// Number of the sending, over all datagrams.
    stamp: u64,
    tries: u32,
    /// It has arrived, and waits for an earlier one.
    held: bool,
    /// It waits to be sent again.
    lost: bool,
}

/// An item before it is in a datagram, as [`super::datagram::Item::put`] has written it.
struct Pending {
    bytes: Vec<u8>,
    mark: Mark,
}

/// An acknowledgement speaks of what was never sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Impossible;

/// What is to be sent, is on its way, and is not applied.
pub(super) struct Outbox {
    pending: VecDeque<Pending>,
    /// From the first that is not delivered on; the last has number `next - 1`.
    flight: VecDeque<Flight>,
    next: u64,
    /// Numbers of what is to be sent again; the first ones first, for all others wait for them.
    lost: BTreeSet<u64>,
    /// Of the datagram of that number, in order.
    unapplied: VecDeque<(u64, Mark)>,
    upserts: u64,
    /// Neither arrived nor lost.
    outstanding: u32,
    window: u16,
    limit: u32,
    threshold: u32,
    credit: u32,
    /// Losses of sendings before this one do not count: the window was made smaller after it.
    recover: u64,
    stamp: u64,
    srtt_ns: Option<u64>,
    rttvar_ns: u64,
    timeout_ns: u64,
    resent: u64,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            pending: VecDeque::new(),
            flight: VecDeque::new(),
            next: 1,
            lost: BTreeSet::new(),
            unapplied: VecDeque::new(),
            upserts: 0,
            outstanding: 0,
            window: WINDOW,
            limit: 2 * FLIGHT_MIN,
            threshold: u32::from(WINDOW),
            credit: 0,
            recover: 0,
            stamp: 0,
            srtt_ns: None,
            rttvar_ns: 0,
            timeout_ns: u64::MAX,
            resent: 0,
        }
    }

    /// For a new session, whose peer keeps `window` datagrams.
    pub(super) fn reset(&mut self, window: u16) {
        let resent = self.resent;
        *self = Self { window, resent, ..Self::new() };
    }

    /// Whether there is room for an item.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < PENDING_MAX && self.unapplied.len() < UNAPPLIED_MAX
    }

    /// Adds one, if there is room or if it must be (a few are ours, and bounded by time).
    pub(super) fn push(&mut self, bytes: Vec<u8>, mark: Mark) {
        self.upserts += u64::from(mark.upserts);
        self.pending.push_back(Pending { bytes, mark });
    }

    /// Everything up to here counts as said at `ns`, once it is applied; `false` if all is applied.
    pub(super) fn clean_until(&mut self, ns: u64) -> bool {
        let pending = self.pending.back_mut().map(|p| &mut p.mark);
        let last = pending.or_else(|| self.unapplied.back_mut().map(|(_, mark)| mark));
        last.map(|mark| mark.clean_ns = ns).is_some()
    }

    /// The next datagram to send: one again, or a new one that `seal` makes of its number and body.
    pub(super) fn next(
        &mut self,
        now: u64,
        seal: &mut dyn FnMut(u64, &[u8]) -> Option<Bytes>,
    ) -> Option<Bytes> {
        if self.outstanding >= self.limit {
            return None;
        }
        while let Some(number) = self.lost.pop_first() {
            let stamp = self.stamp + 1;
            let wait = self.wait_ns();
            let Some(flight) = self.flight_mut(number).filter(|f| f.lost && !f.held) else {
                continue;
            };
            flight.lost = false;
            flight.tries += 1;
            (flight.sent_ns, flight.stamp) = (now, stamp);
            let due = now + backed_off(wait, flight.tries);
            let bytes = flight.bytes.clone();
            self.sent(due);
            self.resent += 1;
            return Some(bytes);
        }
        if self.pending.is_empty() || self.flight.len() >= usize::from(self.window) {
            return None;
        }
        let bytes = seal(self.next, &self.pack())?;
        let stamp = self.stamp + 1;
        let copy = bytes.clone();
        self.flight.push_back(Flight {
            bytes,
            sent_ns: now,
            stamp,
            tries: 1,
            held: false,
            lost: false,
        });
        self.next += 1;
        self.sent(now + backed_off(self.wait_ns(), 1));
        Some(copy)
    }

    fn sent(&mut self, due: u64) {
        self.stamp += 1;
        self.outstanding += 1;
        self.timeout_ns = self.timeout_ns.min(due);
    }

    /// As many items as fit into one body.
    fn pack(&mut self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_MAX);
        while let Some(item) = self.pending.front() {
            if !body.is_empty() && body.len() + item.bytes.len() > BODY_MAX {
                break;
            }
            if let Some(item) = self.pending.pop_front() {
                body.extend_from_slice(&item.bytes);
                self.unapplied.push_back((self.next, item.mark));
            }
        }
        body
    }

    /// Number of the first that is not delivered.
    fn base(&self) -> u64 {
        self.next - self.flight.len() as u64
    }

    fn flight_mut(&mut self, number: u64) -> Option<&mut Flight> {
        let at = number.checked_sub(self.base())?;
        self.flight.get_mut(usize::try_from(at).ok()?)
    }

    /// Takes an acknowledgement in, and hands over the marks of what is applied now.
    ///
    /// # Errors
    /// It speaks of what was never sent; nothing has changed.
    pub(super) fn acknowledged(
        &mut self,
        ack: &Ack,
        now: u64,
        applied: &mut dyn FnMut(Mark),
    ) -> Result<(), Impossible> {
        if ack.delivered >= self.next {
            return Err(Impossible);
        }
        let (mut arrived, mut newest, mut newest_sent) = (0, 0, None);
        let mut arrive = |flight: &Flight| {
            arrived += u32::from(!flight.lost);
            if flight.tries == 1 && flight.stamp > newest {
                (newest, newest_sent) = (flight.stamp, Some(flight.sent_ns));
            }
        };
        while self.base() <= ack.delivered {
            match self.flight.pop_front() {
                Some(flight) if !flight.held => arrive(&flight),
                Some(_) => {}
                None => break,
            }
        }
        // An acknowledgement may be older than another: its bits are of what follows *its* place.
        let skip = self.base().saturating_sub(ack.delivered + 1);
        for (at, flight) in (skip..).zip(&mut self.flight) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if at >= ack.held.len() * 8 {
                break;
            }
            if bit(&ack.held, at) && !flight.held {
                arrive(flight);
                (flight.held, flight.lost) = (true, false);
            }
        }
        self.outstanding = self.outstanding.saturating_sub(arrived);
        if let Some(sent) = newest_sent {
            self.round_trip(now.saturating_sub(sent));
        }
        self.grow(arrived);
        self.find_lost(newest);
        while let Some((number, _)) = self.unapplied.front()
            && *number <= ack.applied
            && let Some((_, mark)) = self.unapplied.pop_front()
        {
            self.upserts -= u64::from(mark.upserts);
            applied(mark);
        }
        Ok(())
    }

    /// What was sent well before something that has arrived is lost. Only sendings that can be told
    /// from others of the same datagram bear witness.
    fn find_lost(&mut self, newest: u64) {
        let base = self.base();
        let mut last = None;
        for (number, flight) in (base..).zip(&mut self.flight) {
            if !flight.held && !flight.lost && flight.stamp + REORDER <= newest {
                flight.lost = true;
                self.lost.insert(number);
                self.outstanding = self.outstanding.saturating_sub(1);
                last = last.max(Some(flight.stamp));
            }
        }
        if last.is_some_and(|stamp| stamp > self.recover) {
            self.shrink();
        }
    }

    /// Finds what has waited too long; `false` if one was sent too often.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        if now < self.timeout_ns {
            return true;
        }
        let (base, wait) = (self.base(), self.wait_ns());
        let (mut next, mut late, mut alive) = (u64::MAX, None, true);
        for (number, flight) in (base..).zip(&mut self.flight) {
            if flight.held || flight.lost {
                continue;
            }
            let due = flight.sent_ns + backed_off(wait, flight.tries);
            if due > now {
                next = next.min(due);
                continue;
            }
            alive &= flight.tries < TRIES_MAX;
            flight.lost = true;
            self.lost.insert(number);
            self.outstanding = self.outstanding.saturating_sub(1);
            late = late.max(Some(flight.stamp));
        }
        self.timeout_ns = next;
        if late.is_some_and(|stamp| stamp > self.recover) {
            self.shrink();
        }
        alive
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn deadline(&self) -> u64 {
        self.timeout_ns
    }

    fn round_trip(&mut self, sample: u64) {
        match self.srtt_ns {
            None => (self.srtt_ns, self.rttvar_ns) = (Some(sample), sample / 2),
            Some(srtt) => {
                self.rttvar_ns = (3 * self.rttvar_ns + srtt.abs_diff(sample)) / 4;
                self.srtt_ns = Some((7 * srtt + sample) / 8);
            }
        }
    }

    /// RFC 9002, section 6.2.1, within our bounds.
    fn wait_ns(&self) -> u64 {
        let wait = self.srtt_ns.map_or(RESEND_FIRST_NS, |srtt| srtt + 4 * self.rttvar_ns);
        wait.clamp(RESEND_NS.0, RESEND_NS.1)
    }

    fn grow(&mut self, arrived: u32) {
        if self.limit < self.threshold {
            self.limit += arrived;
        } else {
            self.credit += arrived;
            if self.credit >= self.limit {
                self.credit -= self.limit;
                self.limit += FLIGHT_MIN / 4;
            }
        }
        self.limit = self.limit.min(u32::from(self.window).max(FLIGHT_MIN));
    }

    /// Once for all that were on their way together.
    fn shrink(&mut self) {
        self.limit = (self.limit / 10 * 7).max(FLIGHT_MIN);
        self.threshold = self.limit;
        self.recover = self.stamp;
    }

    /// Datagrams on their way, and how many may be.
    pub(super) fn flight(&self) -> (u32, u32) {
        (self.flight.len() as u32, self.limit.min(u32::from(self.window)))
    }

    /// Upserts not applied, and the moment of the oldest change that is not.
    pub(super) fn unacknowledged(&self) -> (u64, Option<u64>) {
        let mut marks =
            self.unapplied.iter().map(|(_, mark)| mark).chain(self.pending.iter().map(|p| &p.mark));
        (self.upserts, marks.find_map(|mark| mark.since_ns))
    }

    /// For tests: items that wait, or are not applied.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.pending.len() + self.unapplied.len()
    }

    /// Time of a round trip, smoothed.
    pub(super) fn srtt_ns(&self) -> Option<u64> {
        self.srtt_ns
    }

    /// Datagrams sent again since the start.
    pub(super) fn resent(&self) -> u64 {
        self.resent
    }
}

fn backed_off(wait: u64, tries: u32) -> u64 {
    (wait << tries.saturating_sub(1).min(8)).min(RESEND_NS.1)
}
