//! `[ha]`: the pair. Everything but the name of this node is the same in both files.

mod group;
mod path;
mod ping;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dataplane_api::service::LocalPool;
use toml::de::DeValue;

use super::error::{Error, Sink, printable};
use super::read::{At, Section};
use super::service::Placed;
use super::suggest::nearest;
use super::{Node, keys};
use crate::failover::settings::{
    Auth, AuthMode, Failback, Fencing, KeyFile, Replication, Settings,
};
use crate::seal::Keyring;

/// Most keys.
const KEYS_MAX: usize = 8;
/// Longest `deadtime`: the data plane takes no lease that is longer.
const DEADTIME_MAX: Duration = Duration::from_secs(60);

/// Keys as they were read; none before that.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// They themselves.
    pub ring: Option<Keyring>,
    /// SHA-256 of the files, by which a new key in an old file is noticed.
    pub digest: [u8; 32],
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        (self.ring.is_some(), self.digest) == (other.ring.is_some(), other.digest)
    }
}

impl Eq for Keys {}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What the rest of the file says that the pair depends on.
pub(super) struct Around<'a> {
    pub(super) node: &'a Node,
    pub(super) services: &'a [Placed],
    pub(super) local: &'a LocalPool,
}

impl Around<'_> {
    /// Whether the address moves with its owner.
    fn moves(&self, address: IpAddr) -> bool {
        let vips = self.services.iter().flat_map(|p| &p.service.listen).map(|l| l.address);
        vips.chain(self.local.addresses.iter().copied()).any(|a| a == address)
    }
}

/// The names of both nodes.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    /// As listed.
    pub(super) both: [&'a str; 2],
    pub(super) own: &'a str,
    pub(super) peer: &'a str,
}

/// Reads `[ha]`, if the file has it.
pub(super) fn read(top: &Section<'_>, around: &Around<'_>, sink: &mut Sink) -> Option<Settings> {
    let s = top.section("ha", "[ha]", keys::HA, sink)?;
    let names = names(&s, around.node, sink);
    let times = times(&s, sink);
    let words = [
        ("off", Failback::Off),
        ("when-synced", Failback::WhenSynced),
        ("manual", Failback::Manual),
    ];
    let failback = s.choice("failback", &words, sink).unwrap_or_default();
    let auth = auth(&s, sink);
    let mut pings = ping::read(&s, around, sink);
    let fencing = fencing(&s, sink);
    // Without names, what nodes are called like cannot be told from a slip.
    let names = names?;
    let paths = path::read(&s, names, around, sink);
    let replication = replication(&s, names, around, sink);
    let groups = group::read(&s, names, around, sink);
    path::clashes(&paths, replication.as_ref(), &s, sink);
    ping::leave_out_peer(&mut pings, &paths, replication.as_ref());
    Some(Settings {
        node: names.own.to_owned(),
        peer: names.peer.to_owned(),
        keepalive: times.keepalive,
        warntime: times.warntime,
        deadtime: times.deadtime,
        initdead: times.initdead,
        failback,
        paths,
        auth,
        groups,
        pings,
        fencing,
        replication,
    })
}

fn names<'a>(s: &Section<'a>, node: &'a Node, sink: &mut Sink) -> Option<Names<'a>> {
    s.require("nodes", "nodes = [\"lb1\", \"lb2\"]", sink);
    s.value("nodes")?;
    let place = s.place("nodes");
    let listed = s.strings("nodes", sink);
    if let Some(name) = listed.iter().find(|n| !super::is_name(n.value)) {
        let message = format!("`{}` is not a name", printable(name.value));
        sink.push(Error::new(name.span.clone(), message, "expected 1 to 63 of A-Z a-z 0-9 . _ -"));
        return None;
    }
    let both: Vec<&str> = listed.iter().map(|n| n.value).collect();
    let [a, b] = both[..] else {
        sink.push(Error::new(
            place,
            "`nodes` must be two names",
            "expected both nodes of the pair",
        ));
        return None;
    };
    if a == b {
        sink.push(Error::new(place, "both nodes have one name", "expected two different names"));
        return None;
    }
    if let Some(word) =
        both.iter().find(|n| keys::HA_PATH.contains(n) || keys::HA_REPLICATION.contains(n))
    {
        let message = format!("a node cannot be called `{word}`");
        sink.push(Error::new(place, message, "that is a key of [ha] itself"));
        return None;
    }
    let Some(own) = node.name.as_deref() else {
        let message = "[ha] has to know which node this is";
        let error = Error::new(place, message, "one of these");
        sink.push(
            error.help(format!("add name = \"{a}\" to [node], and \"{b}\" on the other node")),
        );
        return None;
    };
    let peer = match own {
        own if own == a => b,
        own if own == b => a,
        _ => {
            let message = format!("this node is called `{own}`, and that is not one of `nodes`");
            let error =
                Error::new(place, message, format!("expected [node] name to be {a} or {b}"));
            sink.push(error.did_you_mean(nearest(own, &both)));
            return None;
        }
    };
    Some(Names { both: [a, b], own, peer })
}

