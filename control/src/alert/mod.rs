//! Who is told of what, when: the decisions behind mails, webhooks and commands.
//!
//! Pure: time is an argument, deliveries are values that [`crate::io`] carries out. What it
//! promises: a problem that was told has its end told too, with how long it lasted; whatever a
//! [`Filter`] lets through is in some message, however much happens at once, and no target gets more
//! messages than its limit allows; a target that does not answer keeps no other one waiting; memory is
//! bounded. A target has at most one message on its way; what happens meanwhile is gathered.
//!
//! `settings` says what can be configured, `gather` makes lines of events, `message` is what is
//! sent.

mod gather;
mod message;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use gather::{LINES_MAX, STORM_MAX};
pub use message::{LINES_SHOWN_MAX, Line, Message};
pub use settings::{Command, Filter, How, Mail, Settings, Target, Tls, Webhook};

use crate::event::{Event, Kind};
use crate::time::Instant;
use gather::Gather;

/// First and longest pause after a delivery that failed; doubled each time.
pub const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Failures in a row after which others are told that a target cannot be reached.
pub const FAILURES_TOLD: u32 = 3;
/// Results of a test that nobody asked for any more are forgotten beyond this many.
const TESTS_MAX: usize = 64;

/// Who speaks; stands in every message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// Name of the node.
    pub node: String,
    /// Name of the instance.
    pub instance: String,
}

/// Something for the shell to send: once, within [`Target::timeout`], and to say how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Comes back with the result.
    pub id: u64,
    /// To whom.
    pub target: Arc<Target>,
    /// What.
    pub message: Arc<Message>,
}

/// State of one target, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetState {
    /// Its name.
    pub name: String,
    /// `mail`, `webhook` or `command`.
    pub kind: &'static str,
    /// Changes that wait: being gathered, or in a message that is not delivered.
    pub pending: u64,
    /// Messages delivered since start.
    pub delivered: u64,
    /// Attempts that failed since start.
    pub failures: u64,
    /// Messages given up since start.
    pub given_up: u64,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
    /// When a failed message is tried again.
    pub retry_at: Option<Instant>,
    /// When the last message was delivered.
    pub delivered_at: Option<Instant>,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// Name of the target.
    pub name: String,
    /// Why it was not delivered, if not.
    pub error: Option<String>,
}

/// A message on its way.
#[derive(Debug)]
struct Outgoing {
    message: Arc<Message>,
    since: Instant,
    /// Number of the delivery that runs; `None` between attempts.
    id: Option<u64>,
    retry_at: Instant,
}

/// One target with what it is still to be told.
#[derive(Debug)]
struct Course {
    target: Arc<Target>,
    gather: Gather,
    outgoing: Option<Outgoing>,
    /// Messages that may be sent now, in thousandths.
    tokens: u64,
    tokens_at: Instant,
    failures_in_row: u32,
    delivered: u64,
    failures: u64,
    given_up: u64,
    error: Option<String>,
    delivered_at: Option<Instant>,
}

/// All targets.
#[derive(Debug, Default)]
pub struct Alerts {
    settings: Settings,
    courses: Vec<Course>,
    next: u64,
    /// Tests on their way: number of the delivery and name of the target.
    tests: BTreeMap<u64, String>,
    events: VecDeque<Event>,
}

impl Alerts {
    /// Takes new settings; a target of the same name goes on where it was.
    pub fn configure(&mut self, settings: &Settings, now: Instant) {
        let mut old = std::mem::take(&mut self.courses);
        for target in &settings.targets {
            let known = old.iter().position(|c| c.target.name == target.name);
            let mut course = match known {
                Some(index) => old.swap_remove(index),
                None => Course::new(Arc::clone(target), settings, now),
            };
            if course.target != *target {
                course.target = Arc::clone(target);
                // It may be well now: no waiting for what was wrong before.
                if let Some(outgoing) = &mut course.outgoing {
                    outgoing.retry_at = now;
                }
            }
            self.courses.push(course);
        }
        self.settings = settings.clone();
    }

