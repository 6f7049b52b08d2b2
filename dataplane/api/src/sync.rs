//! Frames on the replication socket, between control (client) and data plane (server).
//!
//! A frame is its length (four bytes, big-endian, of what follows), its kind (one byte) and its body;
//! all numbers big-endian. Both sides begin with [`Frame::Hello`]. One session at a time: a new one
//! ends the one before.
//!
//! Three sorts of frames:
//!
//! * the **stream** ([`Stream`]): what one data plane has for the other, in order. Control carries
//!   these bytes to the peer's control and from there into its data plane, and looks into them only
//!   to count;
//! * **orders**, from control to its data plane;
//! * **reports**, from the data plane to its control.

use crate::record::{RECORD_BYTES, Record};
use crate::service::GROUPS_MAX;

/// Largest frame, without the four bytes of its length.
pub const FRAME_MAX: usize = 1 + STREAM_MAX + 16;
/// Largest [`Stream`] item, kind included: with everything around it, it fits into one datagram of an
/// MTU of 1500 bytes.
pub const STREAM_MAX: usize = 1240;
/// Most records in one [`Stream::Changes`].
pub const RECORDS_MAX: usize = (STREAM_MAX - 9) / RECORD_BYTES;
/// Parts into which connections are divided, by their key, to find out where two tables differ.
pub const BUCKETS: usize = 256;
/// Buckets in one [`Stream::Digest`].
pub const DIGEST_PART: usize = 128;
/// A pass over all buckets.
pub const ALL: u16 = 0xffff;

/// What one data plane has for the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Changed connections, in the order of the changes.
    Changes {
        /// When the first of these changes happened: nanoseconds of the sender's monotonic clock.
        since_ns: u64,
        /// 1 to [`RECORDS_MAX`].
        records: Vec<Record>,
    },
    /// What follows up to [`Stream::End`] is all there is (changes that happen meanwhile between it).
    Begin {
        /// Number of the pass, from its order.
        pass: u16,
        /// Of this bucket, or of [`ALL`].
        bucket: u16,
    },
    /// What the receiver had of it from the sender before, and has not heard of since, is gone: of the
    /// groups that the sender owns. Of others it does not know enough to say so.
    End {
        /// As in [`Stream::Begin`].
        pass: u16,
        /// Likewise.
        bucket: u16,
        /// Connections sent in this pass.
        sent: u32,
        /// [`crate::record::tag`] of the name of each group of VIPs that the sender has owned from
        /// the pass's beginning to its end; at most [`crate::service::GROUPS_MAX`].
        owned: Vec<u32>,
    },
    /// What the receiver should have now.
    Digest {
        /// The first bucket of this part: 0 or [`DIGEST_PART`].
        first: u16,
        /// One for each bucket: exclusive or of the fingerprints of its connections.
        sums: Vec<u64>,
    },
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First, both ways.
    Hello {
        /// [`crate::VERSION`].
        version: u32,
    },
    /// The stream: from the data plane, for the peer; to the data plane, from the peer.
    Stream {
        /// Number of it in this session, from 1 on; to the data plane: comes back in
        /// [`Frame::Applied`].
        number: u64,
        /// What.
        item: Stream,
    },
    /// Order: send a full pass with this number, and from now on each change. Ends what went on.
    Start {
        /// Its number; each has another one.
        pass: u16,
    },
    /// Order: send nothing more.
    Stop,
    /// Order: send these buckets again.
    Resend {
        /// Number of the pass.
        pass: u16,
        /// Which.
        buckets: Vec<u16>,
    },
    /// Order: put a digest into the stream.
    Digest,
    /// Order: what was imported from the peer and is not owned here is to be kept alive (the peer is
    /// there and says when something ends), or to age as any other.
    Keep(bool),
    /// Report: everything up to this number is in the table, or has been refused and counted.
    Applied {
        /// Number of the last.
        number: u64,
    },
    /// Report: outcome of a digest that came from the peer: where our table differs.
    Differs {
        /// First bucket of the part.
        first: u16,
        /// Which; empty: none.
        buckets: Vec<u16>,
    },
    /// Report, ten times a second and at each pass's end.
    Standing(Standing),
}

