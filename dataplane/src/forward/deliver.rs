//! Rewriting a packet and sending it on, to the real or to the client.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::Forwarding;

use super::{Tables, client};
use crate::address::{Address, DeviceId, RealId};
use crate::clock::{Instant, Tick};
use crate::conn::{Conn, Identity, LastHop};
use crate::frame::{Frame, Outbox, Verdict};
use crate::limits;
use crate::published::{DeviceInfo, Hop, HopState, Published};
use crate::rewrite::nat::{Change, Endpoint};
use crate::rewrite::tunnel::{Encapsulated, Tunnel, encapsulate};
use crate::rewrite::{self, fragment_v4, icmp, mss, nat};
use crate::wire::packet::{self, Kind, Packet, TcpFlags};

/// How the packets of one direction of a connection travel on.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The connection's real.
    pub real: RealId,
    /// Addresses and ports to write.
    pub change: Change,
    /// Where to.
    pub to: To,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// To the real, by its service's forwarding method.
    Real(Forwarding),
    /// Back to the client.
    Client(LastHop),
}

impl Delivery {
    /// Of packets from the client.
    #[inline(always)]
    pub(super) fn to_real(identity: &Identity, tables: &Tables<'_>) -> Self {
        let services = &tables.published.services;
        let (address, forwarding) = match services.real(identity.real) {
            Some(real) => (real.address, real.forwarding),
            None => (Address::UNSPECIFIED, Forwarding::Direct),
        };
        let local = identity
            .local
            .and_then(|(local, port)| Some(Endpoint { address: services.local(local)?, port }));
        let change = Change {
            source: local,
            destination: Some(Endpoint { address, port: identity.real_port }),
        };
        Self { real: identity.real, change, to: To::Real(forwarding) }
    }

    /// Of packets from the real.
    #[inline(always)]
    pub(super) fn to_client(conn: &Conn, tables: &Tables<'_>) -> Self {
        let identity = &conn.identity;
        let vip = tables.published.services.vip(identity.vip).unwrap_or_default();
        let client = Endpoint { address: identity.client, port: identity.client_port };
        let change = Change {
            source: Some(Endpoint { address: vip, port: identity.vip_port }),
            destination: identity.local.map(|_| client),
        };
        Self { real: identity.real, change, to: To::Client(conn.last_hop) }
    }
}

/// Path MTUs towards tunnelled reals, learnt from ICMP; forgotten after ten minutes (RFC 1191
/// section 6.3).
#[derive(Debug)]
pub struct Paths(Box<[AtomicU64]>);

