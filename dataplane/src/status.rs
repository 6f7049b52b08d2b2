//! What the data plane says of itself, put together from what its threads share.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::{
    Captured, CapturedFrame, Conn, ConnFilter, GroupStatus, InterfaceStatus, RealStatus,
    ServiceStatus, Status, TableStatus, WorkerStatus,
};
use dataplane_api::service::Protocol;

use crate::address::{DeviceId, GroupId, RealId, ServiceId};
use crate::clock::{Instant, Tick};
use crate::conn::{self, Ports, State};
use crate::frame::Verdict;
use crate::published::{HopState, Published};
use crate::runtime::Runtime;
use crate::sched::Target;
use crate::service::{RealRecord, Service, ServiceTable};

/// Everything but connections.
#[must_use]
pub fn status(runtime: &Runtime, now: Instant) -> Status {
    let published = runtime.cell.get();
    let groups = groups(runtime, &published, now);
    let report = runtime.report.lock().unwrap_or_else(PoisonError::into_inner);
    let interfaces = report.interfaces.iter().enumerate();
    let mut drops = sum(runtime, Reason::ALL, |c, r| c.drops(*r), |r| r.name());
    drops.insert(Reason::NoSocket.name().to_owned(), report.no_socket);
    Status {
        boot_id: runtime.boot_id.clone(),
        pid: std::process::id(),
        uptime_ms: now.since(runtime.started).as_millis() as u64,
        lease_ms: groups.iter().map(|g| g.lease_ms).max().unwrap_or(0),
        epoch: groups.iter().map(|g| g.epoch).max().unwrap_or(0),
        groups,
        adopted: runtime.adopted,
        table: table(runtime, &published),
        interfaces: interfaces.map(|(slot, i)| traffic(runtime, slot, i)).collect(),
        workers: workers(runtime),
        services: published.services.services().map(|s| service(runtime, &published, s)).collect(),
        drops,
        events: events(runtime),
        warnings: shown(&report.warnings),
        kernel_flows: report.kernel_flows,
    }
}

fn groups(runtime: &Runtime, published: &Published, now: Instant) -> Vec<GroupStatus> {
    let (leases, services) = (runtime.leases(), &published.services);
    let group = |(group, name): &(GroupId, String)| GroupStatus {
        name: name.clone(),
        lease_ms: leases.left_ms(*group, now),
        epoch: leases.epoch(*group),
        announced: leases.announced(*group),
        foreign_claims: leases.claims(*group),
        packets: packets(runtime, services, *group),
    };
    services.groups().iter().map(group).collect()
}

/// Counted for each real, not for each VIP, which would cost every packet something.
fn packets(runtime: &Runtime, services: &ServiceTable, group: GroupId) -> u64 {
    let mine = |service: ServiceId| {
        let listen = services.service(service).into_iter().flat_map(|s| &s.listen);
        listen.into_iter().any(|l| services.owner(l.address.into()) == Some(group))
    };
    let each = services.reals().filter(|(_, real)| mine(real.service));
    let of = |id: RealId| runtime.workers.iter().map(move |w| w.counters.real(id).packets_in.get());
    each.flat_map(|(id, _)| of(id)).sum()
}

/// Most warnings in a status. A network that is down can give one for each of thousands of real
/// servers, and the reply has to fit into one line of the protocol.
const WARNINGS: usize = 64;

fn shown(warnings: &[String]) -> Vec<String> {
    let mut shown: Vec<String> = warnings.iter().take(WARNINGS).cloned().collect();
    if let Some(more) = warnings.len().checked_sub(WARNINGS).filter(|more| *more > 0) {
        shown.push(format!("and {more} more"));
    }
    shown
}

fn sum<T>(
    runtime: &Runtime,
    all: &[T],
    get: impl Fn(&crate::counters::Counters, &T) -> u64,
    name: impl Fn(&T) -> &'static str,
) -> BTreeMap<String, u64> {
    let total = |item: &T| runtime.workers.iter().map(|w| get(&w.counters, item)).sum();
    all.iter().map(|item| (name(item).to_owned(), total(item))).collect()
}

