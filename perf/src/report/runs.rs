//! Which runs the page was written from.

use super::number::{bytes, percent};
use super::{Charts, Table, missing};
use crate::record::Record;

/// The runs, with machine, kernel, commit and mode of each.
pub(super) fn section(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    if records.is_empty() {
        return Ok(missing("xvip-perf target --record perf/records"));
    }
    let mut table = Table::of_words(&[
        "record",
        "taken",
        "machine",
        "Linux",
        "huge pages",
        "commit",
        "mode",
        "time lost to others",
        "contended",
    ]);
    for record in records {
        let machine = &record.machine;
        table.row([
            format!("`{}-{}`", record.measured.kind(), record.name),
            record.taken.clone(),
            format!(
                "{}, {} CPUs, {}",
                machine.cpu,
                machine.cpus,
                bytes(machine.memory_kib as f64 * 1024.0)
            ),
            machine.kernel.clone(),
            machine.huge_pages.clone(),
            format!("`{}`", machine.commit.as_deref().unwrap_or("unknown")),
            record.mode.clone(),
            percent(record.quiet.lost.max(record.quiet.stolen)),
            if record.contended() { "**yes**".into() } else { "no".into() },
        ]);
    }
    Ok(table.text)
}

/// The commands that do them again.
pub(super) fn commands(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    let mut lines: Vec<String> = Vec::new();
    for record in records {
        let line = format!("{} --record perf/records", record.command);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if lines.is_empty() {
        return Ok(missing("xvip-perf target --record perf/records"));
    }
    Ok(format!("```\n{}\n```\n", lines.join("\n")))
}
