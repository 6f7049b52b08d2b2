//! The ways of the heartbeat: opened, watched, and opened again when they have become of no use.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::serial::Serial;
use super::udp::Udp;
use crate::failover::exchange::Nanos;
use crate::failover::settings::{Link, Path};
use crate::verbs::HaPath;

/// How often a path that is closed is tried again, and one that is open looked at.
const PERIOD: Nanos = 1_000_000_000;
/// Longest datagram that is taken.
const DATAGRAM_MAX: usize = 2048;
/// Most messages that are taken from a path in [`SLOT`]: this thread goes before everything else, and a
/// flood of datagrams must not have it take the processor from whoever forwards packets.
const SLOT_MAX: u32 = 500;
const SLOT: Nanos = 10_000_000;

#[derive(Debug)]
enum Port {
    Udp(Udp),
    Serial(Box<Serial>),
}

/// A way of the heartbeat.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) path: Path,
    port: Option<Port>,
    problem: Option<String>,
    /// When it is next opened, or looked at.
    due: Nanos,
    sent: u64,
    received: u64,
    foreign: u64,
    skipped: u64,
    /// When the slot began, and what was taken in it.
    slot: (Nanos, u32),
}

impl Way {
    /// To be opened at once.
    pub(super) const fn new(path: Path) -> Self {
        let (port, problem) = (None, None);
        let (sent, received, foreign, skipped) = (0, 0, 0, 0);
        Self { path, port, problem, due: 0, sent, received, foreign, skipped, slot: (0, 0) }
    }

    /// Opens it if that is due, and notices if it has become of no use.
    pub(super) fn tick(&mut self, now: Nanos) {
        if now < self.due {
            return;
        }
        self.due = now.saturating_add(PERIOD);
        if let Some(Port::Udp(udp)) = &self.port
            && let Some(problem) = udp.problem()
        {
            (self.port, self.problem) = (None, Some(problem));
        }
        if self.port.is_none() {
            match open(&self.path.link) {
                Ok(port) => (self.port, self.problem) = (Some(port), None),
                Err(error) => self.problem = Some(error.to_string()),
            }
        }
    }

    /// When [`Way::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Nanos {
        if self.is_exhausted() { self.due.min(self.slot.0 + SLOT) } else { self.due }
    }

    /// Whether nothing more is taken in this slot.
    const fn is_exhausted(&self) -> bool {
        self.slot.1 >= SLOT_MAX
    }

    pub(super) const fn is_open(&self) -> bool {
        self.port.is_some()
    }

    /// Whether it carries less than the others.
    pub(super) const fn is_slow(&self) -> bool {
        matches!(self.path.link, Link::Serial { .. })
    }

    /// To be polled.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.as_ref().filter(|_| !self.is_exhausted()).map(|port| match port {
            Port::Udp(udp) => udp.socket.as_fd(),
            Port::Serial(serial) => serial.file.as_fd(),
        })
    }

    pub(super) fn wants_to_write(&self) -> bool {
        matches!(&self.port, Some(Port::Serial(serial)) if serial.wants_to_write())
    }

    /// Sends, if it is open.
    pub(super) fn send(&mut self, bytes: &[u8], now: Nanos) {
        let sent = match &mut self.port {
            None => return,
            Some(Port::Udp(udp)) => udp.send(bytes).map(|()| true),
            Some(Port::Serial(serial)) => serial.send(bytes, now),
        };
        match sent {
            Ok(true) => {
                self.sent += 1;
                // What went wrong is over.
                self.problem = None;
            }
            Ok(false) => self.skipped += 1,
            Err(error) => self.failed(&error),
        }
    }

    /// Writes on, after the descriptor has become writable.
    pub(super) fn flush(&mut self) {
        if let Some(Port::Serial(serial)) = &mut self.port
            && let Err(error) = serial.flush()
        {
            self.failed(&error);
        }
    }

    /// The next message, if one is there.
    pub(super) fn receive(&mut self, now: Nanos) -> Option<Vec<u8>> {
        if now >= self.slot.0 + SLOT {
            self.slot = (now, 0);
        }
        while !self.is_exhausted() {
            self.slot.1 += 1;
            let mut buffer = [0; DATAGRAM_MAX];
            let received = match &mut self.port {
                None => return None,
                Some(Port::Udp(udp)) => {
                    udp.receive(&mut buffer).map(|length| length.map(|l| buffer[..l].to_vec()))
                }
                Some(Port::Serial(serial)) => serial.receive().map(Some),
            };
            match received {
                Ok(Some(bytes)) => {
                    self.received += 1;
                    return Some(bytes);
                }
                Ok(None) => self.foreign += 1,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(&error);
                    return None;
                }
            }
        }
        None
    }

    /// A network that is down or an address that is gone comes back, and the socket is good again at
    /// once; a line that has failed must be opened anew.
    fn failed(&mut self, error: &io::Error) {
        self.problem = Some(error.to_string());
        if self.is_slow() {
            self.port = None;
        }
    }

    pub(super) fn status(&self) -> HaPath {
        let (kind, what) = match &self.path.link {
            Link::Unicast { local, remote, interface } => {
                let on = interface.as_ref().map_or_else(String::new, |i| format!(" on {i}"));
                ("udp", format!("{local} to {remote}{on}"))
            }
            Link::Multicast { group, interface } => {
                ("multicast", format!("{group} on {interface}"))
            }
            Link::Serial { device, baud } => ("serial", format!("{} at {baud}", device.display())),
        };
        HaPath {
            name: self.path.name.clone(),
            kind: kind.to_owned(),
            what,
            open: self.is_open(),
            problem: self.problem.clone(),
            sent: self.sent,
            received: self.received,
            foreign: self.foreign,
            skipped: self.skipped,
        }
    }
}

