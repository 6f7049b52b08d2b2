//! What the data plane's replies mean.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane_api::message::{Reply, Request, Status};

use super::link::{Ask, AskKind, Pending, State, What};
use super::{Node, REFUSED_RETRY};
use crate::config::Config;
use crate::event::{Event, Kind};
use crate::log::{Level, Record};
use crate::plan::plan;
use crate::time::Instant;
use crate::verbs::Code;

impl Node {
    /// The data plane answers: in order, one reply for each request.
    pub(super) fn agent(&mut self, session: u64, reply: Reply, now: Instant) {
        if session != self.link.session || !matches!(self.link.state, State::Greeting | State::Up) {
            return;
        }
        let Some(pending) = self.link.pending.pop_front() else {
            self.drop_session("the data plane sent a reply to nothing", now);
            return;
        };
        match (pending.what, reply) {
            (What::Hello, Reply::Hello { version, pid, boot_id }) => {
                self.greeted(version, pid, &boot_id, now);
            }
            (What::Hello, Reply::Error { message }) => self.drop_session(&message, now),
            (What::Apply(config, reload), Reply::Applied { needs_restart }) => {
                self.applied(&config, reload, needs_restart, now);
            }
            (What::Apply(config, reload), Reply::Error { message }) => {
                self.refused(&config, reload, &message, now);
            }
            (What::Weigh(_), Reply::Applied { needs_restart }) => {
                self.needs_restart = needs_restart;
            }
            (What::Weigh(config), Reply::Error { message }) => {
                self.refused(&config, false, &message, now);
            }
            (What::Inherit, Reply::Status(status)) => {
                self.inherit(&status, now);
                self.seen(status, now);
                self.apply(Arc::clone(self.wanted()), false, now);
            }
            (What::Inherit, Reply::Error { .. }) => {
                // It runs nothing yet.
                self.inherit(&Status::default(), now);
                self.apply(Arc::clone(self.wanted()), false, now);
            }
            (What::Lease, Reply::Leased) => self.link.complaint = None,
            (What::Lease | What::Poll, Reply::Error { message }) => self.complained(message),
            (What::Release, Reply::Leased) => self.exit("VIPs given up"),
            (What::Release, Reply::Error { message }) => self.exit(&message),
            (What::Poll, Reply::Status(status)) => {
                // Only now and then, by our own clock: whoever watches closely (`xvip top`) would
                // cut what clients suffer into pieces too small to count.
                self.care.health.evidence(&status);
                self.seen(status, now);
            }
            (What::Compare(client, config), Reply::Status(status)) => {
                self.seen(status, now);
                self.answer_plan(client, &config, now);
            }
            (What::Compare(client, config), Reply::Error { .. }) => {
                self.answer_plan(client, &config, now);
            }
            (What::Look(change), Reply::Status(status)) => {
                self.seen(status, now);
                self.change_told(change);
            }
            (What::Look(change), Reply::Error { .. }) => self.change_told(change),
            (What::End(key), Reply::Ending { conns }) => self.ended(&key, Ok(conns), now),
            (What::End(key), Reply::Error { message }) => self.ended(&key, Err(message), now),
            (What::Ask(ask), reply) => self.told(&ask, reply, now),
            (what, _) => {
                // Put back, so that whoever waits for it is told why there is no answer.
                self.link.pending.push_front(Pending { what, sent: pending.sent });
                self.drop_session("the data plane sent a reply to another question", now);
            }
        }
    }

    /// Keeps what the data plane says of itself.
    pub(super) fn seen(&mut self, status: Box<Status>, now: Instant) {
        self.sample_drained(&status, now);
        self.follow_ends(&status, now);
        self.look(&status, now);
        self.last_status = Some((now, status));
    }

    /// Said once: lease and status are asked for again and again.
    fn complained(&mut self, message: String) {
        if self.link.complaint.as_ref() != Some(&message) {
            self.log(Record::new(Level::Error, "agent_error").with("reason", &message));
            self.link.complaint = Some(message);
        }
    }

