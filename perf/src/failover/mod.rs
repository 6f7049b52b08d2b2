//! `xvip-perf failover`: two balancers that stand in for each other, under traffic; one of them dies, or is replaced, and
//! what clients notice is measured, again and again.
//!
//! Every turn has a fresh pair. The judge of silence, loss and living connections is the generator (or a client of the
//! kernel's, which compares every byte), of resets the switch between them, never a balancer.

mod case;
pub(crate) mod download;
mod duo;
mod keepalived;
mod options;
mod replication;
mod show;
#[cfg(test)]
mod tests;
mod turn;
mod xvip;

use std::time::Duration;

use anyhow::{Context, bail};

use crate::lab::pair::Ends;
use crate::lab::quiet::worst;
use crate::lab::{Lab, say};
use crate::machine::{Machine, Quiet};
use crate::peers::web;
use crate::record::{Failover, FailoverRound, FailoverRow, Measured, Record};
use case::{BEFORE, Case, Contender};
use options::Load;
pub(crate) use options::Options;

/// Attempts at a turn before a contended one is taken.
const ATTEMPTS: usize = 2;
/// Seconds that a turn takes beside its traffic: starting, opening, closing, stopping.
const AROUND: u64 = 12;

/// What is collected.
#[derive(Default)]
struct Sheet {
    found: Failover,
    quiets: Vec<Quiet>,
    notes: Vec<String>,
    mode: String,
    failed: usize,
}

impl Sheet {
    /// What a reader has to know; said once.
    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn add(&mut self, options: &Options, case: &Case, round: FailoverRound) {
        let times = case.contender.times();
        let same = |row: &&mut FailoverRow| {
            row.system == case.contender.system()
                && row.scenario == case.scenario
                && row.times == times
        };
        if let Some(row) = self.found.rows.iter_mut().find(same) {
            row.rounds.push(round);
            return;
        }
        self.found.rows.push(FailoverRow {
            system: case.contender.system().to_owned(),
            scenario: case.scenario,
            times,
            load: options.load_words(),
            connections: options.connections().into(),
            rounds: vec![round],
        });
    }

    fn record(self, options: &Options) -> Record {
        let (machine, quiet) = (Machine::here(), worst(&self.quiets));
        let found = Measured::Failover(self.found);
        let mut record = Record::new(&options.name(), self.mode, machine, quiet, found);
        record.notes = self.notes;
        let void = self.quiets.iter().filter(|quiet| quiet.contended).count();
        if void > 0 {
            record.notes.push(format!(
                "{void} of {} turns were contended: others had more than 5 % of the machine",
                self.quiets.len()
            ));
        }
        record
    }
}

/// Measures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    options.pass()?;
    let cases = options.cases();
    let theirs = |case: &Case| matches!(case.contender, Contender::Keepalived(_));
    if cases.iter().any(theirs) {
        keepalived::need(options.connections())?;
    }
    say(&format!(
        "{} turns, some {} minutes",
        cases.len() * options.rounds() as usize,
        estimate(options, &cases).as_secs().div_ceil(60)
    ));
    let ends = match options.load {
        Load::Packets => Ends::Generator,
        Load::Http => Ends::Hosts(options.reals()),
    };
    let lab = Lab::pair(ends)?;
    let _server =
        if options.load == Load::Http { Some(serve(&lab, options, &cases)?) } else { None };
    let mut sheet = Sheet::default();
    remarks(&mut sheet, &cases);
    for round in 1..=options.rounds() {
        for case in &cases {
            say(&format!("round {round} of {}: {}", options.rounds(), case.name()));
            one(&lab, options, &mut sheet, case);
        }
    }
    if options.measures_replication() {
        replication::run(&lab, options, &mut sheet);
    }
    drop(lab);
    let failed = sheet.failed;
    let record = sheet.record(options);
    if options.json {
        show::line(&record)?;
    } else {
        show::tables(&record);
    }
    if let Some(directory) = &options.record {
        say(&format!("recorded in {}", record.save(directory)?.display()));
    }
    if failed > 0 {
        bail!("{failed} turns could not be run");
    }
    if options.smoke { smoke(&record) } else { Ok(()) }
}

/// One turn, and once more if others had too much of the machine or it could not be run.
fn one(lab: &Lab, options: &Options, sheet: &mut Sheet, case: &Case) {
    let mut attempt = 1;
    loop {
        let last = attempt == ATTEMPTS;
        attempt += 1;
        match turn::turn(lab, options, case) {
            Ok(seen) if seen.quiet.contended && !last && !options.smoke => {
                say(&format!("void, {}: once more", seen.quiet.takers()));
            }
            Ok(seen) => {
                say(&show::round(&seen.round));
                if let Some(mode) = seen.mode {
                    sheet.mode = mode;
                }
                seen.notes.into_iter().for_each(|note| sheet.note(note));
                sheet.add(options, case, seen.round);
                sheet.quiets.push(seen.quiet);
                return;
            }
            Err(error) => {
                say(&format!("could not be run: {error:#}"));
                sheet.note(format!("{}: a turn could not be run: {}", case.name(), root(&error)));
                if last {
                    sheet.failed += 1;
                    return;
                }
            }
        }
    }
}

/// Why, without the logs around it.
fn root(error: &anyhow::Error) -> String {
    error.root_cause().to_string().lines().next().unwrap_or_default().to_owned()
}

fn remarks(sheet: &mut Sheet, cases: &[Case]) {
    if cases.iter().any(|case| matches!(case.contender, Contender::Keepalived(_))) {
        sheet.note(
            "keepalived: VRRP version 3, unicast over a link of its own; nftables with settings as in `peers`; conntrackd in mode \
             FTFW without an external cache: what comes from the peer goes into the kernel at once",
        );
    }
    sheet.note(
        "both nodes' data planes share one core of this machine, with adaptive polling; links of a node that is \
         switched off go dark at the switch",
    );
}

/// The servers' nginx, and what is downloaded.
fn serve(lab: &Lab, options: &Options, cases: &[Case]) -> anyhow::Result<crate::lab::Process> {
    web::need()?;
    let longest = cases.iter().map(Case::after).max().unwrap_or_default();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = (0..turn::page_bytes(longest))
        .map(|_| {
            // xorshift64: no two places look alike.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    let page = lab.directory().join(turn::PAGE);
    std::fs::write(&page, bytes).with_context(|| format!("{}", page.display()))?;
    // Little is on its way beyond what was read: a sender that is cut off is noticed soon.
    lab.node(crate::lab::hosts::CLIENT).sysctl("net.ipv4.tcp_rmem", "\"4096 32768 32768\"")?;
    web::serve(lab, &options.generator_cores)
}

fn estimate(options: &Options, cases: &[Case]) -> Duration {
    let traffic: Duration = cases.iter().map(|c| BEFORE + c.after()).sum();
    let around = Duration::from_secs(AROUND * cases.len() as u64);
    let replication = Duration::from_secs(if options.measures_replication() { 60 } else { 0 });
    (traffic + around + replication) * options.rounds()
}

/// What must be so however slow the machine is.
fn smoke(record: &Record) -> anyhow::Result<()> {
    let Measured::Failover(found) = &record.measured else { return Ok(()) };
    for row in found.rows.iter().filter(|row| row.system == "xvip") {
        let alive = row.least_alive().unwrap_or(0.0);
        if row.resets() > 0 || alive < 0.99 {
            bail!(
                "{}: {} resets, {:.1} % of connections alive afterwards",
                row.scenario.words(),
                row.resets(),
                alive * 100.0
            );
        }
    }
    Ok(())
}
