//! Results for people: aligned tables, with units.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use control::config::Config;
use control::verbs::{
    AlertStatus, CountersResult, RealHealth, ReloadResult, ServicesResult, StatusResult,
};
use dataplane_api::message::{Conn, InterfaceStatus, RealStatus, Status};
use dataplane_api::service::Forwarding;

use crate::client::Reply;
use crate::ha;
use crate::health;
use crate::table::{Table, bytes, clean, count, ms, plural};

/// `xvip check` of a good file.
pub(crate) fn summary(out: &mut impl Write, path: &Path, config: &Config) -> io::Result<()> {
    let reals: usize = config.services.iter().map(|e| e.service.reals.len()).sum();
    writeln!(
        out,
        "{}: valid: {}, {}, {}",
        path.display(),
        plural(config.interfaces.len(), "interface"),
        plural(config.services.len(), "service"),
        plural(reals, "real server")
    )?;
    let mut table =
        Table::new(&["SERVICE", "PROTO", "LISTEN", "FORWARDING", "SCHEDULER", ">REAL SERVERS"]);
    for entry in &config.services {
        let s = &entry.service;
        let listen: Vec<String> = s.listen.iter().map(ToString::to_string).collect();
        let forwarding = match s.forwarding {
            Forwarding::Nat => "nat",
            Forwarding::Fullnat => "fullnat",
            Forwarding::Direct => "direct",
            Forwarding::Tunnel => "tunnel",
        };
        table.row([
            s.name.clone(),
            format!("{:?}", s.protocol).to_lowercase(),
            listen.join(" "),
            forwarding.to_owned(),
            format!("{:?}", s.scheduler).to_lowercase(),
            s.reals.len().to_string(),
        ]);
    }
    if config.services.is_empty() { Ok(()) } else { table.print(out, "  ") }
}

/// `xvip status`
pub(crate) fn status(out: &mut impl Write, reply: &Reply<StatusResult>) -> io::Result<()> {
    let r = &reply.result;
    writeln!(
        out,
        "control     node {}, instance {}, pid {}, up {}, version {}, lease {}, epoch {}",
        clean(&r.node),
        clean(&r.instance),
        r.control.pid,
        ms(r.control.uptime_ms),
        clean(&r.control.program),
        ms(r.control.lease_ms),
        reply.epoch
    )?;
    writeln!(
        out,
        "config      {}: {}, {}, in force for {}",
        clean(&r.config.file),
        plural(r.config.services, "service"),
        plural(r.config.reals, "real server"),
        ms(r.config.age_ms)
    )?;
    if let Some(reload) = &r.config.last_reload {
        let how = reload.error.as_deref().unwrap_or("ok");
        writeln!(out, "  reload    {} ago: {}", ms(reload.age_ms), clean(how))?;
    }
    if let Some(left) = r.config.confirm_in_ms {
        writeln!(out, "  note      undone in {} unless `xvip confirm` comes", ms(left))?;
    }
    for warning in &r.control.warnings {
        writeln!(out, "  warning   {}", clean(warning))?;
    }
    if !r.config.needs_restart.is_empty() {
        let keys = r.config.needs_restart.join(", ");
        writeln!(out, "  note      takes effect when the data plane restarts: {}", clean(&keys))?;
    }
    let a = &r.agent;
    let reason = a.reason.as_ref().map_or_else(String::new, |r| format!(": {}", clean(r)));
    writeln!(out, "agent       {} for {}{reason}", clean(&a.state), ms(a.since_ms))?;
    if let Some(refused) = &a.refused {
        writeln!(out, "  note      the data plane refuses the configuration: {}", clean(refused))?;
    } else if !a.applied {
        writeln!(out, "  note      the data plane has not taken the configuration yet")?;
    }
    if let Some(pair) = &r.ha {
        ha::summary(out, pair)?;
    }
    health::summary(out, &r.health)?;
    telling(out, r)?;
    let Some(d) = &r.data_plane else {
        return writeln!(out, "data plane  never heard of");
    };
    if a.state != "connected" {
        let age = reply.age_ms.map_or_else(|| "some time".to_owned(), ms);
        writeln!(out, "data plane  as it was {age} ago:")?;
    }
    data_plane(out, d)
}

