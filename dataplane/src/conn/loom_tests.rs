//! Every interleaving of small programs, with every value the memory model lets a load return.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p dataplane --release --lib loom`.

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::address::{Address, DeviceId, Mac, RealId, ServiceId, VipId};
use crate::clock::Tick;

/// Explores `program`; threads are preempted at most `preemptions` times in one execution.
fn explore(preemptions: usize, program: impl Fn() + Sync + Send + 'static) {
    model(preemptions).check(program);
}

fn model(preemptions: usize) -> loom::model::Builder {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 20_000;
    model
}

fn conn(port: u16, real: u16) -> Conn {
    Conn {
        identity: Identity {
            client: Address::v4(0xc000_0201),
            client_port: port,
            vip: VipId(1),
            vip_port: 80,
            protocol: 6,
            service: ServiceId(1),
            real: RealId(real),
            real_port: real,
            local: None,
        },
        last_hop: LastHop { mac: Mac([real as u8; 6]), device: DeviceId(real as u8) },
        state: State::SynReceived,
        synack: false,
        seen: Tick(u32::from(real)),
        created: Tick(u32::from(real)),
    }
}

fn open(table: &Table, conn: &Conn) -> Option<Outcome> {
    let hash = table.hash_of(&conn.identity);
    let reservation = table.reserve(hash, &mut |_, _| {})?;
    let same_reply = |other: &Identity| other.real == conn.identity.real;
    Some(table.insert(reservation, hash, conn, same_reply, &mut |_, _| {}))
}

fn opened(table: &Table, conn: &Conn) -> Handle {
    match open(table, conn) {
        Some(Outcome::Inserted(handle)) => handle,
        other => panic!("not inserted: {other:?}"),
    }
}

/// All live connections; and that counts, index and free list agree with them.
fn settled(table: &Table) -> Vec<Conn> {
    let mut conns = Vec::new();
    table.each(|handle, conn| {
        let hash = table.hash_of(&conn.identity);
        let found = table.find_now(hash, |other| *other == conn.identity).expect("in the index");
        assert_eq!(found.handle, handle);
        conns.push(*conn);
    });
    assert_eq!(table.used() as usize, conns.len());
    let half_open = conns.iter().filter(|conn| conn.state.is_half_open()).count();
    assert_eq!(table.half_open() as usize, half_open);
    let mut free = 0;
    while table.free.pop().is_some() {
        free += 1;
    }
    assert_eq!(free + conns.len(), table.capacity() as usize, "an entry leaked");
    conns
}

#[test]
fn loom_a_reader_never_sees_half_of_two_connections() {
    explore(3, || {
        let table = Arc::new(Table::new_private(1, 1));
        let (a, b) = (conn(1, 7), conn(2, 8));
        let first = opened(&table, &a);
        let reader = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                if let Some(found) = table.get(0, |_| true) {
                    assert!(found.conn == a || found.conn == b, "torn: {found:?}");
                }
            })
        };
        table.remove(&first).expect("nobody else removes it");
        opened(&table, &b);
        reader.join().unwrap();
        assert_eq!(settled(&table), [b]);
    });
}

#[test]
fn loom_two_workers_that_open_one_connection_end_with_one() {
    explore(3, || {
        let table = Arc::new(Table::new_private(2, 2));
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || open(&table, &conn(1, 8)).unwrap())
        };
        let outcomes = [open(&table, &conn(1, 7)).unwrap(), other.join().unwrap()];
        let conns = settled(&table);
        assert_eq!(conns.len(), 1, "{outcomes:?}");
        let mut inserted = 0;
        for outcome in outcomes {
            match outcome {
                Outcome::Inserted(_) => inserted += 1,
                Outcome::Exists(found) => assert_eq!(found.conn.identity, conns[0].identity),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(inserted, 1);
    });
}

