//! Every maximum of replication, and its times.

use dataplane_api::sync::STREAM_MAX;

use super::datagram::{HEADER_BYTES, ITEM_BYTES};

/// Versions of what nodes say to each other that this release speaks: a new one comes with each
/// change of the datagrams, of the frames of the stream or of the record.
pub const VERSIONS: (u8, u8) = (1, 1);

/// Largest datagram: with the headers of IPv6 and UDP it fits into an MTU of 1500, and into one of
/// 1448 as VXLAN over IPv6 leaves it.
pub const DATAGRAM_MAX: usize = 1400;
/// What proof or encryption of a datagram take at most: the header is in it once more.
pub const SEAL_MAX: usize = crate::seal::OVERHEAD + HEADER_BYTES;
/// Largest body.
pub const BODY_MAX: usize = DATAGRAM_MAX - HEADER_BYTES - SEAL_MAX;
/// Datagrams on their way; and those kept at the receiver until it is their turn. At 15 records
/// each it is a third of a second of 50,000 records a second.
pub const WINDOW: u16 = 1024;
/// Datagrams delivered to a data plane that it has not applied yet; more, and nothing is fetched
/// from the own one. Ample, so that the reports of the data plane, which come behind its own
/// stream, are always reached: a socket holds a few hundred frames.
pub const UNAPPLIED_MAX: usize = 8 * WINDOW as usize;
/// Items fetched from the own data plane that are in no datagram yet.
pub const PENDING_MAX: usize = 128;
/// Frames for the own data plane that its socket has not taken.
pub const FRAMES_MAX: usize = 128;
/// Datagrams of the handshake and acknowledgements that the network socket has not taken.
pub const CONTROL_MAX: usize = 16;
/// Events that nobody has fetched; the oldest ones go.
pub const EVENTS_MAX: usize = 64;

/// Datagrams on their way at first, and at least: what a receive buffer of the smallest usual size
/// (212,992 bytes, of which a datagram takes some 2,300) holds for sure.
pub const FLIGHT_MIN: u32 = 32;
/// Later datagrams that have arrived before one counts as lost (RFC 9002, section 6.1.1).
pub const REORDER: u64 = 3;
/// How often one datagram is sent before the way counts as closed to datagrams of its size.
pub const TRIES_MAX: u32 = 24;

/// Greetings each second that are looked into, and at once.
pub const GREETINGS: (u64, u64) = (200, 100);
/// Other datagrams each second whose proof is looked at, and at once: four times what is ever sent
/// at the rates we promise.
pub const DATAGRAMS: (u64, u64) = (200_000, 20_000);

const MS: u64 = 1_000_000;
/// Between two greetings, at first and at most.
pub const GREETING_GAP_NS: (u64, u64) = (50 * MS, 1000 * MS);
/// Silence after which the session is over.
pub const SILENCE_NS: u64 = 2000 * MS;
/// Nothing is said for so long at most.
pub const IDLE_NS: u64 = 100 * MS;
/// Longest wait before what has arrived is acknowledged, and datagrams after which it is at once.
pub const ACK_DELAY_NS: u64 = MS;
/// See [`ACK_DELAY_NS`].
pub const ACK_EVERY: u32 = 16;
/// Shortest and longest wait for an acknowledgement before a datagram is sent again.
pub const RESEND_NS: (u64, u64) = (20 * MS, 500 * MS);
/// The same before the time of a round trip is known.
pub const RESEND_FIRST_NS: u64 = 100 * MS;
/// Between two orders to send parts again.
pub const REPAIR_GAP_NS: u64 = 200 * MS;
/// Changes were lost, and no pass began for so long: we order one.
pub const PASS_WAIT_NS: u64 = 2000 * MS;
/// Over which rates are counted.
pub const RATE_NS: u64 = 1000 * MS;
/// Over which latencies are kept, at least; twice that at most.
pub const LATENCY_NS: u64 = 10_000 * MS;

const _: () = assert!(STREAM_MAX + ITEM_BYTES <= BODY_MAX);
const _: () = assert!(UNAPPLIED_MAX > 2 * WINDOW as usize);
const _: () = assert!(WINDOW.is_multiple_of(8));
