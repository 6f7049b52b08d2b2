use std::path::Path;

use dataplane_api::service::Forwarding;
use pktgen::report::{Core, Direction, Latency, Limit};

use super::*;
use crate::machine::{Machine, Quiet};
use crate::packet_path::instructions::Counts;
use crate::packet_path::report::Row;
use crate::packet_path::scene;
use crate::packet_path::traffic::Family;
use crate::record::*;

pub(super) fn record(name: &str, mode: &str, measured: Measured) -> Record {
    let machine = Machine {
        cpu: "Fake <Processor> & Co.".into(),
        cpus: 2,
        kernel: "6.18.0".into(),
        memory_kib: 24 << 20,
        huge_pages: "always [madvise] never".into(),
        commit: Some("0123456789ab".into()),
        version: "0.1.0".into(),
    };
    let mut record = Record::new(name, mode, machine, Quiet::default(), measured);
    record.taken = "2026-01-02T03:04:05Z".into();
    record.command = format!("xvip-perf {}", record.measured.kind());
    record
}

fn core_row(direction: scene::Direction, connections: u32, burst: usize) -> Row {
    let slow = f64::from(connections).log10() * if burst == 1 { 100.0 } else { 6.0 };
    Row {
        method: Forwarding::Nat,
        direction,
        family: Family::V4,
        connections,
        burst,
        raw_ns: slow + 4.0,
        restore_ns: 4.0,
        net_ns: slow,
        best_ns: slow - 1.0,
        mpps: 1000.0 / slow,
        raw_mpps: 1000.0 / (slow + 4.0),
        lookup_ns: slow / 2.0,
        lookup_mpps: 2000.0 / slow,
        ratio: 2.0,
        opened_per_second: 2.5e6,
        table_bytes_per_connection: 84.2,
        broken_rounds: 0.0,
        instructions: Some(Counts { path: 932.0, lookup: 191.0 }),
    }
}

fn core() -> Record {
    let mut rows = Vec::new();
    for direction in [scene::Direction::Request, scene::Direction::Reply] {
        for connections in [100_000, 1_000_000, 10_000_000] {
            rows.extend([64, 1].map(|burst| core_row(direction, connections, burst)));
        }
    }
    record("path", "in memory", Measured::Core(rows))
}

fn scaling() -> Record {
    let row = |axis, value: u64, best: f64| ScalingRow {
        place: Place::Memory,
        axis,
        value,
        method: Forwarding::Nat,
        family: Family::V4,
        connections: value.max(1000),
        mpps: 1000.0 / best * if axis == Axis::Workers { value as f64 } else { 1.0 },
        ns: Some(best + 2.0),
        best_ns: Some(best),
        lookup_ns: Some(best / 3.0),
        opened_per_second: Some(2e6),
        bytes_per_connection: Some(84.0),
    };
    let connections = [(1_000, 40.0), (10_000, 42.0), (100_000, 45.0), (1_000_000, 80.0)];
    let mut rows = connections.map(|(n, ns)| row(Axis::Connections, n, ns)).to_vec();
    rows.extend([(1, 45.0), (10, 45.5), (1000, 46.0)].map(|(n, ns)| row(Axis::Reals, n, ns)));
    rows.extend([(1, 45.0), (2, 50.0)].map(|(n, ns)| row(Axis::Workers, n, ns)));
    let over = row(Axis::Connections, 100_000, 800.0);
    rows.push(ScalingRow { place: Place::Veth, ns: None, best_ns: None, lookup_ns: None, ..over });
    record("memory-nat-v4", "in memory", Measured::Scaling(rows))
}