#[test]
fn loom_two_workers_that_take_different_slots_end_with_one() {
    explore(2, || {
        let table = Arc::new(Table::new_private(3, 3));
        // In the same bucket, and going: one worker may see its slot taken and the other free.
        let mut neighbor = conn(1, 5);
        neighbor.identity.vip_port = 90;
        let neighbor = opened(&table, &neighbor);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                assert!(table.remove(&neighbor).is_some());
                open(&table, &conn(1, 8)).unwrap()
            })
        };
        let outcomes = [open(&table, &conn(1, 7)).unwrap(), other.join().unwrap()];
        assert_eq!(settled(&table).len(), 1, "{outcomes:?}");
        let inserted = |outcome: &&Outcome| matches!(outcome, Outcome::Inserted(_));
        assert_eq!(outcomes.iter().filter(inserted).count(), 1);
    });
}

#[test]
fn loom_three_workers_that_open_one_connection_end_with_one() {
    // All with one preemption takes over a minute; the pairs above are explored whole.
    let mut model = model(1);
    model.max_duration = Some(std::time::Duration::from_secs(20));
    model.check(|| {
        let table = Arc::new(Table::new_private(3, 3));
        let others = [8, 9].map(|real| {
            let table = Arc::clone(&table);
            thread::spawn(move || _ = open(&table, &conn(1, real)).unwrap())
        });
        let _ = open(&table, &conn(1, 7)).unwrap();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(settled(&table).len(), 1);
    });
}

#[test]
fn loom_connections_with_the_same_replies_never_both_live() {
    explore(3, || {
        let table = Arc::new(Table::new_private(2, 2));
        let mut twin = conn(1, 7);
        twin.identity.vip_port = 81;
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || open(&table, &twin).unwrap())
        };
        let outcomes = [open(&table, &conn(1, 7)).unwrap(), other.join().unwrap()];
        assert_eq!(settled(&table).len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::ReplyConflict)));
    });
}

#[test]
fn loom_opening_and_removing_one_connection_agree_on_what_is_left() {
    explore(3, || {
        let table = Arc::new(Table::new_private(2, 2));
        let first = opened(&table, &conn(1, 7));
        let remover = {
            let table = Arc::clone(&table);
            thread::spawn(move || assert!(table.remove(&first).is_some()))
        };
        let outcome = open(&table, &conn(1, 8)).unwrap();
        remover.join().unwrap();
        match outcome {
            Outcome::Inserted(_) => assert_eq!(settled(&table), [conn(1, 8)]),
            Outcome::Exists(found) => {
                assert_eq!(found.handle, first);
                assert!(settled(&table).is_empty());
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn loom_a_late_touch_does_not_reach_the_next_owner_of_the_entry() {
    explore(3, || {
        // One more half-open than there are: `touch` counts a moment after it changed the state.
        let table = Arc::new(Table::new_private(1, 2));
        let first = opened(&table, &conn(1, 7));
        let found = table.get(first.index(), |_| true).unwrap();
        let late = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                let hop = LastHop { mac: Mac([1; 6]), device: DeviceId(1) };
                table.set_last_hop(&found.handle, hop);
                table.touch(&found, State::Established, true, Tick(9))
            })
        };
        let removed = table.remove(&first).expect("nobody else removes it");
        opened(&table, &conn(2, 8));
        let touched = late.join().unwrap();
        assert_eq!(touched, removed.state == State::Established);
        assert_eq!(settled(&table), [conn(2, 8)]);
    });
}

#[test]
fn loom_one_of_two_removers_wins() {
    explore(3, || {
        let table = Arc::new(Table::new_private(1, 1));
        let first = opened(&table, &conn(1, 7));
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.remove(&first).is_some())
        };
        let here = table.remove(&first).is_some();
        assert!(here != other.join().unwrap());
        assert!(settled(&table).is_empty());
    });
}

#[test]
fn loom_the_free_list_gives_no_entry_twice() {
    explore(3, || {
        let table = Arc::new(Table::new_private(3, 3));
        let pop = |table: &Table| table.free.pop().expect("three entries, at most three out");
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                // The top comes back and what was below it does not: to a worker that was
                // interrupted between reading the two, the list looks unchanged.
                let (first, second) = (pop(&table), pop(&table));
                table.free.push(first);
                second
            })
        };
        let mine = pop(&table);
        let theirs = other.join().unwrap();
        assert!(mine != theirs);
        let last = pop(&table);
        assert!(last != mine && last != theirs, "{mine} {theirs} {last}");
    });
}
