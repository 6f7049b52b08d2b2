//! The judge: which received packets are right, and what became of each sequence of them.
//!
//! Pure. Flows are shared by all workers (any of them may receive a packet of any flow), counts are
//! each worker's own.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use dataplane::counters::Counter;

use crate::flow::{Addresses, Clients};
use crate::parse::{TCP, UDP, View};
use crate::size;
use crate::spec::{Method, Protocol};
use crate::stamp::{Stamp, Way};

/// How far behind the highest number a packet may come and still be known as late or repeated.
pub const WINDOW: u32 = 32;

/// One way of one flow.
#[derive(Debug, Default)]
pub struct Lane {
    /// Highest number received, and below it which of the [`WINDOW`] before it were.
    seen: AtomicU64,
    received: AtomicU32,
    sent: AtomicU32,
}

/// What a sequence number says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first with this number, and none with a higher one came before.
    Next,
    /// The first with this number, after a higher one.
    Late,
    /// Came before.
    Repeated,
    /// So far behind that it cannot be told from a repeated one. Not counted as received: what
    /// cannot be proved to have arrived once is lost.
    Old,
}

impl Lane {
    /// Records a number.
    #[inline]
    pub fn record(&self, sequence: u32) -> Place {
        let mut word = self.seen.load(Relaxed);
        loop {
            let (high, window) = ((word >> 32) as u32, word as u32);
            let ahead = sequence.wrapping_sub(high);
            let (place, high, window) = if ahead != 0 && ahead <= i32::MAX as u32 {
                let moved = window.checked_shl(ahead).unwrap_or(0);
                let last = if high == 0 { 0 } else { 1_u32.checked_shl(ahead - 1).unwrap_or(0) };
                (Place::Next, sequence, moved | last)
            } else {
                match high.wrapping_sub(sequence) {
                    0 => return Place::Repeated,
                    behind @ 1..=WINDOW if window & 1 << (behind - 1) == 0 => {
                        (Place::Late, high, window | 1 << (behind - 1))
                    }
                    1..=WINDOW => return Place::Repeated,
                    _ => return Place::Old,
                }
            };
            let next = u64::from(high) << 32 | u64::from(window);
            match self.seen.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => {
                    self.received.fetch_add(1, Relaxed);
                    return place;
                }
                Err(current) => word = current,
            }
        }
    }

    /// The number of the next packet to send: 1, 2, 3…
    #[inline(always)]
    pub fn next(&self) -> u32 {
        // 0 marks an opening packet and is skipped when the number wraps.
        match self.sent.fetch_add(1, Relaxed).wrapping_add(1) {
            0 => self.sent.fetch_add(1, Relaxed).wrapping_add(1),
            sequence => sequence,
        }
    }

    /// Takes a number back that was not sent after all; only if no other was taken since.
    #[inline(always)]
    pub fn put_back(&self, sequence: u32) {
        self.sent.store(sequence.wrapping_sub(1), Relaxed);
    }

    /// Highest number received.
    #[must_use]
    pub fn highest(&self) -> u32 {
        (self.seen.load(Relaxed) >> 32) as u32
    }

    /// Highest number sent.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent.load(Relaxed)
    }

    /// Another engine used the numbers up to this one, and received so many packets.
    pub fn jump(&self, highest: u32, received: u32) {
        self.sent.store(highest, Relaxed);
        self.seen.store(u64::from(highest) << 32, Relaxed);
        self.received.store(received, Relaxed);
    }

    /// Packets received since the last [`Self::start`].
    #[must_use]
    pub fn received(&self) -> u32 {
        self.received.load(Relaxed)
    }

    /// Counts anew; numbers go on.
    pub fn start(&self) {
        self.received.store(0, Relaxed);
    }

    /// Forgets everything: the flow begins again.
    pub fn reset(&self) {
        self.seen.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        self.received.store(0, Relaxed);
    }
}

