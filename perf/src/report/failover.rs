//! Two balancers: what clients notice when one dies or is replaced, and how late the other knows of connections.

use clap::ValueEnum;

use super::chart::{Bar, Bars};
use super::number::{median, percent, si, significant, time};
use super::promise::Line;
use super::{Charts, Table, missing, notes, show, source, sources};
use crate::record::{Failover, FailoverRound, FailoverRow, Measured, Record, Scenario, Spread};

/// Milliseconds without service after a power-off, by the times of the heartbeat.
const SILENCE: [(&str, f64); 2] = [("default", 300.0), ("tuned", 100.0)];
/// Share of connections that live on after a power-off.
const ALIVE: f64 = 0.999;
/// Connections of the promise.
const CONNECTIONS: u64 = 100_000;
/// Milliseconds until the peer has acknowledged a connection, the 99th percentile.
const ACKNOWLEDGED: f64 = 50.0;
/// Milliseconds that a copy of that many connections takes.
const COPIED: f64 = 1000.0;

/// The system whose promises these are.
const OURS: &str = "xvip";

/// What each record of the kind found.
fn found(records: &[Record]) -> impl Iterator<Item = (&Record, &Failover)> {
    records.iter().filter_map(|record| match &record.measured {
        Measured::Failover(found) => Some((record, found)),
        _ => None,
    })
}

/// Nanoseconds of milliseconds, in words.
fn ms(value: f64) -> String {
    time(value * 1e6)
}

/// Rows that count for a promise: ours, under packets, with enough connections.
fn promised(records: &[Record], scenario: Scenario) -> Vec<&FailoverRow> {
    let rows = found(records).flat_map(|(_, f)| &f.rows);
    rows.filter(|row| {
        let packets = row.rounds.iter().any(|r| r.sent > 0);
        let ours = row.system == OURS && row.scenario == scenario;
        ours && packets && row.connections >= CONNECTIONS
    })
    .collect()
}

/// What is promised of a pair.
pub(super) fn promises(records: &[Record]) -> Vec<Line> {
    let mut lines: Vec<Line> = SILENCE.map(|limit| dark(records, limit)).into();
    lines.push(living(records));
    let kept = Scenario::value_variants().iter().filter(|s| s.must_keep_all());
    lines.extend(kept.map(|scenario| whole(records, *scenario)));
    lines.push(acknowledged(records));
    lines.push(copied(records));
    lines
}

fn dark(records: &[Record], (times, limit): (&str, f64)) -> Line {
    let what = format!("power-off of the active node, {times}: service again in {}", ms(limit));
    let rows: Vec<_> = promised(records, Scenario::PowerOff)
        .into_iter()
        .filter(|row| row.times.starts_with(times))
        .collect();
    let Some(all) = Spread::of(rows.iter().flat_map(|r| &r.rounds).map(|r| r.silence_ms)) else {
        return Line::missing(what);
    };
    let measured = format!(
        "{} in the middle, {} at most, of {}",
        ms(all.p50),
        ms(all.max),
        rounds(rows.iter().map(|r| r.rounds.len()).sum())
    );
    let contended = rows.iter().any(|row| row.contended());
    Line { what, measured, kept: Some(all.max < limit), contended }
}

fn rounds(count: usize) -> String {
    if count == 1 { "one round".into() } else { format!("{count} rounds") }
}

fn living(records: &[Record]) -> Line {
    let what = format!(
        "power-off of the active node: {} of {} connections live on",
        percent(ALIVE),
        si(CONNECTIONS as f64)
    );
    let rows = promised(records, Scenario::PowerOff);
    let Some((least, measured)) = alive(&rows) else { return Line::missing(what) };
    let contended = rows.iter().any(|row| row.contended());
    Line { what, measured, kept: Some(least >= ALIVE), contended }
}

/// The least share that lived on, and in words apart for quiet rounds and others: in a contended one packets
/// are lost at its end as before it, which looks like a connection that is gone.
fn alive(rows: &[&FailoverRow]) -> Option<(f64, String)> {
    let least = |contended| {
        let shares: Vec<_> = rows
            .iter()
            .flat_map(|row| &row.rounds)
            .filter(|r| r.contended == contended)
            .map(FailoverRound::share_alive)
            .collect();
        shares.iter().copied().reduce(f64::min).map(|least| (least, shares.len()))
    };
    let worst =
        |(least, count)| format!("{} % alive in the worst of {}", exact(least), rounds(count));
    match (least(false), least(true)) {
        (Some(quiet), Some(other)) => {
            let (quiet_words, other_words) = (worst(quiet), worst(other));
            Some((
                quiet.0.min(other.0),
                format!("{quiet_words}; {other_words} in which others had the machine"),
            ))
        }
        (Some(only), None) | (None, Some(only)) => Some((only.0, worst(only))),
        (None, None) => None,
    }
}

