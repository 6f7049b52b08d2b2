//! The stream of our own data plane: which of it goes to the peer, and when the peer has all of it.

use dataplane_api::record::Operation;
use dataplane_api::sync::{ALL, Standing, Stream};

use super::limits::PASS_WAIT_NS;
use super::meter::Mark;

/// Passes, and what is known of their completeness.
#[derive(Default)]
pub(super) struct Export {
    /// A pass was ordered and has not begun: what still comes is of an order before.
    ordered: Option<u16>,
    /// The pass over all that goes on.
    running: Option<u16>,
    /// Changes were lost since the last pass began: this one is not all there is. Since when.
    tainted_ns: Option<u64>,
    /// Changes that the data plane has lost, as it last said.
    overflows: Option<u32>,
    /// The peer has all.
    complete: bool,
}

impl Export {
    /// A pass over all has been ordered.
    pub(super) fn order(&mut self, pass: u16) {
        let overflows = self.overflows;
        *self = Self { ordered: Some(pass), overflows, ..Self::default() };
    }

    /// The data plane is another one.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// What is to be remembered of an item; `None`: it is not for the peer.
    pub(super) fn look(&mut self, item: &Stream, now: u64) -> Option<Mark> {
        if let Some(pass) = self.ordered {
            if *item != (Stream::Begin { pass, bucket: ALL }) {
                return None;
            }
            self.ordered = None;
        }
        let mut mark = Mark::default();
        match item {
            Stream::Changes { since_ns, records } => {
                let upserts = records.iter().filter(|r| r.operation == Operation::Upsert).count();
                mark.since_ns = Some(*since_ns).filter(|ns| *ns > 0);
                (mark.records, mark.upserts) = (records.len() as u16, upserts as u16);
                // A pass names its own moment, not that of the changes that wait beside it.
                mark.live = self.running.is_none();
                if self.complete && mark.live {
                    mark.clean_ns = *since_ns;
                }
            }
            Stream::Begin { pass, bucket: ALL } => {
                // Also one of its own: it found out that the peer lacks something.
                (self.running, self.tainted_ns, self.complete) = (Some(*pass), None, false);
            }
            Stream::End { pass, bucket: ALL, .. } if self.running == Some(*pass) => {
                self.running = None;
                match &mut self.tainted_ns {
                    Some(since) => *since = now,
                    None => mark.end = Some(*pass),
                }
            }
            Stream::Begin { .. } | Stream::End { .. } | Stream::Digest { .. } => {}
        }
        Some(mark)
    }

    /// The data plane says how it stands; `true` if everything up to that moment is in the stream.
    pub(super) fn stands(&mut self, standing: &Standing, now: u64) -> bool {
        // Less than before: it counts anew.
        let now_lost = standing.overflows;
        if self.overflows.is_some_and(|before| now_lost > before || (1..before).contains(&now_lost))
        {
            (self.complete, self.tainted_ns) = (false, Some(now));
        }
        self.overflows = Some(standing.overflows);
        standing.waiting == 0 && self.complete && self.running.is_none()
    }

    /// The peer has applied the end of a pass; `true` if it has everything now and did not before.
    pub(super) fn ended(&mut self) -> bool {
        let news = !self.complete && self.tainted_ns.is_none();
        self.complete |= news;
        news
    }

    /// When a pass is to be ordered because changes were lost and none has begun.
    pub(super) fn deadline(&self) -> u64 {
        match self.tainted_ns {
            Some(since) if self.running.is_none() && self.ordered.is_none() => since + PASS_WAIT_NS,
            _ => u64::MAX,
        }
    }
}
