//! What a node sees of its own network, looked up beside the heartbeat: interfaces, packets, who answers
//! for an address.
//!
//! A thread of normal priority with its own session on the agent socket. It may wait; the heartbeat
//! does not wait for it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use dataplane_api::message::{LINE_MAX, RESOLVE_MAX, Reply, Request, Status};

use super::arrival::{judge, testimony};
use super::{Mail, Order, boottime, echo, random};
use crate::failover::exchange::{Nanos, Standing, Testimony};
use crate::failover::settings::{Group, Settings};
use crate::failover::survey::{Survey, VIPS_MAX};

/// How often the data plane is looked at, and how often as long as it is not ready.
const PERIOD: (Nanos, Nanos) = (250_000_000, 20_000_000);
/// How often it is asked how replication stands: a switchover waits until all is acknowledged.
const STANDING: Nanos = 20_000_000;
/// Longest wait for an answer of the data plane.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long answers to a question of the peer's are collected, in milliseconds.
const RESOLVE_MS: u32 = 150;
/// For how long packets are waited for after a takeover.
const ARRIVAL: Nanos = 1_000_000_000;
/// Packets a second that a peer must have had for their absence to mean something.
const RATE_MIN: u32 = 10;

/// Something to be looked up.
#[derive(Debug)]
pub(super) enum Job {
    /// What there is to look at, and who may be asked about it.
    Scene { groups: Vec<Group>, neighbours: Vec<IpAddr> },
    /// Who answers for the addresses of a group.
    Resolve { group: Arc<str>, ticket: u32 },
    /// Whether the group has arrived; asked at that time.
    Verify {
        group: Arc<str>,
        epoch: u64,
        testimony: Option<Testimony>,
        rate: Option<u32>,
        asked: Nanos,
    },
    /// How replication stands is to be had there.
    Replication(Option<Source>),
}

impl Job {
    /// What these settings say.
    pub(super) fn scene(settings: &Settings) -> Self {
        let neighbours = settings.pings.iter().flat_map(|ping| ping.asked.clone()).collect();
        Self::Scene { groups: settings.groups.clone(), neighbours }
    }
}

/// Says how replication stands.
pub(in crate::io) struct Source(pub(in crate::io) Box<dyn Fn() -> Standing + Send>);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// What the data plane says of itself, as far as the pair is concerned.
#[derive(Clone, Debug, Default)]
pub(in crate::io) struct Seen {
    /// Whether it knows our groups: before, a lease would be refused.
    pub(super) ready: bool,
    /// Interfaces that are attached and up.
    pub(super) interfaces: u8,
    pub(super) interfaces_wanted: u8,
    /// Packets a second of each group.
    pub(super) rates: Vec<(Arc<str>, u32)>,
}

/// A takeover whose packets are waited for.
#[derive(Debug)]
struct Arriving {
    epoch: u64,
    words: String,
    rate: u32,
    packets: u64,
    since: Nanos,
}

pub(super) struct Watcher {
    path: PathBuf,
    session: Option<BufReader<UnixStream>>,
    mail: Mail,
    groups: Vec<Group>,
    neighbours: Vec<IpAddr>,
    /// Those of them that answered nothing, and when: groups that waited meanwhile do not wait again.
    silent: BTreeMap<IpAddr, Nanos>,
    /// From which of its addresses on each group is asked about next, if it has many.
    cursors: BTreeMap<String, usize>,
    ready: bool,
    /// Packets of each group when they were last counted.
    counted: BTreeMap<String, (u64, Nanos)>,
    arriving: BTreeMap<Arc<str>, Arriving>,
    replication: Option<Source>,
    standing: Standing,
}

impl Watcher {
    pub(super) fn new(path: PathBuf, mail: Mail) -> Self {
        let (counted, arriving) = (BTreeMap::new(), BTreeMap::new());
        Self {
            path,
            session: None,
            mail,
            groups: Vec::new(),
            neighbours: Vec::new(),
            silent: BTreeMap::new(),
            cursors: BTreeMap::new(),
            ready: false,
            counted,
            arriving,
            replication: None,
            standing: Standing::default(),
        }
    }