fn whole(records: &[Record], scenario: Scenario) -> Line {
    let count = si(CONNECTIONS as f64);
    let what = format!("{}: 0 of {count} connections reset, all live on", scenario.words());
    let rows = promised(records, scenario);
    let Some((least, living)) = alive(&rows) else { return Line::missing(what) };
    let resets: u64 = rows.iter().map(|row| row.resets()).sum();
    let silence = Spread::of(rows.iter().flat_map(|r| &r.rounds).map(|r| r.silence_ms));
    let silence = silence.map_or_else(String::new, |s| {
        format!("; without service {} in the middle, {} at most", ms(s.p50), ms(s.max))
    });
    let measured = format!("{resets} resets, {living}{silence}");
    let contended = rows.iter().any(|row| row.contended());
    Line { what, measured, kept: Some(resets == 0 && least >= 1.0), contended }
}

/// A share in percent that is 100 only if it is all.
fn exact(share: f64) -> String {
    if share >= 1.0 { "100".into() } else { format!("{:.3}", (share * 1e5).floor() / 1e3) }
}

fn acknowledged(records: &[Record]) -> Line {
    let what = format!(
        "replication: acknowledged in {} (99th percentile) at 100 k new connections a second, or the most that the machine opens",
        ms(ACKNOWLEDGED)
    );
    let rounds: Vec<_> = found(records).flat_map(|(_, f)| &f.replication).collect();
    let Some(p99) = Spread::of(rounds.iter().map(|r| r.p99_ms)) else {
        return Line::missing(what);
    };
    let rates: Vec<_> = rounds.iter().map(|r| r.connections_per_second).collect();
    let measured = format!(
        "{} in the middle round, {} in the worst, at {} a second",
        ms(p99.p50),
        ms(p99.max),
        si(median(&rates).unwrap_or(0.0))
    );
    let contended = rounds.iter().any(|r| r.contended);
    Line { what, measured, kept: Some(p99.max < ACKNOWLEDGED), contended }
}

fn copied(records: &[Record]) -> Line {
    let count = si(CONNECTIONS as f64);
    let what = format!("replication: {count} connections copied in {}", ms(COPIED));
    // One in a thousand may not be worth a copy any more.
    let enough = CONNECTIONS * 999 / 1000;
    let rounds = found(records).flat_map(|(_, f)| &f.bulk);
    let rounds: Vec<_> = rounds.filter(|b| b.connections >= enough).collect();
    let Some(all) = Spread::of(rounds.iter().map(|b| b.ms)) else { return Line::missing(what) };
    let measured = format!(
        "{} in the middle, {} at most, the start of the process included",
        ms(all.p50),
        ms(all.max)
    );
    let contended = rounds.iter().any(|b| b.contended);
    Line { what, measured, kept: Some(all.max < COPIED), contended }
}

pub(super) fn section(records: &[Record], charts: &mut Charts) -> anyhow::Result<String> {
    let measured: Vec<_> =
        found(records).filter(|(_, f)| f.rows.iter().any(|r| r.silence().is_some())).collect();
    if measured.is_empty() {
        return Ok(missing("xvip-perf failover --record perf/records"));
    }
    let mut text = String::new();
    for (record, found) in &measured {
        let rows: Vec<_> = found.rows.iter().filter(|r| !r.rounds.is_empty()).collect();
        let load = rows.first().map_or_else(String::new, |row| row.load.clone());
        text += &format!("### {load}\n\n");
        let chart = chart(record, &rows, &load).svg()?;
        let alt = format!("Time without service: {load}");
        text += &show(charts, &format!("failover-{}", record.name), &alt, chart);
        text += &table(&rows);
        text += &compared(&rows);
        text += &replication(found);
        text += &sources([*record]);
        text.push('\n');
    }
    Ok(text + &notes(measured.iter().map(|(record, _)| *record), |_| true))
}

fn name(row: &FailoverRow) -> String {
    let times = row.times.split(" (").next().unwrap_or_default();
    match row.system.split(',').next().unwrap_or_default() {
        OURS => format!("{}, {times}", row.scenario.words()),
        other => format!("{other}: {}, {times}", row.scenario.words()),
    }
}

