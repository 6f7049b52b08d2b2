//! A connection as the words it is stored in, compared and read without decoding them all: for the
//! many packets that need little of it. `entry.rs` has the layout.

use super::entry::{self, Hot};
use super::finder::Finder;
use super::index::Probe;
use super::sync::{Line, Ordering, fence};
use super::tcp::State;
use crate::address::{Address, RealId, VipId};
use crate::clock::Tick;

/// What a packet says of its connection: words 1 to 4 of the entry, as far as it knows them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key {
    high: u64,
    low: u64,
    ends: u64,
    place: u64,
}

/// Who asks for a connection, and so which bits of a [`Key`] count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A packet from the client: all of words 1 to 3 but the local address.
    Request,
    /// A packet from a real of `nat`: client, protocol, real's port, and that there is no local port.
    Reply,
    /// A packet from a real of `fullnat`: protocol, local address and port, real's port.
    LocalReply,
}

impl Key {
    /// Of a packet from a client; `ports` are the client's in the upper half, the VIP's in the lower.
    #[inline(always)]
    #[must_use]
    pub const fn request(client: Address, ports: u32, vip: VipId, protocol: u8) -> Self {
        let (high, low) = client.halves();
        let ends = (ports as u64) << 32 | (vip.0 as u64) << 16 | (protocol as u64) << 8;
        Self { high, low, ends, place: 0 }
    }

    /// Of a packet from a real of `nat`; `ports` are the real's and the client's.
    #[inline(always)]
    #[must_use]
    pub const fn reply(client: Address, ports: u32, protocol: u8) -> Self {
        let (high, low) = client.halves();
        let ends = (ports as u64) << 48 | (protocol as u64) << 8;
        Self { high, low, ends, place: (ports & 0xffff_0000) as u64 }
    }

    /// Of a packet from a real of `fullnat`; `ports` are the real's and the local one.
    #[inline(always)]
    #[must_use]
    pub const fn local_reply(local: u8, ports: u32, protocol: u8) -> Self {
        let ends = (protocol as u64) << 8 | local as u64;
        Self { high: 0, low: 0, ends, place: ports as u64 }
    }

    /// Of a packet from a real of `fullnat`: protocol, local address and port.
    #[inline(always)]
    #[must_use]
    pub const fn local(&self) -> (u8, u8, u16) {
        ((self.ends >> 8) as u8, self.ends as u8, self.place as u16)
    }
}

/// What was seen of a connection at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Glimpse {
    hot: Hot,
    high: u64,
    low: u64,
    ends: u64,
    place: u64,
    hop: u64,
}

impl Finder<'_> {
    /// The connection that [`Self::prefetch_entry`] named, if it is the one asked for; `None` says
    /// nothing, for it may be elsewhere.
    #[inline(always)]
    #[must_use]
    pub fn glimpse(self, probe: Probe, asked: Asked, key: &Key) -> Option<Glimpse> {
        let seen = Glimpse::of(self.line(probe)?)?;
        let ends = seen.ends ^ key.ends;
        let client = (seen.high ^ key.high) | (seen.low ^ key.low);
        let place = (seen.place ^ key.place) & 0xffff_ffff;
        let differs = match asked {
            Asked::Request => client | ends >> 8,
            Asked::Reply => client | ends & 0xffff_0000_0000_ff00 | place,
            Asked::LocalReply => ends & 0xffff | place,
        };
        (differs == 0).then_some(seen)
    }
}

impl Glimpse {
    /// Untorn, as in [`entry::read`]; and the state must not have changed meanwhile either.
    #[inline(always)]
    fn of(line: &Line) -> Option<Self> {
        let hot = entry::hot(line);
        let word = |i: usize| line.0[i].load(Ordering::Relaxed);
        let [high, low, ends, place, hop] = [word(1), word(2), word(3), word(4), word(5)];
        fence(Ordering::Acquire);
        let after = Hot(line.0[0].load(Ordering::Relaxed));
        after.same_but_seen(hot).then_some(Self { hot, high, low, ends, place, hop })
    }

    /// Its state; none if it has ended, or is being opened.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> Option<State> {
        State::from_byte(self.hot.byte())
    }

    /// Ticks since its last packet; less than zero if another worker, whose clock was read later, has
    /// just seen one.
    #[inline(always)]
    #[must_use]
    pub const fn idle(&self, now: Tick) -> i32 {
        now.0.wrapping_sub(self.hot.0 as u32) as i32
    }

    /// The client's address.
    #[inline(always)]
    #[must_use]
    pub const fn client(&self) -> Address {
        Address::from_halves(self.high, self.low)
    }

    /// The client's port.
    #[inline(always)]
    #[must_use]
    pub const fn client_port(&self) -> u16 {
        (self.ends >> 48) as u16
    }

    /// The VIP.
    #[inline(always)]
    #[must_use]
    pub const fn vip(&self) -> VipId {
        VipId((self.ends >> 16) as u16)
    }

    /// Its port.
    #[inline(always)]
    #[must_use]
    pub const fn vip_port(&self) -> u16 {
        (self.ends >> 32) as u16
    }

    /// The real.
    #[inline(always)]
    #[must_use]
    pub const fn real(&self) -> RealId {
        RealId((self.place >> 32) as u16)
    }

    /// The real's port.
    #[inline(always)]
    #[must_use]
    pub const fn real_port(&self) -> u16 {
        (self.place >> 16) as u16
    }

    /// Full NAT: index of the local address, and local port.
    #[inline(always)]
    #[must_use]
    pub const fn local(&self) -> Option<(u8, u16)> {
        match self.place as u16 {
            0 => None,
            port => Some((self.ends as u8, port)),
        }
    }

    /// Where replies go, as [`LastHop::number`] has it.
    ///
    /// [`LastHop::number`]: super::LastHop::number
    #[inline(always)]
    #[must_use]
    pub const fn last_hop(&self) -> u64 {
        self.hop >> 8
    }
}
