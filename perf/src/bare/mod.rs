//! `xvip-perf bare`: the data plane's NAT path beside a forwarder that looks at nothing, in turn.
//!
//! Both move frames with the same device layer, the same memory and rings, on the same core between
//! the same interfaces, and get the same traffic of the same generator at a rate beyond what either
//! can do. What comes out tells what looking at packets costs. They take turns, five rounds each,
//! so that a machine whose speed moves does not decide it.

pub(crate) mod forwarder;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use dataplane_api::service::Forwarding;

use crate::lab::balancer::{Balancer, Config, word};
use crate::lab::generator::{Engine, Traffic, only};
use crate::lab::quiet::{Poller, Watch, worst};
use crate::lab::{
    BACK, BALANCER, CLIENT_LINK, FRONT, GENERATOR, Lab, Links, Place, Plan, Process, SERVER_LINK,
    say, wait_until,
};
use crate::machine::{Machine, Quiet, round};
use crate::packet_path::{Family, number};
use crate::record::{BareRound, BareRow, Measured, Record, Sample};
use crate::target::pollers;

/// How long the forwarder may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// Attempts at a round before the run goes on with a contended one.
const ATTEMPTS: usize = 2;

/// Options of `bare`.
#[derive(Args)]
pub(crate) struct Options {
    /// Frame sizes with check sequence.
    #[arg(long, value_delimiter = ',', default_value = "64,512", value_parser = frame_size)]
    size: Vec<u16>,
    /// Live connections: numbers with k or m.
    #[arg(long, default_value = "100k", value_parser = number)]
    connections: u32,
    /// Offered rate, both ways together; beyond what the forwarder can do.
    #[arg(long, default_value = "2.2mpps")]
    rate: String,
    /// Share of packets that are replies.
    #[arg(long, default_value_t = 0.5)]
    replies: f64,
    /// Rounds of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of traffic in each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Engine of the generator.
    #[arg(long, default_value = "xdp")]
    engine: Engine,
    /// One round of two seconds at a modest overload: checks that the two are of one order, no
    /// more.
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    place: Place,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Writes a record into this directory.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

fn frame_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().filter(|size| (64..=1518).contains(size));
    size.ok_or_else(|| "expected 64 to 1518".to_owned())
}

/// Least ratio that a smoke test accepts.
const SMOKE_RATIO: f64 = 0.5;
/// What is aimed at.
const AIM: f64 = 0.97;

/// Measures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let lab = Lab::alone(Links::default())?;
    options.place.prepare(&lab)?;
    let mut table = show::Table::new(options.json);
    let (mut rows, mut quiets) = (Vec::new(), Vec::new());
    let sizes = if options.smoke { &options.size[..1] } else { &options.size[..] };
    for &size in sizes {
        let mut rounds = Vec::new();
        for _ in 0..if options.smoke { 1 } else { options.rounds } {
            let (xvip, first) = attempt(|| through_xvip(&lab, options, size))?;
            let (bare, second) = attempt(|| through_bare(&lab, options, size))?;
            quiets.extend([first, second]);
            let round = BareRound { xvip, bare };
            table.say(size, &round);
            rounds.push(round);
        }
        let row = BareRow {
            method: Forwarding::Nat,
            family: Family::V4,
            size: size.to_string(),
            connections: options.connections.into(),
            rounds,
        };
        table.sum_up(&row);
        rows.push(row);
    }
    let ratios: Vec<_> = rows.iter().map(ratio).collect();
    let quiet = worst(&quiets);
    let mode = format!("veth, {:?} and {:?}", options.place.front(), options.place.back());
    let record = Record::new("nat", mode, Machine::here(), quiet, Measured::Bare(rows));
    if let Some(directory) = &options.record {
        say(&format!("recorded in {}", record.save(directory)?.display()));
    }
    table.finish(&record)?;
    let least = if options.smoke { SMOKE_RATIO } else { 0.0 };
    match ratios.iter().find(|r| r.is_nan() || **r < least) {
        Some(ratio) => bail!("NAT reaches {ratio:.2} of the bare forwarder, less than {least}"),
        None => Ok(()),
    }
}

