//! Numbers as people read them.

pub(super) use crate::median::median;

/// With a prefix of thousands: `1.49 M`, `844.6 k`, `64`. Three to four digits that mean something.
pub(super) fn si(value: f64) -> String {
    let (scaled, prefix) = scale(value);
    let digits = significant(scaled);
    if prefix.is_empty() { digits } else { format!("{digits} {prefix}") }
}

/// The same without needless zeros, for axes: `1 k`, `2.5 M`.
pub(super) fn tick(value: f64) -> String {
    let (scaled, prefix) = scale(value);
    let digits = trimmed(&format!("{scaled:.3}"));
    if prefix.is_empty() { digits } else { format!("{digits} {prefix}") }
}

fn scale(value: f64) -> (f64, &'static str) {
    let size = value.abs();
    match size {
        _ if size >= 1e9 => (value / 1e9, "G"),
        _ if size >= 1e6 => (value / 1e6, "M"),
        _ if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    }
}

/// At least three digits, as many before the point as there are.
pub(super) fn significant(value: f64) -> String {
    let size = value.abs();
    if size >= 99.95 || (size >= 1.0 && value.fract() == 0.0) || size == 0.0 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.0995 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

fn trimmed(text: &str) -> String {
    if !text.contains('.') {
        return text.to_owned();
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Nanoseconds as microseconds or milliseconds.
pub(super) fn time(nanos: f64) -> String {
    match nanos {
        _ if nanos >= 1e9 => format!("{} s", significant(nanos / 1e9)),
        _ if nanos >= 1e6 => format!("{} ms", significant(nanos / 1e6)),
        _ if nanos >= 1e3 => format!("{} µs", significant(nanos / 1e3)),
        _ => format!("{} ns", significant(nanos)),
    }
}

/// Bytes with a binary prefix.
pub(super) fn bytes(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes, "bytes");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{} {unit}", significant(value))
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", significant(share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_get_a_prefix() {
        let shown = [64.0, 1_488_095.0, 844_595.0, 0.97, 99.96, 1e10, 0.0, 12.0, 0.0312].map(si);
        let expected =
            ["64", "1.49 M", "845 k", "0.97", "100", "10 G", "0", "12", "0.0312"].map(String::from);
        assert_eq!(shown, expected);
        assert_eq!([1e3, 2.5e6, 0.5, 1e7, 100.0].map(tick), ["1 k", "2.5 M", "0.5", "10 M", "100"]);
        assert_eq!(time(83_500.0), "83.5 µs");
        assert_eq!(bytes(84.0 * 1e6), "80.1 MiB");
        assert_eq!(percent(0.9712), "97.1 %");
    }
}
