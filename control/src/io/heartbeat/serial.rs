//! Heartbeats over a serial line: a way that shares no switch and no driver with the network.
//!
//! Frames as in SLIP (RFC 1055), with a CRC-32 (RFC 1952) after each: noise is no message. A line is slow; a
//! beat that it could not carry before the next one is due is left out, so that none comes late.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::termios::{
    ControlModes, OptionalActions, QueueSelector, ioctl_tiocexcl, tcflush, tcgetattr, tcsetattr,
};

use crate::failover::exchange::Nanos;

const END: u8 = 0xc0;
const ESC: u8 = 0xdb;
const ESC_END: u8 = 0xdc;
const ESC_ESC: u8 = 0xdd;
const CRC: usize = 4;
/// Longest frame that is taken.
const FRAME_MAX: usize = 2048;
/// Bits on the line for each byte: one to start, eight, one to stop.
const BITS: u64 = 10;
/// Frames that wait to be taken.
const WAITING: usize = 16;

/// An open line.
#[derive(Debug)]
pub(super) struct Serial {
    pub(super) file: File,
    nanos_per_byte: u64,
    /// When the line has carried everything so far.
    free_at: Nanos,
    /// What the kernel did not take yet.
    out: VecDeque<u8>,
    decoder: Decoder,
    frames: VecDeque<Vec<u8>>,
}

