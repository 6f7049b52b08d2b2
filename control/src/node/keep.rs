//! Maintenance that goes on by itself: saving, deadlines, expiry, the maintenance directory, and
//! how drained reals get on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dataplane_api::message::{ServiceStatus, Status};

use super::ending::Order;
use super::{Node, Output, STORE_RETRY};
use crate::config::Config;
use crate::event::{Event, Kind};
use crate::log::{Level, Record};
use crate::overrides::{Due, Maintenance, Overrides, Progress, RealKey, Then, encode};
use crate::time::Instant;
use crate::verbs::{MaintenanceStatus, ODD_SHOWN_MAX};

/// A real without new connections.
#[derive(Debug, Default)]
pub(super) struct Drained {
    pub(super) progress: Progress,
    /// Whether it has been said that the last connection has ended.
    empty: bool,
}

/// Which writes of the overrides are done.
#[derive(Debug, Default)]
pub(super) struct Store {
    asked: u64,
    saved: u64,
    failed: u64,
    problem: Option<String>,
    retry: Option<Instant>,
}

impl Store {
    /// Number of the last write asked for.
    pub(super) const fn asked(&self) -> u64 {
        self.asked
    }

    /// Whether that write, or a later one, is on disk.
    pub(super) const fn is_saved(&self, write: u64) -> bool {
        self.saved >= write
    }

    /// Whether it is known what became of that write.
    pub(super) const fn is_settled(&self, write: u64) -> bool {
        self.saved >= write || self.failed >= write
    }

    /// Why the overrides are not on disk, or were not believed when we started.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.retry
    }
}

/// The maintenance directory.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What the shell looks at.
    directory: Option<PathBuf>,
    /// Names of its files, as last read.
    names: Vec<String>,
    odd: Vec<String>,
    problem: Option<String>,
}

impl Watch {
    pub(super) fn status(&self, drained: usize) -> Option<MaintenanceStatus> {
        let directory = self.directory.as_ref()?.display().to_string();
        Some(MaintenanceStatus {
            directory,
            drained,
            odd_count: self.odd.len(),
            odd: self.odd.iter().take(ODD_SHOWN_MAX).cloned().collect(),
            problem: self.problem.clone(),
        })
    }
}

impl Node {
    /// Takes over what was saved before this start, before the first input; `problem`: why some or
    /// all of it could not be.
    pub fn restore(&mut self, overrides: Overrides, problem: Option<String>) {
        for (key, entry) in overrides.iter() {
            let record = Record::new(Level::Info, "override_restored");
            let record = record.with("service", &key.service).with("real", &entry.name);
            self.out.push(Output::Log(record));
        }
        if let Some(problem) = &problem {
            self.log(Record::new(Level::Error, "overrides_not_restored").with("reason", problem));
        }
        self.overrides = overrides;
        self.maintain.store.problem = problem;
    }

    /// Milliseconds since 1970, as the clock was when we started, and monotonic since then.
    pub(super) const fn wall(&self, now: Instant) -> u64 {
        self.who.epoch.saturating_add(now.as_millis())
    }

    /// When [`Node::keep_tick`] has something to do.
    pub(super) fn keep_deadline(&self) -> Option<Instant> {
        let due = self.overrides.next_ms();
        let due = due.map(|ms| Instant::from_millis(ms.saturating_sub(self.who.epoch)));
        due.into_iter()
            .chain(self.maintain.store.deadline())
            .chain(self.maintain.change_deadline())
            .min()
    }

    /// Deadlines, expiry, another attempt to save, and where the shell should look.
    pub(super) fn keep_tick(&mut self, now: Instant) {
        let due = self.overrides.due(self.wall(now));
        if !due.is_empty() {
            for due in due {
                self.came_due(due, now);
            }
            self.save(now);
            self.replan();
        }
        if self.maintain.store.retry.is_some_and(|at| at <= now) {
            self.save(now);
        }
        self.end_conns(now);
        let directory = self.wanted().control.maintenance_dir.clone();
        if directory != self.maintain.watch.directory {
            self.maintain.watch = Watch { directory: directory.clone(), ..Watch::default() };
            self.out.push(Output::Watch(directory));
            if self.overrides.set_files(BTreeMap::new()) {
                self.replan();
            }
        }
    }

    fn came_due(&mut self, due: Due, now: Instant) {
        match due {
            Due::Expired { key, name, what } => {
                let (kind, reason) = match what {
                    "weight" => (Kind::RealWeight, "the file's again: the time is over".to_owned()),
                    what => (Kind::RealEnabled, format!("the time of the {what} is over")),
                };
                self.maintain.ending.remove(&key);
                self.event(Event::new(kind, now, reason).service(&key.service).real(name));
            }
            Due::Deadline { key, name, then } => {
                let live = self.live(&key).unwrap_or(0);
                let reason = match then {
                    Then::Keep => format!("{live} connections are left and stay"),
                    Then::Reset => format!("{live} connections are left and are reset"),
                };
                let event = Event::new(Kind::RealDeadline, now, reason).service(&key.service);
                self.event(event.real(name));
                match then {
                    Then::Keep => self.overrides.deadline_done(&key),
                    Then::Reset => {
                        self.maintain.ending.insert(key, Order::Due);
                    }
                }
            }
        }
    }

