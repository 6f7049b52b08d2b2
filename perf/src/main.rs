//! `xvip-perf`: measures xvip and says on what and how quietly it measured.

mod bare;
mod failover;
mod lab;
mod machine;
mod median;
mod packet_path;
mod peers;
mod record;
mod report;
mod scaling;
mod target;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures xvip.
#[derive(Parser)]
#[command(name = "xvip-perf", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The in-memory packet path on one core: parse, look up, rewrite; no I/O.
    Core(packet_path::Options),
    /// How speed and memory change as connections, services, real servers or workers grow.
    Scaling(scaling::Options),
    /// Writes docs/performance.md and its charts from recorded runs.
    Report(report::Options),
    /// The real processes on veth: 1 Gbit/s at every frame size with 100,000 live connections.
    Target(target::Options),
    /// NAT beside a forwarder that looks at nothing, in turn.
    Bare(bare::Options),
    /// Forwards frames between two interfaces and looks at nothing; `bare` starts it.
    #[command(hide = true)]
    Forwarder(bare::forwarder::Options),
    /// A lab that stands until it is stopped, to look at things by hand.
    #[command(hide = true)]
    Lab(lab::hold::Options),
    /// How long this machine keeps a thread from its core: what no forwarder can be faster than.
    Stalls(lab::stalls::Options),
    /// Two balancers: what clients notice when one dies or is replaced, and how fast connections are replicated.
    Failover(failover::Options),
    /// Downloads and compares; `failover` starts it.
    #[command(hide = true)]
    Download(failover::download::Options),
    /// Beside nftables, HAProxy and nginx: the same links, cores and load, in turn.
    Peers(peers::Options),
    /// Forwards a number of packets and ends, for an instruction counter to watch.
    #[command(hide = true)]
    Packets(packet_path::instructions::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "xvip-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Core(options) => packet_path::run(&options),
        Command::Scaling(options) => scaling::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Target(options) => target::run(&options),
        Command::Bare(options) => bare::run(&options),
        Command::Forwarder(options) => bare::forwarder::run(&options),
        Command::Lab(options) => lab::hold::run(&options),
        Command::Stalls(options) => lab::stalls::run(&options),
        Command::Peers(options) => peers::run(&options),
        Command::Failover(options) => failover::run(&options),
        Command::Download(options) => failover::download::run(&options),
        Command::Packets(options) => packet_path::instructions::run(&options),
    }
}
