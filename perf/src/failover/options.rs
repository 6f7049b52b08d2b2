//! What `failover` is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use pktgen::rate::Rate;
use pktgen::size::{self, Size};
use pktgen::spec;

use super::case::{self, Case, Times};
use crate::lab::balancer::Config;
use crate::lab::generator::Engine;
use crate::packet_path::number;
use crate::peers::web;
use crate::record::Scenario;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// Generated packets of many connections.
    Packets,
    /// Downloads by the kernel's TCP from nginx.
    Http,
}

/// Whom xvip is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Beside {
    /// keepalived for the VIP, nftables for the balancing, conntrackd for the connections.
    Keepalived,
}

/// Options of `failover`.
#[derive(Args)]
pub(crate) struct Options {
    /// These scenarios only; all by default.
    #[arg(long, value_delimiter = ',')]
    pub(super) only: Vec<Scenario>,
    /// Times of the heartbeat: power-off with each of these, everything else with the first.
    #[arg(long, value_delimiter = ',')]
    pub(super) times: Vec<Times>,
    /// What clients do.
    #[arg(long, default_value = "packets")]
    pub(super) load: Load,
    /// Power-off of xvip and of this, in turn.
    #[arg(long)]
    pub(super) beside: Option<Beside>,
    /// Rounds; in each of them every scenario has its turn.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Connections held: numbers with k or m; 100k by default, and 64 downloads.
    #[arg(long, value_parser = number)]
    pub(super) connections: Option<u32>,
    /// Rate of generated packets in bits on the wire or packets a second, both ways together.
    #[arg(long, default_value = "1gbit")]
    pub(super) rate: String,
    /// Size of generated frames with check sequence.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(64..=1518))]
    pub(super) size: u16,
    /// New connections a second to go up to, when acknowledgements are measured: numbers with k.
    #[arg(long, default_value = "100k", value_parser = number)]
    pub(super) cps: u32,
    /// Leaves out how late the peer knows of connections.
    #[arg(long)]
    pub(super) no_replication: bool,
    /// Measures that with `--only` too, which leaves it out.
    #[arg(long, conflicts_with = "no_replication")]
    pub(super) replication: bool,
    /// Engine of the generator.
    #[arg(long, default_value = "xdp")]
    pub(super) engine: Engine,
    /// Core of the data planes of both nodes; the machine's last by default.
    #[arg(long, default_value_t = crate::lab::last_core())]
    pub(super) core: usize,
    /// Cores of the generator.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub(super) generator_cores: Vec<usize>,
    /// One round with few connections: checks that it works, not how fast it is.
    #[arg(long)]
    pub(super) smoke: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Writes a record into this directory.
    #[arg(long, value_name = "DIR")]
    pub(super) record: Option<PathBuf>,
    /// Name of the record; by default it says what was measured.
    #[arg(long, value_name = "NAME")]
    pub(super) record_as: Option<String>,
}

impl Options {
    pub(super) fn rounds(&self) -> u32 {
        if self.smoke { 1 } else { self.rounds }
    }

    pub(super) fn connections(&self) -> u32 {
        let usual = match (self.load, self.smoke) {
            (Load::Packets, false) => 100_000,
            (Load::Packets, true) => 2_000,
            (Load::Http, false) => 64,
            (Load::Http, true) => 16,
        };
        self.connections.unwrap_or(usual)
    }

    pub(super) fn rate(&self) -> String {
        if self.smoke { "20kpps".into() } else { self.rate.clone() }
    }

    pub(super) fn open_rate(&self) -> u32 {
        if self.smoke { 5_000 } else { 50_000 }
    }

    pub(super) fn most_cps(&self) -> u32 {
        if self.smoke { 1_000 } else { self.cps }
    }

    pub(super) fn reals(&self) -> u16 {
        if self.load == Load::Http { web::REALS } else { 16 }
    }

    /// Time in which every connection gets a packet each way.
    pub(super) fn pass(&self) -> anyhow::Result<Duration> {
        let rate: Rate = self.rate().parse().map_err(|e| anyhow!("--rate: {e}"))?;
        let least = size::least(false, spec::Protocol::Tcp);
        let pps = rate.pps(Size::Fixed(self.size).wire_bits(least));
        Ok(Duration::from_secs_f64(2.0 * f64::from(self.connections()) / pps.max(1.0)))
    }

    /// Bytes a second of each download.
    pub(super) fn pace() -> f64 {
        800e3
    }

    pub(super) fn config(&self) -> Config {
        Config {
            connections: self.connections(),
            reals: self.reals(),
            cores: vec![self.core],
            ..Config::default()
        }
    }

    pub(super) fn cases(&self) -> Vec<Case> {
        case::cases(&self.only, &self.times, self.beside.is_some())
    }

    pub(super) fn measures_replication(&self) -> bool {
        let possible = self.beside.is_none() && self.load == Load::Packets;
        let wanted = self.replication || self.only.is_empty() && !self.no_replication;
        possible && wanted
    }

    pub(super) fn load_words(&self) -> String {
        match self.load {
            Load::Packets => {
                format!(
                    "{} connections, {}-byte packets, {}",
                    self.connections(),
                    self.size,
                    self.rate()
                )
            }
            Load::Http => {
                format!("{} downloads of {} kB/s", self.connections(), Self::pace() / 1e3)
            }
        }
    }

    pub(super) fn name(&self) -> String {
        let usual = match (self.beside, self.load) {
            (None, Load::Packets) => "pair",
            (None, Load::Http) => "downloads",
            (Some(Beside::Keepalived), Load::Packets) => "beside-keepalived",
            (Some(Beside::Keepalived), Load::Http) => "downloads-beside-keepalived",
        };
        self.record_as.clone().unwrap_or_else(|| usual.to_owned())
    }
}
