//! Sizes of data frames.
//!
//! A size is that of the whole Ethernet frame on a wire, frame check sequence included, as RFC 2544
//! has it: a 64-byte frame is 60 bytes in memory. Pure.

use std::fmt;
use std::str::FromStr;

use crate::spec::Protocol;
use crate::stamp;

/// Frame check sequence, which the interface adds.
pub const FCS: u16 = 4;
/// Preamble and gap between frames on a wire, in bytes.
pub const GAP: u16 = 20;
/// Smallest frame of Ethernet.
pub const SIZE_MIN: u16 = 64;
/// Largest frame: an MTU of 1,500.
pub const SIZE_MAX: u16 = 1518;
/// Ethernet header.
const ETHERNET: u16 = 14;

/// Sizes of IMIX, smallest first.
pub const IMIX_SIZES: [u16; 3] = [64, 570, 1518];
/// How many of each size there are among 12 packets.
pub const IMIX_SHARES: [u16; 3] = [7, 4, 1];
/// The 12 packets of a round as indexes into [`IMIX_SIZES`], large ones apart from each other.
pub const IMIX_ROUND: [u8; 12] = [0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 1];

/// Size of the data frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// All the same.
    Fixed(u16),
    /// 7 of 64, 4 of 570 and 1 of 1,518 bytes among each 12.
    Imix,
}

impl Size {
    /// Size of packet `n`; at least `least` ([`least`]).
    #[must_use]
    pub fn of(self, n: u64, least: u16) -> u16 {
        match self {
            Self::Fixed(size) => size.max(least),
            Self::Imix => {
                let turn = IMIX_ROUND[(n % IMIX_ROUND.len() as u64) as usize];
                IMIX_SIZES[usize::from(turn)].max(least)
            }
        }
    }

    /// Mean size of a frame that is at least `least`.
    #[must_use]
    pub fn mean(self, least: u16) -> f64 {
        match self {
            Self::Fixed(size) => f64::from(size.max(least)),
            Self::Imix => {
                let pairs = IMIX_SIZES.iter().zip(IMIX_SHARES);
                let sum: u32 = pairs
                    .map(|(size, share)| u32::from(*size.max(&least)) * u32::from(share))
                    .sum();
                f64::from(sum) / IMIX_ROUND.len() as f64
            }
        }
    }

    /// Bits on a wire that a packet of at least `least` takes on average: frame, preamble and gap.
    #[must_use]
    pub fn wire_bits(self, least: u16) -> f64 {
        (self.mean(least) + f64::from(GAP)) * 8.0
    }

    /// The largest frame that occurs.
    #[must_use]
    pub fn largest(self) -> u16 {
        match self {
            Self::Fixed(size) => size,
            Self::Imix => IMIX_SIZES[IMIX_SIZES.len() - 1],
        }
    }
}

/// Smallest frame that holds a stamp.
#[must_use]
pub fn least(v6: bool, protocol: Protocol) -> u16 {
    let ip = if v6 { 40 } else { 20 };
    let rest = match protocol {
        Protocol::Tcp => 20 + stamp::TCP_PAYLOAD as u16,
        Protocol::Udp => 8 + stamp::UDP_PAYLOAD as u16,
    };
    (ETHERNET + ip + rest + FCS).max(SIZE_MIN)
}

/// MTU that an interface needs for a frame of this size.
#[must_use]
pub fn mtu(size: u16) -> u16 {
    size.saturating_sub(ETHERNET + FCS)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    /// `64` to `1518`, or `imix`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Self::Imix);
        }
        let expected = format!("expected {SIZE_MIN} to {SIZE_MAX} bytes or imix");
        let size: u16 = text.parse().map_err(|_| expected.clone())?;
        match size {
            SIZE_MIN..=SIZE_MAX => Ok(Self::Fixed(size)),
            0..SIZE_MIN => Err(format!("smaller than an Ethernet frame can be; {expected}")),
            _ => Err(format!("larger than an MTU of 1500 allows; {expected}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let mut counts = [0; 3];
        for n in 0..1200 {
            let size = Size::Imix.of(n, SIZE_MIN);
            counts[IMIX_SIZES.iter().position(|s| *s == size).unwrap()] += 1;
        }
        assert_eq!(counts, [700, 400, 100]);
        let mean = (0..12).map(|n| f64::from(Size::Imix.of(n, 84))).sum::<f64>() / 12.0;
        assert!((Size::Imix.mean(84) - mean).abs() < 1e-9);
    }

    #[test]
    fn a_stamp_fits_the_smallest_frame_of_ipv4_and_raises_that_of_ipv6() {
        assert_eq!([least(false, Protocol::Tcp), least(false, Protocol::Udp)], [64, 64]);
        assert_eq!([least(true, Protocol::Tcp), least(true, Protocol::Udp)], [84, 80]);
        assert_eq!(Size::Fixed(64).of(3, 84), 84);
    }

    #[test]
    fn line_rate_of_gigabit_ethernet_is_that_of_rfc_2544() {
        assert!((1e9 / Size::Fixed(64).wire_bits(SIZE_MIN) - 1_488_095.2).abs() < 0.1);
        assert!((1e9 / Size::Fixed(1518).wire_bits(SIZE_MIN) - 81_274.4).abs() < 0.1);
        assert_eq!(mtu(1518), 1500);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!("128".parse(), Ok(Size::Fixed(128)));
        assert_eq!("IMIX".parse(), Ok(Size::Imix));
        for text in ["63", "0", "1519", "65536", "-1", "64.5", "", "jumbo"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.contains("expected 64 to 1518 bytes or imix"), "{text}: {error}");
        }
    }
}
