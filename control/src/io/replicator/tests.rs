//! Two replicators over the loopback interface, with data planes that are tables in memory.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane_api::sync::Frame;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Replicator, Settings, now};
use crate::failover::settings::Replication;
use crate::replicate::tests::pair::keys;
use crate::replicate::tests::table::Table;
use crate::replicate::{Ended, Event};

const MS: u64 = 1_000_000;

/// A data plane behind a socket.
struct DataPlane {
    path: PathBuf,
    table: Arc<Mutex<Table>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DataPlane {
    fn start(directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let (table, stop) = (Arc::new(Mutex::new(Table::default())), Arc::default());
        let (inner, end) = (Arc::clone(&table), Arc::clone(&stop));
        let thread = std::thread::spawn(move || serve(&listener, &inner, &end));
        Self { path, table, stop, thread: Some(thread) }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Table) -> T) -> T {
        look(&mut self.table.lock().unwrap())
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn pause(fd: &impl std::os::fd::AsFd, ms: i64) {
    let time = Timespec { tv_sec: 0, tv_nsec: ms * 1_000_000 };
    let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&time));
}

fn serve(listener: &UnixListener, table: &Mutex<Table>, stop: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Relaxed) {
        pause(listener, 10);
        let Ok((mut stream, _)) = listener.accept() else { continue };
        stream.set_nonblocking(true).unwrap();
        table.lock().unwrap().connected();
        let (mut input, mut output, mut stood) = (Vec::new(), Vec::new(), 0);
        let mut chunk = vec![0; 256 << 10];
        'session: while !stop.load(Relaxed) {
            pause(&stream, 1);
            match stream.read(&mut chunk) {
                Ok(0) => break 'session,
                Ok(count) => input.extend(&chunk[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break 'session,
            }
            let mut table = table.lock().unwrap();
            let mut at = 0;
            while let Some(head) = input[at..].first_chunk::<4>() {
                let length = Frame::length(*head).unwrap();
                let Some(frame) = input[at + 4..].get(..length) else { break };
                table.take(Frame::decode(frame).unwrap());
                at += 4 + length;
            }
            input.drain(..at);
            if now() > stood + 100 * MS {
                stood = now();
                table.stand(stood);
            }
            loop {
                table.round(now());
                if output.is_empty() {
                    output.extend(table.out.drain(..).flat_map(|frame| frame.encode()));
                }
                match stream.write(&output) {
                    _ if output.is_empty() => break,
                    Ok(count) => drop(output.drain(..count)),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => break 'session,
                }
            }
        }
        table.lock().unwrap().disconnected();
    }
}

/// Ports that are free.
fn addresses() -> [SocketAddr; 2] {
    let sockets = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}

fn settings(at: [SocketAddr; 2], n: usize, encrypt: bool) -> Settings {
    let names = ["lb1", "lb2"].map(str::to_owned);
    Settings {
        node: names[n].clone(),
        peer: names[1 - n].clone(),
        replication: Replication {
            local: at[n],
            remote: at[1 - n],
            encrypt,
            digest: Duration::from_millis(500),
        },
        keys: keys("ab"),
    }
}

fn start(data_plane: &DataPlane, settings: Settings) -> (Replicator, Receiver<Event>) {
    let (events, seen) = channel();
    let listener = Box::new(move |event| drop(events.send(event)));
    (Replicator::start(data_plane.path.clone(), settings, listener).unwrap(), seen)
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let (deadline, (_, nobody)) = (now() + 30_000 * MS, channel::<()>());
    while !condition() {
        assert!(now() < deadline, "{what}");
        let _ = nobody.recv_timeout(Duration::from_millis(1));
    }
}

fn wait_for(events: &Receiver<Event>, wanted: &Event) {
    while events.recv_timeout(Duration::from_secs(30)).expect("an event in time") != *wanted {}
}

