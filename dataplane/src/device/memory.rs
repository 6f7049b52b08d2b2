//! A device of byte vectors: what tests, fuzzing and benches forward on.

use std::collections::VecDeque;

use super::Device;
use crate::address::DeviceId;
use crate::counters::Counters;
use crate::frame::{Frame, Outbox, Verdict};
use crate::limits::{BURST, FRAME_SIZE, HEADROOM};

/// Frames go in with [`Self::inject`], come out with [`Self::collect`].
///
/// Behaves as an AF_XDP device does: buffers of [`FRAME_SIZE`] bytes with [`HEADROOM`] in front, at
/// most one burst an interface and poll, replies of the outbox ahead of the burst they came with.
#[derive(Debug, Default)]
pub struct MemoryDevice {
    waiting: VecDeque<(DeviceId, Box<[u8]>, usize)>,
    spare: Vec<Box<[u8]>>,
    sent: Sent,
}

#[derive(Debug, Default)]
struct Sent(Vec<(DeviceId, Vec<u8>)>);

impl MemoryDevice {
    /// A device with nothing to receive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a packet to be received on `device`. False, and nothing queued, if it is larger than
    /// a frame without its headroom.
    pub fn inject(&mut self, device: DeviceId, packet: &[u8]) -> bool {
        if packet.len() > FRAME_SIZE - HEADROOM {
            return false;
        }
        let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; FRAME_SIZE].into());
        buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        self.waiting.push_back((device, buffer, packet.len()));
        true
    }

    /// Everything sent since the last call, in order.
    pub fn collect(&mut self) -> Vec<(DeviceId, Vec<u8>)> {
        std::mem::take(&mut self.sent.0)
    }

    /// Packets not yet received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl Outbox for Sent {
    fn send(&mut self, device: DeviceId, packet: &[u8]) -> bool {
        if packet.len() > FRAME_SIZE {
            return false;
        }
        self.0.push((device, packet.to_vec()));
        true
    }
}

impl Outbox for MemoryDevice {
    fn send(&mut self, device: DeviceId, packet: &[u8]) -> bool {
        self.sent.send(device, packet)
    }
}

impl Device for MemoryDevice {
    fn poll(
        &mut self,
        counters: &Counters,
        mut process: impl FnMut(&mut [Frame<'_>], &mut [Verdict], &mut dyn Outbox),
    ) -> usize {
        let Some(&(device, ..)) = self.waiting.front() else { return 0 };
        let same = self.waiting.iter().take(BURST).take_while(|(id, ..)| *id == device).count();
        let mut burst: Vec<_> = self.waiting.drain(..same).collect();
        let mut bytes = 0;
        let mut frames: Vec<Frame<'_>> = Vec::with_capacity(same);
        for (_, buffer, len) in &mut burst {
            bytes += *len as u64;
            frames.push(Frame::new(buffer, HEADROOM, *len, device));
        }
        counters.device(device).rx_packets.add(same as u64);
        counters.device(device).rx_bytes.add(bytes);
        let mut verdicts = vec![Verdict::Held; same];
        let before = self.sent.0.len();
        process(&mut frames, &mut verdicts, &mut self.sent);
        for (frame, verdict) in frames.iter().zip(&verdicts) {
            if let Verdict::Transmit(to) = verdict {
                self.sent.0.push((*to, frame.bytes().to_vec()));
            }
        }
        for (to, packet) in &self.sent.0[before..] {
            counters.device(*to).tx_packets.add(1);
            counters.device(*to).tx_bytes.add(packet.len() as u64);
        }
        self.spare.extend(burst.into_iter().map(|(_, buffer, _)| buffer));
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_may_grow_into_its_headroom_and_leave_on_another_interface() {
        let (mut device, counters) = (MemoryDevice::new(), Counters::default());
        assert!(device.inject(DeviceId(0), b"packet"));
        assert!(device.inject(DeviceId(1), b"other"));
        let received = device.poll(&counters, |frames, verdicts, outbox| {
            assert!(outbox.send(DeviceId(0), b"first"));
            assert!(frames[0].prepend(HEADROOM) && !frames[0].prepend(1));
            assert!(frames[0].resize(HEADROOM + 3));
            frames[0].bytes_mut()[..HEADROOM].fill(7);
            verdicts[0] = Verdict::Transmit(DeviceId(1));
        });
        assert_eq!((received, device.waiting()), (1, 1), "one interface at a time");
        let mut expected = vec![7; HEADROOM];
        expected.extend_from_slice(b"pac");
        let sent = device.collect();
        assert_eq!(sent, [(DeviceId(0), b"first".to_vec()), (DeviceId(1), expected)]);
        assert_eq!(counters.device(DeviceId(0)).rx_bytes.get(), 6);
        assert_eq!(counters.device(DeviceId(1)).tx_bytes.get(), HEADROOM as u64 + 3);
    }

    #[test]
    fn a_packet_that_fits_no_frame_is_refused() {
        let mut device = MemoryDevice::new();
        assert!(device.inject(DeviceId(0), &[0; FRAME_SIZE - HEADROOM]));
        assert!(!device.inject(DeviceId(0), &[0; FRAME_SIZE - HEADROOM + 1]));
        assert_eq!(device.waiting(), 1);
    }
}
