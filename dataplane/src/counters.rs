//! Counters of one worker: written by that worker alone, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dataplane_api::counter::{Event, Reason};

use crate::address::{DeviceId, RealId};
use crate::limits;

/// A counter with one writer: adding is a load and a store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call this.
    #[inline(always)]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The value; any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Traffic of one real, as seen by one worker.
#[derive(Debug, Default)]
pub struct RealCounters {
    /// Packets towards the real.
    pub packets_in: Counter,
    /// Bytes towards the real, from the IP header on.
    pub bytes_in: Counter,
    /// Packets from the real.
    pub packets_out: Counter,
    /// Bytes from the real, from the IP header on.
    pub bytes_out: Counter,
    /// Connections opened.
    pub opened: Counter,
    /// SYNs left unanswered.
    pub syn_unanswered: Counter,
    /// SYNs answered with an RST.
    pub resets: Counter,
}

/// Traffic of one interface, as seen by one worker.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    /// Frames received.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames handed to the kernel.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
}

/// Everything one worker counts.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    drops: [Counter; Reason::COUNT],
    events: [Counter; Event::COUNT],
    devices: [DeviceCounters; limits::INTERFACES],
    reals: Box<[RealCounters; limits::REALS]>,
    /// Turns of the poll loop.
    pub polls: Counter,
    /// Turns that found frames.
    pub busy_polls: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            drops: std::array::from_fn(|_| Counter::default()),
            events: std::array::from_fn(|_| Counter::default()),
            devices: std::array::from_fn(|_| DeviceCounters::default()),
            // Made on the heap: too large for a stack.
            reals: Vec::from_iter((0..limits::REALS).map(|_| RealCounters::default()))
                .try_into()
                .unwrap_or_else(|_| unreachable!("as many as there are")),
            polls: Counter::default(),
            busy_polls: Counter::default(),
        }
    }
}

impl Counters {
    /// Counts a drop.
    #[inline(always)]
    pub fn drop(&self, reason: Reason) {
        self.drops[reason as usize].add(1);
    }

    /// Counts an event.
    #[inline(always)]
    pub fn event(&self, event: Event) {
        self.events[event as usize].add(1);
    }

    /// Drops counted under `reason`.
    #[must_use]
    pub fn drops(&self, reason: Reason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// Events counted.
    #[must_use]
    pub fn events(&self, event: Event) -> u64 {
        self.events[event as usize].get()
    }

    /// Traffic of an interface.
    #[inline(always)]
    #[must_use]
    pub fn device(&self, device: DeviceId) -> &DeviceCounters {
        &self.devices[device.index() % limits::INTERFACES]
    }

    /// Traffic of a real.
    #[inline(always)]
    #[must_use]
    pub fn real(&self, real: RealId) -> &RealCounters {
        &self.reals[real.index() % limits::REALS]
    }
}
