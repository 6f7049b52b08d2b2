//! The data plane beside a forwarder that looks at nothing.

use super::chart::{Bar, Bars};
use super::number::{median, percent, significant};
use super::{Charts, Table, frame, missing, notes, path, show, size_order, source, sources};
use crate::record::{BareRound, BareRow, Measured, Record, Sample};

/// One system of a round.
type Which = fn(&BareRound) -> &Sample;

/// Every row of `bare` records, with its record, by path and size.
pub(super) fn rows(records: &[Record]) -> Vec<(&Record, &BareRow)> {
    let mut rows = Vec::new();
    for record in records {
        if let Measured::Bare(measured) = &record.measured {
            let compared = measured.iter().filter(|row| ratio(row).is_some());
            rows.extend(compared.map(|row| (record, row)));
        }
    }
    rows.sort_by_key(|(_, r)| (r.method, r.family, r.connections, size_order(&r.size)));
    rows
}

/// Median of the ratios of the rounds: ours to bare.
pub(super) fn ratio(row: &BareRow) -> Option<f64> {
    let compared = row.rounds.iter().filter(|r| r.bare.received_pps > 0.0);
    median(&compared.map(|r| r.xvip.received_pps / r.bare.received_pps).collect::<Vec<_>>())
}

/// Nanoseconds of its core for a packet of the bare forwarder: what devices and kernel cost.
pub(super) fn device_cost(row: &BareRow) -> Option<f64> {
    let costs = row.rounds.iter().filter_map(|r| cost(&r.bare));
    median(&costs.collect::<Vec<_>>())
}

/// One that lost packets had no time left.
fn cost(sample: &Sample) -> Option<f64> {
    let busy = sample.busy.or((sample.lost > 0.0).then_some(1.0))?;
    (sample.received_pps > 0.0).then(|| busy * 1e9 / sample.received_pps)
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let rows = rows(records);
    let Some((first, _)) = rows.first() else {
        return Ok(missing("xvip-perf bare --record perf/records"));
    };
    let mut bars = Vec::new();
    let mut table = Table::new(&[
        "method, bytes",
        "rounds",
        "xvip, Mpps",
        "bare, Mpps",
        "xvip / bare",
        "xvip lost",
        "bare lost",
        "xvip, ns of its core",
        "bare, ns",
    ]);
    for (_, row) in &rows {
        let name = format!("{}, {}", path(row.method, row.family), frame(&row.size));
        let rates = |of: Which| -> Vec<f64> {
            row.rounds.iter().map(|r| of(r).received_pps / 1e6).collect()
        };
        let kinds: [(_, Which); 2] = [("xvip", |r| &r.xvip), ("bare", |r| &r.bare)];
        for (kind, of) in kinds {
            let rates = rates(of);
            let Some(value) = median(&rates) else { continue };
            let range = rates.iter().fold((value, value), |(a, b), v| (a.min(*v), b.max(*v)));
            let text = format!("{value:.3}");
            let (ours, gap) = (kind == "xvip", kind == "xvip");
            bars.push(Bar { name: format!("{name}, {kind}"), value, range, text, ours, gap });
        }
        let rate = |of| median(&rates(of)).map_or_else(|| "?".into(), |v| format!("{v:.3}"));
        let lost = |of: Which| {
            let lost: Vec<f64> = row.rounds.iter().map(|r| of(r).lost).collect();
            median(&lost).map_or_else(|| "?".into(), percent)
        };
        let nanos = |of: Which| {
            let costs: Vec<f64> = row.rounds.iter().filter_map(|r| cost(of(r))).collect();
            median(&costs).map_or_else(|| "?".into(), significant)
        };
        table.row([
            name,
            row.rounds.len().to_string(),
            rate(|r| &r.xvip),
            rate(|r| &r.bare),
            ratio(row).map_or_else(|| "?".into(), percent),
            lost(|r| &r.xvip),
            lost(|r| &r.bare),
            nanos(|r| &r.xvip),
            nanos(|r| &r.bare),
        ]);
    }
    let chart = Bars {
        title: "Beside a bare forwarder, in turn in one run".into(),
        source: source(first),
        label: "Mpps received; median of the rounds, the line from least to most".into(),
        bars,
    };
    let mut text = show(charts, "bare", "xvip beside a bare AF_XDP forwarder", chart.svg()?);
    text += &table.text;
    text += &sources(rows.iter().map(|(record, _)| *record));
    text += &notes(rows.iter().map(|(record, _)| *record), |_| true);
    Ok(text)
}
