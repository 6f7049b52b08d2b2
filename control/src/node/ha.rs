//! One of two nodes: what the failure detector is told, and what becomes of what it says.
//!
//! Who owns what is decided in [`crate::failover`], on the thread of the heartbeat. Here its settings come
//! from, its pings are counted, its events are told, and operators get their answers.

mod pings;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{CLIENT_WAIT_MAX, ClientId, Node, Output};
use crate::config::{Config, Keys, Line, OnStop};
use crate::event::{Event, Kind};
use crate::failover::exchange::{Command, Event as Happened, EventKind};
use crate::failover::settings::{Fencing, Settings};
use crate::failover::view::View;
use crate::log::{Level, Record};
use crate::replicate;
use crate::time::Instant;
use crate::verbs::{Code, HaDone, HaHeartbeat, Verb};
use pings::Pinged;

/// Longest that a client waits for a switchover: longer than that may take.
const SWITCH_WAIT_MAX: Duration = Duration::from_secs(8);
/// Ticket of our own command to leave; clients' begin after it.
const LEAVE: u64 = 0;

/// What the failure detector works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// `[ha]`
    pub settings: Settings,
    /// The keys that it names.
    pub keys: Keys,
    /// The file, to be compared with the peer's.
    pub lines: Arc<[Line]>,
}

/// What the failure detector is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaOrder {
    /// It starts, works with other settings from now on, or (`None`) ends.
    Configure(Option<Box<Pair>>),
    /// An operator wants something, or (ticket 0) we do.
    Command(u64, Command),
    /// Ping targets that answer.
    Pings(u8),
    /// Runs the fencing command; its outcome goes to the failure detector.
    Fence(Fencing),
}

/// What the failure detector says.
#[derive(Debug)]
pub enum HaReport {
    /// Something has happened.
    Event(Happened),
    /// The command with this ticket has been carried out, or cannot be.
    Answer {
        /// As in [`HaOrder::Command`].
        ticket: u64,
        /// For people in both cases.
        result: Result<String, String>,
    },
    /// The fencing command is to be run.
    Fence,
    /// Nothing is owned any more, and the peer knows.
    Left,
    /// How things are.
    State(Box<HaState>),
}

/// How things are.
#[derive(Clone, Debug, Default)]
pub struct HaState {
    /// As the machine has it.
    pub view: View,
    /// The thread.
    pub heartbeat: HaHeartbeat,
    /// Settings that differ between the files.
    pub differences: Vec<String>,
    /// Reports that were lost because the main loop did not take them.
    pub lost: u64,
    /// Replication, if it is configured; the main loop adds it.
    pub replication: Option<Arc<replicate::View>>,
}

/// A client that waits for a command.
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    since: Instant,
    by: Instant,
}

/// The pair, as the main loop knows it.
#[derive(Debug, Default)]
pub(super) struct Ha {
    /// What the failure detector was last told.
    sent: Option<Pair>,
    /// Pings of the settings in force, by address.
    pinged: BTreeMap<IpAddr, Pinged>,
    reached: Option<u8>,
    waiting: BTreeMap<u64, Waiting>,
    tickets: u64,
    state: Option<(Instant, Box<HaState>)>,
    /// Groups of which people have been told that something is wrong: so that it can be over.
    told: BTreeSet<(&'static str, Option<String>)>,
    /// Why something could not be started.
    failed: Option<String>,
    /// The last word on the peer was that it is dead.
    peer_dead: bool,
}

impl Ha {
    /// When the next client has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|w| w.by).min()
    }

    /// Whether this node is one of two.
    pub(super) const fn is_on(&self) -> bool {
        self.sent.is_some()
    }

    fn view(&self) -> Option<&View> {
        self.state.as_ref().map(|(_, state)| &state.view)
    }
}

impl Node {
    /// Whether the heartbeat leases, and not we.
    pub(super) fn is_paired(&self) -> bool {
        self.config.ha.is_some()
    }

    /// For how long the data plane answers without word from us.
    pub(super) fn lease(&self) -> Duration {
        let config = self.wanted();
        config.ha.as_ref().map_or(config.control.lease, |ha| {
            ha.deadtime.saturating_sub(2 * ha.keepalive).max(2 * ha.keepalive)
        })
    }

