use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::event::Severity;

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn target(name: &str, severity: Severity) -> Arc<Target> {
    Arc::new(Target {
        name: name.to_owned(),
        filter: Filter { severity, services: Vec::new() },
        timeout: Duration::from_secs(10),
        how: How::Command(Command { argv: vec!["/bin/true".to_owned()] }),
    })
}

/// Alerts under a clock, and everything that was delivered.
struct Scene {
    alerts: Alerts,
    now: u64,
    /// Whether deliveries fail.
    broken: bool,
    got: Vec<(u64, Message)>,
    events: Vec<Event>,
}

impl Scene {
    fn new(digest_s: u64, targets: Vec<Arc<Target>>) -> Self {
        let mut alerts = Alerts::default();
        let digest = Duration::from_secs(digest_s);
        alerts.configure(&Settings { digest, targets, ..Settings::default() }, at(0));
        Self { alerts, now: 0, broken: false, got: Vec::new(), events: Vec::new() }
    }

    fn one(digest_s: u64) -> Self {
        Self::new(digest_s, vec![target("ops", Severity::Warning)])
    }

    fn event(&mut self, kind: Kind, real: &str) {
        let event = Event::new(kind, at(self.now), "why").service("web").real(real);
        self.alerts.event(&event, self.now, at(self.now));
        self.settle();
    }

    /// Everything that is due at this moment.
    fn settle(&mut self) {
        for delivery in self.alerts.due(&Sender::default(), self.now, at(self.now)) {
            let result = if self.broken { Err("refused".to_owned()) } else { Ok(()) };
            if !self.broken {
                self.got.push((self.now, (*delivery.message).clone()));
            }
            self.alerts.delivered(delivery.id, result, at(self.now));
        }
        let told: Vec<_> = self.alerts.events().collect();
        self.events.extend(told);
    }

    /// Time passes, waking only when something is due.
    fn until(&mut self, ms: u64) {
        for _ in 0..100_000 {
            let deadline = self.alerts.next_deadline().map_or(u64::MAX, Instant::as_millis);
            if deadline > ms {
                self.now = ms;
                return;
            }
            assert!(deadline >= self.now || !self.alerts.targets().is_empty());
            self.now = self.now.max(deadline);
            self.settle();
        }
        panic!("it wakes without doing anything");
    }

    fn texts(&self) -> Vec<String> {
        let lines = self.got.iter().flat_map(|(_, m)| &m.lines);
        lines.map(Line::text).map(|t| t.replace("service web, real server ", "")).collect()
    }
}

#[test]
fn a_problem_is_told_after_the_window_and_its_end_says_how_long_it_lasted() {
    let mut scene = Scene::one(30);
    scene.until(1000);
    scene.event(Kind::RealDown, "a");
    scene.until(600_000);
    scene.event(Kind::RealUp, "a");
    scene.until(900_000);
    assert_eq!(scene.texts(), ["a: DOWN: why", "a: up: why (lasted 9m59s)"]);
    let when: Vec<_> = scene.got.iter().map(|(at, _)| *at).collect();
    assert_eq!(when, [31_000, 630_000]);
}

#[test]
fn changes_within_the_window_are_one_message_and_a_turn_of_one_thing_is_one_line() {
    let mut scene = Scene::one(30);
    for (ms, kind, real) in [
        (0, Kind::RealDown, "a"),
        (2000, Kind::RealDown, "b"),
        (5000, Kind::RealUp, "a"),
        (6000, Kind::RealDown, "c"),
    ] {
        scene.until(ms);
        scene.event(kind, real);
    }
    scene.until(100_000);
    assert_eq!(scene.got.len(), 1);
    let expected = ["a: up: why (flapped once in 5s)", "b: DOWN: why", "c: DOWN: why"];
    assert_eq!(scene.texts(), expected);
    let subject = scene.got[0].1.subject();
    assert!(subject.contains("WARNING: 3 changes, service web, real server b"), "{subject}");
}

