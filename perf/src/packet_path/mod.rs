//! `xvip-perf core`: the in-memory packet path, per forwarding method, direction and address family,
//! beside the bare lookup of the same connections in the same table.

pub(crate) mod instructions;
pub(crate) mod measure;
pub(crate) mod report;
pub(crate) mod scene;
pub(crate) mod shape;
pub(crate) mod traffic;
mod verify;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use dataplane::limits::{self, BURST};
use dataplane_api::service::Forwarding;

use crate::machine::{Machine, Quiet, Watch, round};
use crate::record::{Measured, Record};
use instructions::Counts;
use measure::{Rounds, measure};
use report::{Report, Row};
use scene::{Direction, FULLNAT_MAX, Scene};
pub(crate) use traffic::Family;

/// Forwarding method, as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// Destination rewritten in, source rewritten back.
    Nat,
    /// Both rewritten, both ways.
    Fullnat,
    /// MAC addresses only.
    Direct,
    /// IP in IP.
    Tunnel,
}

impl From<Method> for Forwarding {
    fn from(method: Method) -> Self {
        match method {
            Method::Nat => Self::Nat,
            Method::Fullnat => Self::Fullnat,
            Method::Direct => Self::Direct,
            Method::Tunnel => Self::Tunnel,
        }
    }
}

impl From<Forwarding> for Method {
    fn from(method: Forwarding) -> Self {
        match method {
            Forwarding::Nat => Self::Nat,
            Forwarding::Fullnat => Self::Fullnat,
            Forwarding::Direct => Self::Direct,
            Forwarding::Tunnel => Self::Tunnel,
        }
    }
}

/// Options of `core`.
#[derive(Args)]
pub(crate) struct Options {
    /// Connections in the table, all alive: numbers with k or m.
    #[arg(long, value_delimiter = ',', default_value = "100k,1m,10m", value_parser = number)]
    connections: Vec<u32>,
    /// Seconds for each row.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Forwarding methods; all of them by default.
    #[arg(long, value_delimiter = ',')]
    method: Vec<Method>,
    /// Address families; both by default.
    #[arg(long, value_delimiter = ',')]
    family: Vec<Family>,
    /// Packets a burst, which is also how far ahead memory is asked for.
    #[arg(long, value_delimiter = ',', default_value = "64", value_parser = burst)]
    burst: Vec<usize>,
    /// The core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Counts instructions too, with valgrind (some minutes).
    #[arg(long)]
    instructions: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Records the run in this directory, for `xvip-perf report`.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Name of the record: a run of the same name takes its place.
    #[arg(long, default_value = "path")]
    record_as: String,
}

/// Measures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !(options.seconds > 0.0 && options.seconds <= 3600.0) {
        bail!("--seconds {}: expected more than 0 and at most 3600", options.seconds);
    }
    let machine = Machine::here();
    pin(options.core)?;
    // Before the watch starts: to it, the time in which valgrind runs would be lost.
    let counts = count(options)?;
    let mut report = Report::new(machine, options);
    let watch = Watch::start(options.core);
    for scene in scenes(options) {
        report.say(scene_rows(scene, options, &counts)?);
    }
    let quiet = watch.finish();
    if let Some(dir) = &options.record {
        record(&report, &quiet, options).save(dir)?;
    }
    report.finish(quiet);
    Ok(())
}

fn record(report: &Report, quiet: &Quiet, options: &Options) -> Record {
    let (machine, rows) = (report.machine.clone(), report.rows.clone());
    Record::new(&options.record_as, "in memory", machine, quiet.clone(), Measured::Core(rows))
}

pub(crate) fn pin(core: usize) -> anyhow::Result<()> {
    let cores = core_affinity::get_core_ids().context("this machine's cores")?;
    let id = cores.into_iter().find(|c| c.id == core);
    match id {
        Some(id) if core_affinity::set_for_current(id) => Ok(()),
        _ => bail!("--core {core}: there is no such core, or this process may not run on it"),
    }
}

/// Method, family, connections.
type Setting = (Forwarding, Family, u32);

fn scenes(options: &Options) -> Vec<Setting> {
    let or_all = |chosen: &[Method]| {
        if chosen.is_empty() { Method::value_variants().to_vec() } else { chosen.to_vec() }
    };
    let families = match options.family.as_slice() {
        [] => Family::value_variants(),
        chosen => chosen,
    };
    let mut scenes = Vec::new();
    for method in or_all(&options.method) {
        let method = Forwarding::from(method);
        for &family in families {
            for &connections in &options.connections {
                let most = if method == Forwarding::Fullnat { FULLNAT_MAX } else { u32::MAX };
                scenes.push((method, family, connections.min(most)));
            }
        }
    }
    scenes
}

/// Instructions of each case; those of all sizes of table are the same.
type Counted = BTreeMap<(Forwarding, Family, Direction, usize), Counts>;

