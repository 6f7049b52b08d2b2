//! What goes to standard output.
#![allow(clippy::print_stdout)]

use anyhow::Context;
use serde::Serialize;

use crate::record::{FailoverRound, FailoverRow, Measured, Record, Spread};

/// One JSON object in one line.
pub(super) fn line(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value).context("JSON")?);
    Ok(())
}

/// One round, as it ends.
pub(super) fn round(round: &FailoverRound) -> String {
    let FailoverRound { silence_ms, silence_after, opened, alive, resets, lost, .. } = round;
    format!(
        "  {silence_ms:.1} ms without service, beginning {silence_after:+.3} s; {alive} of {opened} alive, {resets} \
         resets, {lost} packets lost"
    )
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |s| {
        format!("{:>9.1} {:>9.1} {:>9.1} {:>9.1}", s.min, s.p50, s.p95, s.max)
    })
}

/// Tables.
pub(super) fn tables(record: &Record) {
    let Measured::Failover(found) = &record.measured else { return };
    println!(
        "{:<62} {:>6}  {:>9} {:>9} {:>9} {:>9}  {:>9} {:>7}",
        "ms without service", "rounds", "min", "p50", "p95", "max", "alive %", "resets"
    );
    for row in &found.rows {
        println!(
            "{:<62} {:>6}  {}  {:>9.3} {:>7}",
            name(row),
            row.rounds.len(),
            spread(row.silence()),
            row.least_alive().unwrap_or(0.0) * 100.0,
            row.resets()
        );
    }
    let acknowledged = found.replication.iter();
    for (what, values) in [
        ("acknowledged, median", acknowledged.clone().map(|r| r.p50_ms).collect::<Vec<_>>()),
        ("acknowledged, 99th percentile", acknowledged.map(|r| r.p99_ms).collect()),
        ("a copy of everything", found.bulk.iter().map(|b| b.ms).collect()),
    ] {
        if !values.is_empty() {
            println!(
                "{:<62} {:>6}  {}",
                format!("ms: {what}"),
                values.len(),
                spread(Spread::of(values))
            );
        }
    }
    println!("{}; {}, Linux {}", record.mode, record.machine.cpu, record.machine.kernel);
    record.notes.iter().for_each(|note| println!("- {note}"));
}

fn name(row: &FailoverRow) -> String {
    format!("{}, {}: {}", row.system, row.times, row.scenario.words())
}
