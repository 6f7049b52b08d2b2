//! The heartbeat's own session with the data plane: leases and nothing else, so that no long answer is
//! waited for, and without ever blocking.
//!
//! A data plane that does not answer in time counts as dead: the session ends, and the next attempt
//! follows soon.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dataplane_api::message::{Reply, Request};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::failover::exchange::Nanos;

/// First and longest pause between attempts to connect.
const RETRY: (Nanos, Nanos) = (20_000_000, 500_000_000);
/// Longest reply: none of those that are asked for here is long.
const REPLY_MAX: usize = 64 << 10;
/// Requests that may wait for an answer.
const PENDING_MAX: usize = 128;

/// What the data plane has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The session is open.
    Up,
    /// It has ended, for this reason.
    Down(String),
    Leased(Arc<str>, u64),
    LeaseFailed(Arc<str>, String),
    Released(Arc<str>),
}

#[derive(Debug)]
enum What {
    Hello,
    Lease(Arc<str>, u64),
    Release(Arc<str>),
    /// Whether it is alive.
    Ping,
}

#[derive(Debug)]
struct Session {
    stream: UnixStream,
    out: Vec<u8>,
    input: Vec<u8>,
    pending: VecDeque<(What, Nanos)>,
    greeted: bool,
    /// When something was last sent.
    sent: Nanos,
}

/// The client's end, open or not.
#[derive(Debug)]
pub(super) struct Agent {
    path: PathBuf,
    session: Option<Session>,
    retry: Nanos,
    pause: Nanos,
    /// Longest wait for an answer.
    patience: Nanos,
    /// How often it is asked whether it is alive, if nothing else is asked.
    ping: Nanos,
    /// Why there is no session.
    reason: Option<String>,
    /// Groups to be given up as soon as there is one, with their epochs.
    owed: BTreeMap<Arc<str>, u64>,
}

impl Agent {
    pub(super) fn new(path: PathBuf, patience: Nanos, ping: Nanos) -> Self {
        let (session, retry, pause) = (None, 0, RETRY.0);
        let (reason, owed) = (None, BTreeMap::new());
        Self { path, session, retry, pause, patience, ping, reason, owed }
    }

    /// Other settings.
    pub(super) const fn tune(&mut self, patience: Nanos, ping: Nanos) {
        (self.patience, self.ping) = (patience, ping);
    }

