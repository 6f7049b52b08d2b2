//! The UDP socket towards the peer.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use crate::replicate::limits::DATAGRAM_MAX;

/// Asked for as the size of both buffers: a window of datagrams as the kernel counts them. Without
/// `CAP_NET_ADMIN` it is what `net.core.rmem_max` allows.
const BUFFER: usize = 4 << 20;
/// Datagrams sent with one call.
pub(super) const BATCH: usize = 32;

/// A socket that hears nobody but the peer.
pub(super) struct Network {
    socket: UdpSocket,
    /// What the socket has not taken.
    unsent: Vec<Bytes>,
    /// One byte more than a datagram may have: what is longer shows.
    buffer: Box<[u8; DATAGRAM_MAX + 1]>,
}

impl Network {
    pub(super) fn open(local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        set_socket_recv_buffer_size_force(&socket, BUFFER)
            .or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER))?;
        set_socket_send_buffer_size_force(&socket, BUFFER)
            .or_else(|_| set_socket_send_buffer_size(&socket, BUFFER))?;
        socket.connect(remote)?;
        let buffer = Box::new([0; DATAGRAM_MAX + 1]);
        Ok(Self { socket, unsent: Vec::new(), buffer })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits to be sent.
    pub(super) fn is_sending(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends up to a batch of the datagrams that `next` yields; how many went.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub(super) fn send(&mut self, next: &mut dyn FnMut() -> Option<Bytes>) -> io::Result<usize> {
        while self.unsent.len() < BATCH
            && let Some(datagram) = next()
        {
            self.unsent.push(datagram);
        }
        if self.unsent.is_empty() {
            return Ok(0);
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.unsent.iter().map(|bytes| [IoSlice::new(bytes)]).collect();
        let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<_> =
            slices.iter().zip(&mut controls).map(|(s, c)| MMsgHdr::new(s, c)).collect();
        let sent = match sendmmsg(&self.socket, &mut messages, SendFlags::empty()) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => return Ok(0),
            // Nobody listens there now, or a buffer on the way is full: as if it had got lost.
            Err(Errno::CONNREFUSED | Errno::NOBUFS | Errno::PERM) => 1,
            // No way there now; when there is one again, the socket may need another source.
            Err(error) => {
                self.unsent.clear();
                return Err(error.into());
            }
        };
        self.unsent.drain(..sent.min(self.unsent.len()));
        Ok(sent)
    }

    /// The next datagram that has come.
    pub(super) fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        match self.socket.recv(&mut self.buffer[..]) {
            Ok(length) => Ok(Some(&self.buffer[..length])),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                // An answer of the peer's kernel to what we sent; or a signal.
                io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted => Ok(Some(&[])),
                _ => Err(error),
            },
        }
    }
}
