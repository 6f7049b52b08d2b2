//! One connection in one cache line, and what it means.
//!
//! | word | content, most significant first |
//! |---|---|
//! | 0 `hot` | state 8, flags 8, generation 16, tick last seen 32 |
//! | 1, 2 | client address |
//! | 3 | client port 16, VIP port 16, VIP 16, protocol 8, local address 8 |
//! | 4 | service 16, real 16, real's port 16, local port 16 (0: none) |
//! | 5 | last hop: MAC 48, device 8, low 8 bits of the generation |
//! | 6 | tick created 32, check sum of words 1 to 4 and the tick 32 |
//! | 7 | where it comes from: 0 opened here, else [`Origin`] |
//!
//! Words 1 to 4 and 6 do not change while an entry lives. A reader takes `hot`, the words, and `hot`
//! again: if the generation is the same and the entry live both times, the words belong together
//! (a sequence lock whose readers write nothing). Everything that changes is one word, replaced by
//! one compare-and-swap: `hot`, and the last hop, which carries bits of the generation so that a
//! late writer cannot hit the next owner of the line. (Word 7 changes too: see [`Origin`].)

use super::origin::Origin;
use super::sync::{Line, Ordering, fence};
use super::tcp::State;
use crate::address::{Address, DeviceId, Mac, RealId, ServiceId, VipId};
use crate::clock::Tick;

/// What a connection is: immutable while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Who opened it. In a persistence template: the client's address under the mask.
    pub client: Address,
    /// Client's port; 0 in a template.
    pub client_port: u16,
    /// The VIP the client talks to.
    pub vip: VipId,
    /// The port of the VIP the client talks to; 0 in a template.
    pub vip_port: u16,
    /// IP protocol number, 6 or 17.
    pub protocol: u8,
    /// The service that took it.
    pub service: ServiceId,
    /// The real it goes to.
    pub real: RealId,
    /// The port of the real.
    pub real_port: u16,
    /// Full NAT: index of the local address, and local port (never 0).
    pub local: Option<(u8, u16)>,
}

/// Where the client's last packet came from: the next hop of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LastHop {
    /// Its source MAC address.
    pub mac: Mac,
    /// The interface it came in on.
    pub device: DeviceId,
}

impl LastHop {
    /// As one number: MAC address 48 bits, interface 8. Quicker to compare and to write than bytes.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac.0;
        u64::from_be_bytes([0, a, b, c, d, e, f, self.device.0])
    }

    /// From that number.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u64) -> Self {
        let [_, a, b, c, d, e, f, device] = number.to_be_bytes();
        Self { mac: Mac([a, b, c, d, e, f]), device: DeviceId(device) }
    }
}

/// A connection: a copy, taken at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn {
    /// What it is.
    pub identity: Identity,
    /// Where replies go.
    pub last_hop: LastHop,
    /// Its state.
    pub state: State,
    /// Whether the real's SYN-ACK has been seen.
    pub synack: bool,
    /// When its last packet came.
    pub seen: Tick,
    /// When it was opened.
    pub created: Tick,
}

impl Conn {
    /// Ticks since its last packet.
    #[inline]
    #[must_use]
    pub const fn idle(&self, now: Tick) -> u32 {
        now.since(self.seen)
    }
}

/// Names one life of one entry. Using it after that life ended does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    pub(super) index: u32,
    pub(super) generation: u16,
}

impl Handle {
    /// Number of the entry, for [`super::Table::get`].
    #[inline]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Number of the life, counted anew after 65,535.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> u16 {
        self.generation
    }
}

/// A connection in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its entry.
    pub handle: Handle,
    /// What it holds.
    pub conn: Conn,
}

impl Found {
    #[inline(always)]
    pub(super) fn hot(&self) -> Hot {
        let Conn { state, synack, seen, .. } = self.conn;
        Hot::live(state, synack, self.handle.generation, seen)
    }
}

/// Nobody's.
pub(super) const FREE: u8 = 0;
/// Its owner is filling it in, or has been told by another inserter to take it back.
pub(super) const WRITING: u8 = 1;
/// Complete and in the index, but not yet the only one of its key: invisible to lookups.
pub(super) const PENDING: u8 = 2;
/// Flag: the real's SYN-ACK was seen.
const SYNACK: u8 = 0x80;
/// Flags of a pending entry: the state it is going to have.
const TARGET: u8 = 0x0f;

