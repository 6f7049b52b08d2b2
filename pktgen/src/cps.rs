//! How many new connections a second pass, in rising steps.
//!
//! Run by the main thread over the generator's sockets; [`crate::engine::turnover`] is what the
//! workers do. In the reports of this verb, sent, received and lost are connections: begun,
//! completed (opened, used both ways, closed in order) and failed.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use anyhow::bail;
use dataplane::clock;
use hdrhistogram::Histogram;

use crate::engine::sockets::Go;
use crate::engine::turnover::{self, Part, Step};
use crate::engine::xsk::{connections, summary};
use crate::engine::{Live, Watch};
use crate::ledger::{self, Reading};
use crate::load::Load;
use crate::ndr::add;
use crate::report::{Connections, Direction, Limit, Line, Trial};
use crate::sources::Sources;
use crate::spec::{Cps, Spec};
use crate::trial::{Found, loss, neighbors, percent};

/// Time from the start of the threads to the first connection.
const LEAD: Duration = Duration::from_millis(20);
/// How often people are told.
const TICK: Duration = Duration::from_millis(100);
/// Connections a second while the balancer finds its real servers.
const WARM_UP: f64 = 50.0;

/// Climbs until a step does not meet the criteria.
///
/// # Errors
/// If not one connection can be completed, or threads cannot be started.
pub fn run(
    load: &mut Load,
    spec: &Spec,
    cps: &Cps,
    sources: &mut Sources,
    watch: &mut Watch<'_>,
    told: &mut dyn FnMut(&str),
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    warm_up(load, spec, watch)?;
    let mut best = None;
    for index in 0..cps.steps {
        let rate = rate(cps, index);
        let before = sources.read(&mut found.notes);
        let (moves, begun) = (load.moves().0, clock::now().after(LEAD));
        let Stepped { parts, seconds, trouble, lost_here } =
            step(load, spec, rate, cps.step, watch)?;
        let moves = load.moves_since(moves);
        let after = sources.read(&mut found.notes);
        let mut trial = assemble(
            spec,
            (rate, seconds),
            &parts,
            &lost_here,
            [&before, &after],
            &mut found.notes,
        );
        trial.mode = load.mode();
        trial.neighbor_changes = moves.0;
        trial.neighbors = neighbors(&moves.1, begun.nanos());
        let failure = judge(&trial, spec, &parts);
        told(&format!(
            "{rate:.0} a second: {} of {} completed{}",
            trial.requests.received,
            trial.requests.sent,
            if failure.is_some() { ", too few" } else { "" },
        ));
        found.trials.push(trial);
        if let Some(trouble) = trouble {
            found.failures.push(trouble);
            break;
        }
        if watch.interrupted.load(Relaxed) {
            add(&mut found.notes, vec!["interrupted: the ramp was cut short".to_owned()]);
            break;
        }
        match failure {
            None => best = Some((index, rate)),
            Some(failure) => {
                match best {
                    Some((_, best)) => found.notes.push(format!(
                        "highest step that met the criteria: {best:.0} connections a second; the \
                         next one did not: {failure}"
                    )),
                    None => found.failures.push(format!("the first step already: {failure}")),
                }
                break;
            }
        }
    }
    if let Some((index, rate)) = best
        && index + 1 == cps.steps
    {
        found.notes.push(format!("every step met the criteria, up to {rate:.0} a second"));
    }
    Ok(found)
}

/// Rate of a step; the first is `from`, the last `to`.
fn rate(cps: &Cps, index: u32) -> f64 {
    if cps.steps <= 1 {
        return cps.to;
    }
    cps.from + (cps.to - cps.from) * f64::from(index) / f64::from(cps.steps - 1)
}

/// Until the first connection is completed: addresses are resolved, the VIP is right.
fn warm_up(load: &mut Load, spec: &Spec, watch: &mut Watch<'_>) -> anyhow::Result<()> {
    let short = Duration::from_millis(200);
    let deadline = clock::now().after(spec.patience);
    loop {
        let spec = Spec { patience: short, ..spec.clone() };
        let Stepped { parts, trouble, .. } = step(load, &spec, WARM_UP, short, watch)?;
        if let Some(trouble) = trouble {
            bail!(trouble);
        }
        if parts.iter().any(|part| part.completed > 0) || watch.interrupted.load(Relaxed) {
            return Ok(());
        }
        if clock::now() >= deadline {
            let refused: u64 = parts.iter().map(|part| part.refused).sum();
            if refused > 0 {
                bail!(
                    "{} resets every connection: is there a service with real servers?",
                    spec.vip
                );
            }
            load.unanswered(spec.connections)?;
            bail!("not one connection to {} could be completed", spec.vip);
        }
    }
}

