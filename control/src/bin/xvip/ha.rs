//! Commands about the pair.

use std::io::{self, Write};

use clap::{Args, Subcommand, ValueEnum};
use control::failover::view::{GroupView, PathView, View};
use control::replicate;
use control::verbs::{HaDone, HaHeartbeat, HaPath, HaResult, HaSummary, Verb};

use crate::client::{Client, Reply};
use crate::table::{Table, clean, count, ms};
use crate::{Cli, End, plain};

#[derive(Subcommand)]
pub(crate) enum Pair {
    /// Show who owns what and why, the other node, the paths of the heartbeat, and what would live if
    /// this node died now.
    Ha,
    /// Move a group of VIPs to the other node, or here; waits until it has arrived.
    Switchover(Switchover),
    /// Let nothing move between the nodes by itself, or things move again.
    Maintenance {
        /// Whether nothing moves.
        state: OnOff,
    },
}

#[derive(Args)]
pub(crate) struct Switchover {
    /// Which group; all of them if absent.
    group: Option<String>,
    /// To which node; to the one that has it not if absent.
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Even if that node does not know every connection: some may be lost.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

/// Carries the command out.
pub(crate) fn run(
    cli: &Cli,
    command: &Pair,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<End, End> {
    let verb = match command {
        Pair::Ha => return plain(cli, client, &Verb::Ha {}, out, |r, out| show(out, &r)),
        Pair::Switchover(Switchover { group, to, force }) => {
            Verb::Switchover { group: group.clone(), to: to.clone(), force: *force }
        }
        Pair::Maintenance { state } => Verb::HaMaintenance { on: matches!(state, OnOff::On) },
    };
    plain(cli, client, &verb, out, |r: Reply<HaDone>, out| {
        writeln!(out, "{}, after {}", clean(&r.result.text), ms(r.result.took_ms))
    })
}

/// The pair in short, in `xvip status`.
pub(crate) fn summary(out: &mut impl Write, ha: &HaSummary) -> io::Result<()> {
    let note = if ha.maintenance { "; maintenance: nothing moves by itself" } else { "" };
    writeln!(out, "pair        other node {} is {}{note}", clean(&ha.peer), clean(&ha.peer_state))?;
    for group in &ha.groups {
        let (name, role, reason) = (clean(&group.name), clean(&group.role), clean(&group.reason));
        writeln!(out, "  group     {name}: {}: {reason}", role.to_uppercase())?;
        if let Some(why) = &group.degraded {
            writeln!(out, "  warning   {name} is DEGRADED: {}", clean(why))?;
        }
    }
    Ok(())
}

/// `xvip ha`
fn show(out: &mut impl Write, reply: &Reply<HaResult>) -> io::Result<()> {
    let r = &reply.result;
    if !r.configured {
        return writeln!(out, "this node is not one of two: its configuration has no [ha]");
    }
    let Some(view) = &r.view else {
        warnings(out, &r.warnings)?;
        return writeln!(out, "the failure detector has not said anything yet");
    };
    head(out, view)?;
    groups(out, &view.groups)?;
    paths(out, &view.paths, r.heartbeat.as_ref().map(|h| &h.paths[..]).unwrap_or_default())?;
    writeln!(out, "deadtime    {}", clean(&view.deadtime.text))?;
    evidence(out, r, view)?;
    if let Some(replication) = &r.replication {
        survival(out, replication, &view.peer.node)?;
    } else {
        writeln!(out, "replication none: connections end at a takeover")?;
    }
    if let Some(heartbeat) = &r.heartbeat {
        thread(out, heartbeat)?;
    }
    let refused: Vec<String> = view
        .refused
        .list()
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    if !refused.is_empty() {
        writeln!(out, "refused     {}", refused.join(", "))?;
    }
    for line in view.differences.iter().chain(&r.differences) {
        writeln!(out, "differs     {}", clean(line))?;
    }
    warnings(out, &r.warnings)
}

fn warnings(out: &mut impl Write, warnings: &[String]) -> io::Result<()> {
    for warning in warnings {
        writeln!(out, "warning     {}", clean(warning))?;
    }
    Ok(())
}

fn head(out: &mut impl Write, view: &View) -> io::Result<()> {
    let peer = &view.peer;
    let mut notes = String::new();
    if view.maintenance {
        notes += ", maintenance: nothing moves by itself";
    }
    if view.leaving {
        notes += ", leaving";
    }
    if view.fenced_itself > 0 {
        notes += &format!(", fenced itself {} times", view.fenced_itself);
    }
    let plane = |alive: bool| if alive { "data plane up" } else { "data plane DOWN" };
    writeln!(out, "node        {}: {}{notes}", clean(&view.node), plane(view.data_plane))?;
    if let Some(learning) = &view.learning {
        writeln!(out, "  note      owns nothing yet: {}", clean(learning))?;
    }
    let heard = peer.age_ms.map_or_else(String::new, |age| format!(", heard {} ago", ms(age)));
    let hears = peer.hears_us_ms.map_or_else(
        || ", does not hear us".to_owned(),
        |age| format!(", hears us (last {} ago)", ms(age)),
    );
    let (name, state) = (clean(&peer.node), clean(&peer.state));
    if peer.state == "never" {
        return writeln!(out, "other node  {name}: never heard of");
    }
    let since = ms(peer.since_ms);
    writeln!(
        out,
        "other node  {name}: {state} for {since}{heard}{hears}, {}",
        plane(peer.data_plane)
    )
}

fn groups(out: &mut impl Write, groups: &[GroupView]) -> io::Result<()> {
    let mut table =
        Table::new(&["GROUP", "ROLE", "OWNER", "PREFERS", ">EPOCH", ">SINCE", "VERIFIED"]);
    for g in groups {
        let after = g.verified_after_ms.map_or_else(String::new, |t| format!(" after {}", ms(t)));
        let verified = g.verification.as_deref().unwrap_or("-");
        table.row([
            g.name.clone(),
            g.role.clone(),
            g.owner.clone().unwrap_or_else(|| "nobody".to_owned()),
            g.prefer.clone().unwrap_or_else(|| "-".to_owned()),
            g.epoch.to_string(),
            ms(g.since_ms),
            format!("{verified}{after}"),
        ]);
    }
    table.print(out, "")?;
    for g in groups {
        writeln!(out, "  {}: {}", clean(&g.name), clean(&g.reason))?;
        if let Some(by) = &g.verified_by {
            let word =
                if g.verification.as_deref() == Some("degraded") { "DEGRADED: " } else { "" };
            writeln!(out, "  {}: {word}{}", clean(&g.name), clean(by))?;
        }
    }
    Ok(())
}

fn paths(out: &mut impl Write, far: &[PathView], near: &[HaPath]) -> io::Result<()> {
    let head =
        ["PATH", "STATE", ">LAST", ">BEATS", ">LOST", ">LATE", ">GAP P50", ">P99", ">MAX", "WHAT"];
    let mut table = Table::new(&head);
    let us = |us: u64| format!("{}.{}ms", us / 1000, us % 1000 / 100);
    for (at, path) in far.iter().enumerate() {
        let near = near.get(at).filter(|n| n.name == path.name);
        let state = match (near.is_none_or(|n| n.open), path.up) {
            (false, _) => "CLOSED",
            (true, true) => "up",
            (true, false) => "DOWN",
        };
        table.row([
            path.name.clone(),
            state.to_owned(),
            path.age_ms.map_or_else(|| "-".to_owned(), ms),
            count(path.received),
            count(path.lost),
            count(path.late),
            us(path.gap_p50_us),
            us(path.gap_p99_us),
            us(path.gap_max_us),
            near.map_or_else(String::new, |n| n.what.clone()),
        ]);
    }
    table.print(out, "")
}

fn evidence(out: &mut impl Write, r: &HaResult, view: &View) -> io::Result<()> {
    let words = |e: &control::failover::exchange::Evidence| {
        let pings = match e.pings_wanted {
            0 => String::new(),
            wanted => format!(", {} of {wanted} ping targets", e.pings),
        };
        format!("{} of {} interfaces{pings}", e.interfaces, e.interfaces_wanted)
    };
    let blind = if view.blind { ": BLIND, takes nothing from a silent node" } else { "" };
    writeln!(out, "evidence    here {}{blind}", words(&view.evidence))?;
    writeln!(out, "            there {}", words(&view.peer.evidence))?;
    for ping in &r.pings {
        let state = match ping.reached {
            Some(true) => "reached",
            Some(false) => "NOT reached",
            None => "not known yet",
        };
        let each: Vec<String> = ping
            .addresses
            .iter()
            .map(|a| {
                let took = a.took_us.map(|us| format!("{} us", us));
                let how = took.or_else(|| a.reason.clone()).unwrap_or_default();
                format!("{} ({})", a.address, how)
            })
            .collect();
        writeln!(out, "  ping      {}: {state}: {}", clean(&ping.name), clean(&each.join(", ")))?;
    }
    Ok(())
}

fn survival(out: &mut impl Write, r: &replicate::View, peer: &str) -> io::Result<()> {
    let peer = clean(peer);
    match &r.survival {
        Some(s) => {
            let oldest = s
                .oldest_ms
                .map_or_else(String::new, |t| format!("; oldest unacknowledged {}", ms(t)));
            writeln!(
                out,
                "replication if this node died now, {} of {} connections would live{oldest}",
                s.would_live, s.worth
            )?;
        }
        None => {
            let why = r.reason.as_deref().map_or_else(String::new, |w| format!(": {}", clean(w)));
            writeln!(out, "replication no session with {peer}{why}")?;
        }
    }
    let known = |is: bool| if is { "everything" } else { "not everything yet" };
    writeln!(
        out,
        "  synced    {peer} knows {}, this node {}",
        known(r.peer_synced),
        known(r.synced)
    )?;
    if let Some(equal) = r.digests.equal {
        let age = r.digests.age_ms.map_or_else(String::new, |t| format!(", {} ago", ms(t)));
        let word = if equal { "equal" } else { "DIFFERENT, being mended" };
        writeln!(out, "  tables    {word}{age}; {} parts mended since start", r.digests.repairs)?;
    }
    if let Some(trouble) = &r.trouble {
        writeln!(out, "  trouble   {}", clean(trouble))?;
    }
    Ok(())
}

fn thread(out: &mut impl Write, h: &HaHeartbeat) -> io::Result<()> {
    let yes = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
    let agent = match &h.agent_reason {
        Some(reason) if !h.agent => format!("; no session with the data plane: {}", clean(reason)),
        _ => String::new(),
    };
    writeln!(
        out,
        "heartbeat   {}, {}; at most {} us late, {} times more than keepalive{agent}",
        yes(h.realtime, "real-time priority", "NO real-time priority"),
        yes(h.locked, "memory locked", "memory NOT locked"),
        h.late_max_us,
        h.late
    )
}
