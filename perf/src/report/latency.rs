//! How long packets take through generator, kernel and data plane, and how much of it is ours.

use pktgen::report::Latency;

use super::chart::{Bar, Bars};
use super::number::{percent, si, significant, time};
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
    /// Over a plain veth pair.
    cable: Option<Latency>,
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
            ("requests", row.requests.latency, row.bare_requests, row.cable_requests),
            ("replies", row.replies.latency, row.bare_replies, row.cable_replies),
        ];
        for (way, through, bare, cable) in ways {
            let some = |latency: Option<Latency>| latency.filter(|l| l.samples > 0);
            if let Some(through) = some(through) {
                let (bare, cable) = (some(bare), some(cable));
                cases.push(Case { record, row, way, through, bare, cable });
            }
        }
    }
    cases
        .sort_by_key(|c| (c.row.method, c.row.family, size_order(&c.row.size), c.way == "replies"));
    cases
}

impl Case<'_> {
    /// What the balancer is compared with: nothing at all, if that was measured.
    fn base(&self) -> Option<(Latency, &'static str)> {
        let cable = self.cable.map(|latency| (latency, "a plain veth pair"));
        cable.or(self.bare.map(|latency| (latency, "a bare forwarder")))
    }

    /// Nanoseconds that were added to the 99th percentile, and to what.
    fn added(&self) -> Option<(i64, &'static str)> {
        let (base, name) = self.base()?;
        Some((self.through.p99.cast_signed() - base.p99.cast_signed(), name))
    }
}

/// The largest 99th percentile at half load: through everything, and what was added.
pub(super) struct Worst<'a> {
    pub(super) whole: u64,
    pub(super) added: Option<(i64, &'static str)>,
    /// The trial of the former.
    pub(super) row: &'a TargetRow,
}

pub(super) fn worst(records: &[Record]) -> Option<Worst<'_>> {
    let cases = cases(records);
    let added = cases.iter().filter_map(Case::added).max_by_key(|(nanos, _)| *nanos);
    let whole = cases.iter().max_by_key(|c| c.through.p99)?;
    Some(Worst { whole: whole.through.p99, added, row: whole.row })
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let cases = cases(records);
    let Some(first) = cases.first() else {
        return Ok(missing("xvip-perf target --record perf/records"));
    };
    let mut text =
        show(charts, "latency", "Latency at half load", draw(first.record, &cases).svg()?);
    text += &table(&cases);
    text += &stalls(&cases);
    text += &sources(cases.iter().map(|c| c.record));
    Ok(text)
}

fn table(cases: &[Case<'_>]) -> String {
    let mut table = Table::new(&[
        "method, bytes, way",
        "pps",
        "core busy",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "largest",
        "added to",
        "p50 added",
        "p99 added",
        "p99.9 added",
    ]);
    for case in cases {
        let Case { row, way, through: l, .. } = case;
        let bases = [(case.cable, "veth pair"), (case.bare, "bare forwarder")];
        let mut bases: Vec<_> = bases.into_iter().filter(|(base, _)| base.is_some()).collect();
        if bases.is_empty() {
            bases.push((None, "?"));
        }
        for (number, (base, name)) in bases.into_iter().enumerate() {
            let added = |of: fn(&Latency) -> u64| {
                base.map_or_else(|| "?".into(), |base| difference(of(l), of(&base)))
            };
            let own = [
                format!("{}, {}, {way}", path(row.method, row.family), frame(&row.size)),
                si(row.asked_pps),
                busy(row).map_or_else(|| "?".into(), percent),
                time(l.p50 as f64),
                time(l.p90 as f64),
                time(l.p99 as f64),
                time(l.p999 as f64),
                time(l.max as f64),
            ];
            // The second line is of the same trial.
            let own = own.map(|cell| if number == 0 { cell } else { String::new() });
            let other = [name.to_owned(), added(|l| l.p50), added(|l| l.p99), added(|l| l.p999)];
            table.row(own.into_iter().chain(other));
        }
    }
    table.text
}

/// What the machine does when nothing is forwarded, as measured beside the trials.
fn stalls(cases: &[Case<'_>]) -> String {
    let mut table = Table::new(&[
        "beside the trial of",
        "idle core",
        "away from it",
        "stalls",
        "wait, p99",
        "wait, p99.9",
        "longest",
    ]);
    let mut any = false;
    for case in cases.iter().filter(|c| c.way == "requests") {
        for stall in &case.row.stalls {
            any = true;
            table.row([
                frame(&case.row.size),
                stall.core.to_string(),
                percent(stall.away),
                format!("{} in {} s", stall.times, significant(stall.seconds)),
                time(stall.p99 as f64),
                time(stall.p999 as f64),
                time(stall.longest as f64),
            ]);
        }
    }
    if !any {
        return String::new();
    }
    format!(
        "\nWhat this machine does to a thread that only reads the clock, measured beside each trial: how long a packet that \
         comes at any time would wait for its core, whatever forwards it (`xvip-perf stalls`).\n\n{}",
        table.text
    )
}

fn draw(record: &Record, cases: &[Case<'_>]) -> Bars {
    let mut bars = Vec::new();
    for Case { row, way, through, bare, cable, .. } in cases {
        let name = format!("{}, {}, {way}", path(row.method, row.family), frame(&row.size));
        let all = [("", Some(*through)), (", bare forwarder", *bare), (", veth pair", *cable)];
        for (kind, latency) in all {
            let Some(latency) = latency else { continue };
            bars.push(Bar {
                name: format!("{name}{kind}"),
                value: latency.p99 as f64,
                range: (latency.p50 as f64, latency.p999 as f64),
                text: time(latency.p99 as f64),
                ours: kind.is_empty(),
                gap: kind.is_empty(),
            });
        }
    }
    Bars {
        title: "Latency at half load: 99th percentile".into(),
        source: source(record),
        label: "from when a packet was due to its arrival; the line: median to 99.9th percentile"
            .into(),
        bars,
        log: true,
    }
}
