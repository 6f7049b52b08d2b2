//! Answers to operators.

use dataplane_api::message::{Conn, Request};
use serde::Serialize;

use super::link::{Ask, AskKind, What};
use super::reload::reals;
use super::{ClientId, Node, Output, Peer};
use crate::log::{Level, Record};
use crate::time::Instant;
use crate::verbs::{
    self, AgentStatus, Answer, Code, ConfigStatus, ConnsResult, ControlStatus, Envelope, Failure,
    Hello, ReloadStatus, ServicesResult, StatusResult, Verb,
};

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
            Verb::Reload {} => {
                self.log(peer_record(Level::Info, "reload_asked", peer));
                self.reload_asked(Some(client));
                return;
            }
            Verb::Status {} => (AskKind::Status, Request::Status),
            Verb::Services {} => (AskKind::Services, Request::Status),
            Verb::Counters {} => (AskKind::Counters, Request::Status),
            Verb::Conns { cursor, limit, filter } => {
                (AskKind::Conns, Request::Conns { cursor, limit, filter })
            }
        };
        if self.link.is_up() {
            self.send(What::Ask(Ask { client: Some(client), kind }), request, now);
        } else {
            let reason = self.link.reason.clone().unwrap_or_else(|| "still connecting".to_owned());
            self.answer_without(client, kind, Code::NoDataPlane, &reason, now);
        }
    }

    /// Tells a client that its request will not be carried out, and the log who it was.
    pub(super) fn turn_away(&mut self, client: ClientId, peer: Peer, failure: Failure) {
        let record = peer_record(Level::Warn, "bad_request", peer);
        self.log(record.with("reason", &failure.message));
        self.fail_with(client, failure);
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
        if kind == AskKind::Status {
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
                let result = ServicesResult { services: status.services.clone() };
                self.succeed(client, age, &result);
            }
            (AskKind::Counters, Some((_, status))) => {
                let result = verbs::counters(status);
                self.succeed(client, age, &result);
            }
            (AskKind::Conns, _) | (_, None) => {
                self.fail(client, Code::NoDataPlane, "the data plane gave no sensible answer");
            }
        }
    }

    pub(super) fn answer_conns(&mut self, client: ClientId, conns: Vec<Conn>, next: Option<u64>) {
        self.succeed(client, Some(0), &ConnsResult { conns, next });
    }

    /// Name of this node: the file's, or the host's.
    fn name(&self) -> String {
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
                lease_ms: u64::try_from(config.control.lease.as_millis()).unwrap_or(u64::MAX),
            },
            config: ConfigStatus {
                file: self.who.file.clone(),
                age_ms: now.since(self.config_since),
                services: config.services.len(),
                reals: reals(config),
                needs_restart: self.needs_restart.clone(),
                last_reload,
            },
            agent: AgentStatus {
                state: state.to_owned(),
                since_ms: now.since(self.link.since),
                reason: self.link.reason.clone(),
                applied: self.link.applied && self.candidate.is_none(),
                refused: self.link.refused.clone(),
            },
            data_plane: self.last_status.as_ref().map(|(_, status)| status.clone()),
        }
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

fn peer_record(level: Level, event: &'static str, peer: Peer) -> Record {
    Record::new(level, event).with("uid", peer.uid).with("gid", peer.gid).with("pid", peer.pid)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