    /// Asks for the overrides to be written.
    pub(super) fn save(&mut self, _now: Instant) {
        let store = &mut self.maintain.store;
        store.asked += 1;
        store.retry = None;
        let write = store.asked;
        self.out.push(Output::Store(write, encode(&self.overrides)));
    }

    /// What became of a write.
    pub(super) fn stored(&mut self, write: u64, result: Result<(), String>, now: Instant) {
        let store = &mut self.maintain.store;
        match result {
            Ok(()) => {
                store.saved = store.saved.max(write);
                store.problem = None;
            }
            Err(reason) => {
                store.failed = store.failed.max(write);
                store.retry = Some(now.after(STORE_RETRY));
                if store.problem.as_ref() != Some(&reason) {
                    store.problem = Some(reason.clone());
                    let record = Record::new(Level::Error, "overrides_not_saved");
                    self.log(record.with("reason", reason));
                }
            }
        }
    }

    /// The maintenance directory has been read, and differs from the last time.
    pub(super) fn maintenance(&mut self, read: Result<Vec<String>, String>, now: Instant) {
        match read {
            Ok(names) => {
                self.maintain.watch.names = names;
                self.maintain.watch.problem = None;
            }
            Err(reason) => {
                // What was last read holds: a directory that is gone for a moment must not bring
                // everything back that somebody is working on.
                let record = Record::new(Level::Warn, "maintenance_unreadable");
                self.log(record.with("reason", &reason));
                self.maintain.watch.problem = Some(reason);
                return;
            }
        }
        let config = Arc::clone(self.wanted());
        self.look_up_files(&config, now);
    }

    /// Finds the reals that the files mean in `config`, which is about to come in force.
    pub(super) fn look_up_files(&mut self, config: &Config, now: Instant) {
        let watch = &mut self.maintain.watch;
        if watch.names.is_empty() && self.overrides.files().is_empty() {
            watch.odd.clear();
            return;
        }
        let found = Maintenance::of(&watch.names, config);
        for name in found.odd.iter().filter(|n| !watch.odd.contains(n)).take(ODD_SHOWN_MAX) {
            let record = Record::new(Level::Warn, "maintenance_file_odd").with("file", name);
            self.out.push(Output::Log(record.with("reason", "no real server is called so")));
        }
        watch.odd = found.odd;
        let before = self.overrides.files().clone();
        let changed = self.overrides.set_files(found.drained);
        if changed {
            self.replan();
            self.tell_files(&before, config, now);
        }
    }

    fn tell_files(&mut self, before: &BTreeMap<RealKey, String>, config: &Config, now: Instant) {
        let after = self.overrides.files().clone();
        let begun = after.iter().filter(|(key, _)| !before.contains_key(key));
        let ended = before.iter().filter(|(key, _)| !after.contains_key(key));
        let begun = begun.map(|(key, file)| (Kind::RealDrained, key, format!("by file {file}")));
        let ended = ended.map(|(key, file)| {
            let reason = format!("file {file} is gone from the maintenance directory");
            (Kind::RealEnabled, key, reason)
        });
        for (kind, key, reason) in begun.chain(ended).collect::<Vec<_>>() {
            let name = name_in(config, key).unwrap_or_else(|| key.text());
            self.event(Event::new(kind, now, reason).service(&key.service).real(name));
        }
    }

    /// Connections of a real, as the data plane last said.
    pub(super) fn live(&self, key: &RealKey) -> Option<u64> {
        let (_, status) = self.last_status.as_ref()?;
        let service = status.services.iter().find(|s| s.name == key.service)?;
        Some(live_in(service, key))
    }

    /// Notes how drained reals get on.
    pub(super) fn sample_drained(&mut self, status: &Status, now: Instant) {
        let overrides = &self.overrides;
        let out = |key: &&RealKey| {
            let effect = overrides.of(key);
            effect.drained || effect.disabled
        };
        let keys = overrides.iter().map(|(key, _)| key).chain(overrides.files().keys());
        let keys: Vec<RealKey> = keys.filter(out).cloned().collect();
        let services: BTreeMap<&str, &ServiceStatus> =
            status.services.iter().map(|s| (s.name.as_str(), s)).collect();
        let mut empty = Vec::new();
        let mut drained = BTreeMap::new();
        for key in keys {
            let mut entry = self.maintain.drained.remove(&key).unwrap_or_default();
            if let Some(service) = services.get(key.service.as_str()) {
                let live = live_in(service, &key);
                entry.progress.sample(live, now);
                if live == 0 && !entry.empty {
                    entry.empty = true;
                    empty.push(key.clone());
                }
                entry.empty = live == 0;
            }
            drained.insert(key, entry);
        }
        self.maintain.drained = drained;
        for key in empty {
            let name = name_in(self.wanted(), &key).unwrap_or_else(|| key.text());
            let event = Event::new(Kind::RealEmpty, now, "").service(&key.service);
            self.event(event.real(name));
        }
    }
}

fn live_in(service: &ServiceStatus, key: &RealKey) -> u64 {
    let address = key.text();
    let mine = service.reals.iter().filter(|r| r.address == address);
    mine.map(|r| r.active.saturating_add(r.inactive)).sum()
}

fn name_in(config: &Config, key: &RealKey) -> Option<String> {
    let entry = config.services.iter().find(|e| e.service.name == key.service)?;
    let mut reals = entry.service.reals.iter();
    let real = reals.find(|r| r.address == key.address && r.port == key.port)?;
    Some(real.name.clone())
}