/// Number of the word that holds the last hop.
const HOP: usize = 5;
/// Number of the word that holds the origin.
const ORIGIN: usize = 7;

/// Word 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hot(pub(super) u64);

impl Hot {
    #[inline(always)]
    pub(super) fn new(state: u8, flags: u8, generation: u16, seen: Tick) -> Self {
        let high = u64::from(state) << 56 | u64::from(flags) << 48;
        Self(high | u64::from(generation) << 32 | u64::from(seen.0))
    }

    #[inline(always)]
    pub(super) fn live(state: State, synack: bool, generation: u16, seen: Tick) -> Self {
        Self::new(state as u8, if synack { SYNACK } else { 0 }, generation, seen)
    }

    pub(super) fn pending(conn: &Conn, generation: u16) -> Self {
        let flags = conn.state as u8 | if conn.synack { SYNACK } else { 0 };
        Self::new(PENDING, flags, generation, conn.seen)
    }

    /// The same life, in state [`FREE`] or [`WRITING`].
    pub(super) fn ended(self, state: u8) -> Self {
        Self::new(state, 0, self.generation(), self.seen())
    }

    #[inline(always)]
    pub(super) const fn byte(self) -> u8 {
        (self.0 >> 56) as u8
    }

    #[inline(always)]
    pub(super) fn synack(self) -> bool {
        self.flags() & SYNACK != 0
    }

    #[inline(always)]
    fn flags(self) -> u8 {
        (self.0 >> 48) as u8
    }

