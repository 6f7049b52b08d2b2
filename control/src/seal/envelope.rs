//! Puts a proof on messages, and looks at those that come.

use std::borrow::Cow;
use std::fmt;

use ring::{aead, hmac};
use subtle::ConstantTimeEq;

use crate::seal::keyring::{Derived, Mode};
use crate::seal::{Refused, TAG};

const PLAIN: u8 = 0;
const PROVED: u8 = 1;
const ENCRYPTED: u8 = 2;
/// Form and key.
const HEAD: usize = 2;
const COUNTER: usize = 8;

/// How sure it is where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Not at all.
    None,
    /// It has a proof.
    Proved,
    /// It has one, and nobody else has read it.
    Encrypted,
}

/// A message that was opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// What was sealed.
    pub body: Cow<'a, [u8]>,
    /// How sure it is where it comes from.
    pub proof: Proof,
}

/// Seals what we send in one context.
pub struct Sealer {
    key: Option<Derived>,
    plain: bool,
    /// Number of the next encrypted message: never used twice with one key.
    counter: u64,
}

/// Opens what comes in one context.
pub struct Opener {
    keys: Vec<Derived>,
    mode: Mode,
}

impl Sealer {
    pub(super) fn new(key: Option<Derived>, mode: Mode) -> Self {
        Self { plain: mode == Mode::ReceiveOnly || key.is_none(), key, counter: 0 }
    }

    /// With a proof; plain if the mode is receive-only.
    #[must_use]
    pub fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + body.len() + TAG);
        match &self.key {
            Some(key) if !self.plain => {
                out.extend([PROVED, key.id]);
                out.extend(body);
                let tag = hmac::sign(&key.proof, &out);
                out.extend(&tag.as_ref()[..TAG]);
            }
            _ => {
                out.extend([PLAIN, 0]);
                out.extend(body);
            }
        }
        out
    }

    /// Encrypted. None: there is no key, no session, or it has lasted for 2^64 messages.
    #[must_use]
    pub fn encrypt(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let key = self.key.as_ref()?;
        let cipher = key.cipher.as_ref()?;
        let counter = self.counter;
        self.counter = counter.checked_add(1)?;
        let mut out = Vec::with_capacity(HEAD + COUNTER + body.len() + TAG);
        out.extend([ENCRYPTED, key.id]);
        out.extend(counter.to_be_bytes());
        let mut secret = body.to_vec();
        let head = aead::Aad::from(out.as_slice());
        let tag = cipher.seal_in_place_separate_tag(nonce(counter), head, &mut secret).ok()?;
        out.extend(secret);
        out.extend(tag.as_ref());
        Some(out)
    }
}

impl Opener {
    pub(super) const fn new(keys: Vec<Derived>, mode: Mode) -> Self {
        Self { keys, mode }
    }

    /// Looks at the proof.
    ///
    /// # Errors
    /// Malformed, unknown key, bad proof.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<Opened<'a>, Refused> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(Refused::Malformed)?;
        match (head[0], head[1]) {
            (PLAIN, 0) if self.mode == Mode::Enforce => Err(Refused::BadMac),
            (PLAIN, 0) => Ok(Opened { body: Cow::Borrowed(rest), proof: Proof::None }),
            (PROVED, id) => {
                let (message, tag) = cut(bytes, HEAD)?;
                let right = hmac::sign(&self.key(id)?.proof, message);
                if !bool::from(right.as_ref()[..TAG].ct_eq(tag)) {
                    return Err(Refused::BadMac);
                }
                let body = Cow::Borrowed(&message[HEAD..]);
                Ok(Opened { body, proof: Proof::Proved })
            }
            (ENCRYPTED, id) => {
                cut(bytes, HEAD + COUNTER)?;
                let cipher = self.key(id)?.cipher.as_ref().ok_or(Refused::BadMac)?;
                let (head, secret) = bytes.split_at(HEAD + COUNTER);
                let counter = head[HEAD..].try_into().map_err(|_| Refused::Malformed)?;
                let (aad, mut body) = (aead::Aad::from(head), secret.to_vec());
                let nonce = nonce(u64::from_be_bytes(counter));
                let length =
                    cipher.open_in_place(nonce, aad, &mut body).map_err(|_| Refused::BadMac)?.len();
                body.truncate(length);
                Ok(Opened { body: Cow::Owned(body), proof: Proof::Encrypted })
            }
            _ => Err(Refused::Malformed),
        }
    }

    fn key(&self, id: u8) -> Result<&Derived, Refused> {
        self.keys.iter().find(|k| k.id == id).ok_or(Refused::UnknownKey)
    }
}

/// The message, at least `least` bytes, and the tag at its end.
fn cut(bytes: &[u8], least: usize) -> Result<(&[u8], &[u8]), Refused> {
    match bytes.len().checked_sub(TAG) {
        Some(end) if end >= least => Ok(bytes.split_at(end)),
        _ => Err(Refused::Malformed),
    }
}

fn nonce(counter: u64) -> aead::Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    aead::Nonce::assume_unique_for_key(bytes)
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("mode", &self.mode).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
