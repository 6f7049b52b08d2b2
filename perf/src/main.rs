//! `xvip-perf`: measures xvip and says on what and how quietly it measured.

mod machine;
mod packet_path;

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
    /// Forwards a number of packets and ends, for an instruction counter to watch.
    #[command(hide = true)]
    Packets(packet_path::instructions::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Core(options) => packet_path::run(&options),
        Command::Packets(options) => packet_path::instructions::run(&options),
    }
}
