//! Makes lines of events: one for each thing that changed, however often it did.
//!
//! A line is due when the digest window that its first event opened is over, and takes along all
//! others. Something that has flapped in a message is in a storm: its next line waits until it has
//! been quiet for twice the window, so that a storm is told when it begins and when it is over, and
//! at least every [`STORM_MAX`] in between.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Filter, Line};
use crate::event::{Event, Key, Phase};
use crate::time::Instant;

/// Lines that wait for one target; changes of further things are only counted.
pub const LINES_MAX: usize = 1000;
/// Longest silence about something that keeps flapping.
pub const STORM_MAX: Duration = Duration::from_secs(3600);
/// Changes within a line that make a storm: down, up, down, up.
const STORM_CHANGES: u64 = 4;

/// What became of one thing since it was last told.
#[derive(Debug)]
struct Pending {
    /// For the order of the lines.
    number: u64,
    first: Instant,
    last: Instant,
    unix_ms: u64,
    /// The last event; the state in which it is now.
    event: Event,
    changes: u64,
    /// When the trouble began.
    since: Option<Instant>,
    /// Waits for the end of a storm.
    held: bool,
}

impl Pending {
    fn due(&self, digest: Duration) -> Instant {
        if self.held {
            self.last.after(digest * 2).min(self.first.after(STORM_MAX))
        } else {
            self.first.after(digest)
        }
    }
}

/// What a target is still to be told.
#[derive(Debug, Default)]
pub(super) struct Gather {
    lines: BTreeMap<Key, Pending>,
    /// Problems that passed the filter and last, and when they began.
    open: BTreeMap<Key, Instant>,
    /// What flapped in the last message, and when it last changed.
    storms: BTreeMap<Key, Instant>,
    /// Changes for which there was no line.
    more: u64,
    number: u64,
}

impl Gather {
    /// Takes an event in, if it is for this target.
    pub(super) fn add(&mut self, event: &Event, unix_ms: u64, filter: &Filter, now: Instant) {
        let key = event.key();
        let since = match event.kind.phase() {
            Phase::Problem if filter.lets_through(event) => {
                Some(*self.open.entry(key.clone()).or_insert(now))
            }
            // Told because its problem was, or because the target wants to know everything.
            Phase::Recovery => match self.open.remove(&key) {
                Some(since) => Some(since),
                None if filter.lets_through(event) => None,
                None => return,
            },
            Phase::Note if filter.lets_through(event) => None,
            Phase::Problem | Phase::Note => return,
        };
        self.number += 1;
        if let Some(line) = self.lines.get_mut(&key) {
            (line.last, line.event) = (now, event.clone());
            line.changes += 1;
            line.since = line.since.or(since);
            return;
        }
        if self.lines.len() >= LINES_MAX {
            self.more += 1;
            return;
        }
        let (number, event) = (self.number, event.clone());
        let held = self.storms.contains_key(&key);
        let line =
            Pending { number, first: now, last: now, unix_ms, event, changes: 1, since, held };
        self.lines.insert(key, line);
    }

    /// When there is something to tell.
    pub(super) fn due(&self, digest: Duration) -> Option<Instant> {
        self.lines.values().map(|line| line.due(digest)).min()
    }

    /// Everything there is to tell; storms that go on are left out.
    pub(super) fn take(&mut self, digest: Duration, now: Instant) -> Lines {
        self.storms.retain(|_, last| last.after(digest * 2) > now);
        let mut taken = Vec::new();
        for (key, line) in std::mem::take(&mut self.lines) {
            if line.held && line.due(digest) > now {
                self.storms.insert(key.clone(), line.last);
                self.lines.insert(key, line);
                continue;
            }
            let quiet = line.last.after(digest * 2) <= now;
            if (line.held || line.changes >= STORM_CHANGES) && !quiet {
                self.storms.insert(key, line.last);
            }
            taken.push(line);
        }
        taken.sort_by_key(|line| line.number);
        let lines = taken.into_iter().map(Line::from_pending).collect();
        Lines { lines, more: std::mem::take(&mut self.more) }
    }

    /// Drops what cannot end any more; what is still to be told of it is told.
    pub(super) fn forget(&mut self, gone: impl Fn(&Key) -> bool) {
        self.open.retain(|key, _| !gone(key));
        self.storms.retain(|key, _| !gone(key));
    }

    /// Changes that wait.
    pub(super) fn pending(&self) -> u64 {
        self.lines.len() as u64 + self.more
    }
}

/// Lines for one message.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    /// Changes without a line.
    pub(super) more: u64,
}

impl Lines {
    pub(super) const fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl Line {
    fn from_pending(line: Pending) -> Self {
        let recovered = line.event.kind.phase() == Phase::Recovery;
        let lasted = line.since.filter(|_| recovered).map(|since| line.last.since(since));
        Self { unix_ms: line.unix_ms, event: line.event, changes: line.changes, lasted_ms: lasted }
    }
}
