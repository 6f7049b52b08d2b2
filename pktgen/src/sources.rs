//! Where the counters of a [`Reading`] come from: `/proc`, and the balancer's agent socket.
//!
//! Run by the main thread, before and after a trial. What cannot be read is a note, never the end
//! of a run: a report with less in it is better than none.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dataplane_api::message::{LINE_MAX, Reply, Request, Status};
use dataplane_api::service::Listen;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::ledger::{Balancer, CoreTime, Interface, Reading};
use crate::spec::{Protocol, Spec};

/// Longest wait for one message of the balancer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What to read.
#[derive(Clone, Debug)]
pub struct Sources {
    interfaces: Vec<String>,
    balancer: Option<PathBuf>,
    vip: SocketAddr,
    protocol: Protocol,
    /// Notes that were made; each is made once.
    noted: Vec<String>,
}

impl Sources {
    /// Those of a run.
    #[must_use]
    pub fn new(spec: &Spec) -> Self {
        Self {
            interfaces: spec.client.iter().chain(&spec.server).cloned().collect(),
            balancer: spec.balancer.clone(),
            vip: spec.vip,
            protocol: spec.protocol,
            noted: Vec::new(),
        }
    }

    /// All counters now.
    pub fn read(&mut self, notes: &mut Vec<String>) -> Reading {
        let mut reading = Reading::default();
        // Of the thread, because a thread may have a network of its own.
        match file("/proc/thread-self/net/dev") {
            Ok(text) => reading.interfaces = interfaces(&text, &self.interfaces),
            Err(error) => self.note(notes, &error),
        }
        match file("/proc/net/softnet_stat") {
            Ok(text) => reading.softnet_dropped = softnet_dropped(&text),
            Err(error) => self.note(notes, &error),
        }
        match file("/proc/stat") {
            Ok(text) => reading.cores = core_times(&text),
            Err(error) => self.note(notes, &error),
        }
        if let Some(path) = self.balancer.clone() {
            match ask(&path) {
                Ok(status) => reading.balancer = Some(self.balancer(&status, notes)),
                Err(error) => {
                    let error = error.context(format!("balancer at {}", path.display()));
                    self.note(notes, &error);
                }
            }
        }
        reading
    }

    fn balancer(&mut self, status: &Status, notes: &mut Vec<String>) -> Balancer {
        let active = active(status, self.vip, self.protocol);
        if active.is_none() {
            let text = format!("the balancer has no service at {}", self.vip);
            self.note(notes, &anyhow::anyhow!(text));
        }
        let names: Vec<_> = status.interfaces.iter().map(|i| i.name.clone()).collect();
        let counters = match file(&format!("/proc/{}/net/dev", status.pid)) {
            Ok(text) => interfaces(&text, &names),
            Err(error) => {
                let error = error.context("counters of the balancer's interfaces");
                self.note(notes, &error);
                BTreeMap::new()
            }
        };
        let sockets = status.interfaces.iter().flat_map(|interface| {
            let of = |(name, packets): (&String, &u64)| {
                ((interface.name.clone(), name.clone()), *packets)
            };
            interface.kernel_drops.iter().map(of)
        });
        Balancer {
            boot_id: status.boot_id.clone(),
            drops: status.drops.clone(),
            sockets: sockets.collect(),
            interfaces: counters,
            active,
        }
    }

    fn note(&mut self, notes: &mut Vec<String>, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if !self.noted.contains(&text) {
            self.noted.push(text.clone());
            notes.push(text);
        }
    }
}

fn file(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// Asks a data plane for its status.
///
/// # Errors
/// If nobody answers within a few seconds, or not in its language.
pub fn ask(path: &Path) -> anyhow::Result<Status> {
    let stream = connect(path)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let mut reader = BufReader::new(&stream);
    match exchange(&stream, &mut reader, &Request::Hello { version: dataplane_api::VERSION })? {
        Reply::Hello { version, .. } if version == dataplane_api::VERSION => {}
        Reply::Hello { version, .. } => {
            bail!("speaks version {version}, not {}", dataplane_api::VERSION)
        }
        Reply::Error { message } => bail!(message),
        _ => bail!("did not answer the greeting"),
    }
    match exchange(&stream, &mut reader, &Request::Status)? {
        Reply::Status(status) => Ok(*status),
        Reply::Error { message } => bail!(message),
        _ => bail!("did not answer with its status"),
    }
}

/// Without the wait of a blocking `connect(2)` for a server that takes no connections.
fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path).context("no usable path of a socket")?;
    rustix::net::connect(&socket, &address).context("cannot connect")?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn exchange(
    mut stream: &UnixStream,
    reader: &mut impl BufRead,
    request: &Request,
) -> anyhow::Result<Reply> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("cannot ask")?;
    let mut answer = Vec::new();
    let read = reader.take(LINE_MAX as u64).read_until(b'\n', &mut answer);
    read.context("no answer")?;
    ensure!(answer.ends_with(b"\n"), "the answer ends in the middle");
    serde_json::from_slice(&answer).context("the answer is not understood")
}

