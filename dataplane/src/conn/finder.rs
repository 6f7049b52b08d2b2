//! The stages of a lookup before anything is compared: which bucket, which entry.

use super::index::{Buckets, Hash, Probe};
use super::sync::Line;
use crate::address::Address;
use crate::prefetch::prefetch;

/// What lookups need of a [`Table`](super::Table): small, so that a worker keeps it in registers
/// through a burst.
#[derive(Clone, Copy, Debug)]
pub struct Finder<'a> {
    pub(super) entries: &'a [Line],
    pub(super) buckets: Buckets<'a>,
}

impl<'a> Finder<'a> {
    /// As [`Table::hash`](super::Table::hash).
    #[inline(always)]
    #[must_use]
    pub fn hash(self, client: Address, port: u16, protocol: u8) -> Hash {
        self.buckets.hash(client, port, protocol)
    }

    /// First stage of a lookup: asks for the bucket.
    #[inline(always)]
    pub fn prefetch(self, hash: Hash) {
        self.buckets.prefetch(hash);
    }

    /// Second stage: reads the bucket and asks for the entry, or else for the second bucket.
    #[inline(always)]
    #[must_use]
    pub fn prefetch_entry(self, hash: Hash) -> Probe {
        self.ask(self.buckets.probe(hash))
    }

    /// Between the second stage and the third, for the few probes that [`Probe::is_elsewhere`]: reads
    /// the second bucket, which has arrived meanwhile, and asks for the entry.
    #[inline]
    #[must_use]
    pub fn prefetch_elsewhere(self, hash: Hash) -> Probe {
        self.ask(self.buckets.probe_second(hash))
    }

    /// The full-NAT counterpart of [`Self::prefetch_entry`], for a number that
    /// [`Ports`](super::Ports) gave.
    #[inline(always)]
    #[must_use]
    pub fn prefetch_index(self, index: u32) -> Probe {
        self.ask(Probe { entry: index.wrapping_add(1) })
    }

    #[inline(always)]
    fn ask(self, probe: Probe) -> Probe {
        if let Some(line) = self.line(probe) {
            prefetch(line);
        }
        probe
    }

    #[inline(always)]
    pub(super) fn line(self, probe: Probe) -> Option<&'a Line> {
        self.entries.get(probe.entry.wrapping_sub(1) as usize)
    }
}
