//! Seeing: events are kept and alerts sent, the data plane is watched. `tell` answers who asks.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane_api::message::{ServiceStatus, Status};

use super::{ClientId, Node, Output};
use crate::alert::{Alerts, Sender, Tested};
use crate::check::{Probe, Report};
use crate::config::Config;
use crate::event::{Event, Kind};
use crate::log::{Level, Record};
use crate::metrics::Latency;
use crate::spare::{Change, Load, Spare};
use crate::time::{Instant, Stamp};
use crate::verbs::{AlertTested, EVENTS_MAX, EventEntry, EventsResult};

/// How long the data plane may be unreachable at our start before that is told.
const START_GRACE: Duration = Duration::from_secs(3);
/// Looks at the data plane are judged no more often than this.
const LOOK_MIN: Duration = Duration::from_millis(1500);
/// Looks in a row after which an interface counts as down.
const INTERFACE_LOOKS: u8 = 2;
/// The table is nearly full from this share on, in percent, until it is below the second.
const TABLE_FULL: (u64, u64) = (90, 80);

/// A client that waits for events.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) client: ClientId,
    pub(super) after: u64,
    pub(super) limit: u32,
    pub(super) until: Instant,
}

/// A client that waits for the results of tests.
#[derive(Debug)]
pub(super) struct Tester {
    pub(super) client: ClientId,
    /// Numbers of the deliveries that have no result yet, with their targets.
    pub(super) waiting: BTreeMap<u64, String>,
    pub(super) done: Vec<AlertTested>,
    pub(super) until: Instant,
}

/// What has been seen and told.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Milliseconds since 1970 at [`Instant`] 0.
    pub(super) zero_ms: u64,
    pub(super) events: VecDeque<(u64, u64, Event)>,
    pub(super) number: u64,
    pub(super) counts: BTreeMap<Kind, u64>,
    pub(super) followers: Vec<Follower>,
    pub(super) testers: Vec<Tester>,
    pub(super) alerts: Alerts,
    pub(super) latency: Latency,
    pub(super) spare: Spare,
    looked: Option<Instant>,
    /// Interfaces by name: looks in a row that found them down, and whether that was told.
    interfaces: BTreeMap<String, (u8, bool)>,
    table_full: bool,
    lost: bool,
    started: bool,
    pub(super) listen: Option<SocketAddr>,
    pub(super) listen_error: Option<String>,
}

impl Watch {
    pub(super) fn new(config: &Config, zero_ms: u64, now: Instant) -> Self {
        let mut watch = Self { zero_ms, ..Self::default() };
        watch.alerts.configure(&config.alert, now);
        watch
    }

    pub(super) fn unix_ms(&self, at: Instant) -> u64 {
        self.zero_ms.saturating_add(at.as_millis())
    }

    /// When something is due even if nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let followers = self.followers.iter().map(|f| f.until);
        let testers = self.testers.iter().map(|t| t.until);
        followers.chain(testers).chain(self.alerts.next_deadline()).min()
    }

    /// Keeps the event and tells who is to be told.
    fn add(&mut self, event: Event) {
        let unix_ms = self.unix_ms(event.at);
        *self.counts.entry(event.kind).or_default() += 1;
        self.alerts.event(&event, unix_ms, event.at);
        match event.kind {
            Kind::DataPlaneLost => self.lost = true,
            Kind::DataPlaneBack => self.lost = false,
            _ => {}
        }
        self.number += 1;
        if self.events.len() >= EVENTS_MAX as usize {
            self.events.pop_front();
        }
        self.events.push_back((self.number, unix_ms, event));
    }

    /// At most `limit` events after that number, the oldest of them first.
    pub(super) fn page(&self, after: u64, limit: u32) -> EventsResult {
        // A number of another boot: everything is new.
        let after = if after > self.number { 0 } else { after };
        let oldest = self.events.front().map_or(self.number + 1, |(number, ..)| *number);
        let missed = if after == 0 { 0 } else { oldest.saturating_sub(after + 1) };
        let new = self.events.iter().filter(|(number, ..)| *number > after);
        let events: Vec<_> = new.take(limit as usize).map(entry).collect();
        let next = events.last().map_or(after, |e| e.number);
        EventsResult { events, missed, next }
    }
}