/// Established connections of the service at an address; none if there is no such service.
fn active(status: &Status, vip: SocketAddr, protocol: Protocol) -> Option<u64> {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let serves = |listen: &String| {
        listen
            .parse::<Listen>()
            .is_ok_and(|l| l.address == vip.ip() && l.ports.contains(vip.port()))
    };
    let service =
        status.services.iter().find(|s| s.protocol == protocol && s.listen.iter().any(serves))?;
    Some(service.reals.iter().map(|real| real.active).sum())
}

/// `/proc/net/dev` (`net/core/net-procfs.c`, `dev_seq_printf_stats`).
fn interfaces(text: &str, wanted: &[String]) -> BTreeMap<String, Interface> {
    let of = |line: &str| {
        let (name, rest) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().map_while(|n| n.parse().ok()).collect();
        // Of 8 received and 8 sent: bytes, packets, errors, drops (missed ones among them), …; fifo
        // and frame errors are parts of the errors.
        let [_, _, rx_errors, rx_drops, ..] = numbers.get(..8)? else { return None };
        let [_, _, tx_errors, tx_drops, ..] = numbers.get(8..16)? else { return None };
        let interface = Interface {
            rx_dropped: rx_errors.saturating_add(*rx_drops),
            tx_dropped: tx_errors.saturating_add(*tx_drops),
        };
        Some((name.trim().to_owned(), interface))
    };
    text.lines().filter_map(of).filter(|(name, _)| wanted.contains(name)).collect()
}

/// Second number of each line, hexadecimal (`softnet_seq_show`).
fn softnet_dropped(text: &str) -> u64 {
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(dropped).sum()
}