    /// Whether the data plane may be asked.
    pub(super) fn is_up(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.greeted)
    }

    /// Why it may not.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// To be polled; whether it is waited for that it can be written to.
    pub(super) fn fd(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.session.as_ref().map(|s| (s.stream.as_fd(), !s.out.is_empty()))
    }

    /// When [`Agent::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Nanos {
        let Some(session) = &self.session else { return self.retry };
        let late = session.pending.front().map(|(_, sent)| sent.saturating_add(self.patience));
        let ping = session.pending.is_empty().then(|| session.sent.saturating_add(self.ping));
        late.into_iter().chain(ping).min().unwrap_or(Nanos::MAX)
    }

    /// Connects, asks for a sign of life, or gives up on one that gives none.
    pub(super) fn tick(&mut self, now: Nanos) -> Vec<Said> {
        let mut said = Vec::new();
        match &self.session {
            None if self.retry <= now => match self.connect(now) {
                Ok(session) => {
                    self.session = Some(session);
                    self.ask(What::Hello, now, &mut said);
                }
                Err(e) => self.failed(format!("cannot connect: {e}"), now, &mut said),
            },
            None => {}
            Some(session) => {
                let oldest = session.pending.front().map(|(_, sent)| *sent);
                if oldest.is_some_and(|sent| sent.saturating_add(self.patience) <= now) {
                    let ms = self.patience / 1_000_000;
                    self.failed(format!("it has not answered for {ms} ms"), now, &mut said);
                } else if oldest.is_none() && session.sent.saturating_add(self.ping) <= now {
                    self.ask(What::Ping, now, &mut said);
                }
            }
        }
        said
    }

    fn connect(&self, now: Nanos) -> io::Result<Session> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // At once, or not at all: its queue may be full (`unix(7)`).
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        Ok(Session {
            stream: socket.into(),
            out: Vec::new(),
            input: Vec::new(),
            pending: VecDeque::new(),
            greeted: false,
            sent: now,
        })
    }

    /// The session is over, or did not begin.
    fn failed(&mut self, reason: String, now: Nanos, said: &mut Vec<Said>) {
        if let Some(session) = self.session.take() {
            for (what, _) in session.pending {
                if let What::Lease(group, _) = what {
                    said.push(Said::LeaseFailed(group, reason.clone()));
                }
            }
            if session.greeted {
                self.pause = RETRY.0;
                said.push(Said::Down(reason.clone()));
            }
        }
        self.reason = Some(reason);
        self.retry = now.saturating_add(self.pause);
        self.pause = (self.pause * 2).min(RETRY.1);
    }

    /// Grants the data plane the group until `now` and `ttl`, whenever it reads this.
    pub(super) fn lease(
        &mut self,
        group: &Arc<str>,
        epoch: u64,
        ttl: Duration,
        now: Nanos,
    ) -> Vec<Said> {
        let mut said = Vec::new();
        self.owed.remove(group);
        if self.is_up() {
            self.ask_lease(What::Lease(Arc::clone(group), epoch), (epoch, ttl), now, &mut said);
        } else {
            let reason = self.reason.clone().unwrap_or_else(|| "still connecting".to_owned());
            said.push(Said::LeaseFailed(Arc::clone(group), reason));
        }
        said
    }

    /// Takes it back; without a session the lease runs out, and is taken back when there is one.
    pub(super) fn release(&mut self, group: &Arc<str>, epoch: u64, now: Nanos) -> Vec<Said> {
        let mut said = Vec::new();
        if self.is_up() {
            let what = What::Release(Arc::clone(group));
            self.ask_lease(what, (epoch, Duration::ZERO), now, &mut said);
        } else {
            self.owed.insert(Arc::clone(group), epoch);
        }
        said
    }

    fn ask_lease(
        &mut self,
        what: What,
        (epoch, ttl): (u64, Duration),
        now: Nanos,
        said: &mut Vec<Said>,
    ) {
        let (What::Lease(group, _) | What::Release(group)) = &what else { return };
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        let until = now.saturating_add(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX));
        let until_ns = (ttl_ms > 0).then_some(until);
        let request = Request::Lease { ttl_ms, epoch, group: Some(group.to_string()), until_ns };
        self.request(what, &request, now, said);
    }

    fn ask(&mut self, what: What, now: Nanos, said: &mut Vec<Said>) {
        self.request(what, &Request::Hello { version: dataplane_api::VERSION }, now, said);
    }

    fn request(&mut self, what: What, request: &Request, now: Nanos, said: &mut Vec<Said>) {
        let Some(session) = &mut self.session else { return };
        if session.pending.len() >= PENDING_MAX {
            self.failed("it leaves too much unanswered".to_owned(), now, said);
            return;
        }
        match serde_json::to_vec(request) {
            Ok(line) => {
                session.out.extend(line);
                session.out.push(b'\n');
                session.pending.push_back((what, now));
                session.sent = now;
                self.write(now, said);
            }
            Err(e) => self.failed(format!("a request cannot be written: {e}"), now, said),
        }
    }

    fn write(&mut self, now: Nanos, said: &mut Vec<Said>) {
        let Some(session) = &mut self.session else { return };
        while !session.out.is_empty() {
            match session.stream.write(&session.out) {
                Ok(count) => drop(session.out.drain(..count)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.failed(format!("it cannot be written to: {e}"), now, said);
                    return;
                }
            }
        }
    }

    /// The descriptor is ready: writes and reads as far as that goes.
    pub(super) fn ready(&mut self, now: Nanos) -> Vec<Said> {
        let mut said = Vec::new();
        self.write(now, &mut said);
        let mut chunk = [0; 4096];
        // Bounded: what is left is there at the next turn.
        for _ in 0..16 {
            let Some(session) = &mut self.session else { break };
            match session.stream.read(&mut chunk) {
                Ok(0) => self.failed("it has closed the session".to_owned(), now, &mut said),
                Ok(count) => {
                    session.input.extend(&chunk[..count]);
                    self.lines(now, &mut said);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => self.failed(format!("it cannot be read from: {e}"), now, &mut said),
            }
        }
        said
    }

    fn lines(&mut self, now: Nanos, said: &mut Vec<Said>) {
        while let Some(session) = &mut self.session {
            let Some(end) = session.input.iter().position(|b| *b == b'\n') else {
                if session.input.len() > REPLY_MAX {
                    self.failed("it sends lines without end".to_owned(), now, said);
                }
                return;
            };
            let line: Vec<u8> = session.input.drain(..=end).collect();
            let Some((what, _)) = session.pending.pop_front() else {
                self.failed("it has answered without a question".to_owned(), now, said);
                return;
            };
            let reply = serde_json::from_slice::<Reply>(&line);
            match self.understand(what, reply, said) {
                Ok(()) if self.is_up() => {
                    for (group, epoch) in std::mem::take(&mut self.owed) {
                        let what = What::Release(group);
                        self.ask_lease(what, (epoch, Duration::ZERO), now, said);
                    }
                }
                Ok(()) => {}
                Err(reason) => self.failed(reason, now, said),
            }
        }
    }

    fn understand(
        &mut self,
        what: What,
        reply: serde_json::Result<Reply>,
        said: &mut Vec<Said>,
    ) -> Result<(), String> {
        let reply = reply.map_err(|e| format!("its answer is not understood: {e}"))?;
        match (what, reply) {
            (What::Hello, Reply::Hello { version, .. }) => {
                let ours = dataplane_api::VERSION;
                if version != ours {
                    return Err(format!("it speaks version {version} of the protocol, we {ours}"));
                }
                if let Some(session) = &mut self.session {
                    session.greeted = true;
                }
                (self.reason, self.pause) = (None, RETRY.0);
                said.push(Said::Up);
            }
            (What::Ping, Reply::Hello { .. }) => {}
            (What::Lease(group, epoch), Reply::Leased) => said.push(Said::Leased(group, epoch)),
            (What::Lease(group, _), Reply::Error { message }) => {
                said.push(Said::LeaseFailed(group, message));
            }
            // One that knows no such group does not answer for it either.
            (What::Release(group), Reply::Leased | Reply::Error { .. }) => {
                said.push(Said::Released(group));
            }
            (_, Reply::Error { message }) => return Err(message),
            _ => return Err("it has answered another question".to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    const MS: Nanos = 1_000_000;

    struct World {
        _dir: tempfile::TempDir,
        listener: Option<UnixListener>,
        agent: Agent,
        now: Nanos,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = Agent::new(path, 200 * MS, 50 * MS);
        World { _dir: dir, listener: Some(listener), agent, now: 1000 * MS }
    }

    impl World {
        /// Connects; the other end, after hello.
        fn up(&mut self) -> BufReader<UnixStream> {
            assert!(self.agent.tick(self.now).is_empty());
            let stream = self.listener.as_ref().unwrap().accept().unwrap().0;
            let mut end = BufReader::new(stream);
            assert!(matches!(asked(&mut end), Request::Hello { .. }));
            answer(&mut end, &hello());
            assert_eq!(self.agent.ready(self.now), [Said::Up]);
            end
        }
    }

    fn hello() -> Reply {
        Reply::Hello { version: dataplane_api::VERSION, pid: 1, boot_id: "b".into() }
    }

    fn asked(end: &mut BufReader<UnixStream>) -> Request {
        let mut line = String::new();
        end.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn answer(end: &mut BufReader<UnixStream>, reply: &Reply) {
        let line = serde_json::to_string(reply).unwrap() + "\n";
        end.get_mut().write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn a_lease_ends_at_a_moment_however_late_it_is_read() {
        let mut world = world();
        let group: Arc<str> = "web".into();
        let failed = world.agent.lease(&group, 7, Duration::from_millis(100), world.now);
        assert!(matches!(&failed[..], [Said::LeaseFailed(..)]), "before there is a session");
        let mut end = world.up();
        let ttl = Duration::from_millis(100);
        assert!(world.agent.lease(&group, 7, ttl, world.now).is_empty());
        let until_ns = Some(world.now + 100 * MS);
        let group_name = Some("web".to_owned());
        let lease = Request::Lease { ttl_ms: 100, epoch: 7, group: group_name.clone(), until_ns };
        assert_eq!(asked(&mut end), lease);
        answer(&mut end, &Reply::Leased);
        assert_eq!(world.agent.ready(world.now), [Said::Leased(Arc::clone(&group), 7)]);
        world.agent.release(&group, 8, world.now);
        let release = Request::Lease { ttl_ms: 0, epoch: 8, group: group_name, until_ns: None };
        assert_eq!(asked(&mut end), release);
        answer(&mut end, &Reply::Error { message: "no such group".into() });
        assert_eq!(world.agent.ready(world.now), [Said::Released(group)]);
    }

    #[test]
    fn a_data_plane_that_hangs_is_dead_in_time_and_one_that_is_idle_is_not() {
        let mut world = world();
        let mut end = world.up();
        for _ in 0..10 {
            assert_eq!(world.agent.next_deadline(), world.now + 50 * MS);
            world.now += 50 * MS;
            assert!(world.agent.tick(world.now).is_empty());
            assert!(matches!(asked(&mut end), Request::Hello { .. }));
            answer(&mut end, &hello());
            assert!(world.agent.ready(world.now).is_empty());
        }
        world.agent.lease(&"web".into(), 1, Duration::from_millis(100), world.now);
        assert!(world.agent.tick(world.now + 199 * MS).is_empty());
        let said = world.agent.tick(world.now + 200 * MS);
        assert!(
            matches!(&said[..], [Said::LeaseFailed(..), Said::Down(r)] if r.contains("200 ms")),
            "{said:?}"
        );
    }

    #[test]
    fn one_that_is_away_is_tried_again_soon_and_nothing_it_sends_does_harm() {
        let mut world = world();
        for nonsense in ["{}\n", "\n", "{\"reply\":\"leased\"}\n{\"reply\":\"leased\"}\n"] {
            let mut end = world.up();
            end.get_mut().write_all(nonsense.as_bytes()).unwrap();
            let said = world.agent.ready(world.now);
            assert!(matches!(&said[..], [Said::Down(_)]), "{nonsense}: {said:?}");
            assert_eq!(world.agent.next_deadline(), world.now + RETRY.0);
            world.now += RETRY.0;
        }
        drop(world.listener.take());
        let mut attempts = 0;
        let end = world.now + 3000 * MS;
        while world.now < end {
            attempts += 1;
            assert!(world.agent.tick(world.now).is_empty() && !world.agent.is_up());
            world.now = world.agent.next_deadline();
        }
        assert!((6..=12).contains(&attempts), "{attempts}");
        assert!(world.agent.reason().unwrap().contains("cannot connect"));
    }

    #[test]
    fn a_line_without_end_ends_the_session() {
        let mut world = world();
        let mut end = world.up();
        end.get_mut().set_nonblocking(true).unwrap();
        let mut said = Vec::new();
        while said.is_empty() {
            let _ = end.get_mut().write(&[b'x'; 8192]);
            said = world.agent.ready(world.now);
        }
        assert!(matches!(&said[..], [Said::Down(r)] if r.contains("without end")), "{said:?}");
    }
}
