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

/// How the values of a figure are shown.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    /// What each is multiplied by.
    factor: f64,
    /// The unit after that.
    unit: String,
}

impl Shown {
    /// Values of thousands of small units get the next larger one.
    fn of(unit: &str, most: f64) -> Self {
        let larger = [("Mbit/s", "Gbit/s"), ("µs", "ms"), ("ns", "µs")];
        let fits = larger.iter().find(|(small, _)| most >= 1000.0 && unit.starts_with(small));
        match fits {
            Some((small, large)) => {
                Self { factor: 1e-3, unit: format!("{large}{}", &unit[small.len()..]) }
            }
            None => Self { factor: 1.0, unit: unit.to_owned() },
        }
    }

    fn text(&self, value: f64) -> String {
        si(value * self.factor)
    }
}

impl Figure<'_> {
    fn shown(&self) -> Shown {
        let rounds = self.rows.iter().flat_map(|(row, _)| row.rounds.iter().copied());
        Shown::of(self.unit, rounds.fold(0.0, f64::max))
    }

    /// Our best among systems whose replies do not pass the balancer, and how many times as good as the best peer that
    /// is: what no peer here can do, so not what they are compared with.
    pub(super) fn past(&self) -> Option<(&str, f64)> {
        let (ours, our) = self.rows.iter().find(|(r, _)| is_past(r))?;
        let (_, their) = self.rows.iter().find(|(r, _)| is_peer(r))?;
        let times = if self.more { our / their } else { their / our };
        times.is_finite().then_some((ours.system.as_str(), times))
    }

    /// How many times as good as the best peer our best is, and what that means. None if either is
    /// missing or the comparison has no meaning.
    pub(super) fn lead(&self) -> Option<(f64, Lead, &PeersRow, &PeersRow)> {
        let (ours, our) = self.rows.iter().find(|(r, _)| is_ours(r) && !is_past(r))?;
        let (theirs, their) = self.rows.iter().find(|(r, _)| is_peer(r))?;
        let times = match if self.more { (our, their) } else { (their, our) } {
            // Nothing against nothing, as where neither lost a packet.
            (a, b) if *a == 0.0 && *b == 0.0 => 1.0,
            (a, b) => a / b,
        };
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

/// Ours, with replies that do not pass the balancer.
fn is_past(row: &PeersRow) -> bool {
    row.system.starts_with("xvip direct")
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
    let shown = figure.shown();
    let bars = figure.rows.iter().map(|(row, value)| {
        let range = row.rounds.iter().fold((*value, *value), |(a, b), v| (a.min(*v), b.max(*v)));
        let (name, text, ours) = (row.system.clone(), shown.text(*value), is_ours(row));
        let range = (range.0 * shown.factor, range.1 * shown.factor);
        Bar { name, value: *value * shown.factor, range, text, ours, gap: false }
    });
    let better = if figure.more { "more is better" } else { "less is better" };
    Bars {
        title: capital(workload.name),
        source: source(workload.record),
        label: format!("{}; {better}; median of the rounds, line: least to most", shown.unit),
        bars: bars.collect(),
        log: false,
    }
}

/// A row for each system, best first in the first figure; a column for each figure.
fn table(workload: &Workload<'_>) -> String {
    let mut columns = vec!["median (least to most)"];
    let shown: Vec<Shown> = workload.figures.iter().map(Figure::shown).collect();
    columns.extend(shown.iter().map(|s| s.unit.as_str()));
    let mut table = Table::new(&columns);
    let mut systems: Vec<&str> = Vec::new();
    for (row, _) in workload.figures.iter().flat_map(|f| &f.rows) {
        if !systems.contains(&row.system.as_str()) {
            systems.push(&row.system);
        }
    }
    for system in systems {
        let mut cells = vec![system.to_owned()];
        for (figure, shown) in workload.figures.iter().zip(&shown) {
            let found = figure.rows.iter().find(|(r, _)| r.system == system);
            cells.push(found.map_or_else(String::new, |(row, value)| {
                let least = row.rounds.iter().copied().fold(f64::INFINITY, f64::min);
                let most = row.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let [value, least, most] = [*value, least, most].map(|v| shown.text(v));
                format!("{value} ({least} to {most})")
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
        // It may have none of it at all.
        let by = if times > 0.0 {
            format!("{} times", significant(1.0 / times))
        } else {
            "it has none".into()
        };
        format!("**{theirs} is ahead of {ours} in {unit}: {by}.**")
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(system: &str, rounds: &[f64]) -> PeersRow {
        PeersRow {
            workload: "work".into(),
            unit: "% of packets lost".into(),
            higher_is_better: false,
            system: system.into(),
            rounds: rounds.to_vec(),
        }
    }

    #[test]
    fn thousands_of_a_small_unit_are_shown_in_the_next() {
        let shown = Shown::of("Mbit/s", 12_400.0);
        assert_eq!((shown.unit.as_str(), shown.text(6_670.0)), ("Gbit/s", "6.67".into()));
        let shown = Shown::of("µs (99th percentile)", 5_740.0);
        assert_eq!(
            (shown.unit.as_str(), shown.text(82.0)),
            ("ms (99th percentile)", "0.0820".into())
        );
        assert_eq!(Shown::of("packets/s", 1e6).unit, "packets/s");
        assert_eq!(Shown::of("µs (median)", 33.0).factor, 1.0);
    }

    #[test]
    fn none_against_none_is_level_and_no_sentence_holds_what_is_no_number() {
        let (ours, theirs) = (row("xvip nat", &[0.0]), row("nftables", &[0.0]));
        let figure = |ours, theirs| Figure {
            unit: "% of packets lost",
            more: false,
            rows: vec![(theirs, 0.0), (ours, median(&PeersRow::clone(ours).rounds).unwrap())],
        };
        let level = figure(&ours, &theirs);
        assert_eq!(level.lead().unwrap().1, Lead::Level);
        let some = row("xvip nat", &[0.5]);
        let said = behind(&figure(&some, &theirs)).unwrap();
        assert!(said.contains("it has none") && !said.contains("inf"), "{said}");
    }

    #[test]
    fn what_passes_by_the_balancer_is_told_apart_from_what_peers_are_compared_with() {
        let (nat, direct) = (row("xvip nat", &[2.0]), row("xvip direct, replies past it", &[1.0]));
        let peer = row("nftables", &[1.5]);
        let rows = vec![(&direct, 1.0), (&peer, 1.5), (&nat, 2.0)];
        let figure = Figure { unit: "µs", more: false, rows };
        let (_, lead, ours, _) = figure.lead().unwrap();
        assert_eq!((lead, ours.system.as_str()), (Lead::Theirs, "xvip nat"));
        assert_eq!(figure.past(), Some(("xvip direct, replies past it", 1.5)));
    }
}
