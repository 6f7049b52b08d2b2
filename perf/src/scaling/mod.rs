//! `xvip-perf scaling`: how speed and memory change as connections, services, real servers or
//! workers grow, all else equal: in memory, or the real processes over veth. No cliff unexplained:
//! each point is compared with the one before.

mod veth;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use dataplane::limits::BURST;
use dataplane_api::service::Forwarding;

use crate::lab::Place;
use crate::lab::generator::Engine;
use crate::machine::{Machine, Quiet, Watch, round};
use crate::packet_path::measure::{Rounds, Times, measure_together};
use crate::packet_path::scene::{FULLNAT_MAX, Scene};
use crate::packet_path::shape::Shape;
use crate::packet_path::traffic::Family;
use crate::packet_path::{Method, number, pin};
use crate::record::{self, Axis, Measured, Record, ScalingRow};

/// A point this many times as dear as the one before is a cliff.
pub(crate) const CLIFF: f64 = 1.5;
/// Connections, where something else grows.
const CONNECTIONS: u32 = 100_000;
/// Reals of each service, where services grow: the data plane has room for 8,192 in all.
const REALS_EACH: u32 = 4;
/// Fewer connections than this take too little memory to be seen in whole pages.
const MEASURABLE: u32 = 100_000;

/// Options of `scaling`.
#[derive(Args)]
pub(crate) struct Options {
    /// What grows; everything, one after the other, by default.
    #[arg(long, value_delimiter = ',')]
    axis: Vec<Axis>,
    /// Forwarding method.
    #[arg(long, default_value = "nat")]
    method: Method,
    /// Address family.
    #[arg(long, default_value = "v4")]
    family: Family,
    /// Seconds for each point.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Leaves out points with more connections: a number with k or m. By default 10m in memory, 1m
    /// over veth.
    #[arg(long, value_parser = number)]
    most: Option<u32>,
    /// Measures the real processes over veth instead of the packet path in memory.
    #[arg(long)]
    veth: bool,
    /// Offered rate over veth, both ways together; beyond what the data plane can do.
    #[arg(long, default_value = "2.2mpps")]
    rate: String,
    /// Engine of the generator over veth.
    #[arg(long, default_value = "xdp")]
    engine: Engine,
    #[command(flatten)]
    place: Place,
    /// One JSON object, as `--record` writes it, instead of a table.
    #[arg(long)]
    json: bool,
    /// Records the run in this directory, for `xvip-perf report`.
    #[arg(long)]
    record: Option<PathBuf>,
}

/// A point: its place on the axis, and what to measure there.
type Point = (u64, Shape, usize);

/// The points of an axis, on these cores.
fn points(axis: Axis, options: &Options, cores: &[usize]) -> Vec<Point> {
    let most = options.most.unwrap_or(if options.veth { 1_000_000 } else { 10_000_000 });
    let plain = |connections| Shape::plain(options.method.into(), options.family, connections);
    let base = Shape { reals: options.place.config().reals.into(), ..plain(CONNECTIONS.min(most)) };
    let one = |value: u32, shape| (u64::from(value), shape, 1);
    let room = cores.len();
    let full = Forwarding::from(options.method) == Forwarding::Fullnat;
    let most = if full { most.min(FULLNAT_MAX) } else { most };
    match axis {
        Axis::Connections => {
            let values = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
            let shape = |connections| Shape { connections, ..base };
            values.into_iter().filter(|n| *n <= most).map(|n| one(n, shape(n))).collect()
        }
        Axis::Services => [1, 10, 100, 1_000]
            .map(|n| one(n, Shape { services: n, reals: REALS_EACH, ..base }))
            .into(),
        Axis::Reals => [1, 10, 100, 1_000].map(|n| one(n, Shape { reals: n, ..base })).into(),
        Axis::Workers => (1..=room)
            .filter(|n| n.is_power_of_two() || *n == room)
            .map(|n| (n as u64, base, n))
            .collect(),
    }
}

