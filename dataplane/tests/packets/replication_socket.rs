//! The replication socket of a running thread: sessions, orders, and bytes that are no frames.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::clock;
use dataplane::published::{Cell, Segment};
use dataplane::runtime::{Report, Runtime, WorkerShare};
use dataplane::sync::Sync;
use dataplane_api::VERSION;
use dataplane_api::service::{Forwarding, Protocol};
use dataplane_api::sync::{ALL, Frame, Stream};

use crate::harness::{OUTSIDE, With, World, ip, real, web};
use crate::packet::{ACK, SYN, tcp};

const PATIENCE: Duration = Duration::from_secs(20);

/// A data plane with one established connection of `direct`, and its replication thread.
struct Served {
    runtime: Arc<Runtime>,
    thread: Option<std::thread::JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let web = web(false, Protocol::Tcp, Forwarding::Direct).real(real(false, 11), None, 1);
        let mut world = World::new(&[web]);
        // The thread reads the clock; the table's times have to be of it.
        world.now = clock::now();
        world.request(&tcp(false, SYN));
        world.request(&tcp(false, ACK));
        let segment = Segment { device: OUTSIDE, network: ip("192.0.2.0").into(), length: 24 };
        let runtime = Arc::new(Runtime {
            cell: Cell::new(world.published),
            forward: world.shared,
            workers: Box::new([WorkerShare::default(), WorkerShare::default()]),
            stop: AtomicBool::new(false),
            boot_id: String::new(),
            started: clock::now(),
            adopted: 0,
            report: Mutex::new(Report::default()),
            segments: Mutex::new([segment].into()),
        });
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("sync.sock")).unwrap();
        let sync = Sync::new(Arc::clone(&runtime), listener).unwrap();
        let thread = Some(std::thread::spawn(move || sync.run()));
        Self { runtime, thread, dir }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("sync.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A session in which hello has been said.
    fn session(&self) -> UnixStream {
        let mut stream = self.connect();
        assert_eq!(next(&mut stream), Frame::Hello { version: VERSION });
        send(&mut stream, &Frame::Hello { version: VERSION });
        stream
    }

    fn used(&self) -> u32 {
        self.runtime.forward.conns.used()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.runtime.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn send(stream: &mut UnixStream, frame: &Frame) {
    stream.write_all(&frame.encode()).unwrap();
}

fn next(stream: &mut UnixStream) -> Frame {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; Frame::length(length).unwrap()];
    stream.read_exact(&mut body).unwrap();
    Frame::decode(&body).unwrap()
}

/// The first frame that `wanted` accepts.
fn wait<T>(stream: &mut UnixStream, wanted: impl Fn(Frame) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(next(stream)) {
            return found;
        }
    }
}

/// Whether the other side has closed the session, frames on their way aside.
fn is_closed(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok() || rest.is_empty()
}

#[test]
fn a_session_gets_what_it_orders_and_standing_all_the_while() {
    let served = Served::new();
    let mut stream = served.session();
    send(&mut stream, &Frame::Start { pass: 7 });
    let mut items = Vec::new();
    while !matches!(items.last(), Some(Stream::End { .. })) {
        items.push(wait(&mut stream, |frame| match frame {
            Frame::Stream { item, .. } => Some(item),
            _ => None,
        }));
    }
    let [begin, Stream::Changes { records, .. }, end] = &items[..] else { panic!("{items:?}") };
    assert_eq!(*begin, Stream::Begin { pass: 7, bucket: ALL });
    assert_eq!(*end, Stream::End { pass: 7, bucket: ALL, sent: 1, owned: vec![] });
    assert_eq!((records.len(), records[0].state), (1, 4));
    let standing = wait(&mut stream, |frame| match frame {
        Frame::Standing(standing) => Some(standing),
        _ => None,
    });
    assert_eq!((standing.worth, standing.sent, standing.passes), (1, 1, 1));
    // What is our own comes back from the peer: without a lease it is the peer's from now on.
    let item = items[1].clone();
    send(&mut stream, &Frame::Stream { number: 41, item });
    let applied = |frame| match frame {
        Frame::Applied { number } => Some(number),
        _ => None,
    };
    assert_eq!(wait(&mut stream, applied), 41);
    assert_eq!((served.used(), served.runtime.forward.conns.imported()), (1, 1));
}

#[test]
fn a_new_session_ends_the_one_before() {
    let served = Served::new();
    let mut old = served.session();
    let mut new = served.session();
    assert!(is_closed(&mut old));
    send(&mut new, &Frame::Start { pass: 1 });
    wait(&mut new, |frame| matches!(frame, Frame::Stream { .. }).then_some(()));
}

#[test]
fn bytes_that_are_no_frames_close_the_session_and_change_nothing() {
    let served = Served::new();
    let before = {
        let mut conns = Vec::new();
        served.runtime.forward.conns.each(|_, conn| conns.push(*conn));
        conns
    };
    let hello = Frame::Hello { version: VERSION }.encode();
    let after_hello = |bytes: &[u8]| [&hello, bytes].concat();
    let mut changes = Frame::Stream { number: 1, item: Stream::Begin { pass: 1, bucket: 1 } };
    let mut no_record = changes.encode();
    no_record[13] = 1; // A list of changes with four bytes in it.
    changes = Frame::Standing(Default::default());
    let bad = [
        Frame::Start { pass: 1 }.encode(),
        Frame::Hello { version: VERSION + 1 }.encode(),
        b"{\"request\":\"hello\",\"version\":1}\n".to_vec(),
        after_hello(&[0; 4]),
        after_hello(&[0xff; 64]),
        after_hello(&[0, 0, 0, 1, 0x77]),
        after_hello(&[0, 0, 0, 2, 0x24, 2]),
        after_hello(&no_record),
        after_hello(&hello),
        after_hello(&changes.encode()),
    ];
    for bytes in bad {
        let mut stream = served.connect();
        stream.write_all(&bytes).unwrap();
        assert!(is_closed(&mut stream), "{bytes:?}");
    }
    let mut conns = Vec::new();
    served.runtime.forward.conns.each(|_, conn| conns.push(*conn));
    assert_eq!(conns, before);
    let mut stream = served.session();
    send(&mut stream, &Frame::Start { pass: 1 });
    wait(&mut stream, |frame| matches!(frame, Frame::Stream { .. }).then_some(()));
}

#[test]
fn whoever_reads_nothing_holds_up_nobody() {
    let served = Served::new();
    let mut stream = served.session();
    for pass in 0..20_000 {
        if stream.write_all(&Frame::Start { pass }.encode()).is_err() {
            break;
        }
        if pass % 1000 == 0 {
            stream.write_all(&Frame::Digest.encode()).unwrap();
        }
    }
    let mut other = served.session();
    send(&mut other, &Frame::Start { pass: 3 });
    let first = wait(&mut other, |frame| match frame {
        Frame::Stream { number, item } => Some((number, item)),
        _ => None,
    });
    assert_eq!(first, (1, Stream::Begin { pass: 3, bucket: ALL }));
}
