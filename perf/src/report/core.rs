//! The packet path in memory, beside the bare lookup.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_api::service::Forwarding;

use super::chart::{Axis, Lines, Scale, Series};
use super::number::{si, significant};
use super::{Charts, Table, missing, path, show, source, sources, word};
use crate::packet_path::report::Row;
use crate::packet_path::scene::Direction;
use crate::packet_path::traffic::Family;
use crate::record::{Measured, Record};

/// A path: what one line or one row of a table is about.
type Path = (Forwarding, Family, Direction);
/// A case: that, with connections and packets a burst.
type Case = (Path, u32, usize);

/// A figure of a row.
type Figure = fn(&Row) -> f64;

const fn path_of(row: &Row) -> Path {
    (row.method, row.family, row.direction)
}

fn label((method, family, direction): Path) -> String {
    format!("{} {}", path(method, family), word(direction))
}

/// Each case once: a quiet run before a contended one, then the newest.
fn cases(records: &[Record]) -> BTreeMap<Case, (&Record, &Row)> {
    let mut cases: BTreeMap<Case, (&Record, &Row)> = BTreeMap::new();
    for record in records {
        let Measured::Core(rows) = &record.measured else { continue };
        let rank = |record: &Record| (!record.contended(), record.taken.clone());
        for row in rows {
            let case = cases.entry((path_of(row), row.connections, row.burst));
            let best = case.or_insert((record, row));
            if rank(record) > rank(best.0) {
                *best = (record, row);
            }
        }
    }
    cases
}

/// The rows of full bursts, by path and connections.
pub(super) fn rows(records: &[Record]) -> Vec<(&Record, &Row)> {
    let cases = cases(records);
    let full = cases.keys().map(|(_, _, burst)| *burst).max().unwrap_or(0);
    cases.into_iter().filter(|((_, _, burst), _)| *burst == full).map(|(_, found)| found).collect()
}

/// A path's row for so many connections: of the fewest that are enough, or of the most there are.
pub(super) fn at(
    records: &[Record],
    wanted: (Forwarding, Family, Direction),
    connections: u64,
) -> Option<(&Record, &Row)> {
    let rows: Vec<_> = rows(records).into_iter().filter(|(_, r)| path_of(r) == wanted).collect();
    let enough = rows.iter().find(|(_, row)| u64::from(row.connections) >= connections);
    enough.or(rows.last()).copied()
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let rows = rows(records);
    let Some((first, _)) = rows.first() else {
        return Ok(missing("xvip-perf core --record perf/records"));
    };
    let mut series: BTreeMap<Path, Vec<(f64, f64)>> = BTreeMap::new();
    let mut lookup: BTreeMap<u32, f64> = BTreeMap::new();
    for (_, row) in rows.iter().filter(|(_, r)| r.family == Family::V4) {
        series.entry(path_of(row)).or_default().push((f64::from(row.connections), row.net_ns));
        if (row.method, row.direction) == (Forwarding::Nat, Direction::Request) {
            lookup.insert(row.connections, row.lookup_ns);
        }
    }
    let mut lines: Vec<Series> = series
        .into_iter()
        .map(|(path, points)| Series { name: label(path), points, limit: false })
        .collect();
    let points: Vec<_> = lookup.into_iter().map(|(n, ns)| (f64::from(n), ns)).collect();
    lines.push(Series { name: "bare lookup (nat)".into(), points, limit: true });
    let mut text = String::new();
    if lines.iter().any(|l| !l.points.is_empty()) {
        let chart = Lines {
            title: "The packet path in memory, one core, IPv4".into(),
            source: source(first),
            x: Axis { label: "connections in the table".into(), scale: Scale::Log },
            y: Axis { label: "ns a packet, median".into(), scale: Scale::Linear },
            series: lines,
        };
        let alt = "Nanoseconds a packet over connections, by method";
        text += &show(charts, "core", alt, chart.svg()?);
    }
    text += &table(&rows);
    text += &sources(rows.iter().map(|(record, _)| *record));
    Ok(text)
}

