//! Proof of origin, and secrecy where asked for, of what goes from node to node. Pure.
//!
//! Any thread uses it. Each pair of purpose, sender and receiver has a key of its own, derived from the
//! operator's: a message that comes back to its sender, or turns up in another exchange, does not open.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | form: 0 plain, 1 with a proof, 2 encrypted |
//! | 1 | id of the key; 0 in a plain one |
//! | 2– | body; encrypted: 8 bytes of counter, then the body's secret form |
//! | last 16 | forms 1 and 2: HMAC-SHA-256 (RFC 2104) of all before, cut to 128 bits; or the tag of ChaCha20-Poly1305 (RFC 8439) |
//!
//! The subkeys are HKDF-SHA-256 (RFC 5869) of the operator's key with the session as salt and with
//! `xvip 1`, form, purpose, sender and receiver as info, each with its length before it.

mod envelope;
mod keyring;
mod limiter;
mod replay;

pub use envelope::{Opened, Opener, Proof, Sealer};
pub use keyring::{Context, KeyError, Keyring, Mode, Purpose};
pub use limiter::Limiter;
pub use replay::{ECHOES, Echo, Guard, News};

use serde::{Deserialize, Serialize};

/// Bytes that sealing adds at most.
pub const OVERHEAD: usize = 2 + 8 + TAG;
/// Bytes of a proof.
pub(crate) const TAG: usize = 16;

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Not the form of one.
    Malformed,
    /// Not from the peer, not to us, or not for this path.
    Foreign,
    /// Its key is not one of ours.
    UnknownKey,
    /// The proof does not fit, or there is none and one is needed.
    BadMac,
    /// Older than, or the same as, one that was taken.
    Replayed,
    /// Made without knowing who we are in this life: nothing in it counts yet.
    Unproved,
    /// Too many came at once; it was not looked at.
    Limited,
    /// No common version.
    Version,
}

/// Messages refused, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// Not the form of one.
    pub malformed: u64,
    /// Not from the peer, not to us, or not for this path.
    pub foreign: u64,
    /// Their key is not one of ours.
    pub unknown_key: u64,
    /// The proof did not fit, or there was none and one was needed.
    pub bad_mac: u64,
    /// Older than, or the same as, one that was taken.
    pub replayed: u64,
    /// Made without knowing who we are in this life: a few of them are how each contact begins.
    pub unproved: u64,
    /// Too many came at once; they were not looked at.
    pub limited: u64,
    /// No common version.
    pub version: u64,
    /// Not refused, but taken without a proof, as the mode allows.
    pub plain: u64,
}

impl Refusals {
    /// Counts one.
    pub fn count(&mut self, why: Refused) {
        *match why {
            Refused::Malformed => &mut self.malformed,
            Refused::Foreign => &mut self.foreign,
            Refused::UnknownKey => &mut self.unknown_key,
            Refused::BadMac => &mut self.bad_mac,
            Refused::Replayed => &mut self.replayed,
            Refused::Unproved => &mut self.unproved,
            Refused::Limited => &mut self.limited,
            Refused::Version => &mut self.version,
        } += 1;
    }

    /// Names and numbers, for people and metrics.
    #[must_use]
    pub const fn list(&self) -> [(&'static str, u64); 8] {
        [
            ("malformed", self.malformed),
            ("foreign", self.foreign),
            ("unknown_key", self.unknown_key),
            ("bad_mac", self.bad_mac),
            ("replayed", self.replayed),
            ("unproved", self.unproved),
            ("limited", self.limited),
            ("version", self.version),
        ]
    }
}
