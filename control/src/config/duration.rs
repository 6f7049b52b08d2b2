//! Durations as people write them: `"1h30m"`, `"500ms"`, or an integer of seconds.

use std::time::Duration;

use crate::time::UNITS;
pub use crate::time::show_duration as show;

/// Reads a duration: numbers each with a unit, units in falling order, each at most once.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut below = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..letters])?;
        if *unit >= below {
            return None;
        }
        below = *unit;
        total = total.checked_add(number.checked_mul(*unit)?)?;
        rest = &rest[letters..];
    }
    (below != u64::MAX).then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, ms) in [
            ("500ms", Some(500)),
            ("90s", Some(90_000)),
            ("1h30m", Some(5_400_000)),
            ("365d", Some(31_536_000_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1m1h", None),
            ("1s1s", None),
            ("-1s", None),
            ("1.5s", None),
            (" 1s", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(parse(text), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn durations_read_back_what_is_shown() {
        for text in ["500ms", "1m30s", "1h30m", "365d", "2s250ms", "0s"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