fn events(runtime: &Runtime) -> BTreeMap<String, u64> {
    let mut events = sum(runtime, Event::ALL, |c, e| c.events(*e), |e| e.name());
    // No worker's.
    let refused = &runtime.forward.changes.refused;
    for (event, count) in [
        (Event::SyncUnknown, &refused.unknown),
        (Event::SyncNoRoom, &refused.no_room),
        (Event::SyncOwn, &refused.own),
    ] {
        events.insert(event.name().to_owned(), count.load(Relaxed));
    }
    events
}

fn table(runtime: &Runtime, published: &Published) -> TableStatus {
    let conns = &runtime.forward.conns;
    let services = &published.services;
    let locals = services.locals(true).len() + services.locals(false).len();
    TableStatus {
        capacity: conns.capacity() as u64,
        used: conns.used() as u64,
        half_open: conns.half_open() as u64,
        half_open_max: conns.half_open_max() as u64,
        templates: conns.templates() as u64,
        bytes: (conns.bytes() + locals * Ports::BYTES) as u64,
    }
}

fn traffic(runtime: &Runtime, slot: usize, interface: &InterfaceStatus) -> InterfaceStatus {
    let mut interface = interface.clone();
    let device = DeviceId(u8::try_from(slot).unwrap_or(u8::MAX));
    for worker in &runtime.workers {
        let counters = worker.counters.device(device);
        interface.rx_packets += counters.rx_packets.get();
        interface.rx_bytes += counters.rx_bytes.get();
        interface.tx_packets += counters.tx_packets.get();
        interface.tx_bytes += counters.tx_bytes.get();
    }
    interface
}

fn workers(runtime: &Runtime) -> Vec<WorkerStatus> {
    let of = |w: &crate::runtime::WorkerShare| WorkerStatus {
        core: w.core,
        tid: w.tid.load(Relaxed),
        polls: w.counters.polls.get(),
        busy_polls: w.counters.busy_polls.get(),
        pinned: w.pinned.load(Relaxed),
    };
    runtime.workers.iter().map(of).collect()
}

fn service(runtime: &Runtime, published: &Published, service: &Service) -> ServiceStatus {
    let reals = published.services.reals().filter(|(id, r)| {
        let load = runtime.forward.loads.of(*id);
        r.service == service.id && (r.configured || load.total() + load.templates() > 0)
    });
    let mut reals: Vec<(RealId, &RealRecord)> = reals.collect();
    let targets = service.targets.iter().chain(&service.fallback);
    let place = |id: RealId| targets.clone().position(|t| t.real == id);
    reals.sort_by_key(|(id, _)| (place(*id).unwrap_or(usize::MAX), *id));
    ServiceStatus {
        name: service.name.clone(),
        protocol: word(&service.protocol),
        listen: service.listen.iter().map(ToString::to_string).collect(),
        forwarding: word(&service.forwarding),
        scheduler: word(&service.scheduler),
        serves: serves(runtime, service).to_owned(),
        reals: reals.into_iter().map(|(id, r)| real(runtime, published, id, r)).collect(),
    }
}

/// Who takes new connections.
fn serves(runtime: &Runtime, service: &Service) -> &'static str {
    let takes = |t: &&Target| t.takes_new(&runtime.forward.loads);
    if service.targets.iter().any(|t| takes(&t)) {
        "reals"
    } else if service.fallback.iter().any(|t| takes(&t)) {
        "fallback"
    } else if service.sorry && !service.is_served() {
        "sorry"
    } else {
        "nobody"
    }
}

fn real(runtime: &Runtime, published: &Published, id: RealId, record: &RealRecord) -> RealStatus {
    let load = runtime.forward.loads.of(id);
    let services = &published.services;
    let total = |get: fn(&crate::counters::RealCounters) -> u64| {
        runtime.workers.iter().map(|w| get(w.counters.real(id))).sum()
    };
    let hop = published.hop(id).map_or("unresolved", |h| match h.state {
        HopState::Resolved => "resolved",
        HopState::NoRoute => "no-route",
        HopState::Unresolved => "unresolved",
        HopState::DeviceDown => "device-down",
    });
    let address = if record.port == 0 {
        record.address.to_string()
    } else {
        std::net::SocketAddr::new(record.address.into(), record.port).to_string()
    };
    RealStatus {
        name: record.name.clone(),
        address,
        weight: record.weight.get(),
        removed: !record.configured,
        next_hop: hop.to_owned(),
        active: u64::from(load.active()),
        inactive: u64::from(load.inactive()),
        opened: total(|c| c.opened.get()),
        packets_in: total(|c| c.packets_in.get()),
        bytes_in: total(|c| c.bytes_in.get()),
        packets_out: total(|c| c.packets_out.get()),
        bytes_out: total(|c| c.bytes_out.get()),
        down: record.down,
        fallback: services.service(record.service).is_some_and(|s| s.is_fallback(id)),
        templates: u64::from(load.templates()),
        syn_unanswered: total(|c| c.syn_unanswered.get()),
        resets: total(|c| c.resets.get()),
        ending: published.endings.get(&id).map_or(0, |ending| u64::from(ending.left())),
    }
}

