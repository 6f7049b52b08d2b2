//! What would change if another configuration came in force, and whom it would concern. Pure.
//!
//! Services are the same if their names are, reals if service, address and port are: as the data
//! plane sees them, so that what is told here is what a reload does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_api::message::{ServiceStatus, Status};
use dataplane_api::service::{Real, Service};
use serde::Serialize;
use serde_json::Value;

use crate::config::{Config, Entry, show_duration};
use crate::overrides::RealKey;
use crate::verbs::Difference;

const NEW_ONLY: &str = "new connections only";
const NEXT_PACKET: &str = "live connections get it with their next packet";
const UNTOUCHED: &str = "connections are not touched";

/// Every difference from `old` to `new`, with live connections as `status` has them.
#[must_use]
pub fn compare(old: &Config, new: &Config, status: Option<&Status>) -> Vec<Difference> {
    let mut found = Found { list: Vec::new(), status };
    found.whole(old, new);
    let names = |c: &Config| -> BTreeSet<String> {
        c.services.iter().map(|e| e.service.name.clone()).collect()
    };
    let (before, after) = (names(old), names(new));
    for entry in old.services.iter().filter(|e| !after.contains(&e.service.name)) {
        found.removed(&entry.service);
    }
    let old_services: BTreeMap<&str, &Entry> =
        old.services.iter().map(|e| (e.service.name.as_str(), e)).collect();
    for entry in &new.services {
        match old_services.get(entry.service.name.as_str()) {
            Some(was) if before.contains(&entry.service.name) => found.service(was, entry),
            _ => found.added(&entry.service),
        }
    }
    found.list
}

struct Found<'a> {
    list: Vec<Difference>,
    status: Option<&'a Status>,
}

/// A difference to be filled in.
fn difference(action: &str, what: &str, effect: &str) -> Difference {
    Difference {
        service: None,
        real: None,
        action: action.to_owned(),
        what: what.to_owned(),
        from: None,
        to: None,
        effect: effect.to_owned(),
        conns: Some(0),
    }
}

