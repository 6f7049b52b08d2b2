//! The state machine of one group on one node.
//!
//! ```text
//!                 silent for deadtime and not blind (fenced first, if so configured)
//!                 peer has left · peer yields · nobody owns it and we are fitter
//!   ┌──────────┐ ───────────────────────────► ┌────────┐  data plane: leased  ┌────────┐
//!   │ standby  │                              │ taking │ ───────────────────► │ active │◄─┐
//!   └──────────┘ ◄─ refused, no answer ────── └────────┘                      └────────┘  │
//!     ▲      ▲                                                                  │    │    │ nobody took it
//!     │      └────── paused for longer than the lease ──────────────────────────┤    ▼    │
//!     │                                                                         │  ┌──────┴───┐
//!     │  data plane: released,                      ┌───────────┐  lost: conflict,│ yielding │
//!     └── or the lease has run out ──────────────── │ releasing │ ◄─ our data ──┘ └──────────┘
//!                                                   └───────────┘    plane died      │
//!                                                         ▲                          │
//!                                                         └── peer has taken it ─────┘
//! ```
//!
//! Everything but standby *claims*: the data plane may be answering. Each change of owner has a new epoch,
//! one more than any that is known; so has an owner whose announcements may have been missed.

use std::sync::Arc;

use crate::failover::beat::Role;
use crate::failover::decide::{self, Active, Standby};
use crate::failover::exchange::{Event, EventKind, Nanos, Output, Testimony};
use crate::failover::handover::{Cause, Handover};
use crate::failover::peer::Claim;
use crate::failover::verify::Verify;
use crate::failover::world::World;

/// A node that failed to take a group waits that long before it tries again.
pub(super) const HOLD: Nanos = 1_000_000_000;
/// A group that nobody would take stays that long before it is offered again.
const OFFER: Nanos = 10_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Standby,
    Taking { until: Nanos },
    Active { handover: Option<Handover>, conflict_since: Option<Nanos> },
    Releasing { until: Nanos },
}

/// An operator wants it here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) until: Nanos,
    pub(super) force: bool,
}

/// A group on this node.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: Arc<str>,
    pub(super) tag: u32,
    /// Node that it prefers.
    pub(super) prefer: Option<String>,
    pub(super) state: State,
    /// Of the role.
    pub(super) since: Nanos,
    /// Of our last ownership.
    pub(super) epoch: u64,
    /// The same, 0 if there was none in this life.
    pub(super) owned_last: u64,
    /// The highest known.
    pub(super) known: u64,
    /// Why it is in this state.
    pub(super) why: String,
    pub(super) lease_until: Nanos,
    /// The last lease was cut short because the peer might take the group.
    pub(super) capped: bool,
    /// When the data plane has last said yes.
    pub(super) acked_at: Nanos,
    /// It is not tried again before.
    pub(super) hold_until: Nanos,
    /// It is not offered again before.
    pub(super) offer_after: Nanos,
    /// The operator has put it here.
    pub(super) by_operator: bool,
    /// Although this node saw nothing of its network.
    pub(super) pinned: bool,
    pub(super) want: Option<Want>,
    /// Since when neither node owns it, both being there.
    pub(super) unowned_since: Option<Nanos>,
    /// People have been told that the peer claims it too.
    pub(super) conflict: bool,
    /// The peer has been away, or has claimed it too: announce again as soon as it does not.
    pub(super) again: bool,
    pub(super) verify: Verify,
    pub(super) rate: u32,
    /// Our answer to the peer's last question.
    pub(super) answer: (u32, Testimony),
    /// The peer's question that is being looked into, and since when.
    pub(super) resolving: Option<(u32, Nanos)>,
    /// To be said in a beat at once.
    pub(super) changed: bool,
}

impl Group {
    pub(super) fn new(name: &str, prefer: Option<String>, epoch: u64, now: Nanos) -> Self {
        Self {
            name: name.into(),
            tag: dataplane_api::record::tag(name.as_bytes()),
            prefer,
            state: State::Standby,
            since: now,
            epoch,
            owned_last: 0,
            known: epoch,
            why: "this node has just started".to_owned(),
            lease_until: 0,
            acked_at: 0,
            hold_until: 0,
            offer_after: 0,
            by_operator: false,
            pinned: false,
            capped: false,
            want: None,
            unowned_since: None,
            conflict: false,
            again: false,
            verify: Verify::default(),
            rate: 0,
            answer: (0, Testimony::default()),
            resolving: None,
            changed: false,
        }
    }

    pub(super) const fn role(&self) -> Role {
        match &self.state {
            State::Standby => Role::Standby,
            State::Taking { .. } => Role::Taking,
            State::Active { handover: Some(Handover { offered_until: Some(_), .. }), .. } => {
                Role::Yielding
            }
            State::Active { .. } => Role::Active,
            State::Releasing { .. } => Role::Releasing,
        }
    }