/// The word an enum has in JSON.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A page of the connections that match, and the cursor of the next one.
#[must_use]
pub fn conns(
    runtime: &Runtime,
    cursor: u64,
    limit: u32,
    filter: &ConnFilter,
    now: Instant,
) -> (Vec<Conn>, Option<u64>) {
    let published = runtime.cell.get();
    let services = &published.services;
    let client = filter.client.map(crate::address::Address::from);
    let real = filter.real.map(crate::address::Address::from);
    let matches = |conn: &conn::Conn| {
        let identity = &conn.identity;
        client.is_none_or(|c| c == identity.client)
            && real.is_none_or(|r| services.real(identity.real).is_some_and(|s| s.address == r))
            && filter.state.as_ref().is_none_or(|s| s.eq_ignore_ascii_case(conn.state.name()))
            && filter.service.as_ref().is_none_or(|name| {
                services.service(identity.service).is_some_and(|s| s.name == *name)
            })
    };
    let mut page = Vec::new();
    let next = runtime.forward.conns.page(cursor, limit as usize, matches, &mut page);
    let rows = page.iter().filter_map(|c| row(&published, c, now.tick())).collect();
    (rows, next)
}

fn row(published: &Published, conn: &conn::Conn, now: Tick) -> Option<Conn> {
    let services = &published.services;
    let identity = &conn.identity;
    let service = services.service(identity.service)?;
    let template = conn.state == State::Template;
    let listen = service.listen.first()?;
    let idle = now.since(conn.seen);
    Some(Conn {
        protocol: if template { service.protocol } else { protocol(identity.protocol)? },
        client: identity.client.into(),
        client_port: identity.client_port,
        vip: if template { listen.address } else { services.vip(identity.vip)?.into() },
        vip_port: if template { listen.ports.first } else { identity.vip_port },
        real: services.real(identity.real)?.address.into(),
        real_port: identity.real_port,
        local: identity.local.and_then(|(l, port)| Some((services.local(l)?.into(), port))),
        service: service.name.clone(),
        state: conn.state.name().to_owned(),
        idle_s: Tick::to_seconds(idle),
        expires_s: Tick::to_seconds(service.timeout(conn.state).saturating_sub(idle)),
    })
}

/// Captured frames that have come; the time now is given by both clocks.
#[must_use]
pub fn captured(runtime: &Runtime, limit: u32, (now, unix): (Instant, u64)) -> Captured {
    let Some(session) = runtime.forward.capture.session() else { return Captured::default() };
    let names: Vec<String> = {
        let report = runtime.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.interfaces.iter().map(|i| i.name.clone()).collect()
    };
    let name = |device: DeviceId| names.get(device.index()).cloned().unwrap_or_default();
    // Before the frames: what comes in between is on the next page.
    let running = session.is_running(now);
    let mut frames = Vec::new();
    session.fetch(limit as usize, |record| {
        let (verdict, tx) = match record.verdict {
            Verdict::Transmit(device) => ("sent", Some(name(device))),
            Verdict::Drop(reason) => (reason.name(), None),
            Verdict::Held => ("held", None),
        };
        frames.push(CapturedFrame {
            unix_ns: unix.saturating_sub(now.since(record.at).as_nanos() as u64),
            worker: record.worker,
            rx: record.rx.map(name),
            before_len: record.before.len as u32,
            before: hexadecimal(record.before.kept()),
            verdict: verdict.to_owned(),
            tx,
            after_len: record.after.len as u32,
            after: hexadecimal(record.after.kept()),
        });
    });
    let (lost, limited) = session.missed();
    Captured { frames, running, lost, limited }
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n & 15)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]).collect()
}

const fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        _ => None,
    }
}
