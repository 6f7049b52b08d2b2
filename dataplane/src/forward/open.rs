//! Opening a connection: which real, which local port, into the table.

use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::Forwarding;

use super::deliver::next_hop;
use super::{Shared, Tables};
use crate::address::{Address, RealId, VipId};
use crate::clock::Instant;
use crate::conn::{Conn, Found, Hash, Identity, LastHop, Outcome, Reservation, State, Table};
use crate::frame::Frame;
use crate::published::Published;
use crate::sched::{Request, Target};
use crate::service::{Class, Fate, Service};
use crate::wire::checksum;
use crate::wire::packet::{Kind, Packet, TcpFlags};

/// Opens a connection for the first packet of a client, or finds the one that another worker has
/// just opened for it.
///
/// # Errors
/// Why there is none.
#[inline(never)]
pub(super) fn open(arrival: &Arrival<'_>, tables: &mut Tables<'_>) -> Result<Identity, Reason> {
    let Arrival { packet, vip, .. } = *arrival;
    let published = tables.published;
    let services = &published.services;
    let service =
        services.find(vip, packet.protocol, packet.destination_port).ok_or(Reason::NoService)?;
    if packet.kind == Kind::Tcp
        && (!packet.tcp_flags.has(TcpFlags::SYN) || packet.tcp_flags.has(TcpFlags::ACK))
    {
        return Err(Reason::NoConnection);
    }
    if services.classify(packet.source) != Class::Other {
        return Err(Reason::BadSource);
    }
    let target = choose(service, packet, tables).ok_or(Reason::NoReal)?;
    Opening { arrival, service }.place(target, tables)
}

/// Gives a connection another real, because its own is gone or has to go; by its client's packet,
/// which goes to the new one. None, and nothing changed, if no other real takes it.
#[cold]
pub(super) fn reopen(
    arrival: &Arrival<'_>,
    found: &Found,
    tables: &mut Tables<'_>,
) -> Option<Result<Identity, Reason>> {
    let Arrival { packet, vip, .. } = *arrival;
    let published = tables.published;
    let service = published.services.find(vip, packet.protocol, packet.destination_port)?;
    let old = found.conn.identity.real;
    if !service.has_other(old, &tables.shared.loads) {
        return None;
    }
    let target = choose(service, packet, tables).filter(|t| t.real != old)?;
    next_hop(target.real, tables).ok()?;
    if tables.remove(found.handle).is_some() {
        tables.event(Event::ConnMoved);
    }
    Some(Opening { arrival, service }.place(target, tables))
}

/// A first packet, and what is known of it.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) packet: &'a Packet,
    pub(super) vip: VipId,
    /// Of the client's side.
    pub(super) hash: Hash,
    /// Where it came from.
    pub(super) last_hop: LastHop,
}

/// A connection to be.
struct Opening<'a> {
    arrival: &'a Arrival<'a>,
    service: &'a Service,
}

/// Reals tried when replies of the chosen one could not be told from those to another connection.
const CANDIDATES: usize = 8;

impl Opening<'_> {
    /// Opens it to `target`, or to another if that cannot be.
    fn place(&self, target: &Target, tables: &mut Tables<'_>) -> Result<Identity, Reason> {
        let service = self.service;
        let opened = match self.towards(target, tables) {
            Err(Reason::ReplyConflict) => self.elsewhere(target, tables)?,
            other => other?,
        };
        if service.is_fallback(opened.real) {
            tables.event(Event::FallbackUsed);
        }
        // A template cannot be evicted, so strangers may make only so many: above that it waits
        // until the connection is more than half open.
        let conns = &tables.shared.conns;
        if service.persistence.is_some() && conns.templates() < conns.half_open_max() {
            refresh_template(service, &opened, tables);
        }
        Ok(opened)
    }

    fn towards(&self, target: &Target, tables: &mut Tables<'_>) -> Result<Identity, Reason> {
        let Arrival { packet, vip, hash, last_hop } = *self.arrival;
        // Not opened if its first packet cannot be sent on: the next SYN may find another real.
        next_hop(target.real, tables)?;
        let reservation = tables
            .shared
            .conns
            .reserve(hash, &mut |why, found| tables.make_way(why, &found))
            .ok_or(Reason::TableFull)?;
        let mut identity = Identity {
            client: packet.source,
            client_port: packet.source_port,
            vip,
            vip_port: packet.destination_port,
            protocol: packet.protocol,
            service: self.service.id,
            real: target.real,
            real_port: if target.port == 0 { packet.destination_port } else { target.port },
            local: None,
        };
        if self.service.forwarding == Forwarding::Fullnat {
            identity.local = Some(local_port(packet, target, &reservation, tables)?);
        }
        insert(reservation, hash, identity, last_hop, packet, tables)
    }

    /// Another real, as the one the scheduler wants is taken: one client port talks to it already,
    /// by way of another VIP or port.
    #[cold]
    fn elsewhere(&self, taken: &Target, tables: &mut Tables<'_>) -> Result<Identity, Reason> {
        let loads = &tables.shared.loads;
        let open = |t: &&Target| t.real != taken.real && t.takes_new(loads);
        for target in self.service.targets.iter().filter(open).take(CANDIDATES) {
            if let Ok(identity) = self.towards(target, tables) {
                return Ok(identity);
            }
        }
        Err(Reason::ReplyConflict)
    }
}

