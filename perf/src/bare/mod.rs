//! `xvip-perf bare`: the data plane's NAT path beside a forwarder that looks at nothing, in turn.
//!
//! Both move frames with the same device layer, the same memory and rings, on the same core between
//! the same interfaces, and get the same traffic of the same generator. Two figures tell what looking at
//! packets costs: the highest rate at which no more than a stated share is lost, by binary search
//! (RFC 2544; what comes out under overload says nothing, since what a forwarder drops costs it
//! next to nothing), and the time of its core for a packet at one rate that both can carry. They take turns, so that a
//! machine whose speed moves does not decide it.

mod candidate;
pub(crate) mod forwarder;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use dataplane::clock::{self, Instant};
use dataplane_api::service::Forwarding;
use pktgen::rate::Rate;
use pktgen::report::{Limit, Report};
use pktgen::size::{self, Size};
use pktgen::spec;

pub(crate) use candidate::Running;

use crate::lab::generator::{Engine, Traffic, only};
use crate::lab::quiet::{Watch, worst};
use crate::lab::{Lab, Links, Place, say};
use crate::machine::{Machine, Quiet, round};
use crate::median::median;
use crate::packet_path::{Family, number};
use crate::record::{BareRound, BareRow, Measured, Record, Sample};
use candidate::{Candidate, Kind};

/// Attempts at a round before the run goes on with a contended one.
const ATTEMPTS: usize = 2;
/// Width of the bracket at which a search ends, as a share.
const RESOLUTION: f64 = 0.01;
/// A search begins within these of the last of its kind: bounds of the first are the options'.
const NEAR: (f64, f64) = (0.6, 1.3);
/// The rate at which costs are compared, as a share of the lower of both highest rates: neither waits for
/// anything there.
const EQUAL: f64 = 0.6;
/// Lowest rate of a search.
const FLOOR: f64 = 50_000.0;

/// Options of `bare`.
#[derive(Args)]
pub(crate) struct Options {
    /// Frame sizes with check sequence.
    #[arg(long, value_delimiter = ',', default_value = "64,512", value_parser = frame_size)]
    size: Vec<u16>,
    /// Live connections: numbers with k or m.
    #[arg(long, default_value = "100k", value_parser = number)]
    connections: u32,
    /// Rate at which searches begin, both ways together: beyond what the forwarder can do.
    #[arg(long, default_value = "2.2mpps")]
    rate: String,
    /// Share of packets that may be lost at the highest rate; 0 is RFC 2544. By default a thousandth, because a
    /// machine that is kept from its core for some milliseconds would else be what is measured.
    #[arg(long, default_value_t = 0.001)]
    max_loss: f64,
    /// Share of packets that are replies.
    #[arg(long, default_value_t = 0.5)]
    replies: f64,
    /// Rounds of each, fewer if time runs out.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of traffic in each trial of a search, and twice as many at the equal rate.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Minutes after which no other round is begun (each size gets its share, and one round at least).
    #[arg(long, default_value_t = 4.0)]
    minutes: f64,
    /// Engine of the generator.
    #[arg(long, default_value = "xdp")]
    engine: Engine,
    /// One short round: checks that the two are of one order, no more.
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

impl Options {
    fn rounds(&self) -> u32 {
        if self.smoke { 1 } else { self.rounds }
    }

    fn sizes(&self) -> &[u16] {
        if self.smoke { &self.size[..1] } else { &self.size }
    }

    fn seconds(&self) -> f64 {
        if self.smoke { self.seconds.min(0.5) } else { self.seconds }
    }

    /// Packets a second at which searches begin.
    fn most(&self, size: u16) -> anyhow::Result<f64> {
        let rate: Rate = self.rate.parse().map_err(|e| anyhow!("--rate: {e}"))?;
        let least = size::least(false, spec::Protocol::Tcp);
        Ok(rate.pps(Size::Fixed(size).wire_bits(least)))
    }

    fn check(&self) -> anyhow::Result<()> {
        let seconds = self.seconds > 0.0 && self.seconds <= 600.0;
        let minutes = self.minutes > 0.0 && self.minutes <= 1440.0;
        if !seconds || !minutes {
            bail!("--seconds, --minutes: expected more than 0, at most 600 and 1440");
        }
        if !(0.0..1.0).contains(&self.max_loss) {
            bail!("--max-loss {}: expected at least 0 and less than 1", self.max_loss);
        }
        self.most(64).map(drop)
    }
}

/// What is collected.
struct Sheet {
    quiets: Vec<Quiet>,
    notes: Vec<String>,
    mode: String,
}

/// Measures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    options.check()?;
    let lab = Lab::alone(Links::default())?;
    options.place.prepare(&lab)?;
    let mut table = show::Table::new(options.json);
    let mut sheet = Sheet { quiets: Vec::new(), notes: Vec::new(), mode: String::new() };
    let (begun, sizes) = (clock::now(), options.sizes());
    let mut rows = Vec::new();
    for (number, &size) in sizes.iter().enumerate() {
        let share = (number + 1) as f64 / sizes.len() as f64;
        let until = begun.after(Duration::from_secs_f64(options.minutes * 60.0 * share));
        let row = rounds(&lab, options, size, until, &mut sheet, &mut table)?;
        table.sum_up(&row);
        rows.push(row);
    }
    let ratios: Vec<_> = rows.iter().map(BareRow::rates).collect();
    let quiet = worst(&sheet.quiets);
    let mut record = Record::new("nat", sheet.mode, Machine::here(), quiet, Measured::Bare(rows));
    record.notes = sheet.notes;
    if let Some(directory) = &options.record {
        say(&format!("recorded in {}", record.save(directory)?.display()));
    }
    table.finish(&record)?;
    let least = if options.smoke { SMOKE_RATIO } else { 0.0 };
    match ratios.iter().find(|r| r.is_none_or(|r| r < least)) {
        Some(Some(ratio)) => {
            bail!("NAT reaches {ratio:.2} of the bare forwarder, less than {least}")
        }
        Some(None) => bail!("no rate was found that the bare forwarder can carry"),
        None => Ok(()),
    }
}

