//! `xvip-pktgen` in a node of a lab: its options, its run, its report.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use dataplane_api::service::{Forwarding, Protocol};
use pktgen::report::{Report, SCHEMA, Trial};

use super::balancer::{binary, word};
use super::{CLIENT_LINK, CLIENTS, GENERATOR, Lab, Plan, Process, REAL_PORT, SERVER_LINK};
use crate::packet_path::Family;

/// What a run takes besides opening and traffic: waiting for stragglers, closing.
const SPARE: Duration = Duration::from_secs(60);

/// How packets get into the kernel and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// AF_XDP sockets.
    #[value(name = "af_xdp")]
    AfXdp,
    /// Programs in the kernel.
    #[value(name = "xdp")]
    Xdp,
}

impl Engine {
    /// As options and reports have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AfXdp => "af_xdp",
            Self::Xdp => "xdp",
        }
    }
}

/// A run of the generator.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// `load`, `ndr`, …
    pub(crate) verb: &'static str,
    /// How the balancer forwards.
    pub(crate) method: Forwarding,
    /// Address family.
    pub(crate) family: Family,
    /// Transport protocol.
    pub(crate) protocol: Protocol,
    /// Connections held.
    pub(crate) connections: u32,
    /// Real servers.
    pub(crate) reals: u16,
    /// Frame size on the wire, or `imix`.
    pub(crate) size: String,
    /// `1gbit`, `1.2mpps`: both ways together.
    pub(crate) rate: String,
    /// Share of the packets that are replies; the generator's default if none.
    pub(crate) replies: Option<f64>,
    /// Seconds of traffic.
    pub(crate) seconds: f64,
    /// Connections a second while opening.
    pub(crate) open_rate: u32,
    /// How packets get into the kernel.
    pub(crate) engine: Engine,
    /// Its cores.
    pub(crate) cores: Vec<usize>,
    /// Share of packets that may be lost.
    pub(crate) max_loss: f64,
    /// Agent socket of the balancer.
    pub(crate) balancer: Option<PathBuf>,
    /// There is no balancer that translates: clients speak to the one real server itself.
    pub(crate) straight: bool,
    /// The node it runs in.
    pub(crate) node: &'static str,
    /// More options.
    pub(crate) more: Vec<String>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            verb: "load",
            method: Forwarding::Nat,
            family: Family::V4,
            protocol: Protocol::Tcp,
            connections: 100_000,
            reals: 16,
            size: "512".into(),
            rate: "1gbit".into(),
            replies: None,
            seconds: 10.0,
            open_rate: 100_000,
            engine: Engine::Xdp,
            cores: vec![0],
            max_loss: 0.0,
            balancer: None,
            straight: false,
            node: GENERATOR,
            more: Vec::new(),
        }
    }
}

impl Traffic {
    /// The command line after the program's name.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let plan = Plan::new(self.family);
        let vip = match self.straight {
            true => std::net::SocketAddr::new(plan.real(0), REAL_PORT),
            false => plan.vip(0),
        };
        let cores = self.cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut words = vec![self.verb.to_owned(), "--json".into(), "--quiet".into()];
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        option("client", CLIENT_LINK.into());
        option("server", SERVER_LINK.into());
        option("vip", vip.to_string());
        option("protocol", word(self.protocol));
        option("method", word(self.method));
        option("clients", format!("{}+{CLIENTS}", plan.client()));
        option("reals", format!("{}+{}", plan.real(0), self.reals));
        option("real-port", REAL_PORT.to_string());
        option("connections", self.connections.to_string());
        option("open-rate", self.open_rate.to_string());
        if self.verb != "ndr" {
            option("rate", self.rate.clone());
            option("size", self.size.clone());
            option("seconds", self.seconds.to_string());
        }
        if let Some(replies) = self.replies {
            option("replies", replies.to_string());
        }
        option("engine", self.engine.name().into());
        option("cores", cores);
        option("max-loss", self.max_loss.to_string());
        if let Some(balancer) = &self.balancer {
            option("balancer", balancer.display().to_string());
        }
        words.extend(self.more.iter().cloned());
        words
    }

    fn limit(&self) -> Duration {
        let opening = f64::from(self.connections) / f64::from(self.open_rate.max(1));
        // `ndr` makes some ten trials for each size.
        let trials = if self.verb == "ndr" { 200.0 } else { 1.0 };
        Duration::from_secs_f64(self.seconds * trials + opening * 4.0) + SPARE
    }

    /// Runs it in its node to its end. A run that missed its own criteria has a report
    /// too; what was missed stands in it.
    ///
    /// # Errors
    /// If it cannot be set up, or has not ended in time; with what it said.
    pub(crate) fn run(&self, lab: &Lab) -> anyhow::Result<Report> {
        self.start(lab)?.finish()
    }

    /// Starts it in its node.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(&self, lab: &Lab) -> anyhow::Result<Running> {
        let mut command = lab.node(self.node).command(binary("xvip-pktgen")?);
        command.args(self.arguments());
        let path = lab.directory().join("pktgen.json");
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        let shown = words.join(" ");
        let process = Process::start("pktgen", command, lab.directory(), Some(file))?;
        Ok(Running { process, path, shown, limit: self.limit() })
    }
}

/// A generator at work; killed when dropped.
pub(crate) struct Running {
    process: Process,
    path: PathBuf,
    shown: String,
    limit: Duration,
}

impl Running {
    /// That it still runs.
    ///
    /// # Errors
    /// With what it said, if it has ended.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        self.process.must_run()
    }

    /// Waits for its end; its report.
    ///
    /// # Errors
    /// As [`Traffic::run`].
    pub(crate) fn finish(mut self) -> anyhow::Result<Report> {
        let Self { process, path, shown, limit } = &mut self;
        let status = process.wait(*limit).with_context(|| shown.clone())?;
        let text = fs::read_to_string(&*path).with_context(|| format!("{}", path.display()))?;
        // 0: passed; 1: criteria missed. Else there is no report.
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("the generator could not run ({status}): {}\n{shown}", process.tail());
        }
        let report: Report = serde_json::from_str(&text)
            .with_context(|| format!("report of the generator: {}\n{shown}", process.tail()))?;
        ensure!(report.schema == SCHEMA, "report of another version: {}", report.schema);
        Ok(report)
    }
}

/// The only trial of a report.
///
/// # Errors
/// If it has none.
pub(crate) fn only(report: &Report) -> anyhow::Result<&Trial> {
    report.trials.first().context("the generator reports no trial")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_accepts_its_options() {
        for method in [Forwarding::Nat, Forwarding::Tunnel] {
            let traffic = Traffic {
                method,
                family: Family::V6,
                size: "128".into(),
                balancer: Some("/run/x/agent.sock".into()),
                replies: (method == Forwarding::Nat).then_some(0.25),
                ..Traffic::default()
            };
            let words = traffic.arguments();
            assert!(words.windows(2).any(|w| w == ["--vip", "[2001:db8:18::ffff:1]:80"]));
            assert!(words.windows(2).any(|w| w == ["--clients", "2001:db8:18::1+250"]));
            assert!(words.windows(2).any(|w| w == ["--engine", "xdp"]));
        }
    }
}