    /// Tells the failure detector what is in force, if that is news.
    pub(super) fn ha_tick(&mut self, now: Instant) {
        if self.stop_by.is_none() {
            let config = Arc::clone(&self.config);
            let pair = config.ha.as_ref().map(|settings| pair(settings, &config));
            if pair != self.ha.sent {
                self.ha_configure(pair);
            }
        }
        let late = self.ha.waiting.extract_if(.., |_, w| w.by <= now);
        for (_, waiting) in late.collect::<Vec<_>>() {
            let seconds = now.since(waiting.since) / 1000;
            let message = format!("not done within {seconds} s; `xvip ha` shows how it goes on");
            self.fail(waiting.client, Code::Conflict, &message);
        }
    }

    fn ha_configure(&mut self, pair: Option<Pair>) {
        let pings = pair.as_ref().map(|p| &p.settings.pings[..]).unwrap_or_default();
        let wanted: BTreeSet<IpAddr> =
            pings.iter().flat_map(|p| p.addresses.iter().copied()).collect();
        self.ha.pinged.retain(|address, _| wanted.contains(address));
        for address in wanted {
            self.ha.pinged.entry(address).or_default();
        }
        if pair.is_none() {
            self.ha.state = None;
            self.ha.told.clear();
            self.ha_abandon("this node is not one of two any more");
        }
        self.ha.sent.clone_from(&pair);
        self.ha.failed = None;
        self.ha.reached = None;
        self.out.push(Output::Ha(HaOrder::Configure(pair.map(Box::new))));
        self.ha_count_pings();
    }

    /// The failure detector says something.
    pub(super) fn ha_report(&mut self, report: HaReport, now: Instant) {
        match report {
            HaReport::Event(event) => self.ha_event(event, now),
            HaReport::Answer { ticket: LEAVE, .. } => {}
            HaReport::Answer { ticket, result } => {
                let Some(waiting) = self.ha.waiting.remove(&ticket) else { return };
                let took_ms = now.since(waiting.since);
                match result {
                    Ok(text) => {
                        self.succeed(waiting.client, Some(0), &HaDone { text, took_ms });
                    }
                    Err(why) => self.fail(waiting.client, Code::Conflict, &why),
                }
            }
            HaReport::Fence => {
                let fencing = self.ha.sent.as_ref().and_then(|p| {
                    let Settings { fencing, node, peer, .. } = &p.settings;
                    let mut fencing = fencing.clone()?;
                    for word in &mut fencing.command {
                        *word = word.replace("{peer}", peer).replace("{node}", node);
                    }
                    Some(fencing)
                });
                if let Some(fencing) = fencing {
                    self.out.push(Output::Ha(HaOrder::Fence(fencing)));
                }
            }
            HaReport::Left => {
                if self.stop_by.is_some() {
                    self.exit("VIPs given up");
                }
            }
            HaReport::State(state) => {
                let epoch = state.view.groups.iter().map(|g| g.epoch).max();
                self.epoch = epoch.unwrap_or(0).max(self.epoch);
                self.ha_look(&state, now);
                self.ha.state = Some((now, state));
            }
        }
    }

    /// What it needs could not be started; the next reload tries again.
    pub(super) fn ha_failed(&mut self, reason: String) {
        self.log(Record::new(Level::Error, "pair_failed").with("reason", &reason));
        self.ha.failed = Some(reason);
    }

    /// What changes without being an event of the machine's.
    fn ha_look(&mut self, state: &HaState, now: Instant) {
        let old = self.ha.state.as_ref().map(|(_, old)| old);
        let standing = old.and_then(|s| s.view.replication);
        let (known, was) = (standing.is_some(), standing.is_some_and(|s| s.synced_there));
        if old.is_none_or(|s| s.differences != state.differences) {
            for line in &state.differences {
                self.log(Record::new(Level::Warn, "configuration_differs").with("setting", line));
            }
        }
        let Some(standing) = state.view.replication else { return };
        if standing.synced_there && !was {
            let reason = format!("{} of {} connections", standing.would_live, standing.worth);
            self.event(Event::new(Kind::ReplicationSynced, now, reason));
        } else if known && was && !standing.synced_there {
            let reason = "the other node does not know every connection";
            self.event(Event::new(Kind::ReplicationLost, now, reason));
        }
    }

