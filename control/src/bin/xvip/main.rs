//! `xvip`: the operator's command.
//!
//! Speaks newline-delimited JSON with `xvip-control` (`docs/protocols.md`). Exit status: 0 done,
//! 1 not done, 2 wrong usage or a configuration file with errors. `xvip probe`: 0 every check passed,
//! 1 a server failed one, 2 a check could not be run.
#![forbid(unsafe_code)]

mod client;
mod ha;
mod health;
mod probe;
mod look;
mod see;
mod operate;
mod show;
mod stop;
mod table;
mod top;

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use control::config::Errors;
use control::io::file;
use control::verbs::{CheckResult, ConnsResult, CountersResult, Verb};
use dataplane_api::message::{CONNS_PAGE_MAX, ConnFilter};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use client::{Client, Problem, Reply};

/// Operate an xvip load balancer.
#[derive(Parser)]
#[command(name = "xvip", version, max_term_width = 100)]
struct Cli {
    /// Name of the instance to talk to.
    #[arg(long, global = true, default_value = "xvip", value_parser = control::io::instance_name)]
    instance: String,
    /// Control socket, if not /run/<instance>/control.sock.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a configuration file; nothing is changed and nobody is asked.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Run the checks of a configuration file once, from here; nobody is asked but the servers, and
    /// for `path` checks the data plane of the instance.
    Probe {
        /// The file.
        file: PathBuf,
        /// Only this service.
        service: Option<String>,
        /// Only this real server of it: name or address.
        real: Option<String>,
    },
    /// Show how control, data plane, interfaces and workers are.
    Status,
    /// Show services with their real servers.
    Services,
    /// Show connections.
    Conns(Conns),
    /// Show drops and events that happened, with their meaning.
    Counters {
        /// Also those that are zero.
        #[arg(long)]
        all: bool,
    },
    #[command(flatten)]
    See(see::See),
    /// Show what would become of a client's first packet, and why.
    Why(look::Why),
    /// Copy packets, as they come and as they go, into a file for tshark or Wireshark.
    Capture(look::Capture),
    #[command(flatten)]
    Operate(operate::Operate),
    #[command(flatten)]
    Pair(ha::Pair),
}

