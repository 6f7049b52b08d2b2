//! The same over veth: the real data plane and control in a lab, and more packets than they can
//! forward; what comes out is the rate.

use anyhow::Context;
use dataplane_api::service::Protocol;

use super::{Options, Point, cores, finish, series};
use crate::lab::balancer::{Balancer, Config};
use crate::lab::generator::{Traffic, only};
use crate::lab::quiet::{Watch, worst};
use crate::lab::{Lab, Links, say};
use crate::machine::{Machine, Quiet, round};
use crate::record::{Axis, Place, ScalingRow};
use crate::target::{mode, pollers};

/// Bytes of a frame: the smallest, where packets count most.
const SIZE: &str = "64";
/// Attempts at a point before the run goes on with a contended one.
const ATTEMPTS: usize = 2;

/// Measures.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let machine = Machine::here();
    let mut quiets = Vec::new();
    let mut how = String::new();
    let cores = cores(options)?;
    let rows = series(options, &cores, |axis, wanted| {
        let (mut row, mut quiet) = point(axis, wanted, &cores, options, &mut how)?;
        for _ in 1..ATTEMPTS {
            if quiet.contended {
                say(&format!("void, others had {:.0} % of a core: once more", quiet.lost * 100.0));
                (row, quiet) = point(axis, wanted, &cores, options, &mut how)?;
            }
        }
        quiets.push(quiet);
        Ok(row)
    })?;
    finish("veth", &how, machine, worst(&quiets), rows, options)
}

/// A lab, a balancer and a run of the generator for each point.
fn point(
    axis: Axis,
    (value, shape, workers): Point,
    cores: &[usize],
    options: &Options,
    how: &mut String,
) -> anyhow::Result<(ScalingRow, Quiet)> {
    let lab = Lab::alone(Links { queues: workers, ..Links::default() })?;
    options.place.prepare(&lab)?;
    let small = |number: u32| u16::try_from(number).context("more than 65,535");
    let config = Config {
        method: shape.method,
        family: shape.family,
        connections: shape.connections,
        services: small(shape.services)?,
        reals: small(shape.reals)?,
        cores: cores.iter().copied().take(workers).collect(),
        ..options.place.config()
    };
    let traffic = Traffic {
        method: shape.method,
        family: shape.family,
        protocol: Protocol::Tcp,
        connections: shape.connections,
        reals: config.reals,
        size: SIZE.into(),
        rate: options.rate.clone(),
        seconds: options.seconds,
        engine: options.engine,
        cores: options.place.generator().to_vec(),
        // More is offered than can be forwarded.
        max_loss: 0.999,
        ..Traffic::default()
    };
    let mut balancer = Balancer::start(&lab, &config)?;
    let before = balancer.status()?;
    let watch = Watch::start(&pollers(&before), balancer.cpu_time());
    let report = traffic.run(&lab)?;
    let quiet = watch.finish(balancer.cpu_time());
    let after = balancer.status()?;
    *how = mode(&after);
    balancer.stop().iter().for_each(|problem| say(problem));
    let trial = only(&report)?;
    let received = trial.requests.received_pps + trial.replies.received_pps;
    let bytes = after.table.bytes as f64 / after.table.capacity.max(1) as f64;
    let row = ScalingRow {
        place: Place::Veth,
        axis,
        value,
        method: shape.method,
        family: shape.family,
        connections: trial.connections.opened,
        mpps: round(received / 1e6, 4),
        ns: None,
        best_ns: None,
        lookup_ns: None,
        opened_per_second: Some(trial.connections.opened_per_second.round()),
        bytes_per_connection: Some(round(bytes, 1)),
    };
    Ok((row, quiet))
}
