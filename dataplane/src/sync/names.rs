//! Numbers of this node into names that both know, and back.
//!
//! A connection here names service, VIP, real, local address and interface by numbers that this node
//! has given; a record names them by what both nodes know. Built anew for each new table of services.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane_api::record::{Operation, Record, segment_tag, tag};
use dataplane_api::service::{Forwarding, Listen};

use crate::address::{Address, DeviceId, Mac, RealId, ServiceId, VipId};
use crate::clock::Instant;
use crate::conn::{Conn, Found, Identity, LastHop, Origin, State};
use crate::forward::Shared;
use crate::limits;
use crate::published::Segment;
use crate::service::{Service, ServiceTable};

/// No interface: replies wait until the client has sent a packet, and are counted meanwhile.
pub(super) const NOWHERE: LastHop = LastHop { mac: Mac([0; 6]), device: DeviceId(u8::MAX) };

/// The names in force.
#[derive(Debug)]
pub struct Names {
    services: Arc<ServiceTable>,
    /// [`tag`] of each service's name, by its number.
    service_tags: Vec<u32>,
    /// `None`: two names have it.
    by_tag: HashMap<u32, Option<ServiceId>>,
    vips: HashMap<Address, VipId>,
    reals: HashMap<(ServiceId, Address), Vec<RealId>>,
    locals: HashMap<u32, Option<u8>>,
    /// The VIP that decides who owns a service's templates, by its number.
    owners: Vec<Option<VipId>>,
    /// Networks of interfaces, and their tags.
    segments: Vec<(Segment, u16)>,
}

/// What replication sees of the data plane at one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Connections, and what hangs on them.
    pub shared: &'a Shared,
    /// How they are called.
    pub names: &'a Names,
    /// Whether the VIP with this number is owned here.
    pub owned: &'a [bool],
    /// When.
    pub now: Instant,
}

impl View<'_> {
    /// Whether the connection is of a VIP that is owned here.
    #[must_use]
    pub fn owns(&self, conn: &Conn) -> bool {
        let vip = self.names.owner(&conn.identity, conn.state);
        vip.is_some_and(|vip| self.owned.get(vip.index()).copied().unwrap_or(false))
    }

    /// Of the group that the connection belongs to, the name's [`tag`].
    #[must_use]
    pub fn group(&self, conn: &Conn) -> Option<u32> {
        let vip = self.names.owner(&conn.identity, conn.state)?;
        self.names.group(vip)
    }

    /// [`tag`]s of the groups that are owned here.
    #[must_use]
    pub fn groups(&self) -> BTreeSet<u32> {
        let owned = self.owned.iter().zip(0_u16..).filter(|(owned, _)| **owned);
        owned.filter_map(|(_, vip)| self.names.group(VipId(vip))).collect()
    }

    /// Whether the peer ought to know of it: never of a half-open one, nor of one that it has told us
    /// of, unless that has become ours.
    #[must_use]
    pub fn exports(&self, conn: &Conn, origin: Origin) -> bool {
        !conn.state.is_half_open() && (!origin.is_imported() || self.owns(conn))
    }
}

/// What the peer calls this life of a connection.
#[must_use]
pub fn life(found: &Found) -> u32 {
    u32::from(found.handle.generation()) << 16 | found.conn.created.0 & 0xffff
}

impl Names {
    fn group(&self, vip: VipId) -> Option<u32> {
        let id = self.services.group_of(vip);
        let (_, name) = self.services.groups().iter().find(|(group, _)| *group == id)?;
        Some(tag(name.as_bytes()))
    }

    /// Of a table of services and the networks that interfaces are on.
    #[must_use]
    pub fn new(services: &Arc<ServiceTable>, segments: &[Segment]) -> Self {
        let mut names = Self {
            services: Arc::clone(services),
            service_tags: Vec::new(),
            by_tag: HashMap::new(),
            vips: HashMap::new(),
            reals: HashMap::new(),
            locals: HashMap::new(),
            owners: Vec::new(),
            segments: Vec::new(),
        };
        let vips = (0..limits::ADDRESSES as u16).map(VipId);
        names.vips = vips.filter_map(|id| Some((used(services.vip(id)?)?, id))).collect();
        services.services().for_each(|service| names.add_service(service));
        for (id, real) in services.reals() {
            names.reals.entry((real.service, real.address)).or_default().push(id);
        }
        for index in 0..limits::LOCAL_ADDRESSES as u8 {
            if let Some(address) = services.local(index).and_then(used) {
                let entry = names.locals.entry(tag(&address.octets()));
                entry.and_modify(|other| *other = None).or_insert(Some(index));
            }
        }
        names.segments = segments.iter().map(|s| (*s, tag_of(s))).collect();
        names
    }

    /// The services that they are of.
    #[must_use]
    pub fn services(&self) -> &Arc<ServiceTable> {
        &self.services
    }

