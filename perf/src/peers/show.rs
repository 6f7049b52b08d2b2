//! What goes to standard output.
#![allow(clippy::print_stdout)]

use anyhow::Context;

use crate::record::Record;

/// Tables, and what a reader has to know.
pub(super) fn text(tables: &str, record: &Record) {
    println!("{tables}");
    println!("xvip: {}; {}, Linux {}", record.mode, record.machine.cpu, record.machine.kernel);
    for note in &record.notes {
        println!("- {note}");
    }
}

/// One JSON object for each record, one a line.
pub(super) fn json(records: &[Record]) -> anyhow::Result<()> {
    for record in records {
        println!("{}", serde_json::to_string(record).context("a record as JSON")?);
    }
    Ok(())
}