    /// Whether it is ours.
    pub(super) const fn is_owned(&self) -> bool {
        matches!(self.state, State::Taking { .. } | State::Active { .. })
    }

    /// Time has passed, or something has happened.
    pub(super) fn step(&mut self, world: &World<'_>, claim: &Claim, out: &mut Vec<Output>) {
        self.known = self.known.max(self.epoch).max(claim.row.epoch);
        self.pinned &= world.blind;
        let unowned =
            matches!(self.state, State::Standby) && world.there && claim.row.role == Role::Standby;
        self.unowned_since = unowned.then(|| self.unowned_since.unwrap_or(world.now));
        if self.want.is_some_and(|w| w.until <= world.now || self.is_owned()) {
            self.want = None;
        }
        match self.state {
            State::Standby => {
                if let Standby::Take(why) = decide::standby(self, world, claim) {
                    self.take(why, world, claim, out);
                }
            }
            State::Releasing { until } if until <= world.now => {
                self.enter(State::Standby, world.now);
            }
            State::Releasing { .. } => {}
            State::Taking { until } if until <= world.now => {
                self.hold_until = world.now.saturating_add(HOLD);
                self.release("our data plane did not answer", world.now, out);
            }
            State::Taking { .. } | State::Active { .. } => {
                match decide::active(self, world, claim) {
                    Active::Stay(_) => self.go_on(world, claim, out),
                    Active::Release(why) => {
                        let why = decide::words(why, self, world);
                        self.lose(&why, world, claim, out);
                    }
                }
            }
        }
        self.verify_step(world, out);
    }

    /// Owned, and going to be.
    fn go_on(&mut self, world: &World<'_>, claim: &Claim, out: &mut Vec<Output>) {
        let claimed = world.there && claim.row.role.claims();
        let disputed = claimed && matches!(claim.row.role, Role::Active | Role::Taking);
        // Whatever its data plane has answered until it stopped, ours has the last word.
        self.again |= claimed || self.lease_until <= world.now;
        if disputed && !self.conflict {
            self.conflict = true;
            let reason = format!(
                "{} says that it owns it too (epoch {}, ours {}); it has to give way",
                world.peer_name, claim.row.epoch, self.epoch
            );
            self.event(EventKind::Conflict, reason, out);
        }
        self.again |= claim.row.last >= self.epoch;
        if self.again && !claimed && matches!(self.role(), Role::Active) {
            (self.conflict, self.again) = (false, false);
            self.announce(world, out);
        }
        let State::Active { handover, conflict_since } = self.state else { return };
        let conflict_since = claimed.then(|| conflict_since.unwrap_or(world.now));
        self.state = State::Active { handover, conflict_since };
        if handover.is_some() {
            self.hand_over(world, claim, out);
        } else if let Some(plan) = decide::handover(self, world, claim) {
            self.state = State::Active { handover: Some(plan), conflict_since };
            self.hand_over(world, claim, out);
        }
    }

    /// A new epoch: the data plane announces. Not while the peer may be taking the next one.
    pub(super) fn announce(&mut self, world: &World<'_>, out: &mut Vec<Output>) {
        if self.role() != Role::Active {
            return;
        }
        self.known = self.known.max(self.epoch) + 1;
        self.epoch = self.known;
        self.owned_last = self.epoch;
        self.lease(world, out);
        self.changed = true;
    }

    fn take(&mut self, why: String, world: &World<'_>, claim: &Claim, out: &mut Vec<Output>) {
        self.known = self.known.max(claim.row.epoch) + 1;
        self.epoch = self.known;
        self.owned_last = self.epoch;
        self.by_operator = self.want.is_some() || claim.row.force;
        self.pinned = self.by_operator && world.blind;
        (self.conflict, self.again) = (false, false);
        let until = world.now.saturating_add(world.deadtime.max(4 * world.keepalive));
        self.enter(State::Taking { until }, world.now);
        self.why = why;
        self.acked_at = world.now;
        let rate = world.there.then_some(claim.row.rate).filter(|r| *r > 0);
        self.verify.peer_rate = rate;
        self.lease(world, out);
    }

    /// Renews the lease, and no longer than until the peer might take the group.
    pub(super) fn lease(&mut self, world: &World<'_>, out: &mut Vec<Output>) {
        let limit = decide::limit(world).unwrap_or(Nanos::MAX);
        let ttl = world.ttl.min(limit.saturating_sub(world.now));
        self.capped = ttl < world.ttl;
        // The data plane counts whole milliseconds.
        let ttl = ttl / 1_000_000 * 1_000_000;
        if ttl == 0 {
            return;
        }
        self.lease_until = world.now.saturating_add(ttl);
        let ttl = std::time::Duration::from_nanos(ttl);
        out.push(Output::Lease { group: self.name.clone(), epoch: self.epoch, ttl });
    }

