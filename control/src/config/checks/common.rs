//! Keys that several kinds have: TLS, a login, patterns, words that are sent as they are.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use toml::Spanned;
use toml::de::DeValue;

use crate::check::http::{Expect, STATUS_DEFAULT, StatusRange};
use crate::check::pattern::Pattern;
use crate::check::secret::{Login, Secret};
use crate::check::tls::{ClientCertificate, Settings, Tls, Trust};
use crate::config::error::{Error, Sink, printable};
use crate::config::keys;
use crate::config::read::{At, Section, as_integer, as_string, wrong_type};

/// Longest word that is sent as it is, in bytes.
const WORD_MAX: usize = 255;
/// Most headers asked with, or asked for.
const HEADERS_MAX: usize = 32;

/// When TLS may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Off,
    Start,
    On,
}

/// The key `tls`, with its words, and the keys about it.
pub(super) fn tls(s: &Section<'_>, words: &[(&str, When)], default: When, sink: &mut Sink) -> Tls {
    match s.choice("tls", words, sink).unwrap_or(default) {
        When::Off => {
            let idle = keys::CHECK_TLS.iter().find(|k| s.value(k).is_some());
            if let Some(key) = idle {
                let message = format!("`{key}` without TLS");
                let error = Error::new(s.place(key), message, "it would have no effect");
                let word = words.iter().find(|(_, w)| *w != When::Off).map_or("on", |(w, _)| w);
                sink.push(error.help(format!("add tls = \"{word}\", or remove `{key}`")));
            }
            Tls::Off
        }
        When::Start => Tls::Start(settings(s, sink)),
        When::On => Tls::On(settings(s, sink)),
    }
}

/// The keys about TLS.
pub(super) fn settings(s: &Section<'_>, sink: &mut Sink) -> Settings {
    const DAY: Duration = Duration::from_secs(86_400);
    let trust = s.string("verify", sink).map(|text| match text.value {
        "system" => Trust::System,
        "off" => Trust::Anything,
        path if path.starts_with('/') => Trust::File(PathBuf::from(path)),
        other => {
            let message = format!("`{}` is no way to verify a certificate", printable(other));
            let allowed = "expected system, off, or the absolute path of a file (PEM)";
            sink.push(Error::new(text.span, message, allowed));
            Trust::System
        }
    });
    let server_name = s.string("server_name", sink).and_then(|text| {
        let valid = ServerName::try_from(text.value).is_ok();
        if !valid {
            let message = format!("`{}` is not the name of a server", printable(text.value));
            let allowed = "expected like web.example.com or 10.0.1.1";
            sink.push(Error::new(text.span, message, allowed));
        }
        valid.then(|| text.value.to_owned())
    });
    let expires = s.duration("expires", DAY..=DAY * 3650, sink);
    let certificate = path(s, "certificate", sink);
    let key = path(s, "key", sink);
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (certificate, key) => {
            for (has, there, missing) in
                [(certificate, "certificate", "key"), (key, "key", "certificate")]
            {
                if has.is_some() && s.value(missing).is_none() {
                    let message = format!("`{there}` without `{missing}`");
                    let error = Error::new(s.place(there), message, "both or neither");
                    sink.push(error.help(format!("add {missing} = \"/etc/xvip/probe.pem\"")));
                }
            }
            None
        }
    };
    Settings { trust: trust.unwrap_or_default(), server_name, expires, client }
}

/// The keys `user`, `password` and `password_file`.
pub(super) fn login(s: &Section<'_>, sink: &mut Sink) -> Option<Login> {
    let user = word(s, "user", sink);
    let inline = word(s, "password", sink);
    if inline.is_some() {
        secret(s.place("password"), "password", sink);
    }
    let file = path(s, "password_file", sink);
    let secrets = ["password", "password_file"];
    let there: Vec<_> = secrets.into_iter().filter(|k| s.value(k).is_some()).collect();
    if let [first, second] = there.as_slice() {
        let error = Error::new(s.place(second), "two passwords", "one too many");
        sink.push(error.other(s.place(first), "first here"));
        return None;
    }
    match (s.value("user"), there.first()) {
        (Some(value), None) => {
            let error = Error::new(value.span(), "`user` without a password", "");
            sink.push(error.help("add password_file = \"/etc/xvip/probe.password\""));
            return None;
        }
        (None, Some(key)) => {
            let message = format!("`{key}` without `user`");
            sink.push(Error::new(s.place(key), message, "").help("add user = \"probe\""));
            return None;
        }
        _ => {}
    }
    let password = inline.map(Secret::Inline).or(file.map(Secret::File))?;
    Some(Login { user: user?, password })
}

/// A secret stands at `span`: it is shown nowhere, and not allowed in a file that everybody can
/// read.
pub(super) fn secret(span: Range<usize>, key: &str, sink: &mut Sink) {
    sink.hide(span.clone());
    if sink.public {
        let message = format!("`{key}` holds a secret, and everybody can read this file");
        let error = Error::new(span, message, "expected in a file with mode 0640 or less");
        let help = "run `chmod o-rwx` on this file, or use `password_file` instead";
        sink.push(error.help(help));
    }
}