    fn add_service(&mut self, service: &Service) {
        let tag = tag(service.name.as_bytes());
        let index = service.id.index();
        let entry = self.by_tag.entry(tag);
        entry.and_modify(|other| *other = None).or_insert(Some(service.id));
        let size = self.service_tags.len().max(index + 1);
        self.service_tags.resize(size, 0);
        self.owners.resize(size, None);
        self.service_tags[index] = tag;
        let vip = |listen: &Listen| self.vips.get(&listen.address.into()).copied();
        self.owners[index] = service.listen.first().and_then(vip);
    }

    /// The VIP that decides who owns a connection or a template.
    #[must_use]
    pub fn owner(&self, identity: &Identity, state: State) -> Option<VipId> {
        match state {
            State::Template => self.owners.get(identity.service.index()).copied().flatten(),
            _ => Some(identity.vip),
        }
    }

    /// The record of a connection; `None` if its service or real is not known any more.
    #[must_use]
    pub fn record(&self, operation: Operation, found: &Found) -> Option<Record> {
        let Conn { identity, last_hop, state, synack, .. } = found.conn;
        let service = self.services.service(identity.service)?;
        let real = self.services.real(identity.real)?;
        let template = state == State::Template;
        let vip = if template { Address::UNSPECIFIED } else { self.services.vip(identity.vip)? };
        let local = match identity.local {
            None => None,
            Some((index, port)) => Some((tag(&self.services.local(index)?.octets()), port)),
        };
        Some(Record {
            operation,
            state: state as u8,
            synack,
            protocol: service.protocol.number(),
            mac: last_hop.mac.0,
            segment: if template { 0 } else { self.segment(last_hop.device, vip) },
            service: *self.service_tags.get(identity.service.index())?,
            client: identity.client.into(),
            vip: vip.into(),
            real: real.address.into(),
            client_port: identity.client_port,
            vip_port: if template { 0 } else { identity.vip_port },
            real_port: if template { real.port } else { identity.real_port },
            local,
            origin: life(found),
        })
    }

    /// What a record is here; `None` if it names something that is not known here.
    #[must_use]
    pub fn identity(&self, record: &Record) -> Option<Identity> {
        let id = (*self.by_tag.get(&record.service)?)?;
        let service = self.services.service(id)?;
        if service.protocol.number() != record.protocol {
            return None;
        }
        let local = match record.local {
            None => None,
            Some((tag, port)) => Some(((*self.locals.get(&tag)?)?, port)),
        };
        let template = record.state == State::Template as u8;
        let real = self.real(id, record, template)?;
        // As `forward/open.rs` makes them.
        let (vip, vip_port, protocol, real_port) = if template {
            (VipId(u16::MAX), id.0, 0, 0)
        } else {
            let vip = *self.vips.get(&record.vip.into())?;
            (vip, record.vip_port, record.protocol, record.real_port)
        };
        let (client, client_port) = (record.client.into(), record.client_port);
        let service = id;
        Some(Identity {
            client,
            client_port,
            vip,
            vip_port,
            protocol,
            service,
            real,
            real_port,
            local,
        })
    }

    fn real(&self, service: ServiceId, record: &Record, template: bool) -> Option<RealId> {
        let fits = |id: &&RealId| {
            self.services.real(**id).is_some_and(|real| {
                let keeps = real.port == 0 && record.real_port == record.vip_port;
                let port = real.port == record.real_port || !template && keeps;
                let method = record.local.is_some() == (real.forwarding == Forwarding::Fullnat);
                port && (method || template)
            })
        };
        let all = self.reals.get(&(service, record.real.into()))?;
        let configured = |id: &&RealId| self.services.real(**id).is_some_and(|r| r.configured);
        let mut fitting = all.iter().filter(fits);
        fitting.clone().find(configured).or_else(|| fitting.next()).copied()
    }

    /// Where replies to the client of a record go.
    #[must_use]
    pub fn last_hop(&self, record: &Record) -> LastHop {
        let mac = Mac(record.mac);
        if record.state == State::Template as u8 {
            return LastHop::default();
        }
        if mac == Mac::default() || mac.is_group() {
            return NOWHERE;
        }
        let with = |address: IpAddr| {
            let mut segments = self.segments.iter();
            segments.find(|(s, _)| s.contains(address.into())).map(|(s, _)| s.device)
        };
        let tagged = self.segments.iter().find(|(_, tag)| *tag == record.segment && *tag != 0);
        let device = tagged.map(|(s, _)| s.device);
        match device.or_else(|| with(record.vip)).or_else(|| with(record.client)) {
            Some(device) => LastHop { mac, device },
            None => NOWHERE,
        }
    }

    /// The network on which packets for a VIP come in by an interface: its own if it is there.
    fn segment(&self, device: DeviceId, vip: Address) -> u16 {
        let mut on = self.segments.iter().filter(|(s, _)| s.device == device);
        let of_vip = on.clone().find(|(s, _)| s.contains(vip));
        of_vip.or_else(|| on.next()).map_or(0, |(_, tag)| *tag)
    }
}

/// An address that a number stands for.
fn used(address: Address) -> Option<Address> {
    (address != Address::UNSPECIFIED).then_some(address)
}

fn tag_of(segment: &Segment) -> u16 {
    segment_tag(segment.network.into(), segment.length)
}