    fn ha_event(&mut self, happened: Happened, now: Instant) {
        let Happened { kind: what, group, reason } = happened;
        match what {
            EventKind::PeerDead => self.ha.peer_dead = true,
            EventKind::PeerUp | EventKind::PeerLeft => self.ha.peer_dead = false,
            _ => {}
        }
        let kind = match what {
            EventKind::Taken if self.ha.peer_dead => Kind::RoleTakenOver,
            EventKind::Taken => Kind::RoleTaken,
            EventKind::Released => Kind::RoleReleased,
            EventKind::FencedItself => Kind::FencedItself,
            EventKind::Conflict => Kind::RoleConflict,
            EventKind::Verified => Kind::TakeoverVerified,
            EventKind::Unverified => Kind::TakeoverDegraded,
            EventKind::PeerUp => Kind::PeerUp,
            EventKind::PeerLate => Kind::PeerLate,
            EventKind::PeerDead => Kind::PeerDead,
            EventKind::PeerLeft => Kind::PeerLeft,
            EventKind::PeerRestarted => Kind::PeerRestarted,
            EventKind::PathDown => Kind::PathDown,
            EventKind::PathUp => Kind::PathUp,
            EventKind::Fencing => Kind::FencingBegun,
            EventKind::Fenced => Kind::FencingDone,
            EventKind::FencingFailed => Kind::FencingFailed,
            EventKind::HandoverFailed => Kind::HandoverFailed,
            EventKind::MaintenanceOn => Kind::MaintenanceOn,
            EventKind::MaintenanceOff => Kind::MaintenanceOff,
            EventKind::ConfigDiffers => Kind::ConfigDiffers,
            EventKind::ConfigAgrees => Kind::ConfigAgrees,
            EventKind::Refused => Kind::PeerRefused,
        };
        let mut event = Event::new(kind, now, reason);
        match (&group, what) {
            (Some(group), _) => event = event.subject(format!("group {group}")),
            (None, EventKind::PathDown | EventKind::PathUp) => {
                // The machine names the path first.
                let path = event.reason.split(' ').next().unwrap_or_default().to_owned();
                event = event.subject(format!("path {path}"));
            }
            (None, _) => {}
        }
        // A group that leaves takes its trouble with it.
        if what == EventKind::Released
            && let Some(group) = &group
        {
            self.ha_settled(group, now);
        }
        if kind == Kind::TakeoverDegraded {
            self.ha.told.insert(("degraded", group.as_deref().map(str::to_owned)));
        }
        self.event(event);
    }

    /// Ends what people were told about a group's takeover.
    fn ha_settled(&mut self, group: &str, now: Instant) {
        if self.ha.told.remove(&("degraded", Some(group.to_owned()))) {
            let event =
                Event::new(Kind::TakeoverVerified, now, "this node does not own it any more");
            self.event(event.subject(format!("group {group}")));
        }
    }

    /// `switchover` or `ha-maintenance`.
    pub(super) fn ha_command(&mut self, client: ClientId, verb: &Verb, now: Instant) {
        if !self.ha.is_on() {
            let message = "this node is not one of two: its configuration has no [ha]";
            return self.fail(client, Code::Conflict, message);
        }
        let command = match verb {
            Verb::Switchover { group, to, force } => {
                let group = group.as_deref().map(Arc::from);
                Command::Switchover { group, to: to.clone(), force: *force }
            }
            Verb::HaMaintenance { on } => Command::Maintenance(*on),
            _ => return,
        };
        self.ha.tickets += 1;
        let ticket = self.ha.tickets;
        let by = now.after(SWITCH_WAIT_MAX.max(CLIENT_WAIT_MAX));
        self.ha.waiting.insert(ticket, Waiting { client, since: now, by });
        self.out.push(Output::Ha(HaOrder::Command(ticket, command)));
    }

    /// An orderly stop: whether it is now waited for the failure detector.
    pub(super) fn ha_stop(&mut self) -> bool {
        self.ha_abandon("xvip-control is stopping");
        if !self.ha.is_on() || self.config.control.on_stop == OnStop::Keep {
            return false;
        }
        self.out.push(Output::Ha(HaOrder::Command(LEAVE, Command::Leave)));
        true
    }

    fn ha_abandon(&mut self, reason: &str) {
        for waiting in std::mem::take(&mut self.ha.waiting).into_values() {
            self.fail(waiting.client, Code::Stopping, reason);
        }
    }
}

fn pair(settings: &Settings, config: &Config) -> Pair {
    Pair { settings: settings.clone(), keys: config.keys.clone(), lines: Arc::clone(&config.lines) }
}