fn open(link: &Link) -> io::Result<Port> {
    match link {
        Link::Unicast { local, remote, interface } => {
            Udp::unicast(*local, *remote, interface.as_deref()).map(Port::Udp)
        }
        Link::Multicast { group, interface } => Udp::multicast(*group, interface).map(Port::Udp),
        Link::Serial { device, baud } => {
            Serial::open(device, *baud).map(|serial| Port::Serial(Box::new(serial)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(local: &str, remote: &str) -> Way {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        let link = Link::Unicast { local, remote, interface: None };
        Way::new(Path { name: "p".to_owned(), link })
    }

    #[test]
    fn a_path_without_its_address_is_shown_with_the_reason_and_tried_again_each_second() {
        // TEST-NET-3: nobody has it.
        let mut way = way("203.0.113.9:6940", "203.0.113.10:6940");
        way.tick(5);
        let status = way.status();
        assert!(!status.open && status.problem.unwrap().contains("Cannot assign"), "{way:?}");
        assert_eq!(way.next_deadline(), PERIOD + 5);
        way.send(b"beat", 6);
        assert!(way.receive(6).is_none() && way.fd().is_none());
        // The address comes: here, another one.
        way.path.link = Link::Unicast {
            local: "127.0.0.1:0".parse().unwrap(),
            remote: "127.0.0.1:9".parse().unwrap(),
            interface: None,
        };
        way.tick(PERIOD);
        assert!(!way.is_open(), "not before it is due");
        way.tick(PERIOD + 5);
        way.send(b"beat", 6);
        let status = way.status();
        assert!(status.open && status.problem.is_none() && status.sent == 1, "{status:?}");
    }

    #[test]
    fn a_flood_costs_no_more_than_its_slot_and_what_is_ours_is_sent_on() {
        let mut way = way("127.0.0.1:0", "127.0.0.2:9");
        way.tick(0);
        let Some(Port::Udp(udp)) = &way.port else { panic!("{way:?}") };
        let to = udp.socket.local_addr().unwrap();
        let flood = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
        let (mut taken, mut now) = (0, SLOT);
        for _ in 0..10 {
            for _ in 0..200 {
                flood.send_to(&[0; 100], to).unwrap();
            }
            while way.receive(now).is_some() {
                taken += 1;
            }
        }
        assert!((1..=SLOT_MAX).contains(&taken), "{taken}");
        assert!(way.fd().is_none() && way.next_deadline() == now + SLOT);
        way.send(b"beat", now);
        assert_eq!(way.status().sent, 1);
        now += SLOT;
        assert!(way.receive(now).is_some() && way.fd().is_some());
    }
}
