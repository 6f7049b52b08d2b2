//! The socket of replication: frames in and out, without waiting.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use dataplane_api::VERSION;
use dataplane_api::sync::{FRAME_MAX, Frame, Malformed};

/// Bytes that wait for control to read them above which nothing is added but answers: what happens
/// meanwhile waits with the workers, and at last is sent whole.
const FULL: usize = 256 * 1024;
/// Bytes above which control is taken for stuck.
const STUCK: usize = 16 << 20;
/// Bytes read before what is due gets its turn.
const READ: usize = 256 * 1024;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    /// Control has closed it.
    #[error("closed by control")]
    ByControl,
    /// The socket failed.
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// It is none of our protocol.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// Not allowed here.
    #[error("{0}")]
    Refused(&'static str),
    /// Another version.
    #[error("control speaks version {0}, this data plane {VERSION}")]
    Version(u32),
    /// Control reads nothing.
    #[error("control does not read: {STUCK} bytes wait")]
    Stuck,
}

/// A session with control.
pub(super) struct Session {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    greeted: bool,
}

impl Session {
    /// Says hello.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let output = Frame::Hello { version: VERSION }.encode();
        Ok(Self { stream, input: Vec::new(), output, written: 0, greeted: false })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether control has said hello.
    pub(super) fn greeted(&self) -> bool {
        self.greeted
    }

    /// Bytes that wait to be read by control.
    pub(super) fn waiting(&self) -> usize {
        self.output.len() - self.written
    }

    /// Whether there is room for more than answers.
    pub(super) fn has_room(&self) -> bool {
        self.waiting() < FULL
    }

    /// Writes as much as the socket takes of what waits and of `frames`.
    pub(super) fn send(&mut self, frames: &[Frame]) -> Result<(), Closed> {
        frames.iter().for_each(|frame| self.output.extend(frame.encode()));
        while self.waiting() > 0 {
            match (&self.stream).write(&self.output[self.written..]) {
                Ok(0) => return Err(Closed::ByControl),
                Ok(count) => self.written += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        if self.written > FULL || self.waiting() == 0 {
            self.output.drain(..self.written);
            self.written = 0;
        }
        if self.waiting() > STUCK { Err(Closed::Stuck) } else { Ok(()) }
    }

    /// Reads what is there, up to a bound, and appends whole frames to `frames`; those before a
    /// fault too. True if there may be more.
    pub(super) fn read(&mut self, frames: &mut Vec<Frame>) -> Result<bool, Closed> {
        let mut chunk = [0; 16 * 1024];
        let mut count = 0;
        while count < READ {
            match (&self.stream).read(&mut chunk) {
                Ok(0) => return Err(Closed::ByControl),
                Ok(length) => {
                    self.input.extend(&chunk[..length]);
                    count += length;
                    self.parse(frames)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    /// Takes whole frames off the input; what is left is shorter than one.
    fn parse(&mut self, frames: &mut Vec<Frame>) -> Result<(), Closed> {
        let mut rest = &self.input[..];
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = Frame::length(*length)?;
            debug_assert!(length <= FRAME_MAX);
            let Some((body, after)) = after.split_at_checked(length) else { break };
            let frame = Frame::decode(body)?;
            match frame {
                Frame::Hello { version } if !self.greeted && version == VERSION => {
                    self.greeted = true;
                }
                Frame::Hello { version } if !self.greeted => return Err(Closed::Version(version)),
                _ if !self.greeted => return Err(Closed::Refused("no hello")),
                frame => frames.push(frame),
            }
            rest = after;
        }
        let taken = self.input.len() - rest.len();
        self.input.drain(..taken);
        Ok(())
    }
}
