//! A whole run, from interfaces taken to report.
//!
//! Run by the main thread. An `Err` means that nothing could be measured; whatever goes wrong
//! later is in the report.

use std::cell::RefCell;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crate::engine::Watch;
use crate::load::Load;
use crate::options::Run;
use crate::progress::Progress;
use crate::report::{Limit, Report, SCHEMA};
use crate::sources::Sources;
use crate::spec::{Spec, Verb};
use crate::trial::{self, Found};
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
    stage.measure()?;
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
        Verb::Load | Verb::Flood(_) | Verb::Reflect(_) => spec.duration,
    }
}

impl Stage<'_> {
    /// The one way of every verb: connections are held where the verb is about them, and its part of
    /// the work is done in between.
    fn measure(&mut self) -> anyhow::Result<()> {
        let mut load = Load::start(self.spec)?;
        let held = matches!(self.spec.verb, Verb::Load | Verb::Flood(_) | Verb::Ndr(_));
        if held {
            self.open(&mut load)?;
        }
        let mut found = self.act(&mut load)?;
        if let Verb::Reflect(_) = self.spec.verb {
            one_sided(&mut found, &load);
        }
        self.report.trials = found.trials;
        self.report.ndr = found.rows;
        self.report.failures.extend(found.failures);
        ndr::add(&mut self.report.notes, found.notes);
        if held { self.close(&mut load) } else { Ok(()) }
    }

    fn act(&mut self, load: &mut Load) -> anyhow::Result<Found> {
        let Self { spec, sources, progress, interrupted, .. } = self;
        let plan = trial::plan(spec);
        let progress = RefCell::new(progress);
        let mut tick = |live: &_| progress.borrow_mut().tick(live);
        let mut told = |text: &str| progress.borrow_mut().say(text);
        let mut watch = Watch { interrupted, tick: &mut tick };
        match &spec.verb {
            Verb::Reflect(_) => {
                told("reflecting; interrupt to end");
                Ok(trial::run(load, spec, plan, sources, &mut watch)?.into())
            }
            Verb::Load => Ok(trial::run(load, spec, plan, sources, &mut watch)?.into()),
            Verb::Flood(it) => Ok(flood::run(load, spec, *it, plan, sources, &mut watch)?.into()),
            Verb::Ndr(it) => ndr::run(load, spec, it, sources, &mut watch, &mut told),
            Verb::Cps(it) => cps::run(load, spec, it, sources, &mut watch, &mut told),
        }
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
}

/// What `reflect` cannot know is not in its report: what the clients sent, and what reached them.
fn one_sided(found: &mut Found, load: &Load) {
    for trial in &mut found.trials {
        trial.replies.lost = 0;
        trial.ledger.clear();
        (trial.unexplained, trial.limit) = (0, Limit::None);
        trial.connections.opened = load.scene().opened.load(Relaxed);
    }
    let wrong = |text: &String| text.contains(" came ") || text.contains("interface ");
    found.failures.retain(wrong);
    found.notes.push("what was lost is in the report of the other side".to_owned());
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
