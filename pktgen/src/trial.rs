//! One stretch of traffic with its counters around it, and whether it meets the criteria.
//!
//! Run by the main thread. [`judge`] is pure.

use std::sync::atomic::Ordering::Relaxed;

use dataplane::address::Mac;

use crate::engine::next_hop::Move;
use crate::engine::{Phase, Plan, Watch};
use crate::ledger::{self, Reading};
use crate::load::Load;
use crate::rate::Scaled;
use crate::report::{Connections, Limit, Ndr, NeighborChange, Silence, Trial};
use crate::size::Size;
use crate::sources::Sources;
use crate::spec::{Engine, Protocol, Spec};

/// A trial and what is to be said about it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The figures.
    pub trial: Trial,
    /// Criteria that were not met; empty if all were.
    pub failures: Vec<String>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// What a verb found: all its trials.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Every trial, or step.
    pub trials: Vec<Trial>,
    /// `ndr`: one row for each size.
    pub rows: Vec<Ndr>,
    /// What went wrong.
    pub failures: Vec<String>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

impl From<Outcome> for Found {
    fn from(Outcome { trial, failures, notes }: Outcome) -> Self {
        Self { trials: vec![trial], rows: Vec::new(), failures, notes }
    }
}

/// The plan of a run's data phase.
#[must_use]
pub fn plan(spec: &Spec) -> Plan {
    Plan {
        request_pps: spec.request_pps(),
        replies: spec.replies,
        size: spec.size,
        duration: spec.duration,
        patience: spec.patience,
        seed: spec.seed,
    }
}

/// Sends as planned, with all counters read before and after.
///
/// # Errors
/// If threads cannot be started.
pub fn run(
    load: &mut Load,
    spec: &Spec,
    plan: Plan,
    sources: &mut Sources,
    watch: &mut Watch<'_>,
) -> anyhow::Result<Outcome> {
    let mut notes = Vec::new();
    let before = sources.read(&mut notes);
    let phase = load.data(plan, watch)?;
    let after = sources.read(&mut notes);
    let (mode, connections) = (load.mode(), load.connections().clone());
    let interrupted = watch.interrupted.load(Relaxed);
    let mut outcome = assemble(spec, plan, phase, connections, &before, &after);
    outcome.trial.mode = mode;
    notes.append(&mut outcome.notes);
    outcome.notes = notes;
    outcome.failures.extend(judge(&outcome.trial, spec, interrupted));
    Ok(outcome)
}

/// Puts the figures together.
#[must_use]
pub fn assemble(
    spec: &Spec,
    plan: Plan,
    phase: Phase,
    mut connections: Connections,
    before: &Reading,
    after: &Reading,
) -> Outcome {
    let books = ledger::balance(&phase.requests, &phase.replies, &phase.lost_here, before, after);
    connections.alive = phase.alive;
    connections.alive_at_end = phase.alive_at_end;
    connections.least_packets = phase.least_packets;
    connections.balancer_active = after.balancer.as_ref().and_then(|b| b.active);
    let pps = plan.request_pps / (1.0 - plan.replies);
    let trial = Trial {
        engine: engine(spec.engine).to_owned(),
        mode: String::new(),
        size: plan.size.to_string(),
        seconds: phase.seconds,
        start_ns: phase.start,
        asked_pps: pps,
        asked_bps: pps * plan.size.wire_bits(spec.least()),
        requests: phase.requests,
        replies: phase.replies,
        connections,
        ledger: books.lines,
        unexplained: books.unexplained,
        limit: books.limit,
        cores: ledger::cores(&before.cores, &after.cores),
        neighbor_changes: phase.moves.0,
        neighbors: neighbors(&phase.moves.1, phase.start),
        longest_silence: phase.silence.map(|gap| Silence {
            ms: gap.nanos as f64 / 1e6,
            seconds: seconds(gap.since, phase.start),
        }),
        flood: None,
    };
    let mut notes = phase.notes;
    notes.extend(books.notes);
    Outcome { trial, failures: phase.faults, notes }
}

