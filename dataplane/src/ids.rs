//! Identifiers that outlive snapshots and processes.
//!
//! A connection names its VIP, service and real by number. The numbers must mean the same after a
//! reload and after a restart, so they are assigned here, once, and written to the state file before
//! any packet can carry them into the table. Runs on the steward thread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_api::service::{Forwarding, Real, Snapshot};
use serde::{Deserialize, Serialize};

use crate::address::{RealId, ServiceId, VipId};
use crate::conn::Conn;
use crate::limits;

/// What makes a real the same real: its service, address and port, and how packets reach it. (A
/// connection keeps the method it was opened with, so a service that changes its method has new
/// reals.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RealIdentity {
    /// Number of its service.
    pub service: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` keeps the client's.
    pub port: Option<u16>,
    /// How packets reach it.
    pub forwarding: Forwarding,
}

impl RealIdentity {
    /// Of a real in a snapshot.
    #[must_use]
    pub fn of(service: ServiceId, forwarding: Forwarding, real: &Real) -> Self {
        Self { service: service.0, address: real.address, port: real.port, forwarding }
    }
}

/// The numbers given out so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    vips: BTreeMap<u16, IpAddr>,
    services: BTreeMap<u16, String>,
    reals: BTreeMap<u16, RealIdentity>,
    locals: BTreeMap<u16, IpAddr>,
}

/// Numbers that connections in the table refer to.
#[derive(Debug, Default)]
pub struct Used {
    vips: BTreeSet<u16>,
    services: BTreeSet<u16>,
    reals: BTreeSet<u16>,
    locals: BTreeSet<u16>,
}

impl Used {
    /// Notes the numbers of one connection.
    pub fn note(&mut self, conn: &Conn) {
        let identity = &conn.identity;
        self.vips.insert(identity.vip.0);
        self.services.insert(identity.service.0);
        self.reals.insert(identity.real.0);
        if let Some((local, _)) = identity.local {
            self.locals.insert(u16::from(local));
        }
    }
}

impl Ids {
    /// Number of a VIP.
    #[must_use]
    pub fn vip(&self, address: IpAddr) -> Option<VipId> {
        find(&self.vips, &address).map(VipId)
    }

    /// Number of a service.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceId> {
        self.services.iter().find(|(_, n)| *n == name).map(|(id, _)| ServiceId(*id))
    }

    /// Number of a real.
    #[must_use]
    pub fn real(&self, identity: &RealIdentity) -> Option<RealId> {
        find(&self.reals, identity).map(RealId)
    }

    /// Number of a local address of full NAT.
    #[must_use]
    pub fn local(&self, address: IpAddr) -> Option<u8> {
        find(&self.locals, &address).and_then(|id| u8::try_from(id).ok())
    }

    /// Every VIP number.
    pub fn vips(&self) -> impl Iterator<Item = (VipId, IpAddr)> + '_ {
        self.vips.iter().map(|(id, address)| (VipId(*id), *address))
    }

    /// Every real number.
    pub fn reals(&self) -> impl Iterator<Item = (RealId, &RealIdentity)> + '_ {
        self.reals.iter().map(|(id, identity)| (RealId(*id), identity))
    }

    /// Every local address number.
    pub fn locals(&self) -> impl Iterator<Item = (u8, IpAddr)> + '_ {
        self.locals.iter().filter_map(|(id, address)| Some((u8::try_from(*id).ok()?, *address)))
    }

    /// The numbers for `next`: those of `self` that a connection uses or that `next` or `current`
    /// (whose packets may be in flight) name, plus new ones for what `next` adds.
    ///
    /// # Errors
    /// When a limit is reached, with what to do about it.
    pub fn assign(
        &self,
        current: Option<&Snapshot>,
        next: &Snapshot,
        used: &Used,
    ) -> Result<Self, String> {
        let mut ids = self.clone();
        let wanted = |s: &Snapshot| Wanted::of(s, &ids);
        let (now, then) = (current.map(wanted).unwrap_or_default(), wanted(next));
        ids.vips.retain(|id, v| {
            used.vips.contains(id) || now.vips.contains(v) || then.vips.contains(v)
        });
        ids.locals.retain(|id, l| {
            used.locals.contains(id) || now.locals.contains(l) || then.locals.contains(l)
        });
        ids.reals.retain(|id, r| {
            used.reals.contains(id) || now.reals.contains(r) || then.reals.contains(r)
        });
        let kept: BTreeSet<u16> = ids.reals.values().map(|r| r.service).collect();
        ids.services.retain(|id, name| {
            kept.contains(id)
                || used.services.contains(id)
                || now.services.contains(name)
                || then.services.contains(name)
        });
        for address in then.vips {
            add(&mut ids.vips, address, limits::ADDRESSES, "VIP addresses")?;
        }
        for address in then.locals {
            add(&mut ids.locals, address, limits::LOCAL_ADDRESSES, "local addresses")?;
        }
        for service in &next.services {
            let id = add(&mut ids.services, service.name.clone(), limits::SERVICES, "services")?;
            for real in service.all_reals() {
                let identity = RealIdentity::of(ServiceId(id), service.forwarding, real);
                add(&mut ids.reals, identity, limits::REALS, "real servers")?;
            }
        }
        Ok(ids)
    }
}

/// What a snapshot names.
#[derive(Default)]
struct Wanted {
    vips: BTreeSet<IpAddr>,
    services: BTreeSet<String>,
    reals: BTreeSet<RealIdentity>,
    locals: BTreeSet<IpAddr>,
}

impl Wanted {
    fn of(snapshot: &Snapshot, ids: &Ids) -> Self {
        let mut wanted =
            Self { locals: snapshot.local.addresses.iter().copied().collect(), ..Self::default() };
        for service in &snapshot.services {
            wanted.vips.extend(service.listen.iter().map(|l| l.address));
            wanted.services.insert(service.name.clone());
            if let Some(id) = ids.service(&service.name) {
                let of = |real| RealIdentity::of(id, service.forwarding, real);
                wanted.reals.extend(service.all_reals().map(of));
            }
        }
        wanted
    }
}

fn find<T: PartialEq>(map: &BTreeMap<u16, T>, value: &T) -> Option<u16> {
    map.iter().find(|(_, v)| *v == value).map(|(id, _)| *id)
}

/// The number of `value`, a new one if it has none: the lowest that is free.
fn add<T: PartialEq>(
    map: &mut BTreeMap<u16, T>,
    value: T,
    limit: usize,
    what: &str,
) -> Result<u16, String> {
    if let Some(id) = find(map, &value) {
        return Ok(id);
    }
    let free = (0..u16::try_from(limit).unwrap_or(u16::MAX)).find(|id| !map.contains_key(id));
    let id = free.ok_or_else(|| {
        format!(
            "more than {limit} {what}, counting removed ones that still have connections; \
             wait for those to end or remove some"
        )
    })?;
    map.insert(id, value);
    Ok(id)
}
