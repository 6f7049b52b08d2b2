//! The entries nobody uses: a lock-free stack.

use super::memory::{Region, Unavailable};
use super::sync::{AtomicU32, AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Free {
    /// Count of changes 32, number plus one of the top entry 32. The count is what makes the
    /// compare-and-swap fail when the same entry left and came back meanwhile.
    top: AtomicU64,
    /// For each free entry, number plus one of the one below.
    below: Region<AtomicU32>,
    /// More than the number of any entry ever in use. A hint, so no atomic that loom has to explore.
    high: std::sync::atomic::AtomicU32,
}

impl Free {
    /// Nothing free yet.
    pub(super) fn new(capacity: u32) -> Result<Self, Unavailable> {
        let below = Region::anonymous(capacity as usize)?;
        Ok(Self { top: AtomicU64::new(0), below, high: 0.into() })
    }

    pub(super) fn bytes(&self) -> usize {
        self.below.len() * size_of::<AtomicU32>()
    }

    pub(super) fn pop(&self) -> Option<u32> {
        let mut top = self.top.load(Ordering::Acquire);
        loop {
            let entry = (top as u32).checked_sub(1)?;
            // Stale if another worker popped it meanwhile; then the count differs and we repeat.
            let below = self.below[entry as usize].load(Ordering::Relaxed);
            match self.swap(top, below) {
                Ok(_) => {
                    self.note_use(entry);
                    return Some(entry);
                }
                Err(now) => top = now,
            }
        }
    }

    /// More than the number of any entry ever in use; at least 1.
    pub(super) fn high(&self) -> u32 {
        self.high.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn note_use(&self, entry: u32) {
        if entry >= self.high.load(Ordering::Relaxed) {
            self.high.fetch_max(entry + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn push(&self, entry: u32) {
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            self.below[entry as usize].store(top as u32, Ordering::Relaxed);
            match self.swap(top, entry + 1) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn swap(&self, old: u64, entry: u32) -> Result<u64, u64> {
        let new = ((old >> 32) + 1) << 32 | u64::from(entry);
        self.top.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
}
