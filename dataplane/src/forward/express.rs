//! The express lane: packets that change nothing about their connection, nearly all there are.
//!
//! Three stages, as for everything; but no more of a packet, its connection and its real is read,
//! compared and kept than such a packet needs. The lane only ever says "yes": whatever is unusual
//! leaves it untouched and uncounted, and takes the long way of the module above, which knows every
//! case, those of this lane included. A property test holds the two to the same answers
//! (`tests/packets/express.rs`).

use dataplane_api::service::Forwarding;

use super::{Tables, client};
use crate::address::{Address, DeviceId, Mac, RealId};
use crate::clock::Tick;
use crate::conn::{Asked, Finder, Glimpse, Hash, Key, LastHop, Ports, Probe, State};
use crate::counters::Counters;
use crate::frame::Frame;
use crate::published::{Published, Way};
use crate::rewrite::nat::{self, Change, Endpoint};
use crate::routes::RouteTable;
use crate::service::Class;
use crate::wire::glance::{self, Head, V4_HEAD, V6_HEAD};
use crate::wire::packet::{self, TcpFlags};

/// A packet between the stages: one cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    key: Key,
    hash: Hash,
    probe: Probe,
    ip_len: u16,
    tcp_flags: TcpFlags,
    v4: bool,
    /// None: not for this lane.
    asked: Option<Asked>,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// What the lane needs of a burst's tables: copied, so that it stays in registers.
#[derive(Clone, Copy)]
pub(super) struct Lane<'a> {
    conns: Finder<'a>,
    ports: &'a Ports,
    published: &'a Published,
    counters: &'a Counters,
    now: Tick,
    /// The interface that the burst came in on.
    device: DeviceId,
    /// The first [`ADDRESSED`] bits of its frames.
    mac: u64,
}

/// Of the first eight bytes of a frame: its destination, and whether its source is a group, which
/// sends nothing.
const ADDRESSED: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0]);

