//! One trial of `target`: a fresh balancer, one run of the generator, what both say.

use std::time::Duration;

use anyhow::{Context, anyhow};
use dataplane_api::message::Status;
use pktgen::rate::Rate;
use pktgen::report::{Report, Trial};
use pktgen::size::{self, Size};
use pktgen::spec;

use super::case::{Case, PROTOCOL};
use crate::lab::Lab;
use crate::lab::balancer::{Balancer, Config};
use crate::lab::generator::{Traffic, only};
use crate::lab::quiet::{Poller, Watch};
use crate::lab::turns::Turns;
use crate::machine::{Quiet, round};
use crate::packet_path::Family;
use crate::record::{Aim, TargetRow};

/// Width of the bracket at which a search ends, as a share.
const RESOLUTION: f64 = 0.02;
/// Most seconds of one trial of a search, which has some ten of them.
const SEARCHED: f64 = 2.0;
/// Trials of a search, as a rule.
const TRIALS: f64 = 10.0;
/// What starting and stopping balancer and generator takes, seconds.
const START: f64 = 5.0;
/// Connections opened and closed a second, as a rule: both together.
const OPENED: f64 = 40_000.0;
/// How long an idle data plane is watched, to know what a turn without frames costs.
pub(crate) const IDLE: Duration = Duration::from_millis(250);

/// What does not change between trials.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// Seconds of traffic.
    pub(super) seconds: f64,
    /// Of the balancer; method, family and connections come from the case.
    pub(super) config: Config,
    /// Cores of the generator.
    pub(super) generator: Vec<usize>,
}

/// What a trial showed.
pub(super) struct Outcome {
    /// For the record.
    pub(super) row: TargetRow,
    /// Nanoseconds that the data plane's core was busy for each packet.
    pub(super) ns_per_packet: f64,
    /// How the data plane sat on its interfaces.
    pub(super) mode: String,
    /// What the generator had to remark.
    pub(super) notes: Vec<String>,
    /// How quiet it was.
    pub(super) quiet: Quiet,
}

/// Runs a case.
pub(super) fn run(lab: &Lab, setting: &Setting, case: &Case) -> anyhow::Result<Outcome> {
    let config = Config {
        method: case.method,
        family: case.family,
        protocol: PROTOCOL,
        connections: case.connections,
        ..setting.config.clone()
    };
    let mut balancer = Balancer::start(lab, &config)?;
    let traffic = Traffic {
        balancer: Some(balancer.agent_socket()),
        cores: setting.generator.clone(),
        reals: config.reals,
        seconds: match case.aim {
            Aim::Highest => setting.seconds.min(SEARCHED),
            _ => seconds(case, setting.seconds)?,
        },
        ..traffic(case)
    };
    let traffic = if case.aim == Aim::Highest { search(case, traffic) } else { traffic };
    let idle = idle_turn(&mut balancer)?;
    let before = balancer.status()?;
    let watch = Watch::start(&pollers(&before), balancer.cpu_time());
    let report = traffic.run(lab)?;
    let on_core = watch.on_core();
    let after = balancer.status()?;
    let quiet = watch.finish(balancer.cpu_time());
    let cost = cost(&before, &after, on_core, idle);
    let mut row = row(case, &config, &report, &balancer, &after, cost)?;
    row.contended = quiet.contended;
    let mode = mode(&after);
    let problems = balancer.stop();
    let mut notes = report.notes;
    notes.extend(problems);
    Ok(Outcome { row, ns_per_packet: cost, mode, notes, quiet })
}

/// How long a case takes, as a rule; less than half as long again if others disturb it.
pub(super) fn estimate(setting: &Setting, case: &Case) -> anyhow::Result<Duration> {
    let around = START + f64::from(case.connections) / OPENED;
    let time = match case.aim {
        Aim::Highest => around + TRIALS * (setting.seconds.min(SEARCHED) + 0.5),
        Aim::Latency => {
            (around + seconds(case, setting.seconds)?) * (super::beside::ROUNDS * 3) as f64
        }
        Aim::Promise | Aim::Beyond => around + seconds(case, setting.seconds)?,
    };
    Ok(Duration::from_secs_f64(time))
}

