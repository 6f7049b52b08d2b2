//! The figures, as one JSON object or as a table; see `perf/README.md` for what they mean.

use dataplane_api::service::Forwarding;
use serde::{Deserialize, Serialize};

use super::Options;
use super::instructions::Counts;
use super::scene::Direction;
use super::traffic::Family;
use crate::machine::{Machine, Quiet};

/// Number of the JSON form; changes when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) method: Forwarding,
    pub(crate) direction: Direction,
    pub(crate) family: Family,
    pub(crate) connections: u32,
    pub(crate) burst: usize,
    pub(crate) raw_ns: f64,
    pub(crate) restore_ns: f64,
    pub(crate) net_ns: f64,
    pub(crate) best_ns: f64,
    pub(crate) mpps: f64,
    pub(crate) raw_mpps: f64,
    pub(crate) lookup_ns: f64,
    pub(crate) lookup_mpps: f64,
    pub(crate) ratio: f64,
    pub(crate) opened_per_second: f64,
    pub(crate) table_bytes_per_connection: f64,
    pub(crate) broken_rounds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instructions: Option<Counts>,
}

/// A run.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: u32,
    pub(crate) machine: Machine,
    core: usize,
    seconds: f64,
    #[serde(skip)]
    json: bool,
    pub(crate) rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet: Option<Quiet>,
}

impl Report {
    /// Of a run that begins.
    pub(crate) fn new(machine: Machine, options: &Options) -> Self {
        let (core, seconds, json) = (options.core, options.seconds, options.json);
        let report =
            Self { schema: SCHEMA, machine, core, seconds, json, rows: Vec::new(), quiet: None };
        if !json {
            report.head();
        }
        report
    }

    #[allow(clippy::print_stdout)]
    fn head(&self) {
        let Machine { cpu, kernel, commit, version, .. } = &self.machine;
        let commit = commit.as_deref().unwrap_or("unknown");
        println!("xvip-perf {version}, commit {commit}; {cpu}, core {}, Linux {kernel}", self.core);
        println!(
            "{:<8}{:<9}{:<4}{:>10}{:>6}{:>8}{:>9}{:>8}{:>8}{:>9}{:>8}{:>7}{:>10}{:>8}{:>8}",
            "method",
            "packets",
            "ip",
            "conns",
            "burst",
            "raw ns",
            "restore",
            "net ns",
            "Mpps",
            "look ns",
            "Mpps",
            "ratio",
            "opened/s",
            "B/conn",
            "broken",
        );
    }

    /// Adds rows.
    #[allow(clippy::print_stdout)]
    pub(crate) fn say(&mut self, rows: Vec<Row>) {
        if !self.json {
            rows.iter().for_each(|row| println!("{}", line(row)));
        }
        self.rows.extend(rows);
    }

    /// Ends the report.
    #[allow(clippy::print_stdout)]
    pub(crate) fn finish(mut self, quiet: Quiet) {
        if !self.json {
            println!(
                "load {} -> {}, {:.1} % of the core lost, {:.1} % stolen, {} involuntary switches",
                quiet.load_before,
                quiet.load_after,
                quiet.lost * 100.0,
                quiet.stolen * 100.0,
                quiet.involuntary_switches
            );
            if quiet.contended {
                println!("CONTENDED: others used this core; these figures are no record");
            }
            return;
        }
        self.quiet = Some(quiet);
        if let Ok(text) = serde_json::to_string_pretty(&self) {
            println!("{text}");
        }
    }
}

fn line(row: &Row) -> String {
    let text = |value| serde_json::to_value(value).ok().and_then(|v| Some(v.as_str()?.to_owned()));
    let method = text(serde_json::json!(row.method)).unwrap_or_default();
    let direction = text(serde_json::json!(row.direction)).unwrap_or_default();
    let family = text(serde_json::json!(row.family)).unwrap_or_default();
    let mut line = format!(
        "{method:<8}{direction:<9}{family:<4}{:>10}{:>6}{:>8.1}{:>9.1}{:>8.1}{:>8.1}{:>9.1}{:>8.1}\
         {:>7.2}{:>10.0}{:>8.1}{:>7.0}%",
        row.connections,
        row.burst,
        row.raw_ns,
        row.restore_ns,
        row.net_ns,
        row.mpps,
        row.lookup_ns,
        row.lookup_mpps,
        row.ratio,
        row.opened_per_second,
        row.table_bytes_per_connection,
        row.broken_rounds * 100.0,
    );
    if let Some(counts) = row.instructions {
        line += &format!("  {} instructions, lookup {}", counts.path, counts.lookup);
    }
    line
}
