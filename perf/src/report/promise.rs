//! What is promised (the design's figures), beside what was measured.

use dataplane_api::service::Forwarding;

use super::number::{percent, si, significant, time};
use super::peers::Lead;
use super::throughput::{lost, received, trials, ways};
use super::{Charts, Table, bare, core, failover, frame, latency, path, peers, sizing};
use crate::packet_path::scene::Direction;
use crate::packet_path::traffic::Family;
use crate::record::{Aim, Record, TargetRow};

/// Frame sizes of the promise.
const SIZES: [&str; 7] = ["64", "128", "256", "512", "1024", "1280", "1518"];
/// Mpps in memory, by connections.
const CORE: [(u32, f64); 3] = [(100_000, 25.0), (1_000_000, 20.0), (10_000_000, 15.0)];
/// Of what a bare forwarder does.
const BARE: f64 = 0.97;
/// Nanoseconds, the 99th percentile at half load.
const LATENCY: u64 = 100_000;
/// Bytes a connection.
const MEMORY: f64 = 128.0;

/// A line of the table.
pub(super) struct Line {
    pub(super) what: String,
    pub(super) measured: String,
    /// None: not measured.
    pub(super) kept: Option<bool>,
    pub(super) contended: bool,
}

impl Line {
    pub(super) fn missing(what: impl Into<String>) -> Self {
        Self { what: what.into(), measured: String::new(), kept: None, contended: false }
    }
}

pub(super) fn section(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    let mut lines = in_memory(records);
    lines.extend(gigabit(records));
    lines.extend(others(records));
    lines.push(slow(records));
    lines.push(beside_bare(records));
    lines.extend(beside_peers(records));
    lines.push(memory(records));
    lines.extend(failover::promises(records));
    let mut table = Table::of_words(&["promise", "measured", "kept"]);
    for line in &lines {
        let kept = match line.kept {
            Some(true) => "yes",
            Some(false) => "**no**",
            None if line.measured.is_empty() => "not measured yet",
            None => "undecided",
        };
        let note = if line.contended { " (contended)" } else { "" };
        table.row([line.what.clone(), line.measured.clone(), format!("{kept}{note}")]);
    }
    let count = |kept| lines.iter().filter(|l| l.kept == Some(kept)).count();
    let open = lines.iter().filter(|l| l.kept.is_none()).count();
    Ok(format!(
        "{} of {} promises kept, {} not, {open} undecided or not measured yet.\n\n{}",
        count(true),
        lines.len(),
        count(false),
        table.text
    ))
}

fn in_memory(records: &[Record]) -> Vec<Line> {
    let rows = core::rows(records);
    let nat = |connections| {
        rows.iter().find(|(_, r)| {
            let path = (r.method, r.family, r.direction, r.connections);
            path == (Forwarding::Nat, Family::V4, Direction::Request, connections)
        })
    };
    let line = |(connections, promised): (u32, f64)| {
        let what = format!(
            "in memory, one core, `nat` IPv4, {} connections: {promised} Mpps",
            si(f64::from(connections))
        );
        let Some((record, row)) = nat(connections) else { return Line::missing(what) };
        let measured = format!(
            "{} Mpps; the bare lookup of the same run {}",
            significant(row.mpps),
            significant(row.lookup_mpps)
        );
        let contended = record.contended();
        Line { what, measured, kept: Some(row.mpps >= promised), contended }
    };
    CORE.map(line).into()
}

fn is_main(row: &TargetRow) -> bool {
    (row.method, row.family) == (Forwarding::Nat, Family::V4) && row.protocol == "tcp"
}

/// 1 Gbit/s through NAT, by frame size; then what goes beyond it.
fn gigabit(records: &[Record]) -> Vec<Line> {
    let trials = trials(records);
    let find = |size: &str, held: &dyn Fn(u64) -> bool| {
        let fits = |r: &TargetRow| is_main(r) && r.size == size && held(r.connections);
        trials.iter().find(|(_, r)| r.aim == Aim::Promise && fits(r))
    };
    let mut lines = Vec::new();
    for size in SIZES {
        let what =
            format!("1 Gbit/s of {size}-byte frames, 100 k connections, `nat` IPv4: no loss");
        lines.push(match find(size, &|n| (100_000..1_000_000).contains(&n)) {
            Some((_, row)) => trial(what, row),
            None => Line::missing(what),
        });
    }
    let held: Vec<_> = SIZES.iter().filter_map(|s| find(s, &|n| n >= 1_000_000)).copied().collect();
    lines.push(together("the same with 1 M connections".into(), &held));
    let beyond = trials.iter().filter(|(_, r)| r.aim == Aim::Beyond && is_main(r));
    lines.extend(beyond.map(|(_, row)| {
        let (rate, ways) = (si(row.asked_pps), ways(row));
        let what = format!("{rate} packets/s, {}, {ways}: no loss", frame(&row.size));
        trial(what, row)
    }));
    lines
}

fn trial(what: String, row: &TargetRow) -> Line {
    let bits = row.requests.received_bps + row.replies.received_bps;
    let mut measured = format!(
        "{:.3} Mpps, {:.3} Gbit/s, {} lost, {} connections alive",
        received(row) / 1e6,
        bits / 1e9,
        lost(row),
        si(row.alive as f64)
    );
    if !row.passed && !row.failures.is_empty() {
        measured += &format!(": {}", row.failures.join("; "));
    }
    Line { what, measured, kept: Some(row.passed), contended: row.contended }
}

