//! The conversation with the data plane: connect, hello, apply, lease, and again after any loss.
//!
//! ```text
//!  Waiting ──retry──► Connecting ──► Greeting ──hello──► Up: apply, then lease every ttl/3
//!     ▲                   │             │                 │
//!     └───── failed, lost, wrong version, wrong reply, no reply in time
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use dataplane_api::message::Request;

use super::{AGENT_REPLY_MAX, CLIENT_WAIT_MAX, ClientId, Node, Output, RETRY, STATUS_PERIOD};
use crate::config::Config;
use crate::event::{Event, Kind};
use crate::log::{Level, Record};
use crate::overrides::RealKey;
use crate::time::Instant;
use crate::verbs::Code;

/// What a request to the data plane was for.
#[derive(Debug)]
pub(super) enum What {
    Hello,
    /// This configuration; whether a reload waits for it.
    Apply(Arc<Config>, bool),
    /// This configuration as it is already, with other weights.
    Weigh(Arc<Config>),
    /// What a process before us has told it, before our first configuration goes out.
    Inherit,
    Lease,
    /// The lease was given up, we are about to end.
    Release,
    /// Status on our own account.
    Poll,
    /// Status for the plan of a client's configuration.
    Compare(ClientId, Box<Config>),
    /// Status after the operator's change with this number.
    Look(u64),
    /// Connections of this real are to be reset.
    End(RealKey),
    /// On behalf of a client.
    Ask(Ask),
}

/// A client waiting for the data plane.
#[derive(Debug)]
pub(super) struct Ask {
    /// `None` once it has been told that this takes too long.
    pub(super) client: Option<ClientId>,
    pub(super) kind: AskKind,
}

/// What the client wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskKind {
    Status,
    Services,
    Counters,
    Conns,
    Overrides,
    /// What the data plane answers is the client's answer.
    Relay,
}

impl AskKind {
    /// Whether there is an answer without word from the data plane.
    pub(super) const fn needs_no_word(self) -> bool {
        matches!(self, Self::Status | Self::Overrides)
    }
}

/// A request that has no reply yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) what: What,
    pub(super) sent: Instant,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum State {
    Waiting { retry: Instant },
    Connecting,
    Greeting,
    Up,
    Closed,
}

/// The connection to the data plane.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) state: State,
    /// When `state` became, or ceased to be, `Up`.
    pub(super) since: Instant,
    /// Number of the current or last connection.
    pub(super) session: u64,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Why it is not up.
    pub(super) reason: Option<String>,
    pub(super) pending: VecDeque<Pending>,
    /// When the lease is renewed; `None` until the first apply has been answered.
    pub(super) lease_at: Option<Instant>,
    pub(super) poll_at: Instant,
    /// When a refused configuration is tried again.
    pub(super) apply_at: Option<Instant>,
    /// Whether the data plane runs our configuration.
    pub(super) applied: bool,
    /// Why it does not, if it refused.
    pub(super) refused: Option<String>,
    /// What it last answered to a lease or a poll, if that was an error.
    pub(super) complaint: Option<String>,
}

impl Link {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            state: State::Waiting { retry: now },
            since: now,
            session: 0,
            failures: 0,
            reason: None,
            pending: VecDeque::new(),
            lease_at: None,
            poll_at: now,
            apply_at: None,
            applied: false,
            refused: None,
            complaint: None,
        }
    }

    /// Whether the data plane may be asked.
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// Whether a snapshot is on its way.
    pub(super) fn applies(&self) -> bool {
        self.pending.iter().any(|p| matches!(p.what, What::Apply(..) | What::Weigh(_)))
    }

    /// Whether the data plane holds a lease from us.
    pub(super) const fn leased(&self) -> bool {
        self.is_up() && self.lease_at.is_some()
    }

    /// Ends it for good.
    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.pending.clear();
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Closed | State::Connecting => None,
            State::Waiting { retry } => Some(retry),
            State::Greeting | State::Up => {
                let oldest = self.pending.front().map(|p| p.sent.after(AGENT_REPLY_MAX));
                let asked = self.asks().map(|(sent, _)| sent.after(CLIENT_WAIT_MAX)).min();
                // What is already asked for is not due: its reply, or the lack of one, wakes us.
                let due = [
                    self.due(self.lease_at, &What::Lease),
                    self.due(Some(self.poll_at), &What::Poll),
                ];
                let up = self.is_up().then_some(due).into_iter().flatten().flatten();
                up.chain(self.apply_at).chain(oldest).chain(asked).min()
            }
        }
    }

    /// `at`, unless a request of that kind is on its way.
    fn due(&self, at: Option<Instant>, kind: &What) -> Option<Instant> {
        let kind = std::mem::discriminant(kind);
        let on_its_way = self.pending.iter().any(|p| std::mem::discriminant(&p.what) == kind);
        at.filter(|_| !on_its_way)
    }

    fn asks(&self) -> impl Iterator<Item = (Instant, &Ask)> {
        self.pending.iter().filter_map(|p| match &p.what {
            What::Ask(ask) if ask.client.is_some() => Some((p.sent, ask)),
            _ => None,
        })
    }
}

impl Node {
    /// Sends a request and remembers what its reply will be about.
    pub(super) fn send(&mut self, what: What, request: Request, now: Instant) {
        self.link.pending.push_back(Pending { what, sent: now });
        self.out.push(Output::Send(self.link.session, Box::new(request)));
    }

