//! The thread of replication: carries out what [`crate::replicate`] decides, between the
//! replication socket of our own data plane and the peer's control.
//!
//! A thread of its own, so that a configuration being read or a page being written delays no
//! change. It waits for nothing but its sockets, and comes back to each of them after a bounded
//! amount of work for the others. It ends when its [`Replicator`] goes.

mod data_plane;
mod network;
mod worker;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};

use crate::failover::settings;
use crate::replicate::{Event, Guard, View};
use crate::seal::Keyring;

/// What is replicated with whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub node: String,
    /// Name of the other one.
    pub peer: String,
    /// Addresses, encryption, digests.
    pub replication: settings::Replication,
    /// Keys of both nodes.
    pub keys: Keyring,
}

impl Settings {
    fn guard(&self) -> Guard {
        Guard::new(self.keys.clone(), &self.node, &self.peer, self.replication.encrypt)
    }
}

/// What the thread is told.
enum Command {
    Configure(Box<Settings>),
    Drain,
    Stop,
}

/// What the thread shows.
#[derive(Default)]
struct Shown(Mutex<Arc<View>>);

/// The thread, from outside. It stops when this is dropped.
pub struct Replicator {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    shown: Arc<Shown>,
    thread: Option<JoinHandle<()>>,
}

/// Takes events, on the thread of replication: it must not wait.
pub type Listener = Box<dyn FnMut(Event) + Send>;

impl Replicator {
    /// Starts the thread. `socket` is the data plane's replication socket. What cannot be reached
    /// is tried again, and said in [`View::trouble`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(socket: PathBuf, settings: Settings, listener: Listener) -> anyhow::Result<Self> {
        let (commands, queue) = channel();
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let wake = eventfd(0, flags).context("cannot make what wakes the thread of replication")?;
        let (wake, shown) = (Arc::new(wake), Arc::new(Shown::default()));
        let inner = (Arc::clone(&wake), Arc::clone(&shown));
        let thread = std::thread::Builder::new()
            .name("replicator".to_owned())
            .spawn(move || {
                worker::Worker::new(socket, &settings, inner.1, listener).run(&inner.0, &queue);
            })
            .context("cannot start the thread of replication")?;
        Ok(Self { commands, wake, shown, thread: Some(thread) })
    }

    /// Other settings. The session with the peer is another one then, and everything is sent anew:
    /// to be called when they have changed, not at each reload.
    pub fn configure(&self, settings: Settings) {
        self.tell(Command::Configure(Box::new(settings)));
    }

    /// Asks for [`Event::Drained`], as soon as everything that happened here up to now is in the
    /// peer's table.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// How it stands, at most a tenth of a second ago.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.shown.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says goodbye to the peer, and ends the thread.
    pub fn stop(self) {
        drop(self);
    }

    fn tell(&self, command: Command) {
        // It is gone only after a fault in it, which its absence in the view shows.
        if self.commands.send(command).is_ok() {
            // Full means that it is awake.
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Drop for Replicator {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Nanoseconds of the clock that the data plane counts by, too.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}
