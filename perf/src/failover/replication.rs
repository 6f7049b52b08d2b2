//! How late the peer knows of new connections, and how long a copy of all of them takes: two figures that no client sees
//! before a node dies.

use std::time::Duration;

use anyhow::{Context, ensure};
use dataplane::clock;

use super::case::Times;
use super::duo::Duo;
use super::xvip::Xvip;
use super::{Options, Sheet, root};
use crate::lab::generator::Traffic;
use crate::lab::quiet::Watch;
use crate::lab::{Lab, say, wait_until};
use crate::peers::usage;
use crate::record::{BulkRound, ReplicationRound, Scenario};

/// Seconds of new connections before `xvip ha` is asked: it tells of the last ten to twenty.
const SECONDS: u32 = 12;
/// How long a copy of everything may take.
const COPIED: Duration = Duration::from_secs(60);
/// How long it may take until all connections are there.
const OPENED: Duration = Duration::from_secs(60);

/// Runs all rounds of both. What could not be measured is noted.
pub(super) fn run(lab: &Lab, options: &Options, sheet: &mut Sheet) {
    let found = watched(lab, sheet, "the highest rate", || highest(lab, options));
    let Some((rate, _)) = found else { return };
    sheet.note(format!(
        "replication: acknowledgements are measured at {rate} new connections a second, the highest rate up to {} at which the \
         generator got every connection opened, used and closed through the active node of a pair on this machine",
        options.most_cps()
    ));
    for round in 1..=options.rounds() {
        say(&format!("replication, round {round} of {}", options.rounds()));
        let measure = || acknowledged(lab, options, rate);
        if let Some((found, contended)) = watched(lab, sheet, "acknowledgements", measure) {
            sheet.found.replication.push(ReplicationRound { contended, ..found });
        }
        let measure = || bulk(lab, options);
        if let Some((found, contended)) = watched(lab, sheet, "a copy of everything", measure) {
            sheet.found.bulk.push(BulkRound { contended, ..found });
        }
    }
}

/// Measures, and says whether others had too much of the machine.
fn watched<T>(
    lab: &Lab,
    sheet: &mut Sheet,
    what: &str,
    measure: impl FnOnce() -> anyhow::Result<T>,
) -> Option<(T, bool)> {
    let watching = || {
        let watch = Watch::start(&[], usage::running(lab)?);
        let found = measure()?;
        anyhow::Ok((found, watch.finish(usage::running(lab)?)))
    };
    match watching() {
        Ok((found, quiet)) => {
            let contended = quiet.contended;
            sheet.quiets.push(quiet);
            Some((found, contended))
        }
        Err(error) => {
            say(&format!("could not be run: {error:#}"));
            sheet.note(format!("replication, {what}: could not be measured: {}", root(&error)));
            sheet.failed += 1;
            None
        }
    }
}

fn with_pair<T>(
    lab: &Lab,
    options: &Options,
    measure: impl FnOnce(&mut Xvip) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut pair = Xvip::new(lab, Times::Default, Scenario::Nothing, options.config())?;
    let found = pair.boot(lab, Scenario::Nothing).and_then(|()| measure(&mut pair));
    let found = found.with_context(|| pair.tails());
    let stopped = pair.stop(lab);
    let found = found?;
    stopped?;
    Ok(found)
}

fn traffic(options: &Options) -> Traffic {
    Traffic {
        connections: options.connections(),
        reals: options.reals(),
        size: "64".into(),
        rate: options.rate(),
        open_rate: options.open_rate(),
        engine: options.engine,
        cores: options.generator_cores.clone(),
        max_loss: 0.999,
        ..Traffic::default()
    }
}

fn steps(options: &Options, (from, to): (u32, u32), steps: u32, seconds: u32) -> Traffic {
    let words = [("--from", from), ("--to", to), ("--steps", steps), ("--step-seconds", seconds)];
    let more = words.iter().flat_map(|(name, n)| [(*name).to_owned(), n.to_string()]).collect();
    // Time for all steps, as the generator's limit is reckoned.
    let seconds = f64::from(steps * seconds);
    Traffic { verb: "cps", seconds, max_loss: 0.001, more, ..traffic(options) }
}

/// The highest rate of new connections, of steps of a tenth, that the pair carries.
fn highest(lab: &Lab, options: &Options) -> anyhow::Result<u32> {
    let most = options.most_cps();
    say("replication: looking for the highest rate of new connections");
    let report = with_pair(lab, options, |_| steps(options, (most / 10, most), 10, 2).run(lab))?;
    let good = |trial: &&pktgen::report::Trial| {
        let (due, done) = (trial.requests.due, trial.requests.received);
        due > 0 && done as f64 >= due as f64 * 0.999
    };
    let rates = report.trials.iter().take_while(good).map(|t| t.asked_pps);
    let rate = rates.fold(0.0, f64::max) as u32;
    Ok(rate.max(most / 10))
}

fn acknowledged(lab: &Lab, options: &Options, rate: u32) -> anyhow::Result<ReplicationRound> {
    with_pair(lab, options, |pair| {
        let seconds = if options.smoke { 3 } else { SECONDS };
        let report = steps(options, (rate, rate), 1, seconds).run(lab)?;
        let trial = report.trials.first().context("the generator reports no step")?;
        let active = pair.active();
        let said = pair.node(active).ha(lab)?;
        let latency = said.replication.context("`xvip ha` says nothing of replication")?.latency;
        ensure!(latency.count > 0, "`xvip ha` has measured no acknowledgement");
        Ok(ReplicationRound {
            connections_per_second: trial.connections.opened_per_second,
            changes: latency.count,
            p50_ms: latency.p50_us as f64 / 1e3,
            p99_ms: latency.p99_us as f64 / 1e3,
            max_ms: latency.max_us as f64 / 1e3,
            contended: false,
        })
    })
}

fn bulk(lab: &Lab, options: &Options) -> anyhow::Result<BulkRound> {
    with_pair(lab, options, |pair| {
        let seconds = if options.smoke { 6.0 } else { 10.0 };
        let held = Traffic { rate: "10kpps".into(), seconds, ..traffic(options) };
        let mut running = held.start(lab)?;
        let wanted = u64::from(options.connections()) * 999 / 1000;
        wait_until("all connections are established", OPENED, || {
            running.must_run()?;
            Ok((pair.established(lab) >= wanted).then_some(()))
        })?;
        let (active, standby) = (pair.active(), 1 - pair.active());
        pair.node(standby).kill_control();
        let began = clock::now();
        pair.node(standby).start_control(lab)?;
        let mut worth = 0;
        pair.wait(lab, "the standby knows everything again", COPIED, |said| {
            let (Some(owner), Some(learner)) = (&said[active], &said[standby]) else {
                return false;
            };
            let survival = owner.replication.as_ref().and_then(|r| r.survival);
            worth = survival.map_or(0, |s| s.worth);
            let whole = owner.replication.as_ref().is_some_and(|r| r.peer_synced);
            whole && learner.synced() && survival.is_some_and(|s| s.would_live >= wanted)
        })?;
        let ms = clock::now().since(began).as_secs_f64() * 1e3;
        running.finish()?;
        Ok(BulkRound { connections: worth, ms, contended: false })
    })
}
