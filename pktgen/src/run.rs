//! A whole run, from interfaces taken to report.
//!
//! Run by the main thread. An `Err` means that nothing could be measured; whatever goes wrong
//! later is in the report.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crate::engine::Watch;
use crate::load::Load;
use crate::options::Run;
use crate::progress::Progress;
use crate::report::{Limit, Report, SCHEMA, Trial};
use crate::sources::Sources;
use crate::spec::{Cps, Flood, Ndr, Spec, Verb};
use crate::trial::{self, Outcome};
use crate::{cps, flood, ndr};

/// What the verbs share.
struct Stage<'a> {
    spec: &'a Spec,
    sources: Sources,
    progress: Progress,
    interrupted: &'a AtomicBool,
    report: Report,
}

/// Runs it. `interrupted` becoming true ends it early, in good order and with a report.
///
/// # Errors
/// What kept it from measuring at all: an interface, a VIP that does not answer, missing rights.
pub fn run(run: &Run, interrupted: &AtomicBool) -> anyhow::Result<Report> {
    let spec = &run.spec;
    check_cores(&spec.cores)?;
    let mut stage = Stage {
        spec,
        sources: Sources::new(spec),
        progress: Progress::new(spec.output, length(spec), u64::from(spec.connections)),
        interrupted,
        report: Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            verb: spec.verb.name().to_owned(),
            scenario: run.scenario.clone(),
            trials: Vec::new(),
            ndr: Vec::new(),
            passed: false,
            failures: Vec::new(),
            notes: run.notes.clone(),
        },
    };
    match &spec.verb {
        Verb::Load => stage.load()?,
        Verb::Reflect => stage.reflect()?,
        Verb::Ndr(ndr) => stage.ndr(ndr)?,
        Verb::Cps(cps) => stage.cps(cps)?,
        Verb::Flood(flood) => stage.flood(*flood)?,
    }
    stage.progress.clear();
    let mut report = stage.report;
    report.passed = report.failures.is_empty();
    Ok(report)
}

/// A worker that cannot be pinned would disturb whoever it lands on.
fn check_cores(wanted: &[usize]) -> anyhow::Result<()> {
    let usable: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if let Some(core) = wanted.iter().find(|core| !usable.contains(core)) {
        anyhow::bail!("--cores: this process cannot run on core {core}; it can on {usable:?}");
    }
    Ok(())
}

/// Length of a stretch of traffic, for the progress line.
fn length(spec: &Spec) -> std::time::Duration {
    match &spec.verb {
        Verb::Ndr(ndr) => ndr.trial,
        Verb::Cps(cps) => cps.step,
        Verb::Load | Verb::Flood(_) | Verb::Reflect => spec.duration,
    }
}

