//! Where packets for a real go: interface, MAC address, source of tunnels, path MTU. Pure.
//!
//! The management thread computes it for every real whenever routes, neighbours or links change,
//! and publishes the result to the workers; what stands in [`NextHop::neighbor`] it has the kernel
//! resolve.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::address::{Address, DeviceId, Mac};
use crate::kernel::state::{KernelState, Reachability, Route};
use crate::published::{Hop, HopState as State};

/// Where to send packets for one real, and what is missing for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// What the workers need of it.
    pub hop: Hop,
    /// Whom to resolve: kernel index of the interface, and the gateway or the real itself.
    pub neighbor: Option<(u32, IpAddr)>,
    /// Why packets cannot be sent, and what to do about it; for the status.
    pub problem: Option<String>,
}

/// The next hop of `real`, for the `route` that the kernel gave. `slots` are the interfaces we are
/// attached to, by kernel index.
#[must_use]
pub fn compute(
    real: Address,
    route: Option<&Route>,
    kernel: &KernelState,
    slots: &BTreeMap<u32, DeviceId>,
) -> NextHop {
    let address = IpAddr::from(real);
    let Some(route) = route else {
        let own = kernel.is_local(address);
        return no_route(if own { own_address(address) } else { format!("no route to {address}") });
    };
    if route.local || kernel.is_local(address) {
        return no_route(own_address(address));
    }
    let link = kernel.links.get(&route.ifindex);
    let (Some(link), Some(device)) = (link, slots.get(&route.ifindex)) else {
        let name = link.map_or_else(|| format!("#{}", route.ifindex), |link| link.name.clone());
        return no_route(format!(
            "the route to {address} leaves by interface {name}, which xvip does not serve: \
             add it to the interfaces, or route the real by one of them"
        ));
    };
    let neighbor = route.gateway.unwrap_or(address);
    let mut hop = NextHop {
        hop: Hop {
            device: *device,
            mac: Mac::default(),
            source: route.source.map_or(Address::UNSPECIFIED, Address::from),
            mtu: mtu(route, link.mtu),
            state: State::Unresolved,
        },
        neighbor: Some((route.ifindex, neighbor)),
        problem: None,
    };
    if !link.up || !link.running {
        hop.hop.state = State::DeviceDown;
        hop.neighbor = None;
        let what = if link.up { "has no carrier" } else { "is down" };
        hop.problem = Some(format!("interface {} {what}", link.name));
        return hop;
    }
    let known = kernel.neighbors.get(&(route.ifindex, neighbor));
    match known.map(|known| (known.reachability, known.mac)) {
        Some((Reachability::Usable, Some(mac))) => {
            hop.hop.mac = mac;
            hop.hop.state = State::Resolved;
        }
        Some((Reachability::Failed, _)) => {
            hop.problem = Some(format!("{neighbor} does not answer on interface {}", link.name));
        }
        _ => hop.problem = Some(format!("{neighbor} is being resolved on {}", link.name)),
    }
    hop
}

fn own_address(address: IpAddr) -> String {
    format!("{address} is an address of this host: a real must be another machine")
}

