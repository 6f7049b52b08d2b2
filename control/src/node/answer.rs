//! Answers to operators.

use dataplane_api::message::{Conn, Reply, Request};
use serde::Serialize;

use super::link::{Ask, AskKind, What};
use super::reload::reals;
use super::{ClientId, Node, Output, Peer};
use crate::log::{Level, Record};
use crate::time::Instant;
use crate::verbs::{
    self, AgentStatus, Answer, CaptureResult, Code, ConfigStatus, ConnsResult, ControlStatus,
    Envelope, Failure, Hello, ReloadStatus, ServicesResult, StatusResult, Verb,
};

/// Shortest pause between lines of the log about clients who may not do what they ask.
const FORBIDDEN_PAUSE: std::time::Duration = std::time::Duration::from_secs(10);
/// Version of the program.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

impl Node {
    /// A client asks; it gets exactly one reply, now or later.
    pub(super) fn client(&mut self, client: ClientId, peer: Peer, line: &[u8], now: Instant) {
        let verb = match verbs::parse(line) {
            Ok(verb) => verb,
            Err(failure) => {
                self.turn_away(client, peer, failure);
                return;
            }
        };
        if self.stop_by.is_some() {
            self.fail(client, Code::Stopping, "xvip-control is stopping");
            return;
        }
        if let Err(message) = self.may(&peer, &verb) {
            self.forbidden(client, &peer, message, now);
            return;
        }
        let (kind, request) = match verb {
            Verb::Hello {} => {
                let hello = Hello {
                    program: PROGRAM.to_owned(),
                    instance: self.who.instance.clone(),
                    node: self.name(),
                };
                self.succeed(client, None, &hello);
                return;
            }
            Verb::Events { after, boot_id, limit, wait_ms, max_age_ms } => {
                let other = boot_id.is_some_and(|boot| boot != self.who.boot_id);
                let after = if other { 0 } else { after };
                self.answer_events(client, (after, limit, wait_ms), max_age_ms, now);
                return;
            }
            Verb::AlertTest { name } => {
                self.log(peer_record(Level::Info, "alert_test_asked", &peer));
                self.answer_alert_test(client, name.as_deref(), now);
                return;
            }
            Verb::Status {} => (AskKind::Status, Request::Status),
            Verb::Services {} => (AskKind::Services, Request::Status),
            Verb::Counters {} => (AskKind::Counters, Request::Status),
            Verb::Conns { cursor, limit, filter } => {
                (AskKind::Conns, Request::Conns { cursor, limit, filter })
            }
            Verb::Overrides {} => (AskKind::Overrides, Request::Status),
            Verb::Why { client, client_port, vip, vip_port, protocol } => {
                let why = Request::Why { client, client_port, vip, vip_port, protocol };
                (AskKind::Relay, why)
            }
            Verb::Capture { filter, packets_max, seconds, bytes } => {
                self.log(peer_record(Level::Info, "capture_asked", &peer));
                (AskKind::Relay, Request::Capture { filter, packets_max, seconds, bytes })
            }
            Verb::Captured { limit } => (AskKind::Relay, Request::Captured { limit }),
            Verb::EndCapture {} => (AskKind::Relay, Request::EndCapture),
            verb => {
                self.operate(client, peer, verb, now);
                return;
            }
        };
        if self.link.is_up() {
            self.send(What::Ask(Ask { client: Some(client), kind }), request, now);
        } else {
            let reason = self.link.reason.clone().unwrap_or_else(|| "still connecting".to_owned());
            self.answer_without(client, kind, Code::NoDataPlane, &reason, now);
        }
    }

    /// Answers without the data plane, or carries out what changes something.
    fn operate(&mut self, client: ClientId, peer: Peer, verb: Verb, now: Instant) {
        match verb {
            Verb::Metrics {} => self.answer_metrics(client, now),
            Verb::Ha {} => self.answer_ha(client, now),
            Verb::Reload { confirm_s } => {
                self.log(peer_record(Level::Info, "reload_asked", &peer));
                self.reload_asked(Some(client), confirm_s, now);
            }
            Verb::Confirm {} => {
                self.log(peer_record(Level::Info, "confirm_asked", &peer));
                self.confirm(client);
            }
            Verb::Rollback {} => {
                self.log(peer_record(Level::Info, "rollback_asked", &peer));
                self.rollback_asked(client, now);
            }
            Verb::Switchover { .. } | Verb::HaMaintenance { .. } => {
                self.log(peer_record(Level::Info, "ha_asked", &peer));
                self.ha_command(client, &verb, now);
            }
            Verb::Plan { file, text } => self.out.push(Output::Parse(client, file, text)),
            verb => self.decide(client, &peer, &verb, now),
        }
    }

