//! Whether a takeover has arrived, judged from what the data plane, the other node and the neighbours say.
//! Pure.

use std::collections::BTreeSet;

use dataplane_api::message::{Resolution, Status};

use crate::failover::exchange::{TESTIMONY_MACS, Testimony};

/// What was heard about as many addresses.
pub(super) fn testimony(asked: usize, answers: &[Resolution]) -> Testimony {
    let macs: BTreeSet<[u8; 6]> = answers.iter().filter_map(|a| mac(&a.mac)).collect();
    let answered: BTreeSet<_> = answers.iter().map(|a| a.address).collect();
    let short = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    Testimony {
        macs: macs.into_iter().take(TESTIMONY_MACS).collect(),
        silent: short(asked.saturating_sub(answered.len())),
        asked: short(asked),
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn show(mac: &[u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Whether the group has arrived, as far as can be seen at once: what was seen, or what is missing.
/// `neighbours`: what a survey of them has found.
pub(super) fn judge(
    status: &Status,
    group: &str,
    epoch: u64,
    testimony: Option<&Testimony>,
    neighbours: impl FnOnce() -> Result<Option<String>, String>,
) -> Result<String, String> {
    let lease = status.groups.iter().find(|g| g.name == group);
    match lease {
        None => return Err("the data plane does not know the group".to_owned()),
        Some(g) if g.lease_ms == 0 || g.epoch != epoch => {
            return Err("the data plane does not answer for it yet".to_owned());
        }
        Some(_) => {}
    }
    for interface in &status.interfaces {
        if !interface.attached || interface.link != "up" {
            let why =
                interface.problem.clone().unwrap_or_else(|| format!("link {}", interface.link));
            return Err(format!("interface {} carries nothing: {why}", interface.name));
        }
    }
    let count = status.interfaces.len();
    let mut seen = vec![format!("{count} of {count} interfaces attached")];
    let ours: BTreeSet<[u8; 6]> = status.interfaces.iter().filter_map(|i| mac(&i.mac)).collect();
    if let Some(testimony) = testimony.filter(|t| t.asked > 0) {
        if let Some(other) = testimony.macs.iter().find(|m| !ours.contains(*m)) {
            return Err(format!(
                "the other node sees {} answer for its addresses, which is none of our interfaces",
                show(other)
            ));
        }
        if testimony.silent > 0 {
            let (silent, asked) = (testimony.silent, testimony.asked);
            return Err(format!(
                "the other node hears nobody answer for {silent} of its {asked} addresses"
            ));
        }
        seen.push("the other node sees us answer for all addresses".to_owned());
    }
    seen.extend(neighbours()?);
    if seen.len() == 1 {
        seen.push("there is nobody to ask who answers for the addresses".to_owned());
    }
    Ok(seen.join("; "))
}

#[cfg(test)]
mod tests {
    use dataplane_api::message::{GroupStatus, InterfaceStatus};

    use super::*;

    fn status() -> Status {
        let interface = |name: &str, mac: &str| InterfaceStatus {
            name: name.into(),
            link: "up".into(),
            attached: true,
            mac: mac.into(),
            ..InterfaceStatus::default()
        };
        let group =
            GroupStatus { name: "web".into(), lease_ms: 90, epoch: 7, ..GroupStatus::default() };
        Status {
            interfaces: vec![
                interface("eth0", "02:00:00:00:00:01"),
                interface("eth1", "02:00:00:00:00:02"),
            ],
            groups: vec![group],
            ..Status::default()
        }
    }

    fn heard(macs: &[&str], silent: u8) -> Testimony {
        Testimony { macs: macs.iter().map(|m| mac(m).unwrap()).collect(), silent, asked: 2 }
    }

    fn judge(
        status: &Status,
        group: &str,
        epoch: u64,
        testimony: Option<&Testimony>,
    ) -> Result<String, String> {
        super::judge(status, group, epoch, testimony, || Ok(None))
    }

    #[test]
    fn a_takeover_is_good_when_every_interface_carries_it_and_the_peer_sees_us_answer() {
        let good = heard(&["02:00:00:00:00:02"], 0);
        let said = judge(&status(), "web", 7, Some(&good)).unwrap();
        assert!(said.contains("2 of 2 interfaces") && said.contains("sees us"), "{said}");
        assert!(judge(&status(), "web", 7, None).unwrap().contains("nobody to ask"));
        let router = || Ok(Some("answered by 192.0.2.1".to_owned()));
        let said = super::judge(&status(), "web", 7, None, router).unwrap();
        assert!(said.contains("192.0.2.1") && !said.contains("nobody"), "{said}");
        let cannot = Testimony::default();
        assert!(judge(&status(), "web", 7, Some(&cannot)).unwrap().contains("nobody to ask"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let bad = |status: &Status, epoch, testimony: &Testimony| {
            judge(status, "web", epoch, Some(testimony)).unwrap_err()
        };
        let good = heard(&["02:00:00:00:00:02"], 0);
        assert!(bad(&status(), 8, &good).contains("not answer for it yet"));
        let stranger = heard(&["02:00:00:00:00:01", "02:00:00:00:00:99"], 0);
        assert!(bad(&status(), 7, &stranger).contains("02:00:00:00:00:99"));
        assert!(bad(&status(), 7, &heard(&[], 1)).contains("1 of its 2 addresses"));
        let mut down = status();
        down.interfaces[1].attached = false;
        down.interfaces[1].problem = Some("no such device".into());
        let said = bad(&down, 7, &good);
        assert!(said.contains("eth1") && said.contains("no such device"), "{said}");
        assert!(judge(&status(), "mail", 7, None).is_err());
        let deaf = || Err("192.0.2.1 sends elsewhere".to_owned());
        let said = super::judge(&status(), "web", 7, Some(&good), deaf).unwrap_err();
        assert!(said.contains("192.0.2.1"), "{said}");
    }

    #[test]
    fn a_testimony_counts_addresses_and_voices() {
        let answer = |address: [u8; 4], mac: &str| Resolution {
            address: address.into(),
            interface: "eth0".into(),
            mac: mac.into(),
        };
        let answers = [
            answer([192, 0, 2, 1], "02:00:00:00:00:01"),
            answer([192, 0, 2, 1], "02:00:00:00:00:01"),
            answer([192, 0, 2, 2], "02:00:00:00:00:03"),
        ];
        let found = testimony(3, &answers);
        assert_eq!((found.asked, found.silent, found.macs.len()), (3, 1, 2));
        assert_eq!(mac("02:00:00:00:00"), None);
        assert_eq!(mac("02:00:00:00:00:0g"), None);
    }
}
