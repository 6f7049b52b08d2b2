//! `xvip-pktgen`: sends traffic through a load balancer and proves what became of each packet.

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pktgen::options::{self, Run};
use pktgen::report::Report;
use pktgen::{run, show};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Some criteria were not met.
const FAILED: u8 = 1;
/// Wrong usage, or nothing could be measured.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let matches = match options::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version come this way too, and are no errors.
            let _ = error.print();
            if let Some(hint) = options::hint(&error) {
                let _ = writeln!(stderr(), "\n  help: {hint}");
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(UNUSABLE));
        }
    };
    let run = match options::from_matches(&matches) {
        Ok(run) => run,
        Err(errors) => {
            let _ = writeln!(stderr(), "{errors}");
            return ExitCode::from(UNUSABLE);
        }
    };
    match measure(&run) {
        Ok(report) => {
            // Whoever listens no more needs no report; the status still tells.
            let _ = print(&report, run.spec.output.json);
            ExitCode::from(if report.passed { 0 } else { FAILED })
        }
        Err(error) => {
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn measure(run: &Run) -> anyhow::Result<Report> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The first ends the run in good order, the second the process.
        flag::register_conditional_default(signal, interrupted.clone())?;
        flag::register(signal, interrupted.clone())?;
    }
    run::run(run, &interrupted)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else {
        out.write_all(show::table(report).as_bytes())?;
    }
    out.flush()?;
    Ok(())
}
