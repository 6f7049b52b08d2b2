//! Packets that are not TCP or UDP with ports: neighbour requests, echo, ICMP errors, fragments.

use std::sync::PoisonError;

use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::Forwarding;

use super::deliver::{self, Delivery, To, deliver};
use super::{Tables, client, find, neighbor, receiver, sender};
use crate::conn::Found;
use crate::fragment::{self, Follow};
use crate::frame::{Frame, Outbox, Verdict};
use crate::rewrite;
use crate::rewrite::icmp::{self, Quoted};
use crate::rewrite::nat::{Change, Endpoint};
use crate::service::Class;
use crate::wire::packet::{self, Kind, Packet};
use crate::wire::tunnel_error::{self, TunnelError};

/// Decides about one such packet.
#[cold]
pub(super) fn related(
    frame: &mut Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    match packet.kind {
        Kind::NeighborRequest => neighbor::request(frame, packet, outbox, tables),
        Kind::NeighborAnswer => neighbor::answer(frame, packet, outbox, tables),
        Kind::EchoRequest => echo(frame, packet, tables),
        Kind::IcmpError => icmp_error(frame, packet, outbox, tables),
        Kind::LaterFragment => later_fragment(frame, packet, outbox, tables),
        Kind::Tcp | Kind::Udp => Verdict::Drop(Reason::Malformed),
    }
}

fn echo(frame: &mut Frame<'_>, packet: &Packet, tables: &Tables<'_>) -> Verdict {
    let services = &tables.published.services;
    let Some(group) = services.owner(packet.destination) else {
        return Verdict::Drop(Reason::IcmpUnsupported);
    };
    if services.owner(packet.source).is_some() {
        return Verdict::Drop(Reason::BadSource);
    }
    if !tables.lease.contains(group) {
        return Verdict::Drop(Reason::NoLease);
    }
    if !icmp::echo_reply(frame, packet) {
        return Verdict::Drop(Reason::Malformed);
    }
    tables.event(Event::EchoAnswered);
    Verdict::Transmit(frame.device())
}

fn icmp_error(
    frame: &mut Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    if let Some(verdict) = error_from_tunnel(frame, packet, tables) {
        return verdict;
    }
    let quoted = match icmp::quoted(frame, packet) {
        Ok(quoted) => quoted,
        Err(reason) => return Verdict::Drop(reason),
    };
    // An error goes to the sender of what it quotes.
    let ours = quoted.packet.source == packet.destination;
    if !ours || !matches!(quoted.packet.kind, Kind::Tcp | Kind::Udp) {
        return Verdict::Drop(Reason::IcmpNoConnection);
    }
    match tables.published.services.classify(packet.destination) {
        Class::Vip(_) => error_from_client(frame, packet, &quoted, outbox, tables),
        Class::Local(local) => {
            let q = &quoted.packet;
            let found = find::of_local((local, q.source_port), receiver(q), q.protocol, tables);
            error_from_real(frame, packet, &quoted, found, tables)
        }
        Class::Other => {
            let q = &quoted.packet;
            let found = find::of_real(sender(q), receiver(q), q.protocol, tables);
            error_from_real(frame, packet, &quoted, found, tables)
        }
    }
}

/// Somebody on the client's side complains of a packet that the client (or a router) got from the
/// VIP: it belongs to the real that sent it.
fn error_from_client(
    frame: &mut Frame<'_>,
    packet: &Packet,
    quoted: &Quoted,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let q = &quoted.packet;
    let services = &tables.published.services;
    let Class::Vip(vip) = services.classify(q.source) else {
        return Verdict::Drop(Reason::IcmpNoConnection);
    };
    let hash = tables.shared.conns.hash(q.destination, q.destination_port, q.protocol);
    let found = find::of_vip(hash, receiver(q), (vip, q.source_port), q.protocol, tables);
    let Some(found) = found else { return Verdict::Drop(Reason::IcmpNoConnection) };
    let delivery = Delivery::to_real(&found.conn.identity, tables);
    let To::Real(forwarding) = delivery.to else {
        return Verdict::Drop(Reason::IcmpNoConnection);
    };
    if matches!(forwarding, Forwarding::Direct | Forwarding::Tunnel) {
        // The real owns the VIP: it gets the error as it is.
        return deliver(frame, packet, &delivery, outbox, tables);
    }
    if packet.ttl <= 1 {
        return Verdict::Drop(Reason::TtlExceeded);
    }
    // Inside, the packet as the real had sent it; outside, as `to_real` would address it.
    let inner = Change { source: delivery.change.destination, destination: delivery.change.source };
    icmp::translate(frame, packet, quoted, &delivery.change, &inner);
    tables.event(Event::IcmpTranslated);
    send_to_real(frame, packet, &delivery, tables)
}