/// How replication stands at the data plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The sender's monotonic clock, in nanoseconds.
    pub now_ns: u64,
    /// Connections here that the peer ought to know (established, closing, UDP, ties).
    pub worth: u32,
    /// Of them, those that have been put into the stream as they are.
    pub sent: u32,
    /// Changes that wait to be put into it.
    pub waiting: u32,
    /// Connections here that came from the peer.
    pub imported: u32,
    /// Changes lost because nobody fetched them; a full pass follows each time.
    pub overflows: u32,
    /// Records refused: service, VIP, real or local address is not known here.
    pub unknown: u32,
    /// Records refused: no room.
    pub no_room: u32,
    /// Records refused: the connection is our own.
    pub own: u32,
    /// Passes over all completed since the last [`Frame::Start`].
    pub passes: u32,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The length is 0 or more than [`FRAME_MAX`].
    Length(usize),
    /// No such kind.
    Kind(u8),
    /// The body does not fit its kind.
    Body(u8),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(length) => write!(f, "a frame of {length} bytes"),
            Self::Kind(kind) => write!(f, "a frame of unknown kind {kind}"),
            Self::Body(kind) => write!(f, "a frame of kind {kind} with a body that does not fit"),
        }
    }
}

impl std::error::Error for Malformed {}

impl Stream {
    /// Its bytes, at most [`STREAM_MAX`]: kind and body.
    ///
    /// # Panics
    /// With more records or sums than fit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(STREAM_MAX);
        match self {
            Self::Changes { since_ns, records } => {
                assert!((1..=RECORDS_MAX).contains(&records.len()), "{} records", records.len());
                out.push(1);
                out.extend(since_ns.to_be_bytes());
                records.iter().for_each(|r| out.extend(r.encode()));
            }
            Self::Begin { pass, bucket } => {
                out.push(2);
                put(&mut out, &[*pass, *bucket]);
            }
            Self::End { pass, bucket, sent, owned } => {
                assert!(owned.len() <= GROUPS_MAX, "{} groups", owned.len());
                out.push(3);
                put(&mut out, &[*pass, *bucket]);
                out.extend(sent.to_be_bytes());
                owned.iter().for_each(|tag| out.extend(tag.to_be_bytes()));
            }
            Self::Digest { first, sums } => {
                assert!(sums.len() <= DIGEST_PART, "{} sums", sums.len());
                out.push(4);
                put(&mut out, &[*first]);
                sums.iter().for_each(|s| out.extend(s.to_be_bytes()));
            }
        }
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// They are not the bytes of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (&kind, body) = bytes.split_first().ok_or(Malformed::Length(0))?;
        if bytes.len() > STREAM_MAX {
            return Err(Malformed::Length(bytes.len()));
        }
        let item = match kind {
            1 => changes(body),
            2 => two(body).map(|[pass, bucket]| Self::Begin { pass, bucket }),
            3 => body.split_at_checked(4).and_then(|(place, numbers)| {
                let [pass, bucket] = two(place)?;
                let numbers = long_words(numbers)?;
                let (sent, owned) = numbers.split_first()?;
                let (sent, owned) = (*sent, owned.to_vec());
                (owned.len() <= GROUPS_MAX).then_some(Self::End { pass, bucket, sent, owned })
            }),
            4 => digest(body),
            other => return Err(Malformed::Kind(other)),
        };
        item.ok_or(Malformed::Body(kind))
    }
}

