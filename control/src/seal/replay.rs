//! What keeps an old message from counting again, without a clock and across restarts.
//!
//! Each node draws a random number, its *nonce*, when it starts, and numbers what it sends. It also sends
//! the nonces that it has heard, each with the highest number heard of it: the *echoes*. A message counts
//! only if one of its echoes is our nonce, so it was made in this life of ours; and only if its number
//! is higher than that of the last one that counted on the same path (each path has its own copy of a message,
//! and some are slower than others). The life of the peer changes only by a message whose
//! echo is recent, so nothing that an earlier life of the peer has said to this life of ours
//! can bring that life back.

use std::collections::VecDeque;

use crate::seal::Refused;

/// Lives of the peer that a message can answer to.
pub const ECHOES: usize = 4;
/// Most paths between two nodes.
const PATHS_MAX: usize = 256;
/// Earlier lives of the peer that are known by their nonce.
const RETIRED: usize = 8;

/// What was heard of a life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Its nonce; 0: none.
    pub nonce: u64,
    /// The highest number heard of it.
    pub seq: u64,
}

/// What a message that counts brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is newer than all before.
    Newer,
    /// It is new on this path, but the same, or a newer one, has come on another.
    Again,
    /// The same, and it is the first of a new life of the peer.
    Born,
}

/// Decides what counts.
#[derive(Debug)]
pub struct Guard {
    own: u64,
    peer: Option<Echo>,
    /// The highest number of that life on each path.
    paths: Vec<u64>,
    retired: VecDeque<u64>,
    /// Lives that have said something, but not yet to us; the latest in front.
    candidates: VecDeque<Echo>,
}

impl Guard {
    /// For this life of ours.
    #[must_use]
    pub const fn new(own: u64) -> Self {
        Self {
            own,
            peer: None,
            paths: Vec::new(),
            retired: VecDeque::new(),
            candidates: VecDeque::new(),
        }
    }

    /// What is to be sent as echoes.
    #[must_use]
    pub fn echoes(&self) -> [Echo; ECHOES] {
        let mut out = [Echo::default(); ECHOES];
        let known = self.peer.iter().chain(&self.candidates);
        out.iter_mut().zip(known).for_each(|(out, echo)| *out = *echo);
        out
    }

    /// Whether a message could count, by what anybody can read of it: costs nothing.
    #[must_use]
    pub fn promising(&self, path: usize, sender: Echo, echoes: &[Echo; ECHOES]) -> bool {
        let last = self.paths.get(path).copied().unwrap_or(0);
        let known = self.peer.is_some_and(|peer| peer.nonce == sender.nonce);
        self.echoed(echoes).is_some() && (!known || sender.seq > last)
    }

    /// The highest number of ours that the sender had heard; none: it did not know us.
    #[must_use]
    pub fn echoed(&self, echoes: &[Echo; ECHOES]) -> Option<u64> {
        echoes.iter().find(|e| e.nonce == self.own).map(|e| e.seq)
    }

    /// Decides about a message whose proof was right. `recent` is asked whether our message of that
    /// number was sent a short time ago.
    ///
    /// # Errors
    /// Unproved, replayed.
    pub fn check(
        &mut self,
        path: usize,
        sender: Echo,
        echoes: &[Echo; ECHOES],
        recent: impl FnOnce(u64) -> bool,
    ) -> Result<News, Refused> {
        let Some(echoed) = self.echoed(echoes) else {
            self.note(sender);
            return Err(Refused::Unproved);
        };
        match &mut self.peer {
            Some(peer) if peer.nonce == sender.nonce => {
                let newer = sender.seq > peer.seq;
                peer.seq = peer.seq.max(sender.seq);
                if !self.count(path, sender.seq) {
                    return Err(Refused::Replayed);
                }
                Ok(if newer { News::Newer } else { News::Again })
            }
            _ if self.retired.contains(&sender.nonce) => Err(Refused::Replayed),
            _ if !recent(echoed) => {
                self.note(sender);
                Err(Refused::Unproved)
            }
            _ => {
                if let Some(old) = self.peer.replace(sender) {
                    self.retired.push_front(old.nonce);
                    self.retired.truncate(RETIRED);
                }
                self.candidates.retain(|c| c.nonce != sender.nonce);
                self.paths.clear();
                self.count(path, sender.seq);
                Ok(News::Born)
            }
        }
    }

    /// Whether the number is new on this path.
    fn count(&mut self, path: usize, seq: u64) -> bool {
        if path >= PATHS_MAX {
            return false;
        }
        if self.paths.len() <= path {
            self.paths.resize(path + 1, 0);
        }
        let newer = seq > self.paths[path];
        self.paths[path] = self.paths[path].max(seq);
        newer
    }

    fn note(&mut self, sender: Echo) {
        let known = self.peer.is_some_and(|p| p.nonce == sender.nonce);
        if known || sender.nonce == 0 || self.retired.contains(&sender.nonce) {
            return;
        }
        let before = self.candidates.iter().find(|c| c.nonce == sender.nonce).map(|c| c.seq);
        self.candidates.retain(|c| c.nonce != sender.nonce);
        let seq = sender.seq.max(before.unwrap_or(0));
        self.candidates.push_front(Echo { seq, ..sender });
        self.candidates.truncate(ECHOES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(nonce: u64, seq: u64) -> Echo {
        Echo { nonce, seq }
    }

    fn to(nonce: u64, seq: u64) -> [Echo; ECHOES] {
        [echo(nonce, seq), Echo::default(), Echo::default(), Echo::default()]
    }

    #[test]
    fn two_strangers_know_each_other_after_two_messages() {
        let (mut a, mut b) = (Guard::new(1), Guard::new(2));
        assert_eq!(b.check(0, echo(1, 10), &a.echoes(), |_| true), Err(Refused::Unproved));
        assert_eq!(a.check(0, echo(2, 20), &b.echoes(), |seq| seq == 10), Ok(News::Born));
        assert_eq!(b.check(0, echo(1, 11), &a.echoes(), |seq| seq == 20), Ok(News::Born));
        assert_eq!(a.check(0, echo(2, 21), &b.echoes(), |_| false), Ok(News::Newer));
        assert_eq!(a.check(0, echo(2, 21), &b.echoes(), |_| true), Err(Refused::Replayed));
        assert_eq!(a.check(1, echo(2, 21), &b.echoes(), |_| false), Ok(News::Again));
        assert_eq!(a.check(1, echo(2, 22), &b.echoes(), |_| false), Ok(News::Newer));
        assert_eq!(a.check(1, echo(2, 21), &b.echoes(), |_| true), Err(Refused::Replayed));
    }

    #[test]
    fn no_earlier_life_comes_back() {
        let mut guard = Guard::new(1);
        let recent = |seq: u64| seq > 90;
        for life in 100..200 {
            // The first time with an old echo, as somebody would play it who recorded it.
            assert_eq!(guard.check(0, echo(life, 5), &to(1, 3), recent), Err(Refused::Unproved));
            assert_eq!(guard.check(0, echo(life, 5), &to(1, 95), recent), Ok(News::Born));
        }
        for life in 100..199 {
            let played = guard.check(0, echo(life, 6), &to(1, 3), recent);
            assert!(matches!(played, Err(Refused::Replayed | Refused::Unproved)), "{life}");
        }
        assert_eq!(guard.check(0, echo(198, 7), &to(1, 99), recent), Err(Refused::Replayed));
        assert_eq!(
            guard.echoes()[0],
            echo(199, 5),
            "the live one is answered first, whatever comes"
        );
        assert!(guard.candidates.len() <= ECHOES && guard.retired.len() <= RETIRED);
    }
}
