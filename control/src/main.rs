//! `xvip-control`: decides what the data plane does, and keeps its lease on the VIPs.
//!
//! Exit status: 0 stopped when told to, 1 cannot run, 2 wrong usage or configuration.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::config::Errors;
use control::io::{self, Options};

/// Control process of an xvip load balancer.
#[derive(Parser)]
#[command(name = "xvip-control", version, max_term_width = 100)]
struct Cli {
    /// Configuration file; read again on SIGHUP and `xvip reload`.
    #[arg(long, value_name = "FILE", default_value = "/etc/xvip/xvip.toml")]
    config: PathBuf,
    /// Name of the instance.
    #[arg(long, default_value = "xvip", value_parser = io::instance_name)]
    instance: String,
    /// Directory of the sockets, if not /run/<instance>.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Directory of what survives a restart, if not /var/lib/xvip/<instance>.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Closes what whoever started us left open: scripts that check servers would inherit it. First of
/// all, when nothing of ours is open yet.
fn close_inherited() {
    let Ok(listing) = std::fs::read_dir("/proc/self/fd") else { return };
    let names = listing.flatten().map(|entry| entry.file_name());
    let numbers: Vec<i32> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|n| *n > 2) {
        // That of the listing itself is closed already.
        let _ = nix::unistd::close(number);
    }
}

fn main() -> ExitCode {
    close_inherited();
    let cli = Cli::parse();
    let run_dir = cli.run_dir.unwrap_or_else(|| PathBuf::from("/run").join(&cli.instance));
    let state_dir = cli.state_dir;
    let state_dir = state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/xvip").join(&cli.instance));
    let options = Options { state_dir, config: cli.config, instance: cli.instance, run_dir };
    let error = match io::run(options) {
        Ok(status) => return ExitCode::from(status),
        Err(error) => error,
    };
    let mut stderr = std::io::stderr();
    if let Some(errors) = error.downcast_ref::<Errors>() {
        let _ = writeln!(stderr, "{errors}");
        return ExitCode::from(2);
    }
    let _ = writeln!(stderr, "xvip-control: {error:#}");
    ExitCode::FAILURE
}
