//! What goes to the peer: changes as they come, passes over the table, digests.
//!
//! Pure: a function of the table and of what the workers noted. What has been sent of each entry is
//! remembered ([`Marks`]), so that only what the peer may have is taken back, and the digest says what
//! it should have by now.

use std::collections::BTreeSet;

use dataplane_api::record::{Operation, Record};
use dataplane_api::sync::{ALL, BUCKETS, DIGEST_PART, RECORDS_MAX, Stream};

use super::digest::{Marks, bucket, fingerprint};
use super::names::View;
use crate::changes::Change;
use crate::conn::{Found, Handle};

/// Buckets asked for again above which all are sent: each costs the receiver a look at all marks.
const BUCKETS_AGAIN: usize = 32;

/// One side of the stream.
#[derive(Debug)]
pub struct Export {
    sent: Marks,
    /// Between `Start` and `Stop`.
    active: bool,
    records: Vec<Record>,
    /// When the first change among them happened.
    since: Option<u64>,
    ready: Vec<Stream>,
    pass: Option<Pass>,
    next: Option<Wanted>,
    /// Of the last order.
    number: u16,
    digest: bool,
    passes: u32,
}

/// What a pass is to send.
#[derive(Debug)]
enum Wanted {
    All,
    Buckets(BTreeSet<u16>),
}

impl Wanted {
    fn has(&self, bucket: u16) -> bool {
        match self {
            Self::All => true,
            Self::Buckets(buckets) => buckets.contains(&bucket),
        }
    }

    fn with(self, other: Option<Self>) -> Self {
        match (self, other) {
            (one, None) => one,
            (Self::Buckets(mut a), Some(Self::Buckets(b))) => {
                a.extend(b);
                Self::Buckets(a)
            }
            _ => Self::All,
        }
    }
}

/// A pass that is being made.
#[derive(Debug)]
struct Pass {
    wanted: Wanted,
    number: u16,
    cursor: u32,
    /// Groups owned since it began.
    owned: BTreeSet<u32>,
    /// Of each bucket; of a pass over all: of the first.
    sent: Box<[u32; BUCKETS]>,
}

