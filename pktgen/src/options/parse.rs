//! Single values, from their texts. Every error says what is expected.

use std::net::IpAddr;
use std::time::Duration;

use crate::flow::Addresses;
use crate::rate::{BITS_MAX, PACKETS_MAX, scaled};
use crate::size::{GAP, SIZE_MIN};

/// Most cores, and queues of an interface.
pub(super) const CORES_MAX: usize = 64;

/// A number if it is one, else a string.
pub(super) fn literal(text: &str) -> serde_json::Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) if number.is_finite() => number.into(),
        _ => text.into(),
    }
}

/// A whole number from 1, like `1000`, `100k`, `1m`.
pub(super) fn count(text: &str, max: u32) -> Result<u32, String> {
    let number = scaled(text).filter(|n| n.fract() == 0.0);
    match number {
        Some(n) if n >= 1.0 && n <= f64::from(max) => Ok(n as u32),
        _ => Err(format!("expected a whole number from 1 to {max}, like 1000 or 100k")),
    }
}

/// A number of packets or connections a second; 0 is none.
pub(super) fn per_second(text: &str) -> Result<f64, String> {
    let number = text.to_ascii_lowercase();
    let number = scaled(number.strip_suffix("pps").unwrap_or(&number));
    let wire = f64::from(SIZE_MIN + GAP) * 8.0;
    match number {
        Some(n) if n * wire <= BITS_MAX && n <= PACKETS_MAX => Ok(n),
        Some(_) => Err("more than 100 Gbit/s of the smallest frames".to_owned()),
        None => Err("expected a number a second, like 5000 or 100k".to_owned()),
    }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match per_second(text)? {
        n if n >= 1.0 => Ok(n),
        _ => Err("expected at least 1 a second".to_owned()),
    }
}

/// A share from 0 to below 1, or of a hundred with `%`.
pub(super) fn share(text: &str) -> Result<f64, &'static str> {
    let (number, of) = text.strip_suffix('%').map_or((text, 1.0), |n| (n, 100.0));
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'e' || b == b'-');
    match number.parse::<f64>() {
        Ok(n) if plain && (0.0..1.0).contains(&(n / of)) => Ok(n / of),
        _ => Err("expected a share from 0 to below 1, like 0.001 or 0.1%"),
    }
}

/// Seconds, like `10`, `2.5`, `500ms`, `2m`.
pub(super) fn seconds(text: &str, max: f64) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1.0));
    match scaled(number).map(|n| n * unit) {
        Some(s) if (0.01..=max).contains(&s) && !number.ends_with(char::is_alphabetic) => {
            Ok(Duration::from_secs_f64(s))
        }
        _ => Err(format!("expected seconds from 0.01 to {max}, like 10, 2.5 or 500ms")),
    }
}

pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|p| *p > 0).ok_or("expected a port from 1 to 65535")
}

/// `ADDR` or `ADDR+COUNT`.
pub(super) fn addresses(text: &str) -> Result<Addresses, String> {
    const FORM: &str = "expected an address and how many from it on, like 198.18.0.1+100";
    let (first, number) = text.split_once('+').unwrap_or((text, "1"));
    let first: IpAddr = first.trim().parse().map_err(|_| FORM)?;
    let number = count(number.trim(), u32::MAX).map_err(|_| FORM)?;
    let range = Addresses::new(first, number)
        .ok_or_else(|| format!("there are not {number} addresses from {first} on"))?;
    unicast(first)?;
    unicast(range.get(number - 1))?;
    Ok(range)
}

/// Whether a host can have the address.
pub(super) fn unicast(address: IpAddr) -> Result<(), String> {
    let special = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] >= 240 || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    if special || address.is_multicast() || address.is_loopback() || address.is_unspecified() {
        return Err(format!("{address} is no address of a host on a network"));
    }
    Ok(())
}

/// The kernel's rule (`dev_valid_name`, `net/core/dev.c`).
pub(super) fn interface(text: &str) -> Result<String, &'static str> {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
    if fits && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("expected the name of an interface: 1 to 15 bytes without space, `/` or `:`")
    }
}

/// `0`, `0,2`, `1-3`.
pub(super) fn cores(text: &str) -> Result<Vec<usize>, String> {
    const FORM: &str = "expected cores like 0 or 0,2 or 1-3";
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last): (usize, usize) =
            (first.parse().map_err(|_| FORM)?, last.parse().map_err(|_| FORM)?);
        if last < first || last > 1023 {
            return Err(FORM.to_owned());
        }
        for core in first..=last {
            if cores.contains(&core) {
                return Err(format!("core {core} is listed twice"));
            }
            cores.push(core);
        }
    }
    if cores.len() > CORES_MAX { Err(format!("at most {CORES_MAX} cores")) } else { Ok(cores) }
}