/// Counts first packets whose checksum was left to hardware that is not there: the real will drop
/// them, and nothing else would say why (`ethtool -K ... tx off` at the sender helps).
pub(super) fn note_checksum(frame: &Frame<'_>, packet: &Packet, tables: &Tables<'_>) {
    let offset = usize::from(packet.transport) + if packet.kind == Kind::Tcp { 16 } else { 6 };
    let Some(&[high, low]) = frame.bytes().get(offset..offset + 2) else { return };
    let field = u16::from_be_bytes([high, low]);
    let length = packet.end.saturating_sub(packet.transport);
    let Packet { source, destination, protocol, .. } = *packet;
    // Zero is UDP without a checksum.
    if field != 0 && checksum::is_partial(source, destination, protocol, length, field) {
        tables.event(Event::PartialChecksum);
    }
}

/// By template if the service is persistent and the client has one, else by the scheduler.
fn choose<'a>(service: &'a Service, packet: &Packet, tables: &Tables<'_>) -> Option<&'a Target> {
    let Tables { published, shared, now, .. } = *tables;
    if let Some(target) = tied(service, packet.source, published, shared, now) {
        tables.event(Event::PersistenceHit);
        return Some(target);
    }
    service.pick(&request(service, packet, now), &shared.loads)
}

/// The real that persistence ties a client to, if it takes the client.
pub(super) fn tied<'a>(
    service: &'a Service,
    client: Address,
    published: &Published,
    shared: &Shared,
    now: Instant,
) -> Option<&'a Target> {
    let persistence = service.persistence?;
    let key = template_key(service, client.masked(persistence.mask_v4, persistence.mask_v6));
    let hash = template_hash(&key, &shared.conns);
    let found = shared.conns.find_now(hash, |id| same_template(id, &key))?;
    let fresh = now.tick().since(found.conn.seen) <= service.timeout(State::Template);
    if !fresh || published.fate(&found.conn) != Fate::Keep {
        return None;
    }
    let target = service.targets.iter().find(|t| t.real == found.conn.identity.real)?;
    let load = shared.loads.of(target.real);
    let takes =
        service.ties_to(target) && !load.overloaded(target.upper_threshold, target.lower_threshold);
    takes.then_some(target)
}

/// What a scheduler is asked.
pub(super) fn request(service: &Service, packet: &Packet, now: Instant) -> Request {
    let (client, client_port) = match service.persistence {
        Some(persistence) => (packet.source.masked(persistence.mask_v4, persistence.mask_v6), 0),
        None => (packet.source, packet.source_port),
    };
    Request {
        client,
        client_port,
        destination: packet.destination,
        destination_port: packet.destination_port,
        now,
    }
}

fn local_port(
    packet: &Packet,
    target: &Target,
    reservation: &Reservation<'_>,
    tables: &mut Tables<'_>,
) -> Result<(u8, u16), Reason> {
    let services = &tables.published.services;
    let locals = services.locals(target.address.is_v4());
    let local = &mut *tables.local;
    tables
        .shared
        .ports
        .allocate(
            packet.protocol,
            locals,
            local.worker,
            local.workers,
            services.local_ports,
            &mut local.port_cursor,
            reservation.index(),
        )
        .ok_or(Reason::NoLocalPort)
}