/// Who is told, who may look, and what would be worth telling.
fn telling(out: &mut impl Write, r: &StatusResult) -> io::Result<()> {
    for alert in &r.alerts {
        let AlertStatus { name, kind, pending, delivered, .. } = alert;
        write!(out, "alerts      {} ({}): {delivered} delivered", clean(name), clean(kind))?;
        if *pending > 0 {
            write!(out, ", {pending} changes wait")?;
        }
        if alert.given_up > 0 {
            write!(out, ", {} given up", alert.given_up)?;
        }
        writeln!(out)?;
        if let Some(error) = &alert.error {
            let retry =
                alert.retry_ms.map_or_else(String::new, |t| format!("; again in {}", ms(t)));
            writeln!(out, "  note      NOT delivered: {}{retry}", clean(error))?;
        }
    }
    if let Some(metrics) = &r.metrics {
        match &metrics.error {
            None => writeln!(out, "metrics     at http://{}/metrics", clean(&metrics.listen))?,
            Some(e) => {
                writeln!(out, "metrics     NOT at {}: {}", clean(&metrics.listen), clean(e))?
            }
        }
    }
    for spare in r.spare.iter().filter(|s| s.short) {
        writeln!(out, "warning     service {}: {}", clean(&spare.service), clean(&spare.text))?;
    }
    Ok(())
}

fn data_plane(out: &mut impl Write, d: &Status) -> io::Result<()> {
    let lease =
        if d.lease_ms == 0 { "none".to_owned() } else { format!("{} left", ms(d.lease_ms)) };
    writeln!(
        out,
        "data plane  pid {}, up {}, lease {lease}, {} adopted at start",
        d.pid,
        ms(d.uptime_ms),
        plural(usize::try_from(d.adopted).unwrap_or(usize::MAX), "connection")
    )?;
    let t = &d.table;
    writeln!(
        out,
        "table       {} of {} connections, {} of {} half-open, {} persistence templates, {}",
        count(t.used),
        count(t.capacity),
        count(t.half_open),
        count(t.half_open_max),
        count(t.templates),
        bytes(t.bytes)
    )?;
    for warning in &d.warnings {
        writeln!(out, "warning     {}", clean(warning))?;
    }
    writeln!(out)?;
    interfaces(out, &d.interfaces)?;
    writeln!(out)?;
    let mut table = Table::new(&["WORKER", ">CORE", "PINNED", ">TID", ">POLLS", ">BUSY"]);
    for (n, w) in d.workers.iter().enumerate() {
        let busy = w.busy_polls.saturating_mul(100).checked_div(w.polls).unwrap_or(0);
        let pinned = if w.pinned { "yes" } else { "NO" };
        table.row([
            n.to_string(),
            w.core.to_string(),
            pinned.to_owned(),
            w.tid.to_string(),
            count(w.polls),
            format!("{busy} %"),
        ]);
    }
    table.print(out, "")
}

fn interfaces(out: &mut impl Write, interfaces: &[InterfaceStatus]) -> io::Result<()> {
    let mut table = Table::new(&[
        "INTERFACE",
        "LINK",
        "ATTACHED",
        "MODE",
        "COPY",
        ">QUEUES",
        ">MTU",
        "MAC",
        ">RX PKTS",
        ">RX",
        ">TX PKTS",
        ">TX",
        ">KERNEL DROPS",
    ]);
    for i in interfaces {
        let or_dash = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
        table.row([
            i.name.clone(),
            i.link.clone(),
            if i.attached { "yes".to_owned() } else { "NO".to_owned() },
            or_dash(&i.mode),
            or_dash(&i.copy),
            i.queues.to_string(),
            i.mtu.to_string(),
            or_dash(&i.mac),
            count(i.rx_packets),
            bytes(i.rx_bytes),
            count(i.tx_packets),
            bytes(i.tx_bytes),
            count(i.kernel_drops.values().fold(0, |sum, n| sum.saturating_add(*n))),
        ]);
    }
    table.print(out, "")?;
    for i in interfaces {
        if let Some(problem) = &i.problem {
            writeln!(out, "  {}: {}", clean(&i.name), clean(problem))?;
        }
    }
    Ok(())
}

/// `xvip services`
pub(crate) fn services(out: &mut impl Write, reply: &Reply<ServicesResult>) -> io::Result<()> {
    if reply.result.services.is_empty() {
        return writeln!(out, "no services");
    }
    for (n, s) in reply.result.services.iter().enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        let listen = clean(&s.listen.join(" "));
        let (forwarding, scheduler) = (clean(&s.forwarding), clean(&s.scheduler));
        writeln!(
            out,
            "{}  {} {listen}  {forwarding}  {scheduler}",
            clean(&s.name),
            clean(&s.protocol)
        )?;
        if s.reals.is_empty() {
            writeln!(out, "  no real servers")?;
            continue;
        }
        let mut table = Table::new(&[
            "REAL",
            "ADDRESS",
            ">WEIGHT",
            "STATE",
            ">FOR",
            ">CHECK",
            "NEXT HOP",
            ">ACTIVE",
            ">INACTIVE",
            ">OPENED",
            ">IN PKTS",
            ">IN",
            ">OUT PKTS",
            ">OUT",
        ]);
        let health = reply.result.health.iter().find(|h| h.service == s.name);
        for real in &s.reals {
            let known = health.and_then(|h| h.reals.iter().find(|r| r.address == real.address));
            table.row(real_row(real, known));
        }
        table.print(out, "  ")?;
        if let Some(health) = health {
            health::details(out, health)?;
        }
    }
    Ok(())
}