fn count(options: &Options) -> anyhow::Result<Counted> {
    let mut counted = Counted::new();
    if !options.instructions {
        return Ok(counted);
    }
    for (method, family, _) in scenes(options) {
        for direction in [Direction::Request, Direction::Reply] {
            if direction == Direction::Reply && method.is_one_way() {
                continue;
            }
            for &burst in &options.burst {
                if let Entry::Vacant(entry) = counted.entry((method, family, direction, burst)) {
                    entry.insert(instructions::count(method, family, direction, burst)?);
                }
            }
        }
    }
    Ok(counted)
}

/// The rows of one table: for each direction and burst size.
fn scene_rows(
    (method, family, connections): Setting,
    options: &Options,
    counts: &Counted,
) -> anyhow::Result<Vec<Row>> {
    let mut scene = Scene::new(method, family, connections)?;
    let mut opening = Rounds::default();
    let (requests, replies) = scene
        .open(|nanos| opening.add(nanos as f64 / BURST as f64))
        .with_context(|| format!("{method:?} over {family:?}"))?;
    let mut rows = Vec::new();
    let directions = [(Direction::Request, Some(&requests)), (Direction::Reply, replies.as_ref())];
    for (direction, traffic) in directions {
        let Some(traffic) = traffic else { continue };
        scene.verify(traffic)?;
        for &burst in &options.burst {
            let time = Duration::from_secs_f64(options.seconds);
            let times = measure(&mut scene, traffic, &requests, burst, time);
            scene.check_drops()?;
            let (raw, restore) = (times.raw.median(), times.restore.median());
            let best = times.raw.best() - times.restore.best();
            let (net, lookup) = (raw - restore, times.lookup.median());
            rows.push(Row {
                method,
                family,
                direction,
                connections,
                burst,
                raw_ns: round(raw, 2),
                restore_ns: round(restore, 2),
                net_ns: round(net, 2),
                best_ns: round(best, 2),
                mpps: round(1000.0 / net, 2),
                raw_mpps: round(1000.0 / raw, 2),
                lookup_ns: round(lookup, 2),
                lookup_mpps: round(1000.0 / lookup, 2),
                ratio: round(best / times.lookup.best(), 2),
                opened_per_second: (1e9 / opening.median()).round(),
                table_bytes_per_connection: round(scene.bytes_per_connection, 1),
                broken_rounds: round(times.raw.broken(), 3),
                instructions: counts.get(&(method, family, direction, burst)).copied(),
            });
        }
    }
    Ok(rows)
}

/// The table is made a little larger, and that has a limit.
const LIMIT: u32 = limits::CONNECTIONS / 9 * 8;

pub(crate) fn number(text: &str) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix(['k', 'm']) {
        Some(digits) if lower.ends_with('k') => (digits, 1_000),
        Some(digits) => (digits, 1_000_000),
        None => (lower.as_str(), 1),
    };
    let least = BURST as u32;
    let number = digits.parse::<u32>().ok().and_then(|n| n.checked_mul(unit));
    number
        .filter(|n| (least..=LIMIT).contains(n))
        .ok_or_else(|| format!("expected {least} to {LIMIT}, like 100k or 1m"))
}

pub(crate) fn burst(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (1..=BURST).contains(n));
    number.ok_or_else(|| format!("expected 1 to {BURST}"))
}

#[cfg(test)]
mod tests {
    use super::shape::Shape;
    use super::*;
    use dataplane::address::RealId;

    #[test]
    fn every_method_forwards_what_it_opened() {
        for method in Method::value_variants() {
            for &family in Family::value_variants() {
                let mut scene = Scene::new((*method).into(), family, 1000).unwrap();
                let (requests, replies) = scene.open(|_| {}).unwrap();
                scene.verify(&requests).unwrap();
                assert_eq!(replies.is_some(), !Forwarding::from(*method).is_one_way());
                if let Some(replies) = replies {
                    scene.verify(&replies).unwrap();
                }
                assert_eq!(scene.look_up(&requests, &mut 0, 64, 10), 640);
            }
        }
    }

    #[test]
    fn several_services_and_workers_forward_what_one_of_them_opened() {
        let shape =
            Shape { services: 9, reals: 3, ..Shape::plain(Forwarding::Nat, Family::V4, 999) };
        let mut scene = Scene::of(shape).unwrap();
        let (requests, replies) = scene.open(|_| {}).unwrap();
        let replies = replies.unwrap();
        let mut other = scene.beside(1, 2);
        for scene in [&mut scene, &mut other] {
            scene.verify(&requests).unwrap();
            scene.verify(&replies).unwrap();
            scene.forward(&requests, &mut 0, 64, 16);
            scene.check_drops().unwrap();
        }
        let loads = (0..27).map(|real| scene.shared.loads.of(RealId(real)).active());
        assert_eq!(loads.collect::<Vec<_>>(), [37; 27]);
    }

    #[test]
    fn numbers_of_connections_have_units() {
        assert_eq!(number("100k"), Ok(100_000));
        assert_eq!(number("10M"), Ok(10_000_000));
        assert_eq!(number("64"), Ok(64));
        for bad in ["", "k", "1g", "63", "5000m", "-1"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }
}