fn trial(aim: Aim, method: Forwarding, size: u32, lost: u64) -> TargetRow {
    let asked_pps = 1e9 / 8.0 / (f64::from(size) + 20.0);
    let latency = Latency {
        samples: 1000,
        min: 9_000,
        mean: 2e4,
        p50: 18_000,
        p90: 30_000,
        p99: 62_000,
        p999: 140_000,
        max: 900_000,
    };
    let way = |lost| Direction {
        received_pps: asked_pps / 2.0,
        received_bps: 5e8,
        lost,
        latency: Some(latency),
        ..Direction::default()
    };
    TargetRow {
        aim,
        method,
        family: Family::V4,
        protocol: "tcp".into(),
        size: size.to_string(),
        connections: 100_000,
        alive: 100_000,
        seconds: 10.0,
        generator: "xdp, native".into(),
        asked_pps,
        asked_bps: 1e9,
        requests: way(lost),
        replies: way(0),
        cores: vec![
            Core { core: 0, busy: 0.4, ..Core::default() },
            Core { core: 1, busy: asked_pps / 1.6e6, ..Core::default() },
        ],
        dataplane_core: 1,
        bytes_per_connection: Some(84.4),
        resident_bytes: None,
        unexplained: 0,
        limit: Limit::None,
        passed: lost == 0,
        failures: if lost == 0 { vec![] } else { vec!["lost | 12 packets".into()] },
        contended: false,
        bare_requests: (aim == Aim::Latency).then_some(Latency { p99: 51_000, ..latency }),
        bare_replies: None,
        cable_requests: (aim == Aim::Latency).then_some(Latency { p99: 12_000, ..latency }),
        cable_replies: None,
        stalls: if aim == Aim::Latency { vec![stall()] } else { vec![] },
    }
}

fn stall() -> Stall {
    Stall {
        core: 1,
        seconds: 1.0,
        away: 0.012,
        times: 260,
        p99: 40_000,
        p999: 3_900_000,
        longest: 6_200_000,
    }
}

fn target() -> Record {
    let mut rows = Vec::new();
    for size in [64, 128, 256, 512, 1024, 1280, 1518] {
        let lost = if size == 64 { 12 } else { 0 };
        for (method, lost) in [(Forwarding::Nat, lost), (Forwarding::Direct, 0)] {
            rows.push(trial(Aim::Promise, method, size, lost));
        }
        let highest = trial(Aim::Highest, Forwarding::Nat, size, 0);
        rows.push(TargetRow { asked_pps: 1.4e6 - f64::from(size) * 200.0, ..highest });
    }
    rows.push(trial(Aim::Latency, Forwarding::Nat, 512, 0));
    record("nat", "veth, native, copy", Measured::Target(rows))
}

fn bare() -> Record {
    let sample = |highest: f64, ns| Sample {
        offered_pps: 7e5,
        received_pps: 7e5,
        lost: 0.0,
        busy: Some(0.6),
        ns: Some(ns),
        highest_pps: Some(highest),
        limit: Some(Limit::Device),
    };
    let round = |xvip, bare| BareRound { xvip: sample(xvip, 640.0), bare: sample(bare, 600.0) };
    let row = |size: &str| BareRow {
        method: Forwarding::Nat,
        family: Family::V4,
        size: size.into(),
        connections: 100_000,
        allowance: Some(0.001),
        rounds: vec![round(1.40e6, 1.44e6), round(1.38e6, 1.43e6), round(1.42e6, 1.45e6)],
    };
    record("nat", "veth, native, copy", Measured::Bare(vec![row("64"), row("imix")]))
}

fn peers() -> Record {
    let row = |workload: &str, unit: &str, up, system: &str, rounds: &[f64]| PeersRow {
        workload: workload.into(),
        unit: unit.into(),
        higher_is_better: up,
        system: system.into(),
        rounds: rounds.to_vec(),
    };
    let rows = vec![
        row("64-byte packets", "packets/s", true, "nftables", &[6e5, 6.2e5, 5.9e5]),
        row("64-byte packets", "packets/s", true, "xvip nat", &[1.4e6, 1.3e6, 1.45e6]),
        row("64-byte packets", "packets/s", true, "nftables flowtable", &[9e5, 9.1e5, 8.8e5]),
        row("HTTP", "requests/s", true, "xvip nat", &[3e4, 3.1e4]),
        row("HTTP", "requests/s", true, "HAProxy", &[3.2e4, 3.3e4]),
        row("HTTPS", "requests/s", true, "routing, no balancer", &[9e4]),
        row("HTTPS", "requests/s", true, "xvip nat", &[3e4]),
        row("HTTPS", "requests/s", true, "HAProxy", &[3.01e4]),
        row("HTTP", "µs (99th percentile)", false, "xvip nat", &[210.0, 220.0]),
        row("HTTP", "requests/s", true, "xvip nat", &[3e4, 3.1e4]),
        row("HTTP", "requests/s", true, "HAProxy", &[3.2e4, 3.3e4]),
        row("HTTPS", "requests/s", true, "routing, no balancer", &[9e4]),
        row("HTTPS", "requests/s", true, "xvip nat", &[3e4]),
        row("HTTPS", "requests/s", true, "HAProxy", &[3.01e4]),
        row("HTTP", "µs (99th percentile)", false, "HAProxy", &[180.0, 190.0]),
    ];
    let mut record = record("all", "veth, native, copy", Measured::Peers(rows));
    record.notes.push("HTTP: HAProxy is ahead of xvip: so and so.".into());
    record.notes.push("HAProxy kept connections open to the real servers".into());
    record
}

