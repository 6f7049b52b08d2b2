//! What the hashing schedulers share: the hash and the table it points into.
//!
//! The hash has no secret and no seed: both nodes, and every later start, must send a client to the
//! same real. The test below freezes its values; to change them is to move every client.

use crate::address::Address;

/// Salt of a client's or destination's hash.
pub(super) const REQUEST: u64 = 0x7869_7670_2d68_6173;

/// Hash of an address and a port; different salts give independent hashes.
#[inline]
pub(super) fn hash(address: Address, port: u16, salt: u64) -> u64 {
    let (high, low) = address.halves();
    mix(mix(mix(high ^ salt) ^ low) ^ u64::from(port))
}

/// Spreads every bit over all (the step and finaliser of splitmix64: Steele, Lea, Flood 2014).
#[inline]
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Maps an evenly spread hash to `0..len`, without division.
#[inline]
pub(super) fn scale(hash: u64, len: usize) -> usize {
    ((u128::from(hash) * len as u128) >> 64) as usize
}

/// Rehashes before the targets are simply walked. Each hits an available real with the probability
/// of its share, so the walk is for services that are nearly all overloaded.
const REHASHES: u64 = 16;

/// A table of target indices that hashes point into.
#[derive(Debug)]
pub(super) struct Slots(Box<[u16]>);

impl Slots {
    pub(super) fn new(slots: Vec<u16>) -> Self {
        Self(slots.into_boxed_slice())
    }

    /// The target of `hash`. If it is unavailable: none, or with `fallback` that of the next hash,
    /// so that the clients of one real spread over all others; at last any of the `targets`.
    #[inline]
    pub(super) fn pick(
        &self,
        hash: u64,
        fallback: bool,
        targets: usize,
        available: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut hash = hash;
        for _ in 0..=REHASHES {
            let index = usize::from(*self.0.get(scale(hash, self.0.len()))?);
            if available(index) {
                return Some(index);
            }
            if !fallback {
                return None;
            }
            hash = mix(hash);
        }
        let first = scale(hash, targets);
        (first..targets).chain(0..first).find(|&index| available(index))
    }

    #[cfg(test)]
    pub(super) fn targets(&self) -> &[u16] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_hash_is_the_same_on_every_node_and_in_every_version() {
        // The first output of the published splitmix64 with seed 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        let of = |text: &str, port| hash(text.parse::<IpAddr>().unwrap().into(), port, REQUEST);
        assert_eq!(of("192.0.2.1", 0), 0x9afc_1e45_5124_2d8e);
        assert_eq!(of("192.0.2.1", 40000), 0x3bc4_6bb0_1ca4_09e6);
        assert_eq!(of("2001:db8::1", 0), 0x1d20_96f0_aeb9_2d16);
    }
}