    /// The data plane has said yes.
    pub(super) fn leased(&mut self, epoch: u64, now: Nanos, out: &mut Vec<Output>) {
        if !self.is_owned() || epoch != self.epoch {
            return;
        }
        self.acked_at = now;
        if matches!(self.state, State::Taking { .. }) {
            let rate = self.verify.peer_rate;
            self.enter(State::Active { handover: None, conflict_since: None }, now);
            self.verify.taken(rate, now);
            self.event(EventKind::Taken, format!("{} (epoch {epoch})", self.why), out);
        }
    }

    pub(super) fn lease_failed(&mut self, reason: &str, now: Nanos, out: &mut Vec<Output>) {
        if self.is_owned() {
            self.hold_until = now.saturating_add(HOLD);
            self.release(&format!("our data plane refused it: {reason}"), now, out);
        }
    }

    pub(super) fn released(&mut self, now: Nanos) {
        if matches!(self.state, State::Releasing { .. }) {
            self.enter(State::Standby, now);
        }
    }

    /// Gives it up. Standby follows when the data plane has said so, or its lease has run out.
    pub(super) fn release(&mut self, why: &str, now: Nanos, out: &mut Vec<Output>) {
        if !self.is_owned() {
            return;
        }
        let was_active = matches!(self.state, State::Active { .. });
        out.push(Output::Release { group: self.name.clone(), epoch: self.epoch });
        let until = self.lease_until;
        self.enter(if until > now { State::Releasing { until } } else { State::Standby }, now);
        self.by_operator = false;
        self.conflict = false;
        self.verify.stop();
        self.why = why.to_owned();
        if was_active {
            self.event(EventKind::Released, why.to_owned(), out);
        }
    }

    fn lose(&mut self, why: &str, world: &World<'_>, claim: &Claim, out: &mut Vec<Output>) {
        if claim.row.role.claims() && self.role() != Role::Yielding && !self.conflict {
            self.event(EventKind::Conflict, why.to_owned(), out);
        }
        self.release(why, world.now, out);
    }

    /// Goes on with a handover, or ends it.
    fn hand_over(&mut self, world: &World<'_>, claim: &Claim, out: &mut Vec<Output>) {
        let now = world.now;
        let State::Active { handover: Some(mut plan), conflict_since } = self.state else { return };
        let possible = world.there && (claim.row.able || plan.force);
        let over = plan.offered_until.is_some_and(|until| until <= now);
        if over || !possible {
            if plan.cause == Cause::Leave {
                return self.release("this node leaves, and the peer did not take it", now, out);
            }
            self.state = State::Active { handover: None, conflict_since };
            self.offer_after = now.saturating_add(OFFER);
            self.changed = true;
            let why = if over { "the peer did not take it" } else { "the peer cannot take it" };
            let reason = format!("{}, but {why}: it stays here", plan.cause.words());
            return self.event(EventKind::HandoverFailed, reason, out);
        }
        if plan.offered_until.is_none() && (world.lag == 0 || plan.drain_until <= now) {
            plan.offered_until = Some(now.saturating_add(world.deadtime.max(4 * world.keepalive)));
            self.changed = true;
        }
        self.state = State::Active { handover: Some(plan), conflict_since };
    }

    fn verify_step(&mut self, world: &World<'_>, out: &mut Vec<Output>) {
        if self.verify.overdue(world.now) {
            let nothing = Err("no outcome of the verification".to_owned());
            self.verified(self.epoch, nothing, world, out);
        }
        if matches!(self.state, State::Active { .. }) && self.verify.ask(world.now) {
            out.push(Output::Verify {
                group: self.name.clone(),
                epoch: self.epoch,
                testimony: self.verify.testimony.clone(),
                peer_rate: self.verify.peer_rate,
            });
        }
    }

    /// An outcome; a bad one has the group announced again.
    pub(super) fn verified(
        &mut self,
        epoch: u64,
        result: Result<String, String>,
        world: &World<'_>,
        out: &mut Vec<Output>,
    ) {
        let asked = matches!(self.verify.stage, super::verify::Stage::Asked(_));
        if !asked || epoch != self.epoch || !matches!(self.state, State::Active { .. }) {
            return;
        }
        let failed = result.is_err();
        let (kind, reason) = match &result {
            Ok(seen) => (EventKind::Verified, seen.clone()),
            Err(missing) => (EventKind::Unverified, missing.clone()),
        };
        if self.verify.outcome(result, world.now) {
            self.event(kind, reason, out);
        }
        if failed {
            self.announce(world, out);
        }
    }

    /// Who answers for it, as the peer has asked.
    pub(super) fn resolved(&mut self, ticket: u32, testimony: Testimony) {
        if self.resolving.is_some_and(|(asked, _)| asked == ticket) {
            self.resolving = None;
            self.answer = (ticket, testimony);
        }
    }

    pub(super) fn enter(&mut self, state: State, now: Nanos) {
        self.state = state;
        self.since = now;
        self.changed = true;
    }

    pub(super) fn event(&self, kind: EventKind, reason: String, out: &mut Vec<Output>) {
        out.push(Output::Event(Event { kind, group: Some(self.name.clone()), reason }));
    }
}
