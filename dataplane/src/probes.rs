//! SYNs of our own, sent to a VIP by the way that a real's connections take, and what is answered.
//!
//! The real answers to an address of this host, where the steering program hands us what a VIP says to
//! one of a few ports. The agent's threads ask, any worker sends and hears. A worker does not wait for
//! the lock: what it misses is repeated by the real.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use dataplane_api::message::PathAnswer;

use crate::address::{Address, RealId};
use crate::clock::Instant;
use crate::limits::{PROBE_PORT, PROBES};
use crate::rewrite::nat::Endpoint;
use crate::wire::packet::{Packet, TcpFlags};

/// Probes on their way.
#[derive(Debug)]
pub struct Probes {
    /// How many wait to be sent or answered: nearly always none.
    waiting: AtomicU32,
    slots: Mutex<[Option<Slot>; PROBES]>,
    outgoing: ArrayQueue<Outgoing>,
}

/// What a worker is to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) real: RealId,
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    pub(crate) sequence: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    out: Outgoing,
    asked: Instant,
    heard: Option<(PathAnswer, Instant)>,
}

impl Default for Probes {
    fn default() -> Self {
        let outgoing = ArrayQueue::new(PROBES);
        Self { waiting: 0.into(), slots: Mutex::new([None; PROBES]), outgoing }
    }
}

impl Probes {
    /// Has a SYN sent from `source` to a port of a VIP by way of `real`; a number to ask for the answer
    /// with, and to [`Self::finish`] in any case. None if there are too many.
    #[must_use]
    pub fn start(
        &self,
        real: RealId,
        source: Address,
        vip: Endpoint,
        now: Instant,
    ) -> Option<usize> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let index = slots.iter().position(Option::is_none)?;
        let from = Endpoint { address: source, port: PROBE_PORT + index as u16 };
        let sequence = (now.nanos() as u32).wrapping_mul(0x9e37_79b1);
        let out = Outgoing { real, from, to: vip, sequence };
        self.outgoing.push(out).ok()?;
        slots[index] = Some(Slot { out, asked: now, heard: None });
        self.waiting.fetch_add(1, Relaxed);
        Some(index)
    }

    /// What has been answered, and after how many microseconds.
    #[must_use]
    pub fn answer(&self, index: usize) -> Option<(PathAnswer, u64)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(index)?.as_ref()?;
        let (answer, at) = slot.heard?;
        Some((answer, at.since(slot.asked).as_micros() as u64))
    }

    /// Gives the place back.
    pub fn finish(&self, index: usize) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.get_mut(index).and_then(Option::take).is_some() {
            self.waiting.fetch_sub(1, Relaxed);
        }
    }

    /// Whether there is anything to send or to hear.
    #[inline(always)]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }

    /// The next to be sent.
    pub(crate) fn next(&self) -> Option<Outgoing> {
        self.outgoing.pop()
    }

    /// It could not be sent.
    pub(crate) fn failed(&self, out: &Outgoing, now: Instant) {
        let index = usize::from(out.from.port.wrapping_sub(PROBE_PORT));
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(slot)) = slots.get_mut(index) {
            slot.heard = Some((PathAnswer::NotSent, now));
        }
    }

    /// A TCP packet that belongs to no connection: the probe that it answers, if it does.
    pub(crate) fn hear(&self, packet: &Packet, now: Instant) -> Option<(Outgoing, PathAnswer)> {
        let index = usize::from(packet.destination_port.checked_sub(PROBE_PORT)?);
        let mut slots = self.slots.try_lock().ok()?;
        let slot = slots.get_mut(index)?.as_mut()?;
        let out = slot.out;
        let ends = (packet.source, packet.source_port) == (out.to.address, out.to.port)
            && packet.destination == out.from.address;
        let answer = match packet.tcp_flags {
            flags if flags.has(TcpFlags::RST) => PathAnswer::Refused,
            flags if flags.has(TcpFlags::SYN | TcpFlags::ACK) => PathAnswer::Answered,
            _ => return None,
        };
        if !ends {
            return None;
        }
        // The first counts; a repeated one is reset again.
        slot.heard.get_or_insert((answer, now));
        Some((out, answer))
    }
}
