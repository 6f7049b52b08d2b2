//! What a data plane starts from: table and state of the process before it, or the first snapshot.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use crossbeam::channel::Receiver;
use dataplane::agent::Apply;
use dataplane::clock;
use dataplane::conn::{AdoptError, Conn, Ports, State as ConnState, Table};
use dataplane::forward::{self, Paths};
use dataplane::fragment::Fragments;
use dataplane::ids::{Ids, Used};
use dataplane::limits;
use dataplane::log;
use dataplane::routes::Asks;
use dataplane::sched::load::Loads;
use dataplane::service::ServiceTable;
use dataplane::state_file::State;
use dataplane::steward::check::check;
use dataplane_api::service::Snapshot;

use super::memory;
use super::places::Places;

/// How often a process that waits for its first snapshot looks whether it should stop.
const WATCH: Duration = Duration::from_millis(100);

/// What a process starts from.
pub(super) struct Beginning {
    pub(super) snapshot: Snapshot,
    pub(super) ids: Ids,
    pub(super) table: Table,
    pub(super) adopted: u64,
}

/// Where a beginning comes from, and who waits for it.
pub(super) enum Source {
    /// The last process; control has not been heard yet.
    Left,
    /// The last process, on the engine and interfaces that control sends; the rest is yet to apply.
    LeftOn(Apply),
    /// Control.
    Sent(Apply),
}

/// Finds beginnings until one works.
pub(super) struct Beginnings<'a> {
    places: &'a Places,
    applied: &'a Receiver<Apply>,
    stop: &'a AtomicBool,
    asked: bool,
    /// There is a table that fits its state, but the process could not start on it (yet).
    left: bool,
}

impl<'a> Beginnings<'a> {
    pub(super) fn new(
        places: &'a Places,
        applied: &'a Receiver<Apply>,
        stop: &'a AtomicBool,
    ) -> Self {
        Self { places, applied, stop, asked: false, left: false }
    }

    /// What the last process left, or else the first snapshot that control sends and that is
    /// possible. None if the process is to stop before that.
    pub(super) fn next(&mut self) -> Option<(Beginning, Source)> {
        if !std::mem::replace(&mut self.asked, true) {
            match adopt(self.places, None) {
                Ok(Some(beginning)) => return Some((beginning, Source::Left)),
                Ok(None) => {}
                Err(reason) => log!("level=warn event=not-adopted reason={reason:?}"),
            }
        }
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(apply) = self.applied.recv_timeout(WATCH) else { continue };
            if let Err(message) = check(&apply.snapshot) {
                refuse(apply, message);
                continue;
            }
            if self.left {
                match adopt(self.places, Some(&apply.snapshot)) {
                    Ok(Some(beginning)) => return Some((beginning, Source::LeftOn(apply))),
                    Ok(None) => self.left = false,
                    Err(reason) => {
                        self.left = false;
                        log!("level=warn event=not-adopted reason={reason:?}");
                    }
                }
            }
            match create(self.places, &apply.snapshot) {
                Ok(beginning) => return Some((beginning, Source::Sent(apply))),
                Err(e) => refuse(apply, format!("{e:#}")),
            }
        }
        None
    }

    /// The process could not start on what [`Beginnings::next`] gave. Connections of the last process
    /// are kept for the next try; of a new table nothing is left behind.
    pub(super) fn failed(&mut self, source: Source, error: &anyhow::Error) {
        let message = format!("the data plane cannot start: {error:#}");
        match source {
            Source::Left => {
                self.left = true;
                log!("level=error event=start-failed reason={message:?}");
            }
            Source::LeftOn(apply) => refuse(apply, message),
            Source::Sent(apply) => {
                discard(self.places);
                refuse(apply, message);
            }
        }
    }
}

fn refuse(apply: Apply, message: String) {
    log!("level=error event=apply-refused reason={message:?}");
    // The session may have ended meanwhile.
    let _ = apply.outcome.send(Err(message));
}

fn discard(places: &Places) {
    for file in [&places.state, &places.table] {
        let _ = std::fs::remove_file(file);
    }
}