    /// Forgets problems that nothing can end any more: what they are about was removed.
    pub fn forget(&mut self, gone: impl Fn(&crate::event::Key) -> bool) {
        for course in &mut self.courses {
            course.gather.forget(&gone);
        }
    }

    /// Takes an event in; `unix_ms` is its time for people.
    pub fn event(&mut self, event: &Event, unix_ms: u64, now: Instant) {
        for course in &mut self.courses {
            // That it cannot be told is no news for the target itself.
            let itself = event.kind.topic() == Kind::AlertUndeliverable.topic()
                && event.subject.as_deref() == Some(course.target.name.as_str());
            if !itself {
                course.gather.add(event, unix_ms, &course.target.filter, now);
            }
        }
    }

    /// What is to be sent now.
    pub fn due(&mut self, sender: &Sender, unix_ms: u64, now: Instant) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for course in &mut self.courses {
            if let Some(mut delivery) = course.due(&self.settings, sender, unix_ms, now) {
                self.next += 1;
                delivery.id = self.next;
                if let Some(outgoing) = &mut course.outgoing {
                    outgoing.id = Some(self.next);
                }
                deliveries.push(delivery);
            }
        }
        deliveries
    }

    /// How a delivery went. What a test of that number found, if it was one.
    pub fn delivered(
        &mut self,
        id: u64,
        result: Result<(), String>,
        now: Instant,
    ) -> Option<Tested> {
        if let Some(name) = self.tests.remove(&id) {
            return Some(Tested { name, error: result.err() });
        }
        let ours = |c: &&mut Course| c.outgoing.as_ref().is_some_and(|o| o.id == Some(id));
        let course = self.courses.iter_mut().find(ours)?;
        let give_up = self.settings.give_up;
        self.events.extend(course.ended(result, give_up, now));
        None
    }

    /// Events about the alerts themselves, to be told to everybody else.
    pub fn events(&mut self) -> impl Iterator<Item = Event> {
        std::mem::take(&mut self.events).into_iter()
    }

    /// Sends a test to the target of that name, or to all; beside everything that waits, and
    /// not counted against the limit. Empty if there is none of that name.
    pub fn test(&mut self, name: Option<&str>, sender: &Sender, unix_ms: u64) -> Vec<Delivery> {
        let wanted = |c: &&Course| name.is_none_or(|name| c.target.name == name);
        let targets: Vec<_> =
            self.courses.iter().filter(wanted).map(|c| Arc::clone(&c.target)).collect();
        let mut deliveries = Vec::new();
        for target in targets {
            if self.tests.len() >= TESTS_MAX {
                self.tests.pop_first();
            }
            self.next += 1;
            self.tests.insert(self.next, target.name.clone());
            let message = Arc::new(Message::test(self.next, sender, unix_ms));
            deliveries.push(Delivery { id: self.next, target, message });
        }
        deliveries
    }

    /// When [`Alerts::due`] has something to do even if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.courses.iter().filter_map(|c| c.next_deadline(&self.settings)).min()
    }

    /// Every target, in the order of the file.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetState> {
        self.courses.iter().map(Course::state).collect()
    }
}

impl Course {
    fn new(target: Arc<Target>, settings: &Settings, now: Instant) -> Self {
        Self {
            target,
            gather: Gather::default(),
            outgoing: None,
            tokens: u64::from(settings.burst()) * 1000,
            tokens_at: now,
            failures_in_row: 0,
            delivered: 0,
            failures: 0,
            given_up: 0,
            error: None,
            delivered_at: None,
        }
    }

