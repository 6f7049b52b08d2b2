//! Which group an address of ours belongs to. Asked for ARP, neighbour discovery and echo, and by
//! whoever announces or replicates; not for the packets of connections.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane_api::service::Snapshot;

use crate::address::{Address, GroupId, VipId};
use crate::ids::Ids;
use crate::lease::Fresh;
use crate::limits::GROUPS;
use crate::service::ServiceTable;

/// The groups in force; at least one, without a name if the snapshot has none.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// In the order of the snapshot.
    names: Vec<(GroupId, String)>,
    owners: BTreeMap<Address, GroupId>,
    /// By the number of the VIP, removed ones included.
    vips: BTreeMap<VipId, GroupId>,
}

impl Groups {
    /// Groups that were there keep their numbers. A new one gets a number that nobody has, nor had
    /// before: a worker that still goes by the last table does not mistake the one for the other.
    pub(super) fn compile(snapshot: &Snapshot, ids: &Ids, previous: Option<&Self>) -> Self {
        let unnamed = String::new();
        let mut wanted: Vec<&String> = snapshot.groups.iter().map(|g| &g.name).collect();
        if wanted.is_empty() {
            wanted.push(&unnamed);
        }
        let before = |name: &str| previous.and_then(|p| p.named(name));
        let mut taken: Vec<GroupId> =
            previous.into_iter().flat_map(|p| p.names.iter().map(|(id, _)| *id)).collect();
        let mut names = Vec::new();
        for name in wanted {
            let id = before(name).unwrap_or_else(|| {
                let mut free = (0..GROUPS as u8).map(GroupId);
                free.find(|id| !taken.contains(id)).unwrap_or_default()
            });
            taken.push(id);
            names.push((id, name.clone()));
        }
        let first = names.first().map_or_else(GroupId::default, |(id, _)| *id);
        let mut groups = Self { names, owners: BTreeMap::new(), vips: BTreeMap::new() };
        let vips = snapshot.services.iter().flat_map(|s| &s.listen).map(|l| l.address);
        for address in vips.chain(snapshot.local.addresses.iter().copied()) {
            groups.owners.insert(address.into(), first);
        }
        for (group, (id, _)) in snapshot.groups.iter().zip(groups.names.clone()) {
            for address in group.addresses.iter().chain(&group.gateways) {
                groups.owners.insert((*address).into(), id);
            }
        }
        for (vip, address) in ids.vips() {
            let group = groups.of_vip(vip, address, previous).unwrap_or(first);
            groups.vips.insert(vip, group);
        }
        groups
    }

    /// Connections of a VIP that no service has any more stay with the group that had it.
    fn of_vip(&self, vip: VipId, address: IpAddr, previous: Option<&Self>) -> Option<GroupId> {
        let now = self.owners.get(&address.into()).copied();
        let then = || previous.and_then(|p| p.vips.get(&vip).copied());
        now.or_else(|| then().filter(|group| self.names.iter().any(|(id, _)| id == group)))
    }

    pub(super) fn named(&self, name: &str) -> Option<GroupId> {
        self.names.iter().find(|(_, n)| n == name).map(|(id, _)| *id)
    }

    pub(super) fn all(&self) -> &[(GroupId, String)] {
        &self.names
    }

    pub(super) fn mask(&self) -> Fresh {
        let each = self.names.iter().map(|(id, _)| Fresh::only(*id));
        each.fold(Fresh::NONE, Fresh::with)
    }

    pub(super) fn owner(&self, address: Address) -> Option<GroupId> {
        self.owners.get(&address).copied()
    }

    pub(super) fn of(&self, vip: VipId) -> GroupId {
        let first = || self.names.first().map_or_else(GroupId::default, |(id, _)| *id);
        self.vips.get(&vip).copied().unwrap_or_else(first)
    }

    pub(super) fn owned(&self) -> impl Iterator<Item = (Address, GroupId)> + '_ {
        self.owners.iter().map(|(address, group)| (*address, *group))
    }
}

