//! Replication: what the peer has to know of connections, and what we know from it.
//!
//! A thread of its own, `sync`, serves `sync.sock` for control, which carries the stream to the peer
//! (`dataplane_api::sync`; docs/protocols.md has it byte by byte). It drains what workers note
//! ([`crate::changes`]), reads and writes the connection table as a worker would, and never makes one
//! wait. If it falls behind, changes are lost, which is counted, and everything is sent again.
//!
//! `replica.rs` is all of it without the socket: `export.rs` one way, `import.rs` the other, both over
//! `names.rs` (numbers and names) and `digest.rs` (who has what); `keep.rs` keeps alive what is not ours.

mod digest;
mod export;
mod import;
mod keep;
mod names;
mod replica;
mod session;

use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dataplane_api::sync::{BUCKETS, DIGEST_PART, Frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::address::VipId;
use crate::clock::{self, Instant};
use crate::limits;
use crate::published::Segment;
use crate::runtime::Runtime;
use crate::service::ServiceTable;

pub use digest::{Marks, bucket, fingerprint};
pub use export::Export;
pub use import::{Import, Refusals};
pub use names::{Names, View, life};
pub use replica::Replica;
use session::{Closed, Session};

/// How often the workers' notes are fetched: a tenth of the time in which half of the connections
/// should be with the peer.
const ROUND: Duration = Duration::from_millis(4);
/// The same without a session: how late one is noticed, and the end of the process.
const IDLE: Duration = Duration::from_millis(100);
/// How long after the start interfaces may take to be known.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pause when no session can be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The thread.
pub struct Sync {
    runtime: Arc<Runtime>,
    listener: UnixListener,
    replica: Replica,
    session: Option<Session>,
    /// Whether [`Replica::begin`] was called for the session.
    begun: bool,
    names: Names,
    segments: Arc<[Segment]>,
    version: u64,
    /// No session before this, unless it is known by then which networks our interfaces are on: what
    /// comes from the peer could not be told where its clients are.
    patience: Instant,
    /// The networks have changed: what was told before may not have known where its clients are.
    ask_again: bool,
}

/// Whether a VIP is owned here.
fn owned(runtime: &Runtime, services: &ServiceTable, vip: VipId, now: Instant) -> bool {
    runtime.leases().is_fresh(services.group_of(vip), now)
}

impl Sync {
    /// Ready to serve sessions that come by `listener`.
    ///
    /// # Errors
    /// The listener cannot be asked without waiting.
    pub fn new(runtime: Arc<Runtime>, listener: UnixListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let capacity = runtime.forward.conns.capacity();
        let replica = Replica::new(capacity, runtime.workers.len());
        let segments = segments(&runtime);
        let names = Names::new(&runtime.cell.get().services, &segments);
        let version = runtime.cell.version();
        Ok(Self {
            runtime,
            listener,
            replica,
            session: None,
            begun: false,
            names,
            segments,
            version,
            patience: clock::now().after(PATIENCE),
            ask_again: false,
        })
    }

    /// Serves one session after the other until [`Runtime::stop`].
    pub fn run(mut self) {
        let mut more = false;
        while !self.runtime.stop.load(Relaxed) {
            self.wait(more);
            self.accept();
            self.follow_names();
            more = self.session.is_some() && self.serve();
        }
    }

    /// Until there is something to read, room to write, or it is time.
    fn wait(&self, more: bool) {
        let time = match &self.session {
            _ if more => Duration::ZERO,
            Some(_) => ROUND,
            None => IDLE,
        };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut fds = Vec::new();
        if self.knows_networks() {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let fd = self.session.as_ref().map(Session::fd);
        if let (Some(session), Some(fd)) = (&self.session, &fd) {
            let out = if session.waiting() > 0 { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::new(fd, PollFlags::IN | out));
        }
        // Interrupted or not, what is due is done.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn knows_networks(&self) -> bool {
        let report = self.runtime.report.lock().unwrap_or_else(PoisonError::into_inner);
        let on = |slot: usize| self.segments.iter().any(|s| s.device.index() == slot);
        let all = !report.interfaces.is_empty() && (0..report.interfaces.len()).all(on);
        all || clock::now() >= self.patience
    }

    /// The newest session counts.
    fn accept(&mut self) {
        if !self.knows_networks() {
            return;
        }
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.close("info", "another session has begun");
                    match Session::new(stream) {
                        Ok(session) => self.session = Some(session),
                        Err(e) => crate::log!("level=warn event=sync-refused reason=\"{e}\""),
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // No descriptor is to be had: whoever waits goes on waiting, and we do not spin.
                Err(_) => return std::thread::park_timeout(ACCEPT_PAUSE),
            }
        }
    }

    fn follow_names(&mut self) {
        let version = self.runtime.cell.version();
        let segments = segments(&self.runtime);
        let services = (version != self.version).then(|| self.runtime.cell.get());
        self.version = version;
        let services =
            services.map_or_else(|| Arc::clone(self.names.services()), |p| Arc::clone(&p.services));
        let same = Arc::ptr_eq(&services, self.names.services());
        if !same || !Arc::ptr_eq(&segments, &self.segments) {
            self.names = Names::new(&services, &segments);
            self.ask_again |= self.begun && segments != self.segments;
            self.segments = segments;
        }
    }

    /// What is due in a session. True if there is more to do at once.
    fn serve(&mut self) -> bool {
        let now = clock::now();
        let mut frames = Vec::new();
        let mut read = Ok(false);
        if let Some(session) = &mut self.session {
            read = session.read(&mut frames);
        }
        let outcome = self.exchange(&frames, now).and_then(|more| Ok(read? | more));
        outcome.unwrap_or_else(|closed| {
            let level = if matches!(closed, Closed::ByControl) { "info" } else { "warn" };
            self.close(level, &closed.to_string());
            false
        })
    }

    fn exchange(&mut self, frames: &[Frame], now: Instant) -> Result<bool, Closed> {
        let runtime = &self.runtime;
        let vips = (0..limits::ADDRESSES as u16).map(VipId);
        let published = runtime.cell.get();
        let services = &published.services;
        let owned: Vec<_> = vips.map(|vip| owned(runtime, services, vip, now)).collect();
        let (shared, names) = (&runtime.forward, &self.names);
        let view = View { shared, names, owned: &owned, now };
        let Some(session) = &mut self.session else { return Ok(false) };
        if !session.greeted() {
            return session.send(&[]).map(|()| false);
        }
        if !std::mem::replace(&mut self.begun, true) {
            crate::log!("level=info event=sync-opened");
            self.replica.begin(&view);
        }
        let mut out = Vec::new();
        for frame in frames {
            self.replica.take(frame, &view, &mut out).map_err(Closed::Refused)?;
        }
        let more = self.replica.round(&view, session.has_room(), &mut out);
        if self.ask_again && self.replica.import().is_whole() {
            self.ask_again = false;
            let each = (0..BUCKETS as u16).step_by(DIGEST_PART);
            let part = |first| (first..first + DIGEST_PART as u16).collect();
            out.extend(each.map(|first| Frame::Differs { first, buckets: part(first) }));
        }
        session.send(&out)?;
        Ok(more && session.has_room())
    }

    /// Ends the session, if there is one.
    fn close(&mut self, level: &str, reason: &str) {
        if self.session.take().is_some() {
            crate::log!("level={level} event=sync-closed reason={reason:?}");
        }
        if std::mem::take(&mut self.begun) {
            let (shared, names) = (&self.runtime.forward, &self.names);
            let view = View { shared, names, owned: &[], now: clock::now() };
            self.replica.end(&view);
        }
    }
}

fn segments(runtime: &Runtime) -> Arc<[Segment]> {
    Arc::clone(&runtime.segments.lock().unwrap_or_else(PoisonError::into_inner))
}
