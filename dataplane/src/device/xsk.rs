//! AF_XDP sockets as a [`Device`]: the frames of one worker and where each of them is.
//!
//! Runs on the worker that owns it; ports are opened and dropped elsewhere. It promises that a
//! frame is in exactly one place (free, with the processing, with the kernel of one port for
//! receiving, or for sending), that a poll with nothing to send makes no system call, and that a
//! port which does not get rid of its frames takes none from the others.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use anyhow::ensure;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, recv};

use super::Device;
pub use super::port::{Port, PortMonitor};
pub use super::slots::Census;
use super::slots::{FREE, HELD, Kick, Live, Pool, Ports, SLOTS, Slot, posted, sent};
pub use super::umem::Memory;
use crate::address::DeviceId;
use crate::counters::Counters;
use crate::frame::{Frame, Outbox, Verdict};
use crate::limits::{BURST, FRAME_SIZE, INTERFACES};
use crate::prefetch::prefetch;

/// Bytes that the processor fetches at once.
const CACHE_LINE: u16 = 64;
/// Longest sleep while the kernel still has to be asked to transmit.
const UNSENT_WAIT: Duration = Duration::from_millis(1);

// Made on one thread, used on another.
const _: () = {
    const fn moves<T: Send>() {}
    moves::<XskDevice>();
    moves::<Port>();
    moves::<PortMonitor>();
};

/// The ports of one worker. Owned by its thread; the methods for management are called between
/// polls.
pub struct XskDevice {
    ports: Ports,
    leaving: usize,
}

impl XskDevice {
    /// A device without ports, on all frames of `memory`.
    ///
    /// # Errors
    /// If another device has these frames.
    pub fn new(memory: &Memory) -> anyhow::Result<Self> {
        ensure!(memory.take(), "these frames belong to another worker");
        let frames = memory.frames();
        let pool = Pool {
            memory: memory.clone(),
            place: vec![FREE; frames as usize].into(),
            // Popped from the end: the lowest frame first.
            free: (0..frames).rev().collect(),
        };
        let share = memory.ring();
        let slots = Vec::with_capacity(SLOTS);
        let by_id = [u8::MAX; INTERFACES];
        Ok(Self { ports: Ports { pool, slots, by_id, share }, leaving: 0 })
    }

    /// Serves `port` as `id` from now on. Returns the port it replaces, to be dropped on another
    /// thread; or `port` itself, unused, if it was opened on other memory, `id` is out of range, or
    /// 64 ports wait to be closed.
    pub fn install(&mut self, id: DeviceId, port: Port) -> Option<Port> {
        self.reclaim();
        let empty = self.ports.slots.iter().position(|s| matches!(s, Slot::Empty));
        let slot = empty.unwrap_or(self.ports.slots.len());
        if id.index() >= INTERFACES || slot >= SLOTS || !port.memory().is(&self.ports.pool.memory) {
            return Some(port);
        }
        let replaced = self.remove(id);
        let live = Slot::Live(Live {
            id,
            port,
            posted: 0,
            sent: 0,
            kick: Kick::default(),
            queued: (0, 0),
        });
        match self.ports.slots.get_mut(slot) {
            Some(empty) => *empty = live,
            None => self.ports.slots.push(live),
        }
        self.ports.by_id[id.index()] = slot as u8;
        self.ports.set_share();
        self.refill(slot);
        replaced
    }

    /// Stops serving `id`. Its frames come back when the returned port is dropped; drop it on
    /// another thread.
    pub fn remove(&mut self, id: DeviceId) -> Option<Port> {
        let slot = self.ports.find(id)?;
        let Slot::Live(live) = std::mem::replace(&mut self.ports.slots[slot], Slot::Empty) else {
            return None;
        };
        self.ports.by_id[id.index()] = u8::MAX;
        self.ports.slots[slot] =
            Slot::Leaving { released: live.port.released(), frames: live.posted + live.sent };
        self.leaving += 1;
        self.ports.set_share();
        Some(live.port)
    }

