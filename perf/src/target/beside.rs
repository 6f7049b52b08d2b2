//! Latency of the same traffic with less between: through a forwarder that looks at nothing, and over a
//! plain veth pair with nothing at all. What generator, kernel and machine take by themselves is no balancer's.
//!
//! The three take turns for some rounds; of each the round with the middle 99th percentile counts, so that
//! one stall of the machine does not decide what was added. Beside them stands how long the machine keeps a thread
//! from its core that does nothing.

use anyhow::Context;
use pktgen::report::{Latency, Trial};

use super::case::Case;
use super::trial::{self, Outcome, Setting, traffic};
use crate::bare;
use crate::lab::generator::{Traffic, only};
use crate::lab::{CABLE, GENERATOR, Lab, Place, stalls};
use crate::record::TargetRow;

/// Rounds of each.
pub(super) const ROUNDS: usize = 3;
/// Seconds in which the machine's stalls are watched.
const WATCHED: f64 = 1.0;

/// Latencies of one round: requests, replies.
type Ways = [Option<Latency>; 2];

/// Runs the case's traffic beside the balancer and through it again; returns the trial in the middle, with
/// the others' latencies, and what is to be said as its last note.
///
/// # Errors
/// If something cannot be started.
pub(super) fn run(
    lab: &Lab,
    setting: &Setting,
    place: &Place,
    case: &Case,
    first: Outcome,
) -> anyhow::Result<Outcome> {
    let seconds = first.row.seconds;
    let mut cores = setting.generator.clone();
    cores.extend(&setting.config.cores);
    let stalls = stalls::measure(lab, &cores, WATCHED)?;
    let (mut through, mut bare, mut cable) = (vec![first], Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        if number > 0 {
            through.push(trial::run(lab, setting, case)?);
        }
        let forwarder = bare::Running::start(lab, place)?;
        let report = straight(lab, setting, case, seconds, GENERATOR);
        bare.push(report.context("through the bare forwarder")?);
        forwarder.end(lab)?;
        let report = straight(lab, setting, case, seconds, CABLE);
        cable.push(report.context("over a plain veth pair")?);
    }
    // A round that the machine shared is no better than none, if there is another.
    if through.iter().any(|o| !o.quiet.contended) {
        through.retain(|o| !o.quiet.contended);
    }
    let own = |o: &Outcome| [o.row.requests.latency, o.row.replies.latency];
    let mut outcome = middle(through, own).context("no round")?;
    let row = &mut outcome.row;
    [row.bare_requests, row.bare_replies] = middle(bare, |w| *w).context("no round")?;
    [row.cable_requests, row.cable_replies] = middle(cable, |w| *w).context("no round")?;
    row.stalls = stalls;
    outcome.notes.push(words(&outcome.row));
    Ok(outcome)
}

/// The case's traffic from clients to the one real server itself.
fn straight(
    lab: &Lab,
    setting: &Setting,
    case: &Case,
    seconds: f64,
    node: &'static str,
) -> anyhow::Result<Ways> {
    let traffic = Traffic {
        straight: true,
        reals: 1,
        cores: setting.generator.clone(),
        seconds,
        node,
        ..traffic(case)
    };
    let report = traffic.run(lab)?;
    let trial: &Trial = only(&report)?;
    Ok([trial.requests.latency, trial.replies.latency])
}

/// The round whose 99th percentile, of the slower way, is the middle one; the lower of two.
fn middle<T>(mut rounds: Vec<T>, ways: impl Fn(&T) -> Ways) -> Option<T> {
    let slower = |round: &T| ways(round).into_iter().flatten().map(|l| l.p99).max();
    rounds.sort_by_key(slower);
    let at = rounds.len().checked_sub(1)? / 2;
    Some(rounds.swap_remove(at))
}

fn words(row: &TargetRow) -> String {
    let ways = [
        way("requests", row.requests.latency, row.bare_requests, row.cable_requests),
        way("replies", row.replies.latency, row.bare_replies, row.cable_replies),
    ];
    let stalls: Vec<_> = row.stalls.iter().map(stalls::words).collect();
    format!(
        "p50 / p99 / p99.9 in microseconds, of {ROUNDS} rounds that with the middle p99: {}; {}. What the machine \
         does without any packet: {}",
        ways[0],
        ways[1],
        stalls.join("; ")
    )
}

fn way(
    name: &str,
    through: Option<Latency>,
    bare: Option<Latency>,
    cable: Option<Latency>,
) -> String {
    let Some(through) = through else { return format!("{name} not measured") };
    let mut text = format!("{name} through xvip {}", three(&through));
    for (other, latency) in [("a bare forwarder", bare), ("a plain veth pair", cable)] {
        let Some(latency) = latency else { continue };
        let (x, o) = (figures(&through), figures(&latency));
        let added: Vec<_> = x.iter().zip(o).map(|(x, o)| format!("{:+.1}", x - o)).collect();
        text += &format!(", {other} {} (added {})", three(&latency), added.join(" / "));
    }
    text
}

fn figures(latency: &Latency) -> [f64; 3] {
    [latency.p50, latency.p99, latency.p999].map(|nanos| nanos as f64 / 1e3)
}

fn three(latency: &Latency) -> String {
    figures(latency).map(|micros| format!("{micros:.1}")).join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(p50: u64, p99: u64, p999: u64) -> Option<Latency> {
        Some(Latency { p50, p99, p999, ..Latency::default() })
    }

    #[test]
    fn what_was_added_is_the_difference_and_may_be_less_than_nothing() {
        let said = way(
            "requests",
            latency(5_000, 9_000, 30_000),
            latency(4_000, 8_500, 31_000),
            latency(1_000, 2_000, 3_000),
        );
        assert!(
            said.contains("bare forwarder 4.0 / 8.5 / 31.0 (added +1.0 / +0.5 / -1.0)"),
            "{said}"
        );
        assert!(
            said.ends_with("plain veth pair 1.0 / 2.0 / 3.0 (added +4.0 / +7.0 / +27.0)"),
            "{said}"
        );
        assert!(way("replies", None, None, None).contains("not measured"));
    }

    #[test]
    fn the_middle_round_is_by_the_slower_way_and_one_stall_does_not_decide() {
        let rounds = vec![
            [latency(1, 9_000, 9_000), latency(1, 10, 10)],
            [latency(1, 50, 60), latency(1, 70, 80)],
            [latency(1, 40, 50), latency(1, 30, 40)],
        ];
        assert_eq!(middle(rounds.clone(), |w| *w).unwrap()[1].unwrap().p99, 70);
        assert_eq!(middle(rounds[1..].to_vec(), |w| *w).unwrap()[0].unwrap().p99, 40);
        assert!(middle(Vec::<Ways>::new(), |w| *w).is_none());
    }
}