/// The lines `cpuN` of `/proc/stat` (proc(5)).
fn core_times(text: &str) -> Vec<CoreTime> {
    let of = |line: &str| {
        let (name, rest) = line.strip_prefix("cpu")?.split_once(' ')?;
        let numbers: Vec<u64> = rest.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let [_user, _nice, _system, idle, wait, irq, softirq, stolen] = numbers.get(..8)? else {
            return None;
        };
        Some(CoreTime {
            core: name.parse().ok()?,
            // Time of guests is part of the user's.
            total: numbers.iter().take(8).sum(),
            idle: idle + wait,
            interrupts: irq + softirq,
            stolen: *stolen,
        })
    };
    text.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_api::message::{InterfaceStatus, RealStatus, ServiceStatus};
    use std::os::unix::net::UnixListener;

    const VIP: &str = "198.18.255.1:80";

    fn sources(balancer: &Path) -> Sources {
        Sources {
            interfaces: vec!["lo".to_owned()],
            balancer: Some(balancer.to_owned()),
            vip: VIP.parse().unwrap(),
            protocol: Protocol::Tcp,
            noted: Vec::new(),
        }
    }

    fn status() -> Status {
        let real = |active| RealStatus { active, ..RealStatus::default() };
        let service = |protocol: &str, listen: &str| ServiceStatus {
            protocol: protocol.to_owned(),
            listen: vec!["192.0.2.1:80".to_owned(), listen.to_owned()],
            reals: vec![real(3), real(4)],
            ..ServiceStatus::default()
        };
        let interface = InterfaceStatus {
            name: "lo".to_owned(),
            kernel_drops: [("rx_dropped".to_owned(), 5)].into(),
            ..InterfaceStatus::default()
        };
        Status {
            boot_id: "b".to_owned(),
            pid: std::process::id(),
            services: vec![service("udp", VIP), service("tcp", "198.18.255.1:1-100")],
            interfaces: vec![interface],
            drops: [("no_real".to_owned(), 2)].into(),
            ..Status::default()
        }
    }

    /// Answers a session with these lines, one for each request.
    fn serve(path: &Path, lines: Vec<String>) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(&stream);
            for line in lines {
                let mut request = String::new();
                reader.read_line(&mut request).unwrap();
                assert!(serde_json::from_str::<Request>(&request).is_ok(), "{request}");
                let _ = (&stream).write_all(line.as_bytes());
            }
        })
    }

    fn json(reply: &Reply) -> String {
        serde_json::to_string(reply).unwrap() + "\n"
    }

    fn hello(version: u32) -> String {
        json(&Reply::Hello { version, pid: 1, boot_id: "b".to_owned() })
    }

    #[test]
    fn a_balancer_that_answers_is_in_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let lines = vec![hello(dataplane_api::VERSION), json(&Reply::Status(Box::new(status())))];
        let server = serve(&path, lines);
        let mut notes = Vec::new();
        let reading = sources(&path).read(&mut notes);
        server.join().unwrap();
        let balancer = reading.balancer.unwrap();
        assert_eq!((balancer.active, balancer.drops["no_real"]), (Some(7), 2));
        assert_eq!(balancer.sockets[&("lo".to_owned(), "rx_dropped".to_owned())], 5);
        assert!(balancer.interfaces.contains_key("lo"), "read of its process's network");
        assert!(reading.interfaces.contains_key("lo") && !reading.cores.is_empty());
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn a_wrong_or_dead_socket_is_a_note_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "no socket").unwrap();
        let long = dir.path().join("x".repeat(200));
        for path in [dir.path().join("absent"), plain, long, dir.path().to_owned()] {
            let (mut sources, mut notes) = (sources(&path), Vec::new());
            for _ in 0..2 {
                assert!(sources.read(&mut notes).balancer.is_none());
            }
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert!(notes[0].starts_with("balancer at "), "{notes:?}");
        }
    }

    #[test]
    fn what_others_answer_is_refused_with_the_reason() {
        let error = json(&Reply::Error { message: "8 sessions are open already".to_owned() });
        for (lines, why) in [
            (vec![hello(99)], "version 99"),
            (vec!["HTTP/1.1 400 Bad Request\r\n".to_owned()], "not understood"),
            (vec!["{\"reply\":\"hel".to_owned()], "ends in the middle"),
            (vec![error], "8 sessions"),
            (vec![hello(dataplane_api::VERSION), json(&Reply::Leased)], "its status"),
            (vec![], "ends in the middle"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent.sock");
            let server = serve(&path, lines);
            let error = format!("{:#}", ask(&path).unwrap_err());
            let _ = server.join();
            // A peer that closes with unread bytes resets the connection.
            assert!(error.contains(why) || error.contains("reset"), "{why}: {error}");
        }
    }

    #[test]
    fn a_socket_that_nobody_serves_does_not_hold_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(format!("{:#}", ask(&path).unwrap_err()).contains("no answer"));
        // Until the backlog is full, and beyond.
        let held: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).take(5000).collect();
        assert!(held.len() < 5000);
        assert!(format!("{:#}", ask(&path).unwrap_err()).contains("cannot connect"));
    }

    #[test]
    fn files_of_the_kernel_are_read_as_it_writes_them() {
        let text = "Inter-|   Receive    |  Transmit\n face |bytes packets errs drop\n\
            cli0: 10 20 1 2 4 9 9 9 30 40 8 16 32 9 9 9\nveth:1: 0 0 0 0 0 0 0 0 0 0 0 5 0 0 0 0\n\
            bad: 1 2 3\n";
        let wanted = ["cli0", "veth:1", "bad"].map(str::to_owned);
        let found = interfaces(text, &wanted);
        assert_eq!(found["cli0"], Interface { rx_dropped: 3, tx_dropped: 24 });
        assert_eq!(found["veth:1"].tx_dropped, 5);
        assert_eq!(found.len(), 2);
        assert_eq!(softnet_dropped("0129 0000d4b0 11\n02de 00000001 2e\nx\n"), 0xd4b1);
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu12 1 1 1 1\nintr 5\n";
        let time = CoreTime { core: 0, total: 36, idle: 9, interrupts: 13, stolen: 8 };
        assert_eq!(core_times(stat), [time]);
    }

    #[test]
    fn a_service_elsewhere_is_not_counted() {
        let vip = |text: &str| active(&status(), text.parse().unwrap(), Protocol::Tcp);
        assert_eq!(vip(VIP), Some(7));
        assert_eq!(vip("198.18.255.1:101"), None);
        assert_eq!(vip("198.18.255.2:80"), None);
    }
}
