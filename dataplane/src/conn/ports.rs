//! Local ports of full NAT: which are taken, and by which connection.
//!
//! A real's reply to full NAT carries a local address and port, and nothing of the client; so this
//! array says, at the place the two name, which entry of the table it is. Shared by all workers. The
//! ports are dealt out among them only so that they do not compete for one; a compare-and-swap
//! decides.

use dataplane_api::service::PortRange;

use super::memory::{Region, Unavailable};
use super::sync::{AtomicU32, Ordering};
use crate::limits;

/// The local ports.
#[derive(Debug)]
pub struct Ports {
    /// For each (protocol, local address, port): number plus one of the entry; 0 is free.
    entries: Region<AtomicU32>,
    addresses: usize,
}

const PORTS: usize = 1 << 16;
/// Odd, without a pattern: 2^32 over the golden ratio.
const SPREAD: u32 = 0x9e37_79b9;
const TCP: u8 = 6;
const UDP: u8 = 17;

impl Ports {
    /// Bytes of memory that an address takes when all its ports have been used.
    pub const BYTES: usize = 2 * PORTS * size_of::<AtomicU32>();

    /// All ports of `addresses` local addresses, free. An address takes up to [`Self::BYTES`] of
    /// memory, as its ports are used.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(addresses: usize) -> Result<Self, Unavailable> {
        let addresses = addresses.min(limits::LOCAL_ADDRESSES);
        Ok(Self { entries: Region::reserve(2 * addresses * PORTS)?, addresses })
    }

    /// Takes a port for the entry `entry`, on one of the local addresses. It
    /// tries [`limits::PORT_TRIES`] ports of this worker's on each, from `cursor` on, then as many of
    /// all workers'. `cursor` belongs to the worker; it makes a port rest before it is used again.
    #[allow(clippy::too_many_arguments)]
    pub fn allocate(
        &self,
        protocol: u8,
        local_indices: &[u8],
        worker: usize,
        workers: usize,
        range: PortRange,
        cursor: &mut u32,
        entry: u32,
    ) -> Option<(u8, u16)> {
        let workers = u32::try_from(workers).unwrap_or(1).max(1);
        let worker = u32::try_from(worker).unwrap_or(0) % workers;
        for (step, offset) in [(workers, worker), (1, 0)] {
            // Every allocation begins elsewhere, so that the addresses fill alike: full ones in front
            // would cost each new connection a thousand tries apiece.
            let start = cursor.wrapping_mul(SPREAD) as usize >> 16;
            for n in 0..local_indices.len() {
                let local = local_indices[(start + n) % local_indices.len()];
                let ports = Share { range, step, offset };
                if let Some(port) = self.take(protocol, local, ports, cursor, entry) {
                    return Some((local, port));
                }
            }
        }
        None
    }

    fn take(
        &self,
        protocol: u8,
        local: u8,
        ports: Share,
        cursor: &mut u32,
        entry: u32,
    ) -> Option<u16> {
        let count = ports.count();
        for _ in 0..count.min(limits::PORT_TRIES) {
            let port = ports.nth(*cursor % count);
            *cursor = cursor.wrapping_add(1);
            if self.claim(protocol, local, port, entry) {
                return Some(port);
            }
        }
        None
    }

    /// Takes this very port; false if it is taken already, or there is no such address. For
    /// connections that were adopted or replicated.
    #[must_use]
    pub fn claim(&self, protocol: u8, local: u8, port: u16, entry: u32) -> bool {
        let (ok, fail) = (Ordering::AcqRel, Ordering::Relaxed);
        self.slot(protocol, local, port).is_some_and(|slot| {
            // The plain load first: it does not disturb other workers.
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, entry.saturating_add(1), ok, fail).is_ok()
        })
    }

    /// The entry that uses this port. It may have ended since: ask [`super::Table::get`], and compare
    /// the local port there.
    #[inline]
    #[must_use]
    pub fn lookup(&self, protocol: u8, local: u8, port: u16) -> Option<u32> {
        self.slot(protocol, local, port)?.load(Ordering::Acquire).checked_sub(1)
    }

    /// Asks for the cache line that [`Self::lookup`] will read.
    #[inline]
    pub fn prefetch(&self, protocol: u8, local: u8, port: u16) {
        if let Some(slot) = self.slot(protocol, local, port) {
            crate::prefetch::prefetch(slot);
        }
    }

    /// Gives a port back: by whoever ended its connection, once.
    pub fn release(&self, protocol: u8, local: u8, port: u16) {
        if let Some(slot) = self.slot(protocol, local, port) {
            slot.store(0, Ordering::Release);
        }
    }

    #[inline(always)]
    fn slot(&self, protocol: u8, local: u8, port: u16) -> Option<&AtomicU32> {
        let table = match protocol {
            TCP => 0,
            UDP => 1,
            _ => return None,
        };
        let local = usize::from(local);
        if local >= self.addresses {
            return None;
        }
        self.entries.get((table * self.addresses + local) * PORTS + usize::from(port))
    }
}

