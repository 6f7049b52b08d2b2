//! What every kind needs of the network: connections that leave nothing behind, reads with a bound,
//! errors in words, and what a run that is given up was waiting for.
//!
//! Functions here fail with an [`Outcome`], so that a kind passes it on with `?` and
//! [`settle`].
#![allow(dead_code, reason = "what one kind does not need, another does")]

use std::borrow::Cow;
use std::future::Future;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::check::outcome::printable_bytes;
use crate::check::{Outcome, Target};
use crate::config::show_duration;

/// Most bytes that a run reads from a server, if its kind says nothing else.
pub(super) const BOUND: usize = 64 << 10;

/// What the current run is waiting for.
type Stage = Arc<Mutex<Cow<'static, str>>>;

tokio::task_local! {
    static STAGE: Stage;
}

/// Says what the run is about to wait for, in words that follow "no answer within 1s ": for
/// example "to the connection request", "to the greeting". Told if the time runs out.
pub(super) fn stage(what: impl Into<Cow<'static, str>>) {
    let _ = STAGE.try_with(|stage| {
        *stage.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    });
}

/// Runs `asked` for at most `timeout`.
pub(super) async fn within(timeout: Duration, asked: impl Future<Output = Outcome>) -> Outcome {
    let stage = Stage::default();
    let asked = STAGE.scope(Arc::clone(&stage), asked);
    if let Ok(outcome) = tokio::time::timeout(timeout, asked).await {
        return outcome;
    }
    let what = stage.lock().unwrap_or_else(PoisonError::into_inner);
    let space = if what.is_empty() { "" } else { " " };
    Outcome::down(format!("no answer within {}{space}{what}", show_duration(timeout)))
}

/// The outcome of a run written with `?`.
pub(super) fn settle(result: Result<Outcome, Outcome>) -> Outcome {
    result.unwrap_or_else(|outcome| outcome)
}

/// What a failed call of the network says: of the server, or of ourselves.
pub(super) fn failed(doing: &str, error: &Error) -> Outcome {
    let ours = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::AFNOSUPPORT,
        Errno::PERM,
        Errno::ACCESS,
    ];
    let code = error.raw_os_error();
    if ours.iter().any(|e| Some(e.raw_os_error()) == code) {
        return Outcome::cannot_run(format!("{doing}: {error}"));
    }
    let words = match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset => "connection reset by the server".to_owned(),
        ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            "connection closed by the server".to_owned()
        }
        ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    };
    Outcome::down(format!("{doing}: {words}"))
}

/// Opens a connection that is closed with a reset: no TIME_WAIT here, nothing left there.
pub(super) async fn connect(target: &Target) -> Result<TcpStream, Outcome> {
    connect_to(target.socket()).await
}

/// As [`connect`].
pub(super) async fn connect_to(address: SocketAddr) -> Result<TcpStream, Outcome> {
    let doing = "connect";
    stage("to the connection request");
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|e| failed(doing, &e))?;
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))
        .map_err(|e| failed(doing, &e.into()))?;
    let stream = socket.connect(address).await.map_err(|e| failed(doing, &e))?;
    stream.set_nodelay(true).map_err(|e| failed(doing, &e))?;
    stage("");
    Ok(stream)
}

/// A UDP socket that hears only `target`, and its ICMP errors.
pub(super) async fn udp(target: &Target) -> Result<UdpSocket, Outcome> {
    let any: IpAddr = match target.address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|e| failed("open a socket", &e))?;
    socket.connect(target.socket()).await.map_err(|e| failed("connect", &e))?;
    Ok(socket)
}

/// A stream of which only so many bytes are read.
pub(super) struct Bounded<S> {
    stream: S,
    /// Received and not yet taken.
    buffer: Vec<u8>,
    /// How many more may be received.
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Bounded<S> {
    /// At most `bound` bytes will be read from `stream`.
    pub(super) const fn new(stream: S, bound: usize) -> Self {
        Self { stream, buffer: Vec::new(), left: bound }
    }

    /// The stream, to go on with TLS on it. What has been received in excess is refused: it came
    /// in clear text (as in CVE-2011-0411).
    pub(super) fn into_inner(self) -> Result<S, Outcome> {
        if self.buffer.is_empty() {
            return Ok(self.stream);
        }
        Err(Outcome::down("the server sent more than was asked for before TLS"))
    }

    /// Sends all of `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Outcome> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|e| failed("send", &e))
    }

    /// The next line, without its end (LF or CR LF), of at most `max` bytes.
    pub(super) async fn line(&mut self, max: usize) -> Result<Vec<u8>, Outcome> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.buffer[seen..].iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=seen + at).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return if line.len() > max { Err(too_long(&line, max)) } else { Ok(line) };
            }
            seen = self.buffer.len();
            if seen > max + 1 {
                return Err(too_long(&self.buffer, max));
            }
            if self.fill().await? == 0 {
                return Err(Outcome::down("connection closed by the server"));
            }
        }
    }

    /// Exactly `count` bytes.
    pub(super) async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Outcome> {
        while self.buffer.len() < count {
            if self.fill().await? == 0 {
                return Err(Outcome::down("connection closed by the server"));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// What comes next, however much; empty at the end of the stream.
    pub(super) async fn some(&mut self) -> Result<Vec<u8>, Outcome> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Receives more; 0 at the end of the stream.
    async fn fill(&mut self) -> Result<usize, Outcome> {
        if self.left == 0 {
            return Err(Outcome::down("the server sends more than a check reads"));
        }
        let mut piece = [0; 4096];
        let room = piece.len().min(self.left);
        let got = self.stream.read(&mut piece[..room]).await;
        let got = got.map_err(|e| failed("receive", &e))?;
        self.left -= got;
        self.buffer.extend_from_slice(&piece[..got]);
        Ok(got)
    }
}

fn too_long(line: &[u8], max: usize) -> Outcome {
    let shown = printable_bytes(&line[..line.len().min(40)]);
    Outcome::down(format!("a line is longer than {max} bytes: \"{shown}...\""))
}
