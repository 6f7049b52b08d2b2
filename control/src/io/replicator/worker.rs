//! The loop of the thread.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::data_plane::DataPlane;
use super::network::Network;
use super::{Command, Listener, Settings, Shown, now};
use crate::replicate::Replication;

const MS: u64 = 1_000_000;
/// Between attempts to reach the data plane: soon at first, for it may just be starting.
const RECONNECT_NS: (u64, u64) = (20 * MS, 1000 * MS);
/// Between attempts to open the socket towards the peer: our address may come later.
const REOPEN_NS: u64 = 1000 * MS;
/// Between two views.
const SHOW_NS: u64 = 100 * MS;
/// Longest wait.
const WAIT_NS: u64 = 1000 * MS;
/// Datagrams, and reads of the data plane's socket, in one go.
const ROUND: usize = 64;
/// Rounds before signals, commands and timers get their turn.
const ROUNDS: usize = 16;

/// See the [module](super).
pub(super) struct Worker {
    replication: Replication,
    settings: Settings,
    socket: PathBuf,
    shown: Arc<Shown>,
    listener: Listener,
    data_plane: Option<DataPlane>,
    reconnect_ns: u64,
    gap_ns: u64,
    network: Option<Network>,
    reopen_ns: u64,
    show_ns: u64,
    /// What is wrong with the data plane's socket, and with that of the peer.
    trouble: [Option<String>; 2],
}

/// Nobody can guess them.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Fails only before the kernel has gathered randomness, and then it waits.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

impl Worker {
    pub(super) fn new(
        socket: PathBuf,
        settings: &Settings,
        shown: Arc<Shown>,
        listener: Listener,
    ) -> Self {
        let digest = settings.replication.digest;
        Self {
            replication: Replication::new(digest, settings.guard(), Box::new(random), now()),
            settings: settings.clone(),
            socket,
            shown,
            listener,
            data_plane: None,
            reconnect_ns: 0,
            gap_ns: RECONNECT_NS.0,
            network: None,
            reopen_ns: 0,
            show_ns: 0,
            trouble: [None, None],
        }
    }

    /// Until it is told to stop, or nobody is left to tell it.
    pub(super) fn run(mut self, wake: &OwnedFd, commands: &Receiver<Command>) {
        loop {
            loop {
                match commands.try_recv() {
                    Ok(Command::Configure(settings)) => self.configure(*settings),
                    Ok(Command::Drain) => self.replication.drain(now()),
                    Ok(Command::Stop) => return self.stop(),
                    Err(_) => break,
                }
            }
            self.connect(now());
            self.replication.tick(now());
            let mut busy = true;
            for _ in 0..ROUNDS {
                busy = self.exchange();
                if !busy {
                    break;
                }
            }
            while let Some(event) = self.replication.next_event() {
                (self.listener)(event);
            }
            self.show(now());
            if !busy {
                self.wait(wake);
            }
        }
    }

    fn configure(&mut self, settings: Settings) {
        let (old, new) = (&self.settings.replication, &settings.replication);
        if (old.local, old.remote) != (new.local, new.remote) {
            self.send();
            (self.network, self.reopen_ns) = (None, 0);
        }
        self.replication.set_digest(new.digest);
        self.replication.set_guard(settings.guard(), now());
        self.settings = settings;
    }

    fn stop(&mut self) {
        self.replication.stop(now());
        // What the sockets do not take now is of no use later.
        self.send();
        self.write();
    }

    fn connect(&mut self, now: u64) {
        if self.data_plane.is_none() && now >= self.reconnect_ns {
            match DataPlane::connect(&self.socket) {
                Ok(data_plane) => {
                    self.data_plane = Some(data_plane);
                    self.trouble[0] = None;
                    self.replication.connected();
                }
                Err(error) => self.lost_data_plane(&error.to_string(), now),
            }
        }
        if self.network.is_none() && now >= self.reopen_ns {
            let at = &self.settings.replication;
            match Network::open(at.local, at.remote) {
                Ok(network) => (self.network, self.trouble[1]) = (Some(network), None),
                Err(error) => self.lost_network(&error.to_string(), now),
            }
        }
    }

    fn lost_data_plane(&mut self, why: &str, now: u64) {
        if self.data_plane.take().is_some() {
            self.replication.disconnected(now);
        }
        self.trouble[0] = Some(format!("{}: {why}", self.socket.display()));
        self.reconnect_ns = now + self.gap_ns;
        self.gap_ns = (self.gap_ns * 2).min(RECONNECT_NS.1);
    }