fn table(rows: &[(&Record, &Row)]) -> String {
    let sizes: BTreeSet<u32> = rows.iter().map(|(_, r)| r.connections).collect();
    let heads: Vec<String> = sizes.iter().map(|n| si(f64::from(*n))).collect();
    let mut columns = vec!["ns a packet (Mpps), median"];
    columns.extend(heads.iter().map(String::as_str));
    columns.push("path / bare lookup");
    let mut table = Table::new(&columns);
    let paths: BTreeSet<Path> = rows.iter().map(|(_, r)| path_of(r)).collect();
    for path in paths {
        let of = |n: u32| rows.iter().find(|(_, r)| path_of(r) == path && r.connections == n);
        let mut cells = vec![label(path)];
        cells.extend(sizes.iter().map(|n| {
            of(*n).map_or_else(String::new, |(_, r)| {
                format!("{} ({})", significant(r.net_ns), significant(r.mpps))
            })
        }));
        let ratios = sizes.iter().filter_map(|n| of(*n)).map(|(_, r)| format!("{:.1}", r.ratio));
        cells.push(ratios.collect::<Vec<_>>().join(", "));
        table.row(cells);
    }
    table.text
}

/// New connections a second, by method.
pub(super) fn opened(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    let rows = rows(records);
    let mut methods: BTreeMap<(Forwarding, Family), Vec<f64>> = BTreeMap::new();
    for (_, row) in rows.iter().filter(|(_, r)| r.direction == Direction::Request) {
        methods.entry((row.method, row.family)).or_default().push(row.opened_per_second);
    }
    if methods.is_empty() {
        return Ok(missing("xvip-perf core --record perf/records"));
    }
    let mut table = Table::new(&["new connections a second, one core", "least", "most"]);
    for ((method, family), rates) in methods {
        let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rates.iter().copied().fold(0.0, f64::max);
        table.row([path(method, family), si(least), si(most)]);
    }
    Ok(table.text + &sources(rows.iter().map(|(record, _)| *record)))
}

/// Instructions a packet, where they were counted.
pub(super) fn instructions(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    let mut counted = BTreeMap::new();
    let mut from = Vec::new();
    for (record, row) in rows(records) {
        if let Some(counts) = row.instructions {
            counted.insert((row.method, row.direction, row.family), counts);
            from.push(record);
        }
    }
    if counted.is_empty() {
        return Ok(missing("xvip-perf core --instructions --record perf/records"));
    }
    let mut table = Table::new(&["instructions a packet", "IPv4", "IPv6"]);
    let text = |n: Option<f64>| n.map_or_else(String::new, |n| format!("{n:.0}"));
    let paths: BTreeSet<_> = counted.keys().map(|(m, d, _)| (*m, *d)).collect();
    let of = |method, direction, family| counted.get(&(method, direction, family));
    for (method, direction) in paths {
        let path = |family| text(of(method, direction, family).map(|c| c.path));
        let name = format!("{} {}", word(method), word(direction));
        table.row([name, path(Family::V4), path(Family::V6)]);
    }
    let lookup =
        |family| text(counted.iter().find(|((_, _, f), _)| *f == family).map(|(_, c)| c.lookup));
    table.row(["bare lookup".to_owned(), lookup(Family::V4), lookup(Family::V6)]);
    Ok(table.text + &sources(from))
}

/// How far ahead memory is asked for: runs with more than one size of burst.
pub(super) fn burst(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    let mut series: BTreeMap<(Path, u32), Vec<(&Record, &Row)>> = BTreeMap::new();
    for ((path, connections, _), found) in cases(records) {
        series.entry((path, connections)).or_default().push(found);
    }
    series.retain(|_, rows| rows.len() > 1);
    let bursts: BTreeSet<usize> = series.values().flatten().map(|(_, r)| r.burst).collect();
    if series.is_empty() {
        let command = "xvip-perf core --burst 1,2,4,8,16,32,64 --record perf/records";
        return Ok(missing(command));
    }
    let heads: Vec<String> = bursts.iter().map(ToString::to_string).collect();
    let mut columns = vec!["ns a packet, by packets asked for ahead"];
    columns.extend(heads.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    for ((path, connections), rows) in &series {
        let name = format!("{}, {} connections", label(*path), si(f64::from(*connections)));
        let kinds: [(_, Figure); 2] = [("", |r| r.net_ns), (": bare lookup", |r| r.lookup_ns)];
        for (kind, of) in kinds {
            let mut cells = vec![format!("{name}{kind}")];
            cells.extend(bursts.iter().map(|burst| {
                let row = rows.iter().find(|(_, r)| r.burst == *burst);
                row.map_or_else(String::new, |(_, r)| significant(of(r)))
            }));
            table.row(cells);
        }
    }
    Ok(table.text + &sources(series.values().flatten().map(|(record, _)| *record)))
}