/// How far a connection is; bits of [`Flow::stage`].
pub mod stage {
    /// The client sent its opening packet.
    pub const ASKED: u8 = 1;
    /// The client has the answer to it.
    pub const ANSWERED: u8 = 2;
    /// The server has the opening packet, and knows the real server.
    pub const REACHED: u8 = 4;
    /// The server has the last packet of the handshake.
    pub const ESTABLISHED: u8 = 8;
    /// The server has the client's FIN.
    pub const FINISHED: u8 = 16;
    /// The client has the server's FIN and acknowledged it.
    pub const CLOSED: u8 = 32;
    /// The client got a reset.
    pub const REFUSED: u8 = 64;
}

/// One connection.
#[derive(Debug, Default)]
pub struct Flow {
    /// Client to real server.
    pub requests: Lane,
    /// Real server to client.
    pub replies: Lane,
    /// Index of the real server it opened at; meaningful from [`stage::REACHED`] on.
    pub real: AtomicU16,
    /// Full NAT: last 32 bits of the address and port that the real server sees; 0: not known.
    pub local: AtomicU64,
    stage: AtomicU8,
}

const _: () = assert!(size_of::<Flow>() <= 64);

impl Flow {
    /// See [`stage`].
    #[inline(always)]
    #[must_use]
    pub fn stage(&self) -> u8 {
        self.stage.load(Relaxed)
    }

    /// Whether all of these bits are set.
    #[inline(always)]
    #[must_use]
    pub fn is(&self, bits: u8) -> bool {
        self.stage() & bits == bits
    }

    /// Sets bits; returns those set before.
    #[inline(always)]
    pub fn reach(&self, bits: u8) -> u8 {
        self.stage.fetch_or(bits, Relaxed)
    }

    /// A new connection.
    pub fn reset(&self) {
        self.stage.store(0, Relaxed);
        self.requests.reset();
        self.replies.reset();
    }
}

/// What one worker counts of one way. Written by that worker alone.
#[derive(Debug, Default)]
pub struct Tally {
    /// Handed to the kernel.
    pub sent: Counter,
    /// See [`crate::report::Direction`].
    pub received: Counter,
    /// Bytes of those on a wire, with preamble and gap.
    pub wire_bytes: Counter,
    /// See [`crate::report::Direction`].
    pub duplicated: Counter,
    /// See [`crate::report::Direction`].
    pub reordered: Counter,
    /// See [`crate::report::Direction`].
    pub corrupted: Counter,
    /// See [`crate::report::Direction`].
    pub strayed: Counter,
}

impl Tally {
    /// Counts a valid packet of a frame of `len` bytes; true if it is to be counted as received.
    #[inline(always)]
    pub fn place(&self, place: Place, len: usize) -> bool {
        match place {
            Place::Next => {}
            Place::Late => self.reordered.add(1),
            Place::Repeated => {
                self.duplicated.add(1);
                return false;
            }
            Place::Old => {
                self.reordered.add(1);
                return false;
            }
        }
        self.received.add(1);
        self.wire_bytes.add(len as u64 + u64::from(size::FCS + size::GAP));
        true
    }
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Damaged on the way.
    Corrupted,
    /// Whole, but not where it belongs.
    Strayed,
    /// Nothing of this run.
    Foreign,
}

/// Who should be talking to whom.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Address and port the clients speak to.
    pub vip: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How the balancer forwards.
    pub method: Method,
    /// Clients.
    pub clients: Clients,
    /// Real servers.
    pub reals: Addresses,
    /// Their port.
    pub real_port: u16,
    /// Key of the stamps.
    pub key: u32,
}