impl Export {
    /// Of a table of this capacity; silent until [`Self::start`].
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            sent: Marks::new(capacity),
            active: false,
            records: Vec::new(),
            since: None,
            ready: Vec::new(),
            pass: None,
            next: None,
            number: 0,
            digest: false,
            passes: 0,
        }
    }

    /// Begins anew: a full pass with this number, and from now on each change.
    pub fn start(&mut self, pass: u16, view: &View<'_>) {
        self.stop(view);
        self.active = true;
        (self.number, self.next) = (pass, Some(Wanted::All));
    }

    /// Sends nothing more.
    pub fn stop(&mut self, view: &View<'_>) {
        self.sent.reset(view.shared.conns.high());
        self.records.clear();
        self.ready.clear();
        (self.active, self.since, self.digest, self.passes) = (false, None, false, 0);
        (self.pass, self.next) = (None, None);
    }

    /// Whether the peer wants to know.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Sends buckets again.
    pub fn resend(&mut self, pass: u16, buckets: &[u16]) {
        if buckets.is_empty() {
            return;
        }
        self.number = pass;
        let all = buckets.len() > BUCKETS_AGAIN;
        let buckets = || Wanted::Buckets(buckets.iter().copied().collect());
        self.want(if all { Wanted::All } else { buckets() });
    }

    /// Sends everything again: changes were lost, or other connections are ours to tell of.
    pub fn again(&mut self) {
        self.want(Wanted::All);
    }

    fn want(&mut self, wanted: Wanted) {
        if self.active {
            self.next = Some(wanted.with(self.next.take()));
        }
    }

    /// Puts a digest into the stream; after the pass, if there is one, for in it the receiver has
    /// what it has not been told yet to forget.
    pub fn order_digest(&mut self) {
        self.digest = self.active;
    }

    /// The end of a connection, as a worker noted it.
    pub fn ended(&mut self, change: &Change, view: &View<'_>) {
        let Some(conn) = change.ended else { return };
        let found = Found { handle: change.handle, conn };
        // What has another mark, or none, may have been sent before the entry had a new owner: the
        // peer knows by its origin whether it has it.
        if self.active && (self.sent.clear(found.handle) || view.owns(&conn)) {
            self.put(Operation::Remove, &found, change.at.nanos(), view);
        }
    }

    /// A connection that is something else now.
    pub fn changed(&mut self, change: &Change, view: &View<'_>) {
        if !self.active {
            return;
        }
        let now = view.shared.conns.at(change.handle.index());
        if let Some((found, origin)) = now
            && found.handle == change.handle
            && view.exports(&found.conn, origin)
        {
            self.put(Operation::Upsert, &found, change.at.nanos(), view);
        }
    }

    /// The peer tells of it from now on.
    pub fn forget(&mut self, handle: Handle) {
        self.sent.clear(handle);
    }

    /// Adds a record, and notes what the peer has by that. Its bucket, if it was one.
    fn put(&mut self, operation: Operation, found: &Found, at: u64, view: &View<'_>) {
        let Some(record) = view.names.record(operation, found) else { return };
        if operation == Operation::Upsert {
            self.sent.set(found.handle, fingerprint(&record));
        }
        self.add(record, at);
    }

    fn add(&mut self, record: Record, at: u64) {
        self.since = Some(self.since.map_or(at, |since| since.min(at)));
        self.records.push(record);
        if self.records.len() == RECORDS_MAX {
            self.flush();
        }
    }

    /// Ends the item of the stream that is being filled.
    pub fn flush(&mut self) {
        if !self.records.is_empty() {
            let since_ns = self.since.take().unwrap_or(0);
            let records = std::mem::take(&mut self.records);
            self.ready.push(Stream::Changes { since_ns, records });
        }
    }

    /// Goes on with a pass, or begins one; looks at no more than `limit` entries. True if there is
    /// more.
    pub fn step(&mut self, limit: u32, view: &View<'_>) -> bool {
        if self.pass.is_none() {
            self.begin(view);
        }
        let Some(mut pass) = self.pass.take() else { return self.finish() };
        let high = view.shared.conns.high();
        let end = high.min(pass.cursor.saturating_add(limit));
        for index in pass.cursor..end {
            self.look(&mut pass, index, view);
        }
        pass.cursor = end;
        let owned = view.groups();
        pass.owned.retain(|group| owned.contains(group));
        if end < high {
            self.pass = Some(pass);
            return true;
        }
        self.end(&pass);
        self.finish()
    }

    /// One entry of a pass.
    fn look(&mut self, pass: &mut Pass, index: u32, view: &View<'_>) {
        let there = view.shared.conns.at(index);
        let exported = there.filter(|(found, origin)| view.exports(&found.conn, *origin));
        let record = exported.and_then(|(found, _)| {
            Some((found.handle, view.names.record(Operation::Upsert, &found)?))
        });
        let Some((handle, record)) = record else {
            // Its end got lost, or it is the peer's by now: the receiver drops it at the end.
            if self.sent.get(index).is_some_and(|(_, print)| pass.wanted.has(bucket(print))) {
                self.sent.forget(index);
            }
            return;
        };
        let print = fingerprint(&record);
        if pass.wanted.has(bucket(print)) {
            self.sent.set(handle, print);
            self.add(record, view.now.nanos());
            let place = match pass.wanted {
                Wanted::All => 0,
                Wanted::Buckets(_) => usize::from(bucket(print)),
            };
            pass.sent[place] += 1;
        }
    }

    fn begin(&mut self, view: &View<'_>) {
        let Some(wanted) = self.next.take() else { return };
        self.flush();
        let pass = self.number;
        match &wanted {
            Wanted::All => self.ready.push(Stream::Begin { pass, bucket: ALL }),
            Wanted::Buckets(buckets) => {
                let begins = buckets.iter().map(|b| Stream::Begin { pass, bucket: *b });
                self.ready.extend(begins);
            }
        }
        let sent = Box::new([0; BUCKETS]);
        let owned = view.groups();
        self.pass = Some(Pass { wanted, number: pass, cursor: 0, owned, sent });
    }

    fn end(&mut self, pass: &Pass) {
        self.flush();
        let owned: Vec<u32> = pass.owned.iter().copied().collect();
        let end = |bucket: u16, place: usize| {
            let (pass, sent) = (pass.number, pass.sent[place]);
            Stream::End { pass, bucket, sent, owned: owned.clone() }
        };
        match &pass.wanted {
            Wanted::All => {
                self.ready.push(end(ALL, 0));
                self.passes += 1;
            }
            Wanted::Buckets(buckets) => {
                self.ready.extend(buckets.iter().map(|b| end(*b, usize::from(*b))));
            }
        }
    }

    /// What waits for the end of a pass. True if another one is to be made.
    fn finish(&mut self) -> bool {
        if self.next.is_some() {
            return true;
        }
        if std::mem::take(&mut self.digest) {
            self.flush();
            let parts = self.sent.sums().chunks(DIGEST_PART).enumerate();
            let part = |(n, sums): (usize, &[u64])| Stream::Digest {
                first: (n * DIGEST_PART) as u16,
                sums: sums.to_vec(),
            };
            self.ready.extend(parts.map(part));
        }
        false
    }

    /// What is ready for the stream, in order.
    pub fn take(&mut self) -> std::vec::Drain<'_, Stream> {
        self.ready.drain(..)
    }

    /// Connections that the peer has, as far as the stream goes.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent.count()
    }

    /// Records that are not in the stream yet.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.records.len() as u32
    }

    /// Passes over all completed since the last start.
    #[must_use]
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// What the peer should have.
    #[must_use]
    pub fn sums(&self) -> &[u64; BUCKETS] {
        self.sent.sums()
    }
}
