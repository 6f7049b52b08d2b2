//! `[alert]` and `[metrics]`: who is told, and who may look.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use toml::de::DeValue;

use super::error::{Error, Sink, printable};
use super::read::{At, Section, wrong_type};
use super::suggest::nearest;
use super::{checked_name, keys};
use crate::alert::{Command, Filter, How, Mail, Settings, Target, Tls, Webhook};
use crate::event::Severity;

/// Most targets of alerts.
pub const TARGETS_MAX: usize = 32;
/// Longest digest window.
const DIGEST_MAX: Duration = Duration::from_secs(3600);
/// Longest time for one attempt.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Reads `[metrics]`: where to listen, if anywhere.
pub(super) fn metrics(top: &Section<'_>, sink: &mut Sink) -> Option<SocketAddr> {
    let s = top.section("metrics", "[metrics]", keys::METRICS, sink)?;
    s.require("listen", "listen = \"127.0.0.1:9105\"", sink);
    let listen = s.string("listen", sink)?;
    match listen.value.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            let message = format!("`{}` is no address with a port", printable(listen.value));
            let allowed = "expected like 127.0.0.1:9105 or [::1]:9105";
            sink.push(Error::new(listen.span, message, allowed));
            None
        }
    }
}

/// Reads `[alert]`; `services` are the names that filters may use.
pub(super) fn read(top: &Section<'_>, services: &[&str], sink: &mut Sink) -> Settings {
    let mut settings = Settings::default();
    let Some(s) = top.section("alert", "[alert]", keys::ALERT, sink) else { return settings };
    let digest = s.duration("digest", Duration::ZERO..=DIGEST_MAX, sink);
    settings.digest = digest.unwrap_or(settings.digest);
    settings.per_hour = s.integer("per_hour", 1..=3600, sink).unwrap_or(settings.per_hour);
    let range = Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);
    settings.give_up = s.duration("give_up", range, sink).unwrap_or(settings.give_up);
    let filter = filter(&s, &Filter::default(), services, sink);
    let mut reader = Reader { filter, services, names: BTreeSet::new(), targets: Vec::new() };
    reader.kind(&s, "mail", "[[alert.mail]]", keys::ALERT_MAIL, mail, sink);
    reader.kind(&s, "webhook", "[[alert.webhook]]", keys::ALERT_WEBHOOK, webhook, sink);
    reader.kind(&s, "command", "[[alert.command]]", keys::ALERT_COMMAND, command, sink);
    settings.targets = reader.targets;
    if settings.targets.len() > TARGETS_MAX {
        let message = format!("more than {TARGETS_MAX} targets of alerts");
        sink.push(Error::new(s.span, message, "too many"));
    }
    settings
}

/// `severity` and `services`, of `[alert]` or of a target.
fn filter(s: &Section<'_>, default: &Filter, known: &[&str], sink: &mut Sink) -> Filter {
    let mut filter = default.clone();
    filter.severity = s.choice("severity", &Severity::ALL, sink).unwrap_or(filter.severity);
    if s.value("services").is_some() {
        filter.services.clear();
    }
    for name in s.strings("services", sink) {
        if known.contains(&name.value) {
            filter.services.push(name.value.to_owned());
        } else {
            let message = format!("there is no service `{}`", printable(name.value));
            let error = Error::new(name.span, message, "expected the name of a [[service]]");
            sink.push(error.did_you_mean(nearest(name.value, known)));
        }
    }
    filter
}

struct Reader<'a> {
    filter: Filter,
    services: &'a [&'a str],
    names: BTreeSet<String>,
    targets: Vec<Arc<Target>>,
}

impl Reader<'_> {
    /// The targets of one kind: a table, or a list of tables.
    fn kind(
        &mut self,
        alert: &Section<'_>,
        key: &'static str,
        title: &'static str,
        keys: &[&str],
        read: fn(&Section<'_>, &mut Sink) -> Option<How>,
        sink: &mut Sink,
    ) {
        let Some(value) = alert.value(key) else { return };
        let sections = match value.get_ref() {
            DeValue::Table(table) => vec![Section::open(table, value.span(), title, keys, sink)],
            DeValue::Array(_) => alert.sections(key, title, keys, sink),
            other => {
                wrong_type(sink, value.span(), key, "a table or a list of tables", other);
                return;
            }
        };
        for s in &sections {
            let name = checked_name(s, "name", sink).map_or(key, |name| name.value);
            if !self.names.insert(name.to_owned()) {
                let message = format!("another target of alerts is called `{name}`");
                let error = Error::new(s.place("name"), message, "expected a name of its own");
                sink.push(error.help("give each one a name, like name = \"night-shift\""));
            }
            let filter = filter(s, &self.filter, self.services, sink);
            let range = Duration::from_secs(1)..=TIMEOUT_MAX;
            let timeout = s.duration("timeout", range, sink).unwrap_or(Duration::from_secs(10));
            if let Some(how) = read(s, sink) {
                let name = name.to_owned();
                self.targets.push(Arc::new(Target { name, filter, timeout, how }));
            }
        }
    }
}

