//! What a snapshot must keep to. Control validates files and says it better; this is for whoever else
//! speaks on the agent socket, and for what a state file says. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_api::service::{
    Engine, Interface, Listen, Persistence, Protocol, Real, Service, Snapshot, Timeouts,
};

use super::groups;
use crate::limits;

/// Longest time of any kind, in seconds.
const SECONDS_MAX: u32 = 31_536_000;
/// Longest name of a service or real server, in bytes.
const NAME_MAX: usize = 63;
/// Fewest connections a table can be made for, and range of frames of an interface.
const CONNECTIONS_MIN: u32 = 1024;
const FRAMES: std::ops::RangeInclusive<u32> = 1024..=65_536;

/// Whether everything in it is within the limits, named once and free of contradictions.
///
/// # Errors
/// The first thing that is not.
pub fn check(snapshot: &Snapshot) -> Result<(), String> {
    engine(&snapshot.engine)?;
    interfaces(&snapshot.interfaces)?;
    timeouts("timeouts", &snapshot.timeouts)?;
    let local = &snapshot.local.addresses;
    if local.len() > limits::LOCAL_ADDRESSES {
        let most = limits::LOCAL_ADDRESSES;
        return Err(format!("{} local addresses; at most {most} are possible", local.len()));
    }
    unique("local address", local.iter())?;
    let services = &snapshot.services;
    if services.len() > limits::SERVICES {
        let most = limits::SERVICES;
        return Err(format!("{} services; at most {most} are possible", services.len()));
    }
    let reals: usize = services.iter().map(|s| s.all_reals().count()).sum();
    if reals > limits::REALS {
        return Err(format!("{reals} real servers; at most {} are possible", limits::REALS));
    }
    unique("service", services.iter().map(|s| &s.name))?;
    for service in services {
        check_service(service).map_err(|e| format!("service {}: {e}", shown(&service.name)))?;
    }
    overlaps(services)?;
    let vips: BTreeSet<IpAddr> =
        services.iter().flat_map(|s| &s.listen).map(|l| l.address).collect();
    let mut reals = services.iter().flat_map(Service::all_reals);
    match reals.find(|r| vips.contains(&r.address)) {
        Some(real) => Err(format!("{} is a VIP and cannot be a real server too", real.address)),
        None => groups::check(snapshot, &vips),
    }
}

fn engine(engine: &Engine) -> Result<(), String> {
    let Engine { cores, connections, half_open_percent, frames, .. } = engine;
    if cores.is_empty() || cores.len() > limits::WORKERS {
        return Err(format!("engine.cores: {} cores; 1 to {}", cores.len(), limits::WORKERS));
    }
    unique("engine.cores: core", cores.iter())?;
    let most = limits::CONNECTIONS;
    if !(CONNECTIONS_MIN..=most).contains(connections) {
        let range = format!("{CONNECTIONS_MIN} to {most}");
        return Err(format!("engine.connections: {connections}; {range} are possible"));
    }
    if !(1..=100).contains(half_open_percent) {
        return Err(format!("engine.half_open_percent: {half_open_percent}; expected 1 to 100"));
    }
    if !FRAMES.contains(frames) || !frames.is_power_of_two() {
        let (first, last) = FRAMES.into_inner();
        let expected = format!("expected a power of two from {first} to {last}");
        return Err(format!("engine.frames: {frames}; {expected}"));
    }
    Ok(())
}

fn interfaces(interfaces: &[Interface]) -> Result<(), String> {
    let count = interfaces.len();
    if count > limits::INTERFACES {
        return Err(format!("{count} interfaces; at most {} are possible", limits::INTERFACES));
    }
    unique("interface", interfaces.iter().map(|i| &i.name))?;
    // `dev_valid_name` of the kernel (net/core/dev.c).
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
    let bad = interfaces.iter().map(|i| i.name.as_str()).find(|name| {
        !(1..=15).contains(&name.len()) || name.contains(odd) || matches!(*name, "." | "..")
    });
    bad.map_or(Ok(()), |name| Err(format!("{} is no name of an interface", shown(name))))
}

fn timeouts(what: &str, timeouts: &Timeouts) -> Result<(), String> {
    let t = timeouts;
    let all = [
        t.syn_received,
        t.established,
        t.fin_wait,
        t.close_wait,
        t.last_ack,
        t.time_wait,
        t.close,
        t.udp_new,
        t.udp,
    ];
    all.into_iter().try_for_each(|seconds| within(what, seconds))
}

fn within(what: &str, seconds: u32) -> Result<(), String> {
    if (1..=SECONDS_MAX).contains(&seconds) {
        return Ok(());
    }
    Err(format!("{what}: {seconds} seconds; expected 1 to {SECONDS_MAX}"))
}

/// Of a service or a group.
pub(super) fn name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(allowed) {
        return Err(format!("is no name: expected 1 to {NAME_MAX} of A-Z a-z 0-9 . _ -"));
    }
    Ok(())
}

fn check_service(service: &Service) -> Result<(), String> {
    name(&service.name)?;
    if service.listen.is_empty() {
        return Err("listens on nothing".to_owned());
    }
    if let Some(own) = &service.timeouts {
        timeouts("timeouts", own)?;
    }
    if let Some(Persistence { timeout, mask_v4, mask_v6 }) = &service.persistence {
        within("persistence", *timeout)?;
        if !(1..=32).contains(mask_v4) || !(1..=128).contains(mask_v6) {
            return Err(format!("persistence: masks of {mask_v4} and {mask_v6} bits"));
        }
    }
    if service.sorry && service.protocol != Protocol::Tcp {
        return Err("sorry: only TCP can be left to the kernel".to_owned());
    }
    unique("real server", service.all_reals().map(|r| (r.address, r.port)))?;
    let keeps_port = service.forwarding.is_one_way();
    service.all_reals().try_for_each(|real| check_real(real, keeps_port))
}

