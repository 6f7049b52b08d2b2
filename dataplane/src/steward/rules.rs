//! What the steering program should send us. Pure.

use std::net::IpAddr;

use dataplane_api::service::{Forwarding, PortRange, Snapshot};

use crate::address::Address;
use crate::kernel::state::KernelState;
use crate::service::ServiceTable;
use crate::steer::{Action, Rules, flag};

/// The rules for the services in force. Reals that were removed are included, for the connections
/// they still have.
pub(super) fn rules(snapshot: &Snapshot, services: &ServiceTable, kernel: &KernelState) -> Rules {
    let ports = snapshot.local.ports;
    let mut rules = Rules { local_ports: (ports.first, ports.last), ..Rules::default() };
    for (_, address, _) in &kernel.addresses {
        set(&mut rules, (*address).into(), flag::HOST);
    }
    for address in &snapshot.local.addresses {
        set(&mut rules, (*address).into(), flag::LOCAL);
    }
    for service in &snapshot.services {
        // Nobody to serve it, now or from before: the kernel may have a page for it.
        let served = services
            .reals()
            .any(|(_, r)| services.service(r.service).is_some_and(|s| s.name == service.name));
        let action = if served { Action::Ours } else { Action::Kernel };
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

fn set(rules: &mut Rules, address: Address, bit: u32) {
    if !IpAddr::from(address).is_loopback() {
        *rules.addresses.entry(address).or_default() |= bit;
    }
}
