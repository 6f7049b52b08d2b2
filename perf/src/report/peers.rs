//! What else a user would take, under the same load, in turn in one run.

use super::chart::{Bar, Bars};
use super::number::{median, si, significant};
use super::{Charts, Table, missing, notes, show, source, sources};
use crate::record::{Measured, PeersRow, Record};

/// Share by which one has to be better to be called ahead.
const LEVEL: f64 = 0.01;

/// One workload, and what was counted under it.
pub(super) struct Workload<'a> {
    pub(super) record: &'a Record,
    pub(super) name: &'a str,
    pub(super) figures: Vec<Figure<'a>>,
}

/// One kind of figure: every system's, best first.
pub(super) struct Figure<'a> {
    pub(super) unit: &'a str,
    pub(super) more: bool,
    rows: Vec<(&'a PeersRow, f64)>,
}

/// Who is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    Ours,
    Theirs,
    /// Within 1 %, as where all that was offered came through.
    Level,
}

impl Figure<'_> {
    /// How many times as good as the best peer our best is, and what that means. None if either is
    /// missing or the comparison has no meaning.
    pub(super) fn lead(&self) -> Option<(f64, Lead, &PeersRow, &PeersRow)> {
        let (ours, our) = self.rows.iter().find(|(r, _)| is_ours(r))?;
        let (theirs, their) = self.rows.iter().find(|(r, _)| is_peer(r))?;
        let times = if self.more { our / their } else { their / our };
        let lead = match times {
            _ if times > 1.0 + LEVEL => Lead::Ours,
            _ if times < 1.0 - LEVEL => Lead::Theirs,
            _ => Lead::Level,
        };
        times.is_finite().then_some((times, lead, *ours, *theirs))
    }
}

fn is_ours(row: &PeersRow) -> bool {
    row.system.starts_with("xvip")
}

/// Not ours, and a balancer.
fn is_peer(row: &PeersRow) -> bool {
    !is_ours(row) && !row.system.starts_with("routing")
}

/// The workloads, in the order in which they were recorded.
pub(super) fn workloads(records: &[Record]) -> Vec<Workload<'_>> {
    let mut workloads: Vec<Workload<'_>> = Vec::new();
    for record in records {
        let Measured::Peers(rows) = &record.measured else { continue };
        let first = workloads.len();
        for row in rows {
            let Some(value) = median(&row.rounds) else { continue };
            let (name, unit, more) = (&row.workload, &row.unit, row.higher_is_better);
            if !workloads.iter().skip(first).any(|w| w.name == *name) {
                workloads.push(Workload { record, name, figures: Vec::new() });
            }
            let ours = workloads.iter_mut().skip(first).find(|w| w.name == *name);
            let Some(Workload { figures, .. }) = ours else { continue };
            match figures.iter_mut().find(|f| f.unit == *unit) {
                Some(figure) => figure.rows.push((row, value)),
                None => figures.push(Figure { unit, more, rows: vec![(row, value)] }),
            }
        }
    }
    for figure in workloads.iter_mut().flat_map(|w| &mut w.figures) {
        let more = figure.more;
        figure.rows.sort_by(|(_, x), (_, y)| if more { y.total_cmp(x) } else { x.total_cmp(y) });
    }
    workloads
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let workloads = workloads(records);
    if workloads.is_empty() {
        return Ok(missing("xvip-perf peers --record perf/records"));
    }
    let mut text = String::new();
    for (number, workload) in workloads.iter().enumerate() {
        text += &format!("### {}\n\n", capital(workload.name));
        if let Some(figure) = workload.figures.first() {
            let alt = format!("{}, {}", workload.name, figure.unit);
            let svg = draw(workload, figure).svg()?;
            text += &show(charts, &format!("peers-{}", number + 1), &alt, svg);
        }
        text += &table(workload);
        text += &sources([workload.record]);
        let behind: Vec<String> = workload.figures.iter().filter_map(behind).collect();
        if !behind.is_empty() {
            text += &format!("\n{}\n", behind.join(" "));
        }
        text.push('\n');
    }
    // What the run itself says of each workload stands there already.
    let said = |note: &str| workloads.iter().any(|w| note.starts_with(&format!("{}: ", w.name)));
    Ok(text + &notes(workloads.iter().map(|w| w.record), |note| !said(note)))
}

fn draw(workload: &Workload<'_>, figure: &Figure<'_>) -> Bars {
    let bars = figure.rows.iter().map(|(row, value)| {
        let range = row.rounds.iter().fold((*value, *value), |(a, b), v| (a.min(*v), b.max(*v)));
        let (name, text, ours) = (row.system.clone(), si(*value), is_ours(row));
        Bar { name, value: *value, range, text, ours, gap: false }
    });
    let better = if figure.more { "more is better" } else { "less is better" };
    Bars {
        title: capital(workload.name),
        source: source(workload.record),
        label: format!("{}; {better}; median of the rounds, line: least to most", figure.unit),
        bars: bars.collect(),
    }
}

/// A row for each system, best first in the first figure; a column for each figure.
fn table(workload: &Workload<'_>) -> String {
    let mut columns = vec!["median (least to most)"];
    columns.extend(workload.figures.iter().map(|f| f.unit));
    let mut table = Table::new(&columns);
    let mut systems: Vec<&str> = Vec::new();
    for (row, _) in workload.figures.iter().flat_map(|f| &f.rows) {
        if !systems.contains(&row.system.as_str()) {
            systems.push(&row.system);
        }
    }
    for system in systems {
        let mut cells = vec![system.to_owned()];
        for figure in &workload.figures {
            let found = figure.rows.iter().find(|(r, _)| r.system == system);
            cells.push(found.map_or_else(String::new, |(row, value)| {
                let least = row.rounds.iter().copied().fold(f64::INFINITY, f64::min);
                let most = row.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                format!("{} ({} to {})", si(*value), si(least), si(most))
            }));
        }
        table.row(cells);
    }
    table.text
}

/// Where a peer is ahead, a sentence.
fn behind(figure: &Figure<'_>) -> Option<String> {
    let (times, lead, ours, theirs) = figure.lead()?;
    let (ours, theirs, unit) = (&ours.system, &theirs.system, figure.unit);
    (lead == Lead::Theirs).then(|| {
        format!("**{theirs} is ahead of {ours} in {unit}: {} times.**", significant(1.0 / times))
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
}
