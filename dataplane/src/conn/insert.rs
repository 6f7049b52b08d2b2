//! Opening a connection, when another worker may be opening the same one.
//!
//! Two workers can hold packets of one flow at once, and each choose a real for it. One must win,
//! and the other use what it chose. So an entry goes into the index as *pending*, and then:
//!
//! 1. **publish**: put it into a slot;
//! 2. **look**: read both buckets for rivals (entries of the same key, or whose replies could not be
//!    told from ours). Between 1 and 2 stands a full fence: of two inserters at least one sees the
//!    other;
//! 3. **settle**: against a live rival we lose. Of two pending ones that in the lower position wins:
//!    the lower kills the higher by a compare-and-swap on its `hot`, the higher gives up;
//! 4. **go live**: compare-and-swap our own `hot` from pending. If a rival killed us meanwhile it
//!    fails, and we start again, to find the winner.
//!
//! Only one of *killed* and *live* can happen to an entry, for both are swaps of one word; so there
//! are never two live entries of a key. The lowest of them can be killed by nobody; so one remains.

use super::entry::{self, Conn, FREE, Found, Handle, Hot, Identity, WRITING};
use super::index::{Hash, slot_word, tag};
use super::origin::Origin;
use super::sync::{Ordering, fence};
use super::table::Table;
use super::tcp::State;
use crate::limits;

/// How often a place is made by eviction before giving up: others may take it first.
const EVICTIONS: usize = 4;

/// What became of an insertion.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub enum Outcome {
    /// It is in the table.
    Inserted(Handle),
    /// Another worker opened the same connection; use that one. It may have been found a moment
    /// before it is complete: then [`Table::touch`] on it returns false, which does no harm.
    Exists(Found),
    /// Replies to it could not be told from those of another connection.
    ReplyConflict,
    /// No place in the two buckets, and no half-open connection to evict.
    TableFull,
    /// Too many half-open connections, and none near enough to evict.
    HalfOpenLimit,
}

/// Why a connection ended to make way for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was half-open, and the oldest at hand.
    Evicted,
    /// It was closing, and its replies could not be told from those of the new one.
    Replaced,
}

/// An entry set aside for one insertion; goes back when dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    table: &'a Table,
    index: u32,
}

impl Reservation<'_> {
    /// Number of the entry, for [`super::Ports::allocate`].
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.table.free.push(self.index);
    }
}

/// What an inserter wants and whom it tells.
struct Attempt<'a> {
    hash: Hash,
    index: u32,
    conn: &'a Conn,
    origin: Origin,
    same_reply: &'a dyn Fn(&Identity) -> bool,
    ended: &'a mut dyn FnMut(Ended, Found),
}

/// An entry in the way of ours.
struct Rival {
    index: u32,
    hot: Hot,
    conn: Conn,
    same_key: bool,
}

impl Rival {
    /// What its victory means for us.
    fn wins(&self) -> Outcome {
        let handle = Handle { index: self.index, generation: self.hot.generation() };
        if self.same_key {
            Outcome::Exists(Found { handle, conn: self.conn })
        } else {
            Outcome::ReplyConflict
        }
    }
}

enum Settled {
    Live,
    Lost(Outcome),
    Killed,
}

