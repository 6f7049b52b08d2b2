//! The services in force: a snapshot compiled for the packet path.
//!
//! Immutable. The steward compiles it, workers read it; a change is a new table.

mod addresses;
mod groups;

use std::net::IpAddr;
use std::sync::Arc;

use dataplane_api::service::{
    Dead, Forwarding, Listen, Persistence, PortRange, Protocol, Real, ReplyPath, Snapshot,
    Templates, Timeouts, Weight,
};

use crate::address::{Address, RealId, ServiceId, VipId};
use crate::clock::Tick;
use crate::conn::State;
use crate::ids::{Ids, RealIdentity};
use crate::lease::Fresh;
use crate::limits;
use crate::sched::load::Loads;
use crate::sched::{self, Built, Target};
use addresses::AddressMap;
use groups::Groups;

/// What an address is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Class {
    /// A VIP.
    Vip(VipId),
    /// A local address of full NAT, by its index.
    Local(u8),
    /// Neither.
    Other,
}

/// A service.
#[derive(Debug)]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Forwarding method.
    pub forwarding: Forwarding,
    /// What it listens on.
    pub listen: Vec<Listen>,
    /// Scheduler, by name.
    pub scheduler: dataplane_api::service::Scheduler,
    /// Persistence, if any.
    pub persistence: Option<Persistence>,
    /// The reals it chooses from; those that are down have weight 0.
    pub targets: Box<[Target]>,
    /// The reals it chooses from while none of those takes a new connection.
    pub fallback: Box<[Target]>,
    /// Whether the kernel gets new connections while none of these does either.
    pub sorry: bool,
    /// Reals of weight 0 to which clients with a template still come back.
    honoured: Box<[RealId]>,
    built: Built,
    built_fallback: Built,
    shared: Arc<sched::Shared>,
    /// Of the fallbacks: a position that both moved would skip some of them.
    shared_fallback: Arc<sched::Shared>,
    /// In ticks, by the state's number.
    timeouts: [u32; STATES],
}

/// More than the largest number of a state.
const STATES: usize = 16;

impl Service {
    /// Chooses a real for a new connection.
    #[must_use]
    pub fn pick(&self, request: &sched::Request, loads: &Loads) -> Option<&Target> {
        self.pick_with(request, loads, [&self.shared, &self.shared_fallback])
    }

    /// The same, and what the choice moves is `shared`.
    fn pick_with(
        &self,
        request: &sched::Request,
        loads: &Loads,
        [shared, shared_fallback]: [&sched::Shared; 2],
    ) -> Option<&Target> {
        match self.built.pick(request, &self.targets, loads, shared) {
            Some(index) => self.targets.get(index),
            None if self.fallback.is_empty() => None,
            None => {
                let fallback = &self.fallback;
                let index = self.built_fallback.pick(request, fallback, loads, shared_fallback)?;
                fallback.get(index)
            }
        }
    }

    /// What [`Self::pick`] would choose; nothing moves. For the curious, not for workers: it copies
    /// the loads of all reals and what the scheduler remembers.
    #[must_use]
    pub fn would_pick(&self, request: &sched::Request, loads: &Loads) -> Option<&Target> {
        let shared = [self.shared.copy(), self.shared_fallback.copy()];
        self.pick_with(request, &loads.copy(), shared.each_ref())
    }

    /// Whether some real or fallback takes new connections, thresholds aside.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.targets.iter().chain(&self.fallback).any(|t| t.weight.get() > 0)
    }

    /// Whether a real or fallback other than `real` takes a new connection now.
    #[must_use]
    pub fn has_other(&self, real: RealId, loads: &Loads) -> bool {
        let mut all = self.targets.iter().chain(&self.fallback);
        all.any(|t| t.real != real && t.takes_new(loads))
    }

    /// Whether this is one of its fallbacks.
    #[must_use]
    pub fn is_fallback(&self, real: RealId) -> bool {
        self.fallback.iter().any(|t| t.real == real)
    }

    /// Whether clients can be tied to a target: it takes new connections by weight, or by template
    /// alone.
    #[must_use]
    pub fn ties_to(&self, target: &Target) -> bool {
        target.weight.get() > 0 || self.honoured.contains(&target.real)
    }

    /// Ticks without a packet after which a connection in `state` has ended.
    #[inline]
    #[must_use]
    pub fn timeout(&self, state: State) -> u32 {
        self.timeouts[state as usize % STATES]
    }

    /// Ticks by which the time of a connection in `state` may lag behind: a 64th of its timeout, and
    /// of that of its client's template. Written for each packet, it would dirty a cache line each.
    #[must_use]
    pub fn slack(&self, state: State) -> u32 {
        let template = self.persistence.map_or(u32::MAX, |_| self.timeout(State::Template));
        self.timeout(state).min(template) / 64
    }
}

