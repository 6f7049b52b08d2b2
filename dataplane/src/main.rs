//! `xvip-dataplane`: arguments, privileged set-up, then the steward's loop.

mod setup;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Moves the packets of xvip's VIPs. Does what `xvip-control` tells it over the agent socket.
#[derive(Parser)]
#[command(name = "xvip-dataplane", version)]
struct Arguments {
    /// Names everything that outlives the process: run directory and connection table.
    #[arg(long, default_value = "xvip")]
    instance: String,
    /// Directory of the agent socket, the pinned steering program and the state file; /run/INSTANCE
    /// if not given.
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Internal: waits on standard input and unmounts the given directory when told so.
    #[arg(long, hide = true, value_name = "DIR")]
    unmounter: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.unmounter {
        Some(directory) => setup::unmounter(&directory),
        None => setup::run(&arguments.instance, arguments.run_dir),
    };
    let status = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            dataplane::log!("xvip-dataplane: {e:#}");
            ExitCode::FAILURE
        }
    };
    dataplane::log::finish();
    status
}
