//! Finding, updating and ending connections.

use super::entry::{self, Conn, FREE, Found, Handle, Hot, Identity, LastHop};
use super::finder::Finder;
use super::free::Free;
use super::index::{Hash, Index, Probe, Seeds};
#[cfg(not(loom))]
use super::memory;
use super::memory::{Region, Unavailable};
use super::origin::Origin;
use super::sync::{Counter, Line};
use super::tcp::State;
use crate::address::Address;
use crate::clock::Tick;
use crate::limits;

/// All connections. Shared by reference between threads; see the module for what it promises.
#[derive(Debug)]
pub struct Table {
    pub(super) entries: Region<Line>,
    pub(super) index: Index,
    pub(super) free: Free,
    id: u64,
    half_open_max: u32,
    pub(super) used: Counter,
    pub(super) half_open: Counter,
    pub(super) templates: Counter,
    pub(super) imported: Counter,
}

impl Table {
    /// A table in memory of this process alone: for tests and benchmarks.
    ///
    /// # Panics
    /// If `capacity` is 0 or more than [`limits::CONNECTIONS`], or there is no memory.
    #[must_use]
    pub fn new_private(capacity: u32, half_open_max: u32) -> Self {
        assert!((1..=limits::CONNECTIONS).contains(&capacity), "capacity {capacity} out of range");
        #[cfg(not(loom))]
        let seeds = memory::random().expect("the kernel has random numbers");
        #[cfg(loom)]
        let seeds = [0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321];
        let entries = Region::anonymous(capacity as usize).expect("there is memory");
        let table = Self::over(entries, seeds, 0, half_open_max).expect("there is memory");
        table.free_all(|_| true);
        table
    }

    /// A table over these entries with an empty index and an empty free list.
    pub(super) fn over(
        entries: Region<Line>,
        seeds: Seeds,
        id: u64,
        half_open_max: u32,
    ) -> Result<Self, Unavailable> {
        let capacity = entries.len() as u32;
        Ok(Self {
            index: Index::new(capacity, seeds)?,
            free: Free::new(capacity)?,
            entries,
            id,
            half_open_max,
            used: Counter::default(),
            half_open: Counter::default(),
            templates: Counter::default(),
            imported: Counter::default(),
        })
    }

    /// Puts the entries `is_free` names on the free list, such that the lowest is taken first.
    pub(super) fn free_all(&self, mut is_free: impl FnMut(u32) -> bool) {
        for index in (0..self.capacity()).rev() {
            if is_free(index) {
                self.free.push(index);
            } else {
                self.free.note_use(index);
            }
        }
    }

    /// Random number of this table, kept when it is adopted; 0 for a private one.
    #[must_use]
    pub fn table_id(&self) -> u64 {
        self.id
    }

