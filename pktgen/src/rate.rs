//! How fast: rates as people write them, and the pace that follows from one.
//!
//! Pure. The pace is open-loop: what is due depends on the time alone, never on what was sent or
//! came back, so that a stall shows up as lateness and not as a lower rate.

use std::fmt;
use std::str::FromStr;

/// Highest rate of bits: 100 Gbit/s.
pub const BITS_MAX: f64 = 100e9;
/// Highest rate of packets: one a nanosecond, the finest pace there is.
pub const PACKETS_MAX: f64 = 1e9;
/// Lowest rate of packets.
pub const PACKETS_MIN: f64 = 1.0;

/// A rate of packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Packets a second.
    Packets(f64),
    /// Bits a second on a wire: frame, frame check sequence, preamble and gap.
    Bits(f64),
}

impl Rate {
    /// Packets a second, of packets that take this many bits on a wire.
    #[must_use]
    pub fn pps(self, wire_bits: f64) -> f64 {
        match self {
            Self::Packets(pps) => pps,
            Self::Bits(bps) => bps / wire_bits,
        }
    }

    /// Whether there is such a rate of packets that take this many bits on a wire.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, wire_bits: f64) -> Result<(), String> {
        let pps = self.pps(wire_bits);
        let faults = [
            (!pps.is_finite() || pps <= 0.0, "a rate has to be above 0"),
            (pps > PACKETS_MAX, "finer than one packet a nanosecond, which no clock can pace"),
            (pps * wire_bits > BITS_MAX, "more than 100 Gbit/s"),
            (pps < PACKETS_MIN, "less than one packet a second"),
        ];
        match faults.iter().find(|(fault, _)| *fault) {
            Some((_, why)) => Err((*why).to_owned()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self {
            Self::Packets(value) => (*value, "pps"),
            Self::Bits(value) => (*value, "bit"),
        };
        write!(f, "{}{unit}", Scaled(value))
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `1.2mpps`, `500kpps`, `900pps`, `1gbit`, `800mbit`; case does not matter.
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected packets or bits a second, like 1.2mpps or 800mbit";
        let lower = text.trim().to_ascii_lowercase();
        let lower = lower.strip_suffix("/s").unwrap_or(&lower);
        let (number, make): (_, fn(f64) -> Self) = if let Some(n) = lower.strip_suffix("pps") {
            (n, Self::Packets)
        } else if let Some(n) = lower.strip_suffix("bit") {
            (n, Self::Bits)
        } else if scaled(lower).is_some() {
            return Err(format!("`{text}` has no unit: {text}pps or {text}bit?"));
        } else {
            return Err(EXPECTED.to_owned());
        };
        let value = scaled(number.trim_end()).ok_or(EXPECTED)?;
        if value > 0.0 { Ok(make(value)) } else { Err("a rate has to be above 0".to_owned()) }
    }
}

/// A number with an optional `k`, `m` or `g` after it; none if it is no such number, or negative.
#[must_use]
pub fn scaled(text: &str) -> Option<f64> {
    let lower = text.trim().to_ascii_lowercase();
    let (number, scale) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1e3),
        b'm' => (&lower[..lower.len() - 1], 1e6),
        b'g' => (&lower[..lower.len() - 1], 1e9),
        _ => (lower.as_str(), 1.0),
    };
    // `parse` would also take `inf`, `nan` and `1e300`.
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    number.parse::<f64>().ok().map(|n| n * scale).filter(|n| n.is_finite())
}

/// Displays as [`scaled`] reads: `1.2m`, `100k`, `64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaled(pub f64);

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = [(1e9, "g"), (1e6, "m"), (1e3, "k")];
        match steps.iter().find(|(step, _)| self.0 >= *step) {
            Some((step, letter)) => write!(f, "{}{letter}", self.0 / step),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Binary digits after the point in a pacer's times.
const FRACTION: u32 = 32;

/// An open-loop pace: packet `n`, counted from 0, is due at `n` times the period.
///
/// Times are nanoseconds since the start of the traffic. The period has 32 binary digits after the
/// point, so that the pace stays within a microsecond of the exact one over an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacer {
    /// In 2^-32 nanoseconds.
    period: u128,
    /// When packet 0 is due, in the same unit.
    offset: u128,
}

impl Pacer {
    /// `pps` packets a second, which is held to [`PACKETS_MIN`] to [`PACKETS_MAX`].
    #[must_use]
    pub fn new(pps: f64) -> Self {
        let pps = if pps.is_nan() { PACKETS_MIN } else { pps.clamp(PACKETS_MIN, PACKETS_MAX) };
        let period = 1e9 / pps * (1u64 << FRACTION) as f64;
        Self { period: period.round() as u128, offset: 0 }
    }

