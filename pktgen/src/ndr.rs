//! Search for the highest rate without loss, as RFC 2544 section 26.1 has it.
//!
//! [`Search`] is pure; [`run`] feeds it with trials over connections that are opened once.

use std::sync::atomic::Ordering::Relaxed;

use crate::engine::Watch;
use crate::load::Load;
use crate::report::{Limit, Ndr as Row, Trial};
use crate::size::Size;
use crate::sources::Sources;
use crate::spec::{Ndr, Spec};
use crate::trial::{self, Found, Outcome, bps, loss, pps};

/// Most trials of one search.
pub const TRIALS_MAX: u32 = 24;

/// What a trial showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// No more loss than allowed, at the whole rate.
    Good,
    /// Too much loss, and not by the generator.
    Bad,
    /// The generator was at fault: it sent only so many packets a second, or lost some itself.
    Spoiled(f64),
}

/// A binary search over rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    floor: f64,
    /// Highest rate known to be good; 0: none yet.
    low: f64,
    /// Lowest rate known to be too high, or the ceiling.
    high: f64,
    /// Whether the ceiling was tried.
    begun: bool,
    resolution: f64,
    /// Rate of the trial under way.
    at: f64,
    /// Whether the trial under way is a repetition of a spoiled one.
    again: bool,
    trials: u32,
    over: bool,
}

impl Search {
    /// From `floor` to `ceiling` packets a second, until the bracket is narrower than the share
    /// `resolution` of its upper end.
    #[must_use]
    pub fn new(floor: f64, ceiling: f64, resolution: f64) -> Self {
        Self {
            floor,
            low: 0.0,
            high: ceiling,
            begun: false,
            resolution,
            at: ceiling,
            again: false,
            trials: 0,
            over: false,
        }
    }

    /// Rate of the next trial; none at the end.
    #[must_use]
    pub fn ask(&mut self) -> Option<f64> {
        if self.over || self.trials >= TRIALS_MAX {
            return None;
        }
        if self.again || !self.begun {
            return Some(self.at);
        }
        let low = self.low.max(self.floor);
        let narrow = self.high - low <= self.resolution * self.high;
        if narrow && (self.low > 0.0 || self.at <= self.floor) {
            self.over = true;
            return None;
        }
        // Nothing good yet in a narrow bracket: the floor has the last word.
        self.at = if narrow { self.floor } else { low.midpoint(self.high) };
        Some(self.at)
    }

    /// Takes the result of the trial that [`Self::ask`] asked for.
    pub fn record(&mut self, verdict: Verdict) {
        self.trials += 1;
        self.begun = true;
        let again = std::mem::take(&mut self.again);
        match verdict {
            Verdict::Good => {
                self.low = self.low.max(self.at);
                self.over = self.at >= self.high;
            }
            Verdict::Spoiled(_) if !again => self.again = true,
            Verdict::Spoiled(sent) => {
                // What the generator cannot send need not be tried.
                let low = self.low.max(self.floor);
                self.fail(if sent > low { sent.min(self.at) } else { self.at });
            }
            Verdict::Bad => self.fail(self.at),
        }
    }

    fn fail(&mut self, high: f64) {
        self.high = self.high.min(high);
        self.over = self.at <= self.floor;
    }

    /// Highest good rate so far; 0 if there is none.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.low
    }

    /// Trials so far.
    #[must_use]
    pub fn trials(&self) -> u32 {
        self.trials
    }
}

/// What a trial says to the search.
#[must_use]
pub fn verdict(trial: &Trial, allowance: f64) -> Verdict {
    let sent = trial.requests.sent + trial.replies.sent;
    let due = trial.requests.due + trial.replies.due;
    let lossy = loss(trial) > allowance;
    let late = crate::ledger::fell_behind(due, sent);
    let own = matches!(trial.limit, Limit::Generator | Limit::Receiver);
    if late || (lossy && own) {
        return Verdict::Spoiled(trial.requests.sent_pps + trial.replies.sent_pps);
    }
    if lossy { Verdict::Bad } else { Verdict::Good }
}

/// Searches for each size, over connections that are open.
///
/// # Errors
/// If threads cannot be started.
pub fn run(
    load: &mut Load,
    spec: &Spec,
    ndr: &Ndr,
    sources: &mut Sources,
    watch: &mut Watch<'_>,
    told: &mut dyn FnMut(&str),
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for size in &ndr.sizes {
        let row = one(load, spec, ndr, *size, sources, watch, told, &mut found)?;
        let Some(row) = row else { break };
        if row.pps == 0.0 {
            found.failures.push(format!(
                "{size}-byte frames: even {} lost more than allowed",
                pps(ndr.from.pps(size.wire_bits(spec.least())))
            ));
        }
        found.rows.push(row);
    }
    Ok(found)
}

/// One search; none if it was cut short by trouble.
#[expect(clippy::too_many_arguments, reason = "the parts of one run, each used here only")]
fn one(
    load: &mut Load,
    spec: &Spec,
    ndr: &Ndr,
    size: Size,
    sources: &mut Sources,
    watch: &mut Watch<'_>,
    told: &mut dyn FnMut(&str),
    found: &mut Found,
) -> anyhow::Result<Option<Row>> {
    let bits = size.wire_bits(spec.least());
    let mut search = Search::new(ndr.from.pps(bits), ndr.to.pps(bits), ndr.resolution);
    let base = crate::engine::Plan { duration: ndr.trial, ..trial::plan(spec) };
    let mut row = Row { size: size.to_string(), allowance: ndr.allowance, ..Row::default() };
    while let Some(rate) = search.ask() {
        let plan = trial::plan_at(spec, size, rate, base);
        let outcome = trial::run(load, spec, plan, sources, watch)?;
        let Outcome { trial, failures, notes } = outcome;
        add(&mut found.notes, notes);
        let broken = broken(&trial, &failures);
        if watch.interrupted.load(Relaxed) || !broken.is_empty() {
            found.failures.extend(broken);
            found.trials.push(trial);
            let note = format!("{size}-byte frames: the search was cut short");
            found.notes.push(note);
            return Ok(None);
        }
        let verdict = verdict(&trial, ndr.allowance);
        told(&tell(&trial, rate, verdict));
        if verdict != Verdict::Good {
            row.limit = trial.limit;
        }
        search.record(verdict);
        found.trials.push(trial);
    }
    row.pps = search.best();
    row.bps = row.pps * bits;
    row.trials = search.trials();
    if matches!(row.limit, Limit::Generator | Limit::Receiver) {
        found.notes.push(format!(
            "{size}-byte frames: the generator set the limit; the device may do more than {}",
            pps(row.pps)
        ));
    }
    Ok(Some(row))
}

