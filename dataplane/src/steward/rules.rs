//! What the steering program should send us. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_api::service::{Forwarding, PortRange, Protocol, Service, Snapshot};

use crate::address::Address;
use crate::kernel::state::KernelState;
use crate::service::ServiceTable;
use crate::steer::{Action, Rules, flag};

/// Connections that the kernel has been given. As long as it may have any they stay there, even if
/// their service is served again, or has no page any more.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    /// How many.
    pub(super) flows: u64,
    /// Of which services they may be.
    pub(super) services: &'a BTreeSet<String>,
}

/// The rules for the services in force. Reals that were removed are included, for the connections
/// they still have.
pub(super) fn rules(
    snapshot: &Snapshot,
    services: &ServiceTable,
    kernel: &KernelState,
    kept: Kept<'_>,
) -> Rules {
    let ports = snapshot.local.ports;
    let mut rules = Rules { local_ports: (ports.first, ports.last), ..Rules::default() };
    for (_, address, _) in &kernel.addresses {
        set(&mut rules, (*address).into(), flag::HOST);
    }
    for address in &snapshot.local.addresses {
        set(&mut rules, (*address).into(), flag::LOCAL);
    }
    for address in snapshot.groups.iter().flat_map(|g| &g.gateways) {
        set(&mut rules, (*address).into(), flag::GATEWAY);
    }
    for service in &snapshot.services {
        let action = action(service, services, kept);
        let protocol = service.protocol.number();
        for listen in &service.listen {
            let vip = Address::from(listen.address);
            set(&mut rules, vip, flag::VIP);
            let PortRange { first, last } = listen.ports;
            if first == last {
                rules.services.insert((vip, first, protocol), action);
            } else {
                rules.ranges.entry((vip, protocol)).or_default().push((first, last, action));
            }
        }
    }
    for (_, real) in services.reals() {
        let Some(service) = services.service(real.service) else { continue };
        set(&mut rules, real.address, flag::REAL);
        if real.forwarding == Forwarding::Nat {
            rules.returns.insert((real.address, real.port, service.protocol.number()));
        }
    }
    rules
}

/// Whose the packets to a service are.
fn action(service: &Service, services: &ServiceTable, kept: Kept<'_>) -> Action {
    let compiled = services.services().find(|s| s.name == service.name);
    let takes_new = compiled.is_some_and(|s| s.is_served());
    let shared = kept.flows > 0 && kept.services.contains(&service.name);
    match (takes_new, service.sorry) {
        (false, true) => Action::Sorry,
        _ if shared && service.protocol == Protocol::Tcp => Action::Shared,
        (true, _) => Action::Ours,
        // Nobody to serve it, now or from before.
        (false, false) => {
            let id = compiled.map(|s| s.id);
            let any = services.reals().any(|(_, r)| Some(r.service) == id);
            if any { Action::Ours } else { Action::Kernel }
        }
    }
}

fn set(rules: &mut Rules, address: Address, bit: u32) {
    if !IpAddr::from(address).is_loopback() {
        *rules.addresses.entry(address).or_default() |= bit;
    }
}