/// What a step gave.
struct Stepped {
    parts: Vec<Part>,
    seconds: f64,
    /// What went wrong with the interfaces.
    trouble: Option<String>,
    /// What the generator's own sockets dropped.
    lost_here: Vec<Line>,
}

/// One step.
fn step(
    load: &mut Load,
    spec: &Spec,
    rate: f64,
    duration: Duration,
    watch: &mut Watch<'_>,
) -> anyhow::Result<Stepped> {
    let (sockets, scene) = load.sockets();
    let workers = sockets.tallies().len() as u64;
    let statistics = sockets.statistics();
    let step = Step {
        scene,
        rate,
        size: spec.size.of(0, spec.least()),
        start: clock::now().after(LEAD),
        duration,
        patience: spec.patience,
        halt: AtomicBool::new(false),
        so_far: [AtomicU64::new(0), AtomicU64::new(0)],
        done: AtomicU64::new(0),
    };
    let (mut trouble, mut told, mut ended) = (None, Duration::ZERO, None);
    let results = sockets.run(
        |worker, stop| turnover::run(worker, &step, stop),
        |wrong| {
            let now = clock::now().since(step.start);
            if now >= told + TICK {
                told = now;
                let [begun, completed] =
                    [&step.so_far[0], &step.so_far[1]].map(|n| n.load(Relaxed));
                (watch.tick)(&Live {
                    phase: "connecting",
                    elapsed: now,
                    connections: connections(scene),
                    requests: [begun, completed],
                    replies: [0, 0],
                });
            }
            if let Some(wrong) = wrong {
                trouble = Some(format!("{wrong}, {:.1} s into the step", now.as_secs_f64()));
                step.halt.store(true, Relaxed);
                return Go::Stop;
            }
            if watch.interrupted.load(Relaxed) {
                step.halt.store(true, Relaxed);
                ended.get_or_insert(now);
            }
            let end = ended.unwrap_or(duration).min(duration);
            let late = now > end + spec.patience;
            if step.done.load(Acquire) >= workers || late { Go::Stop } else { Go::On }
        },
    )?;
    let parts = results.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let seconds = ended.unwrap_or(duration).min(duration).as_secs_f64();
    Ok(Stepped { parts, seconds, trouble, lost_here: sockets.dropped_since(&statistics) })
}

/// The figures of a step.
fn assemble(
    spec: &Spec,
    (rate, seconds): (f64, f64),
    parts: &[Part],
    lost_here: &[Line],
    [before, after]: [&Reading; 2],
    notes: &mut Vec<String>,
) -> Trial {
    let sum = |get: fn(&Part) -> u64| parts.iter().map(get).sum::<u64>();
    let (due, begun, completed) = (sum(|p| p.due), sum(|p| p.begun), sum(|p| p.completed));
    let silent = |at: usize| parts.iter().map(|p| p.silent[at]).sum::<u64>();
    let each = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let requests = Direction {
        due,
        sent: begun,
        received: completed,
        lost: begun.saturating_sub(completed),
        sent_pps: each(begun),
        received_pps: each(completed),
        latency: latency(parts),
        ..Direction::default()
    };
    let line = |place: &str, packets: u64| Line { place: place.to_owned(), packets };
    let mut books = vec![
        line("connections begun", begun),
        line("completed: opened, used both ways, closed", completed),
        line("no answer to the opening", silent(0)),
        line("no reply to the data", silent(1)),
        line("no answer to the close", silent(2)),
        line("reset", sum(|p| p.refused)),
    ];
    let explained: u64 = books.iter().skip(1).map(|l| l.packets).sum();
    let mut kept = 0;
    books.retain(|l| {
        kept += 1;
        kept <= 2 || l.packets > 0
    });
    // Where packets of the failed ones were dropped, as far as counters tell.
    let counters = ledger::balance(&requests, &Direction::default(), lost_here, before, after);
    if requests.lost > 0 {
        for l in counters.lines.iter().skip(3) {
            notes.push(format!("at {rate:.0} a second, {}: {} packets", l.place, l.packets));
        }
    }
    add(notes, counters.notes.into_iter().filter(|n| !n.starts_with("counters account")).collect());
    Trial {
        engine: "af_xdp".to_owned(),
        size: spec.size.to_string(),
        seconds,
        asked_pps: rate,
        connections: Connections {
            wanted: due,
            opened: sum(|p| p.latency.len()),
            opened_per_second: each(completed),
            alive: completed,
            balancer_active: after.balancer.as_ref().and_then(|b| b.active),
            closed: completed,
            ..Connections::default()
        },
        unexplained: i64::try_from(begun).unwrap_or(i64::MAX)
            - i64::try_from(explained).unwrap_or(i64::MAX),
        limit: if requests.lost == 0 && counters.limit != Limit::Generator {
            Limit::None
        } else {
            counters.limit
        },
        requests,
        ledger: books,
        cores: ledger::cores(&before.cores, &after.cores),
        ..Trial::default()
    }
}

