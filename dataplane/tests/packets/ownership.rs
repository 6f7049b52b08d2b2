//! Ownership: who is answered by which lease, claims of others, and questions of our own.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::address::{DeviceId, GroupId, Mac};
use dataplane::lease::Fresh;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{Forwarding, Group, Protocol, Snapshot};

use crate::harness::{
    CLIENT_MAC, Fate, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, client, ip, local,
    mac_of, real, service, snapshot, vip, web,
};
use crate::icmp::{arp, solicitation};
use crate::packet::{ACK, Frame, SYN, Seen, icmp_error, tcp};

const GATEWAY: [u8; 4] = [10, 0, 0, 253];
const GATEWAY6: &str = "fe80::1";
const MAIL: [u8; 4] = [192, 0, 2, 2];

fn octets(address: IpAddr) -> [u8; 4] {
    let IpAddr::V4(v4) = address else { panic!() };
    v4.octets()
}

/// Group `web` has the VIPs of the first service and the gateways, `mail` that of the second.
fn world() -> World {
    let services = [
        web(false, Protocol::Tcp, Forwarding::Nat).real(real(false, 11), Some(8080), 1),
        service("mail", Protocol::Tcp, &["192.0.2.2:25"], Forwarding::Nat).real(
            real(false, 12),
            Some(25),
            1,
        ),
        service("web6", Protocol::Tcp, &["[2001:db8::1]:80"], Forwarding::Nat).real(
            real(true, 11),
            Some(8080),
            1,
        ),
    ];
    let group = |name: &str, addresses: &[IpAddr], gateways: &[IpAddr]| Group {
        name: name.to_owned(),
        addresses: addresses.to_vec(),
        gateways: gateways.to_vec(),
    };
    let web = [vip(false), vip(true), local(false), local(true)];
    let groups = vec![
        group("web", &web, &[IpAddr::from(GATEWAY), ip(GATEWAY6)]),
        group("mail", &[IpAddr::from(MAIL)], &[]),
    ];
    let snapshot = Snapshot { groups, ..snapshot(&services) };
    let mut world = World::sized(&snapshot, 1024, 256);
    world.lease = Fresh::only(group_of(&world, "web"));
    world
}

fn group_of(world: &World, name: &str) -> GroupId {
    world.published.services.group_named(name).unwrap()
}

fn echo(from: IpAddr, to: IpAddr, to_mac: [u8; 6]) -> Vec<u8> {
    let kind = if to.is_ipv4() { [8, 0] } else { [128, 0] };
    icmp_error((CLIENT_MAC, to_mac), from, to, kind, 7, b"hello")
}

#[test]
fn each_address_is_answered_for_while_its_own_group_is_owned() {
    let mut world = world();
    let asker = [192, 0, 2, 77];
    let (web, mail) = (group_of(&world, "web"), group_of(&world, "mail"));
    let questions = |target: [u8; 4]| {
        [arp(asker, target, 1), echo(ip("198.51.100.7"), IpAddr::from(target), OUTSIDE_MAC)]
    };
    for (lease, web_answered, mail_answered) in [
        (Fresh::only(web), true, false),
        (Fresh::only(mail), false, true),
        (Fresh::NONE, false, false),
        (Fresh::ALL, true, true),
    ] {
        world.lease = lease;
        let targets = [
            (octets(vip(false)), web_answered),
            (GATEWAY, web_answered),
            (octets(local(false)), web_answered),
            (MAIL, mail_answered),
        ];
        for (target, answered) in targets {
            for question in questions(target) {
                let fate = world.receive_bytes(OUTSIDE, &question);
                if answered {
                    fate.one(OUTSIDE);
                } else {
                    assert_eq!(fate.dropped(), Reason::NoLease, "{target:?}");
                }
            }
        }
        for target in [vip(true), ip(GATEWAY6)] {
            let fate = world.receive_bytes(OUTSIDE, &solicitation(target));
            let pinged = world.receive_bytes(OUTSIDE, &echo(client(true), target, OUTSIDE_MAC));
            if web_answered {
                assert_eq!(Seen::of(&fate.one(OUTSIDE)).source, target);
                assert_eq!(Seen::of(&pinged.one(OUTSIDE)).source, target);
            } else {
                assert_eq!((fate.dropped(), pinged.dropped()), (Reason::NoLease, Reason::NoLease));
            }
        }
    }
}

#[test]
fn a_gateway_is_answered_with_the_mac_of_the_interface_and_replies_pass_through_it() {
    let mut world = world();
    let got = world.receive_bytes(INSIDE, &arp([10, 0, 0, 11], GATEWAY, 1)).one(INSIDE);
    assert_eq!((&got[22..28], &got[28..32]), (&INSIDE_MAC[..], &GATEWAY[..]));
    let pinged =
        world.receive_bytes(INSIDE, &echo(real(false, 11), IpAddr::from(GATEWAY), INSIDE_MAC));
    assert_eq!(Seen::of(&pinged.one(INSIDE)).source, IpAddr::from(GATEWAY));
    // What the real sends to that MAC address for a client is a reply like any other.
    let request = world.request(&tcp(false, SYN));
    let sent = Seen::of(&world.reply(&Frame::answer(&request, SYN | ACK)));
    assert_eq!((sent.source, sent.destination), (vip(false), client(false)));
}

