//! Commands that change something, or say what would change.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use control::config::FILE_MAX;
use control::overrides::Then;
use control::verbs::{
    ChangeResult, ConfirmResult, OverrideStatus, OverridesResult, PlanResult, Verb, Which,
};

use crate::client::{Client, Problem, Reply};
use crate::table::{Table, clean, ms, plural};
use crate::{Cli, End, plain, show};

/// Pause between looks at a drain that is waited for.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(crate) enum Operate {
    /// Give a real server no new connections; those it has go on.
    Drain(Drain),
    /// Take `drain` and `disable` back.
    Enable(Real),
    /// Take a real server out of service, as if it were dead.
    Disable {
        #[command(flatten)]
        real: Real,
        /// Back by itself after this time, like 2h.
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        for_s: Option<u32>,
    },
    /// Give a real server another weight than the file's.
    Weight {
        #[command(flatten)]
        real: Real,
        /// The weight, 0 to 65535, or `file` for what the configuration file says.
        #[arg(value_parser = weight)]
        weight: FileOr,
        /// Back by itself after this time, like 2h.
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        for_s: Option<u32>,
    },
    /// Show real servers that are not as the configuration file says.
    Overrides,
    /// Show what would change if this were the configuration file, and for how many connections.
    Plan {
        /// The file.
        file: PathBuf,
    },
    /// Read the configuration file again and apply it.
    Reload {
        /// Go back by itself after this time, like 60s, unless `xvip confirm` comes.
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        confirm: Option<u32>,
    },
    /// Keep the last reload, which waits for it.
    Confirm,
    /// Undo the last reload, which waits for confirmation.
    Rollback,
}

/// A weight, or the file's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileOr(Option<u16>);

fn weight(text: &str) -> Result<FileOr, String> {
    if text == "file" {
        return Ok(FileOr(None));
    }
    let weight = text.parse().map_err(|_| "expected 0 to 65535, or `file`".to_owned())?;
    Ok(FileOr(Some(weight)))
}

/// Whole seconds from `90s`, `10m`, `1h30m` or `90`.
fn seconds(text: &str) -> Result<u32, String> {
    let expected = || "expected a time of whole seconds like 90s, 10m or 1h30m".to_owned();
    let duration = control::config::parse_duration(text)
        .or_else(|| text.parse().ok().map(Duration::from_secs))
        .filter(|d| d.subsec_millis() == 0 && !d.is_zero());
    duration.and_then(|d| u32::try_from(d.as_secs()).ok()).ok_or_else(expected)
}

#[derive(Args)]
pub(crate) struct Real {
    /// Name, address, or address:port of the real server.
    real: String,
    /// Only in this service.
    #[arg(long)]
    service: Option<String>,
    /// All of them, if that is several.
    #[arg(long)]
    all: bool,
}

impl Real {
    fn which(&self) -> Which {
        Which { real: self.real.clone(), service: self.service.clone(), all: self.all }
    }
}

#[derive(Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    real: Real,
    /// When it should be over, like 10m.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    deadline: Option<u32>,
    /// What happens then to the connections that are left.
    #[arg(long, value_enum, requires = "deadline")]
    then: Option<ThenArg>,
    /// Clients bound to it by persistence go elsewhere with their next connection.
    #[arg(long)]
    move_persistent: bool,
    /// Enabled again by itself after this time, like 2h.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    for_s: Option<u32>,
    /// Wait until no connection is left.
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ThenArg {
    /// They stay.
    Keep,
    /// They are reset.
    Reset,
}

