//! Opening a connection: which real, which local port, into the table.

use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::Forwarding;

use super::Tables;
use super::deliver::next_hop;
use crate::address::{Address, RealId, VipId};
use crate::conn::{Conn, Hash, Identity, LastHop, Outcome, Reservation, State};
use crate::frame::Frame;
use crate::sched::load::Loads;
use crate::sched::{Request, Target};
use crate::service::{Class, Service};
use crate::wire::checksum;
use crate::wire::packet::{Kind, Packet, TcpFlags};

/// Opens a connection for the first packet of a client, or finds the one that another worker has
/// just opened for it.
///
/// # Errors
/// Why there is none.
#[inline(never)]
pub(super) fn open(
    packet: &Packet,
    vip: VipId,
    hash: Hash,
    last_hop: LastHop,
    tables: &mut Tables<'_>,
) -> Result<Identity, Reason> {
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
    let opening = Opening { packet, vip, hash, last_hop, service };
    let opened = match opening.towards(target, tables) {
        Err(Reason::ReplyConflict) => opening.elsewhere(target, tables)?,
        other => other?,
    };
    // A template cannot be evicted, so strangers may make only so many: above that it waits until
    // the connection is more than half open.
    let conns = &tables.shared.conns;
    if service.persistence.is_some() && conns.templates() < conns.half_open_max() {
        refresh_template(service, &opened, tables);
    }
    Ok(opened)
}

/// A connection to be.
struct Opening<'a> {
    packet: &'a Packet,
    vip: VipId,
    hash: Hash,
    last_hop: LastHop,
    service: &'a Service,
}

/// Reals tried when replies of the chosen one could not be told from those to another connection.
const CANDIDATES: usize = 8;

impl Opening<'_> {
    fn towards(&self, target: &Target, tables: &mut Tables<'_>) -> Result<Identity, Reason> {
        let packet = self.packet;
        // Not opened if its first packet cannot be sent on: the next SYN may find another real.
        next_hop(target.real, tables)?;
        let reservation = tables
            .shared
            .conns
            .reserve(self.hash, &mut |why, conn| tables.make_way(why, &conn))
            .ok_or(Reason::TableFull)?;
        let mut identity = Identity {
            client: packet.source,
            client_port: packet.source_port,
            vip: self.vip,
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
        insert(reservation, self.hash, identity, self.last_hop, packet, tables)
    }

    /// Another real, as the one the scheduler wants is taken: one client port talks to it already,
    /// by way of another VIP or port.
    #[cold]
    fn elsewhere(&self, taken: &Target, tables: &mut Tables<'_>) -> Result<Identity, Reason> {
        let loads = &tables.shared.loads;
        let open = |t: &&Target| t.real != taken.real && takes_new(t, loads);
        for target in self.service.targets.iter().filter(open).take(CANDIDATES) {
            if let Ok(identity) = self.towards(target, tables) {
                return Ok(identity);
            }
        }
        Err(Reason::ReplyConflict)
    }
}

fn takes_new(target: &Target, loads: &Loads) -> bool {
    target.weight.get() > 0
        && !loads.of(target.real).overloaded(target.upper_threshold, target.lower_threshold)
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
    let shared = tables.shared;
    let mut client = packet.source;
    if let Some(persistence) = service.persistence {
        client = client.masked(persistence.mask_v4, persistence.mask_v6);
        let key = template_key(service, client);
        let found =
            shared.conns.find_now(template_hash(&key, tables), |id| same_template(id, &key));
        let fresh = found
            .filter(|f| tables.now.tick().since(f.conn.seen) <= service.timeout(State::Template));
        let kept =
            fresh.and_then(|f| service.targets.iter().find(|t| t.real == f.conn.identity.real));
        if let Some(target) = kept.filter(|t| takes_new(t, &shared.loads)) {
            tables.event(Event::PersistenceHit);
            return Some(target);
        }
    }
    let request = Request {
        client,
        client_port: if service.persistence.is_some() { 0 } else { packet.source_port },
        destination: packet.destination,
        destination_port: packet.destination_port,
        now: tables.now,
    };
    service.pick(&request, &shared.loads)
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
    let mut ended = |why, conn| tables.make_way(why, &conn);
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

fn template_hash(key: &Identity, tables: &Tables<'_>) -> Hash {
    tables.shared.conns.hash(key.client, key.client_port, key.protocol)
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
    let conns = &tables.shared.conns;
    let client = identity.client.masked(persistence.mask_v4, persistence.mask_v6);
    let mut key = template_key(service, client);
    let hash = template_hash(&key, tables);
    let now = tables.now.tick();
    if let Some(found) = conns.find_now(hash, |id| same_template(id, &key)) {
        let fresh = now.since(found.conn.seen) <= service.timeout(State::Template);
        if found.conn.identity.real == identity.real && fresh {
            conns.touch(&found, State::Template, false, now);
            return;
        }
        // An older connection of the client does not bring back the real that it has moved from.
        let moved = fresh
            && service
                .targets
                .iter()
                .any(|t| t.real == found.conn.identity.real && t.weight.get() > 0);
        if moved || conns.remove(&found.handle).is_none() {
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
    let mut ended = |why, conn| tables.make_way(why, &conn);
    if let Some(reservation) = conns.reserve(hash, &mut ended) {
        // A full table costs the client its persistence, nothing else.
        let _ = conns.insert(reservation, hash, &conn, |_| false, &mut ended);
    }
}
