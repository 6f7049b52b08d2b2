//! What the steward publishes and the workers forward by: services, next hops, devices.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use dataplane_api::service::Forwarding;

use crate::address::{Address, DeviceId, Mac, RealId};
use crate::conn::{Conn, State};
use crate::ending::Endings;
use crate::routes::RouteTable;
use crate::service::{Fate, RealRecord, ServiceTable};

/// An interface as the packet path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Attached, up and with carrier.
    pub usable: bool,
    /// An IPv4 address of its own, for ICMP errors; unspecified if it has none.
    pub v4: Address,
    /// An IPv6 address of its own.
    pub v6: Address,
}

impl Default for DeviceInfo {
    fn default() -> Self {
        Self {
            mac: Mac::default(),
            mtu: 0,
            usable: false,
            v4: Address::UNSPECIFIED,
            v6: Address::UNSPECIFIED,
        }
    }
}

/// A network that an interface is on, by an address that the kernel has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// The interface.
    pub device: DeviceId,
    /// First address of the network.
    pub network: Address,
    /// Length of its prefix: up to 32, or 128 for IPv6.
    pub length: u8,
}

impl Segment {
    /// Whether the address is on it.
    #[must_use]
    pub fn contains(&self, address: Address) -> bool {
        address.is_v4() == self.network.is_v4()
            && address.masked(self.length, self.length) == self.network
    }
}

/// Where packets for a real go, as the packet path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface to send on; meaningful unless the state is [`HopState::NoRoute`].
    pub device: DeviceId,
    /// Destination MAC address; zero unless the state is [`HopState::Resolved`].
    pub mac: Mac,
    /// Source address of tunnel packets; `::` if there is none.
    pub source: Address,
    /// Largest IP packet, in bytes; 0 if there is no route.
    pub mtu: u16,
    /// Whether packets can be sent.
    pub state: HopState,
}

/// Whether packets can be sent to a real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopState {
    /// Yes.
    Resolved,
    /// The neighbour's MAC address is not known (yet).
    Unresolved,
    /// No route, or none that leaves by an interface of ours.
    NoRoute,
    /// The interface is down or has no carrier.
    DeviceDown,
}

impl Default for Hop {
    fn default() -> Self {
        Self {
            device: DeviceId::default(),
            mac: Mac::default(),
            source: Address::UNSPECIFIED,
            mtu: 0,
            state: HopState::NoRoute,
        }
    }
}

/// What the steward knows, and the packet path has to.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The services.
    pub services: Arc<ServiceTable>,
    /// Next hop of each real, by its number.
    pub hops: Arc<[Hop]>,
    /// Interfaces, by slot.
    pub devices: Arc<[DeviceInfo]>,
    /// Way of replies to clients; none: back to each client's last hop.
    pub replies: Option<Arc<RouteTable>>,
    /// Connections that are to end.
    pub endings: Arc<Endings>,
}

impl Facts {
    /// Next hop of a real.
    #[inline(always)]
    #[must_use]
    pub fn hop(&self, real: RealId) -> Option<&Hop> {
        self.hops.get(real.index())
    }

    /// What is to become of a connection.
    #[must_use]
    pub fn fate(&self, conn: &Conn) -> Fate {
        let real = conn.identity.real;
        // No order: nearly always.
        if !self.endings.is_empty()
            && let Some(ending) = self.endings.get(&real).filter(|e| e.concerns(conn))
        {
            return ending.fate(conn);
        }
        self.services.real(real).map_or(Fate::Keep, |record| record.fate)
    }

    /// An interface.
    #[inline(always)]
    #[must_use]
    pub fn device(&self, device: DeviceId) -> Option<&DeviceInfo> {
        self.devices.get(device.index())
    }
}

/// All that most packets to or from a real need of service, real, next hop and interface: gathered
/// from four tables into one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Way {
    /// The real's address.
    pub address: Address,
    /// How packets get there.
    pub forwarding: Forwarding,
    /// The interface to send on.
    pub device: DeviceId,
    /// Largest IP packet, in bytes; 0 if none can be sent now, whatever the reason.
    pub mtu: u16,
    /// MAC addresses of the next hop and of ours, as a frame begins.
    pub link: [u8; 12],
    /// [`Service::slack`](crate::service::Service::slack) of an established connection of TCP.
    pub tcp_slack: u32,
    /// The same of UDP.
    pub udp_slack: u32,
}

/// A slack of which no connection is within, however short it has been idle: keeps the packets of a real off the
/// express lane.
const NEVER: u32 = i32::MIN as u32;

impl Way {
    fn of(id: RealId, real: &RealRecord, facts: &Facts) -> Option<Self> {
        let service = facts.services.service(real.service)?;
        let hop = facts.hop(id).copied().unwrap_or_default();
        let device = facts.device(hop.device).filter(|d| d.usable).copied().unwrap_or_default();
        let mtu = if hop.state == HopState::Resolved { hop.mtu.min(device.mtu) } else { 0 };
        let mut link = [0; 12];
        link[..6].copy_from_slice(&hop.mac.0);
        link[6..].copy_from_slice(&device.mac.0);
        // Packets of connections that are to end are looked at one by one.
        let express = real.fate == Fate::Keep && !facts.endings.contains_key(&id);
        let slack = |state| if express { service.slack(state) } else { NEVER };
        Some(Self {
            address: real.address,
            forwarding: real.forwarding,
            device: hop.device,
            mtu,
            link,
            tcp_slack: slack(State::Established),
            udp_slack: slack(State::Udp),
        })
    }
}

/// Everything a burst is forwarded by. Immutable; replaced whole.
#[derive(Clone, Debug)]
pub struct Published {
    facts: Facts,
    ways: Arc<[Option<Way>]>,
}

impl Published {
    /// Gathers what the packet path needs together.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        let mut ways = Vec::new();
        for (id, real) in facts.services.reals() {
            ways.resize(ways.len().max(id.index() + 1), None);
            ways[id.index()] = Way::of(id, real, &facts);
        }
        Self { facts, ways: ways.into() }
    }

    /// What most packets of a real need.
    #[inline(always)]
    #[must_use]
    pub fn way(&self, real: RealId) -> Option<&Way> {
        self.ways.get(real.index())?.as_ref()
    }
}

impl Deref for Published {
    type Target = Facts;

    #[inline(always)]
    fn deref(&self) -> &Facts {
        &self.facts
    }
}

/// The one cell for that truth. A worker compares the version once a burst and takes the lock only
/// when it moved; the old value dies when the last worker lets go.
#[derive(Debug)]
pub struct Cell {
    version: AtomicU64,
    value: Mutex<Arc<Published>>,
}

impl Cell {
    /// A cell with its first value.
    #[must_use]
    pub fn new(value: Published) -> Self {
        Self { version: AtomicU64::new(1), value: Mutex::new(Arc::new(value)) }
    }

    /// Number of the value now in the cell.
    #[inline(always)]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> Arc<Published> {
        Arc::clone(&self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Replaces the value.
    pub fn set(&self, value: Published) {
        *self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(value);
        self.version.fetch_add(1, Release);
    }
}