/// Long enough for a packet each way through every connection, with a tenth to spare.
pub(super) fn seconds(case: &Case, wanted: f64) -> anyhow::Result<f64> {
    let rate: Rate = case.rate.parse().map_err(|e| anyhow!("--rate: {e}"))?;
    let least = size::least(case.family == Family::V6, spec::Protocol::Tcp);
    let pps = rate.pps(Size::Fixed(case.size).wire_bits(least));
    let replies = match (case.replies, case.both_ways()) {
        (Some(replies), true) => replies,
        (None, true) => 0.5,
        (_, false) => 0.0,
    };
    let slower = if replies > 0.0 { replies.min(1.0 - replies) } else { 1.0 };
    Ok(wanted.max((f64::from(case.connections) / (pps * slower) * 1.1).ceil()))
}

/// The generator's part of a case.
pub(super) fn traffic(case: &Case) -> Traffic {
    Traffic {
        method: case.method,
        family: case.family,
        protocol: PROTOCOL,
        connections: case.connections,
        size: case.size.to_string(),
        rate: case.rate.clone(),
        replies: case.replies,
        engine: case.engine,
        ..Traffic::default()
    }
}

/// The same, as a search for the highest rate without loss.
fn search(case: &Case, traffic: Traffic) -> Traffic {
    let seconds = traffic.seconds.to_string();
    let words = [
        ("--sizes", case.size.to_string()),
        ("--from", "100kpps".into()),
        ("--to", case.rate.clone()),
        ("--resolution", RESOLUTION.to_string()),
        ("--trial-seconds", seconds),
    ];
    let more = words.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect();
    Traffic { verb: "ndr", more, ..traffic }
}

/// The trial that a row is of: the only one, or that at the rate which the search has found. One that was asked for
/// more and lost nothing is none if the generator did not send it.
fn chosen<'a>(case: &Case, report: &'a Report) -> anyhow::Result<&'a Trial> {
    if case.aim != Aim::Highest {
        return only(report);
    }
    let most = report.ndr.first().map_or(0.0, |row| row.pps) * 1.0001;
    let whole = report.trials.iter().filter(|t| t.requests.lost + t.replies.lost == 0);
    let best = whole.filter(|t| t.asked_pps <= most);
    let best = best.max_by(|a, b| a.asked_pps.total_cmp(&b.asked_pps));
    best.or(report.trials.last()).context("the generator reports no trial")
}

pub(crate) fn pollers(status: &Status) -> Vec<Poller> {
    status.workers.iter().map(|w| Poller { pid: status.pid, tid: w.tid }).collect()
}

/// Nanoseconds of a turn of the poll loop that finds nothing.
pub(crate) fn idle_turn(balancer: &mut Balancer) -> anyhow::Result<f64> {
    let before = balancer.status()?;
    let watch = Watch::start(&pollers(&before), balancer.cpu_time());
    std::thread::park_timeout(IDLE);
    let (after, on_core) = (balancer.status()?, watch.on_core());
    Ok(Turns::of(&after).since(Turns::of(&before)).idle(on_core))
}

/// Nanoseconds a packet that workers have taken between two looks at them.
pub(crate) fn cost(before: &Status, after: &Status, on_core: Duration, idle: f64) -> f64 {
    Turns::of(after).since(Turns::of(before)).cost(on_core, idle)
}

/// How the data plane sits on its interfaces, in words.
pub(crate) fn mode(status: &Status) -> String {
    let sides: Vec<_> = status
        .interfaces
        .iter()
        .map(|i| format!("{} {} {} {}", i.name, i.driver, i.mode, i.copy))
        .collect();
    sides.join(", ")
}

