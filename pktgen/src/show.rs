//! The report as a table for people.
//!
//! Pure: a report in, text out.

use std::fmt::Write;

use crate::report::{Direction, Latency, Limit, NeighborChange, Report, Trial};
use crate::trial::{bps, percent, pps};

/// The whole report.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    match report.verb.as_str() {
        "cps" => steps(&mut out, report),
        "ndr" => rates(&mut out, report),
        _ => {
            for trial in &report.trials {
                one(&mut out, trial);
            }
        }
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for failure in &report.failures {
        let _ = writeln!(out, "failed: {failure}");
    }
    let _ = writeln!(out, "{}", if report.passed { "PASS" } else { "FAIL" });
    out
}

/// One trial with everything about it.
fn one(out: &mut String, trial: &Trial) {
    let _ = writeln!(
        out,
        "{} bytes, {} ({}) asked for, {:.1} s, engine {}{}\n",
        trial.size,
        pps(trial.asked_pps),
        bps(trial.asked_bps),
        trial.seconds,
        trial.engine,
        if trial.mode.is_empty() { String::new() } else { format!(" ({})", trial.mode) },
    );
    ways(out, trial);
    latencies(out, trial);
    connections(out, trial);
    if let Some(flood) = &trial.flood {
        let [syn, udp] = [flood.syn, flood.udp]
            .map(|[due, sent]| format!("{} of {}", grouped(sent), grouped(due)));
        let _ = writeln!(
            out,
            "flood        {syn} SYNs and {udp} UDP packets ({}), {} came out at the real servers\n",
            pps(flood.sent_pps),
            grouped(flood.arrived),
        );
    }
    neighbors(out, trial);
    books(out, trial);
    cores(out, trial);
}

/// What a fail-over is judged by.
fn neighbors(out: &mut String, trial: &Trial) {
    if let Some(silence) = trial.longest_silence {
        let (ms, seconds) = (silence.ms, silence.seconds);
        let _ = writeln!(out, "silence      {ms:.1} ms at most, {seconds:.3} s into the traffic");
    }
    for change in &trial.neighbors {
        let NeighborChange { seconds, from, to } = change;
        let _ = writeln!(out, "next hop     moved from {from} to {to} after {seconds:.3} s");
    }
    let more = trial.neighbor_changes.saturating_sub(trial.neighbors.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "             and {} times more", grouped(more));
    }
    if trial.longest_silence.is_some() || trial.neighbor_changes > 0 {
        out.push('\n');
    }
}

fn ways(out: &mut String, trial: &Trial) {
    let (a, b) = (&trial.requests, &trial.replies);
    let mut row = |name: &str, requests: String, replies: String| {
        let _ = writeln!(out, "{name:<22}{requests:>18}{replies:>18}");
    };
    row("", "requests".to_owned(), "replies".to_owned());
    for (name, requests, replies) in [
        ("due", a.due, b.due),
        ("sent", a.sent, b.sent),
        ("received", a.received, b.received),
        ("lost", a.lost, b.lost),
        ("duplicated", a.duplicated, b.duplicated),
        ("reordered", a.reordered, b.reordered),
        ("corrupted", a.corrupted, b.corrupted),
        ("strayed", a.strayed, b.strayed),
    ] {
        row(name, grouped(requests), grouped(replies));
    }
    let share =
        |d: &Direction| percent(if d.sent == 0 { 0.0 } else { d.lost as f64 / d.sent as f64 });
    row("lost of sent", share(a), share(b));
    row("received a second", pps(a.received_pps), pps(b.received_pps));
    row("on a wire", bps(a.received_bps), bps(b.received_bps));
}

fn latencies(out: &mut String, trial: &Trial) {
    let both = [("requests", &trial.requests.latency), ("replies", &trial.replies.latency)];
    for (name, latency) in both {
        let Some(l) = latency else { continue };
        let Latency { min, p50, p90, p99, p999, max, .. } = *l;
        let [min, p50, p90, p99, p999, max] = [min, p50, p90, p99, p999, max].map(micros);
        let _ = writeln!(
            out,
            "latency of {name:<9} µs  min {min}  p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  \
             max {max}"
        );
    }
    out.push('\n');
}

