//! Probes of the way to a real: sent as its connections' packets are, and heard.

use dataplane_api::counter::Event;
use dataplane_api::message::PathAnswer;

use super::Tables;
use super::deliver::{Delivery, To, deliver};
use crate::address::DeviceId;
use crate::frame::{Frame, Outbox, Verdict};
use crate::limits::{FRAME_SIZE, HEADROOM};
use crate::probes::Outgoing;
use crate::rewrite::nat::{Change, Endpoint};
use crate::rewrite::reset::{self, SEGMENT};
use crate::wire::packet::{self, Packet};

/// Sends the probes that wait; a worker calls it between bursts.
#[inline]
pub fn send_probes(outbox: &mut dyn Outbox, tables: &mut Tables<'_>) {
    if !tables.shared.probes.is_idle() {
        send_waiting(outbox, tables);
    }
}

#[cold]
fn send_waiting(outbox: &mut dyn Outbox, tables: &mut Tables<'_>) {
    while let Some(out) = tables.shared.probes.next() {
        let mut bytes = [0; SEGMENT];
        let len = reset::syn(out.from, out.to, out.sequence, &mut bytes);
        if send(&out, &bytes[..len], outbox, tables) {
            tables.event(Event::PathProbe);
        } else {
            tables.shared.probes.failed(&out, tables.now);
        }
    }
}

/// A packet without a connection: whether it answers a probe. What the real has opened is reset.
#[cold]
pub(super) fn hear(
    frame: &Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> bool {
    let Some((out, answer)) = tables.shared.probes.hear(packet, tables.now) else { return false };
    let mut bytes = [0; SEGMENT];
    if answer == PathAnswer::Answered
        && let Some(len) = reset::answer(frame.bytes(), packet, &mut bytes)
    {
        send(&out, &bytes[..len], outbox, tables);
    }
    true
}

/// Sends a packet of ours to the VIP by the way of the real.
fn send(out: &Outgoing, bytes: &[u8], outbox: &mut dyn Outbox, tables: &mut Tables<'_>) -> bool {
    let Some(real) = tables.published.services.real(out.real) else { return false };
    let to = To::Real(real.forwarding);
    let mut buffer = [0; FRAME_SIZE];
    let Some(place) = buffer.get_mut(HEADROOM..HEADROOM + bytes.len()) else { return false };
    place.copy_from_slice(bytes);
    let mut frame = Frame::new(&mut buffer, HEADROOM, bytes.len(), DeviceId::default());
    let Ok(packet) = packet::parse(frame.bytes()) else { return false };
    let change = Change {
        source: None,
        destination: Some(Endpoint { address: real.address, port: out.to.port }),
    };
    let delivery = Delivery { real: out.real, change, to };
    match deliver(&mut frame, &packet, &delivery, outbox, tables) {
        Verdict::Transmit(device) => outbox.send(device, frame.bytes()),
        Verdict::Drop(_) | Verdict::Held => false,
    }
}
