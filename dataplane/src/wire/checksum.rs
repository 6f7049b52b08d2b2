//! The Internet checksum: full sums and incremental updates (RFC 1071, RFC 1624).
//!
//! Pure arithmetic, run by every worker. Sums are ones-complement and congruent modulo 65535; the
//! folded form is unique but for the two spellings of zero, 0 and 0xffff. Only data of zeros alone
//! sums to 0, and no packet is that; so an update gives the same bits as a full sum would.

use crate::address::Address;

/// Low 32 bits.
const LOW: u64 = 0xffff_ffff;

/// Folds a sum of words to 16 bits; 0 only for 0.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // The upper half of a number plus its halves swapped is the sum of both halves, carry included;
    // twice. It cannot carry again, for two halves sum to at most twice the largest.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Eight bytes as two words of 32 bits, added.
#[inline(always)]
const fn pair(word: u64) -> u64 {
    (word & LOW) + (word >> 32)
}

/// The ones-complement sum of `bytes` as big-endian 16-bit words, not inverted; an odd last byte
/// is the upper half of its word (RFC 1071). 0xffff for data that holds its own right checksum.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // Words are added as the processor loads them: the sum is the same but for one swap at the
    // end (RFC 1071 section 2(B)). A u64 has room for 2^31 pairs, so nothing wraps.
    let (chunks, rest) = bytes.as_chunks::<8>();
    let total = chunks
        .iter()
        .fold(0_u64, |total, chunk| total.wrapping_add(pair(u64::from_ne_bytes(*chunk))));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    u16::from_be(fold(total.wrapping_add(pair(u64::from_ne_bytes(last)))))
}

/// The sum of two sums; `bytes` of even length and what follows them may be summed apart.
#[inline]
#[must_use]
pub const fn add(a: u16, b: u16) -> u16 {
    fold(a as u64 + b as u64)
}

/// The checksum that belongs to a sum.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u16) -> u16 {
    !sum
}

/// The checksum of `bytes` alone, as in an IPv4 header or an ICMPv4 message: to be written if the
/// checksum field among them is zero, and 0 if the field is filled in rightly.
#[inline]
#[must_use]
pub fn plain(bytes: &[u8]) -> u16 {
    finish(sum(bytes))
}

/// The checksum of a transport segment with its pseudo-header (RFC 9293 section 3.1, RFC 768, RFC
/// 8200 section 8.1): to be written if the checksum field in `segment` is zero, and 0 if the field
/// is filled in rightly. UDP writes 0xffff for 0. `segment` is at most 65535 bytes long.
#[inline]
#[must_use]
pub fn transport(source: Address, destination: Address, protocol: u8, segment: &[u8]) -> u16 {
    // The prefix ::ffff of a mapped IPv4 address adds 0xffff, which is zero.
    let addresses = whole(source).wrapping_add(whole(destination));
    let rest = u64::from(protocol) + u64::from(sum(segment));
    finish(fold(addresses.wrapping_add(segment.len() as u64 & LOW).wrapping_add(rest)))
}

/// Whether the checksum field of a segment of `length` bytes holds no more than the sum of its
/// pseudo-header: what Linux leaves there for an interface to complete (`CHECKSUM_PARTIAL`,
/// `include/linux/skbuff.h`). A veth does not, and its peer's AF_XDP socket gets the packet so.
#[must_use]
pub fn is_partial(
    source: Address,
    destination: Address,
    protocol: u8,
    length: u16,
    field: u16,
) -> bool {
    let addresses = whole(source).wrapping_add(whole(destination));
    fold(addresses.wrapping_add(u64::from(length)).wrapping_add(u64::from(protocol))) == field
}

/// All words of an address added; at most four words of 32 bits.
#[inline(always)]
const fn whole(address: Address) -> u64 {
    let (high, low) = address.halves();
    pair(high).wrapping_add(pair(low))
}

/// Changes to words under a checksum, collected and applied at once (RFC 1624 equation 3).
///
/// What was not changed is not looked at: an incoming checksum that is wrong stays wrong by the
/// same difference, and the receiver finds the damage. Room for 2^30 changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Update(u64);

