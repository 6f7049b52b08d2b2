use super::*;
use proptest::prelude::*;

fn way(due: u64, sent: u64, received: u64) -> Direction {
    Direction { due, sent, received, lost: sent - received, ..Direction::default() }
}

fn line(place: &str, packets: u64) -> Line {
    Line { place: place.to_owned(), packets }
}

fn reading() -> Reading {
    let names = |a: &str, b: &str| {
        [a, b].map(|n| (n.to_owned(), Interface { rx_dropped: 5, tx_dropped: 7 })).into()
    };
    let sockets = ["rx_dropped", "rx_ring_full", "rx_fill_ring_empty_descs", "tx_ring_empty_descs"];
    let sockets = sockets.map(|n| (("front".to_owned(), n.to_owned()), 100));
    Reading {
        interfaces: names("cli0", "srv0"),
        softnet_dropped: 50,
        balancer: Some(Balancer {
            boot_id: "a".to_owned(),
            drops: [("table_full".to_owned(), 9)].into(),
            sockets: sockets.into(),
            interfaces: names("front", "back"),
            active: Some(0),
        }),
        cores: Vec::new(),
    }
}

fn sum(ledger: &Ledger) -> i64 {
    ledger.lines[1..].iter().map(|l| l.packets as i64).sum::<i64>() + ledger.unexplained
}

fn place(ledger: &Ledger, place: &str) -> u64 {
    ledger.lines.iter().find(|l| l.place == place).map_or(0, |l| l.packets)
}

#[test]
fn without_loss_the_sum_is_what_was_received() {
    let ledger = balance(&way(500, 500, 500), &way(300, 300, 300), &[], &reading(), &reading());
    assert_eq!(ledger.lines.len(), 3);
    assert_eq!((ledger.unexplained, ledger.limit), (0, Limit::None));
    assert_eq!(sum(&ledger), 800);
    assert!(ledger.notes.is_empty());
}

#[test]
fn every_place_of_loss_has_its_line_and_the_sum_is_equal() {
    let (before, mut after) = (reading(), reading());
    let balancer = after.balancer.as_mut().unwrap();
    balancer.drops.insert("table_full".to_owned(), 9 + 40);
    balancer.drops.insert("no_real".to_owned(), 3);
    *balancer.sockets.get_mut(&("front".to_owned(), "rx_ring_full".to_owned())).unwrap() += 20;
    balancer.interfaces.get_mut("back").unwrap().tx_dropped += 5;
    after.interfaces.get_mut("cli0").unwrap().tx_dropped += 6;
    let here = [line("generator srv0: rx ring full", 11)];
    let mut requests = way(1000, 1000, 900);
    (requests.corrupted, requests.strayed) = (1, 2);
    let ledger = balance(&requests, &way(0, 0, 0), &here, &before, &after);
    assert_eq!(sum(&ledger), 1000);
    assert_eq!(ledger.unexplained, 100 - (40 + 3 + 20 + 5 + 6 + 11 + 3));
    assert_eq!(place(&ledger, "balancer drop: table_full"), 40);
    assert_eq!(place(&ledger, "balancer drop: no_real"), 3);
    assert_eq!(place(&ledger, "balancer front: rx ring full"), 20);
    assert_eq!(place(&ledger, "queue after balancer back (tx dropped)"), 5);
    assert_eq!(place(&ledger, "queue after cli0 (tx dropped)"), 6);
    assert_eq!(place(&ledger, "generator srv0: rx ring full"), 11);
    assert_eq!(place(&ledger, "arrived corrupted"), 1);
    assert_eq!(ledger.limit, Limit::Device);
}

#[test]
fn what_several_counters_saw_is_counted_once() {
    let (before, mut after) = (reading(), reading());
    // A full backlog of the balancer's veth: counted by its sender, itself and softnet.
    after.interfaces.get_mut("cli0").unwrap().tx_dropped += 10;
    after.softnet_dropped += 10;
    let balancer = after.balancer.as_mut().unwrap();
    balancer.interfaces.get_mut("front").unwrap().rx_dropped += 10 + 4 + 2;
    // A socket without buffers: counted by it twice, and by the interface.
    *balancer.sockets.get_mut(&("front".to_owned(), "rx_dropped".to_owned())).unwrap() += 4;
    let empty = ("front".to_owned(), "rx_fill_ring_empty_descs".to_owned());
    *balancer.sockets.get_mut(&empty).unwrap() += 4;
    let ledger = balance(&way(50, 50, 34), &way(0, 0, 0), &[], &before, &after);
    assert_eq!(ledger.unexplained, 0, "{ledger:?}");
    assert_eq!(place(&ledger, "balancer interfaces: rx dropped"), 2);
}

#[test]
fn softnet_explains_no_more_than_is_missing() {
    let (before, mut after) = (reading(), reading());
    after.softnet_dropped += 1000;
    let ledger = balance(&way(50, 50, 45), &way(0, 0, 0), &[], &before, &after);
    assert_eq!(place(&ledger, "softnet backlog of this machine"), 5);
    assert_eq!((ledger.unexplained, ledger.limit), (0, Limit::Unknown));
    let whole = balance(&way(50, 50, 50), &way(0, 0, 0), &[], &before, &after);
    assert_eq!((whole.lines.len(), whole.unexplained, whole.limit), (3, 0, Limit::None));
}

#[test]
fn counters_that_explain_too_much_are_said_to() {
    let (before, mut after) = (reading(), reading());
    after.balancer.as_mut().unwrap().drops.insert("no_service".to_owned(), 8);
    after.balancer.as_mut().unwrap().drops.insert("neighbor_ignored".to_owned(), 80);
    let ledger = balance(&way(50, 50, 45), &way(0, 0, 0), &[], &before, &after);
    assert_eq!(ledger.unexplained, -3);
    assert!(ledger.notes[0].contains("3 packets more than were lost"), "{:?}", ledger.notes);
    assert_eq!(sum(&ledger), 50);
}

