//! A step of `cps`: what the workers are told, and what they bring home.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use dataplane::clock::Instant;
use hdrhistogram::Histogram;

use super::Scene;

/// A step of the ramp.
#[derive(Debug)]
pub struct Step<'a> {
    /// The run.
    pub scene: &'a Scene,
    /// Connections a second, of all workers together.
    pub rate: f64,
    /// Size of a data packet, check sequence included.
    pub size: u16,
    /// When the first connection is due.
    pub start: Instant,
    /// How long connections begin.
    pub duration: Duration,
    /// How long one may take.
    pub patience: Duration,
    /// True: begin no more.
    pub halt: AtomicBool,
    /// Connections begun and completed so far, for people who wait.
    pub so_far: [AtomicU64; 2],
    /// Workers that have nothing left to wait for.
    pub done: AtomicU64,
}

/// What one worker brings home: connections.
#[derive(Clone, Debug)]
pub struct Part {
    /// Due.
    pub due: u64,
    /// Begun.
    pub begun: u64,
    /// Used and closed in order.
    pub completed: u64,
    /// Reset.
    pub refused: u64,
    /// Given up, by what was waited for: the answer to the opening, the reply, the close.
    pub silent: [u64; 3],
    /// Not begun, because every client address and port was still in use.
    pub unfree: u64,
    /// From when a connection was due until it was open.
    pub latency: Histogram<u64>,
}
