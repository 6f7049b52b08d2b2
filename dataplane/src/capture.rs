//! Copies of chosen frames, as they came in and as they went out, for people who look.
//!
//! Workers copy, the agent's thread fetches; between the two is a fixed number of buffers, made when a
//! capture begins, in two lock-free queues. A worker never waits and never allocates: without a free
//! buffer the frame is counted as lost. While no capture runs, a burst costs one relaxed load.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::ArrayQueue;
use dataplane_api::message::CaptureFilter;

use crate::address::{Address, DeviceId};
use crate::clock::Instant;
use crate::frame::Verdict;
use crate::limits;
use crate::wire::packet;

/// Whether a capture runs, and which.
#[derive(Debug, Default)]
pub struct Capture {
    active: AtomicBool,
    session: Mutex<Option<Arc<Session>>>,
}

/// One capture.
#[derive(Debug)]
pub struct Session {
    filter: CaptureFilter,
    until: Instant,
    /// Frames that may still be kept.
    left: AtomicU32,
    /// Second 32, frames kept in it 32.
    rate: AtomicU64,
    free: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    lost: AtomicU64,
    limited: AtomicU64,
}

/// A frame before and after.
#[derive(Debug)]
pub struct Record {
    /// When its burst was received.
    pub at: Instant,
    /// Worker that had it.
    pub worker: u16,
    /// Where it came in; none if we made it.
    pub rx: Option<DeviceId>,
    /// What became of it.
    pub verdict: Verdict,
    /// As it came in.
    pub before: Copy,
    /// As it went out.
    pub after: Copy,
}

/// The beginning of a frame.
#[derive(Debug)]
pub struct Copy {
    /// Of the frame, in bytes.
    pub len: usize,
    bytes: Box<[u8]>,
}

impl Copy {
    fn new(bytes: u16) -> Self {
        Self { len: 0, bytes: vec![0; usize::from(bytes)].into() }
    }

    fn take(&mut self, frame: &[u8]) {
        self.len = frame.len();
        for (to, byte) in self.bytes.iter_mut().zip(frame) {
            *to = *byte;
        }
    }

    /// What has been kept of it.
    #[must_use]
    pub fn kept(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// Who a packet is from and to, as far as a filter asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    ends: [(Address, u16); 2],
    protocol: u8,
}

impl Ends {
    /// Of a frame; none if it is not understood.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let packet = packet::parse(frame).ok()?;
        let source = (packet.source, packet.source_port);
        let ends = [source, (packet.destination, packet.destination_port)];
        Some(Self { ends, protocol: packet.protocol })
    }
}

impl Capture {
    /// Whether frames are to be copied.
    #[inline(always)]
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }

    /// Begins one: at most `packets` frames until `until`, `bytes` of each.
    ///
    /// # Errors
    /// Another one runs.
    pub fn start(
        &self,
        filter: CaptureFilter,
        packets: u32,
        bytes: u16,
        (now, until): (Instant, Instant),
    ) -> Result<(), String> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if session.as_ref().is_some_and(|s| self.is_active() && now < s.until) {
            return Err("a capture is running already; end it first".to_owned());
        }
        let count = limits::CAPTURE_BUFFERS.min(packets as usize).max(1);
        let fresh = Session {
            filter,
            until,
            left: packets.into(),
            rate: 0.into(),
            free: ArrayQueue::new(count),
            full: ArrayQueue::new(count),
            lost: 0.into(),
            limited: 0.into(),
        };
        for _ in 0..count {
            let record = Record {
                at: now,
                worker: 0,
                rx: None,
                verdict: Verdict::Held,
                before: Copy::new(bytes),
                after: Copy::new(bytes),
            };
            // As many as there is room for.
            let _ = fresh.free.push(Box::new(record));
        }
        *session = Some(Arc::new(fresh));
        self.active.store(true, Relaxed);
        Ok(())
    }

    /// Ends it, and lets go of what has not been fetched.
    pub fn stop(&self) {
        self.active.store(false, Relaxed);
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The capture that runs or ran last.
    #[must_use]
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For a worker: the capture that runs; none, too, if somebody is looking at it this moment.
    pub(crate) fn running(&self, now: Instant) -> Option<Arc<Session>> {
        let session = self.session.try_lock().ok()?.clone()?;
        if now >= session.until || session.left.load(Relaxed) == 0 {
            self.active.store(false, Relaxed);
            return None;
        }
        Some(session)
    }
}

impl Session {
    /// Whether frames may still come.
    #[must_use]
    pub fn is_running(&self, now: Instant) -> bool {
        now < self.until && self.left.load(Relaxed) > 0
    }

    /// Shows up to `limit` frames that have come.
    pub fn fetch(&self, limit: usize, mut show: impl FnMut(&Record)) {
        for _ in 0..limit {
            let Some(record) = self.full.pop() else { return };
            show(&record);
            let _ = self.free.push(record);
        }
    }

    /// Frames that were lost, and that were too many a second.
    #[must_use]
    pub fn missed(&self) -> (u64, u64) {
        (self.lost.load(Relaxed), self.limited.load(Relaxed))
    }

    /// A buffer to copy into.
    pub(crate) fn buffer(&self) -> Option<Box<Record>> {
        self.free.pop()
    }

    /// Gives an unused one back.
    pub(crate) fn give_back(&self, record: Box<Record>) {
        let _ = self.free.push(record);
    }

    /// Whether a frame with these ends, before and after, is asked for.
    pub(crate) fn wants(&self, before: Option<Ends>, after: Option<Ends>) -> bool {
        let CaptureFilter { client, client_port, vip, vip_port, real, protocol } = &self.filter;
        let ends = || [before, after].into_iter().flatten();
        let has = |address: Option<Address>, port: Option<u16>| {
            let fits = |end: &(Address, u16)| {
                address.is_none_or(|a| a == end.0) && port.is_none_or(|p| p == end.1)
            };
            (address.is_none() && port.is_none()) || ends().any(|e| e.ends.iter().any(fits))
        };
        has(client.map(Into::into), *client_port)
            && has(vip.map(Into::into), *vip_port)
            && has(real.map(Into::into), None)
            && protocol.is_none_or(|p| ends().any(|e| e.protocol == p.number()))
    }

    /// Whether one more frame may be kept; counts it, or why not.
    pub(crate) fn admit(&self, buffer: bool, now: Instant) -> bool {
        let second = now.nanos() / 1_000_000_000;
        let rate = self.rate.load(Relaxed);
        if rate >> 32 != second & 0xffff_ffff {
            self.rate.store(second << 32 | 1, Relaxed);
        } else if rate & 0xffff_ffff >= u64::from(limits::CAPTURE_PER_SECOND) {
            self.limited.fetch_add(1, Relaxed);
            return false;
        } else {
            self.rate.fetch_add(1, Relaxed);
        }
        if !buffer {
            self.lost.fetch_add(1, Relaxed);
            return false;
        }
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Hands a filled buffer over.
    pub(crate) fn deliver(&self, record: Box<Record>) {
        // There is room for all there are.
        let _ = self.full.push(record);
    }
}

impl Record {
    /// Notes the frame as it comes in.
    pub(crate) fn came(&mut self, frame: &[u8]) {
        self.before.take(frame);
    }

    /// Notes the frame as it goes out, or nothing.
    pub(crate) fn went(&mut self, frame: &[u8]) {
        self.after.take(frame);
    }
}