#[test]
fn a_storm_within_the_window_is_one_message_and_a_long_one_two() {
    let mut scene = Scene::one(30);
    for n in 0..50 {
        scene.until(n * 500);
        scene.event(if n % 2 == 0 { Kind::RealDown } else { Kind::RealUp }, "a");
    }
    scene.until(1_000_000);
    assert_eq!(scene.texts(), ["a: up: why (flapped 25 times in 24s)"]);

    let mut scene = Scene::one(30);
    for n in 0..300 {
        scene.until(n * 2000);
        scene.event(if n % 2 == 0 { Kind::RealDown } else { Kind::RealUp }, "a");
    }
    scene.until(2_000_000);
    assert_eq!(scene.got.len(), 2, "its beginning and its end: {:?}", scene.texts());
    assert!(scene.texts()[1].starts_with("a: up: why (flapped 142 times"), "{:?}", scene.texts());
    scene.event(Kind::RealDown, "a");
    scene.until(2_030_000);
    assert_eq!(scene.got.len(), 3, "the storm is over: told as usual");
}

#[test]
fn only_what_the_filter_lets_through_is_told_with_its_end() {
    let mut filtered = (*target("web-only", Severity::Critical)).clone();
    filtered.filter.services = vec!["other".to_owned()];
    let targets = vec![
        Arc::new(filtered),
        target("critical", Severity::Critical),
        target("all", Severity::Info),
    ];
    let mut scene = Scene::new(0, targets);
    for (kind, real) in [
        (Kind::RealDrained, "a"),
        (Kind::RealDown, "a"),
        (Kind::RealUp, "a"),
        (Kind::RealEnabled, "a"),
        (Kind::ServiceDown, "x"),
        (Kind::ServiceUp, "x"),
    ] {
        scene.event(kind, real);
        scene.until(scene.now + 1_000_000);
    }
    let states = scene.alerts.targets();
    let counts: Vec<_> = states.iter().map(|t| t.delivered).collect();
    assert_eq!(counts, [0, 2, 6]);
}

#[test]
fn a_target_that_fails_is_tried_again_and_nothing_is_lost_meanwhile() {
    let mut scene =
        Scene::new(10, vec![target("ops", Severity::Info), target("b", Severity::Info)]);
    scene.broken = true;
    scene.event(Kind::RealDown, "a");
    scene.until(20_000);
    scene.event(Kind::RealDown, "b");
    scene.until(60_000);
    let state = &scene.alerts.targets()[0];
    assert_eq!((state.pending, state.delivered), (2, 0));
    assert_eq!(state.error.as_deref(), Some("refused"));
    assert!(state.failures >= 3 && state.retry_at.is_some());
    let kinds: Vec<_> = scene.events.iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [Kind::AlertUndeliverable; 2], "once for each");
    scene.broken = false;
    scene.until(1_000_000);
    assert_eq!(scene.alerts.targets()[0].pending, 0);
    assert_eq!(scene.events.last().unwrap().kind, Kind::AlertDelivered);
}

#[test]
fn a_message_is_given_up_in_the_end_and_counted() {
    let mut scene = Scene::one(10);
    scene.broken = true;
    scene.event(Kind::RealDown, "a");
    scene.until(25 * 3_600_000);
    let state = &scene.alerts.targets()[0];
    assert_eq!((state.given_up, state.pending), (1, 0));
    assert!(state.failures > 24 * 3600 / 300 && state.failures < 24 * 3600 / 300 + 20);
}

#[test]
fn no_more_messages_than_the_limit_and_what_waits_is_merged() {
    let mut scene = Scene::one(1);
    for n in 0..7200_u64 {
        scene.until(n * 1000);
        // Another one each second: no storm of one thing, but a storm.
        scene.event(Kind::RealDown, &format!("r{n}"));
    }
    scene.until(7_400_000);
    let messages = scene.got.len();
    assert!((40..=46).contains(&messages), "{messages} messages in two hours");
    let told: u64 = scene.got.iter().map(|(_, m)| m.lines.len() as u64 + m.more).sum();
    assert_eq!(told + scene.alerts.targets()[0].pending, 7200, "each is told or counted");
}

