//! Control as one state machine: what happened goes in, what to do comes out.
//!
//! No I/O, no clock. The shell ([`crate::io`]) calls [`Node::handle`] for each event, carries out
//! the [`Output`]s in order, and calls again with [`Input::Tick`] no later than
//! [`Node::next_deadline`]. Whatever a client, a file or the data plane does, each request gets
//! exactly one reply, the lease is renewed on time, and a bad configuration changes nothing.
//!
//! Parts: `link` keeps the connection to the data plane and `reply` understands what it says,
//! `reload` takes a new file in and `confirm` undoes it, `health` turns outcomes of checks into
//! plans, `maintain` and `keep` are about what operators decide over the file's head, `rights` says
//! who may, `ha` speaks with the failure detector of a pair, `answer` tells operators, `watch` keeps events and sends alerts, `tell` shows them.

mod answer;
mod confirm;
mod ending;
mod ha;
mod health;
mod keep;
mod link;
mod maintain;
mod rights;
mod reload;
mod reply;
mod sorry;
mod tell;
mod watch;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dataplane_api::message::{Reply, Request, Status};

use crate::alert::Delivery;
use crate::check::{Probe, ProbeSet, Report};
use crate::config::{Config, Errors, OnStop};
use crate::log::{Level, Record};
use crate::metrics::Format;
use crate::overrides::Overrides;
use crate::sorry::Pages;
use crate::time::Instant;
use crate::verbs::{Code, Failure};
use ha::Ha;
pub use ha::{HaOrder, HaReport, HaState, Pair};
use health::Care;
use link::{Link, What};
use maintain::Maintain;
use reload::Reload;
pub use rights::Role;
use sorry::Pageant;
use watch::Watch;

/// Longest wait for the data plane to answer before the connection is given up.
pub const AGENT_REPLY_MAX: Duration = Duration::from_secs(10);
/// Longest that a client waits for the data plane.
pub const CLIENT_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often the data plane's status is fetched, so that an old one is there when it is gone.
pub const STATUS_PERIOD: Duration = Duration::from_secs(2);
/// First and longest pause between attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Pause before a configuration that the data plane refused at first is tried again.
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// Losses of the data plane while it takes a new configuration after which that is given up.
const CANDIDATE_LOSSES: u32 = 3;
/// Pause before overrides that could not be saved are tried again.
const STORE_RETRY: Duration = Duration::from_secs(30);
/// How long an orderly stop waits for the data plane.
const STOP_MAX: Duration = Duration::from_secs(1);
/// And for the other node to take over, with every connection.
const LEAVE_MAX: Duration = Duration::from_secs(6);

/// Who we are; fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the instance.
    pub instance: String,
    /// Name of the host, used where the file names no node.
    pub host: String,
    /// The configuration file.
    pub file: String,
    /// Process id.
    pub pid: u32,
    /// User id we run as.
    pub uid: u32,
    /// Random for each start.
    pub boot_id: String,
    /// First epoch: milliseconds since 1970 at start, so that each start has a later one.
    pub epoch: u64,
}

