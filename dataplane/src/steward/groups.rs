//! What a snapshot must keep to about groups. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_api::service::{GROUPS_MAX, Group, Service, Snapshot};

use super::check::{name, shown, unique};
use crate::limits::GATEWAYS;
use crate::service::is_unicast;

/// Whether each address has one group, and each gateway nothing else to do.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(snapshot: &Snapshot, vips: &BTreeSet<IpAddr>) -> Result<(), String> {
    let groups = &snapshot.groups;
    if groups.len() > GROUPS_MAX {
        return Err(format!("{} groups; at most {GROUPS_MAX} are possible", groups.len()));
    }
    unique("group", groups.iter().map(|g| &g.name))?;
    for group in groups {
        let wrong = |e| format!("group {}: {e}", shown(&group.name));
        name(&group.name).map_err(wrong)?;
        members(group, snapshot, vips).map_err(wrong)?;
    }
    unique(
        "address of a group",
        groups.iter().flat_map(|g| g.addresses.iter().chain(&g.gateways)),
    )?;
    let gateways = groups.iter().map(|g| g.gateways.len()).sum::<usize>();
    if gateways > GATEWAYS {
        return Err(format!("{gateways} gateways; at most {GATEWAYS} are possible"));
    }
    Ok(())
}

fn members(group: &Group, snapshot: &Snapshot, vips: &BTreeSet<IpAddr>) -> Result<(), String> {
    let local = &snapshot.local.addresses;
    let ours = |a: &IpAddr| vips.contains(a) || local.contains(a);
    if let Some(stranger) = group.addresses.iter().find(|a| !ours(a)) {
        return Err(format!("{stranger} is neither a VIP nor a local address"));
    }
    for gateway in &group.gateways {
        if !is_unicast(*gateway) {
            return Err(format!("gateway {gateway} is not the address of a host"));
        }
        if ours(gateway) {
            return Err(format!("gateway {gateway} is a VIP or a local address"));
        }
        let mut reals = snapshot.services.iter().flat_map(Service::all_reals);
        if reals.any(|real| real.address == *gateway) {
            return Err(format!("gateway {gateway} is a real server"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::steward::check::check;
    use crate::steward::check::tests::snapshot;

    #[test]
    fn each_rule_about_groups_is_kept_and_named() {
        let outcome =
            |groups: serde_json::Value| check(&snapshot(|s| s["groups"] = groups.clone()));
        let group = |name: &str, addresses: &[&str], gateways: &[&str]| serde_json::json!({"name": name, "addresses": addresses, "gateways": gateways});
        let good = [
            group("a", &["192.0.2.1"], &["10.0.0.254", "fe80::1"]),
            group("b", &["10.0.0.9"], &[]),
        ];
        assert_eq!(outcome(good.to_vec().into()), Ok(()));
        let refused = |words: &str, groups: &[serde_json::Value]| {
            let message = outcome(groups.to_vec().into()).expect_err(words);
            assert!(message.contains(words), "{message}");
        };
        let many = |count: usize| {
            (0..count).map(|n| group(&format!("g{n}"), &[], &[])).collect::<Vec<_>>()
        };
        assert_eq!(outcome(many(16).into()), Ok(()));
        refused("17 groups; at most 16", &many(17));
        refused("group `\\\"a\\\"` is there twice", &[group("a", &[], &[]), group("a", &[], &[])]);
        refused("group ``: is no name", &[group("", &[], &[])]);
        refused("group `a b`: is no name", &[group("a b", &[], &[])]);
        refused("192.0.2.9 is neither a VIP nor", &[group("a", &["192.0.2.9"], &[])]);
        refused("`192.0.2.1` is there twice", &[group("a", &["192.0.2.1", "192.0.2.1"], &[])]);
        refused(
            "`192.0.2.1` is there twice",
            &[group("a", &["192.0.2.1"], &[]), group("b", &["192.0.2.1"], &[])],
        );
        refused(
            "`10.0.0.254` is there twice",
            &[group("a", &[], &["10.0.0.254"]), group("b", &[], &["10.0.0.254"])],
        );
        refused("not the address of a host", &[group("a", &[], &["224.0.0.1"])]);
        refused("is a VIP or a local address", &[group("a", &[], &["192.0.2.1"])]);
        refused("is a VIP or a local address", &[group("a", &[], &["10.0.0.9"])]);
        refused("gateway 10.0.0.1 is a real server", &[group("a", &[], &["10.0.0.1"])]);
        let crowd: Vec<_> = (0..257).map(|n| format!("10.1.{}.{}", n / 200, n % 200 + 1)).collect();
        let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
        refused("257 gateways", &[group("a", &[], &crowd)]);
    }
}