/// Measures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !(options.seconds > 0.0 && options.seconds <= 3600.0) {
        bail!("--seconds {}: expected more than 0 and at most 3600", options.seconds);
    }
    if options.veth {
        return veth::run(options);
    }
    let machine = Machine::here();
    let cores = cores(options)?;
    let first = *cores.first().context("no core")?;
    pin(first)?;
    let watch = Watch::start(first);
    let rows = series(options, &cores, |axis, wanted| point(axis, wanted, &cores, options))?;
    finish("memory", "in memory", machine, watch.finish(), rows, options)
}

/// Every point of every axis, in order.
fn series(
    options: &Options,
    cores: &[usize],
    mut measure: impl FnMut(Axis, Point) -> anyhow::Result<ScalingRow>,
) -> anyhow::Result<Vec<ScalingRow>> {
    let mut rows = Vec::new();
    let axes = if options.axis.is_empty() { Axis::value_variants() } else { &options.axis };
    for axis in axes {
        let mut series: Vec<ScalingRow> = Vec::new();
        for point in points(*axis, options, cores) {
            let row = measure(*axis, point).with_context(|| format!("{axis:?} {}", point.0))?;
            if !options.json {
                say(series.last(), &row);
            }
            series.push(row);
        }
        rows.append(&mut series);
    }
    Ok(rows)
}

#[allow(clippy::print_stdout)]
fn finish(
    place: &str,
    mode: &str,
    machine: Machine,
    quiet: Quiet,
    rows: Vec<ScalingRow>,
    options: &Options,
) -> anyhow::Result<()> {
    let contended = quiet.contended;
    let name = format!("{place} {:?} {:?}", options.method, options.family);
    let record = Record::new(&name, mode, machine, quiet, Measured::Scaling(rows));
    if options.json {
        println!("{}", serde_json::to_string_pretty(&record)?);
    } else if contended {
        println!("CONTENDED: others used this core; these figures are no record");
    }
    if let Some(dir) = &options.record {
        record.save(dir)?;
    }
    Ok(())
}

/// One point, in memory.
fn point(
    axis: Axis,
    (value, shape, workers): Point,
    cores: &[usize],
    options: &Options,
) -> anyhow::Result<ScalingRow> {
    let mut first = Scene::of(shape)?;
    let mut opening = Rounds::default();
    let (requests, _) = first.open(|nanos| opening.add(nanos as f64 / BURST as f64))?;
    first.verify(&requests)?;
    let bytes = first.bytes_per_connection;
    let mut scenes: Vec<Scene> = (1..workers).map(|n| first.beside(n, workers)).collect();
    scenes.insert(0, first);
    let time = Duration::from_secs_f64(options.seconds);
    let times = measure_together(&mut scenes, cores, &requests, time);
    scenes.iter().try_for_each(Scene::check_drops)?;
    let mean = |of: &dyn Fn(&Times) -> f64| times.iter().map(of).sum::<f64>() / workers as f64;
    let net = |t: &Times| t.raw.median() - t.restore.median();
    let best = |t: &Times| t.raw.best() - t.restore.best();
    let mpps: f64 = times.iter().map(|t| 1000.0 / net(t)).sum();
    Ok(ScalingRow {
        place: record::Place::Memory,
        axis,
        value,
        method: shape.method,
        family: shape.family,
        connections: u64::from(shape.connections),
        mpps: round(mpps, 2),
        ns: Some(round(mean(&net), 2)),
        best_ns: Some(round(mean(&best), 2)),
        lookup_ns: Some(round(mean(&|t| t.lookup.median()), 2)),
        opened_per_second: Some((1e9 / opening.median()).round()),
        bytes_per_connection: (shape.connections >= MEASURABLE).then(|| round(bytes, 1)),
    })
}

