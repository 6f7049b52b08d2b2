//! One check of one real: outcomes counted into a verdict.
//!
//! ```text
//!            start = up: one pass            fall failures in a row
//!  Unknown ────────────────────────►  Up  ─────────────────────────►  Down
//!     │      start = down: rise passes  ◄─────────────────────────────  ▲
//!     │                                       rise passes in a row       │
//!     └── start = up: fall failures; start = down: one failure ──────────┘
//! ```
//! A run that could not be carried out moves nothing.

use std::sync::Arc;

use crate::check::{Check, Outcome, Probe, Report, Start};
use crate::time::Instant;

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Unknown,
    /// It serves.
    Up,
    /// It does not.
    Down,
}

/// What became of the runs of a check, since it is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs, of whatever outcome.
    pub runs: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that could not be carried out.
    pub cannot: u64,
    /// Microseconds that all of them took.
    pub took_us: u64,
}

/// A change that people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It cannot be carried out, as often in a row as would be failures enough.
    Lost,
    /// It can again.
    Found,
}

/// One check of one real.
#[derive(Clone, Debug)]
pub struct Tally {
    /// What is run.
    pub probe: Arc<Probe>,
    /// What became of it so far.
    pub counts: Counts,
    /// The last run and when it ended.
    pub last: Option<(Instant, Report)>,
    /// Whether the last run that passed had something to say.
    pub(super) noted: bool,
    verdict: Verdict,
    start: Start,
    rise: u8,
    fall: u8,
    /// Outcomes in a row that speak for another verdict.
    streak: u8,
    /// Runs in a row that could not be carried out.
    cannot: u8,
}

impl Tally {
    pub(super) fn new(probe: Arc<Probe>, check: &Check, start: Start, verdict: Verdict) -> Self {
        let (rise, fall) = (check.timing.rise, check.timing.fall);
        let (counts, last) = (Counts::default(), None);
        let (noted, streak, cannot) = (false, 0, 0);
        Self { probe, counts, last, noted, verdict, start, rise, fall, streak, cannot }
    }

    /// The same check under new settings that only count.
    pub(super) const fn adjust(&mut self, check: &Check, start: Start) {
        (self.rise, self.fall, self.start) = (check.timing.rise, check.timing.fall, start);
    }

    /// What it says of the server.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether the check cannot be carried out.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.cannot >= self.fall
    }

    /// Counts one run.
    pub(super) fn count(&mut self, report: &Report, now: Instant) -> Option<Turn> {
        let took = u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX);
        self.counts.runs += 1;
        self.counts.took_us = self.counts.took_us.saturating_add(took);
        self.last = Some((now, report.clone()));
        let was_lost = self.is_lost();
        match report.outcome {
            Outcome::Up(_) => self.passed(),
            Outcome::Down(_) => {
                self.counts.failed += 1;
                self.failed();
            }
            Outcome::CannotRun(_) => {
                self.counts.cannot += 1;
                self.cannot = self.cannot.saturating_add(1);
                return (!was_lost && self.is_lost()).then_some(Turn::Lost);
            }
        }
        self.cannot = 0;
        was_lost.then_some(Turn::Found)
    }

    fn passed(&mut self) {
        match (self.verdict, self.start) {
            (Verdict::Up, _) => self.streak = 0,
            (Verdict::Unknown, Start::Up) => self.turn(Verdict::Up),
            (Verdict::Unknown, Start::Down) | (Verdict::Down, _) => {
                self.streak = self.streak.saturating_add(1);
                if self.streak >= self.rise {
                    self.turn(Verdict::Up);
                }
            }
        }
    }

    fn failed(&mut self) {
        match (self.verdict, self.start) {
            (Verdict::Down, _) => self.streak = 0,
            (Verdict::Unknown, Start::Down) => self.turn(Verdict::Down),
            (Verdict::Unknown, Start::Up) | (Verdict::Up, _) => {
                self.streak = self.streak.saturating_add(1);
                if self.streak >= self.fall {
                    self.turn(Verdict::Down);
                }
            }
        }
    }

    /// Evidence against the server from elsewhere: one more failure is enough. Whether that changes
    /// anything.
    pub(super) fn accuse(&mut self) -> bool {
        let accusable = match self.verdict {
            Verdict::Up => true,
            Verdict::Unknown => self.start == Start::Up,
            Verdict::Down => false,
        };
        let before = self.streak;
        if accusable {
            self.streak = self.streak.max(self.fall.saturating_sub(1));
        }
        accusable && before != self.streak
    }

    /// Somebody else found the server down.
    pub(super) const fn presume_down(&mut self) {
        self.turn(Verdict::Down);
    }

    const fn turn(&mut self, verdict: Verdict) {
        (self.verdict, self.streak) = (verdict, 0);
    }
}