    /// What is to be sent now: the message that waits, or a new one. Without its number.
    fn due(
        &mut self,
        settings: &Settings,
        sender: &Sender,
        unix_ms: u64,
        now: Instant,
    ) -> Option<Delivery> {
        if self.outgoing.is_none() {
            if self.gather.due(settings.digest).is_none_or(|at| at > now) {
                return None;
            }
            self.refill(settings, now);
            if self.tokens < 1000 {
                return None;
            }
            let lines = self.gather.take(settings.digest, now);
            if lines.is_empty() {
                return None;
            }
            self.tokens -= 1000;
            let message = Arc::new(Message::new(lines, sender, unix_ms));
            self.outgoing = Some(Outgoing { message, since: now, id: None, retry_at: now });
        }
        let outgoing = self.outgoing.as_ref()?;
        if outgoing.id.is_some() || outgoing.retry_at > now {
            return None;
        }
        let message = Arc::clone(&outgoing.message);
        Some(Delivery { id: 0, target: Arc::clone(&self.target), message })
    }

    /// Tokens come evenly over the hour.
    fn refill(&mut self, settings: &Settings, now: Instant) {
        const HOUR: u64 = 3_600_000;
        let per_hour = u64::from(settings.per_hour) * 1000;
        let elapsed = now.since(self.tokens_at);
        let new = elapsed.saturating_mul(per_hour) / HOUR;
        // What is too short for a thousandth of a token is not lost by asking often.
        if new > 0 {
            self.tokens = self.tokens.saturating_add(new).min(u64::from(settings.burst()) * 1000);
            self.tokens_at = now;
        }
    }

    /// When there is a token, by the last look.
    fn token_at(&self, settings: &Settings) -> Instant {
        let missing = 1000_u64.saturating_sub(self.tokens);
        let per_hour = u64::from(settings.per_hour.max(1)) * 1000;
        // One millisecond more than the rounded-down quotient.
        let wait = if missing == 0 { 0 } else { missing.saturating_mul(3_600_000) / per_hour + 1 };
        self.tokens_at.after(Duration::from_millis(wait))
    }

    fn ended(
        &mut self,
        result: Result<(), String>,
        give_up: Duration,
        now: Instant,
    ) -> Option<Event> {
        let name = self.target.name.clone();
        let event = |kind, reason: String| Event::new(kind, now, reason).subject(name);
        let Err(error) = result else {
            self.outgoing = None;
            self.delivered += 1;
            self.delivered_at = Some(now);
            self.error = None;
            let told = std::mem::take(&mut self.failures_in_row) >= FAILURES_TOLD;
            return told.then(|| event(Kind::AlertDelivered, String::new()));
        };
        self.failures += 1;
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        let shift = (self.failures_in_row - 1).min(10);
        let pause = RETRY.0.saturating_mul(1 << shift).min(RETRY.1);
        self.error = Some(error.clone());
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.id = None;
            outgoing.retry_at = now.after(pause);
            if outgoing.since.after(give_up) <= now {
                self.outgoing = None;
                self.given_up += 1;
            }
        }
        (self.failures_in_row == FAILURES_TOLD).then(|| event(Kind::AlertUndeliverable, error))
    }

    fn next_deadline(&self, settings: &Settings) -> Option<Instant> {
        match &self.outgoing {
            // The result wakes us.
            Some(Outgoing { id: Some(_), .. }) => None,
            Some(outgoing) => Some(outgoing.retry_at),
            None => self.gather.due(settings.digest).map(|at| at.max(self.token_at(settings))),
        }
    }

    fn state(&self) -> TargetState {
        let outgoing = self.outgoing.as_ref();
        let on_its_way = outgoing.map_or(0, |o| o.message.lines.len() as u64 + o.message.more);
        TargetState {
            name: self.target.name.clone(),
            kind: self.target.how.kind(),
            pending: on_its_way + self.gather.pending(),
            delivered: self.delivered,
            failures: self.failures,
            given_up: self.given_up,
            error: self.error.clone(),
            retry_at: outgoing.filter(|o| o.id.is_none()).map(|o| o.retry_at),
            delivered_at: self.delivered_at,
        }
    }
}