    /// Tells a client that its request will not be carried out, and the log who it was.
    pub(super) fn turn_away(&mut self, client: ClientId, peer: Peer, failure: Failure) {
        let record = peer_record(Level::Warn, "bad_request", &peer);
        self.log(record.with("reason", &failure.message));
        self.fail_with(client, failure);
    }

    /// The same for somebody who may not ask. All users may try as often as they like: a line of
    /// the log each ten seconds is enough for all of them.
    fn forbidden(&mut self, client: ClientId, peer: &Peer, message: String, now: Instant) {
        let (last, count) = self.forbidden;
        self.forbidden.1 = count.saturating_add(1);
        if last.is_none_or(|at| at.after(FORBIDDEN_PAUSE) <= now) {
            let record = peer_record(Level::Warn, "forbidden", peer).with("reason", &message);
            self.log(record.with("count", self.forbidden.1));
            self.forbidden = (Some(now), 0);
        }
        self.fail(client, Code::Forbidden, &message);
    }

    /// Answers although the data plane does not.
    pub(super) fn answer_without(
        &mut self,
        client: ClientId,
        kind: AskKind,
        code: Code,
        reason: &str,
        now: Instant,
    ) {
        if kind.needs_no_word() {
            self.answer_known(client, kind, now);
            return;
        }
        let last = match &self.last_status {
            Some((at, _)) => format!("last heard of {:.1} s ago", seconds(now.since(*at))),
            None => "never heard of".to_owned(),
        };
        let message = format!("no answer from the data plane ({last}): {reason}");
        self.fail(client, code, &message);
    }

    /// Answers from what the data plane last said of itself.
    pub(super) fn answer_known(&mut self, client: ClientId, kind: AskKind, now: Instant) {
        let age = self.last_status.as_ref().map(|(at, _)| now.since(*at));
        match (kind, &self.last_status) {
            (AskKind::Status, _) => {
                let status = self.status(now);
                self.succeed(client, age, &status);
            }
            (AskKind::Services, Some((_, status))) => {
                let services = status.services.clone();
                let result = ServicesResult { services, health: self.service_health(now) };
                self.succeed(client, age, &result);
            }
            (AskKind::Counters, Some((_, status))) => {
                let result = verbs::counters(status);
                self.succeed(client, age, &result);
            }
            (AskKind::Overrides, _) => {
                let result = self.overrides_result(now);
                self.succeed(client, age, &result);
            }
            (AskKind::Conns | AskKind::Relay, _) | (_, None) => {
                self.fail(client, Code::NoDataPlane, "the data plane gave no sensible answer");
            }
        }
    }

    /// Answers with what the data plane said; whether that was an answer to such a request.
    pub(super) fn answer_relayed(&mut self, client: Option<ClientId>, reply: &Reply) -> bool {
        // A client that has waited too long has had its answer: its part here is dropped.
        match (reply, client) {
            (Reply::Why(why), Some(client)) => self.succeed(client, Some(0), why),
            (Reply::Captured(page), Some(client)) => self.succeed(client, Some(0), page),
            (Reply::Capturing | Reply::CaptureEnded, Some(client)) => {
                self.succeed(client, Some(0), &CaptureResult {});
            }
            (reply, client) => {
                let relayed = matches!(
                    reply,
                    Reply::Why(_) | Reply::Captured(_) | Reply::Capturing | Reply::CaptureEnded
                );
                return client.is_none() && relayed;
            }
        }
        true
    }

    pub(super) fn answer_conns(&mut self, client: ClientId, conns: Vec<Conn>, next: Option<u64>) {
        self.succeed(client, Some(0), &ConnsResult { conns, next });
    }

