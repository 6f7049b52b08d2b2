//! The overrides as bytes of `overrides.json`: versioned, and with a check sum over the list, so
//! that a file that was cut, flipped or edited by hand is noticed and not half believed.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{OVERRIDES_MAX, Override, Overrides, RealKey};

/// Version of the file.
const VERSION: u32 = 1;
/// Longest file, in bytes; the most overrides there can be fit in half of it.
pub const FILE_MAX: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// CRC-32 (IEEE 802.3) of the bytes of `overrides`, in hexadecimal.
    crc32: String,
    overrides: Box<RawValue>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    real: RealKey,
    #[serde(rename = "override")]
    decided: Override,
}

/// The bytes of the file. What files of the maintenance directory say is not in it.
#[must_use]
pub fn encode(overrides: &Overrides) -> Vec<u8> {
    let entry = |(key, decided): (&RealKey, &Override)| Entry {
        real: key.clone(),
        decided: decided.clone(),
    };
    let list: Vec<Entry> = overrides.iter().map(entry).collect();
    // These types have string keys and no failing serialiser.
    let list = serde_json::to_string(&list).unwrap_or_else(|_| "[]".to_owned());
    let crc32 = checksum(&list);
    let text = RawValue::from_string(list)
        .and_then(|overrides| serde_json::to_vec(&File { version: VERSION, crc32, overrides }));
    let mut bytes = text.unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Reads the bytes of the file.
///
/// # Errors
/// Why they cannot be believed.
pub fn decode(bytes: &[u8]) -> Result<Overrides, String> {
    let file: File =
        serde_json::from_slice(bytes).map_err(|e| format!("not a file of overrides: {e}"))?;
    if file.version != VERSION {
        return Err(format!("version {} is not known, expected {VERSION}", file.version));
    }
    if checksum(file.overrides.get()) != file.crc32 {
        return Err("the check sum does not match: damaged, or edited by hand".to_owned());
    }
    let list: Vec<Entry> = serde_json::from_str(file.overrides.get())
        .map_err(|e| format!("an override is not understood: {e}"))?;
    if list.len() > OVERRIDES_MAX {
        return Err(format!("more than {OVERRIDES_MAX} overrides"));
    }
    let mut overrides = Overrides::default();
    for entry in list {
        overrides.reals.insert(entry.real, entry.decided);
    }
    Ok(overrides)
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}