/// Every `step`-th port of a range.
#[derive(Clone, Copy)]
struct Share {
    range: PortRange,
    step: u32,
    offset: u32,
}

impl Share {
    fn count(self) -> u32 {
        let first = u32::from(self.range.first) + self.offset;
        (u32::from(self.range.last) + self.step).saturating_sub(first) / self.step
    }

    /// The `n`-th, which must be less than `count`.
    fn nth(self, n: u32) -> u16 {
        (u32::from(self.range.first) + self.offset + n * self.step) as u16
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const RANGE: PortRange = PortRange { first: 1024, last: 65535 };

    #[test]
    fn every_port_of_a_range_is_given_once_and_found_again() {
        let ports = Ports::new(2).unwrap();
        let range = PortRange { first: 40_000, last: 40_099 };
        let mut cursors = [0, 0, 0];
        let mut given = HashSet::new();
        for entry in 0..200 {
            let worker = entry as usize % 3;
            let cursor = &mut cursors[worker];
            let (local, port) =
                ports.allocate(6, &[0, 1], worker, 3, range, cursor, entry).expect("200 ports");
            assert!(range.contains(port));
            assert!(given.insert((local, port)));
            assert_eq!(ports.lookup(6, local, port), Some(entry));
            assert_eq!(ports.lookup(17, local, port), None);
        }
        assert_eq!(ports.allocate(6, &[0, 1], 0, 3, range, &mut 0, 9), None);
        assert!(ports.allocate(17, &[1], 0, 3, range, &mut 0, 9).is_some());
        ports.release(6, 1, 40_050);
        assert_eq!(ports.allocate(6, &[0, 1], 2, 3, range, &mut 7, 9), Some((1, 40_050)));
    }

    #[test]
    fn workers_keep_apart_while_there_is_room() {
        let ports = Ports::new(1).unwrap();
        let mut cursors = [0, 0];
        for entry in 0..2000 {
            let worker = entry as usize % 2;
            let cursor = &mut cursors[worker];
            let (_, port) = ports.allocate(6, &[0], worker, 2, RANGE, cursor, entry).unwrap();
            assert_eq!(usize::from(port - RANGE.first) % 2, worker);
        }
    }

    #[test]
    fn a_released_port_rests_until_the_others_were_used() {
        let ports = Ports::new(1).unwrap();
        let mut cursor = 0;
        let (_, first) = ports.allocate(17, &[0], 0, 1, RANGE, &mut cursor, 1).unwrap();
        ports.release(17, 0, first);
        let (_, second) = ports.allocate(17, &[0], 0, 1, RANGE, &mut cursor, 1).unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn what_does_not_exist_is_refused_and_not_found() {
        let ports = Ports::new(1).unwrap();
        assert!(ports.claim(6, 0, 80, 5));
        assert!(!ports.claim(6, 0, 80, 6), "taken");
        assert!(!ports.claim(6, 1, 80, 6), "no such address");
        assert!(!ports.claim(1, 0, 80, 6), "no such protocol");
        assert_eq!(ports.lookup(6, 200, 80), None);
        ports.release(6, 200, 80);
        let narrow = PortRange { first: 65_535, last: 65_535 };
        let got: Vec<_> =
            (0..3).map(|w| ports.allocate(6, &[0], w, 64, narrow, &mut 0, 1)).collect();
        assert_eq!(got, [Some((0, 65_535)), None, None]);
    }

    #[test]
    fn four_threads_never_share_a_port() {
        let ports = Ports::new(1).unwrap();
        let range = PortRange { first: 1000, last: 4999 };
        let taken: Vec<u16> = std::thread::scope(|scope| {
            let take = |worker: usize| {
                let ports = &ports;
                move || {
                    let mut cursor = 0;
                    let next =
                        |_| ports.allocate(6, &[0], worker, 4, range, &mut cursor, worker as u32);
                    (0..1000).map_while(next).map(|(_, port)| port).collect::<Vec<_>>()
                }
            };
            let threads: Vec<_> = (0..4).map(|worker| scope.spawn(take(worker))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 4000);
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 4000);
    }
}