fn real_row(r: &RealStatus, health: Option<&RealHealth>) -> [String; 14] {
    let [state, since, took] = health::cells(health);
    [
        r.name.clone(),
        r.address.clone(),
        if r.removed { "removed".to_owned() } else { r.weight.to_string() },
        state,
        since,
        took,
        r.next_hop.clone(),
        r.active.to_string(),
        r.inactive.to_string(),
        count(r.opened),
        count(r.packets_in),
        bytes(r.bytes_in),
        count(r.packets_out),
        bytes(r.bytes_out),
    ]
}

/// `xvip counters`
pub(crate) fn counters(out: &mut impl Write, r: &CountersResult, all: bool) -> io::Result<()> {
    for (title, list) in [("DROPS", &r.drops), ("EVENTS", &r.events)] {
        let mut table = Table::new(&[title, ">COUNT", "MEANING"]);
        for c in list.iter().filter(|c| all || c.value > 0) {
            table.row([c.name.clone(), c.value.to_string(), c.help.clone()]);
        }
        if table.is_empty() {
            writeln!(out, "{title}  none")?;
        } else {
            table.print(out, "")?;
        }
        if title == "DROPS" {
            writeln!(out)?;
        }
    }
    Ok(())
}

/// `xvip reload`
pub(crate) fn reload(out: &mut impl Write, r: &ReloadResult) -> io::Result<()> {
    let what = format!("{}, {}", plural(r.services, "service"), plural(r.reals, "real server"));
    if r.applied {
        writeln!(out, "reloaded: {what}")?;
    } else {
        writeln!(out, "accepted: {what}; the data plane gets it once it is connected")?;
    }
    if let Some(seconds) = r.confirm_s {
        writeln!(out, "undone in {seconds} s unless `xvip confirm` comes")?;
    }
    if !r.needs_restart.is_empty() {
        let keys = clean(&r.needs_restart.join(", "));
        writeln!(out, "takes effect when the data plane restarts: {keys}")?;
    }
    Ok(())
}

/// `xvip conns`, page by page.
pub(crate) struct ConnTable {
    json: bool,
    pages: usize,
    shown: usize,
}

impl ConnTable {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json, pages: 0, shown: 0 }
    }

    /// Shows one page.
    pub(crate) fn page(&mut self, out: &mut impl Write, conns: &[Conn]) -> io::Result<()> {
        if self.json {
            if self.pages == 0 {
                write!(out, "{{\"conns\":[")?;
            }
            for conn in conns {
                let comma = if self.shown > 0 { "," } else { "" };
                write!(out, "{comma}{}", serde_json::to_string(conn)?)?;
                self.shown += 1;
            }
        } else {
            // Fixed widths: the next page must line up with this one, unseen.
            if self.pages == 0 {
                line(
                    out,
                    ["PROTO", "CLIENT", "VIP", "REAL", "STATE", "IDLE", "EXPIRES", "SERVICE"],
                )?;
            }
            for c in conns {
                line(
                    out,
                    [
                        if c.protocol.number() == 6 { "tcp" } else { "udp" },
                        &socket(c.client, c.client_port),
                        &socket(c.vip, c.vip_port),
                        &socket(c.real, c.real_port),
                        &clean(&c.state),
                        &ms(c.idle_s.saturating_mul(1000)),
                        &ms(c.expires_s.saturating_mul(1000)),
                        &clean(&c.service),
                    ],
                )?;
            }
        }
        self.pages += 1;
        Ok(())
    }

    /// Ends the list; `more`: there are connections that were not asked for.
    pub(crate) fn end(&self, out: &mut impl Write, shown: u64, more: bool) -> io::Result<()> {
        if self.json {
            return writeln!(out, "],\"more\":{more}}}");
        }
        if more {
            writeln!(out, "{shown} connections shown; there are more: see --limit and --all")
        } else {
            writeln!(out, "{shown} connections")
        }
    }
}

fn line(out: &mut impl Write, cells: [&str; 8]) -> io::Result<()> {
    let [proto, client, vip, real, state, idle, expires, service] = cells;
    writeln!(
        out,
        "{proto:<5}  {client:<21}  {vip:<21}  {real:<21}  {state:<11}  {idle:>7}  {expires:>7}  \
         {service}"
    )
}

fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}
