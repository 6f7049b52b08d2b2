//! In which order the flows are served: pseudo-randomly, each once in a round.
//!
//! Pure. Neighbours in time are no neighbours in number, so that the device under test gets no
//! locality of its tables as a gift that real traffic would not bring.

/// A permutation of `0..count`, gone through again and again.
#[derive(Clone, Debug)]
pub struct Order {
    count: u32,
    mask: u32,
    shift: u32,
    salt: u32,
    at: u32,
}

impl Order {
    /// An order of `count` numbers, at least one, that depends on `seed`.
    #[must_use]
    pub fn new(count: u32, seed: u64) -> Self {
        let count = count.max(1);
        let bits = 32 - (count - 1).leading_zeros();
        let mask = ((1_u64 << bits) - 1) as u32;
        Self { count, mask, shift: bits / 2 + 1, salt: (seed ^ seed >> 32) as u32, at: 0 }
    }

    /// The next number.
    #[inline(always)]
    pub fn draw(&mut self) -> u32 {
        loop {
            let number = self.mix(self.at);
            self.at = self.at.wrapping_add(1) & self.mask;
            // At most every second number is out of range.
            if number < self.count {
                return number;
            }
        }
    }

    /// One-to-one on the numbers up to `mask`: adding, multiplying by odd numbers and shifted xor
    /// can all be undone.
    #[inline(always)]
    fn mix(&self, at: u32) -> u32 {
        let mut x = at.wrapping_add(self.salt) & self.mask;
        x = x.wrapping_mul(0x9e37_79b1) & self.mask;
        x ^= x >> self.shift;
        x = x.wrapping_mul(0x85eb_ca6b) & self.mask;
        x ^= x >> self.shift;
        x.wrapping_mul(0xc2b2_ae35) & self.mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_number_comes_once_in_every_round(count in 1_u32..5_000, seed: u64) {
            let mut order = Order::new(count, seed);
            for _ in 0..2 {
                let mut round: Vec<u32> = (0..count).map(|_| order.draw()).collect();
                round.sort_unstable();
                prop_assert!(round.into_iter().eq(0..count));
            }
        }
    }

    #[test]
    fn neighbours_in_time_are_far_apart_and_runs_differ() {
        let take = |seed| {
            let mut order = Order::new(100_000, seed);
            (0..1000).map(|_| order.draw()).collect::<Vec<_>>()
        };
        let numbers = take(1);
        let near = numbers.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 64).count();
        assert!(near < 10, "{near} of 1000 are neighbours");
        let mut gaps: Vec<_> = numbers.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
        gaps.sort_unstable();
        gaps.dedup();
        assert!(gaps.len() > 900, "a stride that repeats can be learned: {} gaps", gaps.len());
        assert_ne!(numbers, take(2));
    }
}
