//! What an address is to us, asked once or twice for every packet.

use super::Class;
use crate::address::Address;

/// Open-addressed map from address to class; at most a quarter full, so that a miss (the client's
/// address of every reply) ends at the first or second slot. Keys come from the configuration only:
/// nobody outside can make it long.
#[derive(Debug)]
pub(super) struct AddressMap {
    slots: Box<[(Address, Class)]>,
    shift: u32,
}

impl Default for AddressMap {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl AddressMap {
    pub(super) fn new(entries: &[(Address, Class)]) -> Self {
        let size = (entries.len() * 4).next_power_of_two().max(16);
        let slots = vec![(Address::UNSPECIFIED, Class::Other); size].into();
        let mut map = Self { slots, shift: 64 - size.trailing_zeros() };
        for (address, class) in entries {
            let mut at = map.start(*address);
            while map.slots[at].1 != Class::Other && map.slots[at].0 != *address {
                at = (at + 1) & (size - 1);
            }
            map.slots[at] = (*address, *class);
        }
        map
    }

    #[inline(always)]
    fn start(&self, address: Address) -> usize {
        let (high, low) = address.halves();
        let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.wrapping_shr(self.shift) as usize
    }

    #[inline(always)]
    pub(super) fn get(&self, address: Address) -> Class {
        // A power of two.
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = self.start(address);
        loop {
            let (key, class) = &self.slots[at & mask];
            if *key == address || *class == Class::Other {
                return *class;
            }
            at += 1;
        }
    }
}