impl Serial {
    pub(super) fn open(device: &Path, baud: u32) -> io::Result<Self> {
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags.bits().cast_signed());
        let file = options.open(device)?;
        if !file.metadata()?.file_type().is_char_device() {
            return Err(io::Error::other("not a serial line"));
        }
        let mut settings = tcgetattr(&file).map_err(|e| {
            if e == rustix::io::Errno::NOTTY {
                io::Error::other("not a serial line")
            } else {
                e.into()
            }
        })?;
        settings.make_raw();
        settings.set_speed(baud)?;
        // Three wires will do: no modem signals, no flow control.
        settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        settings.control_modes -= ControlModes::CRTSCTS;
        tcsetattr(&file, OptionalActions::Now, &settings)?;
        let _ = ioctl_tiocexcl(&file);
        let _ = tcflush(&file, QueueSelector::IOFlush);
        let nanos_per_byte = BITS * 1_000_000_000 / u64::from(baud.max(1));
        let (out, frames) = (VecDeque::new(), VecDeque::new());
        Ok(Self { file, nanos_per_byte, free_at: 0, out, decoder: Decoder::default(), frames })
    }

    /// Sends, unless the line is busy; whether it did.
    pub(super) fn send(&mut self, bytes: &[u8], now: Nanos) -> io::Result<bool> {
        if now < self.free_at || !self.out.is_empty() {
            self.flush()?;
            return Ok(false);
        }
        let frame = encode(bytes);
        self.free_at = now + frame.len() as u64 * self.nanos_per_byte;
        self.out.extend(frame);
        self.flush()?;
        Ok(true)
    }

    /// Whether bytes wait for the kernel to take them.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.file.write(self.out.make_contiguous()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.out.drain(..count)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next frame.
    ///
    /// # Errors
    /// None is there ([`io::ErrorKind::WouldBlock`]), or the line is of no use any more.
    pub(super) fn receive(&mut self) -> io::Result<Vec<u8>> {
        if let Some(frame) = self.frames.pop_front() {
            return Ok(frame);
        }
        let mut chunk = [0; 1024];
        let count = self.file.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for byte in &chunk[..count] {
            if let Some(frame) = self.decoder.byte(*byte)
                && self.frames.len() < WAITING
            {
                self.frames.push_back(frame);
            }
        }
        self.frames.pop_front().ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

/// The frame of a message, with an END before it that ends whatever noise there was.
fn encode(bytes: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(bytes).to_be_bytes();
    let mut frame = Vec::with_capacity(bytes.len() + bytes.len() / 8 + 8);
    frame.push(END);
    for byte in bytes.iter().chain(&crc) {
        match *byte {
            END => frame.extend([ESC, ESC_END]),
            ESC => frame.extend([ESC, ESC_ESC]),
            byte => frame.push(byte),
        }
    }
    frame.push(END);
    frame
}

/// Takes frames apart.
#[derive(Debug, Default)]
struct Decoder {
    bytes: Vec<u8>,
    escaped: bool,
    /// What is being read is no frame: too long, or a wrong escape.
    bad: bool,
}

impl Decoder {
    /// A message, if this byte ends one.
    fn byte(&mut self, byte: u8) -> Option<Vec<u8>> {
        if byte == END {
            let bad = std::mem::take(&mut self.bad) | std::mem::take(&mut self.escaped);
            let mut bytes = std::mem::take(&mut self.bytes);
            let at = bytes.len().checked_sub(CRC).filter(|at| *at > 0 && !bad)?;
            let right = crc32fast::hash(&bytes[..at]).to_be_bytes() == bytes[at..];
            bytes.truncate(at);
            return right.then_some(bytes);
        }
        let byte = match (std::mem::take(&mut self.escaped), byte) {
            (false, ESC) => {
                self.escaped = true;
                return None;
            }
            (false, byte) => byte,
            (true, ESC_END) => END,
            (true, ESC_ESC) => ESC,
            (true, _) => {
                self.bad = true;
                return None;
            }
        };
        if self.bytes.len() >= FRAME_MAX {
            self.bad = true;
        } else {
            self.bytes.push(byte);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use proptest::prelude::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|b| decoder.byte(*b)).collect()
    }

    proptest! {
        #[test]
        fn every_message_survives_the_line_and_noise_is_none(
            message in proptest::collection::vec(any::<u8>(), 1..600),
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let frame = encode(&message);
            prop_assert_eq!(decode(&frame), vec![message.clone()]);
            let mixed = [&noise[..], &frame, &noise, &frame].concat();
            let found = decode(&mixed);
            prop_assert!(found.iter().filter(|f| **f == message).count() == 2);
        }
    }

    #[test]
    fn a_frame_without_end_takes_bounded_room_and_what_follows_is_read() {
        let mut decoder = Decoder::default();
        for _ in 0..1_000_000 {
            assert!(decoder.byte(7).is_none() && decoder.bytes.len() <= FRAME_MAX);
        }
        let found: Vec<_> = encode(b"x").into_iter().filter_map(|b| decoder.byte(b)).collect();
        assert_eq!(found, [b"x"]);
    }

    fn pty() -> (OwnedFd, std::path::PathBuf) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        (master, name.into())
    }

    #[test]
    fn beats_go_over_a_line_no_faster_than_it_carries_them() {
        let (master, device) = pty();
        let mut serial = Serial::open(&device, 115_200).unwrap();
        let beat: Vec<u8> = (0..=255).collect();
        // One each millisecond for a second: at 11,520 bytes a second about 44 fit.
        let sent = (0..1000).filter(|ms| serial.send(&beat, ms * 1_000_000).unwrap()).count();
        assert!((40..=48).contains(&sent), "{sent}");
        let mut master = File::from(master);
        let (mut decoder, mut buffer, mut found) = (Decoder::default(), [0; 4096], Vec::new());
        while found.len() < 10 {
            let count = master.read(&mut buffer).unwrap();
            found.extend(buffer[..count].iter().filter_map(|b| decoder.byte(*b)));
        }
        assert!(found.iter().all(|f| *f == beat));
        // The other way: \r, \n, ^C and XON arrive as they are.
        let message = b"\r\n\x03\x11\x13\x7f".to_vec();
        master.write_all(&encode(&message)).unwrap();
        let received = (0..200).find_map(|_| {
            let received = serial.receive().ok();
            if received.is_none() {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            received
        });
        assert_eq!(received.unwrap(), message);
        drop(master);
        assert!(serial.send(&beat, u64::MAX / 2).is_err() || serial.receive().is_err());
    }

    #[test]
    fn what_is_no_line_is_refused_with_the_reason() {
        let error = Serial::open(Path::new("/dev/null"), 9600).unwrap_err().to_string();
        assert!(error.contains("not a serial line"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Serial::open(file.path(), 9600).unwrap_err().to_string().contains("not a serial"));
    }
}