fn mail(s: &Section<'_>, sink: &mut Sink) -> Option<How> {
    s.require("server", "server = \"mail.example.org\"", sink);
    s.require("from", "from = \"xvip@example.org\"", sink);
    s.require("to", "to = \"ops@example.org\"", sink);
    let choices = [("starttls", Tls::Starttls), ("tls", Tls::Tls), ("none", Tls::None)];
    let tls = s.choice("tls", &choices, sink).unwrap_or_default();
    let usual = match tls {
        Tls::None => 25,
        Tls::Starttls => 587,
        Tls::Tls => 465,
    };
    let ca_file = file(s, "ca_file", sink).map(|f| f.value);
    let from = s.string("from", sink).and_then(|text| mailbox(text, sink));
    let listed = s.strings("to", sink);
    if listed.is_empty() && matches!(s.value("to").map(|v| v.get_ref()), Some(DeValue::Array(_))) {
        sink.push(Error::new(s.place("to"), "`to` lists nobody", "expected mail addresses"));
    }
    let to: Vec<_> = listed.into_iter().filter_map(|text| mailbox(text, sink)).collect();
    let user = s.string("user", sink);
    let password = secret(s, "password_file", sink);
    if s.value("user").is_some() != s.value("password_file").is_some() {
        let message = "`user` and `password_file` go together";
        let place = if user.is_some() { s.place("user") } else { s.place("password_file") };
        sink.push(Error::new(place, message, "the other one is missing"));
    }
    let server = s.string("server", sink)?;
    let Some((host, port)) = host_port(server.value, usual) else {
        let message = format!("`{}` is no mail server", printable(server.value));
        sink.push(Error::new(server.span, message, "expected like mail.example.org:587"));
        return None;
    };
    if tls == Tls::None && user.is_some() && !is_here(&host) {
        let message = "a password is not sent to another host without TLS";
        let error = Error::new(s.place("tls"), message, "expected starttls or tls");
        sink.push(error.help("or leave user and password_file out"));
    }
    let login = user.zip(password).map(|(user, file)| (user.value.to_owned(), file));
    Some(How::Mail(Mail { host, port, tls, ca_file, from: from?, to, login }))
}

fn webhook(s: &Section<'_>, sink: &mut Sink) -> Option<How> {
    s.require("url", "url = \"https://example.org/hook\"", sink);
    let ca_file = file(s, "ca_file", sink).map(|f| f.value);
    let token_file = secret(s, "token_file", sink);
    let text = s.string("url", sink)?;
    let parsed = text.value.parse::<hyper::Uri>().ok().and_then(|uri| {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // Names and passwords in a URL end up in logs.
        let plain = !authority.as_str().contains('@') && text.value.is_ascii();
        let usual = if https { 443 } else { 80 };
        let (host, port) = host_port(authority.as_str(), usual).filter(|_| plain)?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Some(Webhook { https, host, port, path, ca_file: None, token_file: None })
    });
    let Some(parsed) = parsed else {
        let message = format!("`{}` is no URL to post to", printable(text.value));
        sink.push(Error::new(text.span, message, "expected like https://example.org/hook"));
        return None;
    };
    if token_file.is_some() && !parsed.https && !is_here(&parsed.host) {
        let message = "a token is not sent to another host without TLS";
        sink.push(Error::new(text.span, message, "expected https"));
    }
    Some(How::Webhook(Webhook { ca_file, token_file, ..parsed }))
}

fn command(s: &Section<'_>, sink: &mut Sink) -> Option<How> {
    s.require("argv", "argv = [\"/usr/local/bin/tell\"]", sink);
    let argv = s.strings("argv", sink);
    let first = argv.first()?;
    if !first.value.starts_with('/') {
        let message = format!("`{}` is no absolute path", printable(first.value));
        sink.push(Error::new(first.span.clone(), message, "expected like /usr/local/bin/tell"));
    }
    for word in argv.iter().filter(|word| word.value.contains('\0')) {
        sink.push(Error::new(word.span.clone(), "an argument has a NUL byte", "not possible"));
    }
    let argv = argv.into_iter().map(|word| word.value.to_owned()).collect();
    Some(How::Command(Command { argv }))
}

/// A mail address, alone or with a name before it (RFC 5322).
fn mailbox(text: At<&str>, sink: &mut Sink) -> Option<String> {
    match text.value.parse::<Mailbox>() {
        Ok(mailbox) if !text.value.contains(char::is_control) => Some(mailbox.to_string()),
        _ => {
            let message = format!("`{}` is no mail address", printable(text.value));
            let allowed = "expected like ops@example.org or \"Ops <ops@example.org>\"";
            sink.push(Error::new(text.span, message, allowed));
            None
        }
    }
}

/// An absolute path.
fn file(s: &Section<'_>, key: &str, sink: &mut Sink) -> Option<At<PathBuf>> {
    let path = s.string(key, sink)?;
    if path.value.starts_with('/') && !path.value.contains('\0') {
        return Some(At { value: PathBuf::from(path.value), span: path.span });
    }
    let message = format!("`{}` is no absolute path", printable(path.value));
    sink.push(Error::new(path.span, message, "expected like /etc/xvip/file"));
    None
}

/// A file that others must not be able to read; looked at when the file is loaded.
fn secret(s: &Section<'_>, key: &str, sink: &mut Sink) -> Option<PathBuf> {
    let path = file(s, key, sink)?;
    sink.secret_file(path.value.clone(), path.span);
    Some(path.value)
}

/// `host`, `host:port`, `address`, `[v6]` or `[v6]:port`.
fn host_port(text: &str, usual: u16) -> Option<(String, u16)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_string(), usual));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return (socket.port() != 0).then(|| (socket.ip().to_string(), socket.port()));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inner.parse::<IpAddr>().ok().map(|address| (address.to_string(), usual));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, usual),
    };
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&l.len()) && inner
    };
    let valid = host.len() <= 253 && host.trim_end_matches('.').split('.').all(label);
    valid.then(|| (host.to_owned(), port))
}

/// Whether what is sent there stays on this machine.
fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