pub(crate) fn run(
    cli: &Cli,
    command: &Operate,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<End, End> {
    let verb = match command {
        Operate::Overrides => return plain(cli, client, &Verb::Overrides {}, out, overrides),
        Operate::Plan { file } => return plain(cli, client, &plan_verb(file)?, out, plan),
        Operate::Reload { confirm } => {
            let verb = Verb::Reload { confirm_s: *confirm };
            return plain(cli, client, &verb, out, |r, out| show::reload(out, &r.result));
        }
        Operate::Confirm => return plain(cli, client, &Verb::Confirm {}, out, confirmed),
        Operate::Rollback => return plain(cli, client, &Verb::Rollback {}, out, confirmed),
        Operate::Drain(drain) if drain.wait => return wait_for(cli, drain, client, out),
        Operate::Drain(drain) => drain_verb(drain),
        Operate::Enable(real) => Verb::Enable { which: real.which() },
        Operate::Disable { real, for_s } => Verb::Disable { which: real.which(), for_s: *for_s },
        Operate::Weight { real, weight: FileOr(weight), for_s } => {
            Verb::Weight { which: real.which(), weight: *weight, for_s: *for_s }
        }
    };
    plain(cli, client, &verb, out, change)
}

fn drain_verb(drain: &Drain) -> Verb {
    Verb::Drain {
        which: drain.real.which(),
        deadline_s: drain.deadline,
        then: drain.then.map(|then| match then {
            ThenArg::Keep => Then::Keep,
            ThenArg::Reset => Then::Reset,
        }),
        move_persistent: drain.move_persistent,
        for_s: drain.for_s,
    }
}

fn plan_verb(path: &Path) -> Result<Verb, End> {
    let file = path.display().to_string();
    let unreadable = |e: String| Problem::new(format!("cannot read {file}: {e}"));
    let length = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
    if length > FILE_MAX {
        return Err(unreadable(format!("file is larger than {} MiB", FILE_MAX >> 20)).into());
    }
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
    Ok(Verb::Plan { file, text })
}

/// Drains, and shows how many are left until none is.
fn wait_for(
    cli: &Cli,
    drain: &Drain,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<End, End> {
    let mut reply: Reply<ChangeResult> = client.ask(&drain_verb(drain))?;
    let mut shown = Vec::new();
    loop {
        let reals = std::mem::take(&mut reply.result.reals);
        let lines: Vec<String> = reals.iter().map(line).collect();
        if !cli.json && lines != shown {
            for line in &lines {
                writeln!(out, "{line}")?;
            }
            out.flush()?;
            shown = lines;
        }
        if reals.iter().all(|r| r.conns == Some(0)) {
            if cli.json {
                reply.result.reals = reals;
                crate::print_json(out, &reply.result)?;
            }
            return Ok(End::Done);
        }
        pause();
        let now: Reply<OverridesResult> = client.ask(&Verb::Overrides {})?;
        let mine = |o: &OverrideStatus| {
            reals.iter().any(|r| r.service == o.service && r.address == o.address)
        };
        reply.result.reals = now.result.overrides.into_iter().filter(mine).collect();
        if reply.result.reals.iter().filter(|r| r.state.is_some()).count() < reals.len() {
            return Err(Problem::new("no longer drained: somebody has enabled it").into());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the command is a shell, and waits for people")]
fn pause() {
    std::thread::sleep(LOOK);
}

fn change(reply: Reply<ChangeResult>, out: &mut impl Write) -> io::Result<()> {
    let r = reply.result;
    for real in &r.reals {
        writeln!(out, "{}", line(real))?;
    }
    if !r.applied {
        writeln!(out, "note: the data plane gets it once it is connected")?;
    }
    for note in &r.notes {
        writeln!(out, "note: {}", clean(note))?;
    }
    Ok(())
}

/// One real server in words.
fn line(r: &OverrideStatus) -> String {
    let mut words = vec![match (r.state.as_deref(), r.weight) {
        (Some(state), _) => state.to_owned(),
        (None, _) => "in service".to_owned(),
    }];
    if let Some(weight) = r.weight {
        words.push(format!("weight {weight} by an operator"));
    }
    if let (Some(_), Some(left)) = (&r.state, r.expires_in_ms) {
        words.push(format!("back in {}", ms(left)));
    }
    let conns = match r.conns {
        None => "connections unknown".to_owned(),
        Some(1) => "1 connection".to_owned(),
        Some(n) => format!("{n} connections"),
    };
    match (&r.state, r.conns, r.empty_in_ms) {
        (None, ..) => words.push(conns),
        (_, Some(0), _) => words.push("no connection left".to_owned()),
        (.., Some(left)) => words.push(format!("{conns} left, the last in about {}", ms(left))),
        (.., None) => words.push(format!("{conns} left")),
    }
    if let (Some(left), Some(then)) = (r.deadline_in_ms, r.then) {
        let what = match then {
            Then::Keep => "stay",
            Then::Reset => "are reset",
        };
        words.push(match left {
            0 => "deadline reached".to_owned(),
            left => format!("those left in {} {what}", ms(left)),
        });
    }
    let (real, service, address) = (clean(&r.real), clean(&r.service), clean(&r.address));
    format!("{real} of service {service} ({address}): {}", words.join("; "))
}

fn overrides(reply: Reply<OverridesResult>, out: &mut impl Write) -> io::Result<()> {
    let r = reply.result;
    if r.overrides.is_empty() {
        writeln!(out, "all real servers are as the configuration file says")?;
    } else {
        let mut table = Table::new(&[
            "SERVICE",
            "REAL",
            "ADDRESS",
            "STATE",
            "SINCE",
            "BACK IN",
            "WEIGHT",
            ">CONNS",
            ">EMPTY IN",
            "DEADLINE",
            "BY",
        ]);
        for o in &r.overrides {
            table.row(row(o));
        }
        table.print(out, "")?;
    }
    if let Some(m) = &r.maintenance {
        writeln!(out)?;
        let drained = plural(m.drained, "real server");
        writeln!(out, "maintenance directory {}: {drained} drained", clean(&m.directory))?;
        if let Some(problem) = &m.problem {
            writeln!(out, "  problem: {}; what was last read holds", clean(problem))?;
        }
        if m.odd_count > 0 {
            let names = clean(&m.odd.join(", "));
            let files = plural(m.odd_count, "file");
            writeln!(out, "  {files} called like no real server: {names}")?;
        }
    }
    if let Some(problem) = &r.problem {
        writeln!(out, "problem: {}", clean(problem))?;
    }
    Ok(())
}

fn row(o: &OverrideStatus) -> [String; 11] {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = o.state.clone().unwrap_or_else(|| "in service".to_owned());
    let deadline = o.deadline_in_ms.zip(o.then).map(|(left, then)| {
        let then = match then {
            Then::Keep => "keep",
            Then::Reset => "reset",
        };
        if left == 0 { format!("over ({then})") } else { format!("{} ({then})", ms(left)) }
    });
    let by = match (&o.file, o.uid) {
        (Some(file), None) => format!("file {file}"),
        (Some(file), Some(uid)) => format!("user {uid} and file {file}"),
        (None, uid) => dash(uid.map(|u| format!("user {u}"))),
    };
    let weight = o.weight.map(|w| match o.weight_expires_in_ms {
        Some(left) => format!("{w} for {}", ms(left)),
        None => w.to_string(),
    });
    [
        o.service.clone(),
        if o.configured { o.real.clone() } else { format!("{} (not in the file)", o.real) },
        o.address.clone(),
        if o.move_persistent { format!("{state}, ties moved") } else { state },
        dash(o.since_ms.map(ms)),
        dash(o.expires_in_ms.map(ms)),
        dash(weight),
        dash(o.conns.map(|n| n.to_string())),
        dash(o.empty_in_ms.map(ms)),
        dash(deadline),
        by,
    ]
}

fn plan(reply: Reply<PlanResult>, out: &mut impl Write) -> io::Result<()> {
    let r = reply.result;
    let whole = format!("{}, {}", plural(r.services, "service"), plural(r.reals, "real server"));
    if r.differences.is_empty() {
        return writeln!(out, "nothing would change ({whole})");
    }
    let mut table = Table::new(&["", "SERVICE", "REAL", "WHAT", "FROM", "TO", ">CONNS", "EFFECT"]);
    for d in &r.differences {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            d.action.clone(),
            dash(&d.service),
            dash(&d.real),
            d.what.clone(),
            dash(&d.from),
            dash(&d.to),
            d.conns.map_or_else(|| "?".to_owned(), |n| n.to_string()),
            d.effect.clone(),
        ]);
    }
    table.print(out, "")?;
    writeln!(out, "{} ({whole})", plural(r.differences.len(), "difference"))
}

fn confirmed(reply: Reply<ConfirmResult>, out: &mut impl Write) -> io::Result<()> {
    let what = if reply.result.confirmed {
        "confirmed: the configuration stays"
    } else {
        "rolled back: the configuration before is in force again"
    };
    writeln!(out, "{what}")
}
