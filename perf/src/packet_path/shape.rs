//! How large a scene is, and the services, next hops and interfaces that make it so.

use std::sync::Arc;

use dataplane::address::{Address, DeviceId, Mac};
use dataplane::ids::Ids;
use dataplane::published::{DeviceInfo, Facts, Hop, HopState, Published};
use dataplane::service::ServiceTable;
use dataplane_api::service::{
    Engine, Forwarding, Listen, LocalPool, PortRange, Protocol, Real, ReplyPath, Scheduler,
    SchedulerFlags, Service, Snapshot, Timeouts, Weight,
};

use super::traffic::{Family, Role};

/// Reals of the service, unless a series changes their number.
const REALS: u32 = 16;
const VIP_PORT: u16 = 80;
pub(super) const REAL_PORT: u16 = 8080;
/// The interface towards the clients, and that towards the reals.
pub(super) const OUTSIDE: DeviceId = DeviceId(0);
pub(super) const INSIDE: DeviceId = DeviceId(1);
pub(super) const OUTSIDE_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(super) const INSIDE_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(super) const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 3]);
pub(super) const REAL_MAC: Mac = Mac([2, 0, 0, 0, 0, 4]);

/// How large a scene is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Forwarding method of all services.
    pub(crate) method: Forwarding,
    /// Address family.
    pub(crate) family: Family,
    /// Connections, in turn of each service.
    pub(crate) connections: u32,
    /// Services, each with a VIP of its own.
    pub(crate) services: u32,
    /// Reals of each service, its own.
    pub(crate) reals: u32,
}

impl Shape {
    /// One service with sixteen reals.
    pub(crate) const fn plain(method: Forwarding, family: Family, connections: u32) -> Self {
        Self { method, family, connections, services: 1, reals: REALS }
    }

    const fn all_reals(&self) -> u32 {
        self.services * self.reals
    }

    /// Whom a connection is made to.
    pub(super) fn vip(&self, connection: u32) -> (Address, u16) {
        (self.family.address(Role::Vip, connection % self.services), VIP_PORT)
    }
}

/// What control would have told.
pub(super) fn snapshot(shape: &Shape) -> Snapshot {
    let &Shape { method, family, .. } = shape;
    let locals = match method {
        Forwarding::Fullnat => shape.connections.div_ceil(62_500).max(1),
        Forwarding::Nat | Forwarding::Direct | Forwarding::Tunnel => 0,
    };
    let real = |number| Real {
        name: format!("real{number}"),
        address: family.address(Role::Real, number).into(),
        port: (!method.is_one_way()).then_some(REAL_PORT),
        weight: Weight::default(),
        upper_threshold: None,
        lower_threshold: None,
        down: false,
        templates: Default::default(),
    };
    let service = |number: u32| Service {
        name: format!("measured{number}"),
        protocol: Protocol::Tcp,
        listen: vec![Listen {
            address: family.address(Role::Vip, number).into(),
            ports: PortRange { first: VIP_PORT, last: VIP_PORT },
        }],
        forwarding: method,
        scheduler: Scheduler::Rr,
        scheduler_flags: SchedulerFlags::default(),
        persistence: None,
        timeouts: None,
        dead: Default::default(),
        sorry: false,
        fallback: Vec::new(),
        reals: (number * shape.reals..(number + 1) * shape.reals).map(real).collect(),
    };
    Snapshot {
        engine: Engine::default(),
        interfaces: Vec::new(),
        timeouts: Timeouts::default(),
        local: LocalPool {
            addresses: (0..locals).map(|n| family.address(Role::Local, n).into()).collect(),
            ..LocalPool::default()
        },
        reply: ReplyPath::default(),
        services: (0..shape.services).map(service).collect(),
        groups: Vec::new(),
    }
}

/// What the steward would have published.
pub(super) fn published(
    snapshot: &Snapshot,
    ids: &Ids,
    shape: &Shape,
) -> anyhow::Result<Published> {
    let services = ServiceTable::compile(snapshot, ids, None).map_err(anyhow::Error::msg)?;
    let device = |mac| DeviceInfo { mac, mtu: 1500, usable: true, ..DeviceInfo::default() };
    let hop = Hop {
        device: INSIDE,
        mac: REAL_MAC,
        source: shape.family.address(Role::Own, 0),
        mtu: 1500,
        state: HopState::Resolved,
    };
    Ok(Published::new(Facts {
        services: Arc::new(services),
        hops: vec![hop; shape.all_reals() as usize].into(),
        devices: vec![device(OUTSIDE_MAC), device(INSIDE_MAC)].into(),
        replies: None,
        endings: Arc::default(),
    }))
}
