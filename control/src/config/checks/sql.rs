//! `type = "mysql"` and `type = "pgsql"`: the same keys.

use super::Context;
use super::common::{When, pattern, tls, word};
use super::wire::{needs, password, text};
use crate::check::{Kind, mysql, pgsql};
use crate::config::error::Sink;
use crate::config::read::Section;

/// Longest query, in bytes.
const QUERY_MAX: usize = 4096;
const WORDS: &[(&str, When)] = &[("off", When::Off), ("on", When::Start)];

pub(super) fn mysql(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::Off, sink);
    let (user, database) = (word(s, "user", sink), word(s, "database", sink));
    let password = secret(s, sink);
    let (query, expect) = (text(s, "query", QUERY_MAX, sink), pattern(s, "expect", sink));
    Some(Kind::Mysql(mysql::Settings { tls, user, password, database, query, expect }))
}

pub(super) fn pgsql(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::Off, sink);
    let (user, database) = (word(s, "user", sink), word(s, "database", sink));
    let password = secret(s, sink);
    let (query, expect) = (text(s, "query", QUERY_MAX, sink), pattern(s, "expect", sink));
    Some(Kind::Pgsql(pgsql::Settings { tls, user, password, database, query, expect }))
}

fn secret(s: &Section<'_>, sink: &mut Sink) -> Option<crate::check::secret::Secret> {
    for key in ["password", "password_file", "database", "query"] {
        needs(s, key, "user", "user = \"probe\"", sink);
    }
    needs(s, "expect", "query", "query = \"SELECT 1\"", sink);
    password(s, "password", "password_file", sink)
}
