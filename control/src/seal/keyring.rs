//! The operator's keys, and those that are made of them.

use std::fmt;
use std::sync::Arc;

use ring::{aead, hkdf, hmac};
use zeroize::Zeroizing;

use crate::seal::{Opener, Sealer};

/// Fewest and most bytes of a key.
const SECRET: std::ops::RangeInclusive<usize> = 32..=64;
/// Most keys at a time: an old one, a new one, and some room.
const KEYS_MAX: usize = 8;

/// Steps by which authentication is brought in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// We send no proof; one that comes must be right.
    ReceiveOnly,
    /// We send proofs; messages without one are taken.
    Permissive,
    /// We send proofs, and take nothing without one.
    #[default]
    Enforce,
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Heartbeats.
    Beat,
    /// Replication.
    Stream,
    /// Comparison of the configurations.
    Config,
}

/// What a subkey is for.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What the messages are for.
    pub purpose: Purpose,
    /// Name of the node that sends them.
    pub from: &'a str,
    /// Name of the one that they are for.
    pub to: &'a str,
    /// Random numbers of both sides that no other session has; empty outside of sessions, and then
    /// nothing can be encrypted.
    pub session: &'a [u8],
}

/// A secret, and the number that both nodes know it by.
struct Key {
    id: u8,
    secret: Zeroizing<Vec<u8>>,
}

/// The operator's keys; the first is used to send. The secrets are wiped when the last copy goes; what
/// is derived from them lives in sealers and openers, and is not.
#[derive(Clone)]
pub struct Keyring {
    keys: Arc<[Key]>,
    mode: Mode,
}

/// Why keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not hexadecimal digits, or too few, or too many.
    #[error(
        "key {0} is not 32 to 64 bytes as hexadecimal digits: make one with `openssl rand -hex 32`"
    )]
    Secret(u8),
    /// The number is there twice.
    #[error("key {0} is there twice: give each key its own id")]
    Twice(u8),
    /// Key ids begin with 1.
    #[error("0 is no id of a key: ids are 1 to 255")]
    Zero,
    /// Too many.
    #[error("{0} keys: at most 8 can be known at a time")]
    Many(usize),
    /// Proofs are wanted and there is nothing to make them with.
    #[error("no key: authentication needs one, in every mode but receive-only")]
    None,
}

impl Keyring {
    /// Takes the contents of the key files, in the order of the configuration.
    ///
    /// # Errors
    /// They are no keys, or not enough for the mode.
    pub fn parse(mode: Mode, files: &[(u8, &str)]) -> Result<Self, KeyError> {
        if files.is_empty() && mode != Mode::ReceiveOnly {
            return Err(KeyError::None);
        }
        if files.len() > KEYS_MAX {
            return Err(KeyError::Many(files.len()));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(files.len());
        for &(id, text) in files {
            if id == 0 {
                return Err(KeyError::Zero);
            }
            if keys.iter().any(|k| k.id == id) {
                return Err(KeyError::Twice(id));
            }
            let secret = unhex(text.trim()).ok_or(KeyError::Secret(id))?;
            keys.push(Key { id, secret });
        }
        Ok(Self { keys: keys.into(), mode })
    }

    /// What is asked of messages.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// For what we send: exactly one for each context that has a session, or encryption is lost.
    #[must_use]
    pub fn sealer(&self, context: &Context<'_>) -> Sealer {
        let key = self.keys.first().map(|k| k.derive(context));
        Sealer::new(key, self.mode)
    }

    /// For what comes.
    #[must_use]
    pub fn opener(&self, context: &Context<'_>) -> Opener {
        Opener::new(self.keys.iter().map(|k| k.derive(context)).collect(), self.mode)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.keys.iter().map(|k| k.id).collect();
        f.debug_struct("Keyring").field("ids", &ids).field("mode", &self.mode).finish()
    }
}

/// What one context has of one key.
pub(super) struct Derived {
    pub(super) id: u8,
    pub(super) proof: hmac::Key,
    /// Only in a session.
    pub(super) cipher: Option<aead::LessSafeKey>,
}

impl Key {
    fn derive(&self, context: &Context<'_>) -> Derived {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, context.session);
        let secret = salt.extract(&self.secret);
        let expand = |form: &str| {
            let purpose = match context.purpose {
                Purpose::Beat => "beat",
                Purpose::Stream => "stream",
                Purpose::Config => "config",
            };
            let mut info = Vec::new();
            for part in ["xvip 1", form, purpose, context.from, context.to] {
                info.extend((part.len() as u32).to_be_bytes());
                info.extend(part.as_bytes());
            }
            expand(&secret, &info)
        };
        let proof = hmac::Key::new(hmac::HMAC_SHA256, expand("proof").as_ref());
        let cipher = (context.session.len() >= 16).then(|| {
            let key = expand("cipher");
            let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.as_ref());
            aead::LessSafeKey::new(key.expect("32 bytes are what this cipher takes"))
        });
        Derived { id: self.id, proof, cipher }
    }
}

/// HKDF-Expand to 32 bytes.
fn expand(secret: &hkdf::Prk, info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let made = secret.expand(&[info], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut *out));
    made.expect("32 bytes are one block of SHA-256, which is always to be had");
    out
}

fn unhex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |c: u8| (c as char).to_digit(16);
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) || !SECRET.contains(&(bytes.len() / 2)) {
        return None;
    }
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len() / 2));
    for pair in bytes.chunks_exact(2) {
        out.push((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subkeys_are_those_of_rfc_5869() {
        // Appendix A.1, its first 32 bytes: a longer output begins with them.
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(&[0x0b; 22]);
        let wanted = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf";
        assert_eq!(expand(&prk, &info)[..], unhex(wanted).unwrap()[..]);
        // Appendix A.3: neither salt nor info.
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&[0x0b; 22]);
        let wanted = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
        assert_eq!(expand(&prk, &[])[..], unhex(wanted).unwrap()[..]);
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_remedy_and_never_shown() {
        let good = "00".repeat(32);
        let parse = |files: &[(u8, &str)]| Keyring::parse(Mode::Enforce, files);
        assert_eq!(parse(&[]).unwrap_err(), KeyError::None);
        assert_eq!(parse(&[(0, &good)]).unwrap_err(), KeyError::Zero);
        assert_eq!(parse(&[(1, &good), (1, &good)]).unwrap_err(), KeyError::Twice(1));
        for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"0g".repeat(32), &"é".repeat(32)]
        {
            assert_eq!(parse(&[(7, bad)]).unwrap_err(), KeyError::Secret(7), "{bad}");
        }
        assert_eq!(parse(&[(7, &"00".repeat(65))]).unwrap_err(), KeyError::Secret(7));
        assert_eq!(parse(&vec![(9, good.as_str()); 9]).unwrap_err(), KeyError::Many(9));
        let secret = "ab".repeat(32) + "\n";
        let keyring = parse(&[(3, &secret)]).unwrap();
        assert_eq!(format!("{keyring:?}"), "Keyring { ids: [3], mode: Enforce }");
        assert!(Keyring::parse(Mode::ReceiveOnly, &[]).is_ok());
    }
}
