//! `xvip-perf download` (hidden): many downloads at a steady pace, each byte compared; how long they waited for bytes.
//!
//! A thread for each download, blocking reads. They read at their pace and no faster, so that traffic goes on for
//! a known time; with the small receive buffers of the lab's client a sender that is cut off is noticed within
//! some 30 ms.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use dataplane::clock::{self, Instant};
use serde::{Deserialize, Serialize};

/// How long a download may get nothing before it is given up.
const STALLED: Duration = Duration::from_secs(30);
/// Pause between the beginnings of two downloads.
const APART: Duration = Duration::from_millis(2);
/// Bytes of a read.
const PIECE: usize = 16 * 1024;
/// Most bytes of the head of an answer.
const HEAD: usize = 8192;
/// Errors that are told.
const TOLD: usize = 10;

/// Options of `download`.
#[derive(Args)]
pub(crate) struct Options {
    /// Where from.
    #[arg(long)]
    to: SocketAddr,
    /// Name of the page.
    #[arg(long)]
    page: String,
    /// What must come.
    #[arg(long)]
    reference: PathBuf,
    /// Downloads at once.
    #[arg(long)]
    connections: u32,
    /// Bytes a second of each.
    #[arg(long)]
    pace: f64,
}

/// What came of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    /// Whose answer had begun.
    pub(super) begun: u64,
    /// That ended with the right bytes.
    pub(super) right: u64,
    /// That were reset.
    pub(super) reset: u64,
    /// What went wrong with some of them.
    pub(super) errors: Vec<String>,
    /// Longest that any of them waited for bytes that were due by its pace, milliseconds.
    pub(super) pause_ms: f64,
    /// When that began: nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) pause_ns: u64,
}

/// One download.
#[derive(Default)]
struct One {
    begun: bool,
    /// Longest wait, and when it began.
    pause: (Duration, u64),
    error: Option<(bool, String)>,
}

/// Downloads, and says what came of it on standard output.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let path = &options.reference;
    let reference = Arc::new(std::fs::read(path).with_context(|| format!("{}", path.display()))?);
    ensure!(options.pace > 0.0, "--pace: expected more than 0");
    let mut threads = Vec::new();
    for _ in 0..options.connections {
        let (to, page, pace) = (options.to, options.page.clone(), options.pace);
        let reference = Arc::clone(&reference);
        let work = move || one(to, &page, &reference, pace);
        threads.push(thread::Builder::new().stack_size(1 << 17).spawn(work)?);
        thread::park_timeout(APART);
    }
    let join = |thread: thread::JoinHandle<One>| thread.join().map_err(|_| anyhow!("a panic"));
    let all = threads.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()?;
    super::show::line(&summary(all))
}

fn summary(all: Vec<One>) -> Found {
    let mut found = Found::default();
    let longest = all.iter().map(|one| one.pause).max().unwrap_or_default();
    (found.pause_ms, found.pause_ns) = (longest.0.as_secs_f64() * 1e3, longest.1);
    for one in all {
        found.begun += u64::from(one.begun);
        match one.error {
            None => found.right += 1,
            Some((reset, error)) => {
                found.reset += u64::from(reset);
                if found.errors.len() < TOLD {
                    found.errors.push(error);
                }
            }
        }
    }
    found
}

fn one(to: SocketAddr, page: &str, reference: &[u8], pace: f64) -> One {
    let mut one = One::default();
    if let Err(error) = read(to, page, reference, pace, &mut one) {
        let reset = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == ErrorKind::ConnectionReset);
        one.error = Some((reset, format!("{error:#}")));
    }
    one
}

fn read(
    to: SocketAddr,
    page: &str,
    reference: &[u8],
    pace: f64,
    one: &mut One,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, STALLED)?;
    stream.set_read_timeout(Some(STALLED))?;
    stream.write_all(
        format!("GET /{page} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut got = head(&mut stream)?;
    let start = clock::now();
    one.begun = true;
    ensure!(reference.starts_with(&got), "wrong bytes at the beginning");
    let mut piece = vec![0; PIECE];
    loop {
        let due = start.after(Duration::from_secs_f64(got.len() as f64 / pace));
        wait(due);
        let asked = clock::now();
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        one.pause = one.pause.max((clock::now().since(asked), asked.nanos()));
        let (at, bytes) = (got.len(), piece.get(..count).unwrap_or_default());
        let expected = reference.get(at..at + count);
        ensure!(expected == Some(bytes), "wrong bytes between {at} and {}", at + count);
        got.extend_from_slice(bytes);
    }
    ensure!(got.len() == reference.len(), "ended after {} of {}", got.len(), reference.len());
    Ok(())
}

fn wait(due: Instant) {
    while let Some(left) = due.nanos().checked_sub(clock::now().nanos()).filter(|left| *left > 0) {
        thread::park_timeout(Duration::from_nanos(left));
    }
}

/// Reads the head of the answer; returns what came behind it.
fn head(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let (mut text, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let count = stream.read(&mut piece)?;
        ensure!(count > 0 && text.len() < HEAD, "no answer");
        text.extend_from_slice(piece.get(..count).unwrap_or_default());
        if let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
            ensure!(text.starts_with(b"HTTP/1.1 200 "), "not 200");
            return Ok(text.split_off(end + 4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn served(body: &'static [u8], reference: &[u8]) -> One {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").unwrap();
            thread::park_timeout(Duration::from_millis(40));
            stream.write_all(body).unwrap();
        });
        let found = one(to, "x", reference, 1e9);
        server.join().unwrap();
        found
    }

    #[test]
    fn a_download_is_right_only_if_every_byte_is_and_its_pause_is_seen() {
        let right = served(b"abcdef", b"abcdef");
        assert_eq!(right.error, None);
        assert!(right.pause.0 >= Duration::from_millis(30), "{:?}", right.pause);
        let all = [right, served(b"abcdeX", b"abcdef"), served(b"abc", b"abcdef")];
        assert!(all[1].error.as_ref().unwrap().1.contains("wrong bytes"));
        assert!(all[2].error.as_ref().unwrap().1.contains("ended after 3 of 6"));
        let found = summary(all.into());
        assert_eq!((found.begun, found.right, found.reset), (3, 1, 0));
        assert_eq!(found.errors.len(), 2);
        assert!(found.pause_ms >= 30.0, "{}", found.pause_ms);
    }
}
