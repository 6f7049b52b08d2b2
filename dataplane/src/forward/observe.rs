//! A packet of a connection that there is: what it does to its state, its time and the load.

use dataplane_api::counter::Event;

use super::Tables;
use super::open::refresh_template;
use crate::conn::tcp::{self, Direction, Step};
use crate::conn::{Conn, Found, Handle, State};
use crate::service::{Fate, Service};
use crate::wire::packet::{Kind, Packet, TcpFlags};

/// Lets the connection see the packet: state, time of last use. False if the connection is over and
/// the packet has to open a new one (it has been removed then).
#[inline(always)]
pub(super) fn observe(
    found: &Found,
    packet: &Packet,
    direction: Direction,
    tables: &Tables<'_>,
) -> bool {
    match note(found, packet, direction, tables) {
        Noted::Kept => true,
        Noted::Over => false,
        Noted::Overtaken => observe_again(*found, packet, direction, tables),
    }
}

/// What became of an attempt to show a packet to its connection.
enum Noted {
    /// The connection lives on.
    Kept,
    /// It is over, and has been removed.
    Over,
    /// Another worker changed it meanwhile.
    Overtaken,
}

/// Both directions of a connection may be changing its state at once, on two workers: the state
/// after both packets is that of one after the other.
#[cold]
fn observe_again(found: Found, packet: &Packet, direction: Direction, tables: &Tables<'_>) -> bool {
    for _ in 0..OVERTAKEN_MAX {
        let again = tables.shared.conns.get(found.handle.index(), |id| *id == found.conn.identity);
        let Some(again) = again.filter(|again| again.handle == found.handle) else { return false };
        match note(&again, packet, direction, tables) {
            Noted::Kept => return true,
            Noted::Over => return false,
            Noted::Overtaken => {}
        }
    }
    // So many others have just seen it alive that it is.
    true
}

/// Attempts to show a packet to its connection while others change it.
const OVERTAKEN_MAX: usize = 8;

#[inline(always)]
fn note(found: &Found, packet: &Packet, direction: Direction, tables: &Tables<'_>) -> Noted {
    let conn = &found.conn;
    let tick = tables.now.tick();
    let service = tables.published.services.service(conn.identity.service);
    let (idle, timeout) = (tick.since(conn.seen), service.map_or(0, |s| s.timeout(conn.state)));
    if idle > timeout {
        expire(found.handle, tables);
        return Noted::Over;
    }
    let (state, synack) = if packet.kind == Kind::Tcp {
        if packet.tcp_flags.has(TcpFlags::SYN) && conn.state == State::SynReceived {
            note_repeated(conn, direction, tables);
        }
        match tcp::next(conn.state, conn.synack, direction, packet.tcp_flags) {
            Step::To(state, synack) => (state, synack),
            Step::Reopen => {
                remove(found.handle, Event::ConnReused, tables);
                return Noted::Over;
            }
        }
    } else {
        (tcp::next_udp(conn.state), false)
    };
    let same = state == conn.state && synack == conn.synack;
    if same && (idle == 0 || idle <= service.map_or(0, |s| s.slack(conn.state))) {
        return Noted::Kept;
    }
    // A copy: only what is lent to a function that is not inlined must lie in memory.
    if !touch(*found, state, synack, service, tables) {
        return Noted::Overtaken;
    }
    if conn.state == State::SynReceived && state == State::Close && direction == Direction::FromReal
    {
        tables.counters.real(conn.identity.real).resets.add(1);
    }
    Noted::Kept
}

/// Writes what a packet changed; false if another worker has changed the connection meanwhile.
#[inline(never)]
fn touch(
    found: Found,
    state: State,
    synack: bool,
    service: Option<&Service>,
    tables: &Tables<'_>,
) -> bool {
    let conn = &found.conn;
    let (was, is) = (conn.state.is_active(), state.is_active());
    let load = tables.shared.loads.of(conn.identity.real);
    // Counted before anybody can see the new state: whoever ends it must find it counted.
    if was != is {
        load.opened(is);
    }
    let touched = tables.shared.conns.touch(&found, state, synack, tables.now.tick());
    if was != is {
        load.closed(if touched { was } else { is });
    }
    if !touched {
        return false;
    }
    if !state.is_half_open() && (state, synack) != (conn.state, conn.synack) {
        tables.changed(found.handle);
    }
    // A template lives as long as a connection of its client has packets; once a second is enough.
    let active = state.is_active() && !conn.state.is_active();
    if (active || tables.now.tick().0 >> 4 != conn.seen.0 >> 4)
        && let Some(service) = service.filter(|s| s.persistence.is_some())
        && tables.published.fate(conn) == Fate::Keep
    {
        refresh_template(service, &conn.identity, tables);
    }
    true
}

/// Its client has sent a SYN again, so it has not heard of the real.
#[cold]
fn note_repeated(conn: &Conn, direction: Direction, tables: &Tables<'_>) {
    if !conn.synack && direction != Direction::FromReal {
        tables.counters.real(conn.identity.real).syn_unanswered.add(1);
    }
}

#[cold]
fn expire(handle: Handle, tables: &Tables<'_>) {
    if let Some(conn) = tables.shared.conns.remove(&handle) {
        let by = (tables.local.worker, tables.now, tables.counters);
        let found = Found { handle, conn };
        super::expired(&found, tables.shared, &tables.published.services, by);
    }
}

/// Ends a connection, whatever it was.
#[cold]
pub(super) fn remove(handle: Handle, why: Event, tables: &Tables<'_>) {
    if tables.remove(handle).is_some() {
        tables.event(why);
    }
}