impl Frame {
    /// Its bytes, its length before them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        match self {
            Self::Hello { version } => {
                out.push(0x10);
                out.extend(version.to_be_bytes());
            }
            Self::Stream { number, item } => {
                out.push(0x11);
                out.extend(number.to_be_bytes());
                out.extend(item.encode());
            }
            Self::Start { pass } => {
                out.push(0x20);
                put(&mut out, &[*pass]);
            }
            Self::Stop => out.push(0x21),
            Self::Resend { pass, buckets } => {
                out.push(0x22);
                put(&mut out, &[*pass]);
                put(&mut out, buckets);
            }
            Self::Digest => out.push(0x23),
            Self::Keep(keep) => out.extend([0x24, u8::from(*keep)]),
            Self::Applied { number } => {
                out.push(0x30);
                out.extend(number.to_be_bytes());
            }
            Self::Differs { first, buckets } => {
                out.push(0x31);
                put(&mut out, &[*first]);
                put(&mut out, buckets);
            }
            Self::Standing(standing) => {
                out.push(0x32);
                out.extend(standing.now_ns.to_be_bytes());
                standing.counts().iter().for_each(|n| out.extend(n.to_be_bytes()));
            }
        }
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// The length of what follows, from the four bytes before it.
    ///
    /// # Errors
    /// No frame has it.
    pub fn length(bytes: [u8; 4]) -> Result<usize, Malformed> {
        let length = u32::from_be_bytes(bytes) as usize;
        if (1..=FRAME_MAX).contains(&length) { Ok(length) } else { Err(Malformed::Length(length)) }
    }

    /// Reads one, its length taken off.
    ///
    /// # Errors
    /// They are not the bytes of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (&kind, body) = bytes.split_first().ok_or(Malformed::Length(0))?;
        let number = |body: &[u8]| body.try_into().ok().map(u64::from_be_bytes);
        let frame = match kind {
            0x10 => body.try_into().ok().map(|b| Self::Hello { version: u32::from_be_bytes(b) }),
            0x11 => {
                let (at, item) = body.split_at_checked(8).ok_or(Malformed::Body(kind))?;
                let item = Stream::decode(item)?;
                number(at).map(|number| Self::Stream { number, item })
            }
            0x20 => words(body).and_then(|w| w.first().map(|pass| Self::Start { pass: *pass })),
            0x21 => body.is_empty().then_some(Self::Stop),
            0x22 => split(body).map(|(pass, buckets)| Self::Resend { pass, buckets }),
            0x23 => body.is_empty().then_some(Self::Digest),
            0x24 => match body {
                [0] => Some(Self::Keep(false)),
                [1] => Some(Self::Keep(true)),
                _ => None,
            },
            0x30 => number(body).map(|number| Self::Applied { number }),
            0x31 => split(body).map(|(first, buckets)| Self::Differs { first, buckets }),
            0x32 => Standing::decode(body).map(Self::Standing),
            other => return Err(Malformed::Kind(other)),
        };
        frame.ok_or(Malformed::Body(kind))
    }
}

impl Standing {
    fn counts(&self) -> [u32; 9] {
        let Self {
            worth, sent, waiting, imported, overflows, unknown, no_room, own, passes, ..
        } = *self;
        [worth, sent, waiting, imported, overflows, unknown, no_room, own, passes]
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (now, counts) = body.split_at_checked(8)?;
        let now_ns = u64::from_be_bytes(now.try_into().ok()?);
        let [worth, sent, waiting, imported, overflows, unknown, no_room, own, passes] =
            long_words(counts)?.try_into().ok()?;
        Some(Self {
            now_ns,
            worth,
            sent,
            waiting,
            imported,
            overflows,
            unknown,
            no_room,
            own,
            passes,
        })
    }
}

fn put(out: &mut Vec<u8>, words: &[u16]) {
    words.iter().for_each(|w| out.extend(w.to_be_bytes()));
}

fn words(body: &[u8]) -> Option<Vec<u16>> {
    body.chunks(2).map(|c| c.try_into().ok().map(u16::from_be_bytes)).collect()
}

fn long_words(body: &[u8]) -> Option<Vec<u32>> {
    body.chunks(4).map(|c| c.try_into().ok().map(u32::from_be_bytes)).collect()
}

