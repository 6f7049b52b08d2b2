//! Keeps alive what the peer tells of.
//!
//! The packets of the peer's connections do not come by here, so they would age and end. While the
//! peer is there and says when one ends they must not: their time is written anew, a bounded part of
//! the table each round. So at a takeover each has been seen a moment ago, and ages from then on.

use std::time::Duration;

use super::names::View;
use crate::clock::{Instant, Tick};

/// The table is gone through once in this time. A connection that is to end sooner than that without
/// a packet may; the shortest timeouts are those of connections that have been closed.
const PASS: Duration = Duration::from_secs(2);
/// Most entries looked at in a round: a millisecond or two.
const STEP: u32 = 65_536;
/// What was seen more recently is left alone.
const FRESH: u32 = Tick::in_seconds(1);

/// How far it has come.
#[derive(Debug)]
pub(super) struct Keep {
    on: bool,
    cursor: u32,
    at: Instant,
}

impl Default for Keep {
    fn default() -> Self {
        Self { on: false, cursor: 0, at: Instant::ZERO }
    }
}

impl Keep {
    /// From now on, or no longer.
    pub(super) fn set(&mut self, on: bool, now: Instant) {
        if on && !self.on {
            (self.cursor, self.at) = (0, now);
        }
        self.on = on;
    }

    /// Does what is due; `any`: whether there are connections of the peer.
    pub(super) fn step(&mut self, any: bool, view: &View<'_>) {
        let conns = &view.shared.conns;
        if !self.on || !any {
            self.at = view.now;
            return;
        }
        let high = conns.high();
        let elapsed = view.now.since(self.at).min(PASS).as_nanos();
        let due = (u128::from(high) * elapsed).div_ceil(PASS.as_nanos()) as u32;
        if elapsed == 0 {
            return;
        }
        self.at = view.now;
        for _ in 0..due.clamp(1, STEP) {
            self.cursor = if self.cursor < high { self.cursor } else { 0 };
            self.refresh(view);
            self.cursor += 1;
        }
    }

    fn refresh(&self, view: &View<'_>) {
        let now = view.now.tick();
        if let Some((found, origin)) = view.shared.conns.at(self.cursor)
            && origin.is_imported()
            && found.conn.idle(now) >= FRESH
            && !view.owns(&found.conn)
        {
            let conn = &found.conn;
            // If it fails it has just been changed by somebody else.
            let _ = view.shared.conns.touch(&found, conn.state, conn.synack, now);
        }
    }
}
