//! Packets of connections that are to end, or whose real is gone: reset, forgotten, or moved.
//!
//! Run by the workers on the long way; the express lane lets no packet of such a real pass.

use dataplane_api::counter::{Event, Reason};

use super::deliver::Delivery;
use super::observe::{self, observe};
use super::open::{self, Arrival};
use super::{Tables, finish};
use crate::clock::Tick;
use crate::conn::tcp::Direction;
use crate::conn::{Found, Identity, State};
use crate::frame::{Frame, Outbox, Verdict};
use crate::rewrite::reset::{self, SEGMENT};
use crate::service::{Fate, RealRecord};
use crate::wire::packet::{self, Kind, Packet, TcpFlags};

/// How it goes on with a packet whose connection was found.
pub(super) enum Course {
    /// As if nothing were the matter.
    On,
    /// The connection is gone; the packet has to open a new one.
    Anew,
    /// It has a connection in place of the old one, or there is a reason why not.
    Moved(Result<Identity, Reason>),
    /// That was it.
    Done(Verdict),
}

/// No client repeats a SYN sooner (RFC 6298 section 2: one second, less what a tick may hide).
const REPEATED: u32 = Tick::in_seconds(1) - 2;

/// A packet from the client.
#[inline(always)]
pub(super) fn from_client(
    frame: &mut Frame<'_>,
    arrival: &Arrival<'_>,
    found: &Found,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Course {
    let fate = tables.published.fate(&found.conn);
    let repeated = arrival.packet.kind == Kind::Tcp && opens(arrival.packet);
    if fate == Fate::Keep && !repeated {
        return Course::On;
    }
    client_in_question(frame, arrival, found, fate, outbox, tables)
}

#[inline(never)]
fn client_in_question(
    frame: &mut Frame<'_>,
    arrival: &Arrival<'_>,
    found: &Found,
    fate: Fate,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Course {
    let (packet, conn) = (arrival.packet, &found.conn);
    let tcp = packet.kind == Kind::Tcp;
    let unanswered = tcp && conn.state == State::SynReceived && !conn.synack;
    // Nobody has answered, and nobody is going to: not one that is dead, nor one that was removed
    // and has had its time.
    let late = conn.idle(tables.now.tick()) >= REPEATED;
    let gone = |r: &RealRecord| r.down || !r.configured && late;
    let waits = unanswered && tables.real(&conn.identity).is_none_or(gone);
    match fate {
        _ if waits && opens(packet) => moved(arrival, found, tables),
        Fate::Keep => Course::On,
        Fate::Move => moved(arrival, found, tables),
        Fate::Reset if !opens(packet) => {
            let one_way = tables.real(&conn.identity).is_some_and(|r| r.forwarding.is_one_way());
            let from = if one_way { Direction::FromClientOnly } else { Direction::FromClient };
            reset(frame, packet, found, from, outbox, tables)
        }
        Fate::Reset | Fate::Drop => {
            observe::remove(found.handle, Event::ConnDropped, tables);
            let anew = !tcp || opens(packet);
            if anew { Course::Anew } else { Course::Done(Verdict::Drop(Reason::ConnEnded)) }
        }
    }
}

/// A packet from the real.
#[inline(always)]
pub(super) fn from_real(
    frame: &mut Frame<'_>,
    packet: &Packet,
    found: &Found,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Option<Verdict> {
    match tables.published.fate(&found.conn) {
        // Answers that were on their way when it was moved are welcome.
        Fate::Keep | Fate::Move => None,
        Fate::Reset => match reset(frame, packet, found, Direction::FromReal, outbox, tables) {
            Course::Done(verdict) => Some(verdict),
            Course::On | Course::Anew | Course::Moved(_) => None,
        },
        Fate::Drop => {
            observe::remove(found.handle, Event::ConnDropped, tables);
            Some(Verdict::Drop(Reason::ConnEnded))
        }
    }
}

/// A SYN, and no answer to one.
fn opens(packet: &Packet) -> bool {
    packet.tcp_flags.has(TcpFlags::SYN) && !packet.tcp_flags.has(TcpFlags::ACK)
}

/// To another real with this very packet; if there is none that takes it, it stays where it is.
fn moved(arrival: &Arrival<'_>, found: &Found, tables: &mut Tables<'_>) -> Course {
    open::reopen(arrival, found, tables).map_or(Course::On, Course::Moved)
}

/// Answers the packet with an RST, and sends one on in its place.
fn reset(
    frame: &mut Frame<'_>,
    packet: &Packet,
    found: &Found,
    from: Direction,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Course {
    if packet.tcp_flags.has(TcpFlags::RST) {
        // One side has ended it by itself; the other is to know.
        return Course::On;
    }
    let mut answer = [0; SEGMENT];
    if let Some(len) = reset::answer(frame.bytes(), packet, &mut answer)
        && !outbox.send(frame.device(), &answer[..len])
    {
        tables.counters.drop(Reason::TxFull);
    }
    if !reset::instead(frame, packet) {
        return Course::Done(Verdict::Drop(Reason::ConnEnded));
    }
    let packet = match packet::parse(frame.bytes()) {
        Ok(packet) => packet,
        Err(reason) => return Course::Done(Verdict::Drop(reason)),
    };
    if found.conn.state != State::Close {
        tables.event(Event::ConnReset);
    }
    // Overtaken or ended meanwhile: the RST goes out all the same.
    let _ = observe(found, &packet, from, tables);
    let delivery = match from {
        Direction::FromReal => Delivery::to_client(&found.conn, tables),
        Direction::FromClient | Direction::FromClientOnly => {
            Delivery::to_real(&found.conn.identity, tables)
        }
    };
    Course::Done(finish(frame, &packet, &delivery, outbox, tables))
}
