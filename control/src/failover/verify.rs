//! Whether what was taken has arrived: asked again, ever less often, until it holds.
//!
//! ```text
//!  taken ──► due ──► asked ──► held ──(30 s, or what is seen changes)──► due
//!                      │  ▲
//!                      ▼  │ back-off, announced again
//!                    failed
//! ```

use crate::failover::exchange::{Nanos, Testimony};

const SECOND: Nanos = 1_000_000_000;
/// Time that announcements have to arrive, and the peer to answer.
const FIRST: Nanos = SECOND / 5;
const LONGEST: Nanos = 10 * SECOND;
/// What held is looked at again.
const AGAIN: Nanos = 30 * SECOND;
/// The shell gives an outcome within that time, or that is the outcome.
const PATIENCE: Nanos = 5 * SECOND;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing to verify.
    Idle,
    /// To be asked then.
    Due(Nanos),
    /// Asked; an outcome is to come until then.
    Asked(Nanos),
}

/// Of one group.
#[derive(Debug)]
pub(super) struct Verify {
    pub(super) stage: Stage,
    /// The last outcome, and its words.
    pub(super) outcome: Option<Result<String, String>>,
    /// From the takeover to the first time that it held.
    pub(super) after: Option<Nanos>,
    taken_at: Nanos,
    failures: u32,
    /// Number of the question to the peer.
    pub(super) ticket: u32,
    pub(super) testimony: Option<Testimony>,
    /// What the peer had before.
    pub(super) peer_rate: Option<u32>,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            stage: Stage::Idle,
            outcome: None,
            after: None,
            taken_at: 0,
            failures: 0,
            ticket: 0,
            testimony: None,
            peer_rate: None,
        }
    }
}

impl Verify {
    pub(super) fn taken(&mut self, peer_rate: Option<u32>, now: Nanos) {
        let ticket = self.ticket;
        *self = Self { taken_at: now, peer_rate, ticket, ..Self::default() };
        self.due(now.saturating_add(FIRST));
    }

    pub(super) fn stop(&mut self) {
        self.stage = Stage::Idle;
    }

    /// What is seen of the network has changed.
    pub(super) fn look_again(&mut self, now: Nanos) {
        if self.stage != Stage::Idle {
            self.due(now.saturating_add(FIRST));
        }
    }

    fn due(&mut self, at: Nanos) {
        self.stage = Stage::Due(at);
        self.ticket = self.ticket.wrapping_add(1).max(1);
        self.testimony = None;
    }

    /// The peer has answered.
    pub(super) fn witnessed(&mut self, ticket: u32, testimony: &Testimony) {
        if ticket == self.ticket && ticket != 0 && self.testimony.is_none() {
            self.testimony = Some(testimony.clone());
        }
    }

    /// Question to be put to the peer, shortly before it is needed; 0: none.
    pub(super) fn question(&self, now: Nanos) -> u32 {
        match self.stage {
            Stage::Due(at) if self.testimony.is_none() && at <= now.saturating_add(2 * FIRST) => {
                self.ticket
            }
            _ => 0,
        }
    }

    /// Whether it is to be asked now.
    pub(super) fn ask(&mut self, now: Nanos) -> bool {
        let due = matches!(self.stage, Stage::Due(at) if at <= now);
        if due {
            self.stage = Stage::Asked(now.saturating_add(PATIENCE));
        }
        due
    }

    /// Whether an outcome is overdue.
    pub(super) const fn overdue(&self, now: Nanos) -> bool {
        matches!(self.stage, Stage::Asked(until) if until <= now)
    }

    /// The outcome. Whether it is another one than before.
    pub(super) fn outcome(&mut self, result: Result<String, String>, now: Nanos) -> bool {
        let wait = if result.is_ok() {
            self.failures = 0;
            self.after.get_or_insert(now.saturating_sub(self.taken_at));
            AGAIN
        } else {
            self.failures = (self.failures + 1).min(16);
            (FIRST << self.failures).min(LONGEST)
        };
        // What the peer had counts for the beginning only.
        self.peer_rate = None;
        self.due(now.saturating_add(wait));
        let changed = match (&self.outcome, &result) {
            (Some(Ok(_)), Ok(_)) => false,
            (Some(Err(before)), Err(now)) => before != now,
            _ => true,
        };
        self.outcome = Some(result);
        changed
    }

    /// When something is to be done.
    pub(super) const fn deadline(&self) -> Option<Nanos> {
        match self.stage {
            Stage::Idle => None,
            Stage::Due(at) | Stage::Asked(at) => Some(at),
        }
    }

    /// Word for people.
    pub(super) const fn name(&self) -> &'static str {
        match &self.outcome {
            None => "verifying",
            Some(Ok(_)) => "verified",
            Some(Err(_)) => "degraded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_ever_less_often_until_it_holds_and_then_now_and_then() {
        let (mut verify, mut now, mut asked) = (Verify::default(), 0, Vec::new());
        verify.taken(Some(7), now);
        for _ in 0..9 {
            now = verify.deadline().unwrap();
            assert!(verify.ask(now) && !verify.ask(now));
            asked.push(now / (SECOND / 10));
            verify.outcome(Err("eth1 is not attached".to_owned()), now);
        }
        assert_eq!(asked, [2, 6, 14, 30, 62, 126, 226, 326, 426]);
        verify.look_again(now);
        now += FIRST;
        assert!(verify.ask(now), "a change is looked at soon");
        assert!(verify.outcome(Ok("3211 packets".to_owned()), now));
        assert_eq!(verify.after, Some(now));
        assert_eq!(verify.deadline(), Some(now + AGAIN));
        assert_eq!(verify.peer_rate, None);
    }

    #[test]
    fn only_the_answer_to_the_present_question_counts_and_silence_is_an_outcome() {
        let mut verify = Verify::default();
        verify.taken(None, 0);
        let (question, seen) = (verify.question(0), Testimony { asked: 1, ..Testimony::default() });
        verify.witnessed(question + 1, &seen);
        assert_eq!(verify.testimony, None);
        verify.witnessed(question, &seen);
        assert_eq!((verify.testimony.clone(), verify.question(0)), (Some(seen), 0));
        assert!(verify.ask(FIRST) && verify.overdue(FIRST + PATIENCE));
    }
}