impl Table {
    /// Sets an entry aside. If the table is full a half-open connection is evicted and shown to
    /// `ended`; `None` if none is at hand.
    pub fn reserve(
        &self,
        hash: Hash,
        ended: &mut dyn FnMut(Ended, Found),
    ) -> Option<Reservation<'_>> {
        for _ in 0..EVICTIONS {
            if let Some(index) = self.free.pop() {
                return Some(Reservation { table: self, index });
            }
            let (index, hot) = self.victim(hash)?;
            if let Some(conn) = self.take_if(index, hot) {
                ended(Ended::Evicted, found(index, hot, conn));
                return Some(Reservation { table: self, index });
            }
        }
        None
    }

    /// Opens a connection; `hash` is that of its client's side. Connections that had to go for it
    /// are shown to `ended`, whatever the outcome: the caller settles their loads and ports.
    ///
    /// `same_reply` gets the identity of another connection of the same client address, port and
    /// protocol to another VIP or VIP port, and says whether replies to that one could not be told
    /// from replies to this one: same real address and port, and both by `nat`.
    pub fn insert(
        &self,
        reservation: Reservation<'_>,
        hash: Hash,
        conn: &Conn,
        same_reply: impl Fn(&Identity) -> bool,
        ended: &mut dyn FnMut(Ended, Found),
    ) -> Outcome {
        self.insert_from(reservation, hash, (conn, Origin::OWN), same_reply, ended)
    }

    /// [`Self::insert`] for a connection that may have come from the peer.
    pub fn insert_from(
        &self,
        reservation: Reservation<'_>,
        hash: Hash,
        (conn, origin): (&Conn, Origin),
        same_reply: impl Fn(&Identity) -> bool,
        ended: &mut dyn FnMut(Ended, Found),
    ) -> Outcome {
        let index = reservation.index;
        let mut attempt = Attempt { hash, index, conn, origin, same_reply: &same_reply, ended };
        let outcome = self.attempt(&mut attempt);
        if matches!(outcome, Outcome::Inserted(_)) {
            std::mem::forget(reservation);
        }
        outcome
    }

    fn attempt(&self, attempt: &mut Attempt<'_>) -> Outcome {
        if let Some(outcome) = self.clear_way(attempt) {
            return outcome;
        }
        let half_open = attempt.conn.state.is_half_open();
        if half_open && !self.allow_half_open(attempt) {
            return Outcome::HalfOpenLimit;
        }
        // Counted before anybody can end it.
        let imported = attempt.origin.is_imported();
        if imported {
            self.imported.add();
        }
        let outcome = self.publish(attempt);
        if imported && !matches!(outcome, Outcome::Inserted(_)) {
            self.imported.sub();
        }
        if matches!(outcome, Outcome::Inserted(_)) {
            self.count_start(attempt.conn.state);
        } else if half_open {
            self.half_open.sub();
        }
        outcome
    }

    fn publish(&self, attempt: &mut Attempt<'_>) -> Outcome {
        let line = &self.entries[attempt.index as usize];
        // Each repetition means that another inserter of the key got ahead of us.
        loop {
            let pending = entry::write(line, attempt.conn, attempt.origin);
            let Some(position) = self.place(attempt) else {
                entry::withdraw(line, pending);
                return Outcome::TableFull;
            };
            // Publish, then look: neither may be reordered, or two inserters miss each other.
            fence(Ordering::SeqCst);
            match self.settle(attempt, position, pending) {
                Settled::Live => {
                    let generation = pending.generation();
                    return Outcome::Inserted(Handle { index: attempt.index, generation });
                }
                Settled::Lost(outcome) => {
                    entry::withdraw(line, pending);
                    self.index.clear(attempt.hash, attempt.index);
                    return outcome;
                }
                Settled::Killed => {
                    entry::withdraw(line, pending);
                    self.index.clear(attempt.hash, attempt.index);
                }
            }
            if let Some(outcome) = self.clear_way(attempt) {
                return outcome;
            }
        }
    }

    /// Before publishing: an outcome if there is a rival already, pending ones included; a closing
    /// one that is merely in the way is ended.
    fn clear_way(&self, attempt: &mut Attempt<'_>) -> Option<Outcome> {
        for (_, slot) in self.index.slots(attempt.hash) {
            while let Some(rival) = self.rival(attempt, slot) {
                if !self.replace(&rival, attempt) {
                    return Some(rival.wins());
                }
            }
        }
        None
    }

    fn settle(&self, attempt: &mut Attempt<'_>, position: usize, pending: Hot) -> Settled {
        for (at, slot) in self.index.slots(attempt.hash) {
            while let Some(rival) = self.rival(attempt, slot) {
                if rival.hot.is_pending() {
                    if at < position {
                        return Settled::Lost(rival.wins());
                    }
                    // If this fails it went live, gave up or was killed: look again.
                    let line = &self.entries[rival.index as usize];
                    let _ = entry::swap(line, rival.hot, rival.hot.ended(WRITING));
                } else if !self.replace(&rival, attempt) {
                    return Settled::Lost(rival.wins());
                }
            }
        }
        let Conn { state, synack, seen, .. } = *attempt.conn;
        let live = Hot::live(state, synack, pending.generation(), seen);
        let line = &self.entries[attempt.index as usize];
        if entry::swap(line, pending, live).is_ok() { Settled::Live } else { Settled::Killed }
    }

    /// The rival in a slot.
    fn rival(&self, attempt: &Attempt<'_>, slot: &super::sync::AtomicU64) -> Option<Rival> {
        loop {
            let word = slot.load(Ordering::Acquire);
            if tag(word) != attempt.hash.tag() || word == slot_word(attempt.hash, attempt.index) {
                return None;
            }
            let index = (word as u32).wrapping_sub(1);
            // What is neither live nor pending now was published in this slot and has ended since.
            let (hot, conn) = entry::read_any(self.line(index)?)?;
            // Still in this slot, or it may be somewhere else by now, and its position is wrong.
            if slot.load(Ordering::Acquire) == word {
                let same_key = same_key(attempt.conn, &conn);
                let rival = same_key || same_reply(attempt, &conn);
                return rival.then_some(Rival { index, hot, conn, same_key });
            }
        }
    }

    /// Ends a live rival that is only in the way of our replies and closing anyway; whether it is
    /// worth another look.
    fn replace(&self, rival: &Rival, attempt: &mut Attempt<'_>) -> bool {
        if rival.same_key || rival.hot.is_pending() || !rival.conn.state.is_closing() {
            return false;
        }
        if let Some(conn) = self.remove_if(rival.index, rival.hot) {
            (attempt.ended)(Ended::Replaced, found(rival.index, rival.hot, conn));
        }
        true
    }

    fn place(&self, attempt: &mut Attempt<'_>) -> Option<usize> {
        for _ in 0..EVICTIONS {
            if let Some(position) = self.index.place(attempt.hash, attempt.index) {
                return Some(position);
            }
            let (index, hot) = self.victim_in_buckets(attempt.hash)?;
            if let Some(conn) = self.remove_if(index, hot) {
                (attempt.ended)(Ended::Evicted, found(index, hot, conn));
            }
        }
        None
    }

    /// Counts one half-open connection more, evicting one if there are too many.
    fn allow_half_open(&self, attempt: &mut Attempt<'_>) -> bool {
        for _ in 0..EVICTIONS {
            if self.half_open.add_below(self.half_open_max()) {
                return true;
            }
            let Some((index, hot)) = self.victim(attempt.hash) else { return false };
            if let Some(conn) = self.remove_if(index, hot) {
                (attempt.ended)(Ended::Evicted, found(index, hot, conn));
            }
        }
        false
    }

    /// A half-open connection to evict: the oldest in the two buckets, else of some entries
    /// all over the table.
    fn victim(&self, hash: Hash) -> Option<(u32, Hot)> {
        self.victim_in_buckets(hash).or_else(|| {
            // Among the entries that have been in use: the others are free, and the lowest are taken
            // first. Far apart, for entries of one kind lie together; steps of the golden ratio leave
            // no large part unseen.
            let used = u64::from(self.free.high());
            if used <= 2 * u64::from(limits::EVICTION_PROBES) {
                return self.oldest(0..used as u32);
            }
            let start = u64::from(self.index.buckets().second(hash)) * used;
            let step = used * 0x9e37_79b9;
            let at = |i: u32| ((start.wrapping_add(u64::from(i) * step) >> 32) % used) as u32;
            self.oldest((0..limits::EVICTION_PROBES).map(at))
        })
    }

    fn victim_in_buckets(&self, hash: Hash) -> Option<(u32, Hot)> {
        let words = self.index.slots(hash).map(|(_, slot)| slot.load(Ordering::Acquire));
        self.oldest(words.filter(|&word| word != 0).map(|word| (word as u32).wrapping_sub(1)))
    }

    fn oldest(&self, indices: impl Iterator<Item = u32>) -> Option<(u32, Hot)> {
        let is_half_open = |hot: &Hot| hot.state().is_some_and(State::is_half_open);
        let hots = indices.filter_map(|i| Some((i, entry::hot(self.line(i)?))));
        hots.filter(|(_, hot)| is_half_open(hot)).reduce(|oldest, other| {
            if oldest.1.seen().since(other.1.seen()) > 0 { other } else { oldest }
        })
    }
}

fn found(index: u32, hot: Hot, conn: Conn) -> Found {
    Found { handle: Handle { index, generation: hot.generation() }, conn }
}

/// Whether two entries are one flow. Templates of two services may share a client and a VIP.
pub(super) fn same_key(a: &Conn, b: &Conn) -> bool {
    let (template, x, y) = (a.state == State::Template, &a.identity, &b.identity);
    (x.client, x.client_port, x.protocol) == (y.client, y.client_port, y.protocol)
        && (x.vip, x.vip_port) == (y.vip, y.vip_port)
        && template == (b.state == State::Template)
        && (!template || x.service == y.service)
}

fn same_reply(attempt: &Attempt<'_>, other: &Conn) -> bool {
    let (x, y) = (&attempt.conn.identity, &other.identity);
    (x.client, x.client_port, x.protocol) == (y.client, y.client_port, y.protocol)
        && attempt.conn.state != State::Template
        && other.state != State::Template
        && (attempt.same_reply)(y)
}

const _: () = assert!(FREE == 0, "fresh memory is a table of free entries");
