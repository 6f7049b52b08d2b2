//! The atomics of this module: the real ones, or loom's when the protocols are being proved
//! (`--cfg loom`).

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Eight words in one cache line: a connection, or a bucket of the index.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [AtomicU64; 8]);

impl Default for Line {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// A counter on a cache line of its own, so that counting disturbs nobody who reads its neighbours.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Counter(AtomicU32);

impl Counter {
    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sub(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "counted below zero");
    }

    /// Adds one unless that would exceed `max`.
    pub(super) fn add_below(&self, max: u32) -> bool {
        let mut count = self.get();
        while count < max {
            let (ok, new) = (Ordering::Relaxed, count + 1);
            match self.0.compare_exchange(count, new, ok, ok) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }
}