/// The address whose announcement was sent because of a claim, if one was.
fn announced(fate: &Fate) -> Option<(DeviceId, Vec<u8>)> {
    assert!(fate.sent.len() <= 1, "{fate:?}");
    fate.sent.first().cloned()
}

fn advertisement(target: IpAddr, mac: [u8; 6], option: bool) -> Vec<u8> {
    let IpAddr::V6(v6) = target else { panic!() };
    let mut body = v6.octets().to_vec();
    if option {
        body.extend([&[2, 1][..], &mac].concat());
    }
    let macs = (mac, [0x33, 0x33, 0, 0, 0, 1]);
    let mut frame = icmp_error(macs, target, ip("ff02::1"), [136, 0], 0x2000_0000, &body);
    frame[21] = 255;
    frame
}

#[test]
fn a_claim_of_another_host_is_counted_and_answered_at_once() {
    let vip4 = octets(vip(false));
    let cases = [
        ("gratuitous request", vip4, arp(vip4, vip4, 1)),
        ("gratuitous reply", vip4, arp(vip4, vip4, 2)),
        ("a reply to somebody", vip4, arp(vip4, [192, 0, 2, 77], 2)),
        ("a question in its name", vip4, arp(vip4, [192, 0, 2, 77], 1)),
        ("a gateway", GATEWAY, arp(GATEWAY, GATEWAY, 1)),
        ("a local address", octets(local(false)), arp(octets(local(false)), [10, 0, 0, 9], 2)),
    ];
    for (name, address, frame) in cases {
        let mut world = world();
        let fate = world.receive_bytes(OUTSIDE, &frame);
        let (device, sent) = announced(&fate).expect(name);
        assert_eq!(device, OUTSIDE, "{name}");
        // Gratuitous: both addresses are the one that is ours, at our MAC address.
        assert_eq!((&sent[..6], &sent[20..22]), (&[0xff; 6][..], &[0, 1][..]), "{name}");
        assert_eq!((&sent[22..28], &sent[28..32]), (&OUTSIDE_MAC[..], &address[..]), "{name}");
        assert_eq!(sent[38..42], address, "{name}");
        let web = group_of(&world, "web");
        assert_eq!((world.event(Event::ForeignClaim), world.event(Event::Announced)), (1, 1));
        assert_eq!((world.shared.leases.claims(web), world.shared.leases.announced(web)), (1, 1));
        assert_eq!(world.drops(Reason::NeighborIgnored), 1, "{name}");
    }
    for (target, option) in [(vip(true), true), (vip(true), false), (ip(GATEWAY6), true)] {
        let mut world = world();
        let fate = world.receive_bytes(OUTSIDE, &advertisement(target, CLIENT_MAC, option));
        let (_, sent) = announced(&fate).unwrap();
        let sent = Seen::of(&sent);
        assert_eq!((sent.source, sent.destination), (target, ip("ff02::1")));
        assert_eq!(sent.payload[26..32], OUTSIDE_MAC);
        assert_eq!(world.event(Event::ForeignClaim), 1);
    }
}

#[test]
fn a_claim_that_is_repeated_is_answered_once_a_second_for_each_address() {
    let mut world = world();
    let (vip4, frame) = (octets(vip(false)), |a: [u8; 4]| arp(a, a, 1));
    let answers = |world: &mut World, address| {
        usize::from(announced(&world.receive_bytes(OUTSIDE, &frame(address))).is_some())
    };
    let mut sent = 0;
    for _ in 0..21 {
        sent += answers(&mut world, vip4);
        world.advance(Duration::from_millis(100));
    }
    assert_eq!((sent, world.event(Event::ForeignClaim)), (3, 21));
    assert_eq!(answers(&mut world, GATEWAY), 1, "another address has its own second");
    assert_eq!(answers(&mut world, vip4), 0);
}

