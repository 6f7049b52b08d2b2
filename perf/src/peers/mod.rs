//! `xvip-perf peers`: xvip beside what a user would take instead, in one run, in turn.
//!
//! Two comparisons. *packets*: generated packets of many connections, against NAT in the kernel (nftables).
//! *http*: real clients and servers (wrk, nginx), against nftables, HAProxy in TCP mode and nginx's stream
//! module. Systems take turns within each round, so that a machine whose speed moves does not decide it;
//! each has the same links, the same cores and the same load.

mod figures;
mod http;
pub(crate) mod nftables;
mod offloads;
pub(crate) mod package;
mod packets;
mod place;
mod proxy;
mod show;
mod system;
#[cfg(test)]
mod tests;
pub(crate) mod usage;
pub(crate) mod web;

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};

use crate::lab::generator::Engine;
use crate::lab::quiet::{Watch, worst};
use crate::lab::{Lab, say};
use crate::machine::{Machine, Quiet};
use crate::packet_path::number;
use crate::record::{Measured, Record};
use figures::Figures;
use offloads::Setting;

/// Attempts at a measurement before a contended one is taken.
const ATTEMPTS: usize = 2;

/// Whom xvip is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// NAT in the kernel.
    Nftables,
    /// HAProxy in TCP mode.
    Haproxy,
    /// nginx with its stream module.
    Nginx,
}

/// By what load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    /// Generated packets.
    Packets,
    /// wrk and nginx.
    Http,
}

/// Options of `peers`.
#[derive(Args)]
pub(crate) struct Options {
    /// These peers only; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Peer>,
    /// This load only; both by default.
    #[arg(long, value_delimiter = ',')]
    load: Vec<Load>,
    /// These workloads of generated packets only; all by default.
    #[arg(long, value_delimiter = ',')]
    packets: Vec<packets::Workload>,
    /// These settings of the links under HTTP only: wire (frames of at most the MTU everywhere), veth (what the kernel
    /// does between interfaces of one machine); both by default.
    #[arg(long, value_delimiter = ',')]
    setting: Vec<Setting>,
    /// Rounds; in each of them every system has its turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each workload in each turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Connections held while packets are generated: numbers with k or m.
    #[arg(long, default_value = "100k", value_parser = number)]
    connections: u32,
    /// Engine of the generator of packets.
    #[arg(long, default_value = "xdp")]
    engine: Engine,
    /// JSON records, one object each, instead of tables.
    #[arg(long)]
    json: bool,
    /// Writes the records into this directory.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

impl Options {
    fn against(&self, peer: Peer) -> bool {
        self.only.is_empty() || self.only.contains(&peer)
    }

    fn under(&self, load: Load) -> bool {
        self.load.is_empty() || self.load.contains(&load)
    }

    fn settings(&self) -> &[Setting] {
        if self.setting.is_empty() { &Setting::ALL } else { &self.setting }
    }

    fn wants(&self, workload: packets::Workload) -> bool {
        self.packets.is_empty() || self.packets.contains(&workload)
    }
}

/// What one comparison writes down.
#[derive(Default)]
struct Sheet {
    figures: Figures,
    quiets: Vec<Quiet>,
    notes: Vec<String>,
    mode: String,
}

impl Sheet {
    /// What a reader has to know; said once.
    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// How xvip sits on its interfaces.
    fn mode(&mut self, mode: String) {
        self.mode = mode;
    }

    /// Measures, and once more if others had too much of the machine.
    fn quietly<T>(
        &mut self,
        lab: &Lab,
        mut measure: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut attempt = 1;
        loop {
            let watch = Watch::start(&[], usage::running(lab)?);
            let found = measure()?;
            let quiet = watch.finish(usage::running(lab)?);
            if quiet.contended && attempt < ATTEMPTS {
                say(&format!("void, {}: once more", quiet.takers()));
                attempt += 1;
                continue;
            }
            self.quiets.push(quiet);
            return Ok(found);
        }
    }

    fn record(self, name: &str) -> Record {
        let rows = Measured::Peers(self.figures.rows());
        let mut record = Record::new(name, self.mode, Machine::here(), worst(&self.quiets), rows);
        record.notes = self.notes;
        record.notes.extend(self.figures.sentences());
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
    let mut records = Vec::new();
    if options.under(Load::Packets) && options.against(Peer::Nftables) {
        let mut sheet = Sheet::default();
        say(&format!("packets: at most {} minutes", minutes(packets::estimate(options))));
        packets::run(options, &mut sheet)?;
        records.push(finish(options, "packets", sheet)?);
    }
    if options.under(Load::Http) {
        let mut sheet = Sheet::default();
        say(&format!("http: at most {} minutes", minutes(http::estimate(options))));
        http::run(options, &mut sheet)?;
        records.push(finish(options, "http", sheet)?);
    }
    if records.is_empty() {
        bail!("nothing to do: generated packets are compared with nftables only");
    }
    if options.json {
        show::json(&records)?;
    }
    Ok(())
}

fn finish(options: &Options, name: &str, sheet: Sheet) -> anyhow::Result<Record> {
    let text = sheet.figures.text();
    let record = sheet.record(name);
    if !options.json {
        show::text(&text, &record);
    }
    if let Some(directory) = &options.record {
        say(&format!("recorded in {}", record.save(directory)?.display()));
    }
    Ok(record)
}

fn minutes(time: std::time::Duration) -> u64 {
    time.as_secs().div_ceil(60)
}
