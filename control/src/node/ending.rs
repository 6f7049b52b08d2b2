//! Connections that are reset when the deadline of a drain has come.
//!
//! The data plane is given an order and takes a moment over it. An order is over when the data plane
//! says that none is left, not when it was given: one that dies in between knows nothing of it
//! afterwards, so that every new session is given what is not over. Resetting what is drained
//! twice harms nobody.

use std::time::Duration;

use dataplane_api::message::{How, Request, Status};

use super::Node;
use super::link::What;
use crate::log::{Level, Record};
use crate::overrides::RealKey;
use crate::time::Instant;

/// A status that is asked for this long after the order shows what has become of it.
const SETTLED: Duration = Duration::from_secs(1);

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The data plane has not taken it yet.
    Due,
    /// It was taken in this session.
    Taken { session: u64, at: Instant },
}

impl Node {
    /// Has connections ended whose deadline has come, as soon as there is a data plane.
    pub(super) fn end_conns(&mut self, now: Instant) {
        if !self.link.is_up() || !self.link.applied || self.stop_by.is_some() {
            return;
        }
        let asked = |key: &RealKey| {
            self.link.pending.iter().any(|p| matches!(&p.what, What::End(other) if other == key))
        };
        let taken = |order: &Order| matches!(order, Order::Taken { session, .. } if *session == self.link.session);
        let next = self.maintain.ending.iter().find(|(key, order)| !taken(order) && !asked(key));
        if let Some((key, _)) = next {
            let key = key.clone();
            let request = Request::EndConns {
                service: key.service.clone(),
                real: key.address,
                port: key.port,
                how: How::Reset,
            };
            self.send(What::End(key), request, now);
        }
    }

    /// The data plane ends them, or says why not.
    pub(super) fn ended(&mut self, key: &RealKey, result: Result<u64, String>, now: Instant) {
        let record = match &result {
            Ok(conns) => Record::new(Level::Info, "connections_reset").with("count", conns),
            Err(reason) => {
                Record::new(Level::Error, "connections_not_reset").with("reason", reason)
            }
        };
        self.log(record.with("service", &key.service).with("real", key.text()));
        // It is not there any more if an operator has decided otherwise meanwhile.
        let Some(order) = self.maintain.ending.get_mut(key) else { return };
        *order = Order::Taken { session: self.link.session, at: now };
        if !matches!(result, Ok(1..)) {
            self.end_is_over(key, now);
        }
    }

    /// Looks which orders are over.
    pub(super) fn follow_ends(&mut self, status: &Status, now: Instant) {
        let over = |key: &RealKey, order: &Order| {
            let Order::Taken { session, at } = order else { return false };
            *session == self.link.session && now >= at.after(SETTLED) && left(status, key) == 0
        };
        let ending = &self.maintain.ending;
        let over: Vec<_> =
            ending.iter().filter(|(k, o)| over(k, o)).map(|(k, _)| k.clone()).collect();
        for key in over {
            self.end_is_over(&key, now);
        }
    }

    fn end_is_over(&mut self, key: &RealKey, now: Instant) {
        self.maintain.ending.remove(key);
        self.overrides.deadline_done(key);
        self.save(now);
    }
}

/// Connections of a real that are still to be reset.
fn left(status: &Status, key: &RealKey) -> u64 {
    let services = status.services.iter().filter(|s| s.name == key.service);
    let address = key.text();
    services.flat_map(|s| &s.reals).filter(|r| r.address == address).map(|r| r.ending).sum()
}
