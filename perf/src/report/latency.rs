//! How long packets take through generator, kernel and data plane, and how much of it is ours.

use pktgen::report::Latency;

use super::chart::{Bar, Bars};
use super::number::{percent, si, time};
use super::throughput::{busy, trials};
use super::{Charts, Table, frame, missing, path, show, size_order, source, sources};
use crate::record::{Aim, Record, TargetRow};

/// One direction of a trial.
struct Case<'a> {
    record: &'a Record,
    row: &'a TargetRow,
    way: &'static str,
    /// Through the data plane.
    through: Latency,
    /// Through a forwarder that looks at nothing.
    bare: Option<Latency>,
}

/// Signed, for differences.
fn difference(ours: u64, bare: u64) -> String {
    let sign = if ours >= bare { "+" } else { "−" };
    format!("{sign}{}", time(ours.abs_diff(bare) as f64))
}

fn cases(records: &[Record]) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for (record, row) in trials(records) {
        if row.aim != Aim::Latency {
            continue;
        }
        let ways = [
            ("requests", row.requests.latency, row.bare_requests),
            ("replies", row.replies.latency, row.bare_replies),
        ];
        for (way, through, bare) in ways {
            let bare = bare.filter(|l| l.samples > 0);
            if let Some(through) = through.filter(|l| l.samples > 0) {
                cases.push(Case { record, row, way, through, bare });
            }
        }
    }
    cases
        .sort_by_key(|c| (c.row.method, c.row.family, size_order(&c.row.size), c.way == "replies"));
    cases
}

/// The largest 99th percentile at half load, and its trial: through everything, and the largest that was added
/// to a bare forwarder's.
pub(super) fn worst(records: &[Record]) -> Option<(u64, Option<i64>, &TargetRow)> {
    let cases = cases(records);
    let compared = cases.iter().filter_map(|c| Some((c.through.p99, c.bare?.p99)));
    let added = compared.map(|(ours, bare)| ours.cast_signed() - bare.cast_signed()).max();
    let whole = cases.iter().max_by_key(|c| c.through.p99)?;
    Some((whole.through.p99, added, whole.row))
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let cases = cases(records);
    let Some(first) = cases.first() else {
        return Ok(missing("xvip-perf target --record perf/records"));
    };
    let mut text =
        show(charts, "latency", "Latency at half load", draw(first.record, &cases).svg()?);
    let mut table = Table::new(&[
        "method, bytes, way",
        "pps",
        "core busy",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "largest",
        "p50 added",
        "p99 added",
        "p99.9 added",
    ]);
    for Case { row, way, through: l, bare, .. } in &cases {
        let added = |of: fn(&Latency) -> u64| {
            bare.map_or_else(|| "?".into(), |bare| difference(of(l), of(&bare)))
        };
        table.row([
            format!("{}, {}, {way}", path(row.method, row.family), frame(&row.size)),
            si(row.asked_pps),
            busy(row).map_or_else(|| "?".into(), percent),
            time(l.p50 as f64),
            time(l.p90 as f64),
            time(l.p99 as f64),
            time(l.p999 as f64),
            time(l.max as f64),
            added(|l| l.p50),
            added(|l| l.p99),
            added(|l| l.p999),
        ]);
    }
    text += &table.text;
    text += &sources(cases.iter().map(|c| c.record));
    Ok(text)
}

fn draw(record: &Record, cases: &[Case<'_>]) -> Bars {
    let mut bars = Vec::new();
    for Case { row, way, through, bare, .. } in cases {
        let name = format!("{}, {}, {way}", path(row.method, row.family), frame(&row.size));
        let both = [("", Some(*through)), (", bare forwarder", *bare)];
        for (kind, latency) in both {
            let Some(latency) = latency else { continue };
            bars.push(Bar {
                name: format!("{name}{kind}"),
                value: latency.p99 as f64 / 1e3,
                range: (latency.p50 as f64 / 1e3, latency.p999 as f64 / 1e3),
                text: time(latency.p99 as f64),
                ours: kind.is_empty(),
                gap: kind.is_empty(),
            });
        }
    }
    Bars {
        title: "Latency at half load: 99th percentile".into(),
        source: source(record),
        label:
            "µs from when a packet was due to its arrival; the line: median to 99.9th percentile"
                .into(),
        bars,
    }
}
