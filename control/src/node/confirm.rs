//! A reload that has to be confirmed: a mistake that locks its maker out undoes itself.
//!
//! The configuration before is kept in memory only. A restart of control takes the file, as it is
//! then, for confirmed.

use std::sync::Arc;

use dataplane_api::message::Request;

use super::link::What;
use super::{ClientId, Node};
use crate::compare::compare;
use crate::config::{Config, Errors};
use crate::event::{Event, Kind};
use crate::log::{Level, Record};
use crate::node::reload::reals;
use crate::time::Instant;
use crate::verbs::{Code, ConfirmResult, Failure, PlanResult};

/// A reload that waits for confirmation.
#[derive(Debug)]
pub(super) struct Confirm {
    previous: Arc<Config>,
    by: Instant,
    seconds: u32,
}

impl Node {
    /// When the last reload is undone.
    pub(super) fn confirm_deadline(&self) -> Option<Instant> {
        self.reload.confirm.as_ref().map(|c| c.by)
    }

    /// Why there can be no reload now: the last one is not confirmed.
    pub(super) fn unconfirmed(&self, now: Instant) -> Option<String> {
        let confirm = self.reload.confirm.as_ref()?;
        let left = confirm.by.since(now).div_ceil(1000);
        Some(format!(
            "the last reload waits for confirmation and is undone in {left} s: \
             `xvip confirm` keeps it, `xvip rollback` undoes it at once"
        ))
    }

    /// A reload has ended well.
    pub(super) fn await_confirmation(&mut self, now: Instant) {
        self.reload.rolled_back = false;
        let (Some(seconds), Some(previous)) = (self.reload.confirm_s, self.reload.before.take())
        else {
            return;
        };
        let by = now.after(std::time::Duration::from_secs(seconds.into()));
        self.reload.confirm = Some(Confirm { previous, by, seconds });
    }

    /// Undoes what was not confirmed in time.
    pub(super) fn confirm_tick(&mut self, now: Instant) {
        if self.reload.confirm.as_ref().is_some_and(|c| c.by <= now) {
            let seconds = self.reload.confirm.as_ref().map_or(0, |c| c.seconds);
            self.roll_back(&format!("not confirmed within {seconds} s"), now);
        }
    }

    /// `confirm`
    pub(super) fn confirm(&mut self, client: ClientId) {
        if self.reload.confirm.take().is_none() {
            self.fail(client, Code::Conflict, "no reload waits for confirmation");
            return;
        }
        self.log(Record::new(Level::Info, "reload_confirmed"));
        self.succeed(client, None, &ConfirmResult { confirmed: true });
    }

    /// `rollback`
    pub(super) fn rollback_asked(&mut self, client: ClientId, now: Instant) {
        if self.reload.confirm.is_none() {
            let message = "no reload waits for confirmation; to go back further, put the old file \
                           in place and `xvip reload`";
            self.fail(client, Code::Conflict, message);
            return;
        }
        self.roll_back("an operator asked for it", now);
        self.succeed(client, None, &ConfirmResult { confirmed: false });
    }

    fn roll_back(&mut self, reason: &str, now: Instant) {
        let Some(confirm) = self.reload.confirm.take() else { return };
        let reason = format!("{reason}: the configuration before is in force again");
        self.event(Event::new(Kind::ConfigRolledBack, now, &reason));
        self.reload.last = Some((now, Some(reason)));
        self.reload.rolled_back = true;
        self.candidate = Some(Arc::clone(&confirm.previous));
        self.candidate_losses = 0;
        if self.link.is_up() {
            self.apply(confirm.previous, false, now);
        }
    }

    /// `plan`: the file that a client sent has been validated.
    pub(super) fn parsed(
        &mut self,
        client: ClientId,
        parsed: Result<Box<Config>, Errors>,
        now: Instant,
    ) {
        match parsed {
            Err(errors) => {
                let mut failure = Failure::new(Code::Config, errors.summary());
                failure.report = Some(errors.to_string());
                self.fail_with(client, failure);
            }
            // For connections as they are now.
            Ok(config) if self.link.is_up() && self.stop_by.is_none() => {
                self.send(What::Compare(client, config), Request::Status, now);
            }
            Ok(config) => self.answer_plan(client, &config, now),
        }
    }

    /// Compares with the connections that the data plane last told of.
    pub(super) fn answer_plan(&mut self, client: ClientId, config: &Config, now: Instant) {
        let status = self.last_status.as_ref().map(|(_, status)| &**status);
        let differences = compare(self.wanted(), config, status);
        let (services, reals) = (config.services.len(), reals(config));
        let age = self.last_status.as_ref().map(|(at, _)| now.since(*at));
        self.succeed(client, age, &PlanResult { differences, services, reals });
    }
}