fn row(
    case: &Case,
    config: &Config,
    report: &Report,
    balancer: &Balancer,
    status: &Status,
    ns_per_packet: f64,
) -> anyhow::Result<TargetRow> {
    let trial = chosen(case, report)?;
    let failures = failures(case, report, trial);
    let core = *config.cores.first().context("no core")?;
    let mut cores = trial.cores.clone();
    let pps = trial.requests.received_pps + trial.replies.received_pps;
    // A loop that polls is never idle to the kernel; how much of it was work is known from its
    // turns.
    for core in cores.iter_mut().filter(|c| config.cores.contains(&(c.core as usize))) {
        core.busy = round((ns_per_packet * pps / 1e9 / config.cores.len() as f64).min(1.0), 4);
    }
    Ok(TargetRow {
        aim: case.aim,
        method: case.method,
        family: case.family,
        protocol: "tcp".into(),
        size: trial.size.clone(),
        connections: case.connections.into(),
        alive: trial.connections.alive,
        seconds: trial.seconds,
        generator: format!("{}, {}", trial.engine, trial.mode),
        asked_pps: trial.asked_pps,
        asked_bps: trial.asked_bps,
        requests: trial.requests.clone(),
        replies: trial.replies.clone(),
        cores,
        dataplane_core: core as u32,
        bytes_per_connection: Some(round(
            status.table.bytes as f64 / status.table.capacity.max(1) as f64,
            1,
        )),
        resident_bytes: balancer.resident(),
        unexplained: trial.unexplained,
        limit: match report.ndr.first() {
            Some(found) if case.aim == Aim::Highest => found.limit,
            _ => trial.limit,
        },
        passed: failures.is_empty(),
        failures,
        contended: false,
        bare_requests: None,
        bare_replies: None,
        cable_requests: None,
        cable_replies: None,
        stalls: Vec::new(),
    })
}

/// The generator's criteria, and that the balancer itself says that all connections are
/// established.
fn failures(case: &Case, report: &Report, trial: &Trial) -> Vec<String> {
    let mut failures = report.failures.clone();
    let wanted = u64::from(case.connections);
    match trial.connections.balancer_active {
        Some(active) if active >= wanted => {}
        Some(active) => failures.push(format!("the balancer has {active} of {wanted} established")),
        None => failures.push("the balancer did not say how many connections it has".into()),
    }
    if trial.connections.alive < wanted && case.aim != Aim::Highest {
        failures.push(format!("{} of {wanted} connections alive", trial.connections.alive));
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::generator::Engine;
    use dataplane_api::service::Forwarding;
    use pktgen::report::Ndr;

    #[test]
    fn a_search_is_told_by_what_was_sent_and_not_by_what_the_generator_was_asked_for() {
        let trial = |asked_pps, lost| {
            let mut trial = Trial { asked_pps, ..Trial::default() };
            trial.requests.lost = lost;
            trial
        };
        let report = Report {
            schema: 1,
            version: String::new(),
            verb: "ndr".into(),
            scenario: serde_json::Value::Null,
            // The first was asked for 3 Mpps; the generator sent less, and all of that arrived.
            trials: vec![trial(3e6, 0), trial(1.5e6, 9), trial(5e5, 0), trial(4e5, 0)],
            ndr: vec![Ndr { pps: 5e5, ..Ndr::default() }],
            passed: true,
            failures: vec![],
            notes: vec![],
        };
        let case = Case {
            aim: Aim::Highest,
            method: Forwarding::Nat,
            family: Family::V4,
            size: 512,
            connections: 1000,
            rate: "3mpps".into(),
            replies: None,
            engine: Engine::Xdp,
        };
        assert_eq!(chosen(&case, &report).unwrap().asked_pps, 5e5);
        let none = Report { trials: vec![], ..report };
        assert!(chosen(&case, &none).is_err());
    }
}