struct Times {
    keepalive: Duration,
    warntime: Duration,
    deadtime: Duration,
    initdead: Duration,
}

fn times(s: &Section<'_>, sink: &mut Sink) -> Times {
    let keepalive = s.duration("keepalive", ms(10)..=ms(10_000), sink).unwrap_or(ms(50));
    let deadtime = s.duration("deadtime", ms(30)..=DEADTIME_MAX, sink);
    if let Some(deadtime) = deadtime.filter(|d| *d < 3 * keepalive) {
        let message = "`deadtime` is shorter than three times `keepalive`";
        let least = super::show_duration(3 * keepalive);
        let error = Error::new(s.place("deadtime"), message, format!("expected at least {least}"));
        let given = s.value("keepalive").is_some();
        sink.push(if given { error.other(s.place("keepalive"), "keepalive") } else { error });
        let _ = deadtime;
    }
    let deadtime = deadtime.unwrap_or_else(|| ms(200).max(4 * keepalive));
    let mut between = |key, low: Duration, high: Duration, usual: Duration, allowed: &str| {
        let Some(value) = s.duration(key, ms(10)..=ms(600_000), sink) else { return usual };
        if !(low..=high).contains(&value) {
            let message = format!("`{key}` does not go with `keepalive` and `deadtime`");
            sink.push(Error::new(s.place(key), message, allowed));
        }
        value
    };
    let warn = (2 * keepalive).min(deadtime);
    let allowed = "expected more than keepalive, at most deadtime";
    let warntime = between("warntime", keepalive + ms(1), deadtime, warn, allowed);
    let allowed = "expected at least deadtime";
    let initdead = between("initdead", deadtime, Duration::MAX, ms(3000).max(deadtime), allowed);
    Times { keepalive, warntime, deadtime, initdead }
}

fn auth(s: &Section<'_>, sink: &mut Sink) -> Auth {
    let modes = [
        ("receive-only", AuthMode::ReceiveOnly),
        ("permissive", AuthMode::Permissive),
        ("enforce", AuthMode::Enforce),
    ];
    let mode = s.choice("auth", &modes, sink).unwrap_or_default();
    s.require("key", "key = [{ id = 1, file = \"/etc/xvip/ha.key\" }]", sink);
    let sections = s.sections("key", "[[ha.key]]", keys::HA_KEY, sink);
    if s.value("key").is_some_and(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty())) {
        sink.push(Error::new(s.place("key"), "`key` lists no key", "expected at least one"));
    }
    if let Some(extra) = sections.get(KEYS_MAX) {
        let message = format!("more than {KEYS_MAX} keys");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    let mut seen = BTreeMap::new();
    let mut keys = Vec::new();
    for k in &sections {
        k.require("id", "id = 1", sink);
        k.require("file", "file = \"/etc/xvip/ha.key\"", sink);
        let id = k.integer("id", 1..=255, sink).and_then(|id| u8::try_from(id).ok());
        let file = file(k, "file", "/etc/xvip/ha.key", sink);
        let (Some(id), Some(file)) = (id, file) else { continue };
        if let Some(first) = seen.insert(id, k.place("id")) {
            let message = format!("two keys have the number {id}");
            sink.push(Error::new(k.place("id"), message, "again").other(first, "first here"));
        }
        sink.secret_file(file.value.clone(), file.span);
        keys.push(KeyFile { id, file: file.value });
    }
    Auth { keys, mode }
}

/// An absolute path, like `example`.
fn file(s: &Section<'_>, key: &str, example: &str, sink: &mut Sink) -> Option<At<PathBuf>> {
    let path = s.string(key, sink)?;
    if path.value.starts_with('/') && !path.value.contains('\0') {
        return Some(At { value: PathBuf::from(path.value), span: path.span });
    }
    let message = format!("`{}` is no absolute path", printable(path.value));
    sink.push(Error::new(path.span, message, format!("expected like {example}")));
    None
}