/// Cores that workers may run on: the one asked for, then the others in order. To be asked before this
/// thread is pinned, for then it sees one.
fn cores(options: &Options) -> anyhow::Result<Vec<usize>> {
    let first = *options.place.config().cores.first().context("no core")?;
    let all = core_affinity::get_core_ids().context("this machine's cores")?;
    let others = all.into_iter().map(|c| c.id).filter(|id| *id != first);
    let taken: &[usize] = if options.veth { options.place.generator() } else { &[] };
    Ok(std::iter::once(first).chain(others.filter(|id| !taken.contains(id))).collect())
}

/// What a point costs, for comparing it with its neighbours, and which measure that is.
pub(crate) fn cost(row: &ScalingRow) -> (f64, &'static str) {
    match row.best_ns {
        Some(best) if row.axis != Axis::Workers => (best, "nanoseconds a packet, fastest tenth"),
        _ if row.axis == Axis::Workers => {
            (row.value as f64 / row.mpps, "time a packet of one worker, by the rate of all")
        }
        _ => (1.0 / row.mpps, "time a packet, by the rate"),
    }
}

/// How many times as dear each point is as the one before.
pub(crate) fn steps(rows: &[&ScalingRow]) -> Vec<f64> {
    rows.windows(2).filter_map(|two| Some(cost(two.get(1)?).0 / cost(two.first()?).0)).collect()
}

#[allow(clippy::print_stdout)]
fn say(before: Option<&ScalingRow>, row: &ScalingRow) {
    if before.is_none() {
        println!(
            "{:<12}{:>9}{:>11}{:>9}{:>9}{:>9}{:>9}{:>11}{:>8}  to the one before",
            "axis", "value", "conns", "ns", "best ns", "look ns", "Mpps", "opened/s", "B/conn"
        );
    }
    let text = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
    };
    let step = before.and_then(|b| steps(&[b, row]).first().copied());
    let step = step.map_or_else(String::new, |s| {
        format!("  {s:.2}x{}", if s > CLIFF { "  CLIFF" } else { "" })
    });
    println!(
        "{:<12}{:>9}{:>11}{:>9}{:>9}{:>9}{:>9.2}{:>11}{:>8}{step}",
        format!("{:?}", row.axis).to_lowercase(),
        row.value,
        row.connections,
        text(row.ns, 1),
        text(row.best_ns, 1),
        text(row.lookup_ns, 1),
        row.mpps,
        text(row.opened_per_second, 0),
        text(row.bytes_per_connection, 1),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        options: Options,
    }

    fn row(axis: Axis, value: u64, best_ns: f64, mpps: f64) -> ScalingRow {
        ScalingRow {
            place: record::Place::Memory,
            axis,
            value,
            method: Forwarding::Nat,
            family: Family::V4,
            connections: 1000,
            mpps,
            ns: Some(best_ns),
            best_ns: Some(best_ns),
            lookup_ns: None,
            opened_per_second: None,
            bytes_per_connection: None,
        }
    }

    #[test]
    fn a_step_is_what_a_packet_costs_more_and_workers_are_judged_by_what_they_do_together() {
        let (a, b) = (row(Axis::Reals, 1, 50.0, 20.0), row(Axis::Reals, 10, 80.0, 12.5));
        assert!(steps(&[&a, &b])[0] > CLIFF);
        let (a, b) = (row(Axis::Workers, 1, 50.0, 20.0), row(Axis::Workers, 2, 50.0, 40.0));
        assert!((steps(&[&a, &b])[0] - 1.0).abs() < 1e-9);
        let b = row(Axis::Workers, 2, 50.0, 20.0);
        assert!((steps(&[&a, &b])[0] - 2.0).abs() < 1e-9);
    }

    #[test]
    fn every_axis_can_be_measured() {
        let words = ["x", "--seconds", "0.001", "--most", "1000", "--core", "0"];
        let options = Whole::parse_from(words).options;
        for axis in Axis::value_variants() {
            let points = points(*axis, &options, &[0, 1]);
            let last = if *axis == Axis::Workers { points[1] } else { points[0] };
            let row = point(*axis, last, &[0, 1], &options).unwrap();
            assert!(row.mpps > 0.0 && row.value == last.0, "{row:?}");
        }
    }
}
