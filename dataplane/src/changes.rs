//! What happens to connections, for whoever replicates them.
//!
//! A worker notes each change in a bounded queue of its own; the thread of replication drains them.
//! A packet that changes nothing notes nothing. Nobody ever waits: while nobody replicates a note is
//! one relaxed load, and one that finds its queue full is counted and lost, upon which everything is
//! sent again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;

use crate::clock::Instant;
use crate::conn::{Conn, Handle};
use crate::limits;

/// One change.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Whose.
    pub handle: Handle,
    /// When.
    pub at: Instant,
    /// What it was, if it has ended. If not: what it is says the table.
    pub ended: Option<Conn>,
}

/// The queues.
#[derive(Debug, Default)]
pub struct Changes {
    on: AtomicBool,
    /// One for each worker, made when first needed.
    queues: OnceLock<Box<[ArrayQueue<Change>]>>,
    overflows: AtomicU32,
    /// Records of the peer that were refused.
    pub refused: Refused,
}

/// Records of the peer that were refused, since the process started; written by the thread of
/// replication alone.
#[derive(Debug, Default)]
pub struct Refused {
    /// Service, VIP, real or local address is not known here.
    pub unknown: AtomicU64,
    /// No room in the table, or another connection in the way.
    pub no_room: AtomicU64,
    /// The connection is our own.
    pub own: AtomicU64,
}

impl Changes {
    /// From now on changes are kept, for `workers` workers. What was left of another time is not.
    pub fn start(&self, workers: usize) {
        let queue = |_| ArrayQueue::new(limits::CHANGES);
        let queues = self.queues.get_or_init(|| (0..workers.max(1)).map(queue).collect());
        for queue in queues {
            // As many as there were; more come from workers that have not seen the end of it.
            for _ in 0..queue.len() {
                let _ = queue.pop();
            }
        }
        self.on.store(true, Relaxed);
    }

    /// Nobody wants to know any more.
    pub fn stop(&self) {
        self.on.store(false, Relaxed);
    }

    /// Whether somebody wants to know.
    #[inline(always)]
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Notes a change seen by worker `worker`; `ended` is what the connection was, if it is no more.
    /// False if it is lost: the queue is full.
    #[inline(always)]
    #[must_use]
    pub fn note(&self, worker: usize, handle: Handle, ended: Option<&Conn>, at: Instant) -> bool {
        !self.is_on() || self.push(worker, Change { handle, at, ended: ended.copied() })
    }

    #[cold]
    fn push(&self, worker: usize, change: Change) -> bool {
        let queue = self.queues.get().and_then(|queues| queues.get(worker % queues.len()));
        let kept = queue.is_some_and(|queue| queue.push(change).is_ok());
        if !kept {
            self.overflows.fetch_add(1, Relaxed);
        }
        kept
    }

    /// Moves at most `limit` changes to `into`, those of each worker in their order.
    pub fn drain(&self, limit: usize, into: &mut Vec<Change>) {
        let queues = self.queues.get().map_or(&[][..], |queues| queues);
        let end = into.len() + limit;
        let mut before = usize::MAX;
        while into.len() < end && into.len() != before {
            before = into.len();
            for (n, queue) in queues.iter().enumerate() {
                // A fair share of what is left, so that one worker does not keep out the others.
                let share = (end - into.len()).div_ceil(queues.len() - n);
                into.extend(std::iter::from_fn(|| queue.pop()).take(share));
            }
        }
    }

    /// Changes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queues.get().map_or(0, |queues| queues.iter().map(ArrayQueue::len).sum())
    }

    /// Changes lost so far.
    #[must_use]
    pub fn overflows(&self) -> u32 {
        self.overflows.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Address, RealId, ServiceId, VipId};
    use crate::clock::Tick;
    use crate::conn::{Identity, LastHop, Outcome, State, Table};

    fn handle() -> Handle {
        let table = Table::new_private(8, 8);
        let identity = Identity {
            client: Address::v4(1),
            client_port: 1,
            vip: VipId(0),
            vip_port: 80,
            protocol: 6,
            service: ServiceId(0),
            real: RealId(0),
            real_port: 80,
            local: None,
        };
        let (seen, last_hop) = (Tick(1), LastHop::default());
        let state = State::Established;
        let conn = Conn { identity, last_hop, state, synack: true, seen, created: seen };
        let hash = table.hash(identity.client, 1, 6);
        let reservation = table.reserve(hash, &mut |_, _| {}).unwrap();
        match table.insert(reservation, hash, &conn, |_| false, &mut |_, _| {}) {
            Outcome::Inserted(handle) => handle,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_kept_while_nobody_replicates() {
        let (changes, handle) = (Changes::default(), handle());
        assert!(changes.note(0, handle, None, Instant::ZERO), "not lost: nobody wants it");
        changes.start(2);
        assert_eq!(changes.waiting(), 0);
        assert!(changes.note(1, handle, None, Instant::ZERO));
        assert_eq!(changes.waiting(), 1);
        changes.stop();
        assert!(changes.note(1, handle, None, Instant::ZERO));
        assert_eq!((changes.waiting(), changes.overflows()), (1, 0));
        changes.start(2);
        assert_eq!(changes.waiting(), 0, "what is old says nothing");
    }

    #[test]
    fn a_full_queue_loses_and_counts_and_every_worker_gets_its_share() {
        let (changes, handle) = (Changes::default(), handle());
        changes.start(2);
        for n in 0..limits::CHANGES as u64 {
            assert!(changes.note(0, handle, None, Instant::from_nanos(n)));
        }
        assert!(!changes.note(0, handle, None, Instant::ZERO));
        assert_eq!(changes.overflows(), 1);
        assert!(changes.note(1, handle, None, Instant::from_nanos(99)), "the other has room");
        let mut drained = Vec::new();
        changes.drain(10, &mut drained);
        let times: Vec<_> = drained.iter().map(|change| change.at.nanos()).collect();
        assert_eq!(times, [0, 1, 2, 3, 4, 99, 5, 6, 7, 8], "ten, as they say");
    }
}