/// A real as the packet path needs it.
#[derive(Clone, Debug)]
pub struct RealRecord {
    /// Its address.
    pub address: Address,
    /// Its service.
    pub service: ServiceId,
    /// Port packets go to; 0 keeps the client's.
    pub port: u16,
    /// How they get there.
    pub forwarding: Forwarding,
    /// Weight in force; that of a removed real is [`Weight::DRAINED`].
    pub weight: Weight,
    /// In the snapshot, or kept only for the connections it still has.
    pub configured: bool,
    /// Found dead.
    pub down: bool,
    /// What is to become of its connections.
    pub fate: Fate,
    /// Name for people.
    pub name: String,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fate {
    /// It goes on.
    #[default]
    Keep,
    /// TCP: both sides get an RST.
    Reset,
    /// It is forgotten.
    Drop,
    /// UDP: the client's next packet goes to another real, if one takes it.
    Move,
}

impl Fate {
    /// Of connections of a real that is down.
    #[must_use]
    pub const fn of_dead(dead: Dead, protocol: Protocol) -> Self {
        match (dead, protocol) {
            (Dead::Keep, _) => Self::Keep,
            (Dead::Reset | Dead::Move, Protocol::Tcp) => Self::Reset,
            (Dead::Reset | Dead::Move, Protocol::Udp) => Self::Move,
        }
    }
}

impl RealRecord {
    /// Whether packets from `address` can be its replies to clients, passing through us: only `nat`
    /// has such.
    #[inline(always)]
    #[must_use]
    pub fn answers_from(&self, address: Address) -> bool {
        self.address == address && self.forwarding == Forwarding::Nat
    }
}

/// One listening address with its ports, in order of search.
#[derive(Debug, Default)]
struct Vip {
    address: Address,
    listeners: Vec<(Protocol, PortRange, ServiceId)>,
}

/// The services in force.
#[derive(Debug)]
pub struct ServiceTable {
    addresses: AddressMap,
    groups: Groups,
    vips: Vec<Vip>,
    services: Vec<Option<Arc<Service>>>,
    reals: Vec<Option<RealRecord>>,
    locals: Vec<Address>,
    locals_v4: Box<[u8]>,
    locals_v6: Box<[u8]>,
    /// Ports of the local addresses.
    pub local_ports: PortRange,
    /// Where replies to clients go.
    pub reply: ReplyPath,
    /// Of `groups`.
    mask: Fresh,
}

impl ServiceTable {
    /// Compiles a snapshot. `ids` has a number for everything in it (see [`Ids::assign`]);
    /// `previous` lends its running schedulers' positions and names its removed reals.
    ///
    /// # Errors
    /// What is wrong with the snapshot: an address that no host can have, a VIP that is a local
    /// address too, or a real of another family than its service where the method cannot change it.
    /// Or that `ids` lacks a number, a defect of the caller.
    pub fn compile(
        snapshot: &Snapshot,
        ids: &Ids,
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        check(snapshot)?;
        let mut table = Self {
            addresses: AddressMap::default(),
            groups: Groups::compile(snapshot, ids, previous.map(|p| &p.groups)),
            vips: Vec::new(),
            services: Vec::new(),
            reals: Vec::new(),
            locals: Vec::new(),
            locals_v4: Box::default(),
            locals_v6: Box::default(),
            local_ports: snapshot.local.ports,
            reply: snapshot.reply,
            mask: Fresh::NONE,
        };
        table.mask = table.groups.mask();
        for (id, address) in ids.vips() {
            *slot(&mut table.vips, id.index()) =
                Vip { address: address.into(), listeners: Vec::new() };
        }
        table.compile_locals(snapshot, ids);
        table.compile_removed(ids, previous);
        for service in &snapshot.services {
            table.compile_service(snapshot, service, ids, previous)?;
        }
        table.move_removed();
        let vips: Vec<_> = snapshot.services.iter().flat_map(|s| &s.listen).collect();
        let mut classes = Vec::new();
        for listen in vips {
            let vip = ids.vip(listen.address).ok_or("a VIP has no number")?;
            classes.push((listen.address.into(), Class::Vip(vip)));
        }
        for address in &snapshot.local.addresses {
            let local = ids.local(*address).ok_or("a local address has no number")?;
            classes.push(((*address).into(), Class::Local(local)));
        }
        table.addresses = AddressMap::new(&classes);
        Ok(table)
    }

