//! `xvip top`: services and real servers live, on a terminal or as plain text.
//!
//! A thread asks xvip-control, so that keys are heard while it does not answer.

mod app;
mod model;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;
use control::verbs::{StatusResult, Verb};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::client::{Client, Problem};
use crate::stop::Stop;
use crate::table::Table;
use crate::{Cli, End, print_json};
use app::{App, Next};
use model::Sample;

/// Longest wait for a key before the screen is looked at again.
const KEY_WAIT: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Top {
    /// Time between looks, like 500ms or 2s.
    #[arg(long, default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print once as plain text, and end; rates are over one interval.
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// Print that many times as plain text, and end.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Show only what has this in its name, address or state.
    #[arg(long, default_value = "")]
    filter: String,
}

fn interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(200)..=Duration::from_secs(3600);
    let interval = control::config::parse_duration(text).filter(|i| range.contains(i));
    interval.ok_or_else(|| "expected 200ms to 1h, like 500ms or 2s".to_owned())
}

/// Carries the command out.
pub(crate) fn run(cli: &Cli, args: &Top, socket: &Path, out: &mut impl Write) -> Result<End, End> {
    if let Some(times) = args.batch.or(args.once.then_some(1)) {
        return batch(cli, args, socket, times, out);
    }
    if cli.json {
        return Err(Problem::new("--json needs --once or --batch TIMES").into());
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let message = "xvip top needs a terminal; use --once or --batch TIMES for plain text";
        return Err(Problem::new(message).into());
    }
    // Before the screen is taken: what is wrong can still be read afterwards.
    Client::connect(socket)?;
    let looks = look_around(socket.to_owned(), args.interval);
    let mut app = App::new(&args.filter);
    let mut stop = Stop::on_signals()?;
    let mut terminal = ratatui::try_init()?;
    let result = live(&mut terminal, &mut app, &looks, &mut stop);
    ratatui::restore();
    result?;
    Ok(End::Done)
}

fn live(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    looks: &mpsc::Receiver<Result<Seen, Problem>>,
    stop: &mut Stop,
) -> io::Result<()> {
    while !stop.now() {
        looks.try_iter().for_each(|look| match look {
            Ok(Seen::All(sample)) => app.update(Ok(*sample)),
            Ok(Seen::Control(status, why)) => app.data_plane_lost(*status, why.to_string()),
            Err(problem) => app.update(Err(problem.to_string())),
        });
        // Draws to the size that the terminal has now, so that a new size needs no word of its own.
        let mut height = 0;
        terminal.draw(|frame| {
            height = frame.area().height;
            view::draw(frame, app);
        })?;
        if !event::poll(KEY_WAIT)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && app.key(key, view::page(height)) == Next::Quit
        {
            break;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a command for people; its core has no time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks again and again, until nobody listens.
fn look_around(socket: PathBuf, interval: Duration) -> mpsc::Receiver<Result<Seen, Problem>> {
    // One look waits at most: old ones are worth nothing.
    let (looks, queue) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let (start, mut client) = (now(), None);
        loop {
            let began = now();
            let look = look(&mut client, &socket, start);
            if look.is_err() {
                client = None;
            }
            if looks.send(look).is_err() {
                return;
            }
            pause(interval.saturating_sub(began.elapsed()));
        }
    });
    queue
}

/// What a look has found.
enum Seen {
    All(Box<Sample>),
    /// Only how control is: there is no data plane, and why that is no good.
    Control(Box<StatusResult>, Problem),
}

/// One look, on a new connection if there is none.
fn look(client: &mut Option<Client>, socket: &Path, start: Instant) -> Result<Seen, Problem> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(socket)?),
    };
    let status: StatusResult = client.ask(&Verb::Status {})?.result;
    let services: crate::client::Reply<_> = match client.ask(&Verb::Services {}) {
        Ok(services) => services,
        Err(problem) if status.agent.state != "connected" => {
            return Ok(Seen::Control(Box::new(status), problem));
        }
        Err(problem) => return Err(problem),
    };
    let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let at_ms = elapsed.saturating_sub(services.age_ms.unwrap_or(0));
    Ok(Seen::All(Box::new(Sample { at_ms, status, services: services.result })))
}

/// One look that finds everything.
fn whole(client: &mut Option<Client>, socket: &Path, start: Instant) -> Result<Sample, Problem> {
    match look(client, socket, start)? {
        Seen::All(sample) => Ok(*sample),
        Seen::Control(_, problem) => Err(problem),
    }
}

fn batch(
    cli: &Cli,
    args: &Top,
    socket: &Path,
    times: u32,
    out: &mut impl Write,
) -> Result<End, End> {
    let (start, mut client) = (now(), None);
    let mut app = App::new(&args.filter);
    app.update(Ok(whole(&mut client, socket, start)?));
    for n in 0..times {
        pause(args.interval);
        app.update(Ok(whole(&mut client, socket, start)?));
        if cli.json {
            print_json(out, &app.shown())?;
        } else {
            if n > 0 {
                writeln!(out)?;
            }
            plain(&app, out)?;
        }
        out.flush()?;
    }
    Ok(End::Done)
}

/// The same as on the screen, as text.
fn plain(app: &App, out: &mut impl Write) -> io::Result<()> {
    for line in view::summary(app) {
        writeln!(out, "{line}")?;
    }
    let mut table = Table::new(&[
        "SERVICE / REAL",
        "STATE",
        "ADDRESS",
        ">WEIGHT",
        ">ACTIVE",
        ">OTHER",
        ">CONN/S",
        ">PKT/S",
        ">BIT/S IN",
        ">BIT/S OUT",
    ]);
    for group in app.shown() {
        let mut add = |row: &model::Row, indent: &str| {
            table.row([
                format!("{indent}{}", row.name),
                row.state.clone(),
                row.address.clone(),
                row.weight.to_string(),
                row.active.to_string(),
                row.inactive.to_string(),
                view::rate(row.rates.conns),
                view::rate(row.rates.packets),
                view::rate(row.rates.bits_in),
                view::rate(row.rates.bits_out),
            ]);
        };
        add(&group.service, "");
        group.reals.iter().for_each(|real| add(real, "  "));
    }
    table.print(out, "")
}
