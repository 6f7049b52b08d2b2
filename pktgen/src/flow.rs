//! Which flow has which addresses.
//!
//! Pure arithmetic both ways, so that no table is needed and the programs in `bpf/` can do the same:
//! flow `n` has client address `first + n % addresses` and client port `first_port + n / addresses`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A run of consecutive addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    first: IpAddr,
    count: u32,
}

impl Addresses {
    /// `count` addresses from `first` on; none if there are none, or they pass the end of the
    /// last 32 bits of the address.
    #[must_use]
    pub fn new(first: IpAddr, count: u32) -> Option<Self> {
        (count > 0 && low(first).checked_add(count - 1).is_some()).then_some(Self { first, count })
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// The first one.
    #[must_use]
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// Address `index`, counted from 0; indexes past the end wrap.
    #[must_use]
    pub fn get(self, index: u32) -> IpAddr {
        with_low(self.first, low(self.first) + index % self.count)
    }

    /// Index of an address; none if it is not one of these.
    #[must_use]
    pub fn index(self, address: IpAddr) -> Option<u32> {
        let index = low(address).checked_sub(low(self.first))?;
        (index < self.count && with_low(self.first, low(address)) == address).then_some(index)
    }
}

/// The clients' side of all flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// Addresses of the clients.
    pub addresses: Addresses,
    /// Lowest client port.
    pub first_port: u16,
    /// Flows; every one has its own address and port.
    pub flows: u32,
}

impl Clients {
    /// `flows` flows over these addresses, ports from `first_port` to 65535; none if that is not
    /// room enough.
    #[must_use]
    pub fn new(addresses: Addresses, first_port: u16, flows: u32) -> Option<Self> {
        let ports = u64::from(u16::MAX - first_port) + 1;
        let room = ports * u64::from(addresses.count());
        (flows > 0 && u64::from(flows) <= room).then_some(Self { addresses, first_port, flows })
    }

    /// Address and port of a flow's client.
    #[must_use]
    pub fn of(self, flow: u32) -> (IpAddr, u16) {
        let count = self.addresses.count();
        (self.addresses.get(flow), self.first_port.wrapping_add((flow / count) as u16))
    }

    /// The flow of a client's address and port; none if no flow has them.
    #[must_use]
    pub fn flow(self, address: IpAddr, port: u16) -> Option<u32> {
        let row = u32::from(port.checked_sub(self.first_port)?);
        let flow =
            row.checked_mul(self.addresses.count())?.checked_add(self.addresses.index(address)?)?;
        (flow < self.flows).then_some(flow)
    }
}

/// Last 32 bits of an address.
pub(crate) fn low(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    }
}

/// An address with other last 32 bits.
pub(crate) fn with_low(address: IpAddr, low: u32) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::from_bits(low).into(),
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u32::MAX) | u128::from(low)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_its_own_client_and_is_found_by_it() {
        for first in ["198.18.0.1", "2001:db8:1::ffff:fff0"] {
            let addresses = Addresses::new(first.parse().unwrap(), 15).unwrap();
            let clients = Clients::new(addresses, 1024, 40_000).unwrap();
            let mut seen = std::collections::HashSet::new();
            for flow in 0..clients.flows {
                let (address, port) = clients.of(flow);
                assert!(seen.insert((address, port)));
                assert_eq!(clients.flow(address, port), Some(flow));
            }
            assert_eq!(clients.flow(addresses.first(), 80), None);
            assert_eq!(clients.flow("192.0.2.1".parse().unwrap(), 1024), None);
            assert_eq!(clients.flow("2001:db8:2::ffff:fff0".parse().unwrap(), 1024), None);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let last: IpAddr = "255.255.255.255".parse().unwrap();
        assert!(Addresses::new(last, 1).is_some() && Addresses::new(last, 2).is_none());
        let one = Addresses::new(last, 1).unwrap();
        assert!(Clients::new(one, 60_000, 5_536).is_some());
        assert!(Clients::new(one, 60_000, 5_537).is_none() && Clients::new(one, 1, 0).is_none());
    }
}