#[test]
fn what_is_no_claim_on_an_address_of_ours_is_answered_with_nothing() {
    let vip4 = octets(vip(false));
    let own = |mac: [u8; 6]| {
        let mut frame = arp(vip4, vip4, 1);
        frame[6..12].copy_from_slice(&mac);
        frame[22..28].copy_from_slice(&mac);
        frame
    };
    let zero = {
        let mut frame = arp(vip4, vip4, 2);
        frame[22..28].fill(0);
        frame
    };
    let broken = {
        let mut frame = advertisement(vip(true), CLIENT_MAC, true);
        frame[60] ^= 1;
        frame
    };
    let far = {
        let mut frame = advertisement(vip(true), CLIENT_MAC, true);
        frame[21] = 64;
        frame
    };
    let cases = [
        ("our own announcement, looped back", own(OUTSIDE_MAC)),
        ("that of our other interface", own(INSIDE_MAC)),
        ("our own advertisement", advertisement(vip(true), OUTSIDE_MAC, true)),
        ("a group that we do not own", arp(MAIL, MAIL, 1)),
        ("a stranger", arp([192, 0, 2, 99], [192, 0, 2, 99], 1)),
        ("an answer to somebody who asked in the name of the VIP", arp([192, 0, 2, 99], vip4, 2)),
        ("a probe of somebody who has no address yet, for another", arp([0; 4], [192, 0, 2, 9], 1)),
        ("a MAC address that nobody has", zero),
        ("a wrong checksum", broken),
        ("from beyond the link", far),
        ("a stranger's advertisement", advertisement(ip("2001:db8::99"), CLIENT_MAC, true)),
    ];
    for (name, frame) in cases {
        let mut world = world();
        world.receive_bytes(OUTSIDE, &frame).dropped();
        assert_eq!(world.event(Event::ForeignClaim), 0, "{name}");
    }
}

#[test]
fn an_announcement_that_comes_late_is_not_sent() {
    let mut world = world();
    let web = group_of(&world, "web");
    assert_eq!(world.speak(Some((vip(false), web))).len(), 1);
    world.lease = Fresh::only(group_of(&world, "mail"));
    assert_eq!(world.speak(Some((vip(false), web))), []);
    assert_eq!(world.event(Event::Announced), 1);
}

#[test]
fn the_standby_hears_who_answers_for_an_address() {
    let mut world = world();
    world.lease = Fresh::NONE;
    let asked = [vip(false), vip(true), IpAddr::from(MAIL)].map(Into::into);
    let index = world.shared.resolver.start(asked.into()).unwrap();
    world.shared.resolver.ask(index, &[OUTSIDE, INSIDE]);
    let sent = world.speak(None);
    assert_eq!((sent.len(), world.event(Event::ResolveSent)), (6, 6));
    let question = |device: DeviceId, v4: bool| {
        let fits = |(to, bytes): &&(DeviceId, Vec<u8>)| *to == device && (bytes[12] == 8) == v4;
        sent.iter().find(fits).unwrap().1.clone()
    };
    // A probe: it says nothing of who asks, so that no neighbour changes its mind.
    let probe = question(OUTSIDE, true);
    let expected = [
        &[0xff; 6][..],
        &OUTSIDE_MAC,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &OUTSIDE_MAC,
        &[0; 4],
        &[0; 6],
        &octets(vip(false)),
    ];
    assert_eq!(probe, expected.concat());
    let probe = question(INSIDE, false);
    let seen = Seen::of(&probe);
    assert_eq!((seen.source, seen.destination), (ip("::"), ip("ff02::1:ff00:1")));
    assert_eq!(probe[..12], [&[0x33, 0x33, 0xff, 0, 0, 1][..], &INSIDE_MAC].concat());
    assert_eq!((seen.ttl, &seen.payload[..2]), (255, &[135, 0][..]));
    // The peer answers as we do: each question is given to a world that owns the group.
    let mut peer = self::world();
    for (device, bytes) in &sent {
        let mut bytes = bytes.clone();
        bytes[6..12].copy_from_slice(&CLIENT_MAC);
        if bytes[12..14] == [8, 6] {
            bytes[22..28].copy_from_slice(&CLIENT_MAC);
        }
        let fate = peer.receive_bytes(*device, &bytes);
        if fate.sent.is_empty() {
            assert_eq!(fate.dropped(), Reason::NoLease, "only the other group's");
            continue;
        }
        let mut answer = fate.one(*device);
        // The peer's MAC address is its own.
        let mac = mac_of(ip(if *device == OUTSIDE { "192.0.2.66" } else { "10.0.0.66" }));
        if answer[12..14] == [8, 6] {
            answer[6..12].copy_from_slice(&mac);
            answer[22..28].copy_from_slice(&mac);
        } else {
            answer = advertisement(vip(true), mac, true);
        }
        assert_eq!(world.receive_bytes(*device, &answer).dropped(), Reason::NeighborIgnored);
    }
    let heard = world.shared.resolver.finish(index);
    let [outside, inside] = ["192.0.2.66", "10.0.0.66"].map(|text| Mac(mac_of(ip(text))));
    let expected: Vec<_> = [(vip(false), OUTSIDE, outside), (vip(false), INSIDE, inside)]
        .into_iter()
        .chain([(vip(true), OUTSIDE, outside), (vip(true), INSIDE, inside)])
        .map(|(address, device, mac)| (address.into(), device, mac))
        .collect();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(heard, sorted);
    assert_eq!(world.event(Event::ForeignClaim), 0, "it is not ours to defend");
}