    /// Until the heartbeat has no more jobs for us.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut due = 0;
        loop {
            self.stands();
            let wait = Nanos::saturating_sub(due, boottime());
            let wait = if self.replication.is_some() { wait.min(STANDING) } else { wait };
            let wait = Duration::from_nanos(wait);
            match jobs.recv_timeout(wait) {
                Ok(Job::Scene { groups, neighbours }) => {
                    self.cursors.retain(|name, _| groups.iter().any(|g| g.name == *name));
                    (self.groups, self.neighbours) = (groups, neighbours);
                    self.ready = false;
                    due = 0;
                }
                Ok(Job::Resolve { group, ticket }) => {
                    let testimony = self.resolve(&group);
                    self.mail.send(Order::Resolved { group, ticket, testimony });
                }
                Ok(Job::Verify { group, epoch, testimony, rate, asked }) => {
                    self.silent.retain(|_, found| *found > asked);
                    self.verify(group, epoch, testimony.as_ref(), rate);
                }
                Ok(Job::Replication(source)) => {
                    self.replication = source;
                    self.standing = Standing::default();
                    self.mail.send(Order::Standing(self.standing));
                }
                Err(RecvTimeoutError::Timeout) if boottime() < due => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.look();
                    let soon = !self.ready || !self.arriving.is_empty();
                    due = boottime() + if soon { PERIOD.1 } else { PERIOD.0 };
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Tells the heartbeat how replication stands, if that is news.
    fn stands(&mut self) {
        let Some(source) = &self.replication else { return };
        let standing = (source.0)();
        if standing != self.standing {
            self.standing = standing;
            self.mail.send(Order::Standing(standing));
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, String> {
        if self.session.is_none() {
            let stream = UnixStream::connect(&self.path).map_err(|e| e.to_string())?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
            stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
            let mut session = BufReader::new(stream);
            talk(&mut session, &Request::Hello { version: dataplane_api::VERSION })?;
            self.session = Some(session);
        }
        let Some(session) = &mut self.session else { return Err("no session".to_owned()) };
        let reply = talk(session, request);
        if reply.is_err() {
            self.session = None;
        }
        reply
    }

    fn status(&mut self) -> Result<Box<Status>, String> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            Reply::Error { message } => Err(message),
            _ => Err("the data plane has answered another question".to_owned()),
        }
    }

    /// Looks at the data plane and tells the heartbeat.
    fn look(&mut self) {
        let now = boottime();
        let Ok(status) = self.status() else {
            self.ready = false;
            self.counted.clear();
            self.mail.send(Order::Seen(Seen::default()));
            return;
        };
        let known = |g: &Group| status.groups.iter().any(|s| s.name == g.name);
        self.ready = !self.groups.is_empty() && self.groups.iter().any(known);
        let up = status.interfaces.iter().filter(|i| i.attached && i.link == "up").count();
        let rates = self.rates(&status, now);
        self.mail.send(Order::Seen(Seen {
            ready: self.ready,
            interfaces: u8::try_from(up).unwrap_or(u8::MAX),
            interfaces_wanted: u8::try_from(status.interfaces.len()).unwrap_or(u8::MAX),
            rates,
        }));
        self.arrivals(&status, now);
    }

    fn rates(&mut self, status: &Status, now: Nanos) -> Vec<(Arc<str>, u32)> {
        let mut rates = Vec::new();
        for group in &status.groups {
            let (before, at) =
                self.counted.get(&group.name).copied().unwrap_or((group.packets, now));
            let passed = now.saturating_sub(at);
            if passed >= PERIOD.0 / 2 || !self.counted.contains_key(&group.name) {
                let packets = group.packets.saturating_sub(before);
                let rate = u128::from(packets) * 1_000_000_000 / u128::from(passed.max(1));
                rates.push((group.name.as_str().into(), u32::try_from(rate).unwrap_or(u32::MAX)));
                self.counted.insert(group.name.clone(), (group.packets, now));
            }
        }
        rates
    }

    /// Who answers for the addresses of a group, as seen from here.
    fn resolve(&mut self, group: &str) -> Testimony {
        let Some(group) = self.groups.iter().find(|g| g.name == group) else {
            return Testimony::default();
        };
        let addresses: Vec<_> = group.all().take(RESOLVE_MAX).collect();
        if addresses.is_empty() {
            return Testimony::default();
        }
        let request = Request::Resolve { addresses: addresses.clone(), timeout_ms: RESOLVE_MS };
        match self.ask(&request) {
            Ok(Reply::Resolved { answers }) => testimony(addresses.len(), &answers),
            _ => Testimony::default(),
        }
    }

    /// Looks whether the group has arrived; whether packets do shows later.
    fn verify(
        &mut self,
        group: Arc<str>,
        epoch: u64,
        testimony: Option<&Testimony>,
        rate: Option<u32>,
    ) {
        self.arriving.remove(&group);
        let (status, since) = (self.status(), boottime());
        let result = status.and_then(|status| {
            let neighbours = || self.neighbours(&status, &group);
            let words = judge(&status, &group, epoch, testimony, neighbours)?;
            let packets = status.groups.iter().find(|g| *g.name == *group).map_or(0, |g| g.packets);
            Ok((words, packets))
        });
        match (result, rate.filter(|rate| *rate >= RATE_MIN)) {
            (Ok((words, packets)), Some(rate)) => {
                self.arriving.insert(group, Arriving { epoch, words, rate, packets, since });
            }
            (result, _) => {
                let result = result.map(|(words, _)| words);
                self.mail.send(Order::Verified { group, epoch, result });
            }
        }
    }

    /// Which of the neighbours send to us what is for the addresses of a group.
    fn neighbours(&mut self, status: &Status, group: &str) -> Result<Option<String>, String> {
        if self.neighbours.is_empty() {
            return Ok(None);
        }
        let Some(group) = self.groups.iter().find(|g| g.name == group) else { return Ok(None) };
        let addresses: Vec<_> = group.all().collect();
        let links = echo::links(&status.interfaces.iter().map(|i| i.name.as_str()).collect());
        let others = self.neighbours.iter().filter(|n| !self.silent.contains_key(*n)).copied();
        let first = self.cursors.entry(group.name.clone()).or_default();
        let outcome = random().map_err(anyhow::Error::from).and_then(|cookie| {
            let mut survey = Survey::new(cookie, &links, &addresses, *first, others);
            echo::carry_out(&mut survey).map(|()| survey)
        });
        match outcome {
            Ok(survey) => {
                let now = boottime();
                self.silent.extend(survey.silent().map(|neighbour| (neighbour, now)));
                let verdict = survey.verdict()?;
                // What is wrong with these is put right first.
                *first = first.wrapping_add(VIPS_MAX);
                Ok(verdict)
            }
            // No evidence against us.
            Err(error) => Ok(Some(format!("{error:#}"))),
        }
    }

    fn arrivals(&mut self, status: &Status, now: Nanos) {
        let mail = &self.mail;
        self.arriving.retain(|group, waiting| {
            let (passed, epoch) = (now.saturating_sub(waiting.since), waiting.epoch);
            let packets =
                status.groups.iter().find(|g| *g.name == **group).map_or(0, |g| g.packets);
            let came = packets.saturating_sub(waiting.packets);
            // A tenth of what the peer had: clients may have given up, but not nearly all of them.
            let wanted = u128::from(waiting.rate) * u128::from(passed) / 10_000_000_000;
            let result = if passed >= PERIOD.1 && u128::from(came) >= wanted.max(1) {
                Ok(format!("{}; packets arrive", waiting.words))
            } else if passed >= ARRIVAL {
                Err(format!(
                    "{came} packets have arrived in a second; the other node had {} a second",
                    waiting.rate
                ))
            } else {
                return true;
            };
            mail.send(Order::Verified { group: Arc::clone(group), epoch, result });
            false
        });
    }
}

fn talk(session: &mut BufReader<UnixStream>, request: &Request) -> Result<Reply, String> {
    let mut line = serde_json::to_vec(request).map_err(|e| e.to_string())?;
    line.push(b'\n');
    session.get_mut().write_all(&line).map_err(|e| e.to_string())?;
    let mut reply = Vec::new();
    let read = session.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut reply);
    read.map_err(|e| e.to_string())?;
    if reply.last() != Some(&b'\n') {
        return Err("the data plane closed the session".to_owned());
    }
    serde_json::from_slice(&reply).map_err(|e| e.to_string())
}
