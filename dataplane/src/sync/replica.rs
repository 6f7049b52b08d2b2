//! Replication without its socket: frames in, frames out.
//!
//! Pure but for the connection table; the shell (`mod.rs`) brings time, bytes and who owns what.

use std::collections::HashSet;
use std::time::Duration;

use dataplane_api::sync::{Frame, Standing};

use super::export::Export;
use super::import::Import;
use super::keep::Keep;
use super::names::View;
use crate::changes::Change;
use crate::clock::Instant;

/// How often the standing is reported.
const REPORT: Duration = Duration::from_millis(100);
/// Changes taken in one round: with all that hangs on them some milliseconds.
const CHANGES: usize = 8192;
/// Entries a pass looks at in one round.
const ENTRIES: u32 = 8192;

/// Both directions of replication.
#[derive(Debug)]
pub struct Replica {
    workers: usize,
    export: Export,
    import: Import,
    keep: Keep,
    /// VIPs that were owned when it was last looked.
    owned: Vec<bool>,
    /// Overflows seen.
    overflows: u32,
    /// Overflows before this session.
    before: u32,
    reported: Instant,
    passes: u32,
    /// Items of the stream so far.
    number: u64,
    /// The peer's item taken in last, if that has not been said yet.
    applied: Option<u64>,
    changes: Vec<Change>,
}

impl Replica {
    /// For a table of this capacity, and so many workers.
    #[must_use]
    pub fn new(capacity: u32, workers: usize) -> Self {
        Self {
            workers,
            export: Export::new(capacity),
            import: Import::new(capacity),
            keep: Keep::default(),
            owned: Vec::new(),
            overflows: 0,
            before: 0,
            reported: Instant::ZERO,
            passes: 0,
            number: 0,
            applied: None,
            changes: Vec::new(),
        }
    }

    /// A session begins: from now on workers note what happens.
    pub fn begin(&mut self, view: &View<'_>) {
        view.shared.changes.start(self.workers);
        self.overflows = view.shared.changes.overflows();
        (self.before, self.number, self.applied) = (self.overflows, 0, None);
        (self.passes, self.reported) = (0, view.now);
        self.owned = view.owned.to_vec();
        self.export.stop(view);
        self.import.begin(view);
        self.keep.set(false, view.now);
    }

    /// The session has ended: nothing is noted, nothing is kept alive.
    pub fn end(&mut self, view: &View<'_>) {
        view.shared.changes.stop();
        self.export.stop(view);
        self.keep.set(false, view.now);
    }

    /// Takes a frame; answers go to `out`.
    ///
    /// # Errors
    /// It is none that control may send; nothing has changed.
    pub fn take(
        &mut self,
        frame: &Frame,
        view: &View<'_>,
        out: &mut Vec<Frame>,
    ) -> Result<(), &'static str> {
        match frame {
            Frame::Stream { number, item } => {
                let differs = self.import.take(item, view);
                self.settle(view);
                self.applied = Some(*number);
                out.extend(differs.map(|(first, buckets)| Frame::Differs { first, buckets }));
            }
            Frame::Start { pass } => {
                self.export.start(*pass, view);
                (self.passes, self.overflows) = (0, view.shared.changes.overflows());
            }
            Frame::Stop => self.export.stop(view),
            Frame::Resend { pass, buckets } => self.export.resend(*pass, buckets),
            Frame::Digest => self.export.order_digest(),
            Frame::Keep(on) => self.keep.set(*on, view.now),
            Frame::Hello { .. } => return Err("a second hello"),
            Frame::Applied { .. } | Frame::Differs { .. } | Frame::Standing(_) => {
                return Err("a report, which control does not make");
            }
        }
        Ok(())
    }

    /// Does what is due; `room`: whether the socket takes more. True if there is more to do at once.
    pub fn round(&mut self, view: &View<'_>, room: bool, out: &mut Vec<Frame>) -> bool {
        self.follow_owners(view);
        let mut more = false;
        if room {
            more |= self.drain(view);
            let overflows = view.shared.changes.overflows();
            if overflows != self.overflows {
                self.overflows = overflows;
                self.export.again();
                // What ended unnoticed is not here any more.
                self.import.recount(view);
            }
            more |= self.export.step(ENTRIES, view);
            self.export.flush();
        }
        self.keep.step(self.import.heard() > 0, view);
        for item in self.export.take() {
            self.number += 1;
            out.push(Frame::Stream { number: self.number, item });
        }
        out.extend(self.applied.take().map(|number| Frame::Applied { number }));
        let passed = self.passes != self.export.passes();
        if passed || view.now.since(self.reported) >= REPORT {
            (self.passes, self.reported) = (self.export.passes(), view.now);
            out.push(Frame::Standing(self.standing(view)));
        }
        more
    }

    /// Other VIPs are owned than before: other connections are ours to tell of.
    fn follow_owners(&mut self, view: &View<'_>) {
        if self.owned == view.owned {
            return;
        }
        let before = std::mem::replace(&mut self.owned, view.owned.to_vec());
        self.import.recount(view);
        // What came from the peer and is ours now goes back to it. When a VIP is lost nothing is sent:
        // a pass without those would take them from a peer that may not be its owner either.
        let gained = |(now, before): (&bool, &bool)| *now && !before;
        if view.owned.iter().zip(&before).any(gained) {
            self.export.again();
        }
    }

    /// Takes what the workers have noted. True if that was not all.
    fn drain(&mut self, view: &View<'_>) -> bool {
        let mut changes = std::mem::take(&mut self.changes);
        changes.clear();
        view.shared.changes.drain(CHANGES, &mut changes);
        // Ends first: of two lives of one connection, each noted by another worker, the old one goes
        // before the new one comes.
        for change in changes.iter().filter(|change| change.ended.is_some()) {
            self.import.ended(change.handle);
            self.export.ended(change, view);
        }
        let mut told = HashSet::new();
        for change in changes.iter().filter(|change| change.ended.is_none()) {
            if self.export.is_active() && told.insert(change.handle) {
                self.export.changed(change, view);
            }
        }
        let more = changes.len() == CHANGES;
        self.changes = changes;
        more
    }

    /// Tells one direction what the other has done.
    fn settle(&mut self, view: &View<'_>) {
        for handle in self.import.given() {
            self.export.forget(handle);
        }
        for handle in self.import.taken() {
            self.export.changed(&Change { handle, at: view.now, ended: None }, view);
        }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self, view: &View<'_>) -> Standing {
        let (conns, changes) = (&view.shared.conns, &view.shared.changes);
        let refusals = self.import.refusals();
        let whole = conns.used().saturating_sub(conns.half_open());
        Standing {
            now_ns: view.now.nanos(),
            worth: whole.saturating_sub(self.import.heard()),
            sent: self.export.sent(),
            waiting: changes.waiting() as u32 + self.export.waiting(),
            imported: conns.imported(),
            overflows: changes.overflows().wrapping_sub(self.before),
            unknown: refusals.unknown,
            no_room: refusals.no_room,
            own: refusals.own,
            passes: self.export.passes(),
        }
    }

    /// What was sent.
    #[must_use]
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// What came.
    #[must_use]
    pub fn import(&self) -> &Import {
        &self.import
    }
}
