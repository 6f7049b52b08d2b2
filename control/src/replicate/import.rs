//! The peer's stream on its way into our data plane.

use std::collections::VecDeque;

use dataplane_api::sync::{ALL, BUCKETS, DIGEST_PART, Stream};

use super::datagram::{BUCKET_BYTES, Item, Malformed, items, set_bit};
use super::limits::UNAPPLIED_MAX;

/// What is in a datagram, for the data plane and for control.
#[derive(Default)]
pub(super) struct Contents {
    /// Frames for the data plane.
    pub(super) frames: Vec<Vec<u8>>,
    /// Records in them.
    pub(super) records: u64,
    /// Buckets that the peer lacks.
    pub(super) resend: Option<[u8; BUCKET_BYTES]>,
    /// Items that are none.
    pub(super) nonsense: u64,
}

/// Numbers, and what is known of completeness.
#[derive(Default)]
pub(super) struct Import {
    /// Number of the last frame of the stream that went to the data plane.
    last: u64,
    /// Last frame that came in a datagram, and the datagram's number.
    unapplied: VecDeque<(u64, u64)>,
    /// Frame that ends a pass over all.
    end: Option<u64>,
    /// The end of a pass has been applied.
    whole: bool,
    /// Buckets that differed, for each part of the digest; and when the last report came.
    differing: [Option<u32>; BUCKETS / DIGEST_PART],
    pub(super) compared_ns: u64,
    pub(super) repairs: u64,
}

impl Import {
    /// The session is another one; the data plane still counts on.
    pub(super) fn reset(&mut self) {
        let (last, repairs) = (self.last, self.repairs);
        *self = Self { last, repairs, ..Self::default() };
    }

    /// The data plane is another one.
    pub(super) fn restart(&mut self) {
        self.reset();
        self.last = 0;
    }

    /// Whether there is room for a datagram.
    pub(super) fn has_room(&self) -> bool {
        self.unapplied.len() < UNAPPLIED_MAX
    }

    /// For tests: datagrams not applied.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.unapplied.len()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Reads the body of data with this number.
    pub(super) fn take(&mut self, number: u64, body: &[u8]) -> Contents {
        let mut contents = Contents::default();
        let items = items(body).unwrap_or_else(|Malformed| {
            contents.nonsense += 1;
            Vec::new()
        });
        for item in items {
            let bytes = match item {
                Item::Stream(bytes) => bytes,
                Item::Resend(buckets) => {
                    contents.resend = Some(buckets);
                    continue;
                }
            };
            let Ok(item) = Stream::decode(bytes) else {
                contents.nonsense += 1;
                continue;
            };
            self.last += 1;
            match item {
                Stream::Changes { records, .. } => contents.records += records.len() as u64,
                Stream::End { bucket: ALL, .. } => self.end = Some(self.last),
                Stream::Begin { .. } | Stream::End { .. } | Stream::Digest { .. } => {}
            }
            contents.frames.push(stream_frame(self.last, bytes));
        }
        self.unapplied.push_back((self.last, number));
        contents
    }

    /// The data plane has applied its frames up to this one: number of the last datagram of which
    /// that is all, if it is another one. `Err`: it never got such a frame.
    pub(super) fn applied(&mut self, frame: u64) -> Result<Option<u64>, ()> {
        if frame > self.last {
            return Err(());
        }
        let mut datagram = None;
        while let Some((last, number)) = self.unapplied.front()
            && *last <= frame
        {
            datagram = Some(*number);
            self.unapplied.pop_front();
        }
        if self.end.is_some_and(|end| end <= frame) {
            (self.end, self.whole) = (None, true);
        }
        Ok(datagram)
    }

    /// The data plane has compared a part; what to ask the peer for.
    pub(super) fn differs(
        &mut self,
        first: u16,
        buckets: &[u16],
        now: u64,
    ) -> Option<[u8; BUCKET_BYTES]> {
        let part = self.differing.get_mut(usize::from(first) / DIGEST_PART)?;
        *part = Some(buckets.len() as u32);
        self.compared_ns = now;
        let mut bits = [0; BUCKET_BYTES];
        for bucket in buckets {
            set_bit(&mut bits, usize::from(*bucket));
        }
        (self.whole && !buckets.is_empty()).then_some(bits)
    }

    /// How many parts differed at the last comparison; `None`: not compared yet.
    pub(super) fn differing(&self) -> Option<u32> {
        self.differing.iter().copied().sum()
    }
}

/// A frame of the stream for the data plane, its length before it, around bytes that have been
/// read.
fn stream_frame(number: u64, item: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(13 + item.len());
    frame.extend((item.len() as u32 + 9).to_be_bytes());
    frame.push(0x11);
    frame.extend(number.to_be_bytes());
    frame.extend_from_slice(item);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_api::sync::Frame;

    #[test]
    fn a_frame_around_bytes_is_the_frame_of_the_item() {
        let item = Stream::End { pass: 3, bucket: ALL, sent: 70_000, owned: vec![] };
        assert_eq!(stream_frame(9, &item.encode()), Frame::Stream { number: 9, item }.encode());
    }
}
