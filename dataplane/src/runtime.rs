//! What the threads of a running data plane share.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use dataplane_api::message::InterfaceStatus;

use crate::bell::Bell;
use crate::clock::Instant;
use crate::counters::Counters;
use crate::forward;
use crate::lease::Leases;
use crate::published::{Cell, Segment};
use crate::steer::Rules;

/// Shared by steward, agent and workers.
pub struct Runtime {
    /// What packets are forwarded by.
    pub cell: Cell,
    /// Connections and what hangs on them.
    pub forward: forward::Shared,
    /// One for each worker.
    pub workers: Box<[WorkerShare]>,
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
    /// Networks that our interfaces are on.
    pub segments: Mutex<Arc<[Segment]>>,
}

impl Runtime {
    /// Ownership of addresses.
    #[must_use]
    pub const fn leases(&self) -> &Leases {
        &self.forward.leases
    }

    /// Wakes the worker that sends what is not an answer to a packet: the first.
    pub fn ring(&self) {
        if let Some(worker) = self.workers.first() {
            worker.bell.ring();
        }
    }
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
    /// Wakes it.
    pub bell: Bell,
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