    fn told(&mut self, ask: &Ask, reply: Reply, now: Instant) {
        if ask.kind == AskKind::Relay && self.answer_relayed(ask.client, &reply) {
            return;
        }
        match reply {
            Reply::Status(status) => self.seen(status, now),
            Reply::Conns { conns, next } => {
                if let Some(client) = ask.client {
                    self.answer_conns(client, conns, next);
                }
                return;
            }
            Reply::Error { message } => {
                match ask.client {
                    // It has nothing to tell before its first configuration; why it refused that is
                    // in what we know.
                    Some(client) if ask.kind.needs_no_word() => {
                        self.answer_known(client, ask.kind, now);
                    }
                    Some(client) => self.fail(client, Code::Refused, &message),
                    None => {}
                }
                return;
            }
            _ => {
                if let Some(client) = ask.client {
                    self.fail(client, Code::NoDataPlane, "the data plane gave no sensible answer");
                }
                self.drop_session("the data plane sent a reply to another question", now);
                return;
            }
        }
        if let Some(client) = ask.client {
            self.answer_known(client, ask.kind, now);
        }
    }

    fn greeted(&mut self, version: u32, pid: u32, boot_id: &str, now: Instant) {
        if version != dataplane_api::VERSION {
            let ours = dataplane_api::VERSION;
            let reason = format!(
                "the data plane speaks version {version} of the agent protocol, we speak {ours}: \
                 run xvip-dataplane and xvip-control of the same release"
            );
            self.drop_session(&reason, now);
            return;
        }
        self.link.state = State::Up;
        self.link.since = now;
        self.link.reason = None;
        self.link.poll_at = now;
        let reason = format!("pid {pid}, boot {boot_id}");
        self.event(Event::new(Kind::DataPlaneBack, now, reason));
        self.care.sent = None;
        if self.stop_by.is_some() {
            return;
        }
        if self.care.health.is_inherited() {
            self.apply(Arc::clone(self.wanted()), false, now);
        } else {
            self.send(What::Inherit, Request::Status, now);
        }
    }

    /// Sends a configuration to the data plane.
    pub(super) fn apply(&mut self, config: Arc<Config>, reload: bool, now: Instant) {
        self.look_up_files(&config, now);
        let snapshot = Box::new(plan(&config, &self.care.health, &self.overrides).snapshot);
        self.care.sent = Some((*snapshot).clone());
        self.send(What::Apply(config, reload), Request::Apply { snapshot }, now);
    }

    fn applied(
        &mut self,
        config: &Arc<Config>,
        reload: bool,
        needs_restart: Vec<String>,
        now: Instant,
    ) {
        self.link.failures = 0;
        self.link.applied = true;
        self.link.refused = None;
        self.taken(config, now);
        self.announce(config);
        let record = Record::new(Level::Info, "applied").with("services", config.services.len());
        self.log(record.with("needs_restart", needs_restart.join(",")).with("epoch", self.epoch));
        self.needs_restart = needs_restart;
        if self.stop_by.is_none() {
            self.renew(now);
        }
        if reload {
            self.reload_applied(config, now);
        }
    }

    /// A new epoch for addresses that neighbours may still look for elsewhere.
    fn announce(&mut self, config: &Config) {
        let vips = config.services.iter().flat_map(|e| &e.service.listen).map(|l| l.address);
        let addresses: BTreeSet<IpAddr> =
            vips.chain(config.local.addresses.iter().copied()).collect();
        if self.announced.as_ref().is_some_and(|old| !addresses.is_subset(old)) {
            self.epoch += 1;
        }
        self.announced = Some(addresses);
    }

    fn refused(&mut self, config: &Arc<Config>, reload: bool, message: &str, now: Instant) {
        self.log(Record::new(Level::Error, "refused").with("reason", message));
        let candidate = self.candidate.as_ref().is_some_and(|c| Arc::ptr_eq(c, config));
        if candidate {
            self.candidate = None;
            self.reload_refused(reload, message, now);
            // It says that nothing changed; the old state is sent again to be certain.
            self.apply(Arc::clone(&self.config), false, now);
        } else {
            self.link.applied = false;
            self.link.refused = Some(message.to_owned());
            self.link.apply_at = Some(now.after(REFUSED_RETRY));
            // Who owns the VIPs does not depend on it: what the data plane runs, it serves on.
            if self.link.lease_at.is_none() && self.stop_by.is_none() {
                self.renew(now);
            }
        }
    }
}