/// All rounds of a size, as long as there is time.
fn rounds(
    lab: &Lab,
    options: &Options,
    size: u16,
    until: Instant,
    sheet: &mut Sheet,
    table: &mut show::Table,
) -> anyhow::Result<BareRow> {
    let mut rounds: Vec<BareRound> = Vec::new();
    let mut equal = None;
    for number in 0..options.rounds() {
        let began = clock::now();
        let mut round = BareRound { xvip: Sample::default(), bare: Sample::default() };
        // The order turns, too.
        let order = [Kind::Xvip, Kind::Bare].into_iter();
        let order: Vec<_> = if number % 2 == 0 { order.collect() } else { order.rev().collect() };
        for &kind in &order {
            let last = rounds.last().and_then(|r| of(r, kind).highest_pps);
            let found =
                quietly(sheet, until, |sheet| search(lab, options, size, kind, last, sheet))?;
            *of_mut(&mut round, kind) = found;
        }
        let rate = *equal.get_or_insert_with(|| together(&round));
        for &kind in &order {
            let sample = *of(&round, kind);
            let found = quietly(sheet, until, |_| at_rate(lab, options, size, kind, rate, sample))?;
            *of_mut(&mut round, kind) = found;
        }
        table.say(size, &round);
        rounds.push(round);
        let now = clock::now();
        if number + 1 < options.rounds() && now.after(now.since(began)) > until {
            sheet.notes.push(format!(
                "{size} bytes: {} rounds of {}: the time was over (--minutes {})",
                rounds.len(),
                options.rounds(),
                options.minutes
            ));
            break;
        }
    }
    Ok(BareRow {
        method: Forwarding::Nat,
        family: Family::V4,
        size: size.to_string(),
        connections: options.connections.into(),
        allowance: Some(options.max_loss),
        rounds,
    })
}

fn of(round: &BareRound, kind: Kind) -> &Sample {
    match kind {
        Kind::Xvip => &round.xvip,
        Kind::Bare => &round.bare,
    }
}

fn of_mut(round: &mut BareRound, kind: Kind) -> &mut Sample {
    match kind {
        Kind::Xvip => &mut round.xvip,
        Kind::Bare => &mut round.bare,
    }
}

/// A rate that both carry with ease, by what they carried in this round.
fn together(round: &BareRound) -> f64 {
    let least = [round.xvip, round.bare].iter().filter_map(|s| s.highest_pps).reduce(f64::min);
    (least.unwrap_or(0.0) * EQUAL).max(FLOOR).round()
}

/// Measures; once more if others had too much of the machine and there is time left.
fn quietly(
    sheet: &mut Sheet,
    until: Instant,
    mut measure: impl FnMut(&mut Sheet) -> anyhow::Result<(Sample, Quiet)>,
) -> anyhow::Result<Sample> {
    for attempt in 1.. {
        let (sample, quiet) = measure(sheet)?;
        if quiet.contended && attempt < ATTEMPTS && clock::now() < until {
            say(&format!("void, {}: once more", quiet.takers()));
            continue;
        }
        sheet.quiets.push(quiet);
        return Ok(sample);
    }
    bail!("no attempt was made")
}

fn traffic(options: &Options, size: u16, kind: Kind) -> Traffic {
    Traffic {
        connections: options.connections,
        size: size.to_string(),
        replies: Some(options.replies),
        engine: options.engine,
        cores: options.place.generator().to_vec(),
        reals: 1,
        straight: kind == Kind::Bare,
        ..Traffic::default()
    }
}

