//! What the real processes forward, by frame size and method.

use std::collections::BTreeSet;

use super::chart::{Axis, Lines, Scale, Series};
use super::number::{percent, si};
use super::{Charts, Table, missing, notes, path, show, size_order, source, sources, word};
use crate::record::{Aim, Measured, Record, TargetRow};

/// Bytes that a frame takes on the wire besides its own: preamble and gap.
pub(super) const GAP: f64 = 20.0;
const GIGABIT: f64 = 1e9;

/// Every trial of `target` records, with its record.
pub(super) fn trials(records: &[Record]) -> Vec<(&Record, &TargetRow)> {
    let mut trials = Vec::new();
    for record in records {
        if let Measured::Target(rows) = &record.measured {
            trials.extend(rows.iter().map(|row| (record, row)));
        }
    }
    trials
}

/// Packets a second received, both ways together.
pub(super) fn received(row: &TargetRow) -> f64 {
    row.requests.received_pps + row.replies.received_pps
}

/// Packets lost, both ways together.
pub(super) fn lost(row: &TargetRow) -> u64 {
    row.requests.lost + row.replies.lost
}

/// Whether replies came through the balancer, too.
pub(super) fn ways(row: &TargetRow) -> &'static str {
    if row.replies.sent > 0 { "both ways together" } else { "requests alone" }
}

/// Share of the data plane's core that was busy.
pub(super) fn busy(row: &TargetRow) -> Option<f64> {
    row.cores.iter().find(|c| c.core == row.dataplane_core).map(|c| c.busy)
}

/// A chart over frame sizes.
struct Chart {
    /// Of these trials.
    aim: Aim,
    name: &'static str,
    title: &'static str,
    /// Of the figure.
    label: &'static str,
    figure: fn(&TargetRow) -> Option<f64>,
    /// Whether 1 Gbit/s is drawn to compare with.
    line: bool,
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let trials = trials(records);
    let mut text = String::new();
    for chart in [
        Chart {
            aim: Aim::Highest,
            name: "highest",
            title: "Highest rate without loss",
            label: "Mpps, both ways together",
            figure: |row| Some(row.asked_pps / 1e6),
            line: true,
        },
        Chart {
            aim: Aim::Promise,
            name: "busy",
            title: "What 1 Gbit/s takes of the data plane's core",
            label: "% of the core that was work",
            figure: |row| Some(busy(row)? * 100.0),
            line: false,
        },
    ] {
        let fits = |r: &TargetRow| r.aim == chart.aim && (chart.figure)(r).is_some();
        let rows: Vec<_> = trials.iter().filter(|(_, r)| fits(r)).copied().collect();
        if let Some((record, _)) = rows.first() {
            let alt = format!("{}, by frame size and method", chart.title);
            text += &show(charts, chart.name, &alt, by_size(&chart, record, &rows).svg()?);
        }
    }
    let shown = |aim| matches!(aim, Aim::Promise | Aim::Beyond | Aim::Highest);
    let rows: Vec<_> = trials.into_iter().filter(|(_, r)| shown(r.aim)).collect();
    if rows.is_empty() {
        return Ok(missing("xvip-perf target --record perf/records"));
    }
    text += &table(&rows);
    text += &sources(rows.iter().map(|(record, _)| *record));
    text += &notes(rows.iter().map(|(record, _)| *record), |_| true);
    Ok(text)
}

fn name(row: &TargetRow) -> String {
    let path = path(row.method, row.family);
    let protocol = if row.protocol == "tcp" { String::new() } else { format!(" {}", row.protocol) };
    format!("{path}{protocol}, {} connections", si(row.connections as f64))
}

fn by_size(chart: &Chart, record: &Record, rows: &[(&Record, &TargetRow)]) -> Lines {
    let sizes: BTreeSet<_> = rows.iter().map(|(_, r)| size_order(&r.size)).collect();
    let sizes: Vec<String> = sizes.into_iter().map(|(_, size)| size).collect();
    let place = |size: &str| sizes.iter().position(|s| s == size).unwrap_or(0) as f64;
    let mut series: Vec<Series> = Vec::new();
    for (_, row) in rows {
        let Some(value) = (chart.figure)(row) else { continue };
        let (name, point) = (name(row), (place(&row.size), value));
        match series.iter_mut().find(|s| s.name == name) {
            Some(series) => series.points.push(point),
            None => series.push(Series { name, points: vec![point], limit: false }),
        }
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let line = sizes.iter().filter_map(|size| {
        let bytes: f64 = size.parse().ok()?;
        Some((place(size), GIGABIT / 8.0 / (bytes + GAP) / 1e6))
    });
    if chart.line {
        let points = line.collect();
        series.push(Series { name: "1 Gbit/s on the wire".into(), points, limit: true });
    }
    Lines {
        title: chart.title.to_owned(),
        source: source(record),
        x: Axis {
            label: "frame size, bytes (frame check sequence included)".into(),
            scale: Scale::Named(sizes),
        },
        y: Axis { label: chart.label.into(), scale: Scale::Linear },
        series,
    }
}

fn verdict(row: &TargetRow) -> String {
    let mut text = match row.passed {
        true => "yes".to_owned(),
        false => format!("**no**: {}", row.failures.join("; ")),
    };
    if row.contended {
        text += " (contended)";
    }
    text
}

fn table(rows: &[(&Record, &TargetRow)]) -> String {
    let mut table = Table::new(&[
        "method, connections",
        "trial",
        "bytes",
        "asked, Mpps",
        "received, Mpps",
        "Gbit/s",
        "lost",
        "core busy",
        "limited by",
        "passed",
    ]);
    let mut rows = rows.to_vec();
    rows.sort_by_key(|(_, r)| {
        (r.method, r.family, r.protocol.clone(), r.connections, r.aim, size_order(&r.size))
    });
    for (_, row) in rows {
        let bits = row.requests.received_bps + row.replies.received_bps;
        table.row([
            name(row),
            match row.aim {
                Aim::Beyond => format!("{}, {}", word(row.aim), ways(row)),
                _ => word(row.aim),
            },
            row.size.clone(),
            format!("{:.3}", row.asked_pps / 1e6),
            format!("{:.3}", received(row) / 1e6),
            format!("{:.3}", bits / GIGABIT),
            lost(row).to_string(),
            busy(row).map_or_else(|| "?".into(), percent),
            word(row.limit),
            verdict(row),
        ]);
    }
    table.text
}
