use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::net::{Bounded, settle, stage, within};
use super::prober::{Prober, Run};
use super::*;
use crate::check::Target;

fn probe(port: u16, interval: u64) -> Arc<Probe> {
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let target = Target { address, port, vip: None, service: String::new(), real: String::new() };
    let interval = Duration::from_millis(interval);
    let kind = Kind::Tcp(crate::check::tcp::Settings::default());
    Arc::new(Probe { target, kind, interval, timeout: Duration::from_millis(500) })
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_listening_server_is_up_and_is_left_with_a_reset() {
    let (listener, port) = listener();
    assert_eq!(run(&probe(port, 100), &Paths::new(None)).await.outcome, Outcome::up());
    let (mut stream, _) = listener.accept().unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    drop(listener);
    let report = run(&probe(port, 100), &Paths::new(None)).await;
    assert_eq!(report.outcome, Outcome::Down("connect: connection refused".into()));
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_given_up_and_says_what_it_waited_for() {
    let outcome = within(Duration::from_millis(20), async {
        stage("to the greeting");
        std::future::pending().await
    });
    let text = "no answer within 20ms to the greeting".to_owned();
    assert_eq!(outcome.await, Outcome::Down(text));
}

#[tokio::test]
async fn lines_and_bytes_are_bounded_whatever_a_server_sends() {
    let says = async |bytes: &[u8], max| {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        let mut stream = Bounded::new(ours, 10_000);
        let line = async { Ok(Outcome::down(String::from_utf8(stream.line(max).await?).unwrap())) };
        let first = settle(line.await);
        (first, stream.some().await.map(|rest| rest.len()))
    };
    assert_eq!(says(b"220 hello\r\nrest", 100).await, (Outcome::down("220 hello"), Ok(4)));
    let (long, _) = says(&[b'x'; 5000], 100).await;
    assert!(
        long.reason().unwrap().starts_with("a line is longer than 100 bytes: \"xxx"),
        "{long:?}"
    );
    let (endless, _) = says(&vec![b'x'; 1 << 20], 1 << 20).await;
    assert_eq!(endless.reason(), Some("the server sends more than a check reads"));
    let (closed, _) = says(b"220 hel", 100).await;
    assert_eq!(closed.reason(), Some("connection closed by the server"));
    let (hostile, _) = says(&[0xff, 0, 27, b'\n'], 2).await;
    assert!(hostile.reason().unwrap().contains(r"\xff\x00\x1b"), "{hostile:?}");
}

/// What is reported within a time.
fn reports(queue: &mut tokio::sync::mpsc::Receiver<Run>, time: Duration) -> Vec<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut runs = Vec::new();
        let end = tokio::time::Instant::now() + time;
        while let Ok(Some(run)) = tokio::time::timeout_at(end, queue.recv()).await {
            runs.push(run);
        }
        runs
    })
}

#[test]
fn probes_run_once_in_their_interval_until_they_are_no_longer_wanted() {
    let (_open, port) = listener();
    let (prober, mut queue) = Prober::start(100, Paths::new(None)).unwrap();
    let (one, two) = (probe(port, 100), probe(1, 100));
    prober.want(Arc::new(BTreeSet::from([Arc::clone(&one), Arc::clone(&two)])));
    let seen = reports(&mut queue, Duration::from_secs(2));
    for (probe, outcome) in [(&one, "up"), (&two, "down")] {
        let of = seen.iter().filter(|(p, r)| p == probe && r.outcome.name() == outcome).count();
        assert!((10..=21).contains(&of), "{of} runs in 20 intervals");
    }
    prober.want(Arc::new(BTreeSet::from([Arc::clone(&two)])));
    reports(&mut queue, Duration::from_millis(200));
    let seen = reports(&mut queue, Duration::from_millis(500));
    assert!(!seen.is_empty() && seen.iter().all(|(p, _)| *p == two), "{}", seen.len());
}

#[test]
fn a_probe_in_a_hurry_does_not_wait_for_its_turn_and_never_runs_twice_at_once() {
    let (_open, port) = listener();
    let (prober, mut queue) = Prober::start(100, Paths::new(None)).unwrap();
    let slow = probe(port, 3_600_000);
    prober.want(Arc::new(BTreeSet::from([Arc::clone(&slow)])));
    let first = reports(&mut queue, Duration::from_millis(1500)).len();
    assert_eq!(first, 1, "a new probe is looked at soon, then in an hour");
    prober.hurry(Arc::clone(&slow));
    assert_eq!(reports(&mut queue, Duration::from_millis(500)).len(), 1);
    for _ in 0..50 {
        prober.hurry(Arc::clone(&slow));
    }
    let more = reports(&mut queue, Duration::from_millis(500)).len();
    assert!((1..50).contains(&more), "{more}");
}

/// What the promise of sub-second detection costs. Measured by hand, on a quiet machine:
/// `cargo test --release -p control --lib -- --ignored --nocapture two_hundred`.
#[test]
#[ignore = "a measurement"]
fn two_hundred_servers_each_hundred_milliseconds_cost_less_than_a_tenth_of_a_core() {
    let listeners: Vec<_> = (0..200).map(|_| listener()).collect();
    let server = std::thread::spawn({
        let listeners: Vec<_> = listeners.iter().map(|(l, _)| l.try_clone().unwrap()).collect();
        move || drop(listeners)
    });
    server.join().unwrap();
    let (prober, mut queue) = Prober::start(1000, Paths::new(None)).unwrap();
    let probes: BTreeSet<_> = listeners.iter().map(|(_, port)| probe(*port, 100)).collect();
    prober.want(Arc::new(probes));
    reports(&mut queue, Duration::from_secs(1));
    let cpu = || {
        let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(usage.tv_sec.try_into().unwrap(), usage.tv_nsec.try_into().unwrap())
    };
    let before = cpu();
    let runs = reports(&mut queue, Duration::from_secs(10)).len();
    let used = cpu() - before;
    let share = used.as_secs_f64() / 10.0;
    println!("{runs} runs in 10 s: {:.1} % of a core", share * 100.0);
    assert!(runs > 19_000, "{runs}");
    assert!(share < 0.1, "{share}");
}