impl Found<'_> {
    /// What concerns all services.
    fn whole(&mut self, old: &Config, new: &Config) {
        let all = self.status.map(|s| s.table.used.saturating_sub(s.table.templates));
        let restart = "takes effect when the data plane restarts; connections live on";
        self.keys(None, ("engine", &old.engine, &new.engine), |_| (restart, Some(0)));
        self.keys(None, ("timeouts", &old.timeouts, &new.timeouts), |_| (NEXT_PACKET, all));
        self.keys(None, ("fullnat", &old.local, &new.local), |_| {
            ("new connections through full NAT", all)
        });
        self.keys(None, ("reply.path", &old.reply, &new.reply), |_| {
            ("replies to live connections take the other way too", all)
        });
        for i in old.interfaces.iter().filter(|i| !new.interfaces.iter().any(|n| n.name == i.name))
        {
            let effect = "left at once: connections over it stand still";
            let conns = all;
            self.list.push(Difference {
                from: Some(i.name.clone()),
                conns,
                ..difference("remove", "interface", effect)
            });
        }
        for i in &new.interfaces {
            let name = format!("interface {}", i.name);
            match old.interfaces.iter().find(|o| o.name == i.name) {
                Some(was) => self.keys(None, (&name, was, i), |_| {
                    ("attached again; packets are lost for a moment", all)
                }),
                None => self.list.push(Difference {
                    to: Some(i.name.clone()),
                    ..difference("add", "interface", "attached at once")
                }),
            }
        }
        self.control(old, new);
        self.pair(old, new);
    }

    /// `[ha]`, setting by setting.
    fn pair(&mut self, old: &Config, new: &Config) {
        match (&old.ha, &new.ha) {
            (Some(_), Some(_)) => {}
            (None, None) => return,
            (Some(_), None) => {
                let effect = "this node owns every VIP, whatever the other one does";
                return self.list.push(difference("remove", "ha", effect));
            }
            (None, Some(_)) => {
                let effect = "VIPs are owned by one of two nodes; they are given up for a moment";
                return self.list.push(difference("add", "ha", effect));
            }
        }
        let settings = |c: &Config| -> BTreeMap<String, String> {
            let lines = c.lines.iter().filter(|l| l.path.starts_with("ha."));
            lines.map(|l| (l.path.clone(), l.value().to_owned())).collect()
        };
        let (before, after) = (settings(old), settings(new));
        let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for path in all.into_iter().filter(|path| before.get(*path) != after.get(*path)) {
            let (from, to) = (before.get(path).cloned(), after.get(path).cloned());
            let effect = "nothing moves for it; give both nodes the same";
            self.list.push(Difference { from, to, ..difference("change", path, effect) });
        }
    }

    /// What only control knows.
    fn control(&mut self, old: &Config, new: &Config) {
        let texts = |c: &Config| {
            let control = &c.control;
            let group = |g: &Option<crate::config::Group>| g.as_ref().map(|g| g.name.clone());
            [
                ("node.name", c.node.name.clone()),
                ("control.lease", Some(show_duration(control.lease))),
                ("control.on_stop", Some(format!("{:?}", control.on_stop).to_lowercase())),
                ("control.operators", group(&control.operators)),
                ("control.readers", group(&control.readers)),
                (
                    "control.maintenance_dir",
                    control.maintenance_dir.as_ref().map(|d| d.display().to_string()),
                ),
            ]
        };
        for (what, same) in
            [("alert", old.alert == new.alert), ("metrics", old.metrics == new.metrics)]
        {
            if !same {
                self.list.push(difference("change", what, UNTOUCHED));
            }
        }
        for ((what, from), (_, to)) in texts(old).into_iter().zip(texts(new)) {
            if from != to {
                self.list.push(Difference { from, to, ..difference("change", what, UNTOUCHED) });
            }
        }
    }

    fn removed(&mut self, service: &Service) {
        let conns = self.conns(&service.name);
        self.list.push(Difference {
            service: Some(service.name.clone()),
            from: Some(texts(&service.listen)),
            conns,
            ..difference(
                "remove",
                "service",
                "no new connections; those it has go on until they end",
            )
        });
    }

    fn added(&mut self, service: &Service) {
        self.list.push(Difference {
            service: Some(service.name.clone()),
            to: Some(texts(&service.listen)),
            ..difference("add", "service", "takes connections at once")
        });
    }

    fn service(&mut self, old: &Entry, new: &Entry) {
        let (was, is) = (&old.service, &new.service);
        let name = &is.name;
        let all = self.conns(name);
        self.listens(was, is, all);
        let bare = |s: &Service| Service { listen: Vec::new(), reals: Vec::new(), ..s.clone() };
        self.keys(Some(name), ("", &bare(was), &bare(is)), |key| match key {
            _ if key.starts_with("timeouts") => (NEXT_PACKET, all),
            _ if key.starts_with("persistence") => ("for the next connection of each client", all),
            _ => (NEW_ONLY, Some(0)),
        });
        self.health(old, new);
        let key = |r: &Real| RealKey::new(name, r);
        let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) = (
            was.reals.iter().map(|r| (key(r), r)).collect(),
            is.reals.iter().map(|r| (key(r), r)).collect(),
        );
        for (key, real) in before.iter().filter(|(k, _)| !after.contains_key(k)) {
            let effect = "no new connections; those it has go on until they end";
            let conns = self.real_conns(key);
            let mut gone = difference("remove", "real", effect);
            (gone.service, gone.real) = (Some(name.clone()), Some(real.name.clone()));
            (gone.from, gone.conns) = (Some(key.text()), conns);
            self.list.push(gone);
        }
        for (key, real) in &after {
            match before.get(key) {
                Some(was) => self.real(key, was, real),
                None => {
                    let mut new = difference("add", "real", "takes connections at once");
                    (new.service, new.real) = (Some(name.clone()), Some(real.name.clone()));
                    new.to = Some(key.text());
                    self.list.push(new);
                }
            }
        }
        let order = |reals: &[Real], others: &BTreeMap<RealKey, &Real>| -> Vec<RealKey> {
            reals.iter().map(key).filter(|k| others.contains_key(k)).collect()
        };
        if order(&was.reals, &after) != order(&is.reals, &before) {
            let mut order = difference("change", "order of real servers", NEW_ONLY);
            order.service = Some(name.clone());
            self.list.push(order);
        }
    }

    /// What only control knows of a service.
    fn health(&mut self, old: &Entry, new: &Entry) {
        let name = &new.service.name;
        if old.health != new.health {
            let mut health = difference("change", "health", UNTOUCHED);
            health.service = Some(name.clone());
            self.list.push(health);
        }
        if old.sorry.is_some() && new.sorry.is_some() && old.sorry != new.sorry {
            let mut page = difference("change", "sorry page", UNTOUCHED);
            page.service = Some(name.clone());
            self.list.push(page);
        }
        let checks = |e: &Entry| -> BTreeMap<RealKey, _> {
            let pairs = e.service.reals.iter().zip(&e.checks);
            pairs.map(|(r, c)| (RealKey::new(name, r), (r.name.clone(), c.clone()))).collect()
        };
        let before = checks(old);
        for (key, (real, checks)) in checks(new) {
            if before.get(&key).is_some_and(|(_, was)| *was != checks) {
                let effect = "its health is kept; the new checks run at once";
                let mut check = difference("change", "checks", effect);
                (check.service, check.real) = (Some(name.clone()), Some(real));
                (check.from, check.to) = (
                    before.get(&key).map(|(_, was)| was.len().to_string()),
                    Some(checks.len().to_string()),
                );
                self.list.push(check);
            }
        }
    }

    fn listens(&mut self, was: &Service, is: &Service, conns: Option<u64>) {
        for listen in was.listen.iter().filter(|l| !is.listen.contains(l)) {
            let ip: IpAddr = listen.address;
            let vip_stays = is.listen.iter().any(|l| l.address == ip);
            let effect = if vip_stays {
                "no new connections there; live ones go on (at most these)"
            } else {
                "the VIP is given up; live connections to it lose it (at most these)"
            };
            let mut gone = difference("remove", "listen", effect);
            (gone.service, gone.conns) = (Some(is.name.clone()), conns);
            gone.from = Some(listen.to_string());
            self.list.push(gone);
        }
        for listen in is.listen.iter().filter(|l| !was.listen.contains(l)) {
            let mut new = difference("add", "listen", "takes connections at once");
            (new.service, new.to) = (Some(is.name.clone()), Some(listen.to_string()));
            self.list.push(new);
        }
    }

    fn real(&mut self, key: &RealKey, was: &Real, is: &Real) {
        let conns = self.real_conns(key);
        let first = self.list.len();
        self.keys(Some(&key.service), ("", was, is), |name| match name {
            "name" => (UNTOUCHED, Some(0)),
            _ => ("new connections only; those it has stay", conns),
        });
        for difference in &mut self.list[first..] {
            difference.real = Some(is.name.clone());
        }
    }

    /// The keys in which two values of one kind differ.
    fn keys<T: Serialize, E: Fn(&str) -> (&'static str, Option<u64>)>(
        &mut self,
        service: Option<&str>,
        (name, old, new): (&str, &T, &T),
        effect: E,
    ) {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        leaves(name, &serde_json::to_value(old).unwrap_or_default(), &mut before);
        leaves(name, &serde_json::to_value(new).unwrap_or_default(), &mut after);
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let (from, to) = (before.get(key), after.get(key));
            if from != to {
                let (effect, conns) = effect(key);
                self.list.push(Difference {
                    service: service.map(str::to_owned),
                    from: from.cloned(),
                    to: to.cloned(),
                    conns,
                    ..difference("change", key, effect)
                });
            }
        }
    }

    /// Live connections of a service.
    fn conns(&self, service: &str) -> Option<u64> {
        let status = self.status?;
        let service = status.services.iter().find(|s| s.name == service);
        Some(service.map_or(0, |s| s.reals.iter().map(|r| r.active + r.inactive).sum()))
    }

    /// Live connections of a real.
    fn real_conns(&self, key: &RealKey) -> Option<u64> {
        let status = self.status?;
        let service = status.services.iter().find(|s| s.name == key.service);
        let address = key.text();
        let live = |s: &ServiceStatus| {
            let mine = s.reals.iter().filter(|r| r.address == address);
            mine.map(|r| r.active + r.inactive).sum()
        };
        Some(service.map_or(0, live))
    }
}