/// An absolute path.
pub(super) fn path(s: &Section<'_>, key: &str, sink: &mut Sink) -> Option<PathBuf> {
    let text = s.string(key, sink)?;
    if text.value.starts_with('/') && !text.value.contains('\0') {
        return Some(PathBuf::from(text.value));
    }
    let message = format!("`{}` is not an absolute path", printable(text.value));
    sink.push(Error::new(text.span, message, "expected like /etc/xvip/probe.pem"));
    None
}

/// Text that is sent as it is: a name, a password.
pub(super) fn word(s: &Section<'_>, key: &str, sink: &mut Sink) -> Option<String> {
    let text = s.string(key, sink)?;
    let good = (1..=WORD_MAX).contains(&text.value.len())
        && !text.value.contains(|c: char| c.is_control());
    if !good {
        let message = format!("`{key}` cannot be sent as it is");
        let allowed = format!("expected 1 to {WORD_MAX} bytes without control characters");
        sink.push(Error::new(text.span, message, allowed));
    }
    good.then(|| text.value.to_owned())
}

/// As [`word`], and without spaces.
pub(super) fn token(s: &Section<'_>, key: &str, sink: &mut Sink) -> Option<String> {
    let token = word(s, key, sink)?;
    if token.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(token);
    }
    let message = format!("`{key}` must be one word of ASCII");
    sink.push(Error::new(s.place(key), message, "expected no space in it"));
    None
}

/// A regular expression.
pub(super) fn pattern(s: &Section<'_>, key: &str, sink: &mut Sink) -> Option<Pattern> {
    pattern_of(&s.string(key, sink)?, key, sink)
}

fn pattern_of(text: &At<&str>, key: &str, sink: &mut Sink) -> Option<Pattern> {
    let made = Pattern::new(text.value);
    made.map_err(|reason| {
        let message = format!("`{}` is not a regular expression: {reason}", printable(key));
        let error = Error::new(text.span.clone(), message, "expected as of the crate regex");
        sink.push(error.help("write it in single quotes, so that TOML leaves backslashes alone"));
    })
    .ok()
}

/// Names with strings: `headers = { X-Probe = "xvip" }`.
pub(super) fn named<'a>(
    s: &Section<'a>,
    key: &str,
    sink: &mut Sink,
) -> Vec<(At<&'a str>, At<&'a str>)> {
    let Some(value) = s.value(key) else { return Vec::new() };
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(sink, value.span(), key, "a table", value.get_ref());
        return Vec::new();
    };
    if table.len() > HEADERS_MAX {
        let message = format!("`{key}` names {} headers", table.len());
        sink.push(Error::new(value.span(), message, format!("expected at most {HEADERS_MAX}")));
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, value) in table.iter() {
        let text = as_string(value, name.get_ref(), "a string", sink);
        let valid = hyper::header::HeaderName::from_bytes(name.get_ref().as_bytes()).is_ok();
        if !valid {
            let message = format!("`{}` is not the name of a header", printable(name.get_ref()));
            sink.push(Error::new(name.span(), message, "expected like X-Probe"));
            continue;
        }
        let name = At { value: name.get_ref().as_ref(), span: name.span() };
        found.extend(text.map(|text| (name, text)));
    }
    found
}

/// The keys `status`, `expect_headers` and `body`.
pub(super) fn expect(s: &Section<'_>, sink: &mut Sink) -> Expect {
    let status = s.value("status").map(|v| statuses(v, sink)).filter(|l| !l.is_empty());
    let mut headers = Vec::new();
    for (name, text) in named(s, "expect_headers", sink) {
        if let Some(pattern) = pattern_of(&text, name.value, sink) {
            headers.push((name.value.to_owned(), pattern));
        }
    }
    let body = pattern(s, "body", sink);
    Expect { status: status.unwrap_or_else(|| vec![STATUS_DEFAULT]), headers, body }
}

fn statuses(value: &Spanned<DeValue<'_>>, sink: &mut Sink) -> Vec<StatusRange> {
    match value.get_ref() {
        DeValue::Array(items) if items.is_empty() => {
            sink.push(Error::new(value.span(), "`status` is empty", "expected at least one"));
            Vec::new()
        }
        DeValue::Array(items) => items.iter().filter_map(|i| status(i, sink)).collect(),
        _ => status(value, sink).into_iter().collect(),
    }
}

fn status(value: &Spanned<DeValue<'_>>, sink: &mut Sink) -> Option<StatusRange> {
    let DeValue::String(text) = value.get_ref() else {
        let code = as_integer(value, "status", 100..=599, sink)?;
        let code = u16::try_from(code).ok()?;
        return Some(StatusRange { first: code, last: code });
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse().ok().filter(|code| (100..=599).contains(code));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Some(StatusRange { first, last }),
        _ => {
            let message = format!("`{}` is no range of status codes", printable(text));
            sink.push(Error::new(value.span(), message, "expected like 200 or \"200-299\""));
            None
        }
    }
}
