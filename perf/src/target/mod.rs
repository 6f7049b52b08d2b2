//! `xvip-perf target`: the real data plane and control between two veth pairs, held to what is
//! promised.
//!
//! 100,000 live TCP connections through each forwarding method, 1 Gbit/s at every frame size, no
//! packet lost. Each trial has a balancer of its own. A trial during which the machine was not the
//! run's alone is void and repeated once.

mod beside;
mod case;
mod show;
mod trial;

pub(crate) use trial::{IDLE, cost, idle_turn, mode, pollers};

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::lab::generator::Engine;
use crate::lab::quiet::worst;
use crate::lab::{Lab, Links, Place, say};
use crate::machine::Machine;
use crate::packet_path::{Family, Method, number};
use crate::record::{Aim, Measured, Record};
use case::{Case, LINE, Wish, cases};
use trial::{Outcome, Setting};

/// MTU of the real servers' side when packets are put into tunnels: no fragments.
const TUNNEL_MTU: u32 = 1600;

/// Options of `target`.
#[derive(Args)]
pub(crate) struct Options {
    /// Live connections: numbers with k or m. All is tried with the first; with the others, of several methods, only
    /// the promise of `nat` over IPv4.
    #[arg(long, value_delimiter = ',', default_value = "100k", value_parser = number)]
    connections: Vec<u32>,
    /// Forwarding methods; all of them by default.
    #[arg(long, value_delimiter = ',')]
    method: Vec<Method>,
    /// Address families; IPv4, and IPv6 with nat, by default.
    #[arg(long, value_delimiter = ',')]
    family: Vec<Family>,
    /// Frame sizes with check sequence; those of the promise by default.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(64..=1518))]
    size: Vec<u16>,
    /// Rate in bits on the wire or packets a second, both ways together.
    #[arg(long, default_value = LINE)]
    rate: String,
    /// Seconds of traffic in each trial.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Engine of the generator; by default xdp for frames below 256 bytes, af_xdp from there on.
    #[arg(long)]
    engine: Option<Engine>,
    /// Tries 1.488 and 1.9 million packets a second at 64 bytes too, both ways and one way.
    #[arg(long)]
    record_rate: bool,
    /// Searches for the highest rates without loss too (RFC 2544).
    #[arg(long)]
    search: bool,
    /// Leaves out the latency at half the rate.
    #[arg(long)]
    no_latency: bool,
    /// A few seconds at a modest rate: checks that nothing is lost without an explanation, not how
    /// fast it is.
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

/// Measures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !(options.seconds >= 0.5 && options.seconds <= 3600.0) {
        bail!("--seconds {}: expected 0.5 to 3600", options.seconds);
    }
    let setting = Setting {
        seconds: if options.smoke { options.seconds.min(2.0) } else { options.seconds },
        config: options.place.config(),
        generator: options.place.generator().to_vec(),
    };
    let cases = wanted(options);
    let times = cases.iter().map(|case| trial::estimate(&setting, case));
    let time = times.sum::<anyhow::Result<_>>()?;
    say(&format!("{} trials, some {} minutes", cases.len(), minutes(time)));
    let mut lab = Lab::alone(Links { back_mtu: TUNNEL_MTU, ..Links::default() })?;
    options.place.prepare(&lab)?;
    if cases.iter().any(|case| case.aim == Aim::Latency) {
        lab.add_cable(Links::default().front_mtu)?;
    }
    let mut table = show::Table::new(options.json);
    let mut outcomes = Vec::new();
    for case in cases {
        let (case, mut outcome) = attempt(&lab, &setting, case, options.engine.is_none())?;
        if case.aim == Aim::Latency {
            outcome = beside::run(&lab, &setting, &options.place, &case, outcome)
                .with_context(|| show::name(&case))?;
        }
        table.say(&outcome);
        outcomes.push((case, outcome));
    }
    drop(lab);
    let record = recorded(options, &outcomes)?;
    table.finish(&record)?;
    verdict(options, &outcomes)
}

fn minutes(time: std::time::Duration) -> u64 {
    time.as_secs().div_ceil(60)
}

fn wanted(options: &Options) -> Vec<Case> {
    if options.smoke {
        return smoke(options);
    }
    let methods = match options.method.as_slice() {
        [] => Method::value_variants(),
        chosen => chosen,
    };
    let families = match options.family.as_slice() {
        [] => Family::value_variants(),
        chosen => chosen,
    };
    cases(&Wish {
        methods: methods.iter().map(|m| (*m).into()).collect(),
        families: families.to_vec(),
        sizes: options.size.clone(),
        connections: options.connections.clone(),
        engine: options.engine,
        rate: options.rate.clone(),
        records: options.record_rate,
        latency: !options.no_latency,
        search: options.search,
    })
}