fn two(body: &[u8]) -> Option<[u16; 2]> {
    words(body)?.try_into().ok()
}

/// A number, and numbers of buckets.
fn split(body: &[u8]) -> Option<(u16, Vec<u16>)> {
    let mut words = words(body)?;
    if words.is_empty() || words.len() > 1 + BUCKETS {
        return None;
    }
    let first = words.remove(0);
    words.iter().all(|b| usize::from(*b) < BUCKETS).then_some((first, words))
}

fn changes(body: &[u8]) -> Option<Stream> {
    let (since, records) = body.split_at_checked(8)?;
    let since_ns = u64::from_be_bytes(since.try_into().ok()?);
    let records = records
        .chunks(RECORD_BYTES)
        .map(|bytes| Record::decode(bytes.try_into().ok()?))
        .collect::<Option<Vec<_>>>()?;
    (!records.is_empty()).then_some(Stream::Changes { since_ns, records })
}

fn digest(body: &[u8]) -> Option<Stream> {
    let (first, sums) = body.split_at_checked(2)?;
    let first = u16::from_be_bytes(first.try_into().ok()?);
    let sums: Vec<u64> =
        sums.chunks(8).map(|c| c.try_into().ok().map(u64::from_be_bytes)).collect::<Option<_>>()?;
    let fits = usize::from(first) + sums.len() <= BUCKETS && sums.len() <= DIGEST_PART;
    fits.then_some(Stream::Digest { first, sums })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Operation;

    fn record() -> Record {
        let address = "192.0.2.1".parse().unwrap();
        Record {
            operation: Operation::Upsert,
            state: 4,
            synack: true,
            protocol: 6,
            mac: [2; 6],
            segment: 1,
            service: 2,
            client: address,
            vip: address,
            real: address,
            client_port: 3,
            vip_port: 4,
            real_port: 5,
            local: None,
            origin: 6,
        }
    }

    fn all() -> Vec<Frame> {
        let stream = |item| Frame::Stream { number: 9, item };
        vec![
            Frame::Hello { version: 7 },
            stream(Stream::Changes { since_ns: 1, records: vec![record(); RECORDS_MAX] }),
            stream(Stream::Begin { pass: 1, bucket: ALL }),
            stream(Stream::End { pass: 1, bucket: 3, sent: 70_000, owned: vec![] }),
            stream(Stream::End { pass: 1, bucket: 3, sent: 0, owned: vec![7; GROUPS_MAX] }),
            stream(Stream::Digest { first: 128, sums: vec![u64::MAX; DIGEST_PART] }),
            Frame::Start { pass: 4 },
            Frame::Stop,
            Frame::Resend { pass: 4, buckets: (0..256).collect() },
            Frame::Digest,
            Frame::Keep(true),
            Frame::Keep(false),
            Frame::Applied { number: u64::MAX },
            Frame::Differs { first: 0, buckets: vec![] },
            Frame::Standing(Standing { now_ns: 5, worth: 1, passes: 9, ..Standing::default() }),
        ]
    }

    #[test]
    fn every_frame_comes_back_as_it_was_within_its_bounds() {
        for frame in all() {
            let bytes = frame.encode();
            let length = Frame::length(bytes[..4].try_into().unwrap()).unwrap();
            assert_eq!(length, bytes.len() - 4, "{frame:?}");
            assert_eq!(Frame::decode(&bytes[4..]), Ok(frame));
        }
    }

    #[test]
    fn cut_off_and_lengthened_frames_are_refused_or_something_else() {
        for frame in all() {
            let bytes = frame.encode();
            for length in 0..bytes.len() - 4 {
                assert_ne!(Frame::decode(&bytes[4..4 + length]), Ok(frame.clone()));
            }
            let mut long = bytes[4..].to_vec();
            long.extend([0; 3]);
            assert_ne!(Frame::decode(&long), Ok(frame));
        }
        assert!(Frame::length([0; 4]).is_err() && Frame::length([0, 1, 0, 0]).is_err());
    }
}