/// A connection of a client to the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Who is at the other end of a client's connection (`SO_PEERCRED`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; 0 if the kernel does not tell.
    pub pid: i32,
    /// Supplementary group ids.
    pub groups: Arc<[u32]>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// Nothing but time.
    Tick,
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
    /// The file asked for by [`Output::Load`] has been read.
    Loaded(Result<Box<Config>, Errors>),
    /// The attempt of [`Output::Connect`] with this number succeeded.
    Connected(u64),
    /// The attempt failed, or the connection was lost.
    Disconnected(u64, String),
    /// The data plane says something.
    Agent(u64, Box<Reply>),
    /// Runs of probes of [`Output::Probes`] have ended.
    Probed(Vec<(Arc<Probe>, Report)>),
    /// A client asks: one line without its newline.
    Client(ClientId, Peer, Vec<u8>),
    /// What became of the write of [`Output::Store`] with this number.
    Stored(u64, Result<(), String>),
    /// Names of the files in the maintenance directory, if they differ from the last time.
    Maintenance(Result<Vec<String>, String>),
    /// The file of [`Output::Parse`] has been validated.
    Parsed(ClientId, Result<Box<Config>, Errors>),
    /// What could not be done of the last [`Output::Sorry`].
    SorryProblems(Vec<String>),
    /// The delivery of [`Output::Alert`] with this number has ended.
    Alerted(u64, Result<(), String>),
    /// Whether metrics are served at the address of [`Output::Listen`]; why not.
    Listening(SocketAddr, Result<(), String>),
    /// Somebody fetches the metrics.
    Scrape(ClientId, Format),
    /// The failure detector says something.
    Ha(HaReport),
    /// It, or replication, could not be started, for this reason.
    HaFailed(String),
    /// A client is to be turned away, for this reason.
    Unreadable(ClientId, Peer, Failure),
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Connect to the data plane; the number comes back with everything about this connection.
    Connect(u64),
    /// Close that connection.
    Disconnect(u64),
    /// Send to the data plane.
    Send(u64, Box<Request>),
    /// Run these periodically, and no others: the whole set. Sent when it changes.
    Probes(Arc<ProbeSet>),
    /// Run this one of the set at once, if it is not running already.
    ProbeNow(Arc<Probe>),
    /// Read and validate the configuration file.
    Load,
    /// Validate a configuration that this client sent: name and text.
    Parse(ClientId, String, String),
    /// Write the overrides; later ones supersede earlier ones.
    Store(u64, Vec<u8>),
    /// Look at this maintenance directory each second from now on.
    Watch(Option<PathBuf>),
    /// Serve these sorry pages, and no others; when the next output is carried out, they are there.
    Sorry(Arc<Pages>),
    /// Send this line, without newline, to the client.
    Reply(ClientId, String),
    /// Deliver an alert, once.
    Alert(Delivery),
    /// Serve metrics there, and nowhere else.
    Listen(Option<SocketAddr>),
    /// For the failure detector.
    Ha(HaOrder),
    /// Write a line of the log.
    Log(Record),
    /// End the process with this status.
    Exit(u8),
}

/// The state of control.
#[derive(Debug)]
pub struct Node {
    who: Identity,
    /// What the data plane runs, or is to run if it has run nothing of ours yet.
    config: Arc<Config>,
    config_since: Instant,
    /// Read and valid, not yet taken by the data plane; `config` is what we fall back to.
    candidate: Option<Arc<Config>>,
    /// How often the data plane was lost while it took the candidate.
    candidate_losses: u32,
    needs_restart: Vec<String>,
    epoch: u64,
    /// Addresses announced under `epoch`; `None` before the first.
    announced: Option<BTreeSet<IpAddr>>,
    link: Link,
    /// What the data plane last said of itself, and when.
    last_status: Option<(Instant, Box<Status>)>,
    reload: Reload,
    maintain: Maintain,
    sorry: Pageant,
    care: Care,
    watch: Watch,
    ha: Ha,
    overrides: Overrides,
    /// When a forbidden request was last logged, and how many there were since.
    forbidden: (Option<Instant>, u64),
    stop_by: Option<Instant>,
    out: Vec<Output>,
}

impl Node {
    /// A node with a valid configuration; the first [`Input::Tick`] sets it going.
    #[must_use]
    pub fn new(who: Identity, config: Config, now: Instant) -> Self {
        let mut care = Care::default();
        care.health.configure(&config, now);
        let watch = Watch::new(&config, who.epoch, now);
        Self {
            epoch: who.epoch,
            who,
            config: Arc::new(config),
            config_since: now,
            candidate: None,
            candidate_losses: 0,
            needs_restart: Vec::new(),
            announced: None,
            link: Link::new(now),
            last_status: None,
            reload: Reload::default(),
            maintain: Maintain::default(),
            sorry: Pageant::default(),
            care,
            watch,
            ha: Ha::default(),
            overrides: Overrides::default(),
            forbidden: (None, 0),
            stop_by: None,
            out: Vec::new(),
        }
    }

