//! Which reals can serve: outcomes of checks go in, verdicts and events come out.
//!
//! Pure; [`crate::io::probe`] runs the checks, [`crate::plan`] draws the consequences. State belongs
//! to a real by its identity (service, address, port) and to a check by what it asks, so that a
//! reload that reorders or adds loses nothing. A check that cannot be carried out changes nothing
//! but is shown and told.

mod passive;
mod real;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::{Outcome, Probe, ProbeSet, Report, Rules};
use crate::config::{Config, Entry};
use crate::event::{Event, Kind};
use crate::overrides::RealKey;
use crate::time::Instant;

pub use real::{FLAP_WINDOW, RAMP_STEPS, Real, State, label, serves};
use tally::Turn;
pub use tally::{Counts, Tally, Verdict};

/// A change of the weight that checks ask for is told from this many percent on; any that turns a
/// real on or off is.
const ASKED_TOLD: u8 = 25;

/// Health of every real that is configured.
#[derive(Debug, Default)]
pub struct Health {
    reals: BTreeMap<Arc<RealKey>, Real>,
    /// Who wants the outcome of a probe.
    users: BTreeMap<Arc<Probe>, Vec<Arc<RealKey>>>,
    /// The keys of `users`, shared with whoever runs them.
    probes: Arc<ProbeSet>,
    /// Counters of the data plane when they were last looked at.
    seen: passive::Seen,
    /// Whether it is known what a control process before this one found dead.
    inherited: bool,
    /// Whether a plan made now may differ from the last one.
    changed: bool,
    events: Vec<Event>,
    urgent: Vec<Arc<Probe>>,
}

impl Health {
    /// Takes in a configuration: what is in it and was before keeps its state.
    pub fn configure(&mut self, config: &Config, now: Instant) {
        let mut old = std::mem::take(&mut self.reals);
        for entry in &config.services {
            for index in 0..entry.service.reals.len() {
                let (key, real) = configured(entry, index, &mut old, now, &mut self.events);
                self.reals.insert(Arc::new(key), real);
            }
        }
        for (key, gone) in old {
            forgotten(&key, &gone, &gone.checks, now, &mut self.events);
            if gone.verdict == Verdict::Down {
                recovered(&key, &gone, now, &mut self.events);
            }
        }
        let mut users: BTreeMap<Arc<Probe>, Vec<Arc<RealKey>>> = BTreeMap::new();
        for (key, real) in &self.reals {
            for check in &real.checks {
                users.entry(Arc::clone(&check.probe)).or_default().push(Arc::clone(key));
            }
        }
        if !users.keys().eq(self.probes.iter()) {
            self.probes = Arc::new(users.keys().cloned().collect());
        }
        self.users = users;
        self.changed = true;
    }

    /// Every probe that is wanted.
    #[must_use]
    pub const fn probes(&self) -> &Arc<ProbeSet> {
        &self.probes
    }

    /// The health of a real, if it is configured.
    #[must_use]
    pub fn real(&self, key: &RealKey) -> Option<&Real> {
        self.reals.get(key)
    }

    /// Every real with its identity.
    pub fn reals(&self) -> impl Iterator<Item = (&RealKey, &Real)> {
        self.reals.iter().map(|(key, real)| (key.as_ref(), real))
    }

    /// A run has ended. One of a probe that nobody wants any more is not heard.
    pub fn report(&mut self, probe: &Arc<Probe>, report: &Report, now: Instant) {
        let Some(users) = self.users.get(probe) else { return };
        for key in users {
            let Some(real) = self.reals.get_mut(key) else { continue };
            for index in 0..real.checks.len() {
                if real.checks[index].probe == *probe {
                    tally(key, real, index, report, now, &mut self.events);
                }
            }
            self.changed |= settle(key, real, now, &mut self.events);
        }
    }

    /// Slow starts go on.
    pub fn tick(&mut self, now: Instant) {
        for real in self.reals.values_mut().filter(|r| r.ramp.is_some()) {
            let step = real.step_at(now);
            self.changed |= step != real.step;
            real.step = step;
            if step == RAMP_STEPS && real.next_step().is_none_or(|at| at <= now) {
                real.ramp = None;
            }
        }
    }

    /// When [`Health::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.reals.values().filter_map(Real::next_step).min()
    }

    /// Whether a new plan is due since this was last asked.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Whether [`Health::inherit`] has been called, or need not be.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.inherited || self.probes.is_empty()
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Probes that are to run at once, since this was last asked.
    pub fn take_urgent(&mut self) -> Vec<Arc<Probe>> {
        std::mem::take(&mut self.urgent)
    }
}