#[derive(Args)]
struct Conns {
    /// Only this service.
    #[arg(long)]
    service: Option<String>,
    /// Only this client address.
    #[arg(long)]
    client: Option<IpAddr>,
    /// Only this real server's address.
    #[arg(long)]
    real: Option<IpAddr>,
    /// Only this state, like ESTABLISHED.
    #[arg(long)]
    state: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them, however many.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// How we end.
enum End {
    Done,
    /// Already told.
    BadConfig,
    /// A check failed.
    Down,
    /// A check could not be run.
    Cannot,
    /// Not told yet.
    Problem(Problem),
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        // Whoever read our output has had enough (`xvip conns --all | head`): not a failure.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Done;
        }
        Self::Problem(Problem::new(format!("cannot write the output: {error}")))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let end = run(&cli, &mut out).unwrap_or_else(|end| end);
    let end = match out.flush() {
        Ok(()) => end,
        Err(error) => match (End::from(error), end) {
            (End::Done, end) => end,
            (problem, _) => problem,
        },
    };
    match end {
        End::Done => ExitCode::SUCCESS,
        End::Down => ExitCode::FAILURE,
        End::BadConfig | End::Cannot => ExitCode::from(2),
        End::Problem(problem) => {
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::from(if problem.is_config() { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli, out: &mut impl Write) -> Result<End, End> {
    if let Command::Check { file } = &cli.command {
        return check(file, cli.json, out);
    }
    let default = || Path::new("/run").join(&cli.instance).join("control.sock");
    let socket = cli.socket.clone().unwrap_or_else(default);
    if let Command::Probe { file, service, real } = &cli.command {
        let (service, real) = (service.as_deref(), real.as_deref());
        return probe::run(file, service, real, cli.json, &socket, out);
    }
    if let Command::See(command) = &cli.command {
        return see::run(cli, command, &socket, out);
    }
    let mut client = Client::connect(&socket)?;
    match &cli.command {
        Command::Check { .. } | Command::Probe { .. } | Command::See(_) => Ok(End::Done),
        Command::Status => {
            plain(cli, &mut client, &Verb::Status {}, out, |r, out| show::status(out, &r))
        }
        Command::Services => {
            plain(cli, &mut client, &Verb::Services {}, out, |r, out| show::services(out, &r))
        }
        Command::Counters { all } => {
            let show = |r: Reply<CountersResult>, out: &mut _| show::counters(out, &r.result, *all);
            plain(cli, &mut client, &Verb::Counters {}, out, show)
        }
        Command::Why(args) => look::why(cli, args, &mut client, out),
        Command::Capture(args) => look::capture(cli, args, &mut client, out),
        Command::Operate(command) => operate::run(cli, command, &mut client, out),
        Command::Pair(command) => ha::run(cli, command, &mut client, out),
        Command::Conns(args) => conns(args, cli.json, &mut client, out),
    }
}

/// One request, one result, shown.
fn plain<T: DeserializeOwned, W: Write>(
    cli: &Cli,
    client: &mut Client,
    verb: &Verb,
    out: &mut W,
    show: impl FnOnce(Reply<T>, &mut W) -> io::Result<()>,
) -> Result<End, End> {
    if cli.json {
        // As it came, so that fields this program does not know are not lost.
        let reply: Reply<Box<RawValue>> = client.ask(verb)?;
        writeln!(out, "{}", reply.result.get())?;
    } else {
        show(client.ask(verb)?, out)?;
    }
    Ok(End::Done)
}

/// Pages through the table. With `--json`, one object with all of it.
fn conns(args: &Conns, json: bool, client: &mut Client, out: &mut impl Write) -> Result<End, End> {
    let filter = ConnFilter {
        service: args.service.clone(),
        client: args.client,
        real: args.real,
        state: args.state.clone(),
    };
    let mut left = if args.all { u64::MAX } else { u64::from(args.limit) };
    let (mut cursor, mut shown, mut more) = (0, 0_u64, false);
    let mut table = show::ConnTable::new(json);
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(u32::MAX).min(CONNS_PAGE_MAX);
        let verb = Verb::Conns { cursor, limit, filter: filter.clone() };
        let page: Reply<ConnsResult> = client.ask(&verb)?;
        let count = page.result.conns.len() as u64;
        table.page(out, &page.result.conns)?;
        // A page is shown as it comes: whoever pipes millions of lines need not wait for the last.
        out.flush()?;
        shown += count;
        left = left.saturating_sub(count);
        more = page.result.next.is_some();
        match page.result.next {
            Some(next) if next != cursor => cursor = next,
            _ => break,
        }
    }
    table.end(out, shown, more)?;
    Ok(End::Done)
}

fn check(path: &Path, json: bool, out: &mut impl Write) -> Result<End, End> {
    let loaded = file::load(path);
    if json {
        let (errors, more) = match &loaded {
            Ok(_) => (Vec::new(), 0),
            Err(Errors { list, more, .. }) => (list.clone(), *more),
        };
        let file = path.display().to_string();
        print_json(out, &CheckResult { ok: loaded.is_ok(), file, errors, more })?;
        return Ok(if loaded.is_ok() { End::Done } else { End::BadConfig });
    }
    match loaded {
        Ok(config) => {
            show::summary(out, path, &config)?;
            Ok(End::Done)
        }
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{errors}");
            Ok(End::BadConfig)
        }
    }
}

fn print_json<T: Serialize>(out: &mut impl Write, value: &T) -> Result<(), End> {
    let text = serde_json::to_string(value)
        .map_err(|e| Problem::new(format!("cannot write the result as JSON: {e}")))?;
    writeln!(out, "{text}")?;
    Ok(())
}
