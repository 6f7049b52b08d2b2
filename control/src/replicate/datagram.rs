//! Bytes of the datagrams between two nodes. All numbers are big-endian.
//!
//! | bytes | header, of every datagram, never encrypted |
//! |---|---|
//! | 0–3 | `xvrp` |
//! | 4 | kind: 1 hello, 2 welcome, 3 data, 4 acknowledgement, 5 bye |
//! | 5 | version: of hello and welcome the highest the sender speaks, of others the session's |
//! | 6–7 | 0 |
//! | 8–15 | session of the sender |
//! | 16–23 | session of the receiver; 0: not known |
//! | 24–31 | number: of data its place in the stream, from 1 on; of others rising |
//!
//! The body follows, both as [`super::Guard`] seals them.

use super::limits::{BODY_MAX, WINDOW};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// Least bytes of a datagram: no body is shorter.
pub const DATAGRAM_LEAST: usize = HEADER_BYTES + BYE_BYTES;
/// Body of a bye: why. 1: control stops or has other settings; 2: its data plane is gone; 3:
/// another session is wanted.
pub const BYE_BYTES: usize = 1;
/// Bytes before each item in a body: its length (of what follows, two bytes) and its kind.
pub const ITEM_BYTES: usize = 3;
/// Bytes in which each bucket has a bit.
pub const BUCKET_BYTES: usize = dataplane_api::sync::BUCKETS / 8;

const MAGIC: [u8; 4] = *b"xvrp";

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks for a session; wants a welcome.
    Hello,
    /// Answers a hello.
    Welcome,
    /// Items of the stream.
    Data,
    /// What has arrived and what is applied.
    Ack,
    /// The session is over.
    Bye,
}

/// The clear part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is for.
    pub kind: Kind,
    /// Version.
    pub version: u8,
    /// Session of the sender; never 0.
    pub from: u64,
    /// Session of the receiver, as far as known.
    pub to: u64,
    /// Its number.
    pub number: u64,
}

/// Body of a hello and of a welcome; more bytes may follow in later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Lowest and highest version that the sender speaks.
    pub versions: (u8, u8),
    /// Datagrams that the sender keeps until it is their turn.
    pub window: u16,
    /// A welcome: the sender is in this session. A hello: false.
    pub open: bool,
    /// The sender wants the session to be encrypted.
    pub encrypt: bool,
}

/// Body of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// All data up to this number has been handed to the data plane.
    pub delivered: u64,
    /// All data up to this number is in its table, or refused and counted.
    pub applied: u64,
    /// The sender of this takes it that the receiver of this has all its connections.
    pub complete: bool,
    /// Bit `i` (from the top of each byte): `delivered + 1 + i` has arrived and waits.
    pub held: Vec<u8>,
}

/// Part of the body of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// Bytes of a [`dataplane_api::sync::Stream`].
    Stream(&'a [u8]),
    /// Buckets that the sender of this lacks, a bit each, from the top of each byte.
    Resend([u8; BUCKET_BYTES]),
}

/// These are not the bytes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Kind {
    const ALL: [Self; 5] = [Self::Hello, Self::Welcome, Self::Data, Self::Ack, Self::Bye];
}

impl Header {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.kind as u8 + 1;
        out[5] = self.version;
        out[8..16].copy_from_slice(&self.from.to_be_bytes());
        out[16..24].copy_from_slice(&self.to.to_be_bytes());
        out[24..].copy_from_slice(&self.number.to_be_bytes());
        out
    }

    /// Reads one from the front of a datagram.
    ///
    /// # Errors
    /// There is none.
    pub fn decode(datagram: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; HEADER_BYTES] = datagram.first_chunk().ok_or(Malformed)?;
        let kind = usize::from(bytes[4]).checked_sub(1).and_then(|at| Kind::ALL.get(at));
        let eight = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(number)
        };
        let header = Self {
            kind: *kind.ok_or(Malformed)?,
            version: bytes[5],
            from: eight(8),
            to: eight(16),
            number: eight(24),
        };
        let valid = bytes[..4] == MAGIC && bytes[6..8] == [0, 0] && header.from != 0;
        if valid { Ok(header) } else { Err(Malformed) }
    }
}

impl Greeting {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let window = self.window.to_be_bytes();
        let flags = u8::from(self.open) | u8::from(self.encrypt) << 1;
        vec![self.versions.0, self.versions.1, window[0], window[1], flags]
    }

    /// Reads one; what follows it is not looked at.
    ///
    /// # Errors
    /// It is too short or means nothing.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let [low, high, w0, w1, flags] = *body.first_chunk().ok_or(Malformed)?;
        let window = u16::from_be_bytes([w0, w1]);
        let valid = low <= high && window > 0;
        let (open, encrypt) = (flags & 1 != 0, flags & 2 != 0);
        let greeting = Self { versions: (low, high), window, open, encrypt };
        if valid { Ok(greeting) } else { Err(Malformed) }
    }
}

