//! The data plane beside a forwarder that looks at nothing.

use super::chart::{Bar, Bars};
use super::number::{median, percent, significant};
use super::{Charts, Table, frame, missing, notes, path, show, size_order, source, sources};
use crate::record::{BareRound, BareRow, Measured, Record, Sample};

/// One system of a round.
type Which = fn(&BareRound) -> &Sample;
/// One figure of it.
type Figure = fn(&Sample) -> Option<f64>;

/// Every row of `bare` records that compares, with its record, by path and size.
pub(super) fn rows(records: &[Record]) -> Vec<(&Record, &BareRow)> {
    let mut rows = Vec::new();
    for record in records {
        if let Measured::Bare(measured) = &record.measured {
            let compared = measured.iter().filter(|row| verdict(row).is_some());
            rows.extend(compared.map(|row| (record, row)));
        }
    }
    rows.sort_by_key(|(_, r)| (r.method, r.family, r.connections, size_order(&r.size)));
    rows
}

/// What decides how much of a bare forwarder's work is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Verdict {
    /// Our share of it.
    pub(super) ratio: f64,
    /// In words: of which figure.
    pub(super) by: &'static str,
}

/// By the highest rates, if those were the devices' own; else by what a packet takes.
pub(super) fn verdict(row: &BareRow) -> Option<Verdict> {
    let rates = row.rates().filter(|_| row.rates_count());
    let by_rate = rates.map(|ratio| Verdict { ratio, by: "by the highest rate" });
    by_rate.or_else(|| {
        row.costs().map(|ratio| Verdict { ratio, by: "by the time of a core for a packet" })
    })
}

/// Nanoseconds of its core for a packet of the bare forwarder: what devices and kernel cost.
pub(super) fn device_cost(row: &BareRow) -> Option<f64> {
    middle(row, |r| &r.bare, |s| s.ns)
}

fn values(row: &BareRow, which: Which, of: Figure) -> Vec<f64> {
    row.rounds.iter().filter_map(|round| of(which(round))).collect()
}

fn middle(row: &BareRow, which: Which, of: Figure) -> Option<f64> {
    median(&values(row, which, of))
}

/// Both, ours first.
const KINDS: [(&str, Which); 2] = [("xvip", |r| &r.xvip), ("bare", |r| &r.bare)];

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let rows = rows(records);
    let Some((first, _)) = rows.first() else {
        return Ok(missing("xvip-perf bare --record perf/records"));
    };
    let rate = chart(
        &rows,
        "Highest rate, beside a bare forwarder",
        "Mpps, both ways; more is better; median of the rounds, line: least to most",
        |s| Some(s.highest_pps? / 1e6),
        3,
    );
    let cost = chart(
        &rows,
        "What a packet takes of the core, beside a bare forwarder at the same rate",
        "ns a packet; less is better; median of the rounds, line: least to most",
        |s| s.ns,
        0,
    );
    let mut text = String::new();
    for (name, alt, mut chart) in [
        ("bare", "Highest rates of xvip and of a bare AF_XDP forwarder", rate),
        ("bare-cost", "Time of a core for a packet of xvip and of a bare AF_XDP forwarder", cost),
    ] {
        chart.source = source(first);
        if !chart.bars.is_empty() {
            text += &show(charts, name, alt, chart.svg()?);
        }
    }
    text += &table(&rows);
    text += &sources(rows.iter().map(|(record, _)| *record));
    text += &notes(rows.iter().map(|(record, _)| *record), |_| true);
    Ok(text)
}

fn chart(
    rows: &[(&Record, &BareRow)],
    title: &str,
    label: &str,
    of: Figure,
    digits: usize,
) -> Bars {
    let mut bars = Vec::new();
    for (_, row) in rows {
        let name = format!("{}, {}", path(row.method, row.family), frame(&row.size));
        for (kind, which) in KINDS {
            let values = values(row, which, of);
            let Some(value) = median(&values) else { continue };
            let range = values.iter().fold((value, value), |(a, b), v| (a.min(*v), b.max(*v)));
            let text = format!("{value:.digits$}");
            let (ours, gap) = (kind == "xvip", kind == "xvip");
            bars.push(Bar { name: format!("{name}, {kind}"), value, range, text, ours, gap });
        }
    }
    Bars { title: title.into(), source: String::new(), label: label.into(), bars, log: false }
}

fn table(rows: &[(&Record, &BareRow)]) -> String {
    let mut table = Table::new(&[
        "method, bytes",
        "rounds",
        "may be lost",
        "xvip, highest Mpps",
        "bare, highest Mpps",
        "limited by",
        "xvip / bare",
        "equal rate, Mpps",
        "xvip, ns a packet",
        "bare, ns a packet",
        "bare / xvip",
    ]);
    let text = |value: Option<f64>, as_text: &dyn Fn(f64) -> String| {
        value.map_or_else(|| "?".to_owned(), as_text)
    };
    let mpps = |value: f64| format!("{:.3}", value / 1e6);
    for (_, row) in rows {
        let rate = |which| text(middle(row, which, |s| s.highest_pps), &mpps);
        let cost = |which| text(middle(row, which, |s| s.ns), &significant);
        table.row([
            format!("{}, {}", path(row.method, row.family), frame(&row.size)),
            row.rounds.len().to_string(),
            text(row.allowance, &percent),
            rate(KINDS[0].1),
            rate(KINDS[1].1),
            if row.rates_count() { "forwarders".into() } else { "**generator**".to_owned() },
            text(row.rates(), &percent),
            text(middle(row, KINDS[0].1, |s| Some(s.offered_pps)), &mpps),
            cost(KINDS[0].1),
            cost(KINDS[1].1),
            text(row.costs(), &percent),
        ]);
    }
    table.text
}