fn bulk_and_live(encrypt: bool) {
    let directory = tempfile::tempdir().unwrap();
    let planes = ["a.sock", "b.sock"].map(|name| DataPlane::start(directory.path(), name));
    planes[0].with(|table| (0..100_000).for_each(|key| table.upsert(2 * key, now())));
    let at = addresses();
    let (b, b_events) = start(&planes[1], settings(at, 1, encrypt));
    until("the replicator has connected", || b.view().trouble.is_none());
    let begun = now();
    let (a, a_events) = start(&planes[0], settings(at, 0, encrypt));
    wait_for(&a_events, &Event::PeerSynced);
    let took = (now() - begun) / MS;
    wait_for(&b_events, &Event::Synced);
    assert_eq!(planes[1].with(|table| table.imported.len()), 100_000);
    println!(
        "encrypt {encrypt}: 100,000 connections in bulk in {took} ms, resends {}",
        a.view().resends
    );

    let (_, nobody) = channel::<()>();
    let live = now();
    let mut told = 0;
    while now() < live + 2000 * MS {
        // As many as the time says: 50,000 a second.
        let wanted = (now() - live) / 20_000;
        planes[0].with(|table| {
            (told..wanted).for_each(|n| table.upsert(2 * (n as u32 % 90_000), now()))
        });
        told = wanted;
        let _ = nobody.recv_timeout(Duration::from_millis(1));
    }
    a.drain();
    wait_for(&a_events, &Event::Drained);
    until("the tables are equal", || {
        planes[0].with(|a| a.own.clone()) == planes[1].with(|b| b.imported.clone())
    });
    until("the digests are equal", || b.view().digests.equal == Some(true));
    until("all is counted", || a.view().totals.records_out >= 100_000 + told);
    let view = a.view();
    println!(
        "encrypt {encrypt}: {told} changes live, latency {:?}, resends {}, overflows {}",
        view.latency,
        view.resends,
        planes[0].with(|table| table.overflows)
    );
    until("every connection would live on", || {
        let survival = a.view().survival;
        survival.is_some_and(|s| (s.worth, s.would_live) == (100_000, 100_000))
    });
    assert_eq!((view.sessions, b.view().sessions), (1, 1));
    assert!(view.rates.bytes_out > 0 && view.latency.count > 0);
}

#[test]
fn a_hundred_thousand_connections_in_bulk_and_then_each_change_reach_the_peer() {
    bulk_and_live(false);
}

#[test]
fn the_same_encrypted() {
    bulk_and_live(true);
}

#[test]
fn it_waits_for_address_data_plane_and_peer_and_says_goodbye() {
    let directory = tempfile::tempdir().unwrap();
    let planes = ["a.sock", "b.sock"].map(|name| DataPlane::start(directory.path(), name));
    planes[0].with(|table| (0..100).for_each(|key| table.upsert(2 * key, now())));
    let at = addresses();
    let (a, a_events) = start(&planes[0], settings(at, 0, false));
    let mut wrong = settings(at, 1, false);
    // RFC 5737: nobody has it.
    wrong.replication.local = "192.0.2.1:6941".parse().unwrap();
    wrong.replication.remote = "192.0.2.2:6941".parse().unwrap();
    let (b, b_events) = start(&planes[1], wrong);
    until("it is said", || b.view().trouble.as_ref().is_some_and(|t| t.contains("192.0.2.1")));
    b.configure(settings(at, 1, false));
    wait_for(&b_events, &Event::Synced);
    wait_for(&a_events, &Event::PeerSynced);
    assert!(planes.iter().all(|plane| plane.with(|table| table.keep)));

    // The data plane goes, and another one comes.
    let [first, second] = planes;
    let imported = second.with(|table| table.imported.clone());
    drop(second);
    wait_for(&a_events, &Event::Lost(Ended::PeerDataPlane));
    until("it is said", || b.view().trouble.as_ref().is_some_and(|t| t.contains("b.sock")));
    std::fs::remove_file(directory.path().join("b.sock")).unwrap();
    let second = DataPlane::start(directory.path(), "b.sock");
    second.with(|new| new.imported = imported);
    wait_for(&a_events, &Event::PeerSynced);

    b.stop();
    wait_for(&a_events, &Event::Lost(Ended::PeerStopped));
    until("what came from the peer ages", || !first.with(|table| table.keep));
    drop((a, second));
}
