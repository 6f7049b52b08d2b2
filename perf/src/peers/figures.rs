//! What was found, by workload and system, and what follows from it.

use std::fmt::Write as _;

use super::system::System;
use crate::record::PeersRow;

/// One figure of one round.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    /// The workload, in words.
    pub(super) workload: String,
    /// What is counted.
    pub(super) unit: String,
    /// Whether more is better.
    pub(super) higher_is_better: bool,
    /// How much.
    pub(super) value: f64,
}

impl Figure {
    /// One figure.
    pub(super) fn new(workload: &str, unit: &str, higher_is_better: bool, value: f64) -> Self {
        Self { workload: workload.to_owned(), unit: unit.to_owned(), higher_is_better, value }
    }
}

/// All figures, in the order in which they came first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    rows: Vec<PeersRow>,
}

impl Figures {
    /// Adds what one round found.
    pub(super) fn add(&mut self, system: &str, found: Vec<Figure>) {
        for figure in found {
            let same = |row: &&mut PeersRow| {
                row.workload == figure.workload && row.unit == figure.unit && row.system == system
            };
            match self.rows.iter_mut().find(same) {
                Some(row) => row.rounds.push(figure.value),
                None => self.rows.push(PeersRow {
                    workload: figure.workload,
                    unit: figure.unit,
                    higher_is_better: figure.higher_is_better,
                    system: system.to_owned(),
                    rounds: vec![figure.value],
                }),
            }
        }
    }

    /// The rows, those of one table together.
    pub(super) fn rows(&self) -> Vec<PeersRow> {
        self.tables().into_iter().flatten().cloned().collect()
    }

    /// Rows of the same workload and unit.
    fn tables(&self) -> Vec<Vec<&PeersRow>> {
        let mut tables: Vec<Vec<&PeersRow>> = Vec::new();
        for row in &self.rows {
            let same = |table: &&mut Vec<&PeersRow>| {
                table[0].workload == row.workload && table[0].unit == row.unit
            };
            match tables.iter_mut().find(same) {
                Some(table) => table.push(row),
                None => tables.push(vec![row]),
            }
        }
        tables
    }

    /// Tables for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut head = "";
        for table in self.tables() {
            if table[0].workload != head {
                head = &table[0].workload;
                let _ = writeln!(text, "\n{head}");
            }
            let _ = writeln!(text, "  {}", table[0].unit);
            for row in &table {
                // Something against nothing has no ratio; the figures stand there.
                let ratio = ratio(&table, row).filter(|ratio| ratio.is_finite());
                let ratio =
                    ratio.map_or_else(String::new, |ratio| format!("  xvip / it {ratio:.2}"));
                let spread = spread(&row.rounds);
                let _ = writeln!(
                    text,
                    "    {:<28} {:>12}  {:>10} to {:<10}{ratio}",
                    row.system,
                    shown(median(&row.rounds)),
                    shown(spread.0),
                    shown(spread.1),
                );
            }
        }
        text
    }

    /// For each workload and peer that is ahead in something a sentence that says in what.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut said: Vec<(String, Vec<String>)> = Vec::new();
        for table in self.tables() {
            for row in &table {
                let Some(how) = lead(&table, row) else { continue };
                let head = format!("{}: {} is ahead of xvip", row.workload, row.system);
                match said.iter_mut().find(|(other, _)| *other == head) {
                    Some((_, all)) => all.push(how),
                    None => said.push((head, vec![how])),
                }
            }
        }
        said.into_iter().map(|(head, all)| format!("{head}: {}.", all.join("; "))).collect()
    }
}

/// What the others are measured by: the first of xvip's rows.
fn ours<'a>(table: &[&'a PeersRow]) -> Option<&'a PeersRow> {
    table.iter().find(|row| row.system.starts_with("xvip")).copied()
}

/// xvip's median divided by that of a peer; none for xvip itself.
fn ratio(table: &[&PeersRow], row: &PeersRow) -> Option<f64> {
    if row.system.starts_with("xvip") {
        return None;
    }
    let ratio = median(&ours(table)?.rounds) / median(&row.rounds);
    // Nothing against nothing is level, whatever is counted.
    Some(if ratio.is_nan() { 1.0 } else { ratio })
}