#[test]
fn what_no_counter_saw_is_unexplained() {
    let ledger = balance(&way(50, 50, 45), &way(50, 50, 50), &[], &reading(), &reading());
    assert_eq!((ledger.unexplained, ledger.limit), (5, Limit::Unknown));
}

#[test]
fn a_slow_generator_is_never_the_loss_of_the_balancer() {
    let ledger = balance(&way(10_000, 7000, 7000), &way(0, 0, 0), &[], &reading(), &reading());
    assert_eq!((ledger.unexplained, ledger.limit), (0, Limit::Generator));
    assert_eq!(ledger.lines[0].packets, 7000);
    assert!(fell_behind(10_000, 9900) && !fell_behind(10_000, 9930));
    assert!(!fell_behind(1_000_000, 999_000) && fell_behind(1_000_000, 998_900));
    assert!(!fell_behind(10, 20));
    // Its own full rings are its own too, and those of its receiving side.
    for (place, limit) in [
        ("generator cli0: tx refused", Limit::Generator),
        ("generator srv0: rx dropped", Limit::Receiver),
    ] {
        let here = [line(place, 5)];
        let ledger = balance(&way(50, 50, 45), &way(0, 0, 0), &here, &reading(), &reading());
        assert_eq!((ledger.unexplained, ledger.limit), (0, limit));
    }
}

#[test]
fn a_balancer_that_restarted_or_went_silent_is_a_note_and_no_sum() {
    for change in [
        |b: &mut Option<Balancer>| b.as_mut().unwrap().boot_id = "b".to_owned(),
        |b: &mut Option<Balancer>| *b = None,
    ] {
        let mut after = reading();
        after.balancer.as_mut().unwrap().drops.insert("no_real".to_owned(), 5);
        change(&mut after.balancer);
        let ledger = balance(&way(50, 50, 45), &way(0, 0, 0), &[], &reading(), &after);
        assert_eq!((ledger.unexplained, ledger.notes.len()), (5, 1), "{:?}", ledger.notes);
    }
}

#[test]
fn an_interface_that_vanished_is_a_note() {
    let mut after = reading();
    after.interfaces.remove("srv0");
    let ledger = balance(&way(50, 50, 45), &way(0, 0, 0), &[], &reading(), &after);
    assert_eq!(ledger.unexplained, 5);
    assert!(ledger.notes[0].contains("srv0 is gone"));
}

#[test]
fn use_of_cores_is_a_share_of_their_time() {
    let at =
        |total, idle, interrupts, stolen| CoreTime { core: 1, total, idle, interrupts, stolen };
    let used = cores(&[at(1000, 500, 10, 0)], &[at(1200, 550, 60, 2)]);
    let core = used[0];
    assert_eq!((core.core, core.busy, core.softirq, core.stolen), (1, 0.75, 0.25, 0.01));
    assert!(cores(&[at(5, 5, 0, 0)], &[at(5, 5, 0, 0)]).is_empty(), "no time has passed");
}

#[test]
fn what_an_interface_refused_and_counted_is_counted_once() {
    let (before, mut after) = (reading(), reading());
    after.interfaces.get_mut("cli0").unwrap().tx_dropped += 6;
    let here = [line("generator cli0: tx refused", 10)];
    let ledger = balance(&way(50, 50, 40), &way(0, 0, 0), &here, &before, &after);
    assert_eq!(place(&ledger, "generator cli0: tx refused"), 4);
    assert_eq!((ledger.unexplained, ledger.limit), (0, Limit::Device));
    let ledger = balance(&way(50, 50, 40), &way(0, 0, 0), &here, &before, &before);
    assert_eq!((ledger.unexplained, ledger.limit), (0, Limit::Generator), "counted by nobody else");
}

proptest! {
    #[test]
    fn whatever_the_counters_say_the_lines_add_up(
        sent in 0u64..1 << 40, lost in 0u64..1000, grown in prop::collection::vec(0u64..500, 8),
        flood in 0u64..1000, arrived in 0u64..1000,
    ) {
        let (before, mut after) = (reading(), reading());
        let sent = sent + lost;
        after.interfaces.get_mut("cli0").unwrap().tx_dropped += grown[0];
        after.interfaces.get_mut("srv0").unwrap().rx_dropped += grown[1];
        after.softnet_dropped += grown[2];
        let balancer = after.balancer.as_mut().unwrap();
        balancer.drops.insert("no_real".to_owned(), grown[3]);
        balancer.interfaces.get_mut("front").unwrap().rx_dropped += grown[4];
        let full = ("front".to_owned(), "rx_ring_full".to_owned());
        *balancer.sockets.get_mut(&full).unwrap() += grown[5];
        let here = [
            line("generator srv0: rx ring full", grown[6]),
            line("generator cli0: tx refused", grown[7]),
        ];
        let beside = Beside { sent: flood, arrived };
        let (requests, replies) = (way(sent, sent, sent - lost), way(7, 7, 7));
        let ledger = balance_beside(beside, &requests, &replies, &here, &before, &after);
        prop_assert_eq!(sum(&ledger), (sent + 7 + flood) as i64);
        prop_assert_eq!(ledger.lines[0].packets, sent + 7 + flood);
        let told = ledger.notes.iter().any(|n| n.contains("more than were lost"));
        prop_assert_eq!(told, ledger.unexplained < 0);
        prop_assert_eq!(ledger.limit == Limit::None, lost == 0);
    }
}
