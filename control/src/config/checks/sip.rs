//! `type = "sip"`.

use super::Context;
use crate::check::Kind;
use crate::check::sip::{Settings, Transport, is_plain};
use crate::config::error::{Error, Sink};
use crate::config::read::{Section, as_integer};
use toml::de::DeValue;

const TRANSPORTS: &[(&str, Transport)] = &[("udp", Transport::Udp), ("tcp", Transport::Tcp)];

#[expect(clippy::unnecessary_wraps, reason = "the form of every reader")]
pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let transport = s.choice("transport", TRANSPORTS, sink).unwrap_or_default();
    let (user, host) = (part(s, "user", sink), part(s, "host", sink));
    Some(Kind::Sip(Settings { transport, user, host, status: status(s, sink) }))
}

/// A part of the URI.
fn part(s: &Section<'_>, key: &str, sink: &mut Sink) -> Option<String> {
    let text = s.string(key, sink)?;
    if is_plain(text.value) {
        return Some(text.value.to_owned());
    }
    let message = format!("`{key}` cannot stand in a SIP URI");
    sink.push(Error::new(text.span, message, "expected like ping or sip.example.com"));
    None
}

fn status(s: &Section<'_>, sink: &mut Sink) -> Vec<u16> {
    let Some(value) = s.value("status") else { return Vec::new() };
    let items = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    let code = |item| as_integer(item, "status", 200..=699, sink);
    items.into_iter().filter_map(code).filter_map(|c| u16::try_from(c).ok()).collect()
}