/// Failures that no lower rate would mend: an interface that is gone, damaged packets.
fn broken(trial: &Trial, failures: &[String]) -> Vec<String> {
    let wrong = [&trial.requests, &trial.replies]
        .iter()
        .any(|way| way.corrupted + way.strayed + way.duplicated > 0);
    let gone = |text: &String| text.contains("interface ");
    let take = |text: &&String| gone(text) || (wrong && text.contains(" came "));
    failures.iter().filter(take).cloned().collect()
}

fn tell(trial: &Trial, rate: f64, verdict: Verdict) -> String {
    let outcome = match verdict {
        Verdict::Good => "good",
        Verdict::Bad => "too much loss",
        Verdict::Spoiled(_) => "spoiled by the generator",
    };
    let (lost, wire) = (trial.requests.lost + trial.replies.lost, trial.asked_bps);
    format!("{} bytes, {} ({}): lost {lost}, {outcome}", trial.size, pps(rate), bps(wire))
}

/// Adds notes that are not there yet.
pub fn add(notes: &mut Vec<String>, more: Vec<String>) {
    for note in more {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Searches a device that loses nothing up to `capacity`, with a generator that reaches
    /// `reach` and stumbles whenever `stumbles` says so. Returns the result and the trials.
    fn search(capacity: f64, reach: f64, mut stumbles: impl FnMut() -> bool) -> (f64, u32) {
        let mut search = Search::new(1e4, 1e7, 0.01);
        while let Some(rate) = search.ask() {
            assert!((1e4..=1e7).contains(&rate));
            search.record(if rate > reach {
                Verdict::Spoiled(reach)
            } else if stumbles() {
                Verdict::Spoiled(rate * 0.9)
            } else if rate > capacity {
                Verdict::Bad
            } else {
                Verdict::Good
            });
        }
        (search.best(), search.trials())
    }

    #[test]
    fn the_rate_is_found_to_the_resolution() {
        for capacity in [1e4, 12_345.0, 1.488e6, 9.9e6] {
            let (found, trials) = search(capacity, f64::MAX, || false);
            assert!(found <= capacity && found > 0.0 && trials <= TRIALS_MAX);
            assert!(found >= capacity * 0.989 || capacity < 1.02e4, "{found} of {capacity}");
        }
    }

    #[test]
    fn ends_of_the_range_are_found_at_once_or_at_last() {
        assert_eq!(search(2e7, f64::MAX, || false), (1e7, 1), "the ceiling itself is good");
        let (found, trials) = search(5.0, f64::MAX, || false);
        assert!(found == 0.0 && trials <= TRIALS_MAX);
        let (found, _) = search(1e4, f64::MAX, || false);
        assert_eq!(found, 1e4, "the floor itself is tried");
    }

    #[test]
    fn a_spoiled_trial_is_tried_once_more() {
        let mut first = true;
        let (found, trials) = search(2e7, f64::MAX, || std::mem::take(&mut first));
        assert_eq!((found, trials), (1e7, 2));
    }

    #[test]
    fn what_the_generator_cannot_send_is_left_out_of_the_search() {
        let (found, trials) = search(9e6, 1e6, || false);
        assert!((0.985e6..=1e6).contains(&found), "{found}");
        assert!(trials <= 12, "{trials} trials");
    }

    proptest! {
        #[test]
        fn noise_lowers_the_result_never_beyond_the_device_and_the_search_ends(
            capacity in 1e4..1e7, noise in 0.0..0.3, seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let stumbles = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1u64 << 53) as f64 <= noise
            };
            let (found, trials) = search(capacity, f64::MAX, stumbles);
            prop_assert!(found <= capacity);
            prop_assert!(trials <= TRIALS_MAX);
        }
    }

    #[test]
    fn only_losses_of_the_device_count_against_it() {
        let trial = |lost: u64, limit, sent| {
            let mut trial = Trial { limit, ..Trial::default() };
            trial.requests.due = 1_000_000;
            trial.requests.sent = sent;
            trial.requests.lost = lost;
            trial.requests.sent_pps = 5.0;
            trial
        };
        let m = 1_000_000;
        assert_eq!(verdict(&trial(0, Limit::None, m), 0.0), Verdict::Good);
        assert_eq!(verdict(&trial(1, Limit::Device, m), 0.0), Verdict::Bad);
        assert_eq!(verdict(&trial(1, Limit::Unknown, m), 0.0), Verdict::Bad);
        assert_eq!(verdict(&trial(100, Limit::Device, m), 0.0001), Verdict::Good);
        assert_eq!(verdict(&trial(1, Limit::Receiver, m), 0.0), Verdict::Spoiled(5.0));
        assert_eq!(verdict(&trial(0, Limit::Generator, m / 2), 0.0), Verdict::Spoiled(5.0));
    }
}
