//! A packet in its buffer, and what becomes of it.

use dataplane_api::counter::Reason;

use crate::address::DeviceId;

/// One packet in one frame buffer, lent by a device for the length of a burst.
pub struct Frame<'a> {
    buffer: &'a mut [u8],
    start: usize,
    len: usize,
    device: DeviceId,
}

impl<'a> Frame<'a> {
    /// A packet of `len` bytes at `start` of `buffer`, received on `device`.
    ///
    /// # Panics
    /// If the packet does not lie inside the buffer.
    #[must_use]
    pub fn new(buffer: &'a mut [u8], start: usize, len: usize, device: DeviceId) -> Self {
        assert!(start <= buffer.len() && len <= buffer.len() - start);
        Self { buffer, start, len, device }
    }

    /// The interface it came in on.
    #[inline(always)]
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Offset of the packet in its buffer.
    #[inline(always)]
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// The packet.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    /// The packet.
    #[inline(always)]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }

    /// Makes room for `count` bytes in front; their content is whatever was there. False, and
    /// nothing changed, if the headroom is too small.
    #[must_use]
    pub fn prepend(&mut self, count: usize) -> bool {
        if count > self.start {
            return false;
        }
        self.start -= count;
        self.len += count;
        true
    }

    /// Makes the packet `len` bytes long; new bytes at the end are whatever was there. False, and
    /// nothing changed, if the buffer is too small.
    #[must_use]
    pub fn resize(&mut self, len: usize) -> bool {
        if len > self.buffer.len() - self.start {
            return false;
        }
        self.len = len;
        true
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sent on this interface.
    Transmit(DeviceId),
    /// Not sent; counted under the reason.
    Drop(Reason),
    /// Copied, to be sent later (a fragment ahead of its first fragment); the frame is free.
    Held,
}

/// Where [`crate::forward`] puts packets that are not the received one in its own frame.
pub trait Outbox {
    /// Sends a copy of `packet` on `device`; false if there was no room (the caller counts it).
    fn send(&mut self, device: DeviceId, packet: &[u8]) -> bool;
}
