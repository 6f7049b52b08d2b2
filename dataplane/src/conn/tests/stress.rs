//! Real threads on real memory, for about two seconds.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::clock;

/// A connection whose words can be checked against one another.
fn marked(client: u32, mark: u16) -> Conn {
    let mut conn = conn(client, 1);
    conn.identity.real = RealId(mark);
    conn.identity.real_port = mark ^ client as u16 ^ 0x5555;
    conn.identity.service = ServiceId(mark.rotate_left(5));
    conn.created = Tick(u32::from(mark) * 3);
    conn
}

fn assert_whole(conn: &Conn) {
    let Identity { client, real, .. } = conn.identity;
    let want = marked(client.v4_bits(), real.0);
    assert_eq!((conn.identity, conn.created), (want.identity, want.created), "torn");
}

/// Splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.next() >> 33) as u32 % n
    }
}

/// What a worker did, as the sums of a ledger.
fn work(table: &Table, seed: u64, inserted: &AtomicU32, ended: &AtomicU32) {
    let mut random = Random(seed);
    let until = clock::now().after(Duration::from_millis(1500));
    let mut cursor = 0;
    let end = |conn: Conn| {
        assert_whole(&conn);
        ended.fetch_add(1, Ordering::Relaxed);
    };
    while clock::now() < until {
        for _ in 0..64 {
            let (client, now) = (random.below(96), Tick(100 + random.below(50)));
            let conn = marked(client, random.below(4) as u16);
            let hash = table.hash_of(&conn.identity);
            let probe = table.finder().prefetch_entry(hash);
            let found = table.find(hash, probe, |id| id.client == conn.identity.client);
            if let Some(found) = found {
                assert_whole(&found.conn);
                match random.below(4) {
                    0 => drop(table.remove(&found.handle).map(end)),
                    1 => drop(table.touch(&found, State::Established, true, now)),
                    2 => table.set_last_hop(&found.handle, LastHop::default()),
                    _ => drop(table.touch(&found, State::TimeWait, true, now)),
                }
            } else {
                match open_with(table, &conn, &mut |_, conn| end(conn)) {
                    Some(Outcome::Inserted(_)) => _ = inserted.fetch_add(1, Ordering::Relaxed),
                    Some(Outcome::Exists(found)) => assert_whole(&found.conn),
                    _ => {}
                }
            }
        }
        table.sweep(&mut cursor, 8, Tick(150), |_| 45, |found| end(found.conn));
    }
}

#[test]
fn threads_that_open_find_change_and_end_the_same_connections_lose_none() {
    let table = Table::new_private(64, 24);
    let (inserted, ended) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let (table, inserted, ended) = (&table, &inserted, &ended);
            scope.spawn(move || work(table, seed * 77, inserted, ended));
        }
    });
    let left = settled(&table);
    left.iter().for_each(assert_whole);
    let (inserted, ended) = (inserted.into_inner(), ended.into_inner());
    assert_eq!(inserted - ended, left.len() as u32);
    assert!(inserted > 1000, "{inserted}: too little happened");
}