fn connections(out: &mut String, trial: &Trial) {
    let c = &trial.connections;
    let _ = writeln!(
        out,
        "connections  {} of {} opened ({} a second, {} openings repeated), {} alive, {} at the end, {} closed",
        grouped(c.opened),
        grouped(c.wanted),
        grouped(c.opened_per_second as u64),
        grouped(c.repeated),
        grouped(c.alive),
        grouped(c.alive_at_end),
        grouped(c.closed),
    );
    if let Some(active) = c.balancer_active {
        let _ =
            writeln!(out, "             {} established by the balancer's count", grouped(active));
    }
    let _ =
        writeln!(out, "             at least {} packets through each", grouped(c.least_packets));
    let shown = 8;
    let shares: Vec<_> = (c.reals.iter().take(shown))
        .map(|share| format!("{} {}", share.real, grouped(share.connections)))
        .collect();
    if !shares.is_empty() {
        let more = c.reals.len().saturating_sub(shown);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(out, "real servers {}{more}", shares.join("  "));
    }
    out.push('\n');
}

/// The ledger: what was sent, and where it went, with the sum under it.
fn books(out: &mut String, trial: &Trial) {
    let mut lines = trial.ledger.iter();
    let Some(sent) = lines.next() else { return };
    let _ = writeln!(out, "{:<52}{:>18}", sent.place, grouped(sent.packets));
    let mut sum = trial.unexplained;
    for line in lines {
        sum = sum.saturating_add(i64::try_from(line.packets).unwrap_or(i64::MAX));
        let _ = writeln!(out, "  {:<50}{:>18}", line.place, grouped(line.packets));
    }
    if trial.unexplained != 0 {
        let sign = if trial.unexplained < 0 { "-" } else { "" };
        let count = format!("{sign}{}", grouped(trial.unexplained.unsigned_abs()));
        let _ = writeln!(out, "  {:<50}{count:>18}", "unexplained");
    }
    let sum = u64::try_from(sum).unwrap_or(0);
    let equal = if sum == sent.packets { "= sent" } else { "is not what was sent" };
    let _ = writeln!(out, "  {:<50}{:>18} {equal}\n", "sum", grouped(sum));
}

fn cores(out: &mut String, trial: &Trial) {
    let _ = writeln!(out, "limit        {}", limit(trial.limit));
    let used: Vec<_> = (trial.cores.iter())
        .filter(|core| core.busy >= 0.05)
        .take(16)
        .map(|c| {
            let stolen = if c.stolen >= 0.01 {
                format!(", {:.0} % stolen", c.stolen * 100.0)
            } else {
                String::new()
            };
            let (busy, softirq) = (c.busy * 100.0, c.softirq * 100.0);
            format!("{} {busy:.0} % ({softirq:.0} % softirq{stolen})", c.core)
        })
        .collect();
    if !used.is_empty() {
        let _ = writeln!(out, "cores        {}", used.join("  "));
    }
    out.push('\n');
}

/// Who set the limit, in words.
#[must_use]
pub fn limit(limit: Limit) -> &'static str {
    match limit {
        Limit::None => "none was reached",
        Limit::Generator => "the generator: it could not send what was due",
        Limit::Device => "the device under test: packets were lost in it",
        Limit::Receiver => "the generator's receiving side: packets were lost there",
        Limit::Unknown => "unknown: packets were lost, and no counter says where",
    }
}

/// The steps of `cps`.
fn steps(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "{:>12}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}  limit",
        "asked/s", "begun/s", "completed/s", "completed", "repeated", "failed", "failed %"
    );
    for trial in &report.trials {
        let d = &trial.requests;
        let share = if d.sent == 0 { 0.0 } else { d.lost as f64 / d.sent as f64 };
        let _ = writeln!(
            out,
            "{:>12}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}  {}",
            grouped(trial.asked_pps as u64),
            grouped(d.sent_pps as u64),
            grouped(trial.connections.opened_per_second as u64),
            grouped(d.received),
            grouped(trial.connections.repeated),
            grouped(d.lost),
            percent(share),
            limit(trial.limit).split(':').next().unwrap_or_default(),
        );
    }
    out.push('\n');
    if let Some(last) = report.trials.last() {
        books(out, last);
        cores(out, last);
    }
}

