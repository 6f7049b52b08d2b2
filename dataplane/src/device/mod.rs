//! Where frames come from and go to.

use crate::counters::Counters;
use crate::frame::{Frame, Outbox, Verdict};

pub mod memory;
mod port;
mod rings;
mod slots;
mod umem;
pub mod xsk;

/// The interfaces of one worker, as one source and sink of bursts.
///
/// Each is also an [`Outbox`], but not while a burst is being processed: what the processing wants
/// to send besides goes into the outbox it is handed, and leaves with the burst.
///
/// A device counts what it knows: traffic of its interfaces, and frames it was told to transmit and
/// could not (`DeviceDown`, `TxFull`, `TxError`). A `Drop` is counted by whoever gave the verdict.
pub trait Device {
    /// Receives at most one burst from each interface, asks `process` for the verdicts (one for
    /// each frame, in order), and sends or recycles the frames. Returns how many were received.
    ///
    /// `process` gets the frames (at most [`crate::limits::BURST`], all from one interface), a
    /// slice of as many verdicts to fill in, and an outbox.
    fn poll(
        &mut self,
        counters: &Counters,
        process: impl FnMut(&mut [Frame<'_>], &mut [Verdict], &mut dyn Outbox),
    ) -> usize;
}