#[test]
fn memory_is_bounded_and_what_has_no_line_is_counted() {
    let mut scene = Scene::one(3600);
    for n in 0..5000 {
        scene.event(Kind::RealDown, &format!("r{n}"));
    }
    scene.until(4_000_000);
    let message = &scene.got[0].1;
    assert_eq!((message.lines.len(), message.more), (LINES_SHOWN_MAX, 4800));
    assert!(message.text().contains("and 4800 more changes"));
}

#[test]
fn a_test_goes_out_at_once_and_its_result_comes_back() {
    let mut scene = Scene::new(30, vec![target("a", Severity::Info), target("b", Severity::Info)]);
    assert!(scene.alerts.test(Some("c"), &Sender::default(), 0).is_empty());
    let all = scene.alerts.test(None, &Sender::default(), 0);
    assert_eq!(all.len(), 2);
    assert!(all[0].message.text().contains("This is a test"));
    let refused = scene.alerts.delivered(all[1].id, Err("refused".to_owned()), at(5)).unwrap();
    assert_eq!((refused.name.as_str(), refused.error.as_deref()), ("b", Some("refused")));
    assert_eq!(scene.alerts.delivered(all[1].id, Ok(()), at(5)), None, "only once");
    assert_eq!(scene.alerts.targets()[1].failures, 0, "a test is no delivery");
}

#[test]
fn new_settings_keep_what_waits_and_drop_who_is_gone() {
    let mut scene = Scene::new(30, vec![target("a", Severity::Info), target("b", Severity::Info)]);
    scene.event(Kind::RealDown, "x");
    let settings = Settings { targets: vec![target("b", Severity::Info)], ..Settings::default() };
    scene.alerts.configure(&settings, at(10_000));
    scene.until(50_000);
    assert_eq!(scene.got.len(), 1);
    scene.alerts.forget(|key| key.1.as_deref() == Some("web"));
    let settings = Settings { targets: vec![target("b", Severity::Warning)], ..settings };
    scene.alerts.configure(&settings, at(50_000));
    scene.event(Kind::RealUp, "x");
    scene.until(200_000);
    assert_eq!(scene.got.len(), 1, "its problem is forgotten");
}

#[test]
fn what_a_real_server_says_cannot_forge_a_header_or_a_line() {
    let mut scene = Scene::one(0);
    let reason = "x\r\nBcc: everybody\r\n\r\nfree money";
    let event = Event::new(Kind::RealDown, at(0), reason).service("web");
    scene.alerts.event(&event, 0, at(0));
    scene.settle();
    let message = &scene.got[0].1;
    assert!(!message.subject().contains(['\r', '\n']));
    assert_eq!(message.text().lines().count(), 3);
    let json = message.json();
    assert_eq!(json["changes"][0]["kind"], "real_down");
    assert_eq!(json["severity"], "warning");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever flaps however long: what was last told of each thing is how it is.
    #[test]
    fn the_last_word_on_everything_is_true(
        steps in prop::collection::vec((0_u64..40_000, 0_usize..4, any::<bool>()), 1..200),
        broken in prop::collection::vec(any::<bool>(), 200),
    ) {
        let mut scene = Scene::one(10);
        let mut down = [false; 4];
        for ((pause, real, to_down), broken) in steps.into_iter().zip(broken) {
            scene.until(scene.now + pause);
            scene.broken = broken;
            if std::mem::replace(&mut down[real], to_down) != to_down {
                scene.event(if to_down { Kind::RealDown } else { Kind::RealUp }, &real.to_string());
            }
        }
        scene.broken = false;
        scene.until(scene.now + 10 * 3_600_000);
        for (real, down) in down.into_iter().enumerate() {
            let told = scene.got.iter().flat_map(|(_, m)| &m.lines).rev()
                .find(|l| l.event.real.as_deref() == Some(real.to_string().as_str()));
            let told = told.is_some_and(|l| l.event.kind == Kind::RealDown);
            prop_assert_eq!(told, down, "real {}", real);
        }
        prop_assert_eq!(scene.alerts.targets()[0].pending, 0);
    }
}