fn latency(parts: &[Part]) -> Option<crate::report::Latency> {
    let mut all: Option<Histogram<u64>> = None;
    for part in parts {
        match &mut all {
            Some(all) => {
                let _ = all.add(&part.latency);
            }
            None => all = Some(part.latency.clone()),
        }
    }
    all.as_ref().and_then(summary)
}

/// Why a step does not meet the criteria.
fn judge(trial: &Trial, spec: &Spec, parts: &[Part]) -> Option<String> {
    let d = &trial.requests;
    if loss(trial) > spec.max_loss {
        let (share, allowed) = (percent(loss(trial)), percent(spec.max_loss));
        return Some(format!("{} of {} failed ({share}), {allowed} allowed", d.lost, d.sent));
    }
    if !ledger::fell_behind(d.due, d.sent) {
        return None;
    }
    let unfree: u64 = parts.iter().map(|p| p.unfree).sum();
    Some(if unfree > 0 {
        format!("{unfree} found no client port that was free: more --connections help")
    } else {
        format!("the generator began {} of {} that were due", d.sent, d.due)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_evenly_from_the_first_to_the_last_rate() {
        let cps = Cps { from: 100.0, to: 400.0, steps: 4, step: Duration::from_secs(1) };
        let rates: Vec<_> = (0..4).map(|n| rate(&cps, n)).collect();
        assert_eq!(rates, [100.0, 200.0, 300.0, 400.0]);
        assert_eq!(rate(&Cps { steps: 1, ..cps }, 0), 400.0);
    }

    fn part(due: u64, begun: u64, completed: u64, silent: [u64; 3]) -> Part {
        let latency = Histogram::new_with_bounds(1, 1000, 3).unwrap();
        Part { due, begun, completed, refused: 0, silent, unfree: 0, latency }
    }

    fn trial(parts: &[Part]) -> (Trial, Option<String>) {
        trial_with(parts, &[])
    }

    fn trial_with(parts: &[Part], lost_here: &[Line]) -> (Trial, Option<String>) {
        let flags = [("client", "a"), ("server", "b"), ("vip", "198.18.255.1:80")];
        let spec = crate::options::build("cps", &flags, None).unwrap().spec;
        let reading = Reading::default();
        let readings = [&reading, &reading];
        let trial = assemble(&spec, (10.0, 2.0), parts, lost_here, readings, &mut Vec::new());
        let failure = judge(&trial, &spec, parts);
        (trial, failure)
    }

    #[test]
    fn every_connection_that_began_is_accounted_for() {
        let parts = [part(100, 100, 90, [4, 3, 2]), part(50, 50, 49, [0, 0, 1])];
        let (trial, failure) = trial(&parts);
        assert_eq!(trial.ledger[0].packets, 150);
        let rest: u64 = trial.ledger[1..].iter().map(|l| l.packets).sum();
        assert_eq!(rest as i64 + trial.unexplained, 150);
        assert_eq!(trial.unexplained, 1, "one of the first worker's");
        assert!(failure.unwrap().contains("11 of 150 failed"));
        assert_eq!(trial.limit, Limit::Unknown);
    }

    #[test]
    fn what_the_generators_own_sockets_dropped_is_not_the_balancers() {
        let full = Line { place: "generator srv0: rx ring full".to_owned(), packets: 10 };
        let (trial, failure) = trial_with(&[part(100, 100, 90, [10, 0, 0])], &[full]);
        assert!(failure.unwrap().contains("10 of 100 failed"));
        assert_eq!(trial.limit, Limit::Receiver);
    }

    #[test]
    fn what_did_not_begin_is_the_generators() {
        let mut parts = [part(10_000, 5000, 5000, [0; 3])];
        let (slow, failure) = trial(&parts);
        assert_eq!(slow.limit, Limit::Generator);
        assert!(failure.unwrap().contains("began 5000 of 10000"));
        parts[0].unfree = 5000;
        assert!(trial(&parts).1.unwrap().contains("more --connections help"));
        assert_eq!(trial(&[part(10, 10, 10, [0; 3])]).1, None);
    }
}