/// Takes over table and state of the process before, on the engine and interfaces of `fresh`.
fn adopt(places: &Places, fresh: Option<&Snapshot>) -> Result<Option<Beginning>, String> {
    let Some(State { mut snapshot, ids, table_id, .. }) = State::read(&places.state)? else {
        return Ok(None);
    };
    if let Some(fresh) = fresh {
        snapshot.engine = fresh.engine.clone();
        snapshot.interfaces.clone_from(&fresh.interfaces);
    }
    check(&snapshot).map_err(|e| format!("{}: {e}", places.state.display()))?;
    let services = ServiceTable::compile(&snapshot, &ids, None)?;
    let now = clock::now().tick();
    let keep = |conn: &Conn| {
        let identity = &conn.identity;
        let service = services.service(identity.service);
        let real = services.real(identity.real).filter(|r| r.service == identity.service);
        let vip = conn.state == ConnState::Template || services.vip(identity.vip).is_some();
        real.is_some() && vip && service.is_some_and(|s| conn.idle(now) <= s.timeout(conn.state))
    };
    let half_open_max = half_open_max(&snapshot);
    let (table, found) = match Table::adopt(&places.table, half_open_max, now, keep) {
        Ok(adopted) => adopted,
        Err(AdoptError::Missing) => return Ok(None),
        Err(e) => return Err(format!("connection table {}: {e}", places.table.display())),
    };
    if table.table_id() != table_id {
        return Err(format!("{} belongs to another table", places.state.display()));
    }
    log!(
        "level=info event=adopted connections={} repaired={} dropped={}",
        found.kept,
        found.repaired,
        found.dropped
    );
    Ok(Some(Beginning { snapshot, ids, table, adopted: u64::from(found.kept) }))
}

/// Makes an empty table for a first snapshot.
fn create(places: &Places, snapshot: &Snapshot) -> anyhow::Result<Beginning> {
    let ids =
        Ids::default().assign(None, snapshot, &Used::default()).map_err(anyhow::Error::msg)?;
    compile(snapshot, &ids)?;
    memory::check(snapshot, &places.table)?;
    let table = Table::create(&places.table, snapshot.engine.connections, half_open_max(snapshot))?;
    let state = State::new(table.table_id(), snapshot.clone(), ids.clone());
    if let Err(e) = state.write(&places.state) {
        discard(places);
        return Err(e).with_context(|| format!("cannot write {}", places.state.display()));
    }
    Ok(Beginning { snapshot: snapshot.clone(), ids, table, adopted: 0 })
}

pub(super) fn compile(snapshot: &Snapshot, ids: &Ids) -> anyhow::Result<ServiceTable> {
    ServiceTable::compile(snapshot, ids, None).map_err(anyhow::Error::msg)
}

fn half_open_max(snapshot: &Snapshot) -> u32 {
    let share = u64::from(snapshot.engine.connections)
        * u64::from(snapshot.engine.half_open_percent.clamp(1, 100));
    u32::try_from(share / 100).unwrap_or(u32::MAX).max(1)
}

/// What hangs on the connections of an adopted table is worked out anew from them.
pub(super) fn share(table: Table) -> anyhow::Result<forward::Shared> {
    // For as many as there may ever be, since a reload can add some.
    let ports = Ports::new(limits::LOCAL_ADDRESSES)?;
    let loads = Loads::default();
    let mut conflicts = Vec::new();
    table.each(|handle, conn| {
        if let Some((local, port)) = conn.identity.local
            && !ports.claim(conn.identity.protocol, local, port, handle.index())
        {
            conflicts.push(handle);
            return;
        }
        let load = loads.of(conn.identity.real);
        if conn.state == ConnState::Template {
            load.tied();
        } else {
            load.opened(conn.state.is_active());
        }
    });
    for handle in conflicts {
        table.remove(&handle);
    }
    Ok(forward::Shared {
        conns: table,
        ports,
        loads,
        fragments: Mutex::new(Fragments::new()),
        paths: Paths::default(),
        asks: Asks::default(),
        capture: Default::default(),
        probes: Default::default(),
        leases: Default::default(),
        resolver: Default::default(),
        changes: Default::default(),
    })
}
