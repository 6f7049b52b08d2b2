//! The table of `target`, row by row as trials end.
#![allow(clippy::print_stdout)]

use anyhow::Context;

use super::case::Case;
use super::trial::Outcome;
use crate::record::{Aim, Record, TargetRow};

/// Shows rows, or keeps quiet until the JSON object at the end.
pub(super) struct Table {
    json: bool,
    begun: bool,
}

impl Table {
    pub(super) fn new(json: bool) -> Self {
        Self { json, begun: false }
    }

    pub(super) fn say(&mut self, outcome: &Outcome) {
        if self.json {
            return;
        }
        if !self.begun {
            self.begun = true;
            println!(
                "{:8} {:8} {:3} {:>5} {:>8} {:>9} {:>9} {:>9} {:>7} {:>5} {:>7} {:>8} {:>8} {:>8}  verdict",
                "aim",
                "method",
                "ip",
                "bytes",
                "alive",
                "asked",
                "sent",
                "received",
                "lost",
                "busy",
                "ns/pkt",
                "p50 us",
                "p99 us",
                "p99.9"
            );
        }
        println!("{}", line(outcome));
    }

    pub(super) fn finish(&self, record: &Record) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(record).context("JSON")?);
            return Ok(());
        }
        let quiet = &record.quiet;
        println!("\n{}; {}", record.mode, record.machine.cpu);
        println!(
            "core lost to others {:.1} %, to the hypervisor {:.1} %{}",
            quiet.lost * 100.0,
            quiet.stolen * 100.0,
            if quiet.contended { ": CONTENDED, the figures are no record" } else { "" }
        );
        for note in &record.notes {
            println!("note: {note}");
        }
        Ok(())
    }
}

/// A case in a few words.
pub(super) fn name(case: &Case) -> String {
    format!(
        "{} {} {}, {} bytes, {}",
        aim(case.aim),
        word(case.method),
        word(case.family),
        case.size,
        case.rate
    )
}

fn line(outcome: &Outcome) -> String {
    let row = &outcome.row;
    let (requests, replies) = (&row.requests, &row.replies);
    let busy = row.cores.iter().find(|c| c.core == row.dataplane_core).map_or(0.0, |c| c.busy);
    // The slower way.
    let latency = [requests.latency, replies.latency];
    let latency = latency.into_iter().flatten().max_by_key(|l| l.p99);
    let time = |of: fn(&pktgen::report::Latency) -> u64| {
        latency.as_ref().map_or("?".into(), |l| format!("{:.1}", of(l) as f64 / 1e3))
    };
    format!(
        "{:8} {:8} {:3} {:>5} {:>8} {:>9.0} {:>9.0} {:>9.0} {:>7} {:>4.0}% {:>7.0} {:>8} {:>8} {:>8}  {}",
        aim(row.aim),
        word(row.method),
        word(row.family),
        row.size,
        row.alive,
        row.asked_pps,
        requests.sent_pps + replies.sent_pps,
        requests.received_pps + replies.received_pps,
        requests.lost + replies.lost,
        busy * 100.0,
        outcome.ns_per_packet,
        time(|l| l.p50),
        time(|l| l.p99),
        time(|l| l.p999),
        verdict(row, outcome.quiet.contended)
    )
}

fn verdict(row: &TargetRow, contended: bool) -> String {
    let void = if contended { "CONTENDED " } else { "" };
    match row.passed {
        true => format!("{void}ok"),
        false => format!("{void}{} (limit: {:?})", row.failures.join("; "), row.limit),
    }
}

fn aim(aim: Aim) -> &'static str {
    match aim {
        Aim::Promise => "promise",
        Aim::Beyond => "beyond",
        Aim::Latency => "latency",
        Aim::Highest => "highest",
    }
}

fn word(value: impl serde::Serialize) -> String {
    crate::lab::balancer::word(value)
}