fn texts(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// What is at the ends of `value`, by path.
fn leaves(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, found);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            found.insert(path.to_owned(), text.clone());
        }
        other => {
            found.insert(path.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane_api::message::RealStatus;

    use super::*;
    use crate::config;

    const FILE: &str = r#"
        [[interface]]
        name = "eth0"
        [[service]]
        name = "web"
        listen = ["192.0.2.10:80", "192.0.2.10:81"]
        real = [
            { name = "a", address = "10.0.1.1:80", weight = 4 },
            { name = "b", address = "10.0.1.2:80" },
        ]
        [[service]]
        name = "mail"
        listen = "192.0.2.10:25"
        real = [{ address = "10.0.1.1:25" }]
    "#;

    #[test]
    fn each_setting_of_the_pair_that_changes_is_shown() {
        let ha = |deadtime: &str| {
            parse(&format!(
                "[[interface]]\nname = \"e\"\n[node]\nname = \"a\"\n[ha]\nnodes = [\"a\", \"b\"]\ndeadtime = \"{deadtime}\"\n\
                 key = [{{ id = 1, file = \"/k\" }}]\n\
                 path = [{{ type = \"udp\", a = \"10.9.0.1:1\", b = \"10.9.0.2:1\" }}]\n"
            ))
        };
        let found = compare(&ha("200ms"), &ha("300ms"), None);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].what.as_str(), found[0].to.as_deref()),
            ("ha.deadtime", Some("\"300ms\""))
        );
        let alone = parse("[[interface]]\nname = \"e\"\n[node]\nname = \"a\"\n");
        let whats = |found: Vec<Difference>| -> Vec<String> {
            found.into_iter().map(|d| format!("{} {}", d.action, d.what)).collect()
        };
        assert_eq!(whats(compare(&alone, &ha("200ms"), None)), ["add ha"]);
        assert_eq!(whats(compare(&ha("200ms"), &alone, None)), ["remove ha"]);
    }

    fn parse(text: &str) -> Config {
        config::parse(text, "x").unwrap()
    }

    fn status() -> Status {
        let real = |address: &str, active, inactive| RealStatus {
            address: address.into(),
            active,
            inactive,
            ..RealStatus::default()
        };
        let service = |name: &str, reals| ServiceStatus {
            name: name.into(),
            reals,
            ..ServiceStatus::default()
        };
        let mut status = Status {
            services: vec![
                service("web", vec![real("10.0.1.1:80", 10, 5), real("10.0.1.2:80", 1, 1)]),
                service("mail", vec![real("10.0.1.1:25", 3, 0)]),
            ],
            ..Status::default()
        };
        (status.table.used, status.table.templates) = (22, 2);
        status
    }

    /// Each difference as `action service real what from>to conns`.
    fn told(change: impl Fn(&str) -> String) -> Vec<String> {
        let list = compare(&parse(FILE), &parse(&change(FILE)), Some(&status()));
        let dash = |o: &Option<String>| o.clone().unwrap_or_else(|| "-".into());
        let line = |d: &Difference| {
            let (service, real) = (dash(&d.service), dash(&d.real));
            let (from, to) = (dash(&d.from), dash(&d.to));
            let conns = d.conns.map_or_else(|| "?".into(), |n| n.to_string());
            format!("{} {service} {real} {} {from}>{to} {conns}", d.action, d.what)
        };
        list.iter().map(line).collect()
    }

    #[test]
    fn a_file_that_differs_in_its_looks_only_changes_nothing() {
        assert_eq!(told(|f| format!("# a comment\n{f}")), [""; 0]);
        assert_eq!(told(|f| f.replace("weight = 4", "weight = 0x4")), [""; 0]);
    }

    #[test]
    fn each_change_is_told_with_the_connections_it_concerns() {
        let weight = told(|f| f.replace("weight = 4", "weight = 0"));
        assert_eq!(weight, ["change web a weight 4>0 15"]);
        let gone = told(|f| f.replace("{ name = \"b\", address = \"10.0.1.2:80\" },", ""));
        assert_eq!(gone, ["remove web b real 10.0.1.2:80>- 2"]);
        let port = told(|f| f.replace("10.0.1.2:80", "10.0.1.2:81"));
        assert_eq!(
            port,
            ["remove web b real 10.0.1.2:80>- 2", "add web b real ->10.0.1.2:81 0"],
            "another port is another real"
        );
        let listen = told(|f| f.replace(", \"192.0.2.10:81\"", ""));
        assert_eq!(listen, ["remove web - listen 192.0.2.10:81>- 17"]);
        let renamed = told(|f| f.replace("\"mail\"", "\"smtp\""));
        let expected =
            ["remove mail - service 192.0.2.10:25>- 3", "add smtp - service ->192.0.2.10:25 0"];
        assert_eq!(renamed, expected);
        let scheduler = told(|f| f.replace("name = \"web\"", "name = \"web\"\nscheduler = \"lc\""));
        assert_eq!(scheduler, ["change web - scheduler wrr>lc 0"]);
        let engine = told(|f| format!("[engine]\nconnections = 2048\n{f}"));
        assert_eq!(engine, ["change - - engine.connections 1048576>2048 0"]);
        let timeouts = told(|f| format!("[timeouts]\nestablished = \"1h\"\n{f}"));
        assert_eq!(timeouts, ["change - - timeouts.established 900>3600 20"]);
        let lease = told(|f| format!("[control]\nlease = \"1s\"\n{f}"));
        assert_eq!(lease, ["change - - control.lease 3s>1s 0"]);
        let metrics = told(|f| format!("[metrics]\nlisten = \"127.0.0.1:9105\"\n{f}"));
        assert_eq!(metrics, ["change - - metrics ->- 0"]);
        let interface = told(|f| f.replace("eth0", "eth1"));
        assert_eq!(interface, ["remove - - interface eth0>- 20", "add - - interface ->eth1 0"]);
    }

    #[test]
    fn without_word_from_the_data_plane_the_number_of_connections_is_not_invented() {
        let new = parse(&FILE.replace("weight = 4", "weight = 1"));
        assert_eq!(compare(&parse(FILE), &new, None)[0].conns, None);
    }

    #[test]
    fn reals_in_another_order_are_told() {
        let swapped = told(|f| {
            let f = f.replace("\"a\", address = \"10.0.1.1:80\", weight = 4", "X");
            let f = f.replace("\"b\", address = \"10.0.1.2:80\"", "Y");
            f.replace('Y', "\"a\", address = \"10.0.1.1:80\", weight = 4")
                .replace('X', "\"b\", address = \"10.0.1.2:80\"")
        });
        assert_eq!(swapped, ["change web - order of real servers ->- 0"]);
    }
}
