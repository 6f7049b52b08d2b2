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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let run_dir = cli.run_dir.unwrap_or_else(|| PathBuf::from("/run").join(&cli.instance));
    let options = Options { config: cli.config, instance: cli.instance, run_dir };
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
