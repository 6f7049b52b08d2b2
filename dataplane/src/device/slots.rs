//! Where each frame of a worker is: the book-keeping of [`super::xsk::XskDevice`].
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dataplane_api::counter::{Event, Reason};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::port::Port;
use super::rings::Desc;
use super::umem::Memory;
use crate::address::DeviceId;
use crate::counters::Counters;
use crate::frame::Outbox;
use crate::limits::{FRAME_SIZE, HEADROOM, INTERFACES};

/// Ports in use, and removed ones that are not closed yet.
pub(super) const SLOTS: usize = 64;
/// Most polls between two attempts to transmit on a port whose interface is gone or down.
const BACKOFF_MAX: u32 = 256;

/// The place of a frame: these two, then two for each slot.
pub(super) type Place = u8;
pub(super) const FREE: Place = 0;
pub(super) const HELD: Place = 1;

/// With the kernel, to receive into.
pub(super) const fn posted(slot: usize) -> Place {
    2 + 2 * slot as u8
}

/// With the kernel, to send.
pub(super) const fn sent(slot: usize) -> Place {
    3 + 2 * slot as u8
}

const _: () = assert!(3 + 2 * (SLOTS - 1) <= Place::MAX as usize);

/// Which frame is where.
pub(super) struct Pool {
    pub(super) memory: Memory,
    pub(super) place: Box<[Place]>,
    pub(super) free: Vec<u32>,
}

impl Pool {
    /// Takes a free frame to `place`.
    #[inline(always)]
    pub(super) fn take(&mut self, place: Place) -> Option<u32> {
        let index = self.free.pop()?;
        self.place[index as usize] = place;
        Some(index)
    }

    /// Moves a frame; false, and nothing changed, if it is not where it should be (which would be
    /// a bug, here or in a driver, and must not become a frame in two places).
    #[inline(always)]
    pub(super) fn shift(&mut self, index: u32, from: Place, to: Place) -> bool {
        let Some(place) = self.place.get_mut(index as usize) else {
            debug_assert!(false, "frame {index} does not exist");
            return false;
        };
        if *place != from {
            debug_assert!(false, "frame {index} is at {place}, not at {from}");
            return false;
        }
        *place = to;
        if to == FREE {
            self.free.push(index);
        }
        true
    }

    /// Frees every frame that is with the kernel for `slot`.
    pub(super) fn reclaim(&mut self, slot: usize) {
        for (index, place) in self.place.iter_mut().enumerate() {
            if *place == posted(slot) || *place == sent(slot) {
                *place = FREE;
                self.free.push(index as u32);
            }
        }
    }
}

/// When to call the kernel to transmit, and when to leave it alone.
///
/// In copy mode frames leave inside the call, 32 at a time unless the budget could be raised, and
/// the call may stop early (`EAGAIN`); without another one they would stay. So it is repeated while
/// it gets on, and again in the next poll. An interface that is gone or down is tried less and
/// less.
#[derive(Default)]
pub(super) struct Kick {
    pub(super) failing: bool,
    backoff: u32,
    skip: u32,
}

impl Kick {
    pub(super) fn run(&mut self, port: &mut Port, counters: &Counters) {
        let mut unsent = port.rings.tx.unconsumed();
        if unsent == 0 {
            // `poll(2)` transmits too in copy mode (`xsk_poll` of `net/xdp/xsk.c`): an interface that
            // failed and came back may have been served by the worker's sleep.
            return self.recovered(port);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        let wanted = if port.zero_copy() { port.rings.tx.needs_wakeup() } else { unsent > 0 };
        if !wanted {
            return;
        }
        for _ in 0..=unsent / port.tx_batch() {
            counters.event(Event::TxKick);
            let outcome = send(port.fd(), &[], SendFlags::DONTWAIT);
            let before = std::mem::replace(&mut unsent, port.rings.tx.unconsumed());
            match outcome {
                Ok(_) => self.recovered(port),
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {
                    if unsent != before {
                        self.recovered(port);
                    }
                }
                Err(errno) => return self.failed(port, errno.raw_os_error()),
            }
            if unsent == 0 || unsent == before {
                return;
            }
        }
    }

    fn recovered(&mut self, port: &Port) {
        if self.failing {
            *self = Self::default();
            port.set_error(0);
        }
    }

    fn failed(&mut self, port: &Port, errno: i32) {
        self.failing = true;
        self.backoff = (self.backoff * 2).clamp(1, BACKOFF_MAX);
        self.skip = self.backoff;
        port.set_error(errno);
    }
}

/// A port at work.
pub(super) struct Live {
    pub(super) id: DeviceId,
    pub(super) port: Port,
    pub(super) posted: u32,
    pub(super) sent: u32,
    pub(super) kick: Kick,
    /// Packets and bytes queued since the last poll.
    pub(super) queued: (u64, u64),
}

#[allow(clippy::large_enum_variant)]
pub(super) enum Slot {
    Empty,
    /// In use. Not boxed: each poll goes through all of them.
    Live(Live),
    /// Removed; the kernel may still write to its frames until the port is closed.
    Leaving {
        released: Arc<AtomicBool>,
        frames: u32,
    },
}

/// Where the frames of a worker are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// In the free pool.
    pub free: usize,
    /// With the kernel, to receive into, or received and not yet seen.
    pub posted: usize,
    /// With the kernel, to send.
    pub sent: usize,
    /// With removed ports that are not closed yet.
    pub leaving: usize,
}