/// Median of NAT over median of bare.
fn ratio(row: &BareRow) -> f64 {
    let of = |sample: fn(&BareRound) -> f64| median(row.rounds.iter().map(sample).collect());
    of(|r| r.xvip.received_pps) / of(|r| r.bare.received_pps)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn attempt(
    mut round: impl FnMut() -> anyhow::Result<(Sample, Quiet)>,
) -> anyhow::Result<(Sample, Quiet)> {
    for _ in 1..ATTEMPTS {
        let (sample, quiet) = round()?;
        if !quiet.contended {
            return Ok((sample, quiet));
        }
        say(&format!("void, others had {:.0} % of the core: once more", quiet.lost * 100.0));
    }
    round()
}

fn traffic(options: &Options, size: u16) -> Traffic {
    Traffic {
        connections: options.connections,
        size: size.to_string(),
        rate: options.rate.clone(),
        replies: Some(options.replies),
        seconds: if options.smoke { 2.0 } else { options.seconds },
        engine: options.engine,
        cores: options.place.generator().to_vec(),
        max_loss: 0.999,
        reals: 1,
        ..Traffic::default()
    }
}

/// A round through the data plane, with one real server as with the forwarder.
fn through_xvip(lab: &Lab, options: &Options, size: u16) -> anyhow::Result<(Sample, Quiet)> {
    let config = Config { connections: options.connections, reals: 1, ..options.place.config() };
    let mut balancer = Balancer::start(lab, &config).context("the data plane")?;
    let watch = Watch::start(&pollers(&balancer.status()?), balancer.cpu_time());
    let sample = sample(lab, &traffic(options, size)).context("through the data plane")?;
    let quiet = watch.finish(balancer.cpu_time());
    for problem in balancer.stop() {
        say(&problem);
    }
    Ok((sample, quiet))
}

/// A round through the bare forwarder.
fn through_bare(lab: &Lab, options: &Options, size: u16) -> anyhow::Result<(Sample, Quiet)> {
    let forwarder = Running::start(lab, &options.place)?;
    let pid = forwarder.process.pid();
    let watch = Watch::start(&[Poller { pid, tid: pid }], forwarder.process.cpu_time());
    let traffic = Traffic { straight: true, ..traffic(options, size) };
    let sample = sample(lab, &traffic).context("through the bare forwarder")?;
    let quiet = watch.finish(forwarder.process.cpu_time());
    forwarder.end(lab)?;
    Ok((sample, quiet))
}

/// A forwarder at work where the balancer would be.
pub(crate) struct Running {
    process: Process,
}

impl Running {
    /// Starts it. It does not translate: clients speak to the one real server, whose address the
    /// kernel answers ARP for on their side.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(crate) fn start(lab: &Lab, place: &Place) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("this program's own path")?;
        let (outside, inside) = (lab.node(GENERATOR), lab.node(BALANCER));
        let real = Plan::new(Family::V4).real(0);
        inside.ip(&[format!("addr replace {real}/32 dev {FRONT}")])?;
        let mut command = inside.command(own);
        command.arg("forwarder");
        for (interface, peer) in [(FRONT, CLIENT_LINK), (BACK, SERVER_LINK)] {
            let (own, neighbor) = (inside.mac(interface)?, outside.mac(peer)?);
            command.args(["--interface", &format!("{interface},{own},{neighbor}")]);
        }
        let config = place.config();
        command.args(["--core", &config.cores[0].to_string()]);
        command.args(["--frames", &config.frames.to_string()]);
        for (option, mode) in [("--front", config.front), ("--back", config.back)] {
            command.args([option, &word(mode)]);
        }
        let process = lab.start("forwarder", command)?;
        let mut running = Self { process };
        wait_until("the forwarder is ready", READY, || {
            running.process.must_run()?;
            Ok(running.process.tail().lines().any(|l| l == "ready").then_some(()))
        })?;
        Ok(running)
    }

    /// Ends it, and gives the real server its address back.
    ///
    /// # Errors
    /// If it has ended by itself, with what it said.
    pub(crate) fn end(mut self, lab: &Lab) -> anyhow::Result<()> {
        self.process.must_run()?;
        self.process.end(READY);
        let real = Plan::new(Family::V4).real(0);
        lab.node(BALANCER).ip(&[format!("addr del {real}/32 dev {FRONT}")])
    }
}

