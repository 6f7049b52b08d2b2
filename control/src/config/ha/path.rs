//! `[[ha.path]]`: the ways of the heartbeat.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::error::{Error, Sink, printable};
use super::super::read::{At, Section};
use super::super::{checked_name, is_interface_name, keys};
use super::{Around, Names, by_node, ends, file};
use crate::failover::settings::{Link, Path, Replication};

/// Most ways.
const PATHS_MAX: usize = 8;
/// Speeds of a serial line, in bits a second.
const BAUDS: &[u32] = &[9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Udp,
    Multicast,
    Serial,
}

impl Type {
    /// Keys that mean nothing to it.
    const fn foreign(self) -> &'static [&'static str] {
        match self {
            Self::Udp => &["group", "baud"],
            Self::Multicast => &["baud"],
            Self::Serial => &["group", "interface"],
        }
    }
}

/// Reads all of them.
pub(super) fn read(
    s: &Section<'_>,
    names: Names<'_>,
    around: &Around<'_>,
    sink: &mut Sink,
) -> Vec<Path> {
    let own = &names.both;
    let example = format!(
        "path = [{{ type = \"udp\", {} = \"10.9.0.1:6940\", {} = \"10.9.0.2:6940\" }}]",
        own[0], own[1]
    );
    s.require("path", &example, sink);
    let all = [keys::HA_PATH, &names.both].concat();
    let sections = s.sections("path", "[[ha.path]]", &all, sink);
    if s.value("path").is_some_and(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty())) {
        let error = Error::new(s.place("path"), "`path` lists no path", "expected at least one");
        sink.push(error.help("two paths that share no cable keep one cut from splitting the pair"));
    }
    if let Some(extra) = sections.get(PATHS_MAX) {
        let message = format!("more than {PATHS_MAX} paths");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    let mut seen: BTreeMap<String, std::ops::Range<usize>> = BTreeMap::new();
    let mut paths = Vec::new();
    for section in &sections {
        let name = checked_name(section, "name", sink).map(|n| n.value.to_owned());
        let Some(link) = link(section, names, around, sink) else { continue };
        let name = name.unwrap_or_else(|| usual_name(&link));
        if let Some(first) = seen.insert(name.clone(), section.span.clone()) {
            let message = format!("two paths are called `{name}`");
            let error = Error::new(section.span.clone(), message, "again");
            sink.push(error.other(first, "first here").help("give each one a `name`"));
            continue;
        }
        paths.push(Path { name, link });
    }
    paths
}

fn link(s: &Section<'_>, names: Names<'_>, around: &Around<'_>, sink: &mut Sink) -> Option<Link> {
    s.require("type", "type = \"udp\"", sink);
    let types = [("udp", Type::Udp), ("multicast", Type::Multicast), ("serial", Type::Serial)];
    let kind = s.choice("type", &types, sink)?;
    let word = types.iter().find(|(_, t)| *t == kind).map_or("", |(word, _)| word);
    let nodes: &[&str] = if kind == Type::Multicast { &names.both } else { &[] };
    for key in kind.foreign().iter().chain(nodes).filter(|key| s.value(key).is_some()) {
        let message = format!("`{key}` means nothing to a path of type {word}");
        sink.push(Error::new(s.place(key), message, "not here"));
    }
    match kind {
        Type::Udp => {
            let interface = interface(s, names, sink);
            let (local, remote) = ends(s, names, around, sink)?;
            Some(Link::Unicast { local, remote, interface: interface.map(|i| i.value) })
        }
        Type::Multicast => {
            s.require("group", "group = \"239.192.69.40:6940\"", sink);
            s.require("interface", "interface = \"eth0\"", sink);
            let interface = interface(s, names, sink);
            let text = s.string("group", sink)?;
            let group = text.value.parse::<SocketAddr>().ok();
            let Some(group) = group.filter(|g| g.ip().is_multicast() && g.port() != 0) else {
                let message =
                    format!("`{}` is no multicast address with a port", printable(text.value));
                let allowed = "expected like 239.192.69.40:6940 or [ff12::6940]:6940";
                sink.push(Error::new(text.span, message, allowed));
                return None;
            };
            Some(Link::Multicast { group, interface: interface?.value })
        }
        Type::Serial => {
            for name in names.both {
                s.require(name, &format!("{name} = \"/dev/ttyS0\""), sink);
            }
            let baud = baud(s, sink).unwrap_or(115_200);
            let devices = names.both.map(|name| (name, file(s, name, "/dev/ttyS0", sink)));
            let own = devices.into_iter().find(|(name, _)| *name == names.own);
            Some(Link::Serial { device: own?.1?.value, baud })
        }
    }
}

fn interface(s: &Section<'_>, names: Names<'_>, sink: &mut Sink) -> Option<At<String>> {
    let name = by_node(s, "interface", "`interface` of a path", names, sink)?;
    if is_interface_name(name.value) {
        return Some(At { value: name.value.to_owned(), span: name.span });
    }
    let message = format!("`{}` is no name of an interface", printable(name.value));
    sink.push(Error::new(name.span, message, "expected 1 to 15 bytes without space, `/` or `:`"));
    None
}

fn baud(s: &Section<'_>, sink: &mut Sink) -> Option<u32> {
    let baud = s.integer("baud", 9600..=921_600, sink)?;
    if BAUDS.contains(&baud) {
        return Some(baud);
    }
    let list: Vec<_> = BAUDS.iter().map(u32::to_string).collect();
    let message = format!("{baud} is not the speed of a serial line");
    sink.push(Error::new(s.place("baud"), message, format!("expected one of {}", list.join(", "))));
    None
}

/// Name of a path to which the file gives none.
fn usual_name(link: &Link) -> String {
    match link {
        Link::Unicast { interface: Some(interface), local, .. } => {
            let family = if local.is_ipv4() { "" } else { "-v6" };
            format!("udp-{interface}{family}")
        }
        Link::Unicast { local, .. } => format!("udp-{}", local.ip()),
        Link::Multicast { interface, .. } => format!("multicast-{interface}"),
        Link::Serial { device, .. } => {
            let name = device.file_name().and_then(|n| n.to_str()).unwrap_or("line");
            format!("serial-{name}")
        }
    }
}

/// Reports two uses of one address and port, or of one serial line.
pub(super) fn clashes(
    paths: &[Path],
    replication: Option<&Replication>,
    s: &Section<'_>,
    sink: &mut Sink,
) {
    let mut seen: Vec<(String, &str)> = Vec::new();
    for path in paths {
        let what = match &path.link {
            Link::Unicast { local, .. } => local.to_string(),
            Link::Multicast { group, interface } => format!("{group} on {interface}"),
            Link::Serial { device, .. } => device.display().to_string(),
        };
        if let Some((_, other)) = seen.iter().find(|(w, _)| *w == what) {
            let message = format!("paths `{other}` and `{}` both use {what}", path.name);
            sink.push(Error::new(s.place("path"), message, "expected one path for each"));
        }
        seen.push((what, &path.name));
    }
    if let Some(replication) = replication {
        let local = replication.local.to_string();
        if let Some((_, path)) = seen.iter().find(|(w, _)| *w == local) {
            let message = format!("replication and path `{path}` both use {local}");
            let error = Error::new(s.place("replication"), message, "expected another port");
            sink.push(error);
        }
    }
}