impl Default for Paths {
    fn default() -> Self {
        Self((0..limits::REALS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Paths {
    /// Notes that packets towards `real` may have `mtu` bytes.
    pub fn learn(&self, real: RealId, mtu: u16, now: Instant) {
        let word = u64::from(mtu) << 32 | u64::from(now.tick().0);
        self.0[real.index() % limits::REALS].store(word, Relaxed);
    }

    /// The smaller of `mtu` and what was learnt.
    #[must_use]
    pub fn limit(&self, real: RealId, mtu: u16, now: Instant) -> u16 {
        let word = self.0[real.index() % limits::REALS].load(Relaxed);
        let learnt = (word >> 32) as u16;
        let fresh = now.tick().since(Tick(word as u32)) < Tick::in_seconds(600);
        if learnt != 0 && fresh { mtu.min(learnt) } else { mtu }
    }
}

/// Rewrites and addresses a packet.
#[inline(always)]
pub(super) fn deliver(
    frame: &mut Frame<'_>,
    packet: &Packet,
    delivery: &Delivery,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    match delivery.to {
        To::Real(Forwarding::Tunnel) => match delivery.change.destination {
            Some(Endpoint { address, .. }) => {
                through_tunnel(frame, packet, delivery.real, address, outbox, tables)
            }
            None => Verdict::Drop(Reason::NextHopUnresolved),
        },
        To::Real(forwarding) => to_real(frame, packet, delivery, forwarding, outbox, tables),
        To::Client(hop) => to_client(frame, packet, delivery, hop, outbox, tables),
    }
}

#[inline(always)]
fn to_real(
    frame: &mut Frame<'_>,
    packet: &Packet,
    delivery: &Delivery,
    forwarding: Forwarding,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let (hop, device) = match next_hop(delivery.real, tables) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    let mtu = hop.mtu.min(device.mtu);
    let fits = fits(packet, mtu);
    if fits == Fits::Not {
        return too_big(frame, packet, mtu, tables);
    }
    if forwarding != Forwarding::Direct {
        if packet.ttl <= 1 {
            return expired(frame, packet, tables);
        }
        clamp(frame, packet, mtu, tables);
        nat::apply(frame, packet, &delivery.change, true);
    }
    rewrite::link(frame, hop.mac, device.mac);
    count_in(packet, delivery.real, tables);
    if fits == Fits::InPieces {
        return in_pieces(frame, packet, mtu, hop.device, outbox, tables);
    }
    Verdict::Transmit(hop.device)
}

/// Whether a packet fits a link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fits {
    Whole,
    /// If it is cut, which only IPv4 without Don't Fragment may be.
    InPieces,
    Not,
}

#[inline(always)]
fn fits(packet: &Packet, mtu: u16) -> Fits {
    if packet.ip_len() <= usize::from(mtu) {
        Fits::Whole
    } else if packet.dont_fragment || mtu < MTU_LEAST {
        Fits::Not
    } else {
        Fits::InPieces
    }
}

/// No IPv4 link carries less (RFC 791 section 3.2); every packet of ours is cut into few pieces.
const MTU_LEAST: u16 = 68;

/// Sends the packet, rewritten and addressed, in fragments: the first stays in the frame.
#[cold]
fn in_pieces(
    frame: &mut Frame<'_>,
    packet: &Packet,
    mtu: u16,
    to: DeviceId,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let counters = tables.counters;
    let done = fragment_v4::split(frame, packet, mtu, &mut tables.local.scratch, &mut |piece| {
        if !outbox.send(to, piece) {
            counters.drop(Reason::TxFull);
        }
    });
    if done { Verdict::Transmit(to) } else { Verdict::Drop(Reason::TooBig) }
}

#[inline(always)]
fn to_client(
    frame: &mut Frame<'_>,
    packet: &Packet,
    delivery: &Delivery,
    hop: LastHop,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let to = delivery.change.destination.map_or(packet.destination, |client| client.address);
    let (hop, mac, mtu) = match client::next_hop(to, hop, tables) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    if packet.ttl <= 1 {
        return expired(frame, packet, tables);
    }
    let fits = fits(packet, mtu);
    if fits == Fits::Not {
        return too_big(frame, packet, mtu, tables);
    }
    clamp(frame, packet, mtu, tables);
    nat::apply(frame, packet, &delivery.change, true);
    rewrite::link(frame, hop.mac, mac);
    let counters = tables.counters.real(delivery.real);
    counters.packets_out.add(1);
    counters.bytes_out.add(packet.ip_len() as u64);
    if fits == Fits::InPieces {
        return in_pieces(frame, packet, mtu, hop.device, outbox, tables);
    }
    Verdict::Transmit(hop.device)
}

/// Sends a packet of a connection about which nothing changes to its real, in a tunnel.
pub(super) fn by_tunnel(
    frame: &mut Frame<'_>,
    real: RealId,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let address = tables.published.way(real).map_or(Address::UNSPECIFIED, |way| way.address);
    match packet::parse(frame.bytes()) {
        Ok(packet) => through_tunnel(frame, &packet, real, address, outbox, tables),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Sends a packet to a real, by its number and address, in a tunnel.
fn through_tunnel(
    frame: &mut Frame<'_>,
    packet: &Packet,
    real: RealId,
    address: Address,
    outbox: &mut dyn Outbox,
    tables: &mut Tables<'_>,
) -> Verdict {
    let (hop, device) = match next_hop(real, tables) {
        Ok(found) => found,
        Err(reason) => return Verdict::Drop(reason),
    };
    if packet.ttl <= 1 {
        return expired(frame, packet, tables);
    }
    let mtu = hop.mtu.min(device.mtu);
    let mtu = tables.shared.paths.limit(real, mtu, tables.now);
    let tunnel = Tunnel { source: hop.source, destination: address, mtu };
    let sendable = tunnel.source.is_v4() == address.is_v4();
    if !sendable || tunnel.source == Address::UNSPECIFIED {
        return Verdict::Drop(Reason::NextHopUnresolved);
    }
    clamp(frame, packet, mtu.saturating_sub(tunnel.overhead()), tables);
    tables.local.identification = tables.local.identification.wrapping_add(1);
    let identification = tables.local.identification;
    let scratch = &mut *tables.local.scratch;
    match encapsulate(frame, packet, &tunnel, identification, scratch) {
        Ok(Encapsulated::Whole) => {}
        Ok(Encapsulated::Split { second }) => {
            let mut rest = Frame::new(scratch, 0, second, hop.device);
            rewrite::link(&mut rest, hop.mac, device.mac);
            if !outbox.send(hop.device, rest.bytes()) {
                tables.counters.drop(Reason::TxFull);
            }
        }
        Err(Reason::TooBig) => {
            return too_big(frame, packet, tunnel.inner_mtu(packet), tables);
        }
        Err(reason) => return Verdict::Drop(reason),
    }
    rewrite::link(frame, hop.mac, device.mac);
    count_in(packet, real, tables);
    Verdict::Transmit(hop.device)
}

/// The real's next hop and the interface it is reached through, both ready.
#[inline(always)]
pub(super) fn next_hop<'a>(
    real: RealId,
    tables: &Tables<'a>,
) -> Result<(&'a Hop, &'a DeviceInfo), Reason> {
    way_out(real, tables.published)
}

/// The same, of what is published.
#[inline(always)]
pub(super) fn way_out(real: RealId, published: &Published) -> Result<(&Hop, &DeviceInfo), Reason> {
    let hop = published.hop(real).ok_or(Reason::NextHopUnresolved)?;
    match hop.state {
        HopState::Resolved => {}
        HopState::DeviceDown => return Err(Reason::DeviceDown),
        HopState::Unresolved | HopState::NoRoute => return Err(Reason::NextHopUnresolved),
    }
    let device = published.device(hop.device).filter(|d| d.usable);
    Ok((hop, device.ok_or(Reason::DeviceDown)?))
}

#[inline(always)]
pub(super) fn count_in(packet: &Packet, real: RealId, tables: &Tables<'_>) {
    let counters = tables.counters.real(real);
    counters.packets_in.add(1);
    counters.bytes_in.add(packet.ip_len() as u64);
}

/// Lowers the MSS of a SYN to what fits `mtu` and the interface that it came in on.
#[inline(always)]
fn clamp(frame: &mut Frame<'_>, packet: &Packet, mtu: u16, tables: &Tables<'_>) {
    if packet.kind == Kind::Tcp && packet.tcp_flags.has(TcpFlags::SYN) {
        // The segments it asks for go the other way: out where it has come in.
        let back = tables.published.device(frame.device()).map_or(mtu, |device| device.mtu);
        let mtu = mtu.min(back);
        let headers = if packet.is_v4() { 40 } else { 60 };
        if mss::clamp(frame, packet, mtu.saturating_sub(headers)) {
            tables.event(Event::MssClamped);
        }
    }
}

#[cold]
fn expired(frame: &mut Frame<'_>, packet: &Packet, tables: &mut Tables<'_>) -> Verdict {
    complain(frame, packet, Reason::TtlExceeded, tables, icmp::time_exceeded)
}

#[cold]
pub(super) fn too_big(
    frame: &mut Frame<'_>,
    packet: &Packet,
    mtu: u16,
    tables: &mut Tables<'_>,
) -> Verdict {
    complain(frame, packet, Reason::TooBig, tables, |f, p, source| {
        p.dont_fragment && icmp::too_big(f, p, source, mtu)
    })
}

/// Turns the packet into an ICMP error to its sender, if the rate limit allows one.
fn complain(
    frame: &mut Frame<'_>,
    packet: &Packet,
    reason: Reason,
    tables: &mut Tables<'_>,
    build: impl FnOnce(&mut Frame<'_>, &Packet, Address) -> bool,
) -> Verdict {
    if !tables.local.may_send_icmp(tables.now) {
        tables.event(Event::IcmpRateLimited);
        return Verdict::Drop(reason);
    }
    let source = own_address(frame.device(), packet, tables);
    if !build(frame, packet, source) {
        tables.local.icmp_tokens += 1;
        return Verdict::Drop(reason);
    }
    tables.counters.drop(reason);
    tables.event(Event::IcmpSent);
    Verdict::Transmit(frame.device())
}

/// An address of the interface the packet came in on; that it was sent to, if there is none.
fn own_address(device: DeviceId, packet: &Packet, tables: &Tables<'_>) -> Address {
    let info = tables.published.device(device);
    let own = info.map(|d| if packet.is_v4() { d.v4 } else { d.v6 });
    own.filter(|a| *a != Address::UNSPECIFIED).unwrap_or(packet.destination)
}
