//! The receiving side of a session: datagrams in their order, once each.

use std::collections::VecDeque;

use super::datagram::set_bit;
use super::limits::WINDOW;

/// Why data is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It has come before.
    Duplicate,
    /// Nobody may send it yet.
    OutOfWindow,
}

/// What has arrived and waits.
pub(super) struct Inbox {
    /// Everything up to this number has been taken.
    taken: u64,
    /// Those after it.
    slots: VecDeque<Option<Vec<u8>>>,
    /// How many of the slots are empty.
    missing: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { taken: 0, slots: VecDeque::new(), missing: 0 }
    }

    /// Whether data of this number would be taken: asked before its proof is looked at.
    pub(super) fn would_take(&self, number: u64) -> Result<usize, Refused> {
        let at = number.checked_sub(self.taken + 1).ok_or(Refused::Duplicate)?;
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        match self.slots.get(at) {
            _ if at >= usize::from(WINDOW) => Err(Refused::OutOfWindow),
            Some(Some(_)) => Err(Refused::Duplicate),
            Some(None) | None => Ok(at),
        }
    }

    /// Keeps data; `true` if something before it is missing, or something after it is there.
    pub(super) fn put(&mut self, number: u64, body: Vec<u8>) -> Result<bool, Refused> {
        let at = self.would_take(number)?;
        let odd = at != self.slots.len() || self.missing > 0;
        while self.slots.len() <= at {
            self.slots.push_back(None);
            self.missing += 1;
        }
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(body);
            self.missing -= 1;
        }
        Ok(odd)
    }

    /// The next in order, with its number.
    pub(super) fn take(&mut self) -> Option<(u64, Vec<u8>)> {
        let body = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        self.taken += 1;
        Some((self.taken, body))
    }

    /// Number of the last that was taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// For tests: slots in use.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.slots.len()
    }

    /// A bit for each after that: it is here.
    pub(super) fn held(&self) -> Vec<u8> {
        let mut bits = vec![0; self.slots.len().div_ceil(8)];
        for (at, slot) in self.slots.iter().enumerate() {
            if slot.is_some() {
                set_bit(&mut bits, at);
            }
        }
        bits
    }
}