/// The highest rate of one of them.
fn search(
    lab: &Lab,
    options: &Options,
    size: u16,
    kind: Kind,
    last: Option<f64>,
    sheet: &mut Sheet,
) -> anyhow::Result<(Sample, Quiet)> {
    let (from, to) = bracket(last, options.most(size)?);
    let seconds = options.seconds();
    let words = [
        ("--sizes", size.to_string()),
        ("--from", format!("{from:.0}pps")),
        ("--to", format!("{to:.0}pps")),
        ("--resolution", RESOLUTION.to_string()),
        ("--trial-seconds", seconds.to_string()),
    ];
    let more = words.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect();
    let max_loss = options.max_loss;
    let traffic = Traffic { verb: "ndr", seconds, more, max_loss, ..traffic(options, size, kind) };
    let mut candidate = Candidate::start(lab, kind, options.connections, &options.place)?;
    if let Some(mode) = candidate.mode()? {
        sheet.mode = mode;
    }
    let watch = Watch::start(&candidate.pollers()?, candidate.cpu_time());
    let report = traffic.run(lab).with_context(|| kind.words())?;
    let quiet = watch.finish(candidate.cpu_time());
    candidate.end(lab)?;
    Ok((found(&report)?, quiet))
}

/// Where a search looks: near what the last one found, if there was one.
fn bracket(last: Option<f64>, most: f64) -> (f64, f64) {
    let last = last.filter(|rate| *rate > FLOOR);
    let from = last.map_or(FLOOR, |rate| (rate * NEAR.0).max(FLOOR));
    (from, last.map_or(most, |rate| rate * NEAR.1).min(most).max(from + 1.0))
}

fn found(report: &Report) -> anyhow::Result<Sample> {
    let row = report.ndr.first().context("the generator's search came to no end")?;
    // Nothing below the ceiling failed: it is the options that set the limit.
    let limit = if row.limit == Limit::None { Limit::Generator } else { row.limit };
    Ok(Sample { highest_pps: Some(row.pps), limit: Some(limit), ..Sample::default() })
}

/// What a packet costs one of them at a rate.
fn at_rate(
    lab: &Lab,
    options: &Options,
    size: u16,
    kind: Kind,
    rate: f64,
    sample: Sample,
) -> anyhow::Result<(Sample, Quiet)> {
    let traffic = Traffic {
        rate: format!("{rate:.0}pps"),
        seconds: options.seconds() * 2.0,
        max_loss: 0.999,
        ..traffic(options, size, kind)
    };
    let mut candidate = Candidate::start(lab, kind, options.connections, &options.place)?;
    let idle = candidate.idle()?;
    let before = candidate.turns()?;
    let watch = Watch::start(&candidate.pollers()?, candidate.cpu_time());
    let report = traffic.run(lab).with_context(|| kind.words())?;
    let on_core = watch.on_core();
    let done = candidate.turns()?.since(before);
    let quiet = watch.finish(candidate.cpu_time());
    candidate.end(lab)?;
    let trial = only(&report)?;
    let ways = [&trial.requests, &trial.replies];
    let (sent, lost) = ways.iter().fold((0, 0), |(s, l), w| (s + w.sent, l + w.lost));
    let (ns, received) =
        (done.cost(on_core, idle), ways.iter().map(|w| w.received_pps).sum::<f64>());
    let sample = Sample {
        offered_pps: ways.iter().map(|w| w.sent_pps).sum(),
        received_pps: received,
        lost: round(lost as f64 / sent.max(1) as f64, 6),
        busy: Some(round((ns * received / 1e9).min(1.0), 4)),
        ns: Some(round(ns, 1)),
        ..sample
    };
    Ok((sample, quiet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_looks_near_what_the_last_one_found_and_never_beyond_what_is_asked() {
        assert_eq!(bracket(None, 2.2e6), (FLOOR, 2.2e6));
        assert_eq!(bracket(Some(1e6), 2.2e6), (0.6e6, 1.3e6));
        assert_eq!(bracket(Some(2e6), 2.2e6), (1.2e6, 2.2e6));
        // One that found nothing says nothing.
        assert_eq!(bracket(Some(0.0), 2.2e6), (FLOOR, 2.2e6));
    }

    #[test]
    fn costs_are_compared_at_a_rate_that_the_slower_one_carries_with_ease() {
        let sample = |rate| Sample { highest_pps: Some(rate), ..Sample::default() };
        let round = BareRound { xvip: sample(1.0e6), bare: sample(1.5e6) };
        assert_eq!(together(&round), 0.6e6);
        let round = BareRound { xvip: sample(0.0), bare: sample(1.5e6) };
        assert_eq!(together(&round), FLOOR);
    }

    #[test]
    fn a_search_that_was_never_stopped_by_the_device_is_the_generators_limit() {
        let report = |limit| {
            let row = pktgen::report::Ndr { pps: 2.2e6, limit, ..Default::default() };
            Report {
                schema: 1,
                version: String::new(),
                verb: "ndr".into(),
                scenario: serde_json::Value::Null,
                trials: vec![],
                ndr: vec![row],
                passed: true,
                failures: vec![],
                notes: vec![],
            }
        };
        assert_eq!(found(&report(Limit::None)).unwrap().limit, Some(Limit::Generator));
        assert_eq!(found(&report(Limit::Device)).unwrap().limit, Some(Limit::Device));
        assert!(found(&Report { ndr: vec![], ..report(Limit::None) }).is_err());
    }
}