fn chart(record: &Record, rows: &[&FailoverRow], load: &str) -> Bars {
    let bars = rows.iter().filter_map(|row| {
        let spread = row.silence()?;
        Some(Bar {
            name: name(row),
            value: spread.p50 * 1e6,
            range: (spread.min * 1e6, spread.max * 1e6),
            text: format!("{} (95 %: {})", ms(spread.p50), ms(spread.p95)),
            ours: row.system == OURS,
            gap: false,
        })
    });
    Bars {
        title: format!("Time without service: {load}"),
        source: source(record),
        label: "longest silence that clients saw; less is better; median of the rounds, line: least to most".into(),
        bars: bars.collect(),
        log: true,
    }
}

fn table(rows: &[&FailoverRow]) -> String {
    let mut table = Table::new(&[
        "what happens",
        "rounds",
        "without service: least",
        "median",
        "95 % of rounds",
        "most",
        "alive afterwards, worst round",
        "resets, all rounds",
        "packets lost, median",
    ]);
    for row in rows {
        let Some(spread) = row.silence() else { continue };
        let lost: Vec<_> =
            row.rounds.iter().filter(|r| r.sent > 0).map(|r| r.lost as f64).collect();
        let lost = median(&lost).map_or_else(String::new, si);
        let alive = format!("{} %", exact(row.least_alive().unwrap_or(0.0)));
        let mut cells = vec![name(row), row.rounds.len().to_string()];
        cells.extend([spread.min, spread.p50, spread.p95, spread.max].map(ms));
        cells.extend([alive, row.resets().to_string(), lost]);
        table.row(cells);
    }
    table.text
}

/// How many times as long another system needs, its default beside ours, its fastest beside ours.
fn compared(rows: &[&FailoverRow]) -> String {
    let off = |ours: bool, times: &str| {
        let fits = |r: &&&FailoverRow| {
            r.scenario == Scenario::PowerOff
                && (r.system == OURS) == ours
                && r.times.contains(times)
        };
        let row = rows.iter().find(fits)?;
        Some((row.system.as_str(), row.silence()?.p50))
    };
    let mut text = String::new();
    for (mine, its) in [("default", "default"), ("fastest", "fastest")] {
        if let (Some((_, ours)), Some((system, theirs))) = (off(true, mine), off(false, its)) {
            let (ours, theirs) = (ours.max(1e-3), theirs.max(1e-3));
            text += &format!(
                "\nPower-off, {mine}: {system} ({its}) takes {} times as long as xvip ({} against {}).\n",
                significant(theirs / ours),
                ms(theirs),
                ms(ours)
            );
        }
    }
    text
}