/// Moves of a next hop, with their times since `start`.
#[must_use]
pub fn neighbors(moves: &[Move], start: u64) -> Vec<NeighborChange> {
    let change = |m: &Move| NeighborChange {
        seconds: seconds(m.at.nanos(), start),
        from: Mac(m.from).to_string(),
        to: Mac(m.to).to_string(),
    };
    moves.iter().map(change).collect()
}

/// Seconds from `start` to a time; 0 if it was before.
fn seconds(at: u64, start: u64) -> f64 {
    at.saturating_sub(start) as f64 / 1e9
}

fn engine(engine: Engine) -> &'static str {
    match engine {
        Engine::AfXdp => "af_xdp",
        Engine::Xdp => "xdp",
    }
}

/// Packets a second of frames of this size that the plan asks for, with another size and rate.
#[must_use]
pub fn plan_at(spec: &Spec, size: Size, pps: f64, base: Plan) -> Plan {
    Plan { size, request_pps: pps * (1.0 - spec.replies), ..base }
}

/// Share of the sent packets that were lost, both ways together.
#[must_use]
pub fn loss(trial: &Trial) -> f64 {
    let sent = trial.requests.sent + trial.replies.sent;
    let lost = trial.requests.lost + trial.replies.lost;
    if sent == 0 { 0.0 } else { lost as f64 / sent as f64 }
}

/// The criteria that a trial does not meet, in words.
#[must_use]
pub fn judge(trial: &Trial, spec: &Spec, interrupted: bool) -> Vec<String> {
    let mut failures = Vec::new();
    let (there, back) = (&trial.requests, &trial.replies);
    let (due, sent) = (there.due + back.due, there.sent + back.sent);
    if sent == 0 && !interrupted {
        failures.push("no packet was sent".to_owned());
    }
    if ledger::fell_behind(due, sent) {
        failures.push(format!(
            "the generator sent {sent} of {due} packets that were due ({}): it, not the balancer, \
             could not keep the rate",
            percent(sent as f64 / due as f64)
        ));
    }
    if loss(trial) > spec.max_loss {
        failures.push(format!(
            "{} of {sent} packets were lost ({}), {} allowed; {}",
            there.lost + back.lost,
            percent(loss(trial)),
            percent(spec.max_loss),
            match trial.limit {
                Limit::Device => "by the device under test",
                Limit::Receiver => "on the generator's receiving side",
                Limit::Generator => "on the generator's sending side",
                Limit::Unknown | Limit::None => "no counter says where",
            }
        ));
    }
    for (count, what) in [
        (there.duplicated + back.duplicated, "came more than once"),
        (there.corrupted + back.corrupted, "came damaged"),
        (
            there.strayed + back.strayed,
            "came where they do not belong: another real server, another flow, or not from the VIP",
        ),
    ] {
        if count > 0 {
            failures.push(format!("{count} packets {what}"));
        }
    }
    failures.extend(judge_connections(trial, spec, interrupted));
    failures
}

fn judge_connections(trial: &Trial, spec: &Spec, interrupted: bool) -> Vec<String> {
    let mut failures = Vec::new();
    let connections = &trial.connections;
    // Only if it was the turn of each: a short or slow run does not touch them all.
    let turns = trial.requests.due as f64 * 0.999;
    let answered = spec.replies == 0.0
        || trial.requests.due as f64 * replies_each(spec) * 0.999 >= connections.opened as f64;
    let all = turns >= connections.opened as f64 && answered;
    if all && !interrupted && connections.alive < connections.opened {
        failures.push(format!(
            "{} of {} connections carried no packet on one of their ways",
            connections.opened - connections.alive,
            connections.opened
        ));
    }
    if let (Some(active), Protocol::Tcp) = (connections.balancer_active, spec.protocol)
        && active < connections.opened
    {
        failures.push(format!(
            "the balancer holds {active} established connections, not {}",
            connections.opened
        ));
    }
    failures
}

fn replies_each(spec: &Spec) -> f64 {
    spec.replies / (1.0 - spec.replies)
}