impl Stage<'_> {
    fn load(&mut self) -> anyhow::Result<()> {
        let mut load = Load::start(self.spec)?;
        self.open(&mut load)?;
        let plan = trial::plan(self.spec);
        let (spec, interrupted) = (self.spec, self.interrupted);
        let Self { progress, sources, .. } = self;
        let mut tick = |live: &_| progress.tick(live);
        let mut watch = Watch { interrupted, tick: &mut tick };
        let outcome = trial::run(&mut load, spec, plan, sources, &mut watch)?;
        self.take(outcome);
        self.close(&mut load)
    }

    fn ndr(&mut self, ndr: &Ndr) -> anyhow::Result<()> {
        let mut load = Load::start(self.spec)?;
        self.open(&mut load)?;
        let (spec, interrupted) = (self.spec, self.interrupted);
        let progress = std::cell::RefCell::new(&mut self.progress);
        let mut tick = |live: &_| progress.borrow_mut().tick(live);
        let mut told = |text: &str| progress.borrow_mut().say(text);
        let mut watch = Watch { interrupted, tick: &mut tick };
        let found = ndr::run(&mut load, spec, ndr, &mut self.sources, &mut watch, &mut told)?;
        self.report.trials = found.trials;
        self.report.ndr = found.rows;
        self.report.failures.extend(found.failures);
        ndr::add(&mut self.report.notes, found.notes);
        self.close(&mut load)
    }

    fn cps(&mut self, cps: &Cps) -> anyhow::Result<()> {
        let mut load = Load::start(self.spec)?;
        let (spec, interrupted) = (self.spec, self.interrupted);
        let progress = std::cell::RefCell::new(&mut self.progress);
        let mut tick = |live: &_| progress.borrow_mut().tick(live);
        let mut told = |text: &str| progress.borrow_mut().say(text);
        let mut watch = Watch { interrupted, tick: &mut tick };
        let found = cps::run(&mut load, spec, cps, &mut self.sources, &mut watch, &mut told)?;
        self.report.trials = found.trials;
        self.report.failures.extend(found.failures);
        ndr::add(&mut self.report.notes, found.notes);
        Ok(())
    }

    fn flood(&mut self, flood: Flood) -> anyhow::Result<()> {
        let mut load = Load::start(self.spec)?;
        self.open(&mut load)?;
        let plan = trial::plan(self.spec);
        let (spec, interrupted) = (self.spec, self.interrupted);
        let Self { progress, sources, .. } = self;
        let mut tick = |live: &_| progress.tick(live);
        let mut watch = Watch { interrupted, tick: &mut tick };
        let outcome = flood::run(&mut load, spec, flood, plan, sources, &mut watch)?;
        self.take(outcome);
        self.close(&mut load)
    }

    fn reflect(&mut self) -> anyhow::Result<()> {
        let mut load = Load::start(self.spec)?;
        let plan = trial::plan(self.spec);
        let (spec, interrupted) = (self.spec, self.interrupted);
        let Self { progress, sources, .. } = self;
        progress.say("reflecting; interrupt to end");
        let mut tick = |live: &_| progress.tick(live);
        let mut watch = Watch { interrupted, tick: &mut tick };
        let mut outcome = trial::run(&mut load, spec, plan, sources, &mut watch)?;
        one_sided(&mut outcome, &load);
        self.take(outcome);
        Ok(())
    }

    fn open(&mut self, load: &mut Load) -> anyhow::Result<()> {
        let Self { progress, interrupted, .. } = self;
        let mut tick = |live: &_| progress.tick(live);
        let mut watch = Watch { interrupted, tick: &mut tick };
        let faults = load.open(&mut watch)?;
        if self.interrupted.load(Relaxed) {
            self.report.notes.push("interrupted while connections were opened".to_owned());
        } else {
            self.report.failures.extend(faults);
        }
        Ok(())
    }

    /// Closes what was opened; what does not close in order is a failure, unless more is wrong.
    fn close(&mut self, load: &mut Load) -> anyhow::Result<()> {
        // An interrupted run closes its connections too; a second signal ends the process.
        let go_on = AtomicBool::new(false);
        let progress = &mut self.progress;
        let mut tick = |live: &_| progress.tick(live);
        let mut watch = Watch { interrupted: &go_on, tick: &mut tick };
        let closed = load.close(&mut watch)?;
        for trial in &mut self.report.trials {
            trial.connections.closed = closed;
        }
        let opened = load.connections().opened;
        let tcp = self.spec.protocol == crate::spec::Protocol::Tcp;
        if tcp && closed < opened && self.report.failures.is_empty() {
            let failure = format!("{closed} of {opened} connections were closed in order");
            self.report.failures.push(failure);
        }
        Ok(())
    }

    fn take(&mut self, outcome: Outcome) {
        self.report.trials.push(outcome.trial);
        self.report.failures.extend(outcome.failures);
        ndr::add(&mut self.report.notes, outcome.notes);
    }
}

/// What `reflect` cannot know is not in its report: what the clients sent, and what reached them.
fn one_sided(outcome: &mut Outcome, load: &Load) {
    let trial: &mut Trial = &mut outcome.trial;
    trial.replies.lost = 0;
    trial.ledger.clear();
    (trial.unexplained, trial.limit) = (0, Limit::None);
    trial.connections.opened = load.scene().opened.load(Relaxed);
    let wrong = |text: &String| text.contains(" came ") || text.contains("interface ");
    outcome.failures.retain(wrong);
    outcome.notes.push("what was lost is in the report of the other side".to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_is_not_there_is_named() {
        let usable = core_affinity::get_core_ids().unwrap();
        assert!(check_cores(&[usable[0].id]).is_ok());
        let error = check_cores(&[usable[0].id, 1023]).unwrap_err().to_string();
        assert!(error.contains("core 1023"), "{error}");
    }
}
