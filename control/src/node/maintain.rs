//! Maintenance: operators' decisions about single reals are kept, carried out, saved and told.
//!
//! A client gets its reply when the data plane acts on the decision and it is on disk, or when it
//! is clear that one of both takes longer. `keep` has what is due by itself.

use std::collections::BTreeMap;

use dataplane_api::message::Request;

use super::ending::Order;
use super::keep::{Drained, Store, Watch};
use super::link::What;
use super::{CLIENT_WAIT_MAX, ClientId, Node, Peer};
use crate::event::{Event, Kind};
use crate::overrides::{Candidate, Deadline, Held, RealKey, Standing, resolve};
use crate::time::Instant;
use crate::verbs::{ChangeResult, Code, OverrideStatus, OverridesResult, Verb, Which};

/// Decisions and everything around them.
#[derive(Debug, Default)]
pub(super) struct Maintain {
    pub(super) store: Store,
    pub(super) watch: Watch,
    /// How reals without new connections get on.
    pub(super) drained: BTreeMap<RealKey, Drained>,
    /// Reals whose connections are to be ended, until the data plane says that none is left.
    pub(super) ending: BTreeMap<RealKey, Order>,
    /// Clients that wait for their decision to take effect.
    changes: BTreeMap<u64, Change>,
    next_change: u64,
}

/// A decision whose client waits.
#[derive(Debug)]
struct Change {
    client: ClientId,
    reals: Vec<Candidate>,
    notes: Vec<String>,
    /// The write that has it.
    store: u64,
    /// Whether the data plane, having got the new state, was asked how it is.
    asked: bool,
    /// Whether it has answered, or will not.
    told: bool,
    /// When the client is answered in any case.
    by: Instant,
}

impl Maintain {
    /// When the next client has waited long enough.
    pub(super) fn change_deadline(&self) -> Option<Instant> {
        self.changes.values().map(|c| c.by).min()
    }
}

impl Node {
    /// `drain`, `enable`, `disable` or `weight`.
    pub(super) fn decide(&mut self, client: ClientId, peer: &Peer, verb: &Verb, now: Instant) {
        let (Verb::Drain { which, .. }
        | Verb::Enable { which }
        | Verb::Disable { which, .. }
        | Verb::Weight { which, .. }) = verb
        else {
            return;
        };
        let Which { real, service, all } = which;
        let config = self.wanted();
        let found = resolve(real, service.as_deref(), *all, config, &self.overrides);
        let reals = match found {
            Ok(reals) => reals,
            Err(why) => return self.fail(client, Code::NotFound, &why.0),
        };
        if reals.iter().any(|c| self.overrides.is_full(&c.key)) {
            let message = "there are too many overrides; `xvip overrides` lists them";
            return self.fail(client, Code::Conflict, message);
        }
        let notes = reals.iter().flat_map(|c| self.decide_one(c, verb, peer.uid, now)).collect();
        self.save(now);
        self.replan();
        self.maintain.next_change += 1;
        let id = self.maintain.next_change;
        let (store, by) = (self.maintain.store.asked(), now.after(CLIENT_WAIT_MAX));
        let change = Change { client, reals, notes, store, asked: false, told: false, by };
        self.maintain.changes.insert(id, change);
    }

    /// Changes the override of one real; what the operator should know.
    fn decide_one(&mut self, real: &Candidate, verb: &Verb, uid: u32, now: Instant) -> Vec<String> {
        let now_ms = self.wall(now);
        let until = |s: Option<u32>| s.map(|s| now_ms.saturating_add(u64::from(s) * 1000));
        let overrides = &mut self.overrides;
        let before = overrides.get(&real.key).cloned().unwrap_or_default();
        let by = format!("by user {uid}");
        let (kind, reason) = match verb {
            Verb::Drain { deadline_s, then, move_persistent, for_s, .. } => {
                let at = until(*deadline_s);
                let then = then.unwrap_or_default();
                let deadline = at.map(|at_ms| Deadline { at_ms, then, done: false, begun: false });
                let value = Standing::Drained { move_persistent: *move_persistent, deadline };
                let held = Held { value, since_ms: now_ms, until_ms: until(*for_s), uid };
                overrides.stand(&real.key, &real.name, Some(held));
                (Kind::RealDrained, by)
            }
            Verb::Disable { for_s, .. } => {
                let value = Standing::Disabled;
                let held = Held { value, since_ms: now_ms, until_ms: until(*for_s), uid };
                overrides.stand(&real.key, &real.name, Some(held));
                (Kind::RealDisabled, by)
            }
            Verb::Weight { weight, for_s, .. } => {
                let held = |value| Held { value, since_ms: now_ms, until_ms: until(*for_s), uid };
                overrides.weigh(&real.key, &real.name, weight.map(held));
                let weight = weight.map_or_else(|| "the file's".to_owned(), |w| w.to_string());
                (Kind::RealWeight, format!("{weight}, {by}"))
            }
            _ => {
                overrides.stand(&real.key, &real.name, None);
                (Kind::RealEnabled, by)
            }
        };
        let enabled = kind == Kind::RealEnabled;
        self.maintain.ending.remove(&real.key);
        if !enabled || before.standing.is_some() {
            let event = Event::new(kind, now, reason).service(&real.key.service);
            self.event(event.real(&real.name));
        }
        self.notes(real, enabled, before.standing.is_some())
    }

