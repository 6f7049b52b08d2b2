//! What the programs of the data phase and their loader both know (`bpf/data.h`), byte for byte.
//!
//! Pure. [`super::data`] compares the sizes with those of the maps.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Both ways: requests (0) and replies (1), as [`crate::stamp::Way`] numbers them.
pub const WAYS: usize = 2;
/// Most sizes that can be sent in turn.
pub const SIZES: usize = 16;
/// Bytes of a frame that are written anew for each packet.
pub const HEAD: usize = 80;
/// Place of a flow that is not sent on.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Buckets of a histogram.
pub const BUCKETS: usize = 1792;
/// `struct size`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FrameSize {
    pub(crate) frame: u32,
    pub(crate) ip: [u8; 2],
    pub(crate) udp: [u8; 2],
    pub(crate) ip_sum: u32,
    pub(crate) sum: u32,
}

/// `struct route`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Route {
    pub(crate) head: [u8; HEAD],
    pub(crate) sizes: [FrameSize; SIZES],
    pub(crate) turns: u32,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) source_port: [u8; 2],
    pub(crate) destination_port: [u8; 2],
}

/// `struct config`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Config {
    pub(crate) routes: [Route; WAYS],
    pub(crate) key: u32,
    pub(crate) sizes: u32,
    pub(crate) base: [u32; WAYS],
    pub(crate) replies: u32,
    pub(crate) first_real: u32,
    pub(crate) v6: u8,
    pub(crate) tcp: u8,
    pub(crate) tunnel: u8,
    pub(crate) direct: u8,
    pub(crate) ports: [u32; WAYS],
    pub(crate) namespace: u32,
}

/// `struct turn`: one flow in one way as it is sent. Addresses: the last four bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Turn {
    pub(crate) flow: u32,
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    pub(crate) source_port: [u8; 2],
    pub(crate) destination_port: [u8; 2],
}

/// `struct flow`: one flow in one way as it is received.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Flow {
    pub(crate) seen: u64,
    pub(crate) received: u32,
    pub(crate) client: [u8; 4],
    pub(crate) real: [u8; 4],
    pub(crate) number: u32,
    pub(crate) port: [u8; 2],
    pub(crate) unused: [u8; 6],
}

/// `struct state`: pace and progress. Times are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// When the next packet is due.
    pub due: u64,
    /// When nothing more is.
    pub end: u64,
    /// Between two packets, less a fraction of a nanosecond.
    pub interval: u64,
    pub(crate) earliest: u64,
    pub(crate) spacing: u64,
    pub(crate) burst: u64,
    pub(crate) now: u64,
    pub(crate) fraction: u32,
    pub(crate) interval_fraction: u32,
    /// Position in the turns of each way.
    pub next: [u32; WAYS],
    /// Sequence number of the packets of this round.
    pub sequence: [u32; WAYS],
    pub(crate) size: [u32; WAYS],
    pub(crate) share: u64,
    /// Packets made.
    pub sent: [u64; WAYS],
    /// Their bytes, without the frame check sequence.
    pub bytes: [u64; WAYS],
    /// Packets that the interface took.
    pub accepted: [u64; WAYS],
    /// Packets that it did not take: its peer's ring was full, or it was down.
    pub refused: [u64; WAYS],
}

/// `struct heard`: when nothing came. Times are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Heard {
    /// When something did, [`GRAIN`] late at most.
    pub last: u64,
    /// The longest silence.
    pub longest: u64,
    /// When it began.
    pub since: u64,
    /// MAC address of who sent the last packet; two bytes of nothing.
    pub peer: [u8; 8],
}

/// How exactly [`Heard`] knows, in nanoseconds.
pub const GRAIN: u64 = 100_000;

/// `struct tally`: what was received in one way, all processors together.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tally {
    /// Valid packets, repeated ones not counted.
    pub received: u64,
    /// Their bytes, without the frame check sequence.
    pub bytes: u64,
    /// Received before.
    pub duplicated: u64,
    /// Received after one with a higher number of the same flow.
    pub reordered: u64,
    /// With a wrong checksum or a damaged stamp.
    pub corrupted: u64,
    /// Whole, but not where they belong.
    pub strayed: u64,
    /// Of an earlier phase of the same run.
    pub earlier: u64,
    /// Not ours; the kernel got them.
    pub others: u64,
    /// Sum of latencies in units of [`crate::stamp::TIME_UNIT`]; so are the next two.
    pub sum: u64,
    /// Smallest.
    pub least: u64,
    /// Largest.
    pub most: u64,
    /// Packets by latency; [`value`] says of what.
    pub buckets: [u64; BUCKETS],
}

impl Tally {
    /// Adds what another processor counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.least = match (self.received, other.received) {
            (0, _) => other.least,
            (_, 0) => self.least,
            _ => self.least.min(other.least),
        };
        self.most = self.most.max(other.most);
        self.received += other.received;
        self.bytes += other.bytes;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.strayed += other.strayed;
        self.earlier += other.earlier;
        self.others += other.others;
        self.sum += other.sum;
        for (sum, part) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += part;
        }
    }
}

/// Highest latency that is counted in a bucket, in units of [`crate::stamp::TIME_UNIT`]: below
/// 128 each has its own, then 64 share each power of two.
#[must_use]
pub fn value(bucket: usize) -> u64 {
    let shift = (bucket >> 6).saturating_sub(1) as u32;
    let mantissa = bucket as u64 - (u64::from(shift) << 6);
    ((mantissa + 1) << shift) - 1
}
