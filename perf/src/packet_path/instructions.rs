//! Instructions a packet, counted by valgrind: the difference of two runs that differ only in the
//! number of packets. Counts, unlike times, are the same on a busy machine.

use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use dataplane_api::service::Forwarding;

use super::Method;
use super::scene::{Direction, Scene};
use super::traffic::Family;

/// Connections: few, for the count does not depend on them.
const CONNECTIONS: u32 = 4096;
/// Packets of the shorter run.
const PACKETS: usize = 65_536;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Writing packets and forwarding them.
    Forward,
    /// Writing them only.
    Restore,
    /// Bare lookups.
    Lookup,
}

/// Options of the hidden subcommand.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    method: Method,
    #[arg(long)]
    family: Family,
    #[arg(long)]
    direction: Direction,
    #[arg(long)]
    part: Part,
    #[arg(long)]
    packets: usize,
    #[arg(long, default_value_t = 64, value_parser = super::burst)]
    burst: usize,
}

/// Instructions a packet.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counts {
    /// Of the path: parse, look up, rewrite.
    pub(crate) path: f64,
    /// Of a bare lookup.
    pub(crate) lookup: f64,
}

/// Runs what is to be counted.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut scene = Scene::new(options.method.into(), options.family, CONNECTIONS)?;
    scene.stop_clock();
    let (requests, replies) = scene.open(|_| {})?;
    let traffic = match options.direction {
        Direction::Request => &requests,
        Direction::Reply => replies.as_ref().context("this method has no replies")?,
    };
    let (mut cursor, bursts) = (0, options.packets / options.burst);
    match options.part {
        Part::Forward => scene.forward(traffic, &mut cursor, options.burst, bursts),
        Part::Restore => scene.restore(traffic, &mut cursor, options.burst, bursts),
        Part::Lookup => {
            let found = scene.look_up(&requests, &mut cursor, options.burst, bursts);
            ensure!(found == bursts * options.burst, "connections were not found");
        }
    }
    scene.check_drops()
}

/// Counts a case by running this program under valgrind.
///
/// # Errors
/// If valgrind is not installed or does not say what it counted.
pub(crate) fn count(
    method: Forwarding,
    family: Family,
    direction: Direction,
    burst: usize,
) -> anyhow::Result<Counts> {
    let part = |part| -> anyhow::Result<f64> {
        let run = |packets| collected(method, family, direction, burst, part, packets);
        Ok((run(2 * PACKETS)? - run(PACKETS)?) / PACKETS as f64)
    };
    let restore = part(Part::Restore)?;
    Ok(Counts {
        path: crate::machine::round(part(Part::Forward)? - restore, 1),
        lookup: crate::machine::round(part(Part::Lookup)?, 1),
    })
}

fn collected(
    method: Forwarding,
    family: Family,
    direction: Direction,
    burst: usize,
    part: Part,
    packets: usize,
) -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("path of this program")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["packets", "--method", &name(&Method::from(method)), "--family", &name(&family)])
        .args(["--direction", &name(&direction), "--part", &name(&part)])
        .args(["--packets", &packets.to_string(), "--burst", &burst.to_string()])
        .output()
        .context("cannot run valgrind; install it or leave out --instructions")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {text}");
    let line = text.lines().find(|l| l.contains("Collected :")).context("valgrind said nothing")?;
    let number = line.rsplit(' ').next().and_then(|n| n.parse().ok());
    number.with_context(|| format!("cannot read valgrind's `{line}`"))
}

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}
