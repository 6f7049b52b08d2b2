//! Fingerprints of connections, and which of them have gone over the stream.
//!
//! Both nodes come to the same fingerprint of the same connection, whatever numbers they have given.
//! Its low eight bits are the bucket. A bucket's sum is the exclusive or of the fingerprints in it:
//! two nodes whose sums agree have the same connections.

use dataplane_api::record::{Record, octets};
use dataplane_api::sync::BUCKETS;

use crate::conn::Handle;

/// Bits of a fingerprint.
const BITS: u32 = 48;
/// Always set, so that no fingerprint is 0.
const THERE: u64 = 1 << (BITS - 1);

/// Of what a connection is, not of the state it is in; not 0.
#[must_use]
pub fn fingerprint(record: &Record) -> u64 {
    let client = halves(octets(record.client));
    let vip = halves(octets(record.vip));
    let real = halves(octets(record.real));
    let ports = u64::from(record.client_port) << 32 | u64::from(record.vip_port) << 16;
    let of = u64::from(record.service) << 8 | u64::from(record.protocol);
    let key = fold(fold(fold(SEED, client.0, client.1), vip.0, vip.1), ports, of);
    let (local, local_port) = record.local.unwrap_or((0, 0));
    let place = u64::from(record.real_port) << 48 | u64::from(local_port) << 32 | u64::from(local);
    let all = fold(fold(key, real.0, real.1), place, 0);
    all >> (64 - BITS) & !0xff | THERE | key & 0xff
}

/// The bucket of a fingerprint.
#[must_use]
pub const fn bucket(fingerprint: u64) -> u16 {
    (fingerprint & 0xff) as u16
}

const SEED: u64 = 0x2b7e_1516_28ae_d2a7;

fn halves(octets: [u8; 16]) -> (u64, u64) {
    let bits = u128::from_be_bytes(octets);
    ((bits >> 64) as u64, bits as u64)
}

/// Mixes two more numbers in; a fixed function, for it has to be the same on both nodes. Who chooses
/// their ports so that two fingerprints agree hides nothing but a difference between their own.
const fn fold(hash: u64, a: u64, b: u64) -> u64 {
    let product = (a ^ hash ^ 0x9e37_79b9_7f4a_7c15) as u128
        * (b ^ hash.rotate_left(32) ^ 0xc2b2_ae3d_27d4_eb4f) as u128;
    ((product >> 64) as u64 ^ product as u64).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// Which lives of which entries have gone over the stream, one way: eight bytes an entry.
#[derive(Debug)]
pub struct Marks {
    /// Generation 16, fingerprint 48; 0: nothing.
    words: Vec<u64>,
    sums: [u64; BUCKETS],
    count: u32,
}

impl Marks {
    /// None yet, of `capacity` entries. The memory is taken as entries are marked.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self { words: vec![0; capacity as usize], sums: [0; BUCKETS], count: 0 }
    }

    /// Forgets all; of the first `high` entries, for no other was in use.
    pub fn reset(&mut self, high: u32) {
        let high = (high as usize).min(self.words.len());
        self.words[..high].fill(0);
        (self.sums, self.count) = ([0; BUCKETS], 0);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The sums of the buckets.
    #[must_use]
    pub fn sums(&self) -> &[u64; BUCKETS] {
        &self.sums
    }

    /// The mark of an entry: generation and fingerprint.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<(u16, u64)> {
        let word = *self.words.get(index as usize)?;
        (word != 0).then_some(((word >> BITS) as u16, word << 16 >> 16))
    }

    /// Marks a life of an entry; one of another life is forgotten.
    pub fn set(&mut self, handle: Handle, fingerprint: u64) {
        self.forget(handle.index());
        if let Some(word) = self.words.get_mut(handle.index() as usize) {
            *word = u64::from(handle.generation()) << BITS | fingerprint;
            self.sums[usize::from(bucket(fingerprint))] ^= fingerprint;
            self.count += 1;
        }
    }

    /// Forgets this life of an entry; true if it was marked.
    pub fn clear(&mut self, handle: Handle) -> bool {
        let marked = self.get(handle.index()).is_some_and(|(life, _)| life == handle.generation());
        if marked {
            self.forget(handle.index());
        }
        marked
    }

    /// Forgets whatever life of the entry is marked.
    pub fn forget(&mut self, index: u32) {
        if let Some((_, fingerprint)) = self.get(index) {
            self.words[index as usize] = 0;
            self.sums[usize::from(bucket(fingerprint))] ^= fingerprint;
            self.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::record::Operation;

    use super::*;

    fn record() -> Record {
        Record {
            operation: Operation::Upsert,
            state: 4,
            synack: true,
            protocol: 6,
            mac: [2; 6],
            segment: 1,
            service: 2,
            client: "203.0.113.9".parse().unwrap(),
            vip: "192.0.2.1".parse().unwrap(),
            real: "10.0.0.1".parse().unwrap(),
            client_port: 3,
            vip_port: 4,
            real_port: 5,
            local: None,
            origin: 6,
        }
    }

    #[test]
    fn a_fingerprint_is_of_what_a_connection_is_and_of_nothing_else() {
        let print = fingerprint(&record());
        let changing = Record { state: 8, synack: false, mac: [9; 6], segment: 7, ..record() };
        assert_eq!(fingerprint(&Record { origin: 1, ..changing }), print);
        let address = "10.0.0.2".parse().unwrap();
        let others = [
            Record { client: address, ..record() },
            Record { vip: address, ..record() },
            Record { real: address, ..record() },
            Record { client_port: 9, ..record() },
            Record { vip_port: 9, ..record() },
            Record { real_port: 9, ..record() },
            Record { protocol: 17, ..record() },
            Record { service: 9, ..record() },
            Record { local: Some((1, 1)), ..record() },
        ];
        assert!(others.iter().all(|other| fingerprint(other) != print));
        let key = |r: &Record| bucket(fingerprint(r));
        assert_eq!(key(&others[2]), key(&record()), "the bucket is the key's");
        // Frozen: nodes of two versions have to agree.
        assert_eq!(print, FROZEN);
    }

    const FROZEN: u64 = 0x9156_0d85_c84e;

    #[test]
    fn buckets_fill_evenly() {
        let mut counts = [0_u32; BUCKETS];
        for port in 0..25_600 {
            let client_port = port;
            counts[usize::from(bucket(fingerprint(&Record { client_port, ..record() })))] += 1;
        }
        assert!(counts.iter().all(|count| (50..=150).contains(count)), "{counts:?}");
    }
}
