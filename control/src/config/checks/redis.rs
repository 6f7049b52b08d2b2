//! `type = "redis"` and `type = "rediss"`.

use super::Context;
use super::common::{When, pattern, tls, word};
use super::wire::{needs, password};
use crate::check::Kind;
use crate::check::redis::{Role, Settings};
use crate::config::error::Sink;
use crate::config::read::Section;

const WORDS: &[(&str, When)] = &[("off", When::Off), ("on", When::On)];
const ROLES: &[(&str, Role)] = &[("master", Role::Master), ("replica", Role::Replica)];

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(settings(s, When::Off, sink))
}

pub(super) fn read_tls(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(settings(s, When::On, sink))
}

fn settings(s: &Section<'_>, default: When, sink: &mut Sink) -> Kind {
    let tls = tls(s, WORDS, default, sink);
    let user = word(s, "user", sink);
    let password = password(s, "password", "password_file", sink);
    if s.value("password").is_none() {
        let example = "password_file = \"/etc/xvip/redis.password\"";
        needs(s, "user", "password_file", example, sink);
    }
    needs(s, "expect", "get", "get = \"health\"", sink);
    let role = s.choice("role", ROLES, sink);
    let (get, expect) = (word(s, "get", sink), pattern(s, "expect", sink));
    Kind::Redis(Settings { tls, user, password, role, get, expect })
}
