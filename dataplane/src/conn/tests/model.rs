//! Random operations on a small table, against a `HashMap` that is told what was evicted.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const CAPACITY: u32 = 40;
const HALF_OPEN: u32 = 8;

#[derive(Clone, Debug)]
enum Op {
    Open { client: u32, vip_port: u16, real: u16, state: State },
    Touch { client: u32, vip_port: u16, state: State },
    Hop { client: u32, vip_port: u16, mac: u8 },
    Remove { client: u32, vip_port: u16 },
    Sweep { count: u32 },
    Wait { ticks: u32 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let state = || {
        use State::{Close, Established, SynReceived, TimeWait, Udp, UdpNew};
        prop::sample::select(vec![
            SynReceived,
            SynReceived,
            UdpNew,
            Established,
            Udp,
            TimeWait,
            Close,
        ])
    };
    let (client, vip_port) = (|| 0..60_u32, || 80..83_u16);
    let op = prop_oneof![
        6 => (client(), vip_port(), 0..3_u16, state())
            .prop_map(|(client, vip_port, real, state)| Op::Open { client, vip_port, real, state }),
        3 => (client(), vip_port(), state())
            .prop_map(|(client, vip_port, state)| Op::Touch { client, vip_port, state }),
        1 => (client(), vip_port(), any::<u8>())
            .prop_map(|(client, vip_port, mac)| Op::Hop { client, vip_port, mac }),
        2 => (client(), vip_port()).prop_map(|(client, vip_port)| Op::Remove { client, vip_port }),
        1 => (0..CAPACITY * 2).prop_map(|count| Op::Sweep { count }),
        1 => (0..30_u32).prop_map(|ticks| Op::Wait { ticks }),
    ];
    prop::collection::vec(op, 1..300)
}

type Key = (u32, u16);

fn key(conn: &Conn) -> Key {
    (conn.identity.client.v4_bits(), conn.identity.vip_port)
}

struct Pair {
    table: Table,
    model: HashMap<Key, Conn>,
    now: Tick,
    cursor: u32,
}

impl Pair {
    fn half_open(&self) -> usize {
        self.model.values().filter(|conn| conn.state.is_half_open()).count()
    }

    fn found(&self, client: u32, vip_port: u16) -> Option<Found> {
        let hash = self.table.hash(Address::v4(client), 1, 6);
        let found = self
            .table
            .find_now(hash, |id| (id.client.v4_bits(), id.vip_port) == (client, vip_port));
        assert_eq!(found.map(|f| f.conn), self.model.get(&(client, vip_port)).copied());
        found
    }

    fn open(&mut self, client: u32, vip_port: u16, real: u16, state: State) {
        let mut conn = Conn { state, seen: self.now, created: self.now, ..conn(client, 1) };
        (conn.identity.vip_port, conn.identity.real) = (vip_port, RealId(real));
        let (full, had) = (self.model.len() == CAPACITY as usize, self.half_open());
        let model = &mut self.model;
        let outcome = open_with(&self.table, &conn, &mut |why, ended| {
            assert_eq!(model.remove(&key(&ended)), Some(ended), "as it was, and once");
            match why {
                Ended::Evicted => assert!(ended.state.is_half_open()),
                Ended::Replaced => assert!(ended.state.is_closing()),
            }
        });
        let twin = model.values().any(|other| {
            key(other).0 == client && other.identity.real.0 == real && key(other).1 != vip_port
        });
        match outcome {
            Some(Outcome::Inserted(_)) => {
                assert!(!twin, "a twin that is not closing");
                assert_eq!(model.insert(key(&conn), conn), None);
            }
            Some(Outcome::Exists(found)) => assert_eq!(model.get(&key(&conn)), Some(&found.conn)),
            Some(Outcome::ReplyConflict) => assert!(twin),
            Some(Outcome::HalfOpenLimit) => {
                assert!(state.is_half_open() && had == HALF_OPEN as usize);
            }
            Some(Outcome::TableFull) => assert!(model.len() >= 8, "a bucket is full before that"),
            None => {
                assert!(full && had == 0, "all of 40 entries are looked at, {had} are half-open")
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Open { client, vip_port, real, state } => self.open(client, vip_port, real, state),
            Op::Touch { client, vip_port, state } => {
                let Some(found) = self.found(client, vip_port) else { return };
                // As in life: nothing becomes half-open again.
                let state = if state.is_half_open() { found.conn.state } else { state };
                assert!(self.table.touch(&found, state, true, self.now));
                let seen = self.now;
                let conn = Conn { state, synack: true, seen, ..found.conn };
                self.model.insert((client, vip_port), conn);
            }
            Op::Hop { client, vip_port, mac } => {
                let Some(found) = self.found(client, vip_port) else { return };
                let last_hop = LastHop { mac: Mac([mac; 6]), device: DeviceId(mac) };
                self.table.set_last_hop(&found.handle, last_hop);
                self.model.insert((client, vip_port), Conn { last_hop, ..found.conn });
            }
            Op::Remove { client, vip_port } => {
                let Some(found) = self.found(client, vip_port) else { return };
                assert_eq!(
                    self.table.remove(&found.handle),
                    self.model.remove(&(client, vip_port))
                );
            }
            Op::Sweep { count } => {
                let (table, model, now) = (&self.table, &mut self.model, self.now);
                table.sweep(
                    &mut self.cursor,
                    count,
                    now,
                    |_| 50,
                    |Found { conn: ended, .. }| {
                        assert!(ended.idle(now) > 50);
                        assert_eq!(model.remove(&key(&ended)), Some(ended));
                    },
                );
                if count >= CAPACITY {
                    assert!(model.values().all(|conn| conn.idle(now) <= 50));
                }
            }
            Op::Wait { ticks } => self.now = Tick(self.now.0.wrapping_add(ticks)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_agrees_with_a_hash_map(ops in ops()) {
        let table = Table::new_private(CAPACITY, HALF_OPEN);
        let now = Tick(u32::MAX - 500);
        let mut pair = Pair { table, model: HashMap::new(), now, cursor: 0 };
        for op in &ops {
            pair.apply(op);
            prop_assert!(pair.half_open() <= HALF_OPEN as usize);
        }
        let live: HashMap<_, _> = settled(&pair.table).into_iter().map(|c| (key(&c), c)).collect();
        prop_assert_eq!(live, pair.model);
    }
}
