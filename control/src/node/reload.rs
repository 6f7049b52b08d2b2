//! Taking a new configuration in: read, validate, try, and only then adopt.
//!
//! One reload at a time. Whoever asks while one runs gets the next one, since the file may have
//! changed after the running one read it.

use std::sync::Arc;

use super::confirm::Confirm;
use super::{CANDIDATE_LOSSES, ClientId, Node, Output};
use crate::config::{Config, Errors};
use crate::event::{Event, Kind};
use crate::log::{Level, Record};
use crate::time::Instant;
use crate::verbs::{Code, Failure, ReloadResult};

/// Reloads asked for, running and done.
#[derive(Debug, Default)]
pub(super) struct Reload {
    running: bool,
    /// Clients waiting for the running one.
    waiting: Vec<ClientId>,
    /// Whether another was asked for meanwhile, and by whom.
    again: bool,
    next: Vec<ClientId>,
    /// Seconds to confirm the running one, and the next.
    pub(super) confirm_s: Option<u32>,
    next_confirm_s: Option<u32>,
    /// What was wanted before the running one.
    pub(super) before: Option<Arc<Config>>,
    /// A reload that is undone unless it is confirmed.
    pub(super) confirm: Option<Confirm>,
    /// Whether the file is not what is in force, because it was not confirmed.
    pub(super) rolled_back: bool,
    /// When the last one ended, and why it failed if it did.
    pub(super) last: Option<(Instant, Option<String>)>,
}

impl Node {
    /// SIGHUP, or a client asks.
    pub(super) fn reload_asked(
        &mut self,
        client: Option<ClientId>,
        confirm_s: Option<u32>,
        now: Instant,
    ) {
        if self.stop_by.is_some() {
            if let Some(client) = client {
                self.fail(client, Code::Stopping, "xvip-control is stopping");
            }
        } else if let Some(message) = self.unconfirmed(now) {
            self.log(Record::new(Level::Warn, "reload_refused").with("reason", &message));
            if let Some(client) = client {
                self.fail(client, Code::Conflict, &message);
            }
        } else if self.reload.running {
            self.reload.again = true;
            self.reload.next.extend(client);
            self.reload.next_confirm_s = confirm_s.or(self.reload.next_confirm_s);
        } else {
            self.reload.waiting.extend(client);
            self.reload.confirm_s = confirm_s;
            self.reload_start();
        }
    }

    fn reload_start(&mut self) {
        self.reload.running = true;
        self.out.push(Output::Load);
    }

    /// The file has been read.
    pub(super) fn loaded(&mut self, result: Result<Box<Config>, Errors>, now: Instant) {
        if !self.reload.running || self.stop_by.is_some() {
            return;
        }
        match result {
            Err(errors) => {
                let mut failure =
                    Failure::new(Code::Config, format!("nothing changed: {}", errors.summary()));
                failure.report = Some(errors.to_string());
                self.reload_ended(Err(failure), now);
            }
            Ok(config) => {
                let config: Arc<Config> = Arc::from(config);
                self.reload.before = Some(Arc::clone(self.wanted()));
                self.candidate = Some(Arc::clone(&config));
                self.candidate_losses = 0;
                if self.link.is_up() {
                    self.apply(config, true, now);
                } else {
                    let result = self.reload_result(&config, false);
                    self.reload_ended(Ok(result), now);
                }
            }
        }
    }

    fn reload_result(&self, config: &Config, applied: bool) -> ReloadResult {
        ReloadResult {
            applied,
            services: config.services.len(),
            reals: reals(config),
            needs_restart: if applied { self.needs_restart.clone() } else { Vec::new() },
            confirm_s: self.reload.confirm_s,
        }
    }

    /// The data plane runs `config` now.
    pub(super) fn taken(&mut self, config: &Arc<Config>, now: Instant) {
        if self.candidate.as_ref().is_some_and(|c| Arc::ptr_eq(c, config)) {
            self.candidate = None;
        }
        if !Arc::ptr_eq(&self.config, config) {
            self.config = Arc::clone(config);
            self.care.health.configure(config, now);
            self.replan();
            self.watch_config(now);
            self.config_since = now;
        }
    }

    /// The reload's configuration is in force.
    pub(super) fn reload_applied(&mut self, config: &Config, now: Instant) {
        let result = self.reload_result(config, true);
        self.reload_ended(Ok(result), now);
    }

    /// The data plane refused the reload's configuration. `waited`: during the reload, not later.
    pub(super) fn reload_refused(&mut self, waited: bool, message: &str, now: Instant) {
        let message = format!("nothing changed: the data plane refused: {message}");
        if waited {
            self.reload_ended(Err(Failure::new(Code::Refused, message)), now);
        } else {
            self.reload.last = Some((now, Some(message)));
        }
    }

    /// The connection went away before the data plane answered; the file stays wanted.
    pub(super) fn reload_unapplied(&mut self, config: &Config, reason: &str, now: Instant) {
        self.log(Record::new(Level::Warn, "reload_postponed").with("reason", reason));
        let result = self.reload_result(config, false);
        self.reload_ended(Ok(result), now);
    }

    /// The data plane went away while it took `config`. Once may be chance; if it happens again and
    /// again, the configuration kills it, and the one before is better than none.
    pub(super) fn candidate_lost(&mut self, config: &Arc<Config>, now: Instant) {
        if !self.candidate.as_ref().is_some_and(|c| Arc::ptr_eq(c, config)) {
            return;
        }
        self.candidate_losses += 1;
        if self.candidate_losses >= CANDIDATE_LOSSES {
            self.candidate = None;
            let reason =
                format!("given up: the data plane was lost {CANDIDATE_LOSSES} times on it");
            self.event(Event::new(Kind::ConfigFailed, now, &reason));
            self.reload.last = Some((now, Some(reason)));
        }
    }

    /// We stop: nobody is left waiting.
    pub(super) fn reload_abandoned(&mut self) {
        let reload = std::mem::take(&mut self.reload);
        for client in reload.waiting.into_iter().chain(reload.next) {
            self.fail(client, Code::Stopping, "xvip-control is stopping");
        }
    }

    fn reload_ended(&mut self, result: Result<ReloadResult, Failure>, now: Instant) {
        match &result {
            Ok(done) => {
                let then = if done.applied { "" } else { "; waits for the data plane" };
                let reason =
                    format!("{} services, {} real servers{then}", done.services, done.reals);
                self.event(Event::new(Kind::ConfigReloaded, now, reason));
                self.await_confirmation(now);
            }
            Err(failure) => {
                self.event(Event::new(Kind::ConfigFailed, now, &failure.message));
            }
        }
        self.reload.last = Some((now, result.as_ref().err().map(|f| f.message.clone())));
        self.reload.running = false;
        (self.reload.before, self.reload.confirm_s) = (None, None);
        for client in std::mem::take(&mut self.reload.waiting) {
            match &result {
                Ok(done) => self.succeed(client, Some(0), done),
                Err(failure) => self.fail_with(client, failure.clone()),
            }
        }
        if std::mem::take(&mut self.reload.again) {
            let next = std::mem::take(&mut self.reload.next);
            if let Some(message) = self.unconfirmed(now) {
                for client in next {
                    self.fail(client, Code::Conflict, &message);
                }
                return;
            }
            self.reload.waiting = next;
            self.reload.confirm_s = self.reload.next_confirm_s.take();
            self.reload_start();
        }
    }
}

/// Reals over all services.
pub(super) fn reals(config: &Config) -> usize {
    config.services.iter().map(|e| e.service.reals.len()).sum()
}