/// Addresses with their places, each once.
pub(super) fn addresses(
    s: &Section<'_>,
    key: &str,
    sink: &mut Sink,
) -> Vec<(IpAddr, std::ops::Range<usize>)> {
    let mut found: Vec<(IpAddr, std::ops::Range<usize>)> = Vec::new();
    for text in s.strings(key, sink) {
        let Ok(address) = text.value.parse::<IpAddr>() else {
            let message = format!("`{}` is not an IP address", printable(text.value));
            sink.push(Error::new(text.span, message, "expected like 192.0.2.1 or 2001:db8::1"));
            continue;
        };
        if let Some((_, first)) = found.iter().find(|(a, _)| *a == address) {
            let error = Error::new(text.span, format!("{address} is listed twice"), "again");
            sink.push(error.other(first.clone(), "first here"));
            continue;
        }
        found.push((address, text.span));
    }
    found
}

fn fencing(s: &Section<'_>, sink: &mut Sink) -> Option<Fencing> {
    let f = s.section("fencing", "[ha.fencing]", keys::HA_FENCING, sink)?;
    f.require("command", "command = [\"/usr/local/bin/power-off\", \"{peer}\"]", sink);
    let timeout = f.duration("timeout", ms(1000)..=ms(300_000), sink).unwrap_or(ms(10_000));
    let words = f.strings("command", sink);
    let first = words.first()?;
    if !first.value.starts_with('/') {
        let message = format!("`{}` is no absolute path", printable(first.value));
        sink.push(Error::new(
            first.span.clone(),
            message,
            "expected like /usr/local/bin/power-off",
        ));
    }
    for word in words.iter().filter(|word| word.value.contains('\0')) {
        sink.push(Error::new(word.span.clone(), "an argument has a NUL byte", "not possible"));
    }
    let command = words.iter().map(|word| word.value.to_owned()).collect();
    Some(Fencing { command, timeout })
}

fn replication(
    s: &Section<'_>,
    names: Names<'_>,
    around: &Around<'_>,
    sink: &mut Sink,
) -> Option<Replication> {
    let all = [keys::HA_REPLICATION, &names.both].concat();
    let r = s.section("replication", "[ha.replication]", &all, sink)?;
    let ends = ends(&r, names, around, sink);
    let encrypt = r.flag("encrypt", sink).unwrap_or(false);
    let digest = r.duration("digest", ms(1000)..=ms(3_600_000), sink).unwrap_or(ms(10_000));
    let (local, remote) = ends?;
    Some(Replication { local, remote, encrypt, digest })
}

/// Our address and port and the peer's: values of the keys that are called like the nodes.
fn ends(
    s: &Section<'_>,
    names: Names<'_>,
    around: &Around<'_>,
    sink: &mut Sink,
) -> Option<(SocketAddr, SocketAddr)> {
    let mut found = Vec::new();
    for (name, n) in names.both.iter().zip(1..) {
        s.require(name, &format!("{name} = \"10.9.0.{n}:6940\""), sink);
        let Some(text) = s.string(name, sink) else { continue };
        match text.value.parse::<SocketAddr>() {
            Ok(at) if at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast() => {
                if around.moves(at.ip()) {
                    let message = format!("{} moves from node to node", at.ip());
                    let allowed = "expected an address that stays with its node";
                    sink.push(Error::new(text.span.clone(), message, allowed));
                }
                found.push((*name, at, text.span));
            }
            _ => {
                let message = format!("`{}` is no address with a port", printable(text.value));
                let allowed = "expected like 10.9.0.1:6940 or [2001:db8::1]:6940";
                sink.push(Error::new(text.span, message, allowed));
            }
        }
    }
    let [(first, a, a_span), (_, b, b_span)] = &found[..] else { return None };
    if a == b || a.is_ipv4() != b.is_ipv4() {
        let message = "the two ends do not go together";
        let error = Error::new(b_span.clone(), message, "expected two addresses of one family");
        sink.push(error.other(a_span.clone(), "the other end"));
    }
    Some(if *first == names.own { (*a, *b) } else { (*b, *a) })
}

/// A value that is the same on both nodes (a string), or has one for each (a table by their names).
fn by_node<'a>(
    s: &Section<'a>,
    key: &str,
    title: &'static str,
    names: Names<'_>,
    sink: &mut Sink,
) -> Option<At<&'a str>> {
    let value = s.value(key)?;
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        return s.string(key, sink);
    }
    let table = s.section(key, title, &names.both, sink)?;
    for name in names.both {
        table.require(name, &format!("{name} = \"eth2\""), sink);
    }
    table.string(names.own, sink)
}