/// The real at `index` of a service, with the state it had.
fn configured(
    entry: &Entry,
    index: usize,
    old: &mut BTreeMap<Arc<RealKey>, Real>,
    now: Instant,
    events: &mut Vec<Event>,
) -> (RealKey, Real) {
    let wanted = &entry.service.reals[index];
    let key = RealKey::new(&entry.service.name, wanted);
    let known = old.remove(&key);
    let fresh = known.is_none();
    let rules: Rules = entry.health;
    let mut real = known.unwrap_or_else(|| Real::new(wanted.name.clone(), rules, now));
    (real.name, real.rules) = (wanted.name.clone(), rules);
    let mut before = std::mem::take(&mut real.checks);
    // A new check of a real that is known begins with what is known: a changed timeout neither
    // takes a healthy server down nor brings a dead one back.
    let verdict = if fresh || before.is_empty() { Verdict::Unknown } else { real.verdict };
    for check in entry.checks.get(index).map_or(&[][..], |c| c) {
        let probe = check.probe(&entry.service, wanted);
        let same = before.iter().position(|t| *t.probe == probe);
        let tally = match same.map(|at| before.swap_remove(at)) {
            Some(mut tally) => {
                tally.adjust(check, rules.start);
                tally
            }
            None => Tally::new(Arc::new(probe), check, rules.start, verdict),
        };
        real.checks.push(tally);
    }
    // Of what is no longer asked, nothing is wrong any more.
    forgotten(&key, &real, &before, now, events);
    let joined = real.joined();
    if joined != real.verdict {
        if real.verdict == Verdict::Down {
            recovered(&key, &real, now, events);
        }
        real.turn(joined, now);
    }
    if real.checks.is_empty() || fresh {
        // Nothing has recovered: it is new.
        (real.ramp, real.step) = (None, RAMP_STEPS);
    }
    if rules.slow_start.is_zero() {
        (real.ramp, real.step) = (None, RAMP_STEPS);
    }
    (key, real)
}

/// Why a problem is over that nobody solved.
const FORGOTTEN: &str = "no longer configured";

/// Tells the end of a real that was down, of which nothing is asked any more.
fn recovered(key: &RealKey, real: &Real, now: Instant, events: &mut Vec<Event>) {
    let event = Event::new(Kind::RealUp, now, FORGOTTEN).service(&key.service);
    events.push(event.real(&real.name));
}

/// Tells the end of what was wrong with checks that are gone.
fn forgotten(key: &RealKey, real: &Real, checks: &[Tally], now: Instant, events: &mut Vec<Event>) {
    for check in checks {
        let over = [
            check.is_lost().then_some(Kind::RealCheckable),
            check.noted.then_some(Kind::CertificateRenewed),
        ];
        for kind in over.into_iter().flatten() {
            let event = Event::new(kind, now, FORGOTTEN).service(&key.service);
            events.push(event.real(&real.name).subject(label(check)));
        }
    }
}

/// Counts an outcome for one check and tells what is new about that check.
fn tally(
    key: &RealKey,
    real: &mut Real,
    index: usize,
    report: &Report,
    now: Instant,
    events: &mut Vec<Event>,
) {
    let name = real.name.clone();
    let check = &mut real.checks[index];
    let turn = check.count(report, now);
    let label = label(check);
    let mut tell = |kind, reason: &str| {
        let event = Event::new(kind, now, reason).service(&key.service);
        events.push(event.real(&name).subject(&label));
    };
    match turn {
        Some(Turn::Lost) => {
            tell(Kind::RealCannotCheck, report.outcome.reason().unwrap_or_default());
        }
        Some(Turn::Found) => tell(Kind::RealCheckable, ""),
        None => {}
    }
    if let Outcome::Up(passed) = &report.outcome {
        match (check.noted, &passed.note) {
            (false, Some(note)) => tell(Kind::CertificateEnding, note),
            (true, None) => tell(Kind::CertificateRenewed, ""),
            _ => {}
        }
        check.noted = passed.note.is_some();
    }
}

/// Joins the checks of a real again; whether a plan may change by it.
fn settle(key: &RealKey, real: &mut Real, now: Instant, events: &mut Vec<Event>) -> bool {
    let mut changed = false;
    let joined = real.joined();
    if joined != real.verdict {
        let (served, was, since) = (real.serves(), real.verdict, real.since);
        real.turn(joined, now);
        changed = true;
        let kind = match joined {
            Verdict::Down => Some(Kind::RealDown),
            // That a real which was taken for healthy is so is no news.
            Verdict::Up if was == Verdict::Down || !served => Some(Kind::RealUp),
            Verdict::Up | Verdict::Unknown => None,
        };
        if let Some(kind) = kind {
            let mut reason = real.reason.clone();
            if was == Verdict::Down {
                let seconds = now.since(since).div_ceil(1000);
                reason.push_str(&format!(", after {seconds} s"));
            }
            events.push(Event::new(kind, now, reason).service(&key.service).real(&real.name));
        }
    }
    let asked = real.asked_now();
    if asked != real.asked {
        let told = asked.abs_diff(real.asked) >= ASKED_TOLD || asked == 0 || real.asked == 0;
        if told {
            let reason = format!("its check asks for {asked} % of its weight");
            let event = Event::new(Kind::RealWeight, now, reason);
            events.push(event.service(&key.service).real(&real.name));
        }
        (real.asked, changed) = (asked, true);
    }
    changed
}
