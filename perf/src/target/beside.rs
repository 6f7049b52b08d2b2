//! Latency of the same traffic through a forwarder that looks at nothing: what generator, kernel
//! and interfaces take by themselves.

use anyhow::Context;
use pktgen::report::{Latency, Trial};

use super::case::Case;
use super::trial::{Setting, traffic};
use crate::bare;
use crate::lab::generator::{Traffic, only};
use crate::lab::{Lab, Place};
use crate::record::TargetRow;

/// Runs the case's traffic through the forwarder; its latencies join the row. Returns what is to be
/// said.
pub(super) fn run(
    lab: &Lab,
    setting: &Setting,
    place: &Place,
    case: &Case,
    through: &mut TargetRow,
) -> anyhow::Result<String> {
    let forwarder = bare::Running::start(lab, place)?;
    let traffic = Traffic {
        straight: true,
        reals: 1,
        cores: setting.generator.clone(),
        seconds: through.seconds,
        ..traffic(case)
    };
    let report = traffic.run(lab).context("through the bare forwarder")?;
    forwarder.end(lab)?;
    let bare = only(&report)?;
    through.bare_requests = bare.requests.latency;
    through.bare_replies = bare.replies.latency;
    Ok(format!(
        "p50 / p99 / p99.9 in microseconds: {}; {}",
        way("requests", through.requests.latency, bare.requests.latency),
        way("replies", through.replies.latency, bare.replies.latency) + &lost(bare)
    ))
}

fn way(name: &str, through: Option<Latency>, bare: Option<Latency>) -> String {
    let (Some(through), Some(bare)) = (through, bare) else {
        return format!("{name} not measured");
    };
    let three =
        |l: Latency| format!("{:.1} / {:.1} / {:.1}", micros(l.p50), micros(l.p99), micros(l.p999));
    let added = [(through.p50, bare.p50), (through.p99, bare.p99), (through.p999, bare.p999)]
        .map(|(t, b)| format!("{:+.1}", micros(t) - micros(b)));
    format!(
        "{name} through xvip {}, through a bare forwarder {}, added {}",
        three(through),
        three(bare),
        added.join(" / ")
    )
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn lost(bare: &Trial) -> String {
    match bare.requests.lost + bare.replies.lost {
        0 => String::new(),
        lost => format!(" (which lost {lost} packets)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_the_difference_and_may_be_less_than_nothing() {
        let latency = |p50, p99, p999| Latency { p50, p99, p999, ..Latency::default() };
        let said = way(
            "requests",
            Some(latency(5_000, 9_000, 30_000)),
            Some(latency(4_000, 8_500, 31_000)),
        );
        assert!(said.ends_with("added +1.0 / +0.5 / -1.0"), "{said}");
        assert!(way("replies", None, None).contains("not measured"));
    }
}
