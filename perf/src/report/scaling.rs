//! How speed and memory change as one thing grows.

use super::chart::{Axis as Side, Lines, Scale, Series};
use super::number::{si, significant};
use super::{Charts, Table, missing, path, show, source, sources, word};
use crate::record::{Axis, Measured, Place, Record, ScalingRow};
use crate::scaling::{CLIFF, cost, steps};

/// A series: where, what grows, and its rows in order.
struct Curve<'a> {
    record: &'a Record,
    place: Place,
    axis: Axis,
    rows: Vec<&'a ScalingRow>,
}

fn curves(records: &[Record]) -> Vec<Curve<'_>> {
    let mut curves: Vec<Curve<'_>> = Vec::new();
    for record in records {
        let Measured::Scaling(rows) = &record.measured else { continue };
        let first = curves.len();
        for row in rows {
            let (place, axis) = (row.place, row.axis);
            let same = |c: &&mut Curve<'_>| {
                let one = c.rows.first().map(|r| (r.method, r.family));
                (c.place, c.axis, one) == (place, axis, Some((row.method, row.family)))
            };
            match curves.iter_mut().skip(first).find(same) {
                Some(curve) => curve.rows.push(row),
                None => curves.push(Curve { record, place, axis, rows: vec![row] }),
            }
        }
    }
    for curve in &mut curves {
        curve.rows.sort_by_key(|r| r.value);
    }
    curves.sort_by_key(|c| (c.axis, c.place));
    curves
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let curves = curves(records);
    if curves.is_empty() {
        return Ok(missing("xvip-perf scaling --record perf/records"));
    }
    let mut text = String::new();
    let mut last = None;
    for (number, curve) in curves.iter().enumerate() {
        let Some(first) = curve.rows.first() else { continue };
        if last != Some(curve.axis) {
            text += &format!("### {}\n\n", title(curve.axis));
            last = Some(curve.axis);
        }
        let what = format!("{}, {}", place(curve.place), path(first.method, first.family));
        let name = format!("scaling-{}", number + 1);
        let alt = format!("{}, {what}", title(curve.axis));
        text += &show(charts, &name, &alt, draw(curve, &what).svg()?);
        text += &table(curve, &what);
        text += &sources([curve.record]);
        text.push('\n');
    }
    Ok(text)
}

const fn title(axis: Axis) -> &'static str {
    match axis {
        Axis::Connections => "More connections",
        Axis::Services => "More services",
        Axis::Reals => "More real servers",
        Axis::Workers => "More workers",
    }
}

const fn label(axis: Axis) -> &'static str {
    match axis {
        Axis::Connections => "connections alive",
        Axis::Services => "services",
        Axis::Reals => "real servers of the service",
        Axis::Workers => "workers, each on a core of its own",
    }
}

const fn place(place: Place) -> &'static str {
    match place {
        Place::Memory => "in memory",
        Place::Veth => "over veth",
    }
}

/// How values lie along the axis, and where each is: numbers of workers are few and whole.
fn across(curve: &Curve<'_>) -> (Scale, impl Fn(&ScalingRow) -> f64) {
    let values: Vec<u64> = curve.rows.iter().map(|r| r.value).collect();
    let named = curve.axis == Axis::Workers;
    let names = values.iter().map(ToString::to_string).collect();
    let scale = if named { Scale::Named(names) } else { Scale::Log };
    let at = move |row: &ScalingRow| {
        let place = values.iter().position(|v| *v == row.value).unwrap_or(0);
        if named { place as f64 } else { row.value as f64 }
    };
    (scale, at)
}

fn draw(curve: &Curve<'_>, what: &str) -> Lines {
    let (scale, at) = across(curve);
    let points = |of: fn(&ScalingRow) -> Option<f64>| -> Vec<(f64, f64)> {
        curve.rows.iter().filter_map(|r| Some((at(r), of(r)?))).collect()
    };
    let rates = curve.axis == Axis::Workers || curve.place == Place::Veth;
    let (label_y, series) = if rates {
        let mut series =
            vec![Series { name: what.to_owned(), points: points(|r| Some(r.mpps)), limit: false }];
        if let Some(first) = curve.rows.first().filter(|_| curve.axis == Axis::Workers) {
            let one = first.mpps / first.value as f64;
            let even = curve.rows.iter().map(|r| (at(r), one * r.value as f64));
            let name = "as many times one worker".into();
            series.push(Series { name, points: even.collect(), limit: true });
        }
        ("Mpps of all workers", series)
    } else {
        let mut series = vec![
            Series { name: "whole path, median".into(), points: points(|r| r.ns), limit: false },
            Series {
                name: "whole path, fastest tenth".into(),
                points: points(|r| r.best_ns),
                limit: false,
            },
        ];
        let lookup = points(|r| r.lookup_ns);
        series.push(Series { name: "bare lookup, median".into(), points: lookup, limit: true });
        ("ns a packet", series)
    };
    Lines {
        title: format!("{}: {what}", title(curve.axis)),
        source: source(curve.record),
        x: Side { label: label(curve.axis).into(), scale },
        y: Side { label: label_y.into(), scale: Scale::Linear },
        series,
    }
}

fn table(curve: &Curve<'_>, what: &str) -> String {
    let head = format!("{}, {what}", word(curve.axis));
    let mut table = Table::new(&[
        &head,
        "connections",
        "ns a packet",
        "fastest tenth",
        "bare lookup",
        "Mpps",
        "to the one before",
        "new connections/s",
        "bytes a connection",
    ]);
    let steps = steps(&curve.rows);
    let text = |value: Option<f64>| value.map_or_else(String::new, significant);
    for (number, row) in curve.rows.iter().enumerate() {
        let step = number.checked_sub(1).and_then(|n| steps.get(n));
        table.row([
            si(row.value as f64),
            si(row.connections as f64),
            text(row.ns),
            text(row.best_ns),
            text(row.lookup_ns),
            significant(row.mpps),
            step.map_or_else(String::new, |step| {
                if *step > CLIFF {
                    format!("**{step:.2} ×: a cliff**")
                } else {
                    format!("{step:.2} ×")
                }
            }),
            row.opened_per_second.map_or_else(String::new, si),
            text(row.bytes_per_connection),
        ]);
    }
    let measure = match curve.rows.first().map(|r| cost(r).1) {
        Some(measure) => format!("\n\"To the one before\" compares {measure}.\n"),
        None => String::new(),
    };
    table.text + &measure
}