impl ServiceTable {
    /// Every address we answer for, with its group: VIPs, local addresses and gateways.
    pub fn owned(&self) -> impl Iterator<Item = (Address, GroupId)> + '_ {
        self.groups.owned()
    }

    /// The group of an address that we answer for.
    #[must_use]
    pub fn owner(&self, address: Address) -> Option<GroupId> {
        self.groups.owner(address)
    }

    /// The group of a VIP; that of one which no service has any more is the one that had it, or the
    /// first.
    #[must_use]
    pub fn group_of(&self, vip: VipId) -> GroupId {
        self.groups.of(vip)
    }

    /// A group by its name.
    #[must_use]
    pub fn group_named(&self, name: &str) -> Option<GroupId> {
        self.groups.named(name)
    }

    /// The groups with their names; one without a name if the snapshot has none.
    #[must_use]
    pub fn groups(&self) -> &[(GroupId, String)] {
        self.groups.all()
    }

    /// The same, to ask for their leases.
    #[inline]
    #[must_use]
    pub fn group_mask(&self) -> Fresh {
        self.mask
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use dataplane_api::service::Group;

    use super::*;
    use crate::ids::Used;

    fn snapshot(vips: &[&str], groups: &[(&str, &[&str], &[&str])]) -> Snapshot {
        let service = |(n, vip): (usize, &&str)| {
            serde_json::json!({"name": format!("s{n}"), "protocol": "tcp", "listen": [format!("{vip}:80")],
                "forwarding": "nat", "scheduler": "wrr",
                "reals": [{"name": "a", "address": "10.0.0.1", "port": 80}]})
        };
        let ip = |texts: &[&str]| texts.iter().map(|t| t.parse::<IpAddr>().unwrap()).collect();
        let group = |(name, addresses, gateways): &(&str, &[&str], &[&str])| Group {
            name: (*name).to_owned(),
            addresses: ip(addresses),
            gateways: ip(gateways),
        };
        let value = serde_json::json!({
            "engine": dataplane_api::service::Engine::default(), "interfaces": [],
            "timeouts": dataplane_api::service::Timeouts::default(),
            "local": {"addresses": ["10.0.0.9"], "ports": "1024-65535"}, "reply": "last-hop",
            "services": vips.iter().enumerate().map(service).collect::<Vec<_>>(),
        });
        let snapshot: Snapshot = serde_json::from_value(value).unwrap();
        Snapshot { groups: groups.iter().map(group).collect(), ..snapshot }
    }

    fn compile(snapshot: &Snapshot, previous: Option<(&Groups, &Ids)>) -> (Groups, Ids) {
        let old = previous.map(|(_, ids)| ids.clone()).unwrap_or_default();
        let ids = old.assign(None, snapshot, &Used::default()).unwrap();
        (Groups::compile(snapshot, &ids, previous.map(|(groups, _)| groups)), ids)
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn without_groups_one_without_a_name_has_everything() {
        let (groups, ids) = compile(&snapshot(&["192.0.2.1", "192.0.2.2"], &[]), None);
        assert_eq!(groups.all(), [(GroupId(0), String::new())]);
        assert_eq!(groups.owned().count(), 3);
        assert!(groups.owned().all(|(_, group)| group == GroupId(0)));
        assert!(ids.vips().all(|(vip, _)| groups.of(vip) == GroupId(0)));
        assert_eq!(groups.owner(address("10.0.0.1")), None, "a real server");
        assert_eq!(groups.mask(), Fresh::only(GroupId(0)));
    }

    #[test]
    fn what_no_group_names_is_the_firsts_and_gateways_are_owned_too() {
        let vips = ["192.0.2.1", "192.0.2.2"];
        let described: [(&str, &[&str], &[&str]); 2] =
            [("a", &[], &["10.0.0.254"]), ("b", &["192.0.2.2"], &["fe80::1"])];
        let (groups, ids) = compile(&snapshot(&vips, &described), None);
        let [a, b] = ["a", "b"].map(|name| groups.named(name).unwrap());
        let owners = ["192.0.2.1", "10.0.0.9", "10.0.0.254", "192.0.2.2", "fe80::1"];
        let owners = owners.map(|text| groups.owner(address(text)).unwrap());
        assert_eq!(owners, [a, a, a, b, b]);
        let vip = ids.vip("192.0.2.2".parse().unwrap()).unwrap();
        assert_eq!((groups.of(vip), groups.mask()), (b, Fresh::only(a).with(Fresh::only(b))));
    }

    #[test]
    fn groups_keep_their_numbers_and_no_new_one_gets_that_of_one_just_removed() {
        let vips = ["192.0.2.1", "192.0.2.2"];
        let first = compile(&snapshot(&vips, &[("a", &[], &[]), ("b", &["192.0.2.2"], &[])]), None);
        let vip = first.1.vip("192.0.2.2".parse().unwrap()).unwrap();
        let [a, b] = ["a", "b"].map(|name| first.0.named(name).unwrap());
        let next = snapshot(&vips, &[("c", &["192.0.2.1"], &[]), ("b", &["192.0.2.2"], &[])]);
        let second = compile(&next, Some((&first.0, &first.1)));
        assert_eq!(second.0.named("b"), Some(b));
        assert!(![a, b].contains(&second.0.named("c").unwrap()));
        // A VIP that is gone stays with its group, for its connections, as long as that is there.
        let (groups, _) = {
            let next = snapshot(&vips[..1], &[("c", &["192.0.2.1"], &[]), ("b", &[], &[])]);
            (Groups::compile(&next, &second.1, Some(&second.0)), ())
        };
        assert_eq!((groups.of(vip), groups.owner(address("192.0.2.2"))), (b, None));
    }
}