fn together(what: String, rows: &[(&Record, &TargetRow)]) -> Line {
    if rows.is_empty() {
        return Line::missing(what);
    }
    let passed = rows.iter().filter(|(_, r)| r.passed).count();
    let failed: Vec<_> =
        rows.iter().filter(|(_, r)| !r.passed).map(|(_, r)| r.size.as_str()).collect();
    let sizes: Vec<_> = rows.iter().map(|(_, r)| r.size.as_str()).collect();
    let mut measured = format!("{} of {} frame sizes ({})", passed, rows.len(), sizes.join(", "));
    if !failed.is_empty() {
        measured += &format!("; not with {}", failed.join(", "));
    }
    let contended = rows.iter().any(|(_, row)| row.contended);
    Line { what, measured, kept: Some(failed.is_empty()), contended }
}

/// The other methods and IPv6, at all frame sizes.
fn others(records: &[Record]) -> Vec<Line> {
    let trials = trials(records);
    let paths = [
        (Forwarding::Fullnat, Family::V4),
        (Forwarding::Direct, Family::V4),
        (Forwarding::Tunnel, Family::V4),
        (Forwarding::Nat, Family::V6),
    ];
    let line = |(method, family)| {
        let fits = |r: &TargetRow| (r.method, r.family, r.aim) == (method, family, Aim::Promise);
        let rows: Vec<_> = trials.iter().filter(|(_, r)| fits(r)).copied().collect();
        together(format!("1 Gbit/s by {}: no loss", path(method, family)), &rows)
    };
    paths.map(line).into()
}

fn slow(records: &[Record]) -> Line {
    let limit = time(LATENCY as f64);
    let what = format!("latency added at half load, 99th percentile: {limit} at most");
    let Some(worst) = latency::worst(records) else { return Line::missing(what) };
    let whole = format!("{} with generator and kernel", time(worst.whole as f64));
    let (mut measured, kept) = match worst.added {
        Some((nanos, to)) => (
            format!("{} added to {to}; {whole}", time(nanos.max(0) as f64)),
            Some(nanos <= LATENCY.cast_signed()),
        ),
        // What is added is part of the whole, so the whole may prove it kept, but never broken.
        None => (whole, (worst.whole <= LATENCY).then_some(true)),
    };
    if let Some(stall) = worst.row.stalls.iter().map(|s| s.p999).max() {
        measured +=
            &format!("; an idle core of this machine stalls {} (99.9 %)", time(stall as f64));
    }
    Line { what, measured, kept, contended: worst.row.contended }
}

fn beside_bare(records: &[Record]) -> Line {
    let what = format!("`nat`: {} of a bare AF_XDP forwarder in the same run", percent(BARE));
    let rows: Vec<_> = bare::rows(records)
        .into_iter()
        .filter(|(_, r)| r.method == Forwarding::Nat)
        .filter_map(|(record, row)| Some((record, row, bare::verdict(row)?)))
        .collect();
    let Some((_, row, least)) = rows.iter().min_by(|a, b| a.2.ratio.total_cmp(&b.2.ratio)) else {
        return Line::missing(what);
    };
    let costs = row.costs().map_or_else(String::new, |costs| {
        format!("; by the time of its core for a packet, at one rate, {}", percent(costs))
    });
    let measured = format!(
        "{} {} at {}, the least of {}{}",
        percent(least.ratio),
        least.by,
        frame(&row.size),
        rows.len(),
        if row.rates_count() { costs } else { String::new() }
    );
    let contended = rows.iter().any(|(record, ..)| record.contended());
    Line { what, measured, kept: Some(least.ratio >= BARE), contended }
}

/// In what more is better: packets, connections, requests a second.
fn beside_peers(records: &[Record]) -> Vec<Line> {
    let what = |name: &str| format!("ahead of what else you would take: {name}");
    let mut lines = Vec::new();
    for workload in peers::workloads(records) {
        for figure in workload.figures.iter().filter(|f| f.more) {
            let Some((times, lead, ours, theirs)) = figure.lead() else { continue };
            let (ours, theirs) = (&ours.system, &theirs.system);
            let mut measured = match lead {
                Lead::Level => format!("{ours} is level with {theirs}"),
                _ => format!("{ours} is {} times as good as {theirs}", significant(times)),
            };
            if let Some((system, times)) = figure.past() {
                measured += &format!("; {system}: {} times", significant(times));
            }
            lines.push(Line {
                what: what(&format!("{}, {}", workload.name, figure.unit)),
                measured,
                // Level is neither: both did all that was asked.
                kept: (lead != Lead::Level).then_some(lead == Lead::Ours),
                contended: workload.record.contended(),
            });
        }
    }
    if lines.is_empty() {
        lines.push(Line::missing(what("nftables NAT, HAProxy (TCP), nginx stream")));
    }
    lines
}

fn memory(records: &[Record]) -> Line {
    let what = format!("memory: {MEMORY} bytes a connection at most");
    let Some((bytes, record)) = sizing::bytes_per_connection(records) else {
        return Line::missing(what);
    };
    let measured = format!("{} bytes", significant(bytes));
    Line { what, measured, kept: Some(bytes <= MEMORY), contended: record.contended() }
}
