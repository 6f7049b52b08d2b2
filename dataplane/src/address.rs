//! Addresses and small identifiers, in the form in which the packet path compares them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as one 128-bit number; IPv4 is stored mapped (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(u128);

const MAPPED: u128 = 0xffff_0000_0000;

impl Address {
    /// `::`, used for "none".
    pub const UNSPECIFIED: Self = Self(0);

    /// From the four bytes of an IPv4 header, as a big-endian number.
    #[inline(always)]
    #[must_use]
    pub const fn v4(bits: u32) -> Self {
        Self(MAPPED | bits as u128)
    }

    /// From the sixteen bytes of an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// From its number.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Its number.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// Upper and lower half.
    #[inline(always)]
    #[must_use]
    pub const fn halves(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }

    /// From upper and lower half.
    #[inline(always)]
    #[must_use]
    pub const fn from_halves(high: u64, low: u64) -> Self {
        Self((high as u128) << 64 | low as u128)
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED >> 32
    }

    /// Whether it is an IPv6 address that is valid on one link only (RFC 4291 section 2.5.6).
    #[inline(always)]
    #[must_use]
    pub const fn is_v6_link_local(self) -> bool {
        self.0 >> 118 == 0x3fa
    }

    /// The IPv4 address as a number; meaningless for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn v4_bits(self) -> u32 {
        self.0 as u32
    }

    /// The sixteen bytes, in network order; IPv4 mapped.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The leading `v4` bits (of 32) or `v6` bits (of 128) kept, the rest zero.
    #[must_use]
    pub const fn masked(self, v4: u8, v6: u8) -> Self {
        let keep = if self.is_v4() { 96 + v4 as u32 } else { v6 as u32 };
        if keep == 0 { Self(0) } else { Self(self.0 & (u128::MAX << (128 - keep))) }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self(v6.to_bits()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.to_bits())
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(Ipv4Addr::from_bits(address.v4_bits()))
        } else {
            Self::V6(Ipv6Addr::from_bits(address.0))
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Every station.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (multicast and broadcast).
    #[inline(always)]
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($repr:ty);)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $repr);

        impl $name {
            /// As an index.
            #[inline(always)]
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    )+};
}

ids! {
    /// A VIP or local address; stable as long as the connection table lives.
    VipId(u16);
    /// A service; stable as long as the connection table lives.
    ServiceId(u16);
    /// A real of one service; stable as long as the connection table lives.
    RealId(u16);
    /// An interface: its slot in the snapshot.
    DeviceId(u8);
    /// A group of addresses that are owned together; stable while the process lives.
    GroupId(u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_leading_bits_of_either_family() {
        let v4 = Address::from("192.0.2.77".parse::<IpAddr>().unwrap());
        assert_eq!(v4.masked(24, 64).to_string(), "192.0.2.0");
        assert_eq!(v4.masked(32, 64), v4);
        let v6 = Address::from("2001:db8:1:2:3::4".parse::<IpAddr>().unwrap());
        assert_eq!(v6.masked(24, 64).to_string(), "2001:db8:1:2::");
        assert_eq!(v6.masked(24, 128), v6);
    }

    #[test]
    fn link_local_addresses_are_told_from_others() {
        let local = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_v6_link_local();
        assert!(["fe80::1", "fe80:1::", "febf::1"].into_iter().all(local));
        let others = ["169.254.0.1", "fe7f::1", "fec0::1", "::fe80"];
        assert!(!others.into_iter().any(local));
    }
}
