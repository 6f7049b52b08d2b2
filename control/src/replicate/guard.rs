//! Proof and secrecy of datagrams, over [`crate::seal`].
//!
//! The header stands in clear before what is sealed, so that what is not for us can be told without
//! any reckoning, and again within it, so that it is proved. Greetings are sealed with keys that
//! last; everything else with keys of the session, so that no number that a cipher needs is ever
//! used twice.

use super::datagram::{HEADER_BYTES, Header, Kind};
use crate::seal::{Context, Keyring, Opener, Proof, Purpose, Refused, Sealer};

/// One node's keys towards the other.
pub struct Guard {
    keys: Keyring,
    node: String,
    peer: String,
    /// Whether sessions are to be encrypted; they are if one of both wants it.
    encrypt: bool,
    greetings: (Sealer, Opener),
    session: Option<(Sealer, Opener)>,
    encrypted: bool,
}

impl Guard {
    /// `node` and `peer` are the names of the two nodes.
    #[must_use]
    pub fn new(keys: Keyring, node: &str, peer: &str, encrypt: bool) -> Self {
        let greetings = pair(&keys, (node, &[]), (peer, &[]));
        let (node, peer) = (node.to_owned(), peer.to_owned());
        Self { keys, node, peer, encrypt, greetings, session: None, encrypted: false }
    }

    pub(super) const fn wants_encryption(&self) -> bool {
        self.encrypt
    }

    /// Makes the keys of a session; `false` if it is to be encrypted and there is no key to do it
    /// with.
    pub(super) fn open_session(&mut self, mine: u64, theirs: u64, encrypted: bool) -> bool {
        let (ours, others) = (both(mine, theirs), both(theirs, mine));
        let (mut sealer, opener) = pair(&self.keys, (&self.node, &ours), (&self.peer, &others));
        let able = !encrypted || sealer.encrypt(&[]).is_some();
        self.session = able.then_some((sealer, opener));
        self.encrypted = encrypted;
        able
    }

    pub(super) fn close_session(&mut self) {
        self.session = None;
    }

    /// The datagram; `None` if it cannot be sealed as it has to be.
    pub(super) fn seal(&mut self, header: &Header, body: &[u8]) -> Option<Vec<u8>> {
        let clear = header.encode();
        let mut inner = Vec::with_capacity(HEADER_BYTES + body.len());
        inner.extend_from_slice(&clear);
        inner.extend_from_slice(body);
        let sealed = match (is_greeting(header), &mut self.session) {
            (true, _) => self.greetings.0.seal(&inner),
            (false, Some((sealer, _))) if self.encrypted => sealer.encrypt(&inner)?,
            (false, Some((sealer, _))) => sealer.seal(&inner),
            (false, None) => return None,
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + sealed.len());
        out.extend_from_slice(&clear);
        out.extend_from_slice(&sealed);
        Some(out)
    }

    /// The body of a datagram, if it and its header are what the peer has sealed.
    ///
    /// # Errors
    /// They are not.
    pub(super) fn open(&self, header: &Header, datagram: &[u8]) -> Result<Vec<u8>, Refused> {
        let (clear, sealed) = datagram.split_at_checked(HEADER_BYTES).ok_or(Refused::Malformed)?;
        let opener = match (is_greeting(header), &self.session) {
            (true, _) => &self.greetings.1,
            (false, Some((_, opener))) => opener,
            (false, None) => return Err(Refused::Foreign),
        };
        let opened = opener.open(sealed)?;
        if !is_greeting(header) && self.encrypted && opened.proof != Proof::Encrypted {
            return Err(Refused::BadMac);
        }
        match opened.body.split_at_checked(HEADER_BYTES) {
            Some((inner, body)) if inner == clear => Ok(body.to_vec()),
            Some(_) => Err(Refused::BadMac),
            None => Err(Refused::Malformed),
        }
    }
}

fn is_greeting(header: &Header) -> bool {
    matches!(header.kind, Kind::Hello | Kind::Welcome)
}

fn both(from: u64, to: u64) -> [u8; 16] {
    (u128::from(from) << 64 | u128::from(to)).to_be_bytes()
}

/// For what `us` sends and for what comes from `them`, each with the name of the sender and the
/// session.
fn pair(keys: &Keyring, us: (&str, &[u8]), them: (&str, &[u8])) -> (Sealer, Opener) {
    let context = |from, to, session| Context { purpose: Purpose::Stream, from, to, session };
    (keys.sealer(&context(us.0, them.0, us.1)), keys.opener(&context(them.0, us.0, them.1)))
}