    fn lost_network(&mut self, why: &str, now: u64) {
        let at = &self.settings.replication;
        self.trouble[1] = Some(format!("{} to {}: {why}", at.local, at.remote));
        (self.network, self.reopen_ns) = (None, now + REOPEN_NS);
    }

    /// A bounded piece of everything; whether there may be more.
    fn exchange(&mut self) -> bool {
        let read = self.read();
        let received = self.receive();
        let written = self.write();
        let sent = self.send();
        read || received || written || sent
    }

    fn read(&mut self) -> bool {
        let Some(data_plane) = &mut self.data_plane else { return false };
        let replication = &mut self.replication;
        let mut any = false;
        let mut go = || -> Result<(), String> {
            for _ in 0..ROUND {
                let now = now();
                while replication.wants_frames() {
                    let Some(frame) = data_plane.frame().map_err(|e| e.to_string())? else { break };
                    replication.frame(frame, now).map_err(|e| e.to_string())?;
                    any = true;
                }
                if !replication.wants_frames() || !data_plane.read().map_err(|e| e.to_string())? {
                    break;
                }
            }
            Ok(())
        };
        if let Err(why) = go() {
            self.lost_data_plane(&why, now());
        } else if any {
            self.gap_ns = RECONNECT_NS.0;
        }
        any
    }

    fn receive(&mut self) -> bool {
        let Some(network) = &mut self.network else { return false };
        let (mut any, now) = (false, now());
        for _ in 0..ROUND {
            match network.receive() {
                Ok(Some([])) => {}
                Ok(Some(datagram)) => {
                    any = true;
                    self.replication.datagram(datagram, now);
                }
                Ok(None) => break,
                Err(error) => {
                    self.lost_network(&error.to_string(), now);
                    break;
                }
            }
        }
        any
    }

    fn write(&mut self) -> bool {
        let Some(data_plane) = &mut self.data_plane else { return false };
        let (replication, now) = (&mut self.replication, now());
        match data_plane.write(&mut || replication.next_frame(now)) {
            Ok(any) => any,
            Err(error) => {
                self.lost_data_plane(&error.to_string(), now);
                true
            }
        }
    }

    fn send(&mut self) -> bool {
        let (replication, now) = (&mut self.replication, now());
        let Some(network) = &mut self.network else {
            // As if they had got lost; the session ends by that.
            while replication.next_datagram(now).is_some() {}
            return false;
        };
        match network.send(&mut || replication.next_datagram(now)) {
            Ok(count) => count > 0,
            Err(error) => {
                self.lost_network(&error.to_string(), now);
                true
            }
        }
    }

    fn show(&mut self, now: u64) {
        if now < self.show_ns {
            return;
        }
        self.show_ns = now + SHOW_NS;
        let mut view = self.replication.view(now);
        view.trouble = self.trouble.iter().flatten().next().cloned();
        let mut shown = self.shown.0.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Arc::new(view);
    }

    /// Until a socket is ready or something is due.
    fn wait(&mut self, wake: &OwnedFd) {
        let mut due = self.replication.next_deadline().min(self.show_ns);
        let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
        match &self.data_plane {
            Some(data_plane) => {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, self.replication.wants_frames());
                flags.set(PollFlags::OUT, data_plane.is_writing());
                fds.push(PollFd::from_borrowed_fd(data_plane.fd(), flags));
            }
            None => due = due.min(self.reconnect_ns),
        }
        match &self.network {
            Some(network) => {
                let mut flags = PollFlags::IN;
                flags.set(PollFlags::OUT, network.is_sending());
                fds.push(PollFd::from_borrowed_fd(network.fd(), flags));
            }
            None => due = due.min(self.reopen_ns),
        }
        let time = due.saturating_sub(now()).min(WAIT_NS);
        let timeout = Timespec {
            tv_sec: i64::try_from(time / 1_000_000_000).unwrap_or(0),
            tv_nsec: i64::try_from(time % 1_000_000_000).unwrap_or(0),
        };
        // Interrupted or not, everything is looked at again.
        let _ = poll(&mut fds, Some(&timeout));
        let gone = PollFlags::HUP | PollFlags::ERR;
        let hung_up = self.data_plane.is_some() && fds[1].revents().intersects(gone);
        let _ = rustix::io::read(wake, &mut [0; 8]);
        // What it has said before is of no use: it says all anew when it is back. While the peer is
        // slow nothing is read, and nothing else would show it.
        if hung_up {
            self.lost_data_plane("the data plane closed it", now());
        }
    }
}