impl Ack {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17 + self.held.len());
        out.extend(self.delivered.to_be_bytes());
        out.extend(self.applied.to_be_bytes());
        out.push(u8::from(self.complete));
        out.extend(&self.held);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// Its length or its content cannot be.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (delivered, rest) = body.split_first_chunk().ok_or(Malformed)?;
        let (applied, rest) = rest.split_first_chunk().ok_or(Malformed)?;
        let (&complete, held) = rest.split_first().ok_or(Malformed)?;
        let ack = Self {
            delivered: u64::from_be_bytes(*delivered),
            applied: u64::from_be_bytes(*applied),
            complete: complete == 1,
            held: held.to_vec(),
        };
        let fits = held.len() <= usize::from(WINDOW) / 8 && complete <= 1;
        if fits && ack.applied <= ack.delivered { Ok(ack) } else { Err(Malformed) }
    }
}

impl Item<'_> {
    /// Appends it to a body.
    pub fn put(&self, body: &mut Vec<u8>) {
        let (kind, bytes) = match self {
            Self::Stream(bytes) => (1, *bytes),
            Self::Resend(buckets) => (2, &buckets[..]),
        };
        body.extend((bytes.len() as u16 + 1).to_be_bytes());
        body.push(kind);
        body.extend_from_slice(bytes);
    }
}

/// The items of a body.
///
/// # Errors
/// Something in it is none; nothing of it is to be used.
pub fn items(mut body: &[u8]) -> Result<Vec<Item<'_>>, Malformed> {
    let mut items = Vec::new();
    if body.len() > BODY_MAX {
        return Err(Malformed);
    }
    while !body.is_empty() {
        let (length, rest) = body.split_first_chunk().ok_or(Malformed)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (item, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        items.push(match item.split_first().ok_or(Malformed)? {
            (1, bytes) => Item::Stream(bytes),
            (2, bytes) => Item::Resend(bytes.try_into().map_err(|_| Malformed)?),
            _ => return Err(Malformed),
        });
        body = rest;
    }
    if items.is_empty() { Err(Malformed) } else { Ok(items) }
}

/// Numbers of the buckets whose bits are set.
pub fn buckets(bits: &[u8; BUCKET_BYTES]) -> Vec<u16> {
    (0..BUCKET_BYTES as u16 * 8).filter(|n| bit(bits, usize::from(*n))).collect()
}

/// Whether bit `at` is set, counted from the top of each byte.
#[must_use]
pub fn bit(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8).is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
}

/// Sets bit `at`; `false` if there is none.
pub fn set_bit(bits: &mut [u8], at: usize) -> bool {
    bits.get_mut(at / 8).map(|byte| *byte |= 0x80 >> (at % 8)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_stands_where_the_table_says_and_comes_back() {
        for kind in Kind::ALL {
            let header = Header { kind, version: 7, from: 0x1122, to: u64::MAX, number: 3 };
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes), Ok(header));
            assert_eq!(bytes[..6], [b'x', b'v', b'r', b'p', kind as u8 + 1, 7]);
            assert_eq!((bytes[14..16].to_vec(), bytes[31]), (vec![0x11, 0x22], 3));
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let good = Header { kind: Kind::Ack, version: 1, from: 1, to: 2, number: 3 }.encode();
        for length in 0..HEADER_BYTES {
            assert!(Header::decode(&good[..length]).is_err(), "{length} bytes");
        }
        for (at, value) in [(0, b'y'), (4, 0), (4, 6), (6, 1), (15, 0)] {
            let mut bytes = good;
            bytes[at] = value;
            assert!(Header::decode(&bytes).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn bodies_come_back_and_broken_ones_are_refused() {
        let greeting = Greeting { versions: (1, 3), window: 1024, open: true, encrypt: false };
        let mut bytes = greeting.encode();
        bytes.push(9);
        assert_eq!(Greeting::decode(&bytes), Ok(greeting), "a later version may say more");
        for bad in [&[2, 1, 4, 0, 0][..], &[1, 1, 0, 0, 0], &[1, 1, 4, 0]] {
            assert!(Greeting::decode(bad).is_err());
        }
        let ack = Ack { delivered: 9, applied: 7, complete: true, held: vec![0x80, 1] };
        assert_eq!(Ack::decode(&ack.encode()), Ok(ack.clone()));
        assert!(Ack::decode(&Ack { applied: 10, ..ack.clone() }.encode()).is_err());
        assert!(Ack::decode(&Ack { held: vec![0; 129], ..ack }.encode()).is_err());
    }

    #[test]
    fn items_come_back_and_half_ones_spoil_the_body() {
        let mut wanted = [0; BUCKET_BYTES];
        assert!(set_bit(&mut wanted, 9) && set_bit(&mut wanted, 255));
        assert!(!set_bit(&mut wanted, 256));
        let mut body = Vec::new();
        Item::Stream(&[1, 2, 3]).put(&mut body);
        Item::Resend(wanted).put(&mut body);
        assert_eq!(items(&body), Ok(vec![Item::Stream(&[1, 2, 3]), Item::Resend(wanted)]));
        assert_eq!(buckets(&wanted), [9, 255]);
        for length in (0..6).chain(7..body.len()) {
            assert!(items(&body[..length]).is_err(), "{length} bytes");
        }
        body[2] = 3;
        assert!(items(&body).is_err(), "an unknown kind");
    }
}