/// The slots, and the pool they live on: all of a device but its received frames.
pub(super) struct Ports {
    pub(super) pool: Pool,
    pub(super) slots: Vec<Slot>,
    pub(super) by_id: [u8; INTERFACES],
    /// Most frames one port may hold for receiving, and for sending.
    pub(super) share: u32,
}

impl Ports {
    #[inline(always)]
    pub(super) fn find(&mut self, id: DeviceId) -> Option<usize> {
        let slot = usize::from(*self.by_id.get(id.index())?);
        (slot < self.slots.len()).then_some(slot)
    }

    /// Queues a frame that is `HELD`.
    #[inline(always)]
    pub(super) fn transmit(
        &mut self,
        id: DeviceId,
        index: u32,
        start: usize,
        len: usize,
    ) -> Result<(), Reason> {
        let slot = self.find(id).ok_or(Reason::DeviceDown)?;
        let Slot::Live(live) = &mut self.slots[slot] else { return Err(Reason::DeviceDown) };
        if live.kick.failing {
            return Err(Reason::TxError);
        }
        // The kernel would swallow an empty packet, and its frame with it.
        if len == 0 {
            return Err(Reason::TxError);
        }
        let addr = u64::from(index) * FRAME_SIZE as u64 + start as u64;
        if live.sent >= self.share
            || !live.port.rings.tx.push(Desc { addr, len: len as u32, options: 0 })
        {
            return Err(Reason::TxFull);
        }
        live.sent += 1;
        self.pool.shift(index, HELD, sent(slot));
        live.queued.0 += 1;
        live.queued.1 += len as u64;
        Ok(())
    }

    pub(super) fn set_share(&mut self) {
        let live = self.slots.iter().filter(|s| matches!(s, Slot::Live(_))).count().max(1) as u32;
        let memory = &self.pool.memory;
        self.share = memory.ring().min(memory.frames() / (2 * live)).max(1);
    }

    pub(super) fn census(&self) -> Census {
        let mut census = Census { free: self.pool.free.len(), posted: 0, sent: 0, leaving: 0 };
        for slot in &self.slots {
            match slot {
                Slot::Empty => {}
                Slot::Live(live) => {
                    census.posted += live.posted as usize;
                    census.sent += live.sent as usize;
                }
                Slot::Leaving { frames, .. } => census.leaving += *frames as usize,
            }
        }
        census
    }
}

/// Sends copies, from free frames.
impl Outbox for Ports {
    fn send(&mut self, device: DeviceId, packet: &[u8]) -> bool {
        if packet.len() > FRAME_SIZE {
            return false;
        }
        let Some(index) = self.pool.take(HELD) else { return false };
        let start = HEADROOM.min(FRAME_SIZE - packet.len());
        // SAFETY: it was free, so neither in a ring nor in a slice; now it is ours (`HELD`), and
        // the slice ends before it goes to the ring.
        let chunk = unsafe { self.pool.memory.chunk(index) };
        chunk[start..start + packet.len()].copy_from_slice(packet);
        let queued = self.transmit(device, index, start, packet.len());
        if queued.is_err() {
            self.pool.shift(index, HELD, FREE);
        }
        queued.is_ok()
    }
}