fn entry((number, unix_ms, event): &(u64, u64, Event)) -> EventEntry {
    EventEntry {
        number: *number,
        time: Stamp { unix_ms: *unix_ms }.to_string(),
        severity: event.kind.severity(),
        text: event.text(),
        event: event.clone(),
    }
}

impl Node {
    /// Says what the wall clock shows, so that events carry the time that people know.
    pub fn set_clock(&mut self, unix_ms: u64, now: Instant) {
        self.watch.zero_ms = unix_ms.saturating_sub(now.as_millis());
    }

    /// Something changed that people may want to know.
    pub(super) fn event(&mut self, event: Event) {
        self.log(event.record());
        self.watch.add(event);
    }

    pub(super) fn sender(&self) -> Sender {
        Sender { node: self.name(), instance: self.who.instance.clone() }
    }

    /// Does what is due: alerts, clients that wait, what has not been told.
    pub(super) fn watch_tick(&mut self, now: Instant) {
        if !self.watch.started {
            self.watch.started = true;
            // The shell has logged it.
            let version = concat!("version ", env!("CARGO_PKG_VERSION"));
            self.watch.add(Event::new(Kind::ControlStarted, now, version));
        }
        if self.watch.listen != self.config.metrics {
            self.watch.listen = self.config.metrics;
            self.watch.listen_error = None;
            self.out.push(Output::Listen(self.config.metrics));
        }
        let waited = now >= self.link.since.after(START_GRACE);
        if !self.link.is_up() && waited && !self.watch.lost && self.stop_by.is_none() {
            let reason = self.link.reason.clone().unwrap_or_default();
            self.event(Event::new(Kind::DataPlaneLost, now, reason));
        }
        let (sender, unix_ms) = (self.sender(), self.watch.unix_ms(now));
        for delivery in self.watch.alerts.due(&sender, unix_ms, now) {
            self.out.push(Output::Alert(delivery));
        }
        self.answer_followers(now);
        self.answer_testers(now);
    }

    /// A new configuration is in force.
    pub(super) fn watch_config(&mut self, now: Instant) {
        let config = Arc::clone(&self.config);
        self.watch.alerts.configure(&config.alert, now);
        self.watch.alerts.forget(|(_, service, real, _)| {
            let Some(service) = service else { return false };
            let entry = config.services.iter().find(|e| e.service.name == *service);
            let Some(entry) = entry else { return true };
            let there = |real: &String| entry.service.reals.iter().any(|r| r.name == *real);
            real.as_ref().is_some_and(|real| !there(real))
        });
        let there = |name: &str| config.services.iter().any(|e| e.service.name == name);
        self.watch.spare.retain(there);
    }

    /// How an alert went.
    pub(super) fn alerted(&mut self, id: u64, result: Result<(), String>, now: Instant) {
        let failed = result.as_ref().err().cloned();
        if let Some(Tested { name, error }) = self.watch.alerts.delivered(id, result, now) {
            let record = Record::new(Level::Info, "alert_tested").with("target", &name);
            self.log(match &error {
                Some(reason) => record.with("failed", reason),
                None => record,
            });
            for tester in &mut self.watch.testers {
                if tester.waiting.remove(&id).is_some() {
                    let (name, error) = (name.clone(), error.clone());
                    tester.done.push(AlertTested { name, delivered: error.is_none(), error });
                }
            }
        } else if let Some(reason) = failed {
            self.log(Record::new(Level::Warn, "alert_failed").with("reason", reason));
        }
        let events: Vec<_> = self.watch.alerts.events().collect();
        for event in events {
            self.event(event);
        }
    }