    /// Connects, renews, polls and gives up on silence, as far as due.
    pub(super) fn link_tick(&mut self, now: Instant) {
        match self.link.state {
            State::Waiting { retry } if retry <= now => {
                self.link.session += 1;
                self.link.state = State::Connecting;
                self.out.push(Output::Connect(self.link.session));
            }
            State::Greeting | State::Up => self.session_tick(now),
            State::Waiting { .. } | State::Connecting | State::Closed => {}
        }
    }

    fn session_tick(&mut self, now: Instant) {
        if self.link.pending.front().is_some_and(|p| p.sent.after(AGENT_REPLY_MAX) <= now) {
            let seconds = AGENT_REPLY_MAX.as_secs();
            self.drop_session(&format!("the data plane did not answer for {seconds} s"), now);
            return;
        }
        self.expire_asks(now);
        if !self.link.is_up() || self.stop_by.is_some() {
            return;
        }
        if self.link.apply_at.is_some_and(|at| at <= now) {
            self.link.apply_at = None;
            self.apply(Arc::clone(self.wanted()), false, now);
        }
        if self.link.due(self.link.lease_at, &What::Lease).is_some_and(|at| at <= now) {
            self.renew(now);
        }
        if self.link.due(Some(self.link.poll_at), &What::Poll).is_some_and(|at| at <= now) {
            self.link.poll_at = now.after(STATUS_PERIOD);
            self.send(What::Poll, Request::Status, now);
        }
    }

    pub(super) fn renew(&mut self, now: Instant) {
        if self.is_paired() {
            // The heartbeat does, for as long as this node is the one.
            self.link.lease_at = None;
            return;
        }
        let ttl = self.config.control.lease;
        self.link.lease_at = Some(now.after(ttl / 3));
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        self.send(
            What::Lease,
            Request::Lease { ttl_ms, epoch: self.epoch, group: None, until_ns: None },
            now,
        );
    }

    /// Tells clients that have waited long enough.
    fn expire_asks(&mut self, now: Instant) {
        let mut late = Vec::new();
        for pending in &mut self.link.pending {
            if let What::Ask(ask) = &mut pending.what
                && pending.sent.after(CLIENT_WAIT_MAX) <= now
                && let Some(client) = ask.client.take()
            {
                late.push((client, ask.kind));
            }
        }
        for (client, kind) in late {
            let reason = format!("it did not answer for {} s", CLIENT_WAIT_MAX.as_secs());
            self.answer_without(client, kind, Code::NoDataPlane, &reason, now);
        }
    }

    pub(super) fn connected(&mut self, session: u64, now: Instant) {
        if session == self.link.session && matches!(self.link.state, State::Connecting) {
            self.link.state = State::Greeting;
            self.send(What::Hello, Request::Hello { version: dataplane_api::VERSION }, now);
        }
    }

    pub(super) fn disconnected(&mut self, session: u64, reason: &str, now: Instant) {
        if session == self.link.session && !matches!(self.link.state, State::Waiting { .. }) {
            self.lost(reason, now);
        }
    }

    pub(super) fn drop_session(&mut self, reason: &str, now: Instant) {
        self.out.push(Output::Disconnect(self.link.session));
        self.lost(reason, now);
    }

    /// Back to waiting; everybody who waits for an answer gets one.
    fn lost(&mut self, reason: &str, now: Instant) {
        if matches!(self.link.state, State::Closed) {
            return;
        }
        if self.link.is_up() {
            self.link.since = now;
        }
        // Said once, and again when the reason changes: a data plane that stays away fills no log.
        if self.link.is_up() || self.link.reason.as_deref() != Some(reason) {
            if self.link.is_up() {
                self.event(Event::new(Kind::DataPlaneLost, now, reason));
            } else {
                let record = Record::new(Level::Warn, "agent_unreachable");
                self.log(record.with("reason", reason));
            }
        }
        let pause = RETRY.0.saturating_mul(1 << self.link.failures.min(10)).min(RETRY.1);
        self.link.failures = self.link.failures.saturating_add(1);
        self.link.state = State::Waiting { retry: now.after(pause) };
        self.link.reason = Some(reason.to_owned());
        (self.link.lease_at, self.link.apply_at) = (None, None);
        self.link.applied = false;
        for pending in std::mem::take(&mut self.link.pending) {
            match pending.what {
                What::Ask(Ask { client: Some(client), kind }) => {
                    self.answer_without(client, kind, Code::NoDataPlane, reason, now);
                }
                What::Apply(config, reload) => {
                    if reload {
                        self.reload_unapplied(&config, reason, now);
                    }
                    self.candidate_lost(&config, now);
                }
                What::Compare(client, config) => self.answer_plan(client, &config, now),
                What::Release => self.exit(reason),
                _ => {}
            }
        }
    }

    pub(super) fn clients_abandoned(&mut self, code: Code, reason: &str) {
        let mut clients = Vec::new();
        for pending in &mut self.link.pending {
            if let What::Ask(ask) = &mut pending.what {
                clients.extend(ask.client.take());
            }
        }
        for pending in &mut self.link.pending {
            if let What::Compare(client, _) = pending.what {
                clients.push(client);
                // Its answer still comes, and is nobody's.
                pending.what = What::Poll;
            }
        }
        for client in clients {
            self.fail(client, code, reason);
        }
    }
}