impl Rules {
    /// Index of the real server that a packet at the servers' side is for. `mac` is where the frame
    /// went to.
    ///
    /// # Errors
    /// [`Fault::Foreign`] if it is no traffic of this run, [`Fault::Strayed`] if it is for none of
    /// the real servers.
    #[inline]
    pub fn real(&self, view: &View, mac: [u8; 6]) -> Result<u16, Fault> {
        self.is_ours(view)?;
        let index = match self.method {
            Method::Nat | Method::Fullnat => {
                if view.tunnel.is_some() || view.destination.1 != self.real_port {
                    return Err(Fault::Strayed);
                }
                self.reals.index(view.destination.0)
            }
            Method::Direct if view.tunnel.is_none() => real_of_mac(mac),
            Method::Tunnel => view.tunnel.and_then(|outer| self.reals.index(outer)),
            Method::Direct => None,
        };
        let kept = self.method.replies_pass() || view.destination == parts(self.vip);
        let index = index.filter(|index| kept && *index < self.reals.count());
        index.and_then(|index| u16::try_from(index).ok()).ok_or(Fault::Strayed)
    }

    /// The flow that a packet at the servers' side is of, by its addresses; none if the balancer
    /// hides them (full NAT).
    ///
    /// # Errors
    /// [`Fault::Strayed`] if no client has this address and port.
    #[inline]
    pub fn sender(&self, view: &View) -> Result<Option<u32>, Fault> {
        if self.method == Method::Fullnat {
            return Ok(None);
        }
        self.clients.flow(view.source.0, view.source.1).map(Some).ok_or(Fault::Strayed)
    }

    /// The flow that a packet at the clients' side is of.
    ///
    /// # Errors
    /// [`Fault::Foreign`] if it is no traffic of this run, [`Fault::Strayed`] if it does not come
    /// from the VIP or is for none of the clients.
    #[inline]
    pub fn receiver(&self, view: &View) -> Result<u32, Fault> {
        self.is_ours(view)?;
        if view.source != parts(self.vip) || view.tunnel.is_some() {
            return Err(Fault::Strayed);
        }
        self.clients.flow(view.destination.0, view.destination.1).ok_or(Fault::Strayed)
    }

    /// The stamp of a data packet, which must be of `flow` (if that is known) and exist.
    ///
    /// # Errors
    /// [`Fault::Corrupted`] if there is none or it is damaged, [`Fault::Strayed`] if it is of
    /// another flow.
    #[inline]
    pub fn stamp(
        &self,
        frame: &[u8],
        view: &View,
        way: Way,
        flow: Option<u32>,
    ) -> Result<Stamp, Fault> {
        let segment = frame.get(view.transport..view.end).ok_or(Fault::Corrupted)?;
        let payload = frame.get(view.payload..view.end).ok_or(Fault::Corrupted)?;
        let stamp = match self.protocol {
            Protocol::Tcp => Stamp::read_tcp(self.key, way, segment, payload),
            Protocol::Udp => Stamp::read_udp(self.key, way, payload),
        };
        let stamp = stamp.ok_or(Fault::Corrupted)?;
        match flow {
            Some(flow) if flow != stamp.flow => Err(Fault::Strayed),
            _ if stamp.flow >= self.clients.flows => Err(Fault::Strayed),
            _ => Ok(stamp),
        }
    }

    #[inline(always)]
    fn is_ours(&self, view: &View) -> Result<(), Fault> {
        let protocol = match self.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        if view.protocol == protocol { Ok(()) } else { Err(Fault::Foreign) }
    }
}

/// MAC address of a real server of direct routing, where nothing else tells which one is meant.
#[must_use]
pub fn mac_of_real(index: u32) -> [u8; 6] {
    let [a, b, c, d] = index.to_be_bytes();
    [0x02, 0x78, a, b, c, d]
}

/// The reverse of [`mac_of_real`].
#[inline(always)]
#[must_use]
pub fn real_of_mac(mac: [u8; 6]) -> Option<u32> {
    let [0x02, 0x78, a, b, c, d] = mac else { return None };
    Some(u32::from_be_bytes([a, b, c, d]))
}

#[inline(always)]
fn parts(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

#[cfg(test)]
mod tests;
