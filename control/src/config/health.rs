//! `health` of a service.

use std::time::Duration;

use dataplane_api::service::{Dead, Protocol};

use super::error::{Error, Sink};
use super::keys;
use super::read::Section;
use crate::check::{Passive, Require, Rules, Start};

/// Longest slow start.
const SLOW_START_MAX: Duration = Duration::from_secs(3600);

/// Reads it, and what becomes of the connections of a dead real; the defaults if there is none.
pub(super) fn read(section: &Section<'_>, protocol: Protocol, sink: &mut Sink) -> (Rules, Dead) {
    let mut rules = Rules::default();
    let section = section.section("health", "`health`", keys::HEALTH, sink);
    let Some(s) = section else { return (rules, Dead::default()) };
    let requires = [("all", Require::All), ("any", Require::Any)];
    rules.require = s.choice("require", &requires, sink).unwrap_or(rules.require);
    let starts = [("up", Start::Up), ("down", Start::Down)];
    rules.start = s.choice("start", &starts, sink).unwrap_or(rules.start);
    let slow_start = s.duration("slow_start", Duration::ZERO..=SLOW_START_MAX, sink);
    rules.slow_start = slow_start.unwrap_or(rules.slow_start);
    let floor = s.integer("panic_floor", 0..=100, sink);
    rules.panic_floor = floor.and_then(|p| u8::try_from(p).ok()).unwrap_or(rules.panic_floor);
    let dead = dead(&s, protocol, sink);
    if let Some(p) = s.section("passive", "`passive`", keys::PASSIVE, sink) {
        let mut count = |key| p.integer(key, 0..=1_000_000, sink).unwrap_or(0);
        rules.passive = Passive { unanswered: count("unanswered"), resets: count("resets") };
    }
    (rules, dead)
}

fn dead(s: &Section<'_>, protocol: Protocol, sink: &mut Sink) -> Dead {
    let words = [("keep", Dead::Keep), ("reset", Dead::Reset), ("move", Dead::Move)];
    let dead = s.choice("dead", &words, sink).unwrap_or_default();
    let wrong = match (dead, protocol) {
        (Dead::Move, Protocol::Tcp) => "a TCP connection means nothing to another server",
        (Dead::Reset, Protocol::Udp) => "UDP knows no reset",
        _ => return dead,
    };
    let (word, allowed) = match protocol {
        Protocol::Tcp => ("move", "expected keep or reset"),
        Protocol::Udp => ("reset", "expected keep or move"),
    };
    let message = format!("`dead` cannot be `{word}` here: {wrong}");
    sink.push(Error::new(s.place("dead"), message, allowed));
    dead
}