fn replication(found: &Failover) -> String {
    let mut table = Table::new(&["", "rounds", "least", "median", "95 % of rounds", "most"]);
    let mut any = false;
    let mut row = |what: &str, values: Vec<f64>| {
        if let Some(s) = Spread::of(values.iter().copied()) {
            any = true;
            let mut cells = vec![what.to_owned(), values.len().to_string()];
            cells.extend([s.min, s.p50, s.p95, s.max].map(ms));
            table.row(cells);
        }
    };
    let all = &found.replication;
    let rates: Vec<_> = all.iter().map(|r| r.connections_per_second).collect();
    let rate = median(&rates).map_or_else(String::new, si);
    row(
        &format!("acknowledged, median, {rate} new connections a second"),
        all.iter().map(|r| r.p50_ms).collect(),
    );
    row("acknowledged, 99th percentile", all.iter().map(|r| r.p99_ms).collect());
    row("acknowledged, slowest", all.iter().map(|r| r.max_ms).collect());
    let most = found.bulk.iter().map(|b| b.connections).max().unwrap_or(0);
    let copied = format!("a copy of {} connections", si(most as f64));
    row(&copied, found.bulk.iter().map(|b| b.ms).collect());
    if any { format!("\n{}", table.text) } else { String::new() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Page;
    use super::super::tests::record;
    use super::*;
    use crate::record::{BulkRound, ReplicationRound};

    fn row(system: &str, scenario: Scenario, times: &str, silences: &[f64]) -> FailoverRow {
        let round = |silence_ms: &f64| FailoverRound {
            silence_ms: *silence_ms,
            silence_after: 0.01,
            opened: 100_000,
            alive: if scenario == Scenario::PowerOff { 99_950 } else { 100_000 },
            resets: u64::from(scenario == Scenario::Reload),
            sent: 1_000_000,
            lost: 10,
            ..FailoverRound::default()
        };
        FailoverRow {
            system: system.into(),
            scenario,
            times: times.into(),
            load: "100 k connections, 512-byte packets, 1gbit".into(),
            connections: 100_000,
            rounds: silences.iter().map(round).collect(),
        }
    }

    /// A run with something kept and something not.
    pub(in super::super) fn made_up() -> Record {
        let rows = vec![
            row("xvip", Scenario::Nothing, "default", &[3.0, 4.0]),
            row("xvip", Scenario::PowerOff, "default", &[210.0, 240.0, 220.0]),
            row("xvip", Scenario::PowerOff, "tuned (keepalive 10ms)", &[60.0, 120.0]),
            row("keepalived, nftables", Scenario::PowerOff, "advert_int 1: default", &[3600.0]),
            row("xvip", Scenario::Switchover, "default", &[8.0]),
            row("xvip", Scenario::Reload, "default", &[5.0]),
        ];
        let round = |p99_ms| ReplicationRound {
            connections_per_second: 80_000.0,
            changes: 900_000,
            p50_ms: 4.0,
            p99_ms,
            max_ms: 80.0,
            contended: false,
        };
        let replication = vec![round(12.0), round(20.0)];
        let bulk = vec![BulkRound { connections: 100_000, ms: 640.0, contended: false }];
        let found = Failover { rows, replication, bulk };
        record("pair", "veth, generic, copy", Measured::Failover(found))
    }

    #[test]
    fn promises_of_a_pair_are_judged_by_the_worst_round() {
        let page = Page::of(&[made_up()]).unwrap();
        let line = |what: &str| page.text.lines().find(|l| l.contains(what)).unwrap().to_owned();
        let kept = line("node, default: service again in 300 ms");
        assert!(kept.contains("220 ms in the middle, 240 ms at most, of 3 rounds"), "{kept}");
        assert!(kept.ends_with("| yes |"), "{kept}");
        assert!(line("node, tuned: service again in 100 ms").ends_with("| **no** |"));
        assert!(line("99.9 % of 100 k connections live on").contains("99.950 %"));
        assert!(line("switchover: 0 of 100 k").ends_with("| yes |"));
        assert!(line("reload: 0 of 100 k").contains("1 resets, 100 % alive"));
        assert!(line("reload: 0 of 100 k").ends_with("| **no** |"));
        assert!(line("upgrade: 0 of 100 k").ends_with("| not measured yet |"));
        assert!(line("acknowledged in 50 ms").contains("at 80 k a second"));
        assert!(line("100 k connections copied in 1 s").ends_with("| yes |"));
        assert!(
            page.text.contains("keepalived, nftables (default) takes 16.4 times as long as xvip")
        );
        assert!(page.charts["failover-pair.svg"].contains("keepalived: power-off"));
    }

    #[test]
    fn who_is_alive_is_told_apart_for_quiet_rounds_and_judged_by_all() {
        let mut record = made_up();
        let Measured::Failover(found) = &mut record.measured else { panic!("a pair") };
        let row = found.rows.iter_mut().find(|r| r.scenario == Scenario::Switchover).unwrap();
        let void = FailoverRound { contended: true, alive: 90_000, ..row.rounds[0] };
        row.rounds.push(void);
        let page = Page::of(&[record]).unwrap();
        let line = page.text.lines().find(|l| l.contains("switchover: 0 of 100 k")).unwrap();
        assert!(
            line.contains("100 % alive in the worst of one round; 90.000 % alive in"),
            "{line}"
        );
        assert!(line.ends_with("| **no** (contended) |"), "{line}");
    }

    #[test]
    fn few_connections_keep_no_promise() {
        let mut record = made_up();
        let Measured::Failover(found) = &mut record.measured else { panic!("a pair") };
        found.rows.iter_mut().for_each(|row| row.connections = 2_000);
        let page = Page::of(&[record]).unwrap();
        let line = page.text.lines().find(|l| l.contains("service again in 300 ms")).unwrap();
        assert!(line.ends_with("| not measured yet |"), "{line}");
    }

    #[test]
    fn all_but_one_is_not_all() {
        assert_eq!((exact(1.0), exact(0.999_999_9)), ("100".into(), "99.999".into()));
    }
}