    /// Takes in one event; what to do about it, in order.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        match input {
            Input::Tick => {}
            Input::Reload => self.reload_asked(None, None, now),
            Input::Stop => self.stop(now),
            Input::Loaded(result) => self.loaded(result, now),
            Input::Connected(session) => self.connected(session, now),
            Input::Disconnected(session, reason) => self.disconnected(session, &reason, now),
            Input::Agent(session, reply) => self.agent(session, *reply, now),
            Input::Probed(runs) => {
                self.watch_runs(&runs);
                self.ha_probed(&runs);
                self.probed(&runs, now);
            }
            Input::Alerted(id, result) => self.alerted(id, result, now),
            Input::Listening(address, result) => self.listening(address, result),
            Input::Scrape(client, format) => self.scraped(client, format, now),
            Input::Client(client, peer, line) => self.client(client, peer, &line, now),
            Input::SorryProblems(problems) => self.sorry_told(problems),
            Input::Stored(write, result) => self.stored(write, result, now),
            Input::Maintenance(read) => self.maintenance(read, now),
            Input::Parsed(client, result) => self.parsed(client, result, now),
            Input::Ha(report) => self.ha_report(report, now),
            Input::HaFailed(reason) => self.ha_failed(reason),
            Input::Unreadable(client, peer, failure) => self.turn_away(client, peer, failure),
        }
        self.tick(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Node::handle`] must be called again even if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let (link, health) = (self.link.next_deadline(), self.care.health.next_deadline());
        let parts = [link, health, self.watch.next_deadline(), self.stop_by];
        let own = [self.keep_deadline(), self.confirm_deadline(), self.ha.next_deadline()];
        // A stop does none of it any more.
        let own = own.into_iter().filter(|_| self.stop_by.is_none());
        parts.into_iter().chain(own).flatten().min()
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        self.link_tick(now);
        self.ha_tick(now);
        if self.stop_by.is_none() {
            self.keep_tick(now);
            self.confirm_tick(now);
        }
        self.health_tick(now);
        self.changes_tick(now);
        self.watch_tick(now);
        if self.stop_by.is_some_and(|by| by <= now) {
            self.exit("nobody confirmed in time that the VIPs are given up");
        }
    }

    /// The newest valid configuration, taken by the data plane or not.
    fn wanted(&self) -> &Arc<Config> {
        self.candidate.as_ref().unwrap_or(&self.config)
    }

    fn log(&mut self, record: Record) {
        self.out.push(Output::Log(record));
    }

    fn stop(&mut self, now: Instant) {
        if self.stop_by.is_some() {
            self.exit("asked twice");
            return;
        }
        self.stop_by = Some(now.after(STOP_MAX));
        (self.link.poll_at, self.link.apply_at) = (now.after(2 * LEAVE_MAX), None);
        self.reload_abandoned();
        self.clients_abandoned(Code::Stopping, "xvip-control is stopping");
        self.changes_abandoned("xvip-control is stopping");
        if self.ha_stop() {
            self.stop_by = Some(now.after(LEAVE_MAX));
        } else if self.config.control.on_stop == OnStop::Keep {
            self.exit("on_stop = \"keep\": the lease runs out by itself");
        } else if self.link.leased() {
            let epoch = self.epoch;
            self.send(
                What::Release,
                Request::Lease { ttl_ms: 0, epoch, group: None, until_ns: None },
                now,
            );
        } else {
            self.exit("no lease to give up");
        }
    }

    fn exit(&mut self, reason: &str) {
        // Once only, whatever else is still going on.
        if !self.out.iter().any(|o| matches!(o, Output::Exit(_))) {
            self.watch_stopped();
            self.log(Record::new(Level::Info, "stopped").with("reason", reason));
            self.out.push(Output::Exit(0));
        }
        self.stop_by = None;
        self.link.close();
    }
}