    fn compile_locals(&mut self, snapshot: &Snapshot, ids: &Ids) {
        for (index, address) in ids.locals() {
            *slot(&mut self.locals, usize::from(index)) = address.into();
        }
        let of_family = |v4: bool| {
            let addresses = snapshot.local.addresses.iter().filter(|a| a.is_ipv4() == v4);
            addresses.filter_map(|a| ids.local(*a)).collect::<Box<[u8]>>()
        };
        self.locals_v4 = of_family(true);
        self.locals_v6 = of_family(false);
    }

    /// Reals that are in no service any more live on for their connections.
    fn compile_removed(&mut self, ids: &Ids, previous: Option<&Self>) {
        for (id, identity) in ids.reals() {
            let before = previous.and_then(|p| p.real(id));
            *slot(&mut self.reals, id.index()) = Some(RealRecord {
                address: identity.address.into(),
                service: ServiceId(identity.service),
                port: identity.port.unwrap_or(0),
                forwarding: identity.forwarding,
                weight: Weight::DRAINED,
                configured: false,
                down: false,
                fate: Fate::Keep,
                name: before.map_or_else(|| identity.address.to_string(), |r| r.name.clone()),
            });
        }
        for service in previous.into_iter().flat_map(|p| p.services.iter().flatten()) {
            if ids.service(&service.name) == Some(service.id) {
                *slot(&mut self.services, service.id.index()) = Some(Arc::clone(service));
            }
        }
    }

    /// Nobody misses a connection of UDP, and to go on sending to a server that was taken away helps
    /// nobody.
    fn move_removed(&mut self) {
        for real in self.reals.iter_mut().flatten().filter(|r| !r.configured) {
            let service = self.services.get(real.service.index()).and_then(Option::as_ref);
            if service.is_some_and(|s| s.protocol == Protocol::Udp) {
                real.fate = Fate::Move;
            }
        }
    }

    fn compile_service(
        &mut self,
        snapshot: &Snapshot,
        service: &dataplane_api::service::Service,
        ids: &Ids,
        previous: Option<&Self>,
    ) -> Result<(), String> {
        let id = ids.service(&service.name).ok_or("a service has no number")?;
        let mut targets = Vec::with_capacity(service.reals.len());
        for real in service.all_reals() {
            let identity = RealIdentity::of(id, service.forwarding, real);
            let real_id = ids.real(&identity).ok_or("a real server has no number")?;
            *slot(&mut self.reals, real_id.index()) = Some(RealRecord {
                address: real.address.into(),
                service: id,
                port: real.port.unwrap_or(0),
                forwarding: service.forwarding,
                weight: real.weight,
                configured: true,
                down: real.down,
                fate: match real.down {
                    true => Fate::of_dead(service.dead, service.protocol),
                    false => Fate::Keep,
                },
                name: real.name.clone(),
            });
            targets.push(target(real, real_id));
        }
        let honours = |(real, target): (&Real, &Target)| {
            let tied = !real.down && real.weight.get() == 0;
            (tied && real.templates == Templates::Honour).then_some(target.real)
        };
        let honoured = service.reals.iter().zip(&targets).filter_map(honours).collect();
        let fallback = targets.split_off(service.reals.len());
        for listen in &service.listen {
            let vip = ids.vip(listen.address).ok_or("a VIP has no number")?;
            slot(&mut self.vips, vip.index()).listeners.push((service.protocol, listen.ports, id));
        }
        let running = previous.and_then(|p| p.service(id));
        let shared = running.map(|s| Arc::clone(&s.shared)).unwrap_or_default();
        let shared_fallback = running.map(|s| Arc::clone(&s.shared_fallback)).unwrap_or_default();
        *slot(&mut self.services, id.index()) = Some(Arc::new(Service {
            id,
            name: service.name.clone(),
            protocol: service.protocol,
            forwarding: service.forwarding,
            listen: service.listen.clone(),
            scheduler: service.scheduler,
            persistence: service.persistence,
            built: Built::build(service.scheduler, service.scheduler_flags, &targets),
            built_fallback: Built::build(service.scheduler, service.scheduler_flags, &fallback),
            targets: targets.into(),
            fallback: fallback.into(),
            sorry: service.sorry,
            honoured,
            shared,
            shared_fallback,
            timeouts: ticks(
                &service.timeouts.unwrap_or(snapshot.timeouts),
                service.persistence.map_or(1, |p| p.timeout),
            ),
        }));
        Ok(())
    }

