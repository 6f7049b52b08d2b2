//! One real: its checks joined, its slow start, and how often it changed its mind.

use std::collections::VecDeque;
use std::time::Duration;

use crate::check::{Outcome, Require, Rules, Start};
use crate::time::Instant;

use super::tally::{Tally, Verdict};

/// Steps of a slow start.
pub const RAMP_STEPS: u32 = 10;
/// Changes between up and down are remembered for this long.
pub const FLAP_WINDOW: Duration = Duration::from_secs(600);
/// Most changes that are remembered.
const FLAPS_MAX: usize = 64;

/// How a real stands, in the words that people are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It serves.
    Up,
    /// It serves, with a part of its weight because it came back a short time ago.
    SlowStart,
    /// Nothing is known of it yet.
    Unknown,
    /// A check of it cannot be carried out; it stands as it stood before.
    CannotCheck,
    /// Its checks fail.
    Down,
    /// Drained by an operator.
    Drained,
    /// Disabled by an operator.
    Disabled,
}

impl State {
    /// Every state, best first.
    pub const ALL: [Self; 7] = [
        Self::Up,
        Self::SlowStart,
        Self::Unknown,
        Self::CannotCheck,
        Self::Down,
        Self::Drained,
        Self::Disabled,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::SlowStart => "slow-start",
            Self::Unknown => "unknown",
            Self::CannotCheck => "cannot-check",
            Self::Down => "down",
            Self::Drained => "drained",
            Self::Disabled => "disabled",
        }
    }
}

/// Health of one real of a service.
#[derive(Clone, Debug)]
pub struct Real {
    /// Name shown to people.
    pub name: String,
    /// Its checks, in the order of the file.
    pub checks: Vec<Tally>,
    /// Since when it is up, down or unknown.
    pub since: Instant,
    /// Why.
    pub reason: String,
    pub(super) rules: Rules,
    pub(super) verdict: Verdict,
    /// When a slow start began.
    pub(super) ramp: Option<Instant>,
    /// Step of the slow start that the plan was last made for.
    pub(super) step: u32,
    /// Weight that its checks ask for, when the plan was last made.
    pub(super) asked: u8,
    flaps: VecDeque<Instant>,
}

impl Real {
    pub(super) fn new(name: String, rules: Rules, now: Instant) -> Self {
        Self {
            name,
            checks: Vec::new(),
            since: now,
            reason: String::new(),
            rules,
            verdict: Verdict::Unknown,
            ramp: None,
            step: RAMP_STEPS,
            asked: 100,
            flaps: VecDeque::new(),
        }
    }

    /// What its checks say together.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether it may take new connections, as far as its health goes.
    #[must_use]
    pub fn serves(&self) -> bool {
        serves(self.verdict, self.rules.start)
    }

    /// How it stands, operators apart.
    #[must_use]
    pub fn state(&self) -> State {
        match self.verdict {
            Verdict::Down => State::Down,
            _ if self.checks.iter().any(Tally::is_lost) => State::CannotCheck,
            Verdict::Unknown => State::Unknown,
            Verdict::Up if self.ramp.is_some() => State::SlowStart,
            Verdict::Up => State::Up,
        }
    }

    /// Share of its weight that it is to have, in percent: slow start, and what its checks ask for.
    #[must_use]
    pub const fn percent(&self) -> u32 {
        let ramp = self.step * 100 / RAMP_STEPS;
        ramp * self.asked as u32 / 100
    }

    /// Changes between up and down within [`FLAP_WINDOW`].
    #[must_use]
    pub fn flaps(&self, now: Instant) -> usize {
        let window = u64::try_from(FLAP_WINDOW.as_millis()).unwrap_or(u64::MAX);
        self.flaps.iter().filter(|at| now.since(**at) < window).count()
    }

    /// What its checks say together now.
    pub(super) fn joined(&self) -> Verdict {
        let any = |verdict| self.checks.iter().any(|c| c.verdict() == verdict);
        let order = match self.rules.require {
            _ if self.checks.is_empty() => return Verdict::Up,
            Require::All => [Verdict::Down, Verdict::Unknown, Verdict::Up],
            Require::Any => [Verdict::Up, Verdict::Unknown, Verdict::Down],
        };
        order.into_iter().find(|v| any(*v)).unwrap_or(Verdict::Unknown)
    }

    /// The least weight that a check asks for, in percent.
    pub(super) fn asked_now(&self) -> u8 {
        let asked = self.checks.iter().filter_map(|c| match &c.last.as_ref()?.1.outcome {
            Outcome::Up(passed) => passed.weight_percent,
            Outcome::Down(_) | Outcome::CannotRun(_) => None,
        });
        asked.min().unwrap_or(100).min(100)
    }

    /// Turns to `verdict`; whether it served before.
    pub(super) fn turn(&mut self, verdict: Verdict, now: Instant) {
        let served = self.serves();
        self.reason = self.why(verdict);
        (self.verdict, self.since) = (verdict, now);
        if served == self.serves() {
            return;
        }
        if self.flaps.len() == FLAPS_MAX {
            self.flaps.pop_front();
        }
        self.flaps.push_back(now);
        (self.ramp, self.step) = (None, RAMP_STEPS);
        if self.serves() && !self.rules.slow_start.is_zero() {
            (self.ramp, self.step) = (Some(now), 1);
        }
    }

    fn why(&self, verdict: Verdict) -> String {
        let decisive = self.checks.iter().find(|c| c.verdict() == verdict);
        let Some(check) = decisive else { return String::new() };
        let label = label(check);
        match check.last.as_ref().map(|(_, report)| &report.outcome) {
            Some(Outcome::Down(reason)) => format!("{label}: {reason}"),
            Some(Outcome::Up(_)) => format!("{label}: passed"),
            Some(Outcome::CannotRun(_)) | None => label,
        }
    }

    /// The step of the slow start at `now`.
    pub(super) fn step_at(&self, now: Instant) -> u32 {
        let Some(began) = self.ramp else { return RAMP_STEPS };
        let whole = self.rules.slow_start.as_millis().max(1);
        let done = u128::from(now.since(began)) * u128::from(RAMP_STEPS) / whole;
        u32::try_from(done).map_or(RAMP_STEPS, |done| (done + 1).min(RAMP_STEPS))
    }

    /// When the next step begins.
    pub(super) fn next_step(&self) -> Option<Instant> {
        let began = self.ramp?;
        let whole = self.rules.slow_start.as_millis() as u64;
        let ms = (u64::from(self.step) * whole).div_ceil(u64::from(RAMP_STEPS));
        Some(began.after(Duration::from_millis(ms)))
    }
}

/// What a check is called: its kind, and whom it asks.
#[must_use]
pub fn label(check: &Tally) -> String {
    format!("{} {}", check.probe.kind.name(), check.probe.target)
}

/// Whether a real with this verdict takes new connections.
#[must_use]
pub fn serves(verdict: Verdict, start: Start) -> bool {
    match verdict {
        Verdict::Up => true,
        Verdict::Down => false,
        Verdict::Unknown => start == Start::Up,
    }
}