    /// Name of this node: the file's, or the host's.
    pub(super) fn name(&self) -> String {
        self.wanted().node.name.clone().unwrap_or_else(|| self.who.host.clone())
    }

    fn status(&self, now: Instant) -> StatusResult {
        let config = self.wanted();
        let last_reload = self.reload.last.as_ref().map(|(at, error)| ReloadStatus {
            ok: error.is_none(),
            age_ms: now.since(*at),
            error: error.clone(),
        });
        let state = if self.link.is_up() { "connected" } else { "connecting" };
        StatusResult {
            node: self.name(),
            instance: self.who.instance.clone(),
            control: ControlStatus {
                program: PROGRAM.to_owned(),
                pid: self.who.pid,
                uptime_ms: now.as_millis(),
                lease_ms: u64::try_from(self.lease().as_millis()).unwrap_or(u64::MAX),
                warnings: self.warnings(),
            },
            config: ConfigStatus {
                file: self.who.file.clone(),
                age_ms: now.since(self.config_since),
                services: config.services.len(),
                reals: reals(config),
                needs_restart: self.needs_restart.clone(),
                last_reload,
                confirm_in_ms: self.confirm_deadline().map(|by| by.since(now)),
            },
            agent: AgentStatus {
                state: state.to_owned(),
                since_ms: now.since(self.link.since),
                reason: self.link.reason.clone(),
                applied: self.link.applied && self.candidate.is_none(),
                refused: self.link.refused.clone(),
            },
            health: self.health_summary(now),
            alerts: self.alert_status(now),
            spare: self.spare_status(),
            metrics: self.metrics_status(),
            ha: self.ha_summary(),
            data_plane: self.last_status.as_ref().map(|(_, status)| status.clone()),
        }
    }

    /// What an operator should know of control itself.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.reload.rolled_back {
            let file = &self.who.file;
            warnings.push(format!(
                "{file} is not in force: it was rolled back; a restart of xvip-control takes it"
            ));
        }
        if let Some(problem) = self.maintain.store.problem() {
            warnings.push(format!("overrides: {problem}"));
        }
        warnings.extend(self.sorry.problems.iter().cloned());
        warnings.extend(self.ha_warnings());
        if let Some(watch) = self.maintain.watch.status(0) {
            if let Some(problem) = watch.problem {
                warnings.push(format!("maintenance directory: {problem}"));
            }
            if watch.odd_count > 0 {
                let (count, names) = (watch.odd_count, watch.odd.join(", "));
                warnings.push(format!(
                    "maintenance directory: {count} files are called like no real server: {names}"
                ));
            }
        }
        warnings
    }

    fn envelope(&self, ok: bool, age_ms: Option<u64>) -> Envelope {
        let (boot_id, epoch) = (self.who.boot_id.clone(), self.epoch);
        Envelope { ok, version: verbs::VERSION, boot_id, epoch, age_ms }
    }

    /// A reply with a result.
    pub(super) fn succeed<T: Serialize>(&mut self, client: ClientId, age: Option<u64>, result: &T) {
        let answer =
            Answer { envelope: self.envelope(true, age), result: Some(result), error: None };
        self.reply(client, &answer);
    }

    /// A reply with an error.
    pub(super) fn fail(&mut self, client: ClientId, code: Code, message: &str) {
        self.fail_with(client, Failure::new(code, message));
    }

    pub(super) fn fail_with(&mut self, client: ClientId, failure: Failure) {
        let envelope = self.envelope(false, None);
        self.reply(client, &Answer::<()> { envelope, result: None, error: Some(failure) });
    }

    fn reply<T: Serialize>(&mut self, client: ClientId, answer: &Answer<T>) {
        // These types have string keys and no failing serialiser, so this cannot fail; if it ever
        // does, the client is told so rather than left waiting.
        let line = serde_json::to_string(answer).unwrap_or_else(|e| {
            format!(r#"{{"ok":false,"error":{{"code":"bad-request","message":"{e}"}}}}"#)
        });
        self.out.push(Output::Reply(client, line));
    }
}

fn peer_record(level: Level, event: &'static str, peer: &Peer) -> Record {
    Record::new(level, event).with("uid", peer.uid).with("gid", peer.gid).with("pid", peer.pid)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