fn check_real(real: &Real, keeps_port: bool) -> Result<(), String> {
    let Real { name, address, port, upper_threshold, lower_threshold, .. } = real;
    if !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{} is no name of a real server", shown(name)));
    }
    if *port == Some(0) || keeps_port && port.is_some() {
        return Err(format!("real server {address}: a port is not possible here, or is 0"));
    }
    match (lower_threshold, upper_threshold) {
        (_, Some(0)) | (Some(_), None) => Err(format!("real server {address}: thresholds")),
        (Some(lower), Some(upper)) if lower > upper => {
            Err(format!("real server {address}: lower threshold {lower} is above {upper}"))
        }
        _ => Ok(()),
    }
}

/// No port of a VIP belongs to two services, or twice to one.
fn overlaps(services: &[Service]) -> Result<(), String> {
    let mut taken: BTreeMap<(Protocol, IpAddr), Vec<Listen>> = BTreeMap::new();
    for service in services {
        for listen in &service.listen {
            taken.entry((service.protocol, listen.address)).or_default().push(*listen);
        }
    }
    for listens in taken.values_mut() {
        listens.sort_by_key(|l| l.ports);
        if let Some([first, second]) =
            listens.array_windows().find(|[first, second]| first.ports.overlaps(second.ports))
        {
            return Err(format!("{second} overlaps {first}"));
        }
    }
    Ok(())
}

pub(super) fn unique<T: Ord + std::fmt::Debug>(
    what: &str,
    items: impl Iterator<Item = T>,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for item in items {
        if let Some(twice) = seen.replace(item) {
            return Err(format!("{what} {} is there twice", shown(&format!("{twice:?}"))));
        }
    }
    Ok(())
}

/// A name that nobody has checked, fit for a message.
pub(super) fn shown(name: &str) -> String {
    let short: String = name.chars().take(NAME_MAX).collect();
    format!("`{}`", short.escape_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn snapshot(change: impl Fn(&mut serde_json::Value)) -> Snapshot {
        let mut value = serde_json::json!({
            "engine": {"cores": [0], "poll": "adaptive", "connections": 65536,
                       "half_open_percent": 25, "frames": 8192},
            "interfaces": [{"name": "eth0"}, {"name": "eth1"}],
            "timeouts": Timeouts::default(),
            "local": {"addresses": ["10.0.0.9"], "ports": "1024-65535"},
            "reply": "last-hop",
            "services": [{"name": "web", "protocol": "tcp", "listen": ["192.0.2.1:80"],
                          "forwarding": "nat", "scheduler": "wrr",
                          "reals": [{"name": "a", "address": "10.0.0.1", "port": 80}]}]
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_limit_is_kept_and_named() {
        assert_eq!(check(&snapshot(|_| ())), Ok(()));
        let refused = |words: &str, change: &dyn Fn(&mut serde_json::Value)| {
            let message = check(&snapshot(change)).expect_err(words);
            assert!(message.contains(words), "{message}");
        };
        refused("0 cores", &|s| s["engine"]["cores"] = [(); 0].into_iter().collect());
        refused("core `1` is there twice", &|s| s["engine"]["cores"] = vec![1, 1].into());
        refused("connections: 0", &|s| s["engine"]["connections"] = 0.into());
        refused("frames: 4294967295", &|s| s["engine"]["frames"] = u32::MAX.into());
        refused("frames: 1025", &|s| s["engine"]["frames"] = 1025.into());
        refused("half_open_percent", &|s| s["engine"]["half_open_percent"] = 0.into());
        refused("is there twice", &|s| s["interfaces"][1] = s["interfaces"][0].clone());
        refused("no name of an interface", &|s| s["interfaces"][0]["name"] = "../x".into());
        refused("timeouts: 0 seconds", &|s| s["timeouts"]["udp"] = 0.into());
        let service = |s: &mut serde_json::Value, key: &str, value: serde_json::Value| {
            s["services"][0][key] = value;
        };
        refused("is no name", &|s| service(s, "name", "".into()));
        refused("listens on nothing", &|s| service(s, "listen", serde_json::json!([])));
        refused("overlaps", &|s| {
            service(s, "listen", serde_json::json!(["192.0.2.1:80", "192.0.2.1:1-100"]));
        });
        refused("is there twice", &|s| {
            let again = s["services"][0].clone();
            s["services"].as_array_mut().unwrap().push(again);
        });
        refused("is a VIP", &|s| s["services"][0]["reals"][0]["address"] = "192.0.2.1".into());
        refused("or is 0", &|s| s["services"][0]["reals"][0]["port"] = 0.into());
        refused("no name of a real", &|s| s["services"][0]["reals"][0]["name"] = "a\nb".into());
        refused("is there twice", &|s| {
            let real = s["services"][0]["reals"][0].clone();
            s["services"][0]["reals"].as_array_mut().unwrap().push(real);
        });
        refused("17 interfaces", &|s| {
            let many = (0..17).map(|n| serde_json::json!({"name": format!("e{n}")}));
            s["interfaces"] = many.collect();
        });
    }
}