fn sample(lab: &Lab, traffic: &Traffic) -> anyhow::Result<Sample> {
    let report = traffic.run(lab)?;
    let trial = only(&report)?;
    let ways = [&trial.requests, &trial.replies];
    let (sent, lost) = ways.iter().fold((0, 0), |(s, l), w| (s + w.sent, l + w.lost));
    Ok(Sample {
        offered_pps: trial.requests.sent_pps + trial.replies.sent_pps,
        received_pps: trial.requests.received_pps + trial.replies.received_pps,
        lost: round(lost as f64 / sent.max(1) as f64, 6),
        busy: None,
    })
}

mod show {
    //! The table, round by round.
    #![allow(clippy::print_stdout)]

    use super::{AIM, BareRound, BareRow, Context, Record, median, ratio};

    pub(super) struct Table {
        json: bool,
        begun: bool,
    }

    impl Table {
        pub(super) fn new(json: bool) -> Self {
            Self { json, begun: false }
        }

        pub(super) fn say(&mut self, size: u16, round: &BareRound) {
            if self.json {
                return;
            }
            if !self.begun {
                self.begun = true;
                println!(
                    "{:>5} {:>11} {:>11} {:>11} {:>11} {:>7}",
                    "bytes", "NAT offered", "NAT out", "bare off'd", "bare out", "ratio"
                );
            }
            let (x, b) = (&round.xvip, &round.bare);
            let ratio = x.received_pps / b.received_pps;
            println!(
                "{size:>5} {:>11.0} {:>11.0} {:>11.0} {:>11.0} {ratio:>7.3}",
                x.offered_pps, x.received_pps, b.offered_pps, b.received_pps
            );
        }

        pub(super) fn sum_up(&self, row: &BareRow) {
            if self.json {
                return;
            }
            let each: Vec<_> =
                row.rounds.iter().map(|r| r.xvip.received_pps / r.bare.received_pps).collect();
            let least = each.iter().copied().fold(f64::INFINITY, f64::min);
            let most = each.iter().copied().fold(0.0, f64::max);
            let middle = median(each);
            println!(
                "{:>5} bytes: median NAT / median bare {:.3}, aim {AIM}; of rounds {least:.3} to \
                 {most:.3}, median {middle:.3}",
                row.size,
                ratio(row)
            );
        }

        pub(super) fn finish(&self, record: &Record) -> anyhow::Result<()> {
            if self.json {
                println!("{}", serde_json::to_string_pretty(record).context("JSON")?);
            } else if record.quiet.contended {
                println!("CONTENDED: others had {:.1} % of the core", record.quiet.lost * 100.0);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_medians_and_one_bad_round_does_not_move_it() {
        let sample =
            |received_pps| Sample { offered_pps: 2e6, received_pps, lost: 0.0, busy: None };
        let round = |x, b| BareRound { xvip: sample(x), bare: sample(b) };
        let row = BareRow {
            method: Forwarding::Nat,
            family: Family::V4,
            size: "64".into(),
            connections: 1,
            rounds: vec![round(0.97e6, 1e6), round(0.1e6, 1e6), round(0.99e6, 1e6)],
        };
        assert!((ratio(&row) - 0.97).abs() < 1e-9);
        assert!((median(vec![1.0, 2.0]) - 1.5).abs() < 1e-9 && median(vec![]).is_nan());
    }
}