fn mtu(route: &Route, link: u32) -> u16 {
    let mtu = route.mtu.map_or(link, |mtu| mtu.min(link));
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn no_route(problem: String) -> NextHop {
    NextHop { hop: Hop::default(), neighbor: None, problem: Some(problem) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::state::{Link, Neighbor};

    const ETH0: u32 = 3;

    fn kernel() -> KernelState {
        let mut kernel = KernelState::default();
        for (ifindex, name) in [(ETH0, "eth0"), (9, "mgmt0")] {
            let link = Link {
                name: name.into(),
                ifindex,
                mtu: 1500,
                up: true,
                running: true,
                ..Link::default()
            };
            kernel.links.insert(ifindex, link);
        }
        kernel.addresses.insert((ETH0, ip("10.0.0.1"), 24));
        kernel
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(gateway: Option<&str>) -> Route {
        Route {
            ifindex: ETH0,
            gateway: gateway.map(ip),
            source: Some(ip("10.0.0.1")),
            mtu: None,
            local: false,
        }
    }

    fn compute_for(real: &str, route: Option<&Route>, kernel: &KernelState) -> NextHop {
        compute(ip(real).into(), route, kernel, &BTreeMap::from([(ETH0, DeviceId(2))]))
    }

    fn learn(kernel: &mut KernelState, who: &str, mac: Option<u8>, reachability: Reachability) {
        let mac = mac.map(|last| Mac([2, 0, 0, 0, 0, last]));
        kernel.neighbors.insert((ETH0, ip(who)), Neighbor { mac, reachability });
    }

    #[test]
    fn a_real_on_the_link_is_its_own_next_hop_and_behind_a_router_the_router_is() {
        let mut kernel = kernel();
        learn(&mut kernel, "10.0.0.7", Some(7), Reachability::Usable);
        learn(&mut kernel, "10.0.0.254", Some(254), Reachability::Usable);
        let near = compute_for("10.0.0.7", Some(&route(None)), &kernel);
        assert_eq!(
            (near.hop.state, near.hop.mac.0[5], near.hop.device),
            (State::Resolved, 7, DeviceId(2))
        );
        assert_eq!(near.hop.source, Address::from(ip("10.0.0.1")));
        assert_eq!(near.problem, None);
        let far = compute_for("192.0.2.7", Some(&route(Some("10.0.0.254"))), &kernel);
        assert_eq!((far.hop.state, far.hop.mac.0[5]), (State::Resolved, 254));
        assert_eq!(far.neighbor, Some((ETH0, ip("10.0.0.254"))));
    }

    #[test]
    fn an_ipv4_real_may_be_reached_through_an_ipv6_router() {
        let mut kernel = kernel();
        learn(&mut kernel, "fe80::1", Some(1), Reachability::Usable);
        let hop = compute_for("192.0.2.7", Some(&route(Some("fe80::1"))), &kernel);
        assert_eq!((hop.hop.state, hop.hop.mac.0[5]), (State::Resolved, 1));
    }

    #[test]
    fn an_unknown_or_silent_neighbour_is_unresolved_and_named() {
        let mut kernel = kernel();
        let hop = compute_for("10.0.0.7", Some(&route(None)), &kernel);
        assert_eq!(
            (hop.hop.state, hop.neighbor),
            (State::Unresolved, Some((ETH0, ip("10.0.0.7"))))
        );
        learn(&mut kernel, "10.0.0.7", Some(7), Reachability::Failed);
        let hop = compute_for("10.0.0.7", Some(&route(None)), &kernel);
        assert_eq!((hop.hop.state, hop.hop.mac), (State::Unresolved, Mac::default()));
        assert!(hop.problem.unwrap().contains("10.0.0.7 does not answer on interface eth0"));
    }

    #[test]
    fn a_route_that_is_not_ours_is_no_route_and_says_why() {
        let kernel = kernel();
        assert_eq!(compute_for("10.9.0.7", None, &kernel).problem.unwrap(), "no route to 10.9.0.7");
        let foreign = Route { ifindex: 9, ..route(None) };
        let hop = compute_for("10.0.0.7", Some(&foreign), &kernel);
        assert_eq!(hop.hop.state, State::NoRoute);
        assert!(hop.problem.unwrap().contains("leaves by interface mgmt0"));
        let own = compute_for("10.0.0.1", Some(&route(None)), &kernel);
        assert_eq!(own.hop.state, State::NoRoute);
        assert!(own.problem.unwrap().contains("an address of this host"));
        let loopback = Route { local: true, ..route(None) };
        let hop = compute_for("127.0.0.9", Some(&loopback), &kernel);
        assert!(hop.problem.unwrap().contains("an address of this host"));
    }

    #[test]
    fn a_dead_link_is_told_from_a_silent_neighbour() {
        let mut kernel = kernel();
        learn(&mut kernel, "10.0.0.7", Some(7), Reachability::Usable);
        kernel.links.get_mut(&ETH0).unwrap().running = false;
        let hop = compute_for("10.0.0.7", Some(&route(None)), &kernel);
        assert_eq!((hop.hop.state, hop.neighbor), (State::DeviceDown, None));
        assert_eq!(hop.problem.unwrap(), "interface eth0 has no carrier");
        kernel.links.get_mut(&ETH0).unwrap().up = false;
        let hop = compute_for("10.0.0.7", Some(&route(None)), &kernel);
        assert_eq!(hop.problem.unwrap(), "interface eth0 is down");
    }

    #[test]
    fn the_smaller_of_route_and_link_mtu_counts() {
        let kernel = kernel();
        for (route_mtu, expected) in [(None, 1500), (Some(1400), 1400), (Some(9000), 1500)] {
            let route = Route { mtu: route_mtu, ..route(None) };
            assert_eq!(compute_for("10.0.0.7", Some(&route), &kernel).hop.mtu, expected);
        }
    }
}
