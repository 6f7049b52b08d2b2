//! Who has which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packet_path::Family;

/// Port of the VIP.
pub(crate) const VIP_PORT: u16 = 80;
/// Port of the real servers; the same, because `direct` and `tunnel` change no port.
pub(crate) const REAL_PORT: u16 = VIP_PORT;
/// Client addresses; each has ports from 1024 on.
pub(crate) const CLIENTS: u32 = 250;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    family: Family,
}

/// 198.18.0.0/15 is for such measurements (RFC 2544, appendix C.2.2), 2001:db8::/32 for
/// documentation.
impl Plan {
    /// Those of a family.
    pub(crate) fn new(family: Family) -> Self {
        Self { family }
    }

    fn address(self, network: u8, v4: u16, v6: u32) -> IpAddr {
        let [high, low] = v4.to_be_bytes();
        match self.family {
            Family::V4 => Ipv4Addr::new(198, network, high, low).into(),
            Family::V6 => {
                // Networks are 18 and 19, written in decimal.
                let network = if network == 18 { 0x18 } else { 0x19 };
                let host = [(v6 >> 16) as u16, v6 as u16];
                Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, host[0], host[1]).into()
            }
        }
    }

    /// The first client; the others follow.
    pub(crate) fn client(self) -> IpAddr {
        self.address(18, 1, 1)
    }

    /// A client, by its number.
    pub(crate) fn client_number(self, index: u16) -> IpAddr {
        self.address(18, 1 + index, 1 + u32::from(index))
    }

    /// The first real server; the others follow.
    pub(crate) fn real(self, index: u16) -> IpAddr {
        self.address(19, 1 + index, 1 + u32::from(index))
    }

    /// The VIP of a service; the first, number 0, is the one that traffic goes to.
    pub(crate) fn vip(self, service: u16) -> SocketAddr {
        let address = match service {
            0 => self.address(18, 0xff01, 0xffff_0001),
            // 198.18.240.1 and on.
            other => self.address(18, 0xf000 + other, 0xfff0_0000 + u32::from(other)),
        };
        SocketAddr::new(address, VIP_PORT)
    }

    /// A local address of full NAT.
    pub(crate) fn local(self, index: u16) -> IpAddr {
        self.address(19, 0xf001 + index, 0xfffe_0001 + u32::from(index))
    }

    /// The balancer's own address on the clients' side.
    pub(crate) fn front(self) -> IpAddr {
        self.address(18, 0xfffe, 0xffff_fffe)
    }

    /// The balancer's own address on the real servers' side.
    pub(crate) fn back(self) -> IpAddr {
        self.address(19, 0xfffe, 0xffff_fffe)
    }

    /// One of two balancers' own address on the clients' side.
    pub(crate) fn front_of(self, node: u8) -> IpAddr {
        self.address(18, 0xfff0 + u16::from(node), 0xffff_fff0 + u32::from(node))
    }

    /// The same on the real servers' side; [`Plan::back`] is then the gateway that moves with the VIP.
    pub(crate) fn back_of(self, node: u8) -> IpAddr {
        self.address(19, 0xfff0 + u16::from(node), 0xffff_fff0 + u32::from(node))
    }

    /// Length of both networks' prefixes.
    pub(crate) fn prefix(self) -> u8 {
        match self.family {
            Family::V4 => 16,
            Family::V6 => 64,
        }
    }

    /// `ip` commands that give the balancer its addresses, of both families.
    pub(super) fn balancer_addresses(front: &str, back: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for family in [Family::V4, Family::V6] {
            let plan = Self::new(family);
            for (interface, address) in [(front, plan.front()), (back, plan.back())] {
                let extra = if family == Family::V6 { " nodad" } else { "" };
                lines.push(format!("addr add {address}/{} dev {interface}{extra}", plan.prefix()));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_of_the_lab_share_an_address() {
        for family in [Family::V4, Family::V6] {
            let plan = Plan::new(family);
            let mut seen = HashSet::new();
            let vips = (0..1000).map(|n| plan.vip(n).ip());
            let reals = (0..1000).map(|n| plan.real(n));
            let local = (0..64).map(|n| plan.local(n));
            let pair = (0..2).flat_map(|n| [plan.front_of(n), plan.back_of(n)]);
            let own = pair.chain([plan.front(), plan.back()]);
            for address in vips.chain(reals).chain(local).chain(own) {
                assert!(seen.insert(address), "{address}");
            }
        }
        let v4 = Plan::new(Family::V4);
        assert_eq!(v4.client().to_string(), "198.18.0.1");
        assert_eq!(v4.vip(0).to_string(), "198.18.255.1:80");
        assert_eq!(v4.back().to_string(), "198.19.255.254");
        assert_eq!(Plan::new(Family::V6).vip(0).to_string(), "[2001:db8:18::ffff:1]:80");
        assert_eq!(Plan::new(Family::V6).real(0).to_string(), "2001:db8:19::1");
    }
}