    fn notes(&self, real: &Candidate, enabled: bool, was_out: bool) -> Vec<String> {
        let overrides = &self.overrides;
        let who = format!("{} of service {}", real.name, real.key.service);
        let mut notes = Vec::new();
        if !enabled {
            return notes;
        }
        let file = overrides.files().get(&real.key);
        if let Some(file) = file {
            notes.push(format!(
                "{who} is still drained by the file `{file}` of the maintenance directory"
            ));
        } else if !was_out {
            notes.push(format!("{who} was neither drained nor disabled"));
        }
        if let Some(weight) = overrides.get(&real.key).and_then(|o| o.weight) {
            notes.push(format!(
                "{who} has weight {} by an operator; `xvip weight {} file` takes that back",
                weight.value, real.name
            ));
        }
        notes
    }

    /// The data plane has answered to what a change asked, or will not.
    pub(super) fn change_told(&mut self, id: u64) {
        if let Some(change) = self.maintain.changes.get_mut(&id) {
            change.told = true;
        }
    }

    /// Answers clients whose decision is in force and on disk, or who have waited long enough.
    pub(super) fn changes_tick(&mut self, now: Instant) {
        let reachable = self.link.is_up() && self.link.applied;
        let settled = self.plan_is_settled();
        let mut looks = Vec::new();
        for (id, change) in self.maintain.changes.iter_mut().filter(|(_, c)| !c.told) {
            change.told = !reachable;
            if reachable && settled && !change.asked {
                change.asked = true;
                looks.push(*id);
            }
        }
        for id in looks {
            // For connections as they are now that the new state is in force.
            self.send(What::Look(id), Request::Status, now);
        }
        let store = &self.maintain.store;
        let ready = |c: &Change| c.by <= now || (c.told && store.is_settled(c.store));
        let ids = self.maintain.changes.iter().filter(|(_, c)| ready(c)).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            if let Some(change) = self.maintain.changes.remove(&id) {
                self.answer_change(change, now);
            }
        }
    }

    fn answer_change(&mut self, change: Change, now: Instant) {
        let applied = change.told && change.asked && self.link.is_up();
        let saved = self.maintain.store.is_saved(change.store);
        let mut notes = change.notes;
        if !saved {
            let why = self.maintain.store.problem().unwrap_or("it is not on disk yet");
            notes.push(format!("this would not survive a restart of xvip-control: {why}"));
        }
        let reals =
            change.reals.iter().map(|c| self.override_status(&c.key, &c.name, now)).collect();
        let result = ChangeResult { applied, saved, notes, reals };
        let age = self.last_status.as_ref().map(|(at, _)| now.since(*at));
        self.succeed(change.client, age, &result);
    }

    /// We stop: nobody is left waiting.
    pub(super) fn changes_abandoned(&mut self, reason: &str) {
        for change in std::mem::take(&mut self.maintain.changes).into_values() {
            self.fail(change.client, Code::Stopping, reason);
        }
    }

    /// Everything that is not as the file says.
    pub(super) fn overrides_result(&self, now: Instant) -> OverridesResult {
        let overrides = &self.overrides;
        let mut names: BTreeMap<&RealKey, &str> =
            overrides.files().keys().map(|key| (key, "")).collect();
        names.extend(overrides.iter().map(|(key, o)| (key, o.name.as_str())));
        let status = |(key, name): (&RealKey, &str)| self.override_status(key, name, now);
        OverridesResult {
            overrides: names.into_iter().map(status).collect(),
            maintenance: self.maintain.watch.status(overrides.files().len()),
            problem: self.maintain.store.problem().map(str::to_owned),
        }
    }

    fn override_status(&self, key: &RealKey, name: &str, now: Instant) -> OverrideStatus {
        let now_ms = self.wall(now);
        let overrides = &self.overrides;
        let entry = overrides.get(key).cloned().unwrap_or_default();
        let services = &self.wanted().services;
        let service = services.iter().find(|e| e.service.name == key.service);
        let real = service.and_then(|e| {
            e.service.reals.iter().find(|r| r.address == key.address && r.port == key.port)
        });
        let left = |until: Option<u64>| until.map(|at| at.saturating_sub(now_ms));
        let file = overrides.files().get(key);
        let (state, move_persistent, deadline) = match entry.standing.map(|s| s.value) {
            Some(Standing::Drained { move_persistent, deadline }) => {
                (Some("drained"), move_persistent, deadline)
            }
            Some(Standing::Disabled) => (Some("disabled"), false, None),
            None => (file.map(|_| "drained"), false, None),
        };
        let progress = self.maintain.drained.get(key).map(|d| &d.progress);
        let left_ms = progress.and_then(|p| p.left());
        OverrideStatus {
            service: key.service.clone(),
            real: real.map_or_else(|| name.to_owned(), |r| r.name.clone()),
            address: key.text(),
            configured: real.is_some(),
            state: state.map(str::to_owned),
            since_ms: entry.standing.map(|s| now_ms.saturating_sub(s.since_ms)),
            expires_in_ms: left(entry.standing.and_then(|s| s.until_ms)),
            uid: entry.standing.map(|s| s.uid).or(entry.weight.map(|w| w.uid)),
            move_persistent,
            deadline_in_ms: left(deadline.map(|d| d.at_ms)),
            then: deadline.map(|d| d.then),
            file: file.cloned(),
            weight: entry.weight.map(|w| w.value),
            weight_expires_in_ms: left(entry.weight.and_then(|w| w.until_ms)),
            conns: self.live(key),
            conns_before: progress.and_then(|p| p.first()),
            empty_in_ms: left_ms.and_then(|d| u64::try_from(d.as_millis()).ok()),
        }
    }
}
