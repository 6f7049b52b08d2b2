//! Commands that show what happened, try the alerts, and print metrics.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use control::verbs::{
    AlertTestResult, EVENTS_MAX, EVENTS_WAIT_MAX_MS, EventEntry, EventsResult, MetricsResult, Verb,
};

use crate::client::{Client, Problem, Reply};
use crate::table::{clean, plural};
use crate::top::{self, Top};
use crate::{Cli, End, print_json};

/// Pause before a lost connection is made again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(crate) enum See {
    /// Show what has happened: real servers up and down, reloads, problems.
    Events(Events),
    /// Try the alerts.
    #[command(subcommand)]
    Alert(Alert),
    /// Print everything that is measured, as Prometheus would get it.
    Metrics,
    /// Watch services and real servers live.
    Top(Top),
}

#[derive(Args)]
pub(crate) struct Events {
    /// Go on with what happens, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Only what happened within this time, like 10m or 2h.
    #[arg(long, value_name = "TIME", value_parser = age)]
    since: Option<u64>,
}

#[derive(Subcommand)]
pub(crate) enum Alert {
    /// Send a test, and say whether it was taken.
    Test {
        /// Only to this target.
        name: Option<String>,
    },
}

fn age(text: &str) -> Result<u64, String> {
    let age = control::config::parse_duration(text);
    let age = age.and_then(|age| u64::try_from(age.as_millis()).ok());
    age.ok_or_else(|| "expected a duration like 90s, 10m or 1h30m".to_owned())
}

/// Carries the command out.
pub(crate) fn run(cli: &Cli, command: &See, socket: &Path, out: &mut impl Write) -> Outcome {
    match command {
        See::Events(args) => events(cli, args, socket, out),
        See::Alert(Alert::Test { name }) => alert_test(cli, name.clone(), socket, out),
        See::Metrics => {
            let reply: Reply<MetricsResult> = Client::connect(socket)?.ask(&Verb::Metrics {})?;
            if cli.json {
                print_json(out, &reply.result)?;
            } else {
                write!(out, "{}", reply.result.text)?;
            }
            Ok(End::Done)
        }
        See::Top(args) => top::run(cli, args, socket, out),
    }
}

/// How a command ends.
type Outcome = Result<End, End>;

fn events(cli: &Cli, args: &Events, socket: &Path, out: &mut impl Write) -> Outcome {
    let mut client = Client::connect(socket)?;
    let (mut after, mut max_age_ms) = (0, args.since);
    let mut boot = None;
    let mut all = Vec::new();
    loop {
        let wait_ms = if args.follow { EVENTS_WAIT_MAX_MS } else { 0 };
        let boot_id = boot.clone();
        let verb = Verb::Events { after, boot_id, limit: EVENTS_MAX, wait_ms, max_age_ms };
        let reply: Reply<EventsResult> = match client.ask(&verb) {
            Ok(reply) => reply,
            Err(problem) if args.follow => {
                let _ = writeln!(io::stderr(), "{problem}; trying again");
                client = reconnect(socket);
                continue;
            }
            Err(problem) => return Err(problem.into()),
        };
        boot = Some(reply.boot_id);
        let page = reply.result;
        let end = page.events.is_empty() && page.missed == 0;
        (after, max_age_ms) = (page.next, if page.next > 0 { None } else { max_age_ms });
        if !cli.json || args.follow {
            show(cli, &page, out)?;
            out.flush()?;
        } else {
            all.extend(page.events);
        }
        if end && !args.follow {
            break;
        }
    }
    if cli.json {
        print_json(out, &EventsResult { events: all, missed: 0, next: after })?;
    }
    Ok(End::Done)
}

#[expect(clippy::disallowed_methods, reason = "a command for people; nothing else goes on in it")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn reconnect(socket: &Path) -> Client {
    loop {
        pause(AGAIN);
        if let Ok(client) = Client::connect(socket) {
            return client;
        }
    }
}

fn show(cli: &Cli, page: &EventsResult, out: &mut impl Write) -> Result<(), End> {
    if page.missed > 0 {
        let missed = page.missed;
        if cli.json {
            print_json(out, &serde_json::json!({ "missed": missed }))?;
        } else {
            let count = plural(usize::try_from(missed).unwrap_or(usize::MAX), "event");
            writeln!(out, "… {count} missed")?;
        }
    }
    for event in &page.events {
        if cli.json { print_json(out, event)? } else { line(out, event)? }
    }
    Ok(())
}

fn line(out: &mut impl Write, event: &EventEntry) -> io::Result<()> {
    let EventEntry { time, severity, text, .. } = event;
    writeln!(out, "{}  {:<8}  {}", clean(time), severity.name(), clean(text))
}

fn alert_test(cli: &Cli, name: Option<String>, socket: &Path, out: &mut impl Write) -> Outcome {
    let reply: Reply<AlertTestResult> = Client::connect(socket)?.ask(&Verb::AlertTest { name })?;
    let targets = &reply.result.targets;
    if cli.json {
        print_json(out, &reply.result)?;
    } else {
        for target in targets {
            let how = match &target.error {
                Some(error) => format!("NOT delivered: {}", clean(error)),
                None => "delivered".to_owned(),
            };
            writeln!(out, "{}: {how}", clean(&target.name))?;
        }
    }
    let failed = targets.iter().filter(|t| !t.delivered).count();
    if failed > 0 {
        out.flush()?;
        let count = plural(targets.len(), "target");
        let problem = format!("{failed} of {count} did not take the test");
        return Err(Problem::new(problem).into());
    }
    Ok(End::Done)
}