fn all() -> Vec<Record> {
    vec![bare(), core(), failover::tests::made_up(), peers(), scaling(), target()]
}

#[test]
fn every_chart_is_xml_that_names_what_it_was_measured_on() {
    let page = Page::of(&all()).unwrap();
    assert!(page.charts.len() > 10, "{:?}", page.charts.keys());
    for (name, svg) in &page.charts {
        let document = roxmltree::Document::parse(svg).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(document.root_element().tag_name().name(), "svg", "{name}");
        let texts = document.descendants().filter(|n| n.has_tag_name("text"));
        let text = texts.filter_map(|n| n.text()).map(str::trim).collect::<Vec<_>>().join(" ");
        let expected = ["Fake <Processor> & Co.", "Linux 6.18.0", "0123456789ab"];
        assert!(expected.iter().all(|part| text.contains(part)), "{name}: {text}");
        assert!(page.text.contains(&format!("(performance/{name})")), "{name} is not shown");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
}

#[test]
fn nothing_is_drawn_outside_of_a_chart() {
    for (name, svg) in &Page::of(&all()).unwrap().charts {
        let document = roxmltree::Document::parse(svg).unwrap();
        let number = |node: roxmltree::Node<'_, '_>, key: &str| -> Option<f64> {
            node.attribute(key)?.parse().ok()
        };
        let root = document.root_element();
        let (right, bottom) = (number(root, "width").unwrap(), number(root, "height").unwrap());
        for node in document.descendants() {
            for (keys, most) in
                [(["x", "x1", "x2", "cx"], right), (["y", "y1", "y2", "cy"], bottom)]
            {
                for value in keys.iter().filter_map(|key| number(node, key)) {
                    assert!((0.0..=most).contains(&value), "{name}: {node:?}");
                }
            }
            if let (Some(x), Some(size), None) =
                (number(node, "x"), number(node, "font-size"), node.attribute("transform"))
            {
                // An average letter of a sans-serif font is half as wide as it is high.
                let width = node.text().unwrap().trim().chars().count() as f64 * size * 0.5;
                let (from, to) = match node.attribute("text-anchor").unwrap() {
                    "start" => (x, x + width),
                    "middle" => (x - width / 2.0, x + width / 2.0),
                    _ => (x - width, x),
                };
                assert!(from >= 0.0 && to <= right, "{name}: {node:?} {from} to {to}");
            }
        }
    }
}

#[test]
fn the_same_records_make_the_same_page() {
    assert_eq!(Page::of(&all()).unwrap(), Page::of(&all()).unwrap());
}

#[test]
fn what_was_not_recorded_is_not_measured_yet() {
    let empty = Page::of(&[]).unwrap();
    assert!(empty.charts.is_empty());
    assert!(
        empty.text.contains("0 not, 30 undecided")
            && empty.text.contains("*Not measured yet: `xvip-perf ")
    );
    for line in empty.text.lines().filter(|l| l.starts_with("| 1 Gbit/s")) {
        assert!(line.ends_with("| not measured yet |"), "{line}");
    }
    // Each kind alone, and each of them without a row.
    for mut record in all() {
        Page::of(std::slice::from_ref(&record)).unwrap();
        match &mut record.measured {
            Measured::Core(rows) => rows.clear(),
            Measured::Scaling(rows) => rows.clear(),
            Measured::Target(rows) => rows.clear(),
            Measured::Bare(rows) => rows.iter_mut().for_each(|r| r.rounds.clear()),
            Measured::Peers(rows) => rows.iter_mut().for_each(|r| r.rounds.clear()),
            Measured::Failover(found) => found.rows.iter_mut().for_each(|r| r.rounds.clear()),
        }
        Page::of(&[record]).unwrap();
    }
}

#[test]
fn promises_are_kept_or_not_by_what_was_measured() {
    let page = Page::of(&all()).unwrap();
    let line = |what: &str| page.text.lines().find(|l| l.contains(what)).unwrap().to_owned();
    assert!(line("| 1 Gbit/s of 64-byte").ends_with("| **no** |"));
    assert!(line("| 1 Gbit/s of 64-byte").contains("lost \\| 12 packets"));
    assert!(line("| 1 Gbit/s of 128-byte").ends_with("| yes |"));
    assert!(line("`nat` IPv4, 10 M connections").ends_with("| yes |"));
    assert!(
        line("1 Gbit/s by direct IPv4")
            .contains("7 of 7 frame sizes (64, 128, 256, 512, 1024, 1280, 1518) | yes |")
    );
    assert!(line("1 Gbit/s by tunnel IPv4").ends_with("| not measured yet |"));
    assert!(line("you would take: 64-byte packets, packets/s").ends_with("| yes |"));
    assert!(line("you would take: HTTP, requests/s").ends_with("| **no** |"));
    assert!(
        line("you would take: HTTPS, requests/s").ends_with("level with HAProxy | undecided |")
    );
    assert!(
        page.text.contains("**HAProxy is ahead of xvip nat in µs (99th percentile): 1.16 times.**")
    );
    assert!(!page.text.contains("so and so"));
    assert_eq!(page.text.matches("- HAProxy kept connections open").count(), 1);
    assert!(line("**1.78 ×: a cliff**").starts_with("| 1 M "));
}

#[test]
fn a_contended_run_is_shown_as_one() {
    let mut record = target();
    record.quiet.contended = true;
    let Measured::Target(rows) = &mut record.measured else { panic!("a target") };
    rows.iter_mut().for_each(|row| row.contended = true);
    let page = Page::of(&[record]).unwrap();
    assert!(page.text.contains("| yes (contended) |"));
    assert!(page.charts["busy.svg"].contains("CONTENDED"));
    let mut record = core();
    record.quiet.contended = true;
    let page = Page::of(&[record]).unwrap();
    assert!(page.text.contains("**Contended: others used these cores"));
}

#[test]
fn the_page_in_the_tree_is_what_the_records_in_the_tree_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = Page::of(&record::load(&root.join("perf/records")).unwrap()).unwrap();
    let docs = root.join("docs");
    let again = "run `cargo run -p perf -- report`";
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    assert!(read(&docs.join(PAGE)) == page.text, "docs/{PAGE} is out of date: {again}");
    let charts = docs.join(CHARTS);
    for (name, svg) in &page.charts {
        assert!(read(&charts.join(name)) == *svg, "docs/{CHARTS}/{name} is out of date: {again}");
    }
    let present = if charts.exists() { svgs(&charts).unwrap() } else { Vec::new() };
    let left: Vec<_> = present.iter().filter(|n| !page.charts.contains_key(*n)).collect();
    assert!(left.is_empty(), "{left:?} are of an older page: {again}");
}

#[test]
fn a_report_replaces_the_page_and_removes_charts_it_no_longer_has() {
    let dir = tempfile::tempdir().unwrap();
    let (records, out) = (dir.path().join("records"), dir.path().join("docs"));
    target().save(&records).unwrap();
    let options = Options { records: records.clone(), out: out.clone() };
    run(&options).unwrap();
    assert!(out.join("performance/busy.svg").exists());
    fs::remove_file(records.join("target-nat.json")).unwrap();
    peers().save(&records).unwrap();
    run(&options).unwrap();
    assert_eq!(svgs(&out.join("performance")).unwrap().len(), 3);
    assert!(fs::read_to_string(out.join(PAGE)).unwrap().contains("HAProxy"));
}