/// A share of a hundred, with as many digits as a small one needs.
#[must_use]
pub fn percent(share: f64) -> String {
    let share = share * 100.0;
    match share {
        0.0 => "0 %".to_owned(),
        s if s < 0.0001 => "under 0.0001 %".to_owned(),
        s if s < 0.1 => format!("{s:.4} %"),
        s if (99.0..100.0).contains(&s) => format!("{s:.3} %"),
        s => format!("{s:.1} %"),
    }
}

/// A rate of packets for people: `1.488 Mpps`.
#[must_use]
pub fn pps(rate: f64) -> String {
    unit(rate, "pps")
}

/// A rate of bits for people: `1.000 Gbit/s`.
#[must_use]
pub fn bps(rate: f64) -> String {
    unit(rate, "bit/s")
}

fn unit(rate: f64, unit: &str) -> String {
    let steps = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match steps.iter().find(|(step, _)| rate >= *step) {
        Some((step, letter)) => format!("{:.3} {letter}{unit}", rate / step),
        None => format!("{} {unit}", Scaled(rate.round())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options;
    use crate::report::Direction;

    fn spec(more: &[(&'static str, &str)]) -> Spec {
        let mut flags = vec![("client", "a"), ("server", "b"), ("vip", "198.18.255.1:80")];
        flags.extend(more);
        options::build("load", &flags, None).unwrap().spec
    }

    fn good() -> Trial {
        let way = Direction { due: 5000, sent: 5000, received: 5000, ..Direction::default() };
        let connections = Connections {
            wanted: 100,
            opened: 100,
            alive: 100,
            balancer_active: Some(100),
            ..Connections::default()
        };
        Trial { requests: way.clone(), replies: way, connections, ..Trial::default() }
    }

    fn failures(change: impl FnOnce(&mut Trial)) -> Vec<String> {
        let mut trial = good();
        change(&mut trial);
        judge(&trial, &spec(&[]), false)
    }

    #[test]
    fn a_good_trial_passes() {
        assert_eq!(failures(|_| {}), [""; 0]);
        assert_eq!(failures(|t| t.requests.reordered = 5), [""; 0], "told, and no fault");
        assert_eq!(failures(|t| t.connections.balancer_active = Some(150)), [""; 0]);
    }

    #[test]
    fn each_criterion_has_its_own_failure() {
        for (change, words) in [
            (
                (|t| (t.requests.lost, t.requests.received) = (1, 4999)) as fn(&mut Trial),
                "1 of 10000",
            ),
            (|t| (t.replies.sent, t.replies.received) = (4000, 4000), "it, not the balancer"),
            (|t| t.requests.duplicated = 2, "2 packets came more than once"),
            (|t| t.replies.corrupted = 3, "3 packets came damaged"),
            (|t| t.requests.strayed = 4, "4 packets came where they do not belong"),
            (|t| t.connections.alive = 99, "1 of 100 connections carried no packet"),
            (|t| t.connections.balancer_active = Some(98), "holds 98 established"),
            (|t| (t.requests, t.replies) = Default::default(), "no packet was sent"),
        ] {
            let found = failures(change);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
    }

    #[test]
    fn loss_within_the_allowance_passes() {
        let mut trial = good();
        trial.requests.lost = 10;
        assert_eq!(judge(&trial, &spec(&[("max_loss", "0.1%")]), false), [""; 0]);
        trial.requests.lost = 11;
        let found = judge(&trial, &spec(&[("max_loss", "0.1%")]), false);
        assert!(found[0].contains("0.1 % allowed"), "{found:?}");
    }

    #[test]
    fn a_run_too_short_to_touch_every_connection_is_not_blamed_for_it() {
        let mut trial = good();
        (trial.connections.opened, trial.connections.balancer_active) = (6000, None);
        assert_eq!(judge(&trial, &spec(&[]), false), [""; 0]);
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(pps(1_488_095.2), "1.488 Mpps");
        assert_eq!(pps(12.0), "12 pps");
        assert_eq!(bps(1e9), "1.000 Gbit/s");
        let shares = [0.0, 1e-9, 0.000_02, 0.5, 0.999_99, 1.0].map(percent);
        assert_eq!(shares, ["0 %", "under 0.0001 %", "0.0020 %", "50.0 %", "99.999 %", "100.0 %"]);
    }
}