    #[inline(always)]
    pub(super) fn generation(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    pub(super) fn seen(self) -> Tick {
        Tick(self.0 as u32)
    }

    /// The state, if it is a live entry's.
    #[inline(always)]
    pub(super) fn state(self) -> Option<State> {
        State::from_byte(self.byte())
    }

    pub(super) fn is_pending(self) -> bool {
        self.byte() == PENDING
    }

    /// The state it has, or is going to have.
    fn any_state(self) -> Option<State> {
        if self.is_pending() { State::from_byte(self.flags() & TARGET) } else { self.state() }
    }

    /// Whether only the time differs.
    #[inline(always)]
    pub(super) fn same_but_seen(self, other: Self) -> bool {
        self.0 >> 32 == other.0 >> 32
    }

    /// No live entry has flags without a meaning.
    #[cfg(not(loom))]
    pub(super) fn is_plausible(self) -> bool {
        self.flags() & !SYNACK == 0
    }
}

#[inline(always)]
pub(super) fn hot(line: &Line) -> Hot {
    Hot(line.0[0].load(Ordering::Acquire))
}

/// Replaces `hot` if it still is `old`; the current one if not.
#[inline(always)]
pub(super) fn swap(line: &Line, old: Hot, new: Hot) -> Result<(), Hot> {
    line.0[0]
        .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
        .map(drop)
        .map_err(Hot)
}

/// A live connection, untorn.
#[inline(always)]
pub(super) fn read(line: &Line) -> Option<(Hot, Conn)> {
    let before = hot(line);
    before.state()?;
    let words = words(line);
    fence(Ordering::Acquire);
    let after = Hot(line.0[0].load(Ordering::Relaxed));
    let state = after.state()?;
    (after.generation() == before.generation()).then(|| (after, decode(after, state, &words)))
}

/// The same, and pending ones too: what an inserter must know of.
pub(super) fn read_any(line: &Line) -> Option<(Hot, Conn)> {
    let before = hot(line);
    before.any_state()?;
    let words = words(line);
    fence(Ordering::Acquire);
    let after = Hot(line.0[0].load(Ordering::Relaxed));
    let state = after.any_state()?;
    (after.generation() == before.generation()).then(|| (after, decode(after, state, &words)))
}

/// The content of an entry that belongs to the caller alone.
pub(super) fn read_owned(line: &Line, state: State, hot: Hot) -> Conn {
    decode(hot, state, &words(line))
}

/// Fills in an entry that belongs to the caller alone: it is pending afterwards. Returns its `hot`.
pub(super) fn write(line: &Line, conn: &Conn, origin: Origin) -> Hot {
    let generation = hot(line).generation().wrapping_add(1);
    line.0[0].store(Hot::new(WRITING, 0, generation, conn.seen).0, Ordering::Relaxed);
    // A reader that sees a word written below must see the new generation above.
    fence(Ordering::Release);
    let words = encode(conn, generation, origin);
    for (i, (to, word)) in line.0[1..].iter().zip(words).enumerate() {
        if matches!(i + 1, HOP | ORIGIN) {
            // An exchange, so that it and a late `set_last_hop` have one order; a store would too,
            // by the atomicity of the other's compare-and-swap, but loom does not know that.
            to.swap(word, Ordering::Relaxed);
        } else {
            to.store(word, Ordering::Relaxed);
        }
    }
    let pending = Hot::pending(conn, generation);
    line.0[0].store(pending.0, Ordering::Release);
    pending
}

/// Takes back an entry that was pending, killed or not: its owner alone calls this, and others change
/// it only while it is pending.
pub(super) fn withdraw(line: &Line, pending: Hot) {
    line.0[0].store(pending.ended(FREE).0, Ordering::Release);
}

/// Replaces the last hop if this life of the entry still lasts.
pub(super) fn set_last_hop(line: &Line, generation: u16, hop: LastHop) {
    let new = encode_hop(hop, generation);
    let mut old = line.0[HOP].load(Ordering::Relaxed);
    // The generation's low bits in the word itself: after the line got a new owner this fails.
    while hot(line).generation() == generation && old as u8 == generation as u8 && old != new {
        match line.0[HOP].compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// Where it comes from; of whichever life the line has now.
pub(super) fn origin(line: &Line) -> Origin {
    Origin(line.0[ORIGIN].load(Ordering::Relaxed))
}

/// Replaces the origin if it still is `old`, which must not be [`Origin::OWN`]. False if not.
pub(super) fn set_origin(line: &Line, old: Origin, new: Origin) -> bool {
    let order = Ordering::Relaxed;
    old.is_imported() && line.0[ORIGIN].compare_exchange(old.0, new.0, order, order).is_ok()
}

/// Whether the words of an entry nobody writes to fit together; only asked at adoption.
#[cfg(not(loom))]
pub(super) fn is_intact(line: &Line) -> bool {
    let words = words(line);
    let [high, low, key, place, hop, times, origin] = words;
    times as u32 == check([high, low, key, place], (times >> 32) as u32)
        && hop as u8 == hot(line).generation() as u8
        && Origin(origin).is_intact()
}

#[inline(always)]
fn words(line: &Line) -> [u64; 7] {
    std::array::from_fn(|i| line.0[i + 1].load(Ordering::Relaxed))
}

fn encode(conn: &Conn, generation: u16, origin: Origin) -> [u64; 7] {
    let Identity { client, client_port, vip, vip_port, protocol, .. } = conn.identity;
    let Identity { service, real, real_port, local, .. } = conn.identity;
    let (high, low) = client.halves();
    let (local_index, local_port) = local.unwrap_or((0, 0));
    let key = pack(client_port, vip_port, vip.0, u16::from(protocol) << 8 | u16::from(local_index));
    let place = pack(service.0, real.0, real_port, local_port);
    let sum = check([high, low, key, place], conn.created.0);
    let times = u64::from(conn.created.0) << 32 | u64::from(sum);
    [high, low, key, place, encode_hop(conn.last_hop, generation), times, origin.0]
}

#[inline(always)]
fn decode(hot: Hot, state: State, words: &[u64; 7]) -> Conn {
    let [high, low, key, place, hop, times, _] = *words;
    let local_port = place as u16;
    let identity = Identity {
        client: Address::from_halves(high, low),
        client_port: (key >> 48) as u16,
        vip_port: (key >> 32) as u16,
        vip: VipId((key >> 16) as u16),
        protocol: (key >> 8) as u8,
        service: ServiceId((place >> 48) as u16),
        real: RealId((place >> 32) as u16),
        real_port: (place >> 16) as u16,
        local: (local_port != 0).then_some((key as u8, local_port)),
    };
    let last_hop = LastHop::of(hop >> 8);
    let created = Tick((times >> 32) as u32);
    Conn { identity, last_hop, state, synack: hot.synack(), seen: hot.seen(), created }
}

fn encode_hop(hop: LastHop, generation: u16) -> u64 {
    hop.number() << 8 | u64::from(generation as u8)
}

#[inline(always)]
fn pack(a: u16, b: u16, c: u16, d: u16) -> u64 {
    u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d)
}

/// Finds damage, not malice: whoever can write the file can do as it likes.
fn check(words: [u64; 4], created: u32) -> u32 {
    let mut sum = u64::from(created) ^ 0x9e37_79b9_7f4a_7c15;
    for word in words {
        sum = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        sum ^= sum >> 32;
    }
    sum as u32
}
