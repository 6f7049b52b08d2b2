//! What the threads of a running data plane share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dataplane_api::message::InterfaceStatus;

use crate::clock::Instant;
use crate::counters::Counters;
use crate::forward;
use crate::published::Cell;
use crate::steer::Rules;

/// Shared by steward, agent and workers.
pub struct Runtime {
    /// What packets are forwarded by.
    pub cell: Cell,
    /// Connections and what hangs on them.
    pub forward: forward::Shared,
    /// One for each worker.
    pub workers: Box<[WorkerShare]>,
    /// Ownership of the VIPs.
    pub lease: Lease,
    /// Set once: workers leave their loops.
    pub stop: AtomicBool,
    /// Random for each start.
    pub boot_id: String,
    /// When the process started.
    pub started: Instant,
    /// Connections adopted from the process before this one.
    pub adopted: u64,
    /// What the steward last saw of interfaces.
    pub report: Mutex<Report>,
}

/// A worker's counters, and what is known of its thread.
#[derive(Default)]
pub struct WorkerShare {
    /// Written by the worker alone.
    pub counters: Counters,
    /// CPU it should run on.
    pub core: u16,
    /// Kernel thread id; 0 before it runs.
    pub tid: AtomicU32,
    /// Whether it could be pinned.
    pub pinned: AtomicBool,
}

/// The steward's view, for the status.
#[derive(Default)]
pub struct Report {
    /// Interfaces, in slot order.
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets for us that the steering program dropped because no socket was there.
    pub no_socket: u64,
    /// Problems in words.
    pub warnings: Vec<String>,
    /// What the steering program was told last.
    pub rules: Arc<Rules>,
    /// Connections that the kernel was given.
    pub kernel_flows: u64,
}

/// Control's permission to answer for the VIPs, for a limited time.
#[derive(Debug, Default)]
pub struct Lease {
    until: AtomicU64,
    epoch: AtomicU64,
}

impl Lease {
    /// Renews it for `ttl_ms` from `now`; 0 ends it.
    pub fn renew(&self, ttl_ms: u32, epoch: u64, now: Instant) {
        self.epoch.store(epoch, Ordering::Relaxed);
        let until = if ttl_ms == 0 { 0 } else { now.nanos() + u64::from(ttl_ms) * 1_000_000 };
        self.until.store(until, Ordering::Release);
    }

    /// Whether it is fresh.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        now.nanos() < self.until.load(Ordering::Acquire)
    }

    /// Milliseconds left.
    #[must_use]
    pub fn left_ms(&self, now: Instant) -> u64 {
        self.until.load(Ordering::Acquire).saturating_sub(now.nanos()) / 1_000_000
    }

    /// Epoch of the last renewal.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_itself_and_at_once_when_given_up() {
        let lease = Lease::default();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        assert!(!lease.is_fresh(at(0)));
        lease.renew(3000, 7, at(1000));
        assert!(lease.is_fresh(at(3999)) && !lease.is_fresh(at(4000)));
        assert_eq!(lease.left_ms(at(3000)), 1000);
        lease.renew(0, 7, at(3000));
        assert!(!lease.is_fresh(at(3000)));
    }
}
