//! Where a connection in the table comes from: word 7 of its entry.
//!
//! | bits | content |
//! |---|---|
//! | 63 | it came from the peer (all others are 0 if not) |
//! | 48–62 | check of the bits below, never 0 |
//! | 32–47 | number of the pass in which the peer last named it, counted here |
//! | 0–31 | `Record::origin`: which life at the peer it stands for |
//!
//! Only the thread of replication makes a word that is not 0, and it replaces no word that is 0: so a
//! late write cannot hit the next owner of the line, which has 0 there unless it is that thread's own.

/// Whether a connection was opened here or came from the peer, and of which life there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Origin(pub(super) u64);

const IMPORTED: u64 = 1 << 63;

impl Origin {
    /// Opened here.
    pub const OWN: Self = Self(0);

    /// Came from the peer, which calls this life of it `life`, and last named it in pass `pass`.
    #[must_use]
    pub const fn imported(life: u32, pass: u16) -> Self {
        let low = (pass as u64) << 32 | life as u64;
        Self(IMPORTED | check(low) << 48 | low)
    }

    /// Whether it came from the peer.
    #[inline]
    #[must_use]
    pub const fn is_imported(self) -> bool {
        self.0 & IMPORTED != 0
    }

    /// What the peer calls this life of it.
    #[must_use]
    pub const fn life(self) -> u32 {
        self.0 as u32
    }

    /// The pass in which the peer last named it.
    #[must_use]
    pub const fn pass(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Whether this is a word that was written so.
    #[cfg(not(loom))]
    pub(super) const fn is_intact(self) -> bool {
        self.0 == 0 || self.0 == Self::imported(self.life(), self.pass()).0
    }
}

/// Fifteen bits, never 0.
const fn check(low: u64) -> u64 {
    let mixed = (low ^ 0x6a09_e667_f3bc_c909).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed >> 49 | 1
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_and_no_bit_can_flip_unnoticed() {
        for (life, pass) in [(0, 0), (u32::MAX, u16::MAX), (0xdead_beef, 7)] {
            let origin = Origin::imported(life, pass);
            assert_eq!((origin.life(), origin.pass(), origin.is_imported()), (life, pass, true));
            let others = (0..64).map(|bit| Origin(origin.0 ^ 1 << bit));
            assert!(origin.is_intact() && others.into_iter().all(|other| !other.is_intact()));
        }
        assert!(Origin::OWN.is_intact() && !Origin::OWN.is_imported());
        assert!((0..64).all(|bit| !Origin(1 << bit).is_intact()));
    }
}
