//! What the main loop is told and shown. It is never waited for.

use tokio::sync::mpsc;

use super::super::path::Way;
use super::super::random;
use super::Thread;
use crate::failover::exchange::Nanos;
use crate::node::{HaReport, HaState};

/// How often the main loop is shown how things are.
const SHOW: Nanos = 500_000_000;
/// Reports kept for a main loop that is busy; then the oldest are lost.
const BACKLOG: usize = 1024;

impl Thread {
    /// Shows the main loop how things are.
    pub(super) fn show(&mut self, now: Nanos) {
        if self.show_at <= now {
            self.show_at = now.saturating_add(SHOW);
            self.shown.agent = self.agent.is_up();
            self.shown.agent_reason = self.agent.reason().map(str::to_owned);
            self.shown.paths = self.ways.iter().map(Way::status).collect();
            let view = self.machine.view(now);
            let differs = !view.differences.is_empty();
            if differs != self.alike.is_different() {
                self.alike.differs(differs, random().unwrap_or(1), now);
            }
            let state = HaState {
                view,
                heartbeat: self.shown.clone(),
                differences: self.alike.found().to_vec(),
                lost: self.lost,
                replication: None,
            };
            self.backlog.retain(|r| !matches!(r, HaReport::State(_)));
            self.report(HaReport::State(Box::new(state)));
        }
        self.deliver();
    }

    pub(super) fn report(&mut self, report: HaReport) {
        if self.backlog.len() >= BACKLOG {
            self.backlog.pop_front();
            self.lost += 1;
        }
        self.backlog.push_back(report);
        self.deliver();
    }

    /// Hands on what the main loop has room for; the rest goes at the next turn.
    fn deliver(&mut self) {
        while let Some(report) = self.backlog.pop_front() {
            match self.reports.try_send(report) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(report)) => {
                    self.backlog.push_front(report);
                    return;
                }
                // The main loop has ended; so shall we.
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}