/// The results of `ndr`, and the trials that led there.
fn rates(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "{:>6}{:>16}{:>18}{:>10}{:>8}  limit above it",
        "size", "rate", "on a wire", "allowed", "trials"
    );
    for row in &report.ndr {
        let _ = writeln!(
            out,
            "{:>6}{:>16}{:>18}{:>10}{:>8}  {}",
            row.size,
            pps(row.pps),
            bps(row.bps),
            percent(row.allowance),
            row.trials,
            limit(row.limit).split(':').next().unwrap_or_default(),
        );
    }
    out.push('\n');
}

fn micros(nanos: u64) -> String {
    let micros = nanos as f64 / 1000.0;
    if micros < 100.0 { format!("{micros:.1}") } else { grouped(micros.round() as u64) }
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Connections, Core, Line, Ndr, SCHEMA, Share, Silence};

    fn report(verb: &str) -> Report {
        let line = |place: &str, packets| Line { place: place.to_owned(), packets };
        let latency = Latency { samples: 9, min: 900, p99: 1_234_567, ..Latency::default() };
        let trial = Trial {
            engine: "af_xdp".to_owned(),
            mode: "native, copy".to_owned(),
            size: "128".to_owned(),
            seconds: 10.0,
            asked_pps: 844_594.6,
            asked_bps: 1e9,
            requests: Direction {
                due: 1000,
                sent: 1000,
                received: 988,
                lost: 12,
                latency: Some(latency),
                ..Direction::default()
            },
            connections: Connections {
                wanted: 100_000,
                opened: 99_999,
                balancer_active: Some(99_998),
                reals: vec![Share { real: "198.19.0.1".to_owned(), connections: 5 }],
                ..Connections::default()
            },
            ledger: vec![
                line("sent", 1000),
                line("received by the real servers", 988),
                line("balancer drop: table_full", 10),
            ],
            unexplained: 2,
            limit: Limit::Device,
            neighbor_changes: 3,
            neighbors: vec![NeighborChange {
                seconds: 1.5,
                from: "02:00:00:00:00:01".to_owned(),
                to: "02:00:00:00:00:02".to_owned(),
            }],
            longest_silence: Some(Silence { ms: 87.25, seconds: 1.4998 }),
            cores: vec![Core { core: 1, busy: 0.8, softirq: 0.25, stolen: 0.02 }],
            ..Trial::default()
        };
        let row =
            Ndr { size: "64".to_owned(), pps: 1.2e6, bps: 8.064e8, trials: 9, ..Ndr::default() };
        Report {
            schema: SCHEMA,
            version: "1".to_owned(),
            verb: verb.to_owned(),
            scenario: serde_json::Value::Null,
            trials: vec![trial],
            ndr: vec![row],
            passed: false,
            failures: vec!["12 lost".to_owned()],
            notes: vec!["n".to_owned()],
        }
    }

    #[test]
    fn a_table_has_every_figure_and_a_sum_that_is_equal() {
        let text = table(&report("load"));
        for part in [
            "128 bytes, 844.595 kpps (1.000 Gbit/s) asked for, 10.0 s, engine af_xdp (native, copy)",
            "latency of requests  µs  min 0.9",
            "p99 1,235",
            "99,999 of 100,000 opened",
            "99,998 established by the balancer's count",
            "198.19.0.1 5",
            "silence      87.2 ms at most, 1.500 s into the traffic",
            "moved from 02:00:00:00:00:01 to 02:00:00:00:00:02 after 1.500 s\n             and 2",
            "balancer drop: table_full",
            "unexplained",
            "1,000 = sent",
            "limit        the device under test",
            "1 80 % (25 % softirq, 2 % stolen)",
            "note: n\nfailed: 12 lost\nFAIL\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("latency of replies"), "none was measured");
    }

    #[test]
    fn steps_and_searches_have_a_row_each() {
        let text = table(&report("ndr"));
        assert!(text.contains("1.200 Mpps") && text.contains("806.400 Mbit/s"), "{text}");
        let text = table(&report("cps"));
        assert!(text.contains("844,594") && text.contains("1.2 %"), "{text}");
    }

    #[test]
    fn a_sum_that_is_not_equal_is_said_to_be_so() {
        let mut report = report("load");
        report.trials[0].unexplained = 0;
        assert!(table(&report).contains("998 is not what was sent"));
    }

    #[test]
    fn thousands_are_apart() {
        let shown = [0, 7, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "7", "999", "1,000", "1,234,567"]);
    }
}
