//! Turns the texts of options into a [`Spec`], and refuses what cannot be.

use std::fmt::Display;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use super::error::{Errors, Place, Problem, printable};
use super::parse::{
    CORES_MAX, addresses, cores, count, interface, literal, port, positive, seconds, share, unicast,
};
use super::table::{Fallback, OPTIONS};
use super::values::{Values, nearest};
use super::{Run, Scenario};
use crate::flow::{Addresses, Clients};
use crate::rate::Rate;
use crate::size::{self, SIZE_MIN, Size};
use crate::spec::{Copying, Engine, Method, Mode, Output, Protocol, Spec};

/// Most connections.
pub(super) const CONNECTIONS_MAX: u32 = 64 << 20;
/// Longest run, in seconds.
const SECONDS_MAX: f64 = 86_400.0;

const PROTOCOLS: &[(&str, Protocol)] = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const METHODS: &[(&str, Method)] = &[
    ("nat", Method::Nat),
    ("fullnat", Method::Fullnat),
    ("direct", Method::Direct),
    ("tunnel", Method::Tunnel),
];
const ENGINES: &[(&str, Engine)] = &[("af_xdp", Engine::AfXdp), ("xdp", Engine::Xdp)];
const MODES: &[(&str, Mode)] =
    &[("auto", Mode::Auto), ("native", Mode::Native), ("generic", Mode::Generic)];
const COPIES: &[(&str, Copying)] =
    &[("auto", Copying::Auto), ("copy", Copying::Copy), ("zero-copy", Copying::ZeroCopy)];

/// Reads all of it.
pub(super) fn read(
    verb: &str,
    values: Values,
    scenario: Option<Scenario<'_>>,
) -> Result<Run, Errors> {
    let mut reader = Reader { values, problems: Vec::new(), notes: Vec::new() };
    let spec = reader.spec(verb);
    match spec {
        Some(spec) if reader.problems.is_empty() => {
            let scenario = reader.scenario(verb);
            Ok(Run { spec, scenario, notes: reader.notes })
        }
        _ => Err(Errors::of(reader.problems, scenario)),
    }
}

pub(super) struct Reader {
    values: Values,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

/// What an address is for and where it goes.
pub(super) struct Ends {
    pub(super) vip: SocketAddr,
    clients: Addresses,
    reals: Addresses,
    real_port: u16,
}

impl Reader {
    /// The whole; none only if there is a problem.
    fn spec(&mut self, verb: &str) -> Option<Spec> {
        let (client, server) = self.interfaces(verb);
        let protocol = self.choice("protocol", PROTOCOLS);
        let method = self.choice("method", METHODS);
        let ends = self.ends(method.unwrap_or(Method::Nat));
        let connections = self.get("connections", |t| count(t, CONNECTIONS_MAX));
        let clients = self.clients(ends.as_ref(), connections);
        let rate = self.get("rate", str::parse::<Rate>);
        let replies = self.replies(method, client.is_some() && server.is_some());
        let size = self.get("size", str::parse::<Size>);
        let size = self.raise(size, ends.as_ref(), protocol, "size");
        self.check_rate("rate", rate, size, ends.as_ref(), protocol);
        let duration = self.duration_of(verb);
        let open_rate = self.get("open_rate", positive);
        let engine = self.choice("engine", ENGINES);
        let mode = self.choice("mode", MODES);
        let copy = self.choice("copy", COPIES);
        let cores = self.get("cores", cores);
        let queues = self.queues(cores.as_deref());
        let balancer = self.optional("balancer", |t| match t {
            "" => Err("expected the path of a socket".to_owned()),
            path => Ok(path.into()),
        });
        let max_loss = self.get("max_loss", share);
        let patience = self.get("patience", |t| seconds(t, 600.0));
        let key = self.key(client.is_some() && server.is_some());
        let seed = self.get("seed", |t| t.parse().map_err(|_| "expected a whole number"));
        let verb = self.verb(verb, ends.as_ref(), protocol);
        let ends = ends?;
        Some(Spec {
            verb: verb?,
            vip: ends.vip,
            protocol: protocol?,
            method: method?,
            clients: clients?,
            reals: ends.reals,
            real_port: ends.real_port,
            client,
            server,
            connections: connections?,
            rate: rate?,
            replies: replies?,
            size: size?,
            duration: duration?,
            open_rate: open_rate?,
            engine: engine?,
            mode: mode?,
            copy: copy?,
            cores: cores?,
            queues: queues?,
            balancer,
            max_loss: max_loss?,
            patience: patience?,
            key: key?,
            seed: seed?,
            output: Output::default(),
        })
    }