fn send_to_real(
    frame: &mut Frame<'_>,
    packet: &Packet,
    delivery: &Delivery,
    tables: &mut Tables<'_>,
) -> Verdict {
    match deliver::next_hop(delivery.real, tables) {
        Ok((hop, device)) => {
            rewrite::link(frame, hop.mac, device.mac);
            deliver::count_in(packet, delivery.real, tables);
            Verdict::Transmit(hop.device)
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The real, or a router before it, complains of a packet that we had sent on for a client.
fn error_from_real(
    frame: &mut Frame<'_>,
    packet: &Packet,
    quoted: &Quoted,
    found: Option<Found>,
    tables: &mut Tables<'_>,
) -> Verdict {
    let Some(found) = found else { return Verdict::Drop(Reason::IcmpNoConnection) };
    if packet.ttl <= 1 {
        return Verdict::Drop(Reason::TtlExceeded);
    }
    let conn = found.conn;
    let (hop, mac, _) = match client::next_hop(conn.identity.client, conn.last_hop, tables) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    let delivery = Delivery::to_client(&conn, tables);
    let client = Endpoint { address: conn.identity.client, port: conn.identity.client_port };
    // The client knows the VIP alone, so the error seems to come from there (as LVS has it).
    let outer = Change { source: delivery.change.source, destination: Some(client) };
    let inner = Change { source: Some(client), destination: delivery.change.source };
    icmp::translate(frame, packet, quoted, &outer, &inner);
    rewrite::link(frame, hop.mac, mac);
    tables.event(Event::IcmpTranslated);
    Verdict::Transmit(hop.device)
}

/// A router complains of a tunnel packet of ours. Its path MTU is noted, so that the client's next
/// packet gets the answer; the error itself quotes too little to be passed on.
fn error_from_tunnel(frame: &Frame<'_>, packet: &Packet, tables: &Tables<'_>) -> Option<Verdict> {
    let bytes = frame.bytes();
    let transport = usize::from(packet.transport);
    let icmp = bytes.get(transport..usize::from(packet.end))?;
    let TunnelError { real, mtu } = tunnel_error::parse(icmp, packet.is_v4())?;
    let services = &tables.published.services;
    let mut reals =
        services.reals().filter(|(_, r)| r.forwarding == Forwarding::Tunnel && r.address == real);
    let mut known = false;
    for (id, _) in &mut reals {
        known = true;
        if let Some(mtu) = mtu {
            tables.shared.paths.learn(id, mtu, tables.now);
        }
    }
    known.then_some(Verdict::Drop(Reason::IcmpNoConnection))
}

/// Remembers where a first fragment went, and sends those that were waiting for it.
#[cold]
pub(super) fn first_fragment(
    packet: &Packet,
    delivery: &Delivery,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) {
    let key = fragment::Key::of(packet);
    let shared = tables.shared;
    // Held while the waiting ones are sent: copies into a ring, no waiting.
    let mut fragments = shared.fragments.lock().unwrap_or_else(PoisonError::into_inner);
    let delivery = fragments.first(&key, *delivery, tables.now);
    fragments.release(&key, |frame| {
        let Ok(held) = packet::parse(frame.bytes()) else { return };
        tables.event(Event::FragmentReleased);
        match deliver(frame, &held, &delivery, outbox, tables) {
            Verdict::Transmit(to) => {
                if !outbox.send(to, frame.bytes()) {
                    tables.counters.drop(Reason::TxFull);
                }
            }
            Verdict::Drop(reason) => tables.counters.drop(reason),
            Verdict::Held => {}
        }
    });
}

fn later_fragment(
    frame: &mut Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    if fragment::rewrites_ports(packet) {
        return Verdict::Drop(Reason::FragmentBad);
    }
    let key = fragment::Key::of(packet);
    let follow = {
        let lock = tables.shared.fragments.lock();
        let mut fragments = lock.unwrap_or_else(PoisonError::into_inner);
        fragments.later(&key, frame, tables.now)
    };
    match follow {
        Follow::Decision(delivery) => deliver(frame, packet, &delivery, outbox, tables),
        Follow::Held => {
            tables.event(Event::FragmentHeld);
            Verdict::Held
        }
        Follow::Full(reason) => Verdict::Drop(reason),
    }
}
