//! The thread of the heartbeat: carries out what [`crate::failover`] decides.
//!
//! A thread of its own, with real-time priority and locked memory where the system lets us. It waits in
//! `poll(2)` for its sockets, its own session with the data plane and its deadlines, and for nothing
//! else: no file, no lock, no other thread. What it has to look up at leisure goes to a second thread
//! ([`evidence`]). The main loop talks with it by messages both ways.

mod arrival;
mod echo;
mod evidence;
mod lease;
mod path;
mod realtime;
mod serial;
mod thread;
mod udp;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use crate::alike::Alike;
use crate::failover::exchange::{Command, Nanos, Setup, Standing, Testimony};
use crate::node::{HaReport, Pair};
pub(super) use evidence::Source;
use evidence::{Seen, Watcher};

/// Reports that wait for the main loop; what does not fit waits in the thread.
pub(super) const REPORTS: usize = 256;

/// What the thread is told.
#[derive(Debug)]
pub(in crate::io) enum Order {
    /// Other settings.
    Configure(Box<Start>),
    /// An operator wants something.
    Command { ticket: u64, command: Command },
    /// Ping targets that answer.
    Pings(u8),
    /// The fencing command has ended.
    Fenced(Result<(), String>),
    /// How replication stands.
    Standing(Standing),
    /// Where that is to be had from now on.
    Replication(Option<Source>),
    /// The data plane has been looked at.
    Seen(Seen),
    /// Who answers for the addresses of a group.
    Resolved { group: Arc<str>, ticket: u32, testimony: Testimony },
    /// Whether a group has arrived.
    Verified { group: Arc<str>, epoch: u64, result: Result<String, String> },
    /// Ends the thread.
    End,
}

/// What it starts with.
#[derive(Debug)]
pub(super) struct Start {
    setup: Setup,
    alike: Alike,
}

impl Start {
    /// `None`: the keys have not been read.
    fn new(pair: &Pair) -> Option<Self> {
        let (settings, keyring) = (pair.settings.clone(), pair.keys.ring.clone()?);
        let (node, peer) = (&settings.node, &settings.peer);
        let alike = Alike::new(&pair.lines, node, peer, &keyring, boottime());
        let config_hash = alike.hash();
        Some(Self { setup: Setup { settings, keyring, config_hash }, alike })
    }
}

/// The way of orders into the thread, for everybody who has some.
#[derive(Clone, Debug)]
struct Mail {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
}

impl Mail {
    fn new() -> std::io::Result<(Self, Receiver<Order>)> {
        let (orders, queue) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        Ok((Self { orders, wake }, queue))
    }

    /// Never waits. A thread that has ended takes no orders.
    fn send(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// The thread, as the main loop has it; ends with it.
#[derive(Debug)]
pub(super) struct Heartbeat {
    mail: Mail,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Starts both threads.
    pub(super) fn start(
        pair: &Pair,
        first_epoch: u64,
        agent: PathBuf,
        reports: mpsc::Sender<HaReport>,
    ) -> anyhow::Result<Self> {
        let start = Start::new(pair).context("the keys of [ha] have not been read")?;
        let (mail, queue) = Mail::new().context("cannot make an eventfd")?;
        let (jobs, todo) = channel();
        let watcher = Watcher::new(agent.clone(), mail.clone());
        std::thread::Builder::new()
            .name("evidence".into())
            .spawn(move || watcher.run(&todo))
            .context("cannot start the thread of evidence")?;
        let wake = Arc::clone(&mail.wake);
        let nonce = random().context("cannot draw a random number")?;
        let born = Born { nonce, first_epoch };
        let body = move || {
            thread::Thread::new(start, &born, agent, (queue, wake), jobs, reports).run();
        };
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(body);
        let thread = thread.context("cannot start the thread of the heartbeat")?;
        Ok(Self { mail, thread: Some(thread) })
    }

    /// Other settings.
    pub(super) fn configure(&self, pair: &Pair) {
        if let Some(start) = Start::new(pair) {
            self.mail.send(Order::Configure(Box::new(start)));
        }
    }

    pub(super) fn send(&self, order: Order) {
        self.mail.send(order);
    }

    /// Whether it has ended by a mistake.
    pub(super) fn has_died(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.mail.send(Order::End);
        if let Some(thread) = self.thread.take() {
            // It never waits for us, nor for anything else for long.
            let _ = thread.join();
        }
    }
}

/// Which life of this node it is.
struct Born {
    nonce: u64,
    first_epoch: u64,
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub(super) fn boottime() -> Nanos {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(u64::from_ne_bytes(bytes))
}
