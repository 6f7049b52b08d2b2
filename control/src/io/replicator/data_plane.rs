//! The client's end of the replication socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use dataplane_api::sync::Frame;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Bytes read at a time.
const READ: usize = 64 << 10;
/// Bytes of frames gathered before they are written.
const WRITE: usize = 64 << 10;

/// A connection. Nothing waits: what cannot be done now is done later.
pub(super) struct DataPlane {
    socket: OwnedFd,
    input: Vec<u8>,
    /// Of the input, what has been taken.
    taken: usize,
    output: Vec<u8>,
    written: usize,
}

impl DataPlane {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket, input: Vec::new(), taken: 0, output: Vec::new(), written: 0 })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits to be written.
    pub(super) fn is_writing(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes the frames that `next` yields, as far as the socket takes them; whether any was
    /// taken.
    pub(super) fn write(&mut self, next: &mut dyn FnMut() -> Option<Vec<u8>>) -> io::Result<bool> {
        let mut any = false;
        loop {
            if !self.is_writing() {
                self.written = 0;
                self.output.clear();
                while self.output.len() < WRITE
                    && let Some(frame) = next()
                {
                    self.output.extend_from_slice(&frame);
                }
            }
            if self.output.is_empty() {
                return Ok(any);
            }
            match rustix::io::write(&self.socket, &self.output[self.written..]) {
                Ok(count) => (self.written, any) = (self.written + count, true),
                Err(Errno::AGAIN) => return Ok(any),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads once; whether there was anything.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        self.input.drain(..self.taken);
        self.taken = 0;
        let before = self.input.len();
        self.input.resize(before + READ, 0);
        let result = rustix::io::read(&self.socket, &mut self.input[before..]);
        let count = result.unwrap_or(0);
        self.input.truncate(before + count);
        match result {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the data plane closed it")),
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole frame of what has been read, its length taken off.
    pub(super) fn frame(&mut self) -> io::Result<Option<&[u8]>> {
        let rest = self.input.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = Frame::length(*length).map_err(io::Error::other)?;
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        self.taken += 4 + length;
        Ok(Some(frame))
    }
}
