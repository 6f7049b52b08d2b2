//! Every maximum of the data plane, in one place.

use std::time::Duration;

/// Frames processed together; the stages of [`crate::forward`] hide memory latency across them.
pub const BURST: usize = 64;
/// Bytes of one frame buffer (one UMEM chunk). A packet and its headroom fit into it.
pub const FRAME_SIZE: usize = 2048;
/// Bytes in front of a received packet in its buffer: `XDP_PACKET_HEADROOM` of the kernel
/// (`include/uapi/linux/bpf.h`). A tunnel header goes there.
pub const HEADROOM: usize = 256;
/// Largest MTU an interface may have: what is left of a frame after headroom and Ethernet header.
pub const MTU_MAX: u32 = (FRAME_SIZE - HEADROOM - wire_ethernet_len()) as u32;
/// Interfaces one data plane serves.
pub const INTERFACES: usize = 16;
/// Workers, and so queues of an interface.
pub const WORKERS: usize = 64;
/// Distinct VIP and local addresses.
pub const ADDRESSES: usize = 1024;
/// Services.
pub const SERVICES: usize = 1024;
/// Reals over all services, removed ones with live connections included.
pub const REALS: usize = 8192;
/// Numbers of groups: twice as many as there may be, so that a new one need not get the number of one
/// that was just removed.
pub const GROUPS: usize = 2 * dataplane_api::service::GROUPS_MAX;
/// Gateway addresses over all groups.
pub const GATEWAYS: usize = 256;
/// Addresses (on each interface) that somebody else claims, of which is remembered when they were last
/// announced; more only within a second.
pub const CLAIMED: usize = 4096;
/// Clients that may ask at one time who answers for addresses.
pub const RESOLUTIONS: usize = 8;
/// Answers that each of them gets.
pub const RESOLVE_ANSWERS: usize = 1024;
/// Local addresses of full NAT.
pub const LOCAL_ADDRESSES: usize = 64;
/// IPv6 extension headers walked before a packet is refused.
pub const EXTENSION_HEADERS: usize = 8;
/// Fragments held for a first fragment that has not come yet.
pub const HELD_FRAGMENTS: usize = 512;
/// Datagrams whose fragments are being followed.
pub const FRAGMENTED_DATAGRAMS: usize = 4096;
/// ICMP errors and other packets of our own, a second and worker.
pub const ICMP_PER_SECOND: u32 = 1000;
/// Routes of the kernel's table that replies can follow; a dump of so many takes about 0.2 s.
pub const ROUTES: usize = 65_536;
/// Neighbours that workers may ask for between two rounds of the steward.
pub const NEIGHBOR_ASKS: usize = 256;
/// Connections the table can hold.
pub const CONNECTIONS: u32 = 64 << 20;
/// Entries looked at for a half-open connection to evict, beyond the two buckets at hand.
pub const EVICTION_PROBES: u32 = 32;
/// Entries looked at in one page of a listing: well under a millisecond.
pub const PAGE_SCAN: u32 = 65_536;
/// Entries of the table looked at between two bursts for connections that are to end.
pub const ENDING_STEP: u32 = 1024;
/// Connections ended, or asked where they are, between two bursts.
pub const ENDINGS: u32 = 64;
/// How long connections that are to be reset are asked for a packet, before they are forgotten.
pub const ENDING_PATIENCE: Duration = Duration::from_secs(30);
/// Buffers between workers and whoever fetches captured frames.
pub const CAPTURE_BUFFERS: usize = 1024;
/// Frames kept by a capture in one second.
pub const CAPTURE_PER_SECOND: u32 = 10_000;
/// Probes of the way to a real at one time, and the lowest port that one is sent from: ports that no
/// kernel chooses by itself for a connection to a VIP. `PROBE_FIRST` and `PROBE_LAST` in `bpf/steer.h`.
pub const PROBES: usize = 64;
/// See [`PROBES`].
pub const PROBE_PORT: u16 = 960;
/// Changes of connections that a worker keeps for replication: what 250,000 a second make in 65 ms, more
/// than the thread that drains them is kept waiting for a processor. 2 MiB, once it is needed.
pub const CHANGES: usize = 16_384;
/// Ports tried on one local address before the next one.
pub const PORT_TRIES: u32 = 1024;

const fn wire_ethernet_len() -> usize {
    14
}

const _: () = assert!(GROUPS <= 32, "fresh leases are a 32-bit mask");
const _: () = assert!(BURST <= 64, "a burst is tracked in a 64-bit mask");
const _: () = assert!(REALS <= u16::MAX as usize, "a real has a 16-bit number");
const _: () = assert!(SERVICES <= u16::MAX as usize, "a service has a 16-bit number");
const _: () = assert!(MTU_MAX >= 1500 + 40, "an IPv6 tunnel header must fit beside a full packet");