/// By how much a peer is ahead in something; none if it is not.
fn lead(table: &[&PeersRow], row: &PeersRow) -> Option<String> {
    let ratio = ratio(table, row)?;
    let ours = ours(table)?;
    let ahead = if row.higher_is_better { ratio < 1.0 } else { ratio > 1.0 };
    if !ahead || row.system == System::Routing.name() {
        return None;
    }
    let (mine, its) = (spread(&ours.rounds), spread(&row.rounds));
    let apart = mine.1 < its.0 || its.1 < mine.0;
    let how = if apart { "" } else { " (the rounds overlap)" };
    let figures = (shown(median(&row.rounds)), shown(median(&ours.rounds)));
    Some(format!("{} against {} {}{how}", figures.0, figures.1, row.unit))
}

/// Median of the rounds, of which there is one at least.
fn median(values: &[f64]) -> f64 {
    crate::median::median(values).unwrap_or(f64::NAN)
}

/// Smallest and largest.
fn spread(values: &[f64]) -> (f64, f64) {
    let fold = |f: fn(f64, f64) -> f64| values.iter().copied().reduce(f).unwrap_or(f64::NAN);
    (fold(f64::min), fold(f64::max))
}

/// With three digits that mean something.
fn shown(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if digits > 0 { text } else { grouped(&text) }
}

/// `1234567` as `1,234,567`.
fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_api::service::Poll;

    const XVIP: System = System::Xvip(Poll::Busy);
    const PEER: System = System::Nftables { flowtable: false };

    fn figures(unit: &str, more: bool, xvip: &[f64], peer: &[f64]) -> Figures {
        let mut figures = Figures::default();
        for (mine, its) in xvip.iter().zip(peer) {
            figures.add(XVIP.name(), vec![Figure::new("work", unit, more, *mine)]);
            figures.add(PEER.name(), vec![Figure::new("work", unit, more, *its)]);
        }
        figures
    }

    #[test]
    fn a_peer_that_is_ahead_is_told_and_one_behind_is_not() {
        let ahead = figures("packets/s", true, &[10.0, 11.0, 12.0], &[20.0, 21.0, 1.0]);
        let said = ahead.sentences();
        assert_eq!(said.len(), 1);
        let expected =
            "nftables is ahead of xvip: 20.0 against 11.0 packets/s (the rounds overlap)";
        assert!(said[0].contains(expected), "{said:?}");
        assert!(figures("packets/s", true, &[30.0], &[20.0]).sentences().is_empty());
        let latency = figures("µs", false, &[30.0], &[20.0]);
        assert_eq!(latency.sentences(), ["work: nftables is ahead of xvip: 20.0 against 30.0 µs."]);
        assert!(latency.text().contains("xvip / it 1.50"), "{}", latency.text());
    }

    #[test]
    fn nothing_against_nothing_is_level_and_something_against_nothing_is_told() {
        let level = figures("% lost", false, &[0.0, 0.0], &[0.0, 0.0]);
        assert!(level.sentences().is_empty());
        assert!(level.text().contains("xvip / it 1.00"), "{}", level.text());
        let behind = figures("% lost", false, &[0.5], &[0.0]);
        assert_eq!(behind.sentences().len(), 1);
        for text in [level.text(), behind.text(), behind.sentences().concat()] {
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }

    #[test]
    fn rounds_of_a_system_are_kept_in_their_order() {
        let rows = figures("x", true, &[3.0, 1.0, 2.0], &[1.0, 1.0, 1.0]).rows();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].system.as_str(), rows[0].rounds.as_slice()),
            ("xvip nat", &[3.0, 1.0, 2.0][..])
        );
        assert!((median(&rows[0].rounds) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn figures_are_shown_with_digits_that_mean_something() {
        assert_eq!(shown(1_234_567.8), "1,234,568");
        assert_eq!(
            (shown(12.345), shown(0.5), shown(123.4)),
            ("12.3".into(), "0.500".into(), "123".into())
        );
    }
}