    /// Every `parts`th packet of this pace, from packet `part` on: the parts together are this pace
    /// exactly, evenly interleaved.
    #[must_use]
    pub fn part(self, part: u32, parts: u32) -> Self {
        let offset = self.offset + self.period * u128::from(part);
        Self { period: self.period * u128::from(parts.max(1)), offset }
    }

    /// How many packets are due by `elapsed`: packets 0 to one less than this.
    #[must_use]
    pub fn due(self, elapsed: u64) -> u64 {
        let end = (u128::from(elapsed) + 1) << FRACTION;
        match end.checked_sub(self.offset + 1) {
            Some(rest) => (rest / self.period) as u64 + 1,
            None => 0,
        }
    }

    /// When packet `n` is due.
    #[must_use]
    pub fn at(self, n: u64) -> u64 {
        ((u128::from(n) * self.period + self.offset) >> FRACTION) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in [
            ("1.2mpps", Rate::Packets(1.2e6)),
            ("500kpps", Rate::Packets(5e5)),
            ("900 pps", Rate::Packets(900.0)),
            ("1gbit", Rate::Bits(1e9)),
            ("1Gbit/s", Rate::Bits(1e9)),
            ("800mbit", Rate::Bits(8e8)),
        ] {
            assert_eq!(text.parse::<Rate>(), Ok(rate), "{text}");
            assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate), "{rate}");
        }
        for text in ["", "pps", "fast", "-1pps", "infpps", "nanbit", "1e9pps", "1.2.3kpps", "1xpps"]
        {
            assert!(text.parse::<Rate>().unwrap_err().contains("expected"), "{text}");
        }
        assert!("0pps".parse::<Rate>().unwrap_err().contains("above 0"));
        assert_eq!("100k".parse::<Rate>().unwrap_err(), "`100k` has no unit: 100kpps or 100kbit?");
    }

    #[test]
    fn impossible_rates_are_refused() {
        let why = |rate: Rate| rate.check(672.0).unwrap_err();
        assert!(why(Rate::Packets(1.1e9)).contains("nanosecond"));
        assert!(why(Rate::Bits(100.1e9)).contains("100 Gbit/s"));
        assert!(why(Rate::Packets(149e6)).contains("100 Gbit/s"));
        assert!(why(Rate::Packets(0.0)).contains("above 0"));
        assert!(why(Rate::Bits(f64::NAN)).contains("above 0"));
        assert!(why(Rate::Bits(500.0)).contains("less than one packet"));
        assert_eq!(Rate::Bits(100e9).check(672.0), Ok(()));
    }

    #[test]
    fn a_second_of_gigabit_has_as_many_packets_as_rfc_2544_says() {
        let pacer = Pacer::new(1e9 / 672.0);
        assert_eq!(pacer.due(0), 1);
        assert_eq!(pacer.due(999_999_999), 1_488_096);
    }

    #[test]
    fn an_hour_of_pace_does_not_drift() {
        const HOUR: u64 = 3_600_000_000_000;
        for pps in [1.0, 3.0, 1_488_095.238_095_238, 14_880_952.38, 1e9 / 3.0, 999_999_999.0] {
            let exact = pps * 3600.0;
            let due = Pacer::new(pps).due(HOUR) as f64;
            // A microsecond of the pace, and the packet at either end.
            assert!((due - exact).abs() <= 1.0 + pps * 1e-6, "{pps}: {due} of {exact}");
        }
    }

    proptest! {
        #[test]
        fn a_packet_is_due_exactly_when_it_is_counted_and_never_before(
            pps in 1.0..1e9, n in 0u64..3_600_000_000_000, part in 0u32..8,
        ) {
            for pacer in [Pacer::new(pps), Pacer::new(pps).part(part, 8)] {
                let at = pacer.at(n);
                prop_assert!(pacer.due(at) > n);
                if at > 0 {
                    prop_assert!(pacer.due(at - 1) <= n);
                }
            }
        }

        #[test]
        fn never_more_is_due_than_the_rate_allows(pps in 1.0..1e9, elapsed in 0u64..3_600_000_000_000) {
            let due = Pacer::new(pps).due(elapsed) as f64;
            let exact = (elapsed as f64 + 1.0) * pps / 1e9;
            prop_assert!(due <= exact + 1.0 + pps * 1e-6, "{} of {}", due, exact);
        }

        #[test]
        fn parts_together_are_the_whole(
            pps in 1.0..1e9, parts in 1u32..9, elapsed in 0u64..3_600_000_000_000,
        ) {
            let pacer = Pacer::new(pps);
            let sum: u64 = (0..parts).map(|part| pacer.part(part, parts).due(elapsed)).sum();
            prop_assert_eq!(sum, pacer.due(elapsed));
        }
    }
}
