//! ARP and neighbour discovery: who asks for an address of ours, who claims one, and what we say.

use dataplane_api::counter::{Event, Reason};

use super::Tables;
use crate::address::{Address, DeviceId, GroupId};
use crate::frame::{Frame, Outbox, Verdict};
use crate::wire::neighbor;
use crate::wire::packet::Packet;

/// "Who has the VIP?" is answered only while control says that we do.
pub(super) fn request(
    frame: &mut Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &Tables<'_>,
) -> Verdict {
    // If there is something wrong with it, reading the question says so.
    let _ = hear(frame, packet, outbox, tables);
    let request = match neighbor::request(frame.bytes(), packet) {
        Ok(request) => request,
        Err(reason) => return Verdict::Drop(reason),
    };
    let Some(group) = tables.published.services.owner(request.target) else {
        return Verdict::Drop(Reason::NeighborIgnored);
    };
    if !tables.lease.contains(group) {
        return Verdict::Drop(Reason::NoLease);
    }
    let device = frame.device();
    let Some(info) = tables.published.device(device) else {
        return Verdict::Drop(Reason::DeviceDown);
    };
    if !neighbor::answer(frame, packet, &request, info.mac) {
        return Verdict::Drop(Reason::NeighborIgnored);
    }
    tables.event(Event::NeighborAnswered);
    Verdict::Transmit(device)
}

/// An answer is for the kernel, or somebody's claim.
pub(super) fn answer(
    frame: &Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &Tables<'_>,
) -> Verdict {
    Verdict::Drop(hear(frame, packet, outbox, tables).err().unwrap_or(Reason::NeighborIgnored))
}

/// Notes who says to have which address. If it is one that we own, the neighbours are told again at
/// once that it is ours.
fn hear(
    frame: &Frame<'_>,
    packet: &Packet,
    outbox: &mut dyn Outbox,
    tables: &Tables<'_>,
) -> Result<(), Reason> {
    let neighbor::Claim { address, mac } = neighbor::claim(frame.bytes(), packet)?;
    // What we say ourselves on one interface may come in by another, or by the same through a loop.
    if tables.published.devices.iter().any(|device| device.mac == mac) {
        return Ok(());
    }
    let Some(group) = tables.published.services.owner(address) else { return Ok(()) };
    let (shared, device) = (tables.shared, frame.device());
    if !shared.resolver.is_idle() {
        shared.resolver.hear(address, device, mac);
    }
    if tables.lease.contains(group) {
        tables.event(Event::ForeignClaim);
        if shared.leases.note_claim(group, address, device, tables.now) {
            announce(device, address, group, outbox, tables);
        }
    }
    Ok(())
}

/// Tells the neighbours on an interface that an address is ours, if it (still) is.
pub fn announce(
    device: DeviceId,
    address: Address,
    group: GroupId,
    outbox: &mut dyn Outbox,
    tables: &Tables<'_>,
) {
    if !tables.lease.contains(group) {
        return;
    }
    let Some(info) = tables.published.device(device) else { return };
    let mut buffer = [0; 128];
    let length = neighbor::announcement(address, info.mac, &mut buffer);
    if outbox.send(device, &buffer[..length]) {
        tables.event(Event::Announced);
        tables.shared.leases.note_announced(group);
    } else {
        tables.counters.drop(Reason::TxFull);
    }
}

/// Sends the next question about an address that somebody wants resolved. False if there is none.
pub fn send_question(outbox: &mut dyn Outbox, tables: &Tables<'_>) -> bool {
    let Some((device, address)) = tables.shared.resolver.next() else { return false };
    if let Some(info) = tables.published.device(device) {
        let mut buffer = [0; 128];
        let length = neighbor::question(address, info.mac, &mut buffer);
        if outbox.send(device, &buffer[..length]) {
            tables.event(Event::ResolveSent);
        } else {
            tables.counters.drop(Reason::TxFull);
        }
    }
    true
}