fn insert(
    reservation: Reservation<'_>,
    hash: Hash,
    identity: Identity,
    last_hop: LastHop,
    packet: &Packet,
    tables: &Tables<'_>,
) -> Result<Identity, Reason> {
    let now = tables.now.tick();
    let state = if packet.kind == Kind::Tcp { State::SynReceived } else { State::UdpNew };
    let conn = Conn { identity, last_hop, state, synack: false, seen: now, created: now };
    let shared = tables.shared;
    let release = || {
        if let Some((local, port)) = identity.local {
            shared.ports.release(identity.protocol, local, port);
        }
    };
    let same_reply = |other: &Identity| {
        other.real_port == identity.real_port
            && other.local.is_none()
            && identity.local.is_none()
            && same_address(other.real, identity.real, tables)
    };
    let mut ended = |why, found| tables.make_way(why, &found);
    // Counted before anybody can find it: whoever ends it must find it counted.
    let load = shared.loads.of(identity.real);
    load.opened(state.is_active());
    let outcome = shared.conns.insert(reservation, hash, &conn, same_reply, &mut ended);
    if !matches!(outcome, Outcome::Inserted(_)) {
        load.closed(state.is_active());
    }
    match outcome {
        Outcome::Inserted(_) => {
            tables.counters.real(identity.real).opened.add(1);
            tables.event(Event::ConnOpened);
            Ok(identity)
        }
        Outcome::Exists(found) => {
            release();
            tables.event(Event::OpenRace);
            Ok(found.conn.identity)
        }
        Outcome::ReplyConflict => {
            release();
            Err(Reason::ReplyConflict)
        }
        Outcome::TableFull => {
            release();
            Err(Reason::TableFull)
        }
        Outcome::HalfOpenLimit => {
            release();
            Err(Reason::HalfOpenLimit)
        }
    }
}

/// Whether two reals send from the same address, both through us.
fn same_address(a: RealId, b: RealId, tables: &Tables<'_>) -> bool {
    let services = &tables.published.services;
    let through_us = |id| services.real(id).filter(|r| r.forwarding == Forwarding::Nat);
    match (through_us(a), through_us(b)) {
        (Some(a), Some(b)) => a.address == b.address,
        _ => false,
    }
}

/// Templates live in the table like connections: client address masked, no ports, no protocol.
fn template_key(service: &Service, client: Address) -> Identity {
    Identity {
        client,
        client_port: 0,
        vip: VipId(u16::MAX),
        vip_port: service.id.0,
        protocol: 0,
        service: service.id,
        real: RealId(0),
        real_port: 0,
        local: None,
    }
}

fn template_hash(key: &Identity, conns: &Table) -> Hash {
    conns.hash(key.client, key.client_port, key.protocol)
}

fn same_template(identity: &Identity, key: &Identity) -> bool {
    identity.client == key.client
        && identity.client_port == 0
        && identity.vip == key.vip
        && identity.vip_port == key.vip_port
        && identity.protocol == 0
}

/// Makes the client's template, or starts its time anew.
#[cold]
pub(super) fn refresh_template(service: &Service, identity: &Identity, tables: &Tables<'_>) {
    let Some(persistence) = service.persistence else { return };
    let target = |real| service.targets.iter().find(|t| t.real == real);
    // Nobody is tied to a fallback, nor to a real that would not take the client again.
    if !target(identity.real).is_some_and(|t| service.ties_to(t)) {
        return;
    }
    let conns = &tables.shared.conns;
    let client = identity.client.masked(persistence.mask_v4, persistence.mask_v6);
    let mut key = template_key(service, client);
    let hash = template_hash(&key, conns);
    let now = tables.now.tick();
    if let Some(found) = conns.find_now(hash, |id| same_template(id, &key)) {
        let fresh = now.since(found.conn.seen) <= service.timeout(State::Template);
        if found.conn.identity.real == identity.real && fresh {
            conns.touch(&found, State::Template, false, now);
            return;
        }
        // An older connection of the client does not bring back the real that it has moved from.
        let tied = target(found.conn.identity.real).is_some_and(|t| service.ties_to(t));
        if fresh && tied && tables.published.fate(&found.conn) == Fate::Keep {
            return;
        }
        if tables.remove(found.handle).is_none() {
            return;
        }
    }
    key.real = identity.real;
    let conn = Conn {
        identity: key,
        last_hop: LastHop::default(),
        state: State::Template,
        synack: false,
        seen: now,
        created: now,
    };
    let mut ended = |why, found| tables.make_way(why, &found);
    if let Some(reservation) = conns.reserve(hash, &mut ended) {
        let load = tables.shared.loads.of(identity.real);
        load.tied();
        // A full table costs the client its persistence, nothing else.
        let outcome = conns.insert(reservation, hash, &conn, |_| false, &mut ended);
        match outcome {
            // That its time began anew is not told: with the peer it does not pass (`sync/keep.rs`).
            Outcome::Inserted(handle) => tables.changed(handle),
            _ => load.untied(),
        }
    }
}
