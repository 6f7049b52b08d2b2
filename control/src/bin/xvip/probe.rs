//! `xvip probe`: runs the checks of a configuration file once, from here.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use control::check::{Outcome, Probe, Report};
use control::config::{Config, Errors};
use control::io::file;
use control::io::probe::{self, Paths};
use control::overrides::RealKey;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::Problem;
use crate::health::took;
use crate::table::{Table, clean};
use crate::{End, print_json};

/// Most checks that run at a time.
const RUNS_MAX: usize = 256;

/// One check of one real, run.
#[derive(Serialize)]
struct Row {
    service: String,
    real: String,
    address: String,
    /// Kind, and whom it asks.
    check: String,
    /// `up`, `down` or `cannot-check`.
    outcome: &'static str,
    reason: Option<String>,
    weight_percent: Option<u8>,
    took_us: u64,
}

#[derive(Serialize)]
struct Rows {
    checks: Vec<Row>,
}

/// What is to be run.
struct Task {
    service: String,
    real: String,
    address: String,
    probe: Arc<Probe>,
}

/// Runs and shows them; `path` checks go through the data plane whose socket is beside `control`. How
/// it went is in the exit status: 0 all up, 1 some down, 2 cannot run.
pub(crate) fn run(
    path: &Path,
    service: Option<&str>,
    real: Option<&str>,
    json: bool,
    control: &Path,
    out: &mut impl Write,
) -> Result<End, End> {
    let config = match file::load(path) {
        Ok(config) => config,
        Err(errors) => return Ok(bad(&errors)),
    };
    let tasks = match choose(&config, service, real) {
        Ok(tasks) => tasks,
        Err(message) => {
            let _ = writeln!(io::stderr(), "error: {message}");
            return Ok(End::Cannot);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Problem::new(format!("cannot start the event loop: {e}")))?;
    let rows = runtime.block_on(ask(tasks, Paths::new(Some(control.with_file_name("agent.sock")))));
    runtime.shutdown_background();
    let has = |outcome| rows.iter().any(|r| r.outcome == outcome);
    let end = match (has("cannot-check"), has("down")) {
        (true, _) => End::Cannot,
        (false, true) => End::Down,
        (false, false) => End::Done,
    };
    if json {
        print_json(out, &Rows { checks: rows })?;
    } else {
        show(out, &rows)?;
    }
    Ok(end)
}

fn bad(errors: &Errors) -> End {
    let _ = writeln!(io::stderr(), "{errors}");
    End::BadConfig
}

fn choose(config: &Config, service: Option<&str>, real: Option<&str>) -> Result<Vec<Task>, String> {
    let (mut tasks, mut services, mut reals) = (Vec::new(), 0, 0);
    for entry in config.services.iter().filter(|e| service.is_none_or(|s| s == e.service.name)) {
        services += 1;
        for (wanted, checks) in entry.service.reals.iter().zip(&entry.checks) {
            let address = RealKey::new(&entry.service.name, wanted).text();
            let named = |n: &str| {
                let whole = n.parse::<IpAddr>().is_ok_and(|a| a == wanted.address);
                n == wanted.name || n == address || whole
            };
            if !real.is_none_or(named) {
                continue;
            }
            reals += 1;
            for check in checks.iter() {
                tasks.push(Task {
                    service: entry.service.name.clone(),
                    real: wanted.name.clone(),
                    address: address.clone(),
                    probe: Arc::new(check.probe(&entry.service, wanted)),
                });
            }
        }
    }
    match (service, real) {
        (Some(service), _) if services == 0 => {
            let names: Vec<_> = config.services.iter().map(|e| e.service.name.as_str()).collect();
            Err(format!("no service `{}`; there are {}", clean(service), names.join(", ")))
        }
        (Some(service), Some(real)) if reals == 0 => {
            Err(format!("no real server `{}` in service `{}`", clean(real), clean(service)))
        }
        _ => Ok(tasks),
    }
}

/// All at once, within bounds; in the order of the file.
async fn ask(tasks: Vec<Task>, paths: Paths) -> Vec<Row> {
    let paths = Arc::new(paths);
    let room = Arc::new(Semaphore::new(RUNS_MAX));
    let mut runs = JoinSet::new();
    for (index, task) in tasks.iter().enumerate() {
        let (room, paths) = (Arc::clone(&room), Arc::clone(&paths));
        let probe = Arc::clone(&task.probe);
        runs.spawn(async move {
            let _permit = room.acquire().await;
            (index, probe::run(&probe, &paths).await)
        });
    }
    let mut reports: Vec<Option<Report>> = tasks.iter().map(|_| None).collect();
    while let Some(ended) = runs.join_next().await {
        if let Ok((index, report)) = ended
            && let Some(place) = reports.get_mut(index)
        {
            *place = Some(report);
        }
    }
    tasks.into_iter().zip(reports).map(|(task, report)| row(task, report)).collect()
}

fn row(task: Task, report: Option<Report>) -> Row {
    let lost = || Report {
        outcome: Outcome::cannot_run("the check failed by a mistake in xvip; please report it"),
        took: std::time::Duration::ZERO,
    };
    let report = report.unwrap_or_else(lost);
    let weight_percent = match &report.outcome {
        Outcome::Up(passed) => passed.weight_percent,
        Outcome::Down(_) | Outcome::CannotRun(_) => None,
    };
    Row {
        service: task.service,
        real: task.real,
        address: task.address,
        check: format!("{} {}", task.probe.kind.name(), task.probe.target),
        outcome: report.outcome.name(),
        reason: report.outcome.reason().map(str::to_owned),
        weight_percent,
        took_us: u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX),
    }
}

fn show(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no checks");
    }
    let mut table = Table::new(&["SERVICE", "REAL", "CHECK", "RESULT", ">TIME", "REASON"]);
    for r in rows {
        let mut reason = r.reason.clone().unwrap_or_default();
        if let Some(percent) = r.weight_percent {
            let space = if reason.is_empty() { "" } else { "; " };
            reason.push_str(&format!("{space}asks for {percent} % of its weight"));
        }
        let outcome = if r.outcome == "down" { "DOWN" } else { r.outcome };
        table.row([
            r.service.clone(),
            r.real.clone(),
            r.check.clone(),
            outcome.to_owned(),
            took(r.took_us),
            reason,
        ]);
    }
    table.print(out, "")
}