    /// Connections and templates in it.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.get()
    }

    /// Half-open connections in it.
    #[must_use]
    pub fn half_open(&self) -> u32 {
        self.half_open.get()
    }

    /// How many half-open connections there may be.
    #[must_use]
    pub fn half_open_max(&self) -> u32 {
        self.half_open_max
    }

    /// Persistence templates in it.
    #[must_use]
    pub fn templates(&self) -> u32 {
        self.templates.get()
    }

    /// Connections and templates in it that came from the peer.
    #[must_use]
    pub fn imported(&self) -> u32 {
        self.imported.get()
    }

    /// More than the number of any entry that was ever in use: where a walk may end.
    #[must_use]
    pub fn high(&self) -> u32 {
        self.free.high().min(self.capacity())
    }

    /// How many connections it can hold.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Memory it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Line>() + self.index.bytes() + self.free.bytes()
    }

    /// Hash of the client's side of a flow: the source of a request, the destination of a reply.
    /// Keyed with a secret of this table.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, client: Address, port: u16, protocol: u8) -> Hash {
        self.index.buckets().hash(client, port, protocol)
    }

    /// What lookups need of the table.
    #[inline(always)]
    #[must_use]
    pub fn finder(&self) -> Finder<'_> {
        Finder { entries: &self.entries, buckets: self.index.buckets() }
    }

    /// Third stage: the connection of this hash that `matches` accepts. Expired ones too: compare
    /// [`Conn::idle`] with its timeout. A connection being opened by another worker this very
    /// moment may be missed; [`Self::insert`] finds it.
    #[inline(always)]
    pub fn find(
        &self,
        hash: Hash,
        probe: Probe,
        matches: impl Fn(&Identity) -> bool,
    ) -> Option<Found> {
        if let Some(found) = self.get(probe.entry.wrapping_sub(1), &matches) {
            return Some(found);
        }
        // Not there, in the second bucket, the second of two entries with one tag, or new since.
        self.find_now(hash, matches)
    }

    /// [`Self::find`] without the stages before.
    #[inline(never)]
    pub fn find_now(&self, hash: Hash, matches: impl Fn(&Identity) -> bool) -> Option<Found> {
        self.index.candidates(hash).find_map(|index| self.get(index, &matches))
    }

    /// The connection in the entry `index`, if there is one and `matches` accepts it: for numbers
    /// that [`super::Ports`] gave.
    #[inline(always)]
    pub fn get(&self, index: u32, matches: impl Fn(&Identity) -> bool) -> Option<Found> {
        let (hot, conn) = entry::read(self.line(index)?)?;
        let handle = Handle { index, generation: hot.generation() };
        matches(&conn.identity).then_some(Found { handle, conn })
    }

    /// The connection in the entry `index`, if there is one, and where it comes from.
    #[must_use]
    pub fn at(&self, index: u32) -> Option<(Found, Origin)> {
        loop {
            let found = self.get(index, |_| true)?;
            let origin = entry::origin(self.line(index)?);
            // Of the same life: a connection changes its origin, but never its being imported.
            match self.get(index, |_| true) {
                Some(again) if again.handle == found.handle => return Some((found, origin)),
                _ => {}
            }
        }
    }

    /// Writes down in which pass the peer named a connection that came from it, and as which life.
    /// False if it is not as `old` says any more.
    pub fn set_origin(&self, handle: &Handle, old: Origin, new: Origin) -> bool {
        self.line(handle.index).is_some_and(|line| entry::set_origin(line, old, new))
    }

    /// Notes a packet: the new state, whether the real's SYN-ACK has been seen, and the time. Writes
    /// only what changed. False if the connection ended, or another worker changed its state, since
    /// `found` was read: look it up again.
    #[inline]
    pub fn touch(&self, found: &Found, state: State, synack: bool, now: Tick) -> bool {
        let conn = &found.conn;
        if conn.state == state && conn.synack == synack && conn.idle(now) == 0 {
            return true;
        }
        self.change(found, state, synack, now)
    }

    fn change(&self, found: &Found, state: State, synack: bool, now: Tick) -> bool {
        let Some(line) = self.line(found.handle.index) else { return false };
        let mut old = found.hot();
        loop {
            // Time does not run backwards, though the clocks were read in another order.
            let seen = if now.since(old.seen()) == 0 { old.seen() } else { now };
            let new = Hot::live(state, synack, found.handle.generation, seen);
            match entry::swap(line, old, new) {
                Ok(()) => break,
                Err(current) if current.same_but_seen(old) => old = current,
                Err(_) => return false,
            }
        }
        match (found.conn.state.is_half_open(), state.is_half_open()) {
            (true, false) => self.half_open.sub(),
            (false, true) => self.half_open.add(),
            (false, false) | (true, true) => {}
        }
        true
    }

    /// Replaces the next hop of replies, if the connection still lives.
    #[inline]
    pub fn set_last_hop(&self, handle: &Handle, hop: LastHop) {
        if let Some(line) = self.line(handle.index) {
            entry::set_last_hop(line, handle.generation, hop);
        }
    }

    /// Ends a connection. The one caller who did it gets what it was; all others `None`.
    pub fn remove(&self, handle: &Handle) -> Option<Conn> {
        loop {
            let hot = entry::hot(self.line(handle.index)?);
            hot.state()?;
            if hot.generation() != handle.generation {
                return None;
            }
            if let Some(conn) = self.remove_if(handle.index, hot) {
                return Some(conn);
            }
        }
    }

    /// Ends the connection if nothing about it has changed since `hot` was read.
    pub(super) fn remove_if(&self, index: u32, hot: Hot) -> Option<Conn> {
        let conn = self.take_if(index, hot)?;
        self.free.push(index);
        Some(conn)
    }

    /// The same, but the entry is the caller's then.
    pub(super) fn take_if(&self, index: u32, hot: Hot) -> Option<Conn> {
        let line = self.line(index)?;
        let state = hot.state()?;
        entry::swap(line, hot, hot.ended(FREE)).ok()?;
        let conn = entry::read_owned(line, state, hot);
        self.index.clear(self.hash_of(&conn.identity), index);
        if entry::origin(line).is_imported() {
            self.imported.sub();
        }
        self.count_end(state);
        Some(conn)
    }

    /// Looks at `count` entries from `cursor` on, around the end, and ends those idle for more than
    /// `timeout` ticks. `count` bounds the work.
    pub fn sweep(
        &self,
        cursor: &mut u32,
        count: u32,
        now: Tick,
        timeout: impl Fn(&Conn) -> u32,
        mut ended: impl FnMut(Found),
    ) {
        for _ in 0..count.min(self.capacity()) {
            let index = if *cursor < self.capacity() { *cursor } else { 0 };
            *cursor = index + 1;
            let Some((hot, conn)) = self.line(index).and_then(entry::read) else { continue };
            if conn.idle(now) > timeout(&conn) {
                // With exactly this `hot`: a packet that comes meanwhile saves it.
                let handle = Handle { index, generation: hot.generation() };
                if let Some(conn) = self.remove_if(index, hot) {
                    ended(Found { handle, conn });
                }
            }
        }
    }

    /// Appends connections that `filter` accepts to `out`, at most `limit` of them and from at most
    /// [`limits::PAGE_SCAN`] entries; the cursor for the next call, or `None` at the end. Start at 0.
    pub fn page(
        &self,
        cursor: u64,
        limit: usize,
        mut filter: impl FnMut(&Conn) -> bool,
        out: &mut Vec<Conn>,
    ) -> Option<u64> {
        let mut left = limit;
        let mut index = u32::try_from(cursor).unwrap_or(u32::MAX).min(self.capacity());
        let end = index.saturating_add(limits::PAGE_SCAN).min(self.capacity());
        while index < end && left > 0 {
            if let Some((_, conn)) = self.line(index).and_then(entry::read)
                && filter(&conn)
            {
                out.push(conn);
                left -= 1;
            }
            index += 1;
        }
        (index < self.capacity()).then_some(u64::from(index))
    }

    /// Shows every connection: after adoption, to rebuild loads and [`super::Ports`].
    pub fn each(&self, mut show: impl FnMut(Handle, &Conn)) {
        for (index, line) in (0..).zip(self.entries.iter()) {
            if let Some((hot, conn)) = entry::read(line) {
                show(Handle { index, generation: hot.generation() }, &conn);
            }
        }
    }

    #[inline(always)]
    pub(super) fn line(&self, index: u32) -> Option<&Line> {
        self.entries.get(index as usize)
    }

    pub(super) fn hash_of(&self, identity: &Identity) -> Hash {
        self.hash(identity.client, identity.client_port, identity.protocol)
    }

    /// Counts a new entry, all but its half-openness: that was counted when it was allowed.
    pub(super) fn count_start(&self, state: State) {
        self.used.add();
        if state == State::Template {
            self.templates.add();
        }
    }

    fn count_end(&self, state: State) {
        self.used.sub();
        if state.is_half_open() {
            self.half_open.sub();
        }
        if state == State::Template {
            self.templates.sub();
        }
    }
}