    /// An option that has a value; none, and a problem, if it is wrong.
    pub(super) fn get<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.values.get(key)?.text.clone();
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(why) => {
                self.fault(key, format!("`{}` is not usable", printable(&text)), why);
                None
            }
        }
    }

    /// An option that may be absent.
    pub(super) fn optional<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.values.contains_key(key).then(|| self.get(key, parse)).flatten()
    }

    fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.values.get(key)?.text.clone();
        let found = choices.iter().find(|(name, _)| *name == text.trim());
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let message = format!("unknown {} `{}`", key.replace('_', " "), printable(&text));
            self.fault(key, message, format!("expected one of {}", names.join(", ")));
            let help = nearest(&text, &names).map(|n| format!("did you mean `{n}`?"));
            if let Some(problem) = self.problems.last_mut() {
                problem.help = help;
            }
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn fault(
        &mut self,
        key: &'static str,
        message: impl Into<String>,
        allowed: impl Display,
    ) {
        let place = self.values.get(key).map_or(Place::Default, |v| v.place.clone());
        let (message, allowed) = (message.into(), allowed.to_string());
        self.problems.push(Problem { key, place, message, allowed, help: None });
    }

    /// Sets what follows from other options, so that the scenario shows it.
    fn settle(&mut self, key: &'static str, text: impl Display) {
        let value = super::values::Value { text: text.to_string(), place: Place::Default };
        self.values.entry(key).or_insert(value);
    }

    fn interfaces(&mut self, verb: &str) -> (Option<String>, Option<String>) {
        let client = self.optional("client", interface);
        let server = self.optional("server", interface);
        match (verb, &client, &server) {
            _ if !self.problems.is_empty() => {}
            (_, Some(c), Some(s)) if c == s => {
                let why = "clients and real servers need an interface each";
                self.fault("server", format!("`{s}` is also the clients' interface"), why);
            }
            ("reflect", _, None) => {
                self.fault("server", "missing", "the interface of the real servers");
            }
            ("reflect", Some(_), _) => {
                let why = "`load` with both interfaces has both sides in one process";
                self.fault("client", "reflect has no clients", why);
            }
            ("reflect", None, Some(_)) | (_, Some(_), _) => {}
            (_, None, Some(_)) => {
                let why = "for the server side alone there is `reflect`";
                self.fault("client", "missing: the interface of the clients", why);
            }
            (_, None, None) => self.fault(
                "client",
                "missing: the interface of the clients",
                "and --server, unless the real servers are on another machine",
            ),
        }
        (client, server)
    }

    fn ends(&mut self, method: Method) -> Option<Ends> {
        if !self.values.contains_key("vip") {
            self.fault("vip", "missing: address and port of the service", "like 198.18.255.1:80");
            return None;
        }
        let vip: SocketAddr = self.get("vip", |text| match text.parse::<SocketAddr>() {
            Ok(vip) if vip.port() == 0 => Err("a port from 1 to 65535".to_owned()),
            Ok(vip) => unicast(vip.ip()).map(|_| vip),
            Err(_) => Err("expected like 198.18.255.1:80 or [2001:db8::1]:80".to_owned()),
        })?;
        for option in OPTIONS {
            if let Fallback::Families(v4, v6) = option.default {
                self.settle(option.key, if vip.is_ipv4() { v4 } else { v6 });
            }
        }
        self.settle("real_port", vip.port());
        let clients = self.get("clients", addresses);
        let reals = self.get("reals", addresses);
        let real_port = self.get("real_port", port);
        let (clients, reals, real_port) = (clients?, reals?, real_port?);
        if clients.first().is_ipv4() != vip.is_ipv4() {
            self.fault("clients", "not of the VIP's family", "IPv4 with IPv4, IPv6 with IPv6");
        }
        if reals.first().is_ipv4() != vip.is_ipv4() && method != Method::Tunnel {
            let why = "only a tunnel joins IPv4 and IPv6";
            self.fault("reals", "not of the VIP's family", why);
        }
        let within = |range: Addresses| range.index(vip.ip()).is_some();
        for (key, range, what) in
            [("clients", clients, "clients'"), ("reals", reals, "real servers'")]
        {
            // One real server may be spoken to itself: through a router, or a forwarder to compare with.
            let straight = key == "reals"
                && (range.count(), range.first(), method) == (1, vip.ip(), Method::Nat)
                && real_port == vip.port();
            if within(range) && !straight {
                let message = format!("the VIP {} is among the {what} addresses", vip.ip());
                self.fault(key, message, "they have to be apart");
            }
        }
        if clients.index(reals.first()).is_some() || reals.index(clients.first()).is_some() {
            self.fault("reals", "some are also clients' addresses", "they have to be apart");
        }
        if !method.replies_pass() && real_port != vip.port() {
            let message = "direct and tunnel leave the port as it is";
            self.fault("real_port", message, format!("expected {}", vip.port()));
        }
        Some(Ends { vip, clients, reals, real_port })
    }

    fn clients(&mut self, ends: Option<&Ends>, connections: Option<u32>) -> Option<Clients> {
        let first = self.get("client_port", port);
        let (first, ends, connections) = (first?, ends?, connections?);
        let clients = Clients::new(ends.clients, first, connections);
        if clients.is_none() {
            let room = (u64::from(u16::MAX - first) + 1) * u64::from(ends.clients.count());
            let message = format!(
                "{connections} connections do not fit {} client address{} with ports from {first}",
                ends.clients.count(),
                if ends.clients.count() == 1 { "" } else { "es" },
            );
            self.fault("connections", message, format!("at most {room}; more --clients help"));
        }
        clients
    }

    fn replies(&mut self, method: Option<Method>, one_process: bool) -> Option<f64> {
        let passes = method.is_none_or(Method::replies_pass) || !one_process;
        self.settle("replies", if passes { "0.5" } else { "0" });
        let replies = self.get("replies", share)?;
        if !passes && replies > 0.0 {
            let why =
                "expected 0: in one process, replies of direct and tunnel do not pass the balancer";
            self.fault("replies", "replies cannot be measured with this method", why);
        }
        Some(replies)
    }

    /// A size at least large enough for a stamp, and a note if it was not.
    pub(super) fn raise(
        &mut self,
        size: Option<Size>,
        ends: Option<&Ends>,
        protocol: Option<Protocol>,
        key: &'static str,
    ) -> Option<Size> {
        let (ends, protocol) = (ends?, protocol?);
        let least = size::least(ends.vip.is_ipv6(), protocol);
        match size? {
            Size::Fixed(wanted) if wanted < least => {
                self.notes.push(format!(
                    "{key}: a frame of {wanted} bytes is too small for headers and stamp; \
                     {least} bytes taken"
                ));
                Some(Size::Fixed(least))
            }
            Size::Imix if least > SIZE_MIN => {
                let note = format!("{key}: the smallest frames of imix are {least} bytes");
                self.notes.push(note);
                Some(Size::Imix)
            }
            size => Some(size),
        }
    }

    pub(super) fn check_rate(
        &mut self,
        key: &'static str,
        rate: Option<Rate>,
        size: Option<Size>,
        ends: Option<&Ends>,
        protocol: Option<Protocol>,
    ) {
        let (Some(rate), Some(size), Some(ends), Some(protocol)) = (rate, size, ends, protocol)
        else {
            return;
        };
        let bits = size.wire_bits(size::least(ends.vip.is_ipv6(), protocol));
        if let Err(why) = rate.check(bits) {
            let message = format!("{rate} of {size}-byte frames is not possible");
            self.fault(key, message, why);
        }
    }

    fn duration_of(&mut self, verb: &str) -> Option<Duration> {
        let given = self.values.get("seconds").is_some_and(|v| v.place != Place::Default);
        if verb == "reflect" && !given {
            self.values.remove("seconds");
            return Some(Duration::ZERO);
        }
        self.get("seconds", |t| seconds(t, SECONDS_MAX))
    }

    fn queues(&mut self, cores: Option<&[usize]>) -> Option<u32> {
        self.settle("queues", cores.map_or(1, <[usize]>::len));
        self.get("queues", |t| count(t, CORES_MAX as u32))
    }

    fn key(&mut self, both_sides_here: bool) -> Option<u32> {
        let random = || RandomState::new().build_hasher().finish() as u32;
        self.settle("key", if both_sides_here { random() } else { 1 });
        self.get("key", |text| {
            let parsed = match text.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => text.parse(),
            };
            parsed.map_err(|_| "expected a whole number of 32 bits, like 7 or 0xfeed")
        })
    }

    /// Every option in force, as a scenario file would have it.
    fn scenario(&self, verb: &str) -> serde_json::Value {
        let mut top = serde_json::Map::new();
        let mut own = serde_json::Map::new();
        for option in OPTIONS.iter().filter(|o| o.section.is_empty() || o.section == verb) {
            let Some(value) = self.values.get(option.key) else { continue };
            let table = if option.section.is_empty() { &mut top } else { &mut own };
            table.insert(option.key.to_owned(), literal(value.text.trim()));
        }
        if !own.is_empty() {
            top.insert(verb.to_owned(), own.into());
        }
        top.into()
    }
}
