//! `xvip-perf report`: writes `docs/performance.md` and its charts from recorded runs, and from
//! nothing else. The words between the figures are in `page.md.in`; a line `@name@` there is
//! replaced by what the section of that name makes of the records.
//!
//! The same records make the same bytes. What was not recorded is "not measured yet".

mod bare;
mod chart;
mod core;
mod failover;
mod latency;
mod number;
mod peers;
mod promise;
mod ruler;
mod runs;
mod scaling;
mod sizing;
#[cfg(test)]
mod tests;
mod throughput;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use crate::record::{self, Record};

/// The words of the page.
const TEMPLATE: &str = include_str!("page.md.in");
/// The page, and the directory of its charts beside it.
const PAGE: &str = "performance.md";
const CHARTS: &str = "performance";

/// Options of `report`.
#[derive(Args)]
pub(crate) struct Options {
    /// Directory of the recorded runs.
    #[arg(long, default_value = "perf/records")]
    records: PathBuf,
    /// Directory to write `performance.md` and `performance/*.svg` to.
    #[arg(long, default_value = "docs")]
    out: PathBuf,
}

/// Writes the page and its charts; charts of an older page that this one does not have go.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let records = record::load(&options.records)?;
    let page = Page::of(&records)?;
    let charts = options.out.join(CHARTS);
    fs::create_dir_all(&charts).with_context(|| format!("cannot make {}", charts.display()))?;
    for old in svgs(&charts)? {
        if !page.charts.contains_key(&old) {
            let path = charts.join(&old);
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    for (name, svg) in &page.charts {
        write(&charts.join(name), svg)?;
    }
    write(&options.out.join(PAGE), &page.text)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Names of the charts in a directory.
fn svgs(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".svg") {
            names.push(name);
        }
    }
    Ok(names)
}

/// The page and its charts.
#[derive(Debug, PartialEq)]
struct Page {
    text: String,
    charts: Charts,
}

/// SVG by name of file.
type Charts = BTreeMap<String, String>;

/// What makes the Markdown of a section, and adds the charts that it shows.
type Section = fn(&[Record], &mut Charts) -> anyhow::Result<String>;

const SECTIONS: [(&str, Section); 15] = [
    ("promise", promise::section),
    ("throughput", throughput::section),
    ("latency", latency::section),
    ("bare", bare::section),
    ("peers", peers::section),
    ("failover", failover::section),
    ("core", core::section),
    ("opened", core::opened),
    ("instructions", core::instructions),
    ("burst", core::burst),
    ("scaling", scaling::section),
    ("memory", sizing::memory),
    ("sizing", sizing::section),
    ("runs", runs::section),
    ("commands", runs::commands),
];

impl Page {
    fn of(records: &[Record]) -> anyhow::Result<Self> {
        let (mut text, mut charts) = (String::new(), Charts::new());
        for line in TEMPLATE.lines() {
            match line.strip_prefix('@').and_then(|l| l.strip_suffix('@')) {
                None => text.push_str(line),
                Some(name) => {
                    let Some((_, section)) = SECTIONS.iter().find(|(n, _)| *n == name) else {
                        bail!("page.md.in: there is no section `{name}`");
                    };
                    let made = section(records, &mut charts)
                        .with_context(|| format!("section `{name}` of the report"))?;
                    text.push_str(made.trim_end());
                }
            }
            text.push('\n');
        }
        Ok(Self { text, charts })
    }
}

/// What stands where a figure would, with the command that would make it.
fn missing(command: &str) -> String {
    format!("*Not measured yet: `{command}` records it.*\n")
}

/// Adds a chart; returns the Markdown that shows it.
fn show(charts: &mut Charts, name: &str, alt: &str, svg: String) -> String {
    charts.insert(format!("{name}.svg"), svg);
    format!("![{alt}]({CHARTS}/{name}.svg)\n\n")
}

/// What a record was measured on, in one line.
fn source(record: &Record) -> String {
    let machine = &record.machine;
    let commit = machine.commit.as_deref().unwrap_or("unknown");
    format!(
        "{}-{} of {}: {}, {} CPUs, Linux {}, commit {commit}, {}{}",
        record.measured.kind(),
        record.name,
        record.taken.split('T').next().unwrap_or_default(),
        machine.cpu,
        machine.cpus,
        machine.kernel,
        record.mode,
        if record.contended() { "; CONTENDED" } else { "" },
    )
}

/// The same below a table.
fn sources<'a>(records: impl IntoIterator<Item = &'a Record>) -> String {
    let mut lines: Vec<String> = Vec::new();
    for record in records {
        let mut line = format!("*{}.*", source(record));
        if record.contended() {
            line += " **Contended: others used these cores, so its figures are no record.**";
        }
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.iter().map(|line| format!("\n{line}\n")).collect()
}

/// What the runs themselves remarked, below a section.
fn notes<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    wanted: impl Fn(&str) -> bool,
) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for note in records.into_iter().flat_map(|r| &r.notes) {
        if wanted(note) && !lines.contains(&note.as_str()) {
            lines.push(note);
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "\nWhat the runs remarked:\n\n{}",
        lines.iter().map(|l| format!("- {l}\n")).collect::<String>()
    )
}

/// Figures in rows; the first column is of words, the others of figures.
struct Table {
    text: String,
}

impl Table {
    fn new(columns: &[&str]) -> Self {
        let rules = columns.iter().enumerate().map(|(n, _)| if n == 0 { "---" } else { "---:" });
        let rules: Vec<&str> = rules.collect();
        Self { text: format!("| {} |\n|{}|\n", columns.join(" | "), rules.join("|")) }
    }

    /// All columns of words.
    fn of_words(columns: &[&str]) -> Self {
        let rules = vec!["---"; columns.len()];
        Self { text: format!("| {} |\n|{}|\n", columns.join(" | "), rules.join("|")) }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        for cell in cells {
            // A bar would end the cell.
            self.text += &format!("| {} ", cell.as_ref().replace('|', "\\|"));
        }
        self.text += "|\n";
    }
}

/// The name of something in the JSON of records: `nat`, `v4`, `reply`.
fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value.and_then(|v| Some(v.as_str()?.to_owned())).unwrap_or_default()
}

/// `nat IPv4`.
fn path(method: impl serde::Serialize, family: crate::packet_path::traffic::Family) -> String {
    let family = match family {
        crate::packet_path::traffic::Family::V4 => "IPv4",
        crate::packet_path::traffic::Family::V6 => "IPv6",
    };
    format!("{} {family}", word(method))
}

/// A frame size in words.
fn frame(size: &str) -> String {
    if size.parse::<u32>().is_ok() { format!("{size} bytes") } else { size.to_owned() }
}

/// Where a frame size stands in order; names such as `imix` come last.
fn size_order(size: &str) -> (u32, String) {
    (size.parse().unwrap_or(u32::MAX), size.to_owned())
}