impl Update {
    /// No change.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A 16-bit word, at an even offset, was `old` and becomes `new`.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0.wrapping_add(!old as u64 + new as u64))
    }

    /// Two words were `old` and become `new`.
    #[inline(always)]
    #[must_use]
    pub const fn long(self, old: u32, new: u32) -> Self {
        Self(self.0.wrapping_add(!old as u64 + new as u64))
    }

    /// An address was `old` and becomes `new`: the 32 bits of IPv4, or the 128 of IPv6. Of mixed
    /// families the IPv4 one counts as mapped, which is right for a pseudo-header.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, old: Address, new: Address) -> Self {
        if old.is_v4() && new.is_v4() {
            self.long(old.v4_bits(), new.v4_bits())
        } else {
            let old = Address::from_bits(!old.bits());
            Self(self.0.wrapping_add(whole(old)).wrapping_add(whole(new)))
        }
    }

    /// Four words were `old` and become `new`.
    #[inline(always)]
    #[must_use]
    pub const fn quad(self, old: u64, new: u64) -> Self {
        Self(self.0.wrapping_add(pair(!old)).wrapping_add(pair(new)))
    }

    /// The checksum after the changes. One that is right stays right.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0.wrapping_add(!checksum as u64))
    }

    /// The same for UDP: 0 means "no checksum" and stays (RFC 768; IPv4 only, the parser drops it
    /// for IPv6), and a result of 0 is written as 0xffff.
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_checksum_left_to_the_interface_is_told_from_a_whole_one() {
        let (a, b) = (Address::v4(0x0a00_0001), Address::v4(0x0a00_0002));
        // Of the pseudo-header 10.0.0.1, 10.0.0.2, 6, 20: 0a00+0001+0a00+0002+0006+0014.
        assert!(is_partial(a, b, 6, 20, 0x141d));
        let segment = [0; 20];
        let whole = transport(a, b, 6, &segment);
        assert_eq!(whole, !0x141d);
        assert!(!is_partial(a, b, 6, 20, whole));
    }

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_as_printed() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_is_not_off_by_minus_zero() {
        // Section 4: HC 0xdd2f, m 0x5555, m' 0x3285 must give 0x0000, where RFC 1141 gave 0xffff.
        assert_eq!(Update::new().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
        assert_eq!(Update::new().word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn nothing_changed_leaves_every_checksum_as_it_is() {
        for checksum in 0..=u16::MAX {
            assert_eq!(Update::new().apply(checksum), checksum);
            assert_eq!(Update::new().apply_udp(checksum), checksum);
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        assert_eq!(Update::new().long(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn sums_of_parts_add_up() {
        assert_eq!(add(sum(&[0xff, 0xfe]), sum(&[0x00, 0x03])), sum(&[0xff, 0xfe, 0x00, 0x03]));
        assert_eq!(add(0, 0), 0);
    }

    #[test]
    fn mixed_families_do_not_panic_and_count_as_mapped() {
        let v4 = Address::from(Ipv4Addr::new(192, 0, 2, 1));
        let v6 = Address::v6([0x20; 16]);
        let before = transport(v4, v4, 6, b"xvip");
        let after = Update::new().address(v4, v6).apply(before);
        assert_eq!(after, transport(v6, v4, 6, b"xvip"));
    }

    /// Bytes in which the words that trip checksums are frequent.
    fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], len)
    }

    fn word() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0), Just(0xffff), any::<u16>()]
    }

    proptest! {
        #[test]
        fn an_update_gives_the_bits_of_a_full_sum(
            mut data in bytes(8..128),
            edits in vec((any::<prop::sample::Index>(), word()), 0..6),
        ) {
            let even = data.len() / 2 - 1;
            data[0] = 0x45; // as in any packet, not everything is zero
            let before = plain(&data);
            let mut update = Update::new();
            for (index, new) in edits {
                let at = 2 + 2 * index.index(even);
                let old = u16::from_be_bytes([data[at], data[at + 1]]);
                data[at..at + 2].copy_from_slice(&new.to_be_bytes());
                update = update.word(old, new);
            }
            prop_assert_eq!(update.apply(before), plain(&data));
        }

        #[test]
        fn an_update_of_an_address_gives_the_bits_of_a_full_sum(
            source in any::<[u8; 16]>(), old in any::<[u8; 16]>(), new in any::<[u8; 16]>(),
            four in any::<bool>(), ports in any::<[u32; 2]>(), mut segment in bytes(8..64),
        ) {
            let family = |bytes: [u8; 16]| {
                let low = u128::from_be_bytes(bytes) as u32;
                if four { Address::v4(low) } else { Address::v6(bytes) }
            };
            let (source, old, new) = (family(source), family(old), family(new));
            segment[..4].copy_from_slice(&ports[0].to_be_bytes());
            let before = transport(source, old, 17, &segment);
            segment[..4].copy_from_slice(&ports[1].to_be_bytes());
            let update = Update::new().address(old, new).long(ports[0], ports[1]);
            prop_assert_eq!(update.apply(before), transport(source, new, 17, &segment));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong_by_the_same_difference(
            right in any::<u16>(), error in 1..0xffff_u16, old in word(), new in word(),
        ) {
            let update = Update::new().word(old, new);
            let wrong = add(right, error);
            let (right, wrong) = (update.apply(right), update.apply(wrong));
            prop_assert_eq!(add(right, error) % 0xffff, wrong % 0xffff);
        }

        #[test]
        fn etherparse_sums_alike(data in bytes(0..200)) {
            let theirs = etherparse::checksum::Sum16BitWords::new().add_slice(&data);
            prop_assert_eq!(plain(&data), theirs.ones_complement().to_be());
        }

        #[test]
        fn etherparse_gives_the_same_transport_checksums(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), payload in bytes(0..100),
            source_port: u16, destination_port: u16,
        ) {
            let mut header =
                etherparse::TcpHeader::new(source_port, destination_port, 7, 1000);
            let four = |b: [u8; 16]| Ipv4Addr::from_bits(u128::from_be_bytes(b) as u32);
            let (from, to) = (four(source), four(destination));
            let theirs = header
                .calc_checksum_ipv4_raw(from.octets(), to.octets(), &payload)
                .unwrap();
            header.checksum = 0;
            let segment = [&header.to_bytes()[..], &payload].concat();
            prop_assert_eq!(transport(from.into(), to.into(), 6, &segment), theirs);

            let theirs = header.calc_checksum_ipv6_raw(source, destination, &payload).unwrap();
            let six = |b| Address::from_bits(Ipv6Addr::from(b).to_bits());
            prop_assert_eq!(transport(six(source), six(destination), 6, &segment), theirs);
        }
    }
}