/// What is there in a frame for `mac` from anybody who may send.
fn addressed(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

impl<'a> Lane<'a> {
    /// For a burst of which this is a frame. None if its interface is not known.
    pub(super) fn new(frame: &Frame<'_>, tables: &Tables<'a>) -> Option<Self> {
        let device = frame.device();
        Some(Self {
            conns: tables.shared.conns.finder(),
            ports: &tables.shared.ports,
            published: tables.published,
            counters: tables.counters,
            now: tables.now.tick(),
            device,
            mac: addressed(tables.published.device(device)?.mac),
        })
    }

    /// First stage: what is this packet, and where in the table is its connection?
    #[inline(always)]
    pub(super) fn look(self, frame: &Frame<'_>, slot: &mut Slot) {
        slot.asked = None;
        let bytes = frame.bytes();
        let Some(head) = bytes.first_chunk::<V4_HEAD>() else { return };
        let to = u64::from_ne_bytes(packet::load(head, 0)) & ADDRESSED;
        if frame.device() != self.device || to != self.mac {
            return;
        }
        // Two lines in place of one, so that neither carries what the other family needs.
        let kind = packet::u32_at(head, 12);
        if kind >> 8 == 0x08_00_45 {
            if let Some(head) = glance::glance_v4(bytes.len(), head) {
                slot.v4 = true;
                self.ask(head, slot);
            }
        } else if kind >> 16 == 0x86_dd
            && let Some(head) = bytes.first_chunk::<V6_HEAD>()
            && let Some(head) = glance::glance_v6(bytes.len(), head)
        {
            slot.v4 = false;
            self.ask(head, slot);
        }
    }

    /// Asks for the bucket, or for the local port.
    #[inline(always)]
    fn ask(self, head: Head, slot: &mut Slot) {
        let Head { source, destination, ports, ip_len, protocol, tcp_flags } = head;
        let asked = match self.published.services.classify(destination) {
            Class::Vip(vip) => {
                slot.key = Key::request(source, ports, vip, protocol);
                slot.hash = self.conns.hash(source, (ports >> 16) as u16, protocol);
                self.conns.prefetch(slot.hash);
                Asked::Request
            }
            Class::Other => {
                slot.key = Key::reply(destination, ports, protocol);
                slot.hash = self.conns.hash(destination, ports as u16, protocol);
                self.conns.prefetch(slot.hash);
                Asked::Reply
            }
            Class::Local(local) => {
                slot.key = Key::local_reply(local, ports, protocol);
                self.ports.prefetch(protocol, local, ports as u16);
                Asked::LocalReply
            }
        };
        slot.asked = Some(asked);
        slot.ip_len = ip_len;
        slot.tcp_flags = tcp_flags;
    }

    /// Second stage: asks for the entries. A connection in its second bucket costs one more wait, so
    /// all of those are waited for together.
    #[inline(always)]
    pub(super) fn probe(self, slots: &mut [Slot]) {
        let mut elsewhere = 0_u64;
        for (i, slot) in slots.iter_mut().enumerate() {
            match slot.asked {
                Some(Asked::Request | Asked::Reply) => {
                    slot.probe = self.conns.prefetch_entry(slot.hash);
                    elsewhere |= u64::from(slot.probe.is_elsewhere()) << (i % 64);
                }
                Some(Asked::LocalReply) => {
                    let (protocol, local, port) = slot.key.local();
                    let entry = self.ports.lookup(protocol, local, port);
                    slot.probe = entry.map(|e| self.conns.prefetch_index(e)).unwrap_or_default();
                }
                None => {}
            }
        }
        while elsewhere != 0 {
            if let Some(slot) = slots.get_mut(elsewhere.trailing_zeros() as usize) {
                slot.probe = self.conns.prefetch_elsewhere(slot.hash);
            }
            elsewhere &= elsewhere - 1;
        }
    }

    /// Last stage: finds the connection, rewrites the packet and says where it goes. None, and
    /// nothing done, if it has to take the long way.
    #[inline(always)]
    pub(super) fn forward(
        self,
        frame: &mut Frame<'_>,
        slot: &Slot,
        tables: &Tables<'_>,
    ) -> Option<DeviceId> {
        let asked = slot.asked?;
        let bytes = frame.bytes_mut();
        if slot.v4 {
            self.send::<[u8; V4_HEAD]>(bytes.first_chunk_mut()?, asked, slot, tables)
        } else {
            self.send::<[u8; V6_HEAD]>(bytes.first_chunk_mut()?, asked, slot, tables)
        }
    }

    #[inline(always)]
    fn send<H: Headers>(
        self,
        head: &mut H,
        asked: Asked,
        slot: &Slot,
        tables: &Tables<'_>,
    ) -> Option<DeviceId> {
        match asked {
            Asked::Request => self.request(head, slot),
            Asked::Reply => self.reply(head, slot, Asked::Reply, tables),
            Asked::LocalReply => self.reply(head, slot, Asked::LocalReply, tables),
        }
    }

    #[inline(always)]
    fn request<H: Headers>(self, head: &mut H, slot: &Slot) -> Option<DeviceId> {
        let (seen, way) = self.unchanged(slot, Asked::Request)?;
        let hop = head.sender() << 8 | u64::from(self.device.0);
        if seen.last_hop() != hop || slot.ip_len > way.mtu {
            return None;
        }
        let real = Endpoint { address: way.address, port: seen.real_port() };
        if way.forwarding == Forwarding::Nat {
            head.translate(&Change { source: None, destination: Some(real) })?;
        } else if way.forwarding == Forwarding::Fullnat {
            let (local, port) = seen.local()?;
            let local = Endpoint { address: self.published.services.local(local)?, port };
            head.translate(&Change { source: Some(local), destination: Some(real) })?;
        } else if way.forwarding == Forwarding::Tunnel {
            return None;
        }
        head.link(&way.link);
        let counters = self.counters.real(seen.real());
        counters.packets_in.add(1);
        counters.bytes_in.add(u64::from(slot.ip_len));
        Some(way.device)
    }

    /// The real that a packet which [`Self::forward`] did not take is to be sent to by tunnel, if
    /// nothing about its connection changes.
    pub(super) fn tunnel(self, frame: &Frame<'_>, slot: &Slot) -> Option<RealId> {
        if slot.asked != Some(Asked::Request) {
            return None;
        }
        let (seen, way) = self.unchanged(slot, Asked::Request)?;
        let head: &[u8; V4_HEAD] = frame.bytes().first_chunk()?;
        let same = seen.last_hop() == head.sender() << 8 | u64::from(self.device.0);
        (way.forwarding == Forwarding::Tunnel && same).then_some(seen.real())
    }

    #[inline(always)]
    fn reply<H: Headers>(
        self,
        head: &mut H,
        slot: &Slot,
        asked: Asked,
        tables: &Tables<'_>,
    ) -> Option<DeviceId> {
        let (seen, way) = self.unchanged(slot, asked)?;
        let through_us = asked != Asked::Reply || way.forwarding == Forwarding::Nat;
        if head.source() != way.address || !through_us {
            return None;
        }
        let client = Endpoint { address: seen.client(), port: seen.client_port() };
        let (hop, mtu) = match &self.published.replies {
            None => (seen.last_hop(), u16::MAX),
            Some(routes) => by_route(routes, client.address, seen.last_hop(), tables)?,
        };
        let to = DeviceId(hop as u8);
        let device = self.published.device(to).filter(|d| d.usable)?;
        if slot.ip_len > device.mtu || slot.ip_len > mtu {
            return None;
        }
        let vip = self.published.services.vip(seen.vip())?;
        let source = Some(Endpoint { address: vip, port: seen.vip_port() });
        let destination = if asked == Asked::Reply { None } else { Some(client) };
        head.translate(&Change { source, destination })?;
        head.link(&link(hop, device.mac));
        let counters = self.counters.real(seen.real());
        counters.packets_out.add(1);
        counters.bytes_out.add(u64::from(slot.ip_len));
        Some(to)
    }

    /// The packet's connection and its real, if nothing about the connection changes: neither its
    /// state, nor has its time to be written.
    #[inline(always)]
    fn unchanged(self, slot: &Slot, asked: Asked) -> Option<(Glimpse, &'a Way)> {
        let seen = self.conns.glimpse(slot.probe, asked, &slot.key)?;
        let way = self.published.way(seen.real())?;
        let slack = match seen.state()? {
            State::Established if slot.tcp_flags.is_plain_ack() => way.tcp_slack,
            State::Udp => way.udp_slack,
            _ => return None,
        };
        (seen.idle(self.now) <= slack as i32).then_some((seen, way))
    }
}

/// [`client::by_route`] with numbers.
#[inline(never)]
fn by_route(
    routes: &RouteTable,
    client: Address,
    last: u64,
    tables: &Tables<'_>,
) -> Option<(u64, u16)> {
    let (hop, mtu) = client::by_route(routes, client, LastHop::of(last), tables).ok()?;
    Some((hop.number(), mtu))
}

/// How a frame begins, on its way to a last hop.
#[inline(always)]
fn link(hop: u64, source: Mac) -> [u8; 12] {
    let mut link = [0; 12];
    link[..8].copy_from_slice(&(hop << 8).to_be_bytes());
    link[6..].copy_from_slice(&source.0);
    link
}

/// The headers of a packet that [`glance`] accepted, of one family or the other.
trait Headers {
    /// Who sent the packet.
    fn source(&self) -> Address;
    /// Who sent the frame: its MAC address as a number.
    fn sender(&self) -> u64;
    /// Takes one off the TTL, and writes addresses and ports; None if the packet has come too far.
    fn translate(&mut self, change: &Change) -> Option<()>;
    /// Writes destination and source of the frame.
    fn link(&mut self, link: &[u8; 12]);
}

macro_rules! headers {
    ($len:ident, $read:path) => {
        impl Headers for [u8; $len] {
            #[inline(always)]
            fn source(&self) -> Address {
                $read(self).source
            }

            #[inline(always)]
            fn sender(&self) -> u64 {
                u64::from_be_bytes(packet::load(self, 6)) >> 16
            }

            #[inline(always)]
            fn translate(&mut self, change: &Change) -> Option<()> {
                let packet = $read(self);
                (packet.ttl > 1).then(|| nat::translate(self, &packet, change, true))
            }

            #[inline(always)]
            fn link(&mut self, link: &[u8; 12]) {
                self[..12].copy_from_slice(link);
            }
        }
    };
}

headers!(V4_HEAD, packet::plain_v4);
headers!(V6_HEAD, packet::plain_v6);