/// 10,000 connections, 512 bytes, 40,000 packets a second: any machine can.
fn smoke(options: &Options) -> Vec<Case> {
    vec![Case {
        aim: Aim::Promise,
        method: dataplane_api::service::Forwarding::Nat,
        family: Family::V4,
        size: 512,
        connections: 10_000,
        rate: "40kpps".into(),
        replies: None,
        engine: options.engine.unwrap_or(Engine::AfXdp),
    }]
}

/// A trial; another one if the machine was not ours alone. If nobody chose the engine and the
/// programs in the kernel cannot run here, sockets do.
fn attempt(
    lab: &Lab,
    setting: &Setting,
    mut case: Case,
    may_change: bool,
) -> anyhow::Result<(Case, Outcome)> {
    let mut note = None;
    let first = match trial::run(lab, setting, &case) {
        Err(error) if may_change && case.engine == Engine::Xdp => {
            case.engine = Engine::AfXdp;
            note = Some(format!("the engine xdp cannot run here ({error:#}): af_xdp instead"));
            trial::run(lab, setting, &case)
        }
        other => other,
    };
    let shown = show::name(&case);
    let mut outcome = first.with_context(|| shown.clone())?;
    if outcome.quiet.contended {
        say(&format!("{shown}: void, {}: once more", outcome.quiet.takers()));
        outcome = trial::run(lab, setting, &case).context(shown)?;
    }
    outcome.notes.extend(note);
    Ok((case, outcome))
}

fn recorded(options: &Options, outcomes: &[(Case, Outcome)]) -> anyhow::Result<Record> {
    let quiet: Vec<_> = outcomes.iter().map(|(_, o)| o.quiet.clone()).collect();
    let mode = outcomes.first().map(|(_, o)| o.mode.clone()).unwrap_or_default();
    let rows = outcomes.iter().map(|(_, o)| o.row.clone()).collect();
    let name = match options.connections.as_slice() {
        [one] => format!("{one}-connections"),
        _ => "connections".into(),
    };
    let mut record =
        Record::new(&name, mode, Machine::here(), worst(&quiet), Measured::Target(rows));
    for (case, outcome) in outcomes {
        for note in &outcome.notes {
            record.notes.push(format!("{}: {note}", show::name(case)));
        }
        if outcome.quiet.contended {
            record.notes.push(format!("{}: void, {}", show::name(case), outcome.quiet.takers()));
        }
    }
    if let Some(directory) = &options.record {
        let path = record.save(directory)?;
        say(&format!("recorded in {}", path.display()));
    }
    Ok(record)
}

/// Fails if the gate was missed.
fn verdict(options: &Options, outcomes: &[(Case, Outcome)]) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for (case, outcome) in outcomes {
        let row = &outcome.row;
        let failed = if options.smoke { smoke_failures(row) } else { row.failures.clone() };
        if case.is_gate() && !failed.is_empty() {
            missed.push(format!("{}: {}", show::name(case), failed.join("; ")));
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    bail!("the target was missed:\n  {}", missed.join("\n  "))
}

/// On a machine that others use too packets may be lost, but not without an explanation.
fn smoke_failures(row: &crate::record::TargetRow) -> Vec<String> {
    let mut failures = Vec::new();
    let ways = [&row.requests, &row.replies];
    let sum = |of: fn(&pktgen::report::Direction) -> u64| ways.iter().map(|w| of(w)).sum::<u64>();
    let (sent, lost) = (sum(|d| d.sent), sum(|d| d.lost));
    if sent == 0 || row.alive == 0 {
        failures.push("no traffic".into());
    }
    if lost > 0 && row.unexplained != 0 {
        failures.push(format!("{lost} packets lost, {} without an explanation", row.unexplained));
    }
    if lost * 5 > sent {
        failures.push(format!("{lost} of {sent} packets lost"));
    }
    for (name, count) in [
        ("duplicated", sum(|d| d.duplicated)),
        ("corrupted", sum(|d| d.corrupted)),
        ("strayed", sum(|d| d.strayed)),
    ] {
        if count > 0 {
            failures.push(format!("{count} packets {name}"));
        }
    }
    failures
}