    /// What `address` is to us.
    #[inline(always)]
    #[must_use]
    pub fn classify(&self, address: Address) -> Class {
        self.addresses.get(address)
    }

    /// The service that listens on a VIP's port.
    #[must_use]
    pub fn find(&self, vip: VipId, protocol: u8, port: u16) -> Option<&Service> {
        let listeners = &self.vips.get(vip.index())?.listeners;
        let (_, _, id) = listeners
            .iter()
            .find(|(p, ports, _)| p.number() == protocol && ports.contains(port))?;
        self.service(*id)
    }

    /// A service by its number.
    #[inline]
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index())?.as_deref()
    }

    /// A real by its number.
    #[inline]
    #[must_use]
    pub fn real(&self, id: RealId) -> Option<&RealRecord> {
        self.reals.get(id.index())?.as_ref()
    }

    /// Address of a VIP by its number.
    #[inline]
    #[must_use]
    pub fn vip(&self, id: VipId) -> Option<Address> {
        self.vips.get(id.index()).map(|v| v.address)
    }

    /// A local address by its index.
    #[inline]
    #[must_use]
    pub fn local(&self, index: u8) -> Option<Address> {
        self.locals.get(usize::from(index)).copied()
    }

    /// Indices of the local addresses of a family.
    #[must_use]
    pub fn locals(&self, v4: bool) -> &[u8] {
        if v4 { &self.locals_v4 } else { &self.locals_v6 }
    }

    /// Every real, removed ones included.
    pub fn reals(&self) -> impl Iterator<Item = (RealId, &RealRecord)> {
        let numbered = self.reals.iter().enumerate();
        numbered.filter_map(|(i, r)| Some((RealId(u16::try_from(i).ok()?), r.as_ref()?)))
    }

    /// Every service, removed ones with live connections included.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten().map(|s| &**s)
    }
}

/// What the packet path relies on. Control has checked it, and says it better; but the snapshot comes
/// through a socket.
fn check(snapshot: &Snapshot) -> Result<(), String> {
    let local = &snapshot.local.addresses;
    for service in &snapshot.services {
        let vips = || service.listen.iter().map(|l| l.address);
        let reals = || service.reals.iter().map(|r| r.address);
        let error = |address: IpAddr, what| format!("service {}: {address} {what}", service.name);
        if let Some(odd) =
            vips().chain(reals()).chain(local.iter().copied()).find(|a| !is_unicast(*a))
        {
            return Err(error(odd, "is not the address of a host"));
        }
        if let Some(twice) = vips().find(|vip| local.contains(vip)) {
            return Err(error(twice, "is a VIP and a local address"));
        }
        let v4 = vips().next().is_some_and(|vip| vip.is_ipv4());
        let tunnel = service.forwarding == Forwarding::Tunnel;
        let other = vips().chain(reals().filter(|_| !tunnel)).find(|a| a.is_ipv4() != v4);
        if let Some(other) = other {
            return Err(error(other, "is of another address family than the service"));
        }
    }
    Ok(())
}

fn ticks(timeouts: &Timeouts, template: u32) -> [u32; STATES] {
    let mut ticks = [0; STATES];
    for state in State::ALL {
        ticks[state as usize % STATES] = Tick::in_seconds(state.timeout(timeouts, template));
    }
    ticks
}

fn target(real: &Real, id: RealId) -> Target {
    Target {
        real: id,
        address: real.address.into(),
        port: real.port.unwrap_or(0),
        weight: if real.down { Weight::DRAINED } else { real.weight },
        upper_threshold: real.upper_threshold,
        lower_threshold: real.lower_threshold,
    }
}

/// The element at `index`, the vector grown as far as needed.
fn slot<T: Default>(vec: &mut Vec<T>, index: usize) -> &mut T {
    debug_assert!(index < limits::REALS.max(limits::ADDRESSES));
    if vec.len() <= index {
        vec.resize_with(index + 1, T::default);
    }
    &mut vec[index]
}

/// Whether an address can be a VIP, a real or a local address.
#[must_use]
pub fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified() && !v4.is_loopback()
        }
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback(),
    }
}