    /// Whether metrics are served.
    pub(super) fn listening(&mut self, address: SocketAddr, result: Result<(), String>) {
        if self.watch.listen != Some(address) {
            return;
        }
        let error = result.err();
        if error != self.watch.listen_error || error.is_none() {
            let level = if error.is_none() { Level::Info } else { Level::Error };
            let record = Record::new(level, "metrics").with("listen", address);
            self.log(match &error {
                Some(reason) => record.with("reason", reason),
                None => record,
            });
        }
        self.watch.listen_error = error;
    }

    /// Times of checks, for the metrics.
    pub(super) fn watch_runs(&mut self, runs: &[(Arc<Probe>, Report)]) {
        for (probe, report) in runs {
            self.watch.latency.record(probe.kind.name(), report.took);
        }
    }

    /// Looks at what the data plane says of itself.
    pub(super) fn look(&mut self, status: &Status, now: Instant) {
        if self.watch.looked.is_some_and(|at| now < at.after(LOOK_MIN)) {
            return;
        }
        self.watch.looked = Some(now);
        let mut events = Vec::new();
        self.look_at_interfaces(status, now, &mut events);
        let percent = (status.table.used * 100).checked_div(status.table.capacity).unwrap_or(0);
        let full = percent >= if self.watch.table_full { TABLE_FULL.1 } else { TABLE_FULL.0 };
        if full != self.watch.table_full {
            self.watch.table_full = full;
            let kind = if full { Kind::TableNearlyFull } else { Kind::TableRelieved };
            let (used, capacity) = (status.table.used, status.table.capacity);
            events.push(Event::new(kind, now, format!("{used} of {capacity} connections")));
        }
        for service in &status.services {
            let loads = loads(&self.config, service);
            let Some(change) = self.watch.spare.see(&service.name, &loads) else { continue };
            let kind = match change {
                Change::Short => Kind::SpareShort,
                Change::Enough => Kind::SpareEnough,
            };
            let worst = self.watch.spare.services().find(|(name, ..)| *name == service.name);
            let reason = worst.map_or_else(String::new, |(_, _, worst)| worst.text());
            events.push(Event::new(kind, now, reason).service(&service.name));
        }
        for event in events {
            self.event(event);
        }
    }

    fn look_at_interfaces(&mut self, status: &Status, now: Instant, events: &mut Vec<Event>) {
        let known = &mut self.watch.interfaces;
        known.retain(|name, _| status.interfaces.iter().any(|i| i.name == *name));
        for interface in &status.interfaces {
            let (looks, told) = known.entry(interface.name.clone()).or_default();
            if interface.attached && interface.link == "up" {
                *looks = 0;
                if std::mem::take(told) {
                    let event = Event::new(Kind::InterfaceUp, now, "");
                    events.push(event.subject(format!("interface {}", interface.name)));
                }
                continue;
            }
            *looks = looks.saturating_add(1);
            if *looks >= INTERFACE_LOOKS && !*told {
                *told = true;
                let mut reason = format!("link {}", interface.link);
                if let Some(problem) = &interface.problem {
                    reason = format!("{reason}, {problem}");
                }
                let event = Event::new(Kind::InterfaceDown, now, reason);
                events.push(event.subject(format!("interface {}", interface.name)));
            }
        }
    }

    /// We stop: whoever waits is answered, and what is lost is said.
    pub(super) fn watch_stopped(&mut self) {
        let pending: u64 = self.watch.alerts.targets().iter().map(|t| t.pending).sum();
        if pending > 0 {
            self.log(Record::new(Level::Warn, "alerts_unsent").with("changes", pending));
        }
    }
}

/// A service of the data plane with the thresholds of the file.
fn loads(config: &Config, service: &ServiceStatus) -> Vec<Load> {
    let entry = config.services.iter().find(|e| e.service.name == service.name);
    let upper = |name: &str| {
        let real = entry?.service.reals.iter().find(|r| r.name == name)?;
        real.upper_threshold.map(u64::from)
    };
    let reals = service.reals.iter().filter(|r| !r.removed && !r.fallback);
    reals
        .map(|r| Load {
            name: r.name.clone(),
            weight: u64::from(r.weight),
            active: r.active,
            total: r.active.saturating_add(r.inactive),
            upper: upper(&r.name),
        })
        .collect()
}