    /// Frames in the free pool.
    #[must_use]
    pub fn frames_free(&self) -> usize {
        self.ports.pool.free.len()
    }

    /// Where all frames are; the sum never changes.
    #[must_use]
    pub fn census(&self) -> Census {
        self.ports.census()
    }

    /// Sleeps until a frame comes in on any port, at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) {
        self.wait_or_hear(timeout, None);
    }

    /// Sleeps until a frame comes in on any port, or `bell` can be read; at most `timeout`.
    pub fn wait_or_hear(&mut self, timeout: Duration, bell: Option<BorrowedFd<'_>>) {
        let mut unsent = false;
        let mut fds = Vec::with_capacity(INTERFACES + 1);
        fds.extend(bell.map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN)));
        for slot in &mut self.ports.slots {
            let Slot::Live(live) = slot else { continue };
            unsent |= live.sent > 0 && live.port.rings.tx.unconsumed() > 0;
            fds.push(PollFd::from_borrowed_fd(live.port.fd(), PollFlags::IN));
        }
        let timeout = if unsent { timeout.min(UNSENT_WAIT) } else { timeout };
        let timeout = Timespec {
            tv_sec: timeout.as_secs().min(3600) as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // Whatever it says, the next poll looks at the rings.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }

    /// Frees the frames of removed ports that have been closed.
    fn reclaim(&mut self) {
        if self.leaving == 0 {
            return;
        }
        for (index, slot) in self.ports.slots.iter_mut().enumerate() {
            if let Slot::Leaving { released, .. } = slot
                && released.load(Acquire)
            {
                *slot = Slot::Empty;
                self.ports.pool.reclaim(index);
                self.leaving -= 1;
            }
        }
    }

    /// Takes back what the kernel has sent.
    #[inline(always)]
    fn complete(&mut self, slot: usize) {
        let Ports { pool, slots, .. } = &mut self.ports;
        let Slot::Live(live) = &mut slots[slot] else { return };
        if live.sent == 0 {
            return;
        }
        while let Some(addr) = live.port.rings.completion.pop() {
            if pool.shift((addr / FRAME_SIZE as u64) as u32, sent(slot), FREE) {
                live.sent -= 1;
            }
        }
        live.port.rings.completion.release();
    }

    /// Gives the kernel frames to receive into.
    #[inline(always)]
    fn refill(&mut self, slot: usize) {
        let Ports { pool, slots, share, .. } = &mut self.ports;
        let Slot::Live(live) = &mut slots[slot] else { return };
        let before = live.posted;
        while live.posted < *share {
            let Some(index) = pool.take(posted(slot)) else { break };
            if !live.port.rings.fill.push(u64::from(index) * FRAME_SIZE as u64) {
                pool.shift(index, posted(slot), FREE);
                break;
            }
            live.posted += 1;
        }
        if live.posted == before {
            return;
        }
        live.port.rings.fill.submit();
        if live.port.zero_copy() && live.port.rings.fill.needs_wakeup() {
            let _ = recv(live.port.fd(), &mut [0_u8; 0], RecvFlags::DONTWAIT);
        }
    }

    /// Takes up to a burst of received frames out of the ring of `slot`.
    #[inline(always)]
    fn receive(&mut self, slot: usize, burst: &mut [(u32, u16, u16); BURST]) -> usize {
        let Ports { pool, slots, .. } = &mut self.ports;
        let Slot::Live(live) = &mut slots[slot] else { return 0 };
        let mut count = 0;
        while count < BURST {
            let Some(desc) = live.port.rings.rx.pop() else { break };
            let index = (desc.addr / FRAME_SIZE as u64) as u32;
            let start = (desc.addr % FRAME_SIZE as u64) as usize;
            if !pool.shift(index, posted(slot), HELD) {
                continue;
            }
            live.posted -= 1;
            let len = (desc.len as usize).min(FRAME_SIZE - start);
            burst[count] = (index, start as u16, len as u16);
            count += 1;
        }
        if count > 0 {
            live.port.rings.rx.release();
        }
        count
    }

    /// One burst of one port.
    fn burst(
        &mut self,
        slot: usize,
        counters: &Counters,
        process: &mut impl FnMut(&mut [Frame<'_>], &mut [Verdict], &mut dyn Outbox),
    ) -> usize {
        let Slot::Live(live) = &mut self.ports.slots[slot] else { return 0 };
        let (id, idle) = (live.id, live.port.rings.rx.is_empty());
        self.complete(slot);
        if idle {
            // Most turns of a poll loop: nothing is laid out for frames that are not there.
            self.refill(slot);
            return 0;
        }
        let mut burst = [(0, 0, 0); BURST];
        let count = self.receive(slot, &mut burst);
        if count > 0 {
            let mut bytes = 0;
            let memory = &self.ports.pool.memory;
            let mut frames: [Frame<'_>; BURST] = std::array::from_fn(|n| {
                if n >= count {
                    return Frame::new(&mut [], 0, 0, id);
                }
                let (index, start, len) = burst[n];
                bytes += u64::from(len);
                // SAFETY: `receive` took it out of the ring and made it `HELD`; each index occurs
                // once, and the outbox takes free frames only.
                let chunk = unsafe { memory.chunk(index) };
                // Another core has written it: the first look at a header would wait for it to come
                // over, which takes longer than all the rest of forwarding.
                for line in [start, start + CACHE_LINE] {
                    if let Some(byte) = chunk.get(usize::from(line)).filter(|_| line < start + len)
                    {
                        prefetch(byte);
                    }
                }
                Frame::new(chunk, usize::from(start), usize::from(len), id)
            });
            counters.device(id).rx_packets.add(count as u64);
            counters.device(id).rx_bytes.add(bytes);
            let mut verdicts = [Verdict::Held; BURST];
            process(&mut frames[..count], &mut verdicts[..count], &mut self.ports);
            for ((frame, verdict), (index, ..)) in
                frames.iter().zip(verdicts).zip(burst).take(count)
            {
                self.settle(counters, index, frame.start(), frame.bytes().len(), verdict);
            }
        }
        self.refill(slot);
        count
    }

    /// Carries out a verdict.
    #[inline(always)]
    fn settle(
        &mut self,
        counters: &Counters,
        index: u32,
        start: usize,
        len: usize,
        verdict: Verdict,
    ) {
        if let Verdict::Transmit(to) = verdict {
            match self.ports.transmit(to, index, start, len) {
                Ok(()) => return,
                Err(reason) => counters.drop(reason),
            }
        }
        self.ports.pool.shift(index, HELD, FREE);
    }
}

/// Between polls; what is queued leaves with the next poll.
impl Outbox for XskDevice {
    fn send(&mut self, device: DeviceId, packet: &[u8]) -> bool {
        self.ports.send(device, packet)
    }
}

impl Device for XskDevice {
    fn poll(
        &mut self,
        counters: &Counters,
        mut process: impl FnMut(&mut [Frame<'_>], &mut [Verdict], &mut dyn Outbox),
    ) -> usize {
        self.reclaim();
        let mut received = 0;
        for slot in 0..self.ports.slots.len() {
            received += self.burst(slot, counters, &mut process);
        }
        for slot in &mut self.ports.slots {
            if let Slot::Live(live) = slot
                && (live.sent > 0 || live.kick.failing)
            {
                let (packets, bytes) = std::mem::take(&mut live.queued);
                counters.device(live.id).tx_packets.add(packets);
                counters.device(live.id).tx_bytes.add(bytes);
                live.port.rings.tx.submit();
                live.kick.run(&mut live.port, counters);
            }
        }
        debug_assert_eq!(
            {
                let Census { free, posted, sent, leaving } = self.census();
                free + posted + sent + leaving
            },
            self.ports.pool.memory.frames() as usize,
            "a frame is in two places, or in none"
        );
        received
    }
}
