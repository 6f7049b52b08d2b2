//! One turn: a fresh pair, clients, something that happens, and what they noticed.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, ensure};
use dataplane::clock::{self, Instant};

use super::case::{BEFORE, Case, Contender};
use super::download::Found;
use super::duo::Duo;
use super::keepalived::Keepalived;
use super::xvip::Xvip;
use super::{Load, Options};
use crate::lab::generator::{Traffic, only};
use crate::lab::hosts::CLIENT;
use crate::lab::quiet::Watch;
use crate::lab::{Lab, Plan, Process, wait_until};
use crate::machine::Quiet;
use crate::packet_path::Family;
use crate::peers::usage;
use crate::record::FailoverRound;

/// How long it may take until all connections are there, beyond what opening them takes.
const OPENED: Duration = Duration::from_secs(30);
/// How long downloads may take beyond their pace.
const SPARE: Duration = Duration::from_secs(60);
/// Packets of every connection, each way, after it happened: at least.
const PASSES: u32 = 4;
/// Name of the page that is downloaded.
pub(super) const PAGE: &str = "download";

/// What a turn showed.
pub(super) struct Seen {
    /// What clients noticed.
    pub(super) round: FailoverRound,
    /// What else the machine did.
    pub(super) quiet: Quiet,
    /// How the data plane sat on its interfaces.
    pub(super) mode: Option<String>,
    /// What a reader has to know.
    pub(super) notes: Vec<String>,
}

/// A fresh pair.
///
/// # Errors
/// If its files cannot be written.
fn duo(lab: &Lab, options: &Options, case: &Case) -> anyhow::Result<Box<dyn Duo>> {
    Ok(match case.contender {
        Contender::Xvip(times) => Box::new(Xvip::new(lab, times, case.scenario, options.config())?),
        Contender::Keepalived(advert) => Box::new(Keepalived::new(advert, options.reals())),
    })
}

/// Runs one.
///
/// # Errors
/// If the pair does not come up, the clients do not get through before anything happened, or what is to happen cannot
/// be done.
pub(super) fn turn(lab: &Lab, options: &Options, case: &Case) -> anyhow::Result<Seen> {
    let mut pair = duo(lab, options, case)?;
    let ran = pair.boot(lab, case.scenario).and_then(|()| {
        let mode = pair.mode();
        let watch = Watch::start(&[], usage::running(lab)?);
        let resets = lab.resets()?;
        let mut notes = Vec::new();
        let mut round = match options.load {
            Load::Packets => packets(lab, options, case, pair.as_mut())?,
            Load::Http => downloads(lab, options, case, pair.as_mut(), &mut notes)?,
        };
        let resets = lab.resets()?.since(resets);
        round.resets = resets.clients + resets.servers;
        let quiet = watch.finish(usage::running(lab)?);
        round.contended = quiet.contended;
        Ok(Seen { round, quiet, mode, notes })
    });
    let ran = ran.with_context(|| pair.tails());
    // What is left of a failed turn must not be in the next one.
    let stopped = pair.stop(lab);
    let seen = ran?;
    stopped?;
    Ok(seen)
}

/// Waits until all connections are there, lets them carry traffic for a while, and makes it happen.
fn happen(
    lab: &Lab,
    case: &Case,
    pair: &mut dyn Duo,
    (wanted, limit): (u64, Duration),
    mut must_run: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Instant> {
    wait_until(&format!("{wanted} connections are established"), limit, || {
        must_run()?;
        Ok((pair.established(lab) >= wanted).then_some(()))
    })?;
    std::thread::park_timeout(BEFORE);
    must_run().context("before anything happened")?;
    let happened = clock::now();
    pair.act(lab, case.scenario).with_context(|| case.scenario.words())?;
    Ok(happened)
}

fn packets(
    lab: &Lab,
    options: &Options,
    case: &Case,
    pair: &mut dyn Duo,
) -> anyhow::Result<FailoverRound> {
    let opening = f64::from(options.connections()) / f64::from(options.open_rate());
    // Only who is heard of several times after it has lived through it.
    let after = case.after().max(PASSES * options.pass()?);
    let traffic = Traffic {
        connections: options.connections(),
        reals: options.reals(),
        size: options.size.to_string(),
        rate: options.rate(),
        // Some of it is over before it is noticed that all are open.
        seconds: (BEFORE + after).as_secs_f64() + 1.0,
        open_rate: options.open_rate(),
        engine: options.engine,
        cores: options.generator_cores.clone(),
        max_loss: 0.999,
        ..Traffic::default()
    };
    let mut running = traffic.start(lab)?;
    let limit = Duration::from_secs_f64(opening * 4.0) + OPENED;
    // One in a thousand may need a second SYN.
    let wanted = u64::from(options.connections()) * 999 / 1000;
    let happened = happen(lab, case, pair, (wanted, limit), || running.must_run())?;
    let report = running.finish()?;
    let trial = only(&report)?;
    let silence = trial.longest_silence.context("the generator did not listen for silence")?;
    let since = trial.start_ns as f64 / 1e9 + silence.seconds;
    let both = |of: fn(&pktgen::report::Direction) -> u64| of(&trial.requests) + of(&trial.replies);
    Ok(FailoverRound {
        silence_ms: silence.ms,
        silence_after: since - happened.nanos() as f64 / 1e9,
        opened: trial.connections.opened,
        alive: trial.connections.alive_at_end,
        sent: both(|d| d.sent),
        lost: both(|d| d.lost),
        moves: trial.neighbor_changes,
        ..FailoverRound::default()
    })
}

/// Bytes of a download.
pub(super) fn page_bytes(longest: Duration) -> usize {
    ((BEFORE + longest).as_secs_f64() * Options::pace()) as usize
}

fn downloads(
    lab: &Lab,
    options: &Options,
    case: &Case,
    pair: &mut dyn Duo,
    notes: &mut Vec<String>,
) -> anyhow::Result<FailoverRound> {
    let page = lab.directory().join(PAGE);
    let mut command = lab.node(CLIENT).command(std::env::current_exe().context("own path")?);
    command.arg("download").arg("--to").arg(Plan::new(Family::V4).vip(0).to_string());
    command.arg("--page").arg(PAGE).arg("--reference").arg(&page);
    command.arg("--connections").arg(options.connections().to_string());
    command.arg("--pace").arg(Options::pace().to_string());
    let path = lab.directory().join("download.json");
    let file = File::create(&path).context("what downloads say")?;
    let mut process = Process::start("download", command, lab.directory(), Some(file))?;
    let wanted = u64::from(options.connections());
    let happened = happen(lab, case, pair, (wanted, OPENED), || process.must_run())?;
    let size = fs::metadata(&page).context("the page")?.len() as f64;
    let limit = Duration::from_secs_f64(size / Options::pace()) + SPARE;
    let status = process.wait(limit)?;
    ensure!(status.success(), "downloads could not be run ({status}): {}", process.tail());
    let text = fs::read_to_string(&path).context("what downloads say")?;
    let found: Found = serde_json::from_str(&text).context("what downloads say")?;
    for error in &found.errors {
        notes.push(format!("{}: a download failed: {error}", case.name()));
    }
    Ok(FailoverRound {
        silence_ms: found.pause_ms,
        silence_after: (found.pause_ns as f64 - happened.nanos() as f64) / 1e9,
        opened: found.begun,
        alive: found.right,
        ..FailoverRound::default()
    })
}
