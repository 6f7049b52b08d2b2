use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn links() -> Vec<Link> {
    [("192.0.2.3", 24), ("fe80::3", 64), ("2001:db8::3", 64), ("10.0.0.3", 8), ("10.1.0.3", 16)]
        .map(|(address, prefix)| Link { address: ip(address), prefix })
        .into()
}

fn survey(addresses: &[&str], neighbours: &[&str]) -> Survey {
    let addresses: Vec<_> = addresses.iter().map(|a| ip(a)).collect();
    Survey::new(7, &links(), &addresses, 0, neighbours.iter().map(|n| ip(n)))
}

/// What would be sent.
fn asked(survey: &mut Survey, tries: u32) -> Vec<(IpAddr, Vec<u8>)> {
    let mut sent = Vec::new();
    survey.ask(tries, |to, packet| {
        sent.push((to, packet.to_vec()));
        true
    });
    sent
}

/// Sender of a packet.
fn from(packet: &[u8]) -> IpAddr {
    match SlicedPacket::from_ip(packet).unwrap().net.unwrap() {
        NetSlice::Ipv4(net) => net.header().source_addr().into(),
        NetSlice::Ipv6(net) => net.header().source_addr().into(),
        NetSlice::Arp(_) => panic!("ARP"),
    }
}

/// What a neighbour makes of a ping (RFC 792: addresses reversed, type changed), after hops.
fn answered(packet: &[u8], hops: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(net), TransportSlice::Icmpv4(icmp)) => {
            let Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else { panic!("no request") };
            let header = net.header();
            PacketBuilder::ipv4(header.destination(), header.source(), 64 - hops)
                .icmpv4_echo_reply(echo.id, echo.seq)
                .write(&mut out, icmp.payload())
                .unwrap();
            // As it comes out of a short Ethernet frame.
            out.extend([0; 6]);
        }
        (NetSlice::Ipv6(net), TransportSlice::Icmpv6(icmp)) => {
            let Icmpv6Type::EchoRequest(echo) = icmp.icmp_type() else { panic!("no request") };
            let header = net.header();
            PacketBuilder::ipv6(header.destination(), header.source(), 64 - hops)
                .icmpv6_echo_reply(echo.id, echo.seq)
                .write(&mut out, icmp.payload())
                .unwrap();
        }
        other => panic!("{other:?}"),
    }
    out
}

#[test]
fn only_neighbours_in_the_network_of_an_address_are_asked_about_it() {
    let none = |survey: Survey| assert!(survey.is_settled(0) && survey.verdict() == Ok(None));
    none(survey(&["192.0.2.10"], &["198.51.100.1", "10.0.0.1", "2001:db8::1"]));
    none(survey(&["192.0.2.10"], &["192.0.2.10", "192.0.2.3"]));
    none(survey(&["192.0.2.3"], &["192.0.2.1"]));
    none(survey(&["fe80::10"], &["fe80::1"]));
    none(survey(&["10.0.0.10"], &["10.1.0.1"]));
    let mut both = survey(
        &["192.0.2.10", "2001:db8::10", "192.0.2.11"],
        &["192.0.2.1", "2001:db8::1", "192.0.2.1"],
    );
    let sent = asked(&mut both, 0);
    let ends: Vec<_> = sent.iter().map(|(to, packet)| format!("{} {to}", from(packet))).collect();
    assert_eq!(
        ends,
        [
            "192.0.2.10 192.0.2.1",
            "192.0.2.11 192.0.2.1",
            "192.0.2.3 192.0.2.1",
            "2001:db8::10 2001:db8::1",
            "2001:db8::3 2001:db8::1"
        ]
    );
}

#[test]
fn whoever_answers_all_reaches_us_and_is_not_asked_again() {
    let mut survey = survey(&["192.0.2.10", "2001:db8::10"], &["192.0.2.1", "2001:db8::1"]);
    let sent = asked(&mut survey, 0);
    assert_eq!(sent.len(), 4);
    for (_, packet) in &sent {
        survey.hear(packet);
    }
    assert_eq!(survey.verdict(), Ok(None), "a request is no answer");
    assert_eq!(asked(&mut survey, 1).len(), 4);
    survey.hear(&answered(&sent[0].1, 0));
    assert_eq!(asked(&mut survey, 1).len(), 3, "the node's own, and the other two");
    for (_, packet) in &sent[1..] {
        survey.hear(&answered(packet, 0));
    }
    assert!(survey.is_settled(0) && survey.silent().next().is_none());
    assert!(asked(&mut survey, 1).is_empty());
    let said = survey.verdict().unwrap().unwrap();
    assert!(said.ends_with("answered to us by 192.0.2.1, 2001:db8::1"), "{said}");
}

#[test]
fn a_neighbour_that_answers_us_and_not_the_vip_sends_elsewhere_and_a_silent_one_says_nothing() {
    let mut survey = survey(&["192.0.2.10"], &["192.0.2.1", "192.0.2.2"]);
    let first = asked(&mut survey, 0);
    assert_eq!(survey.verdict(), Ok(None));
    survey.hear(&answered(&first[1].1, 0));
    let said = survey.verdict().unwrap_err();
    assert!(said.contains("192.0.2.1 answers") && said.contains("from 192.0.2.10"), "{said}");
    assert_eq!(survey.silent().collect::<Vec<_>>(), [ip("192.0.2.2")]);
    let second = asked(&mut survey, 1);
    assert_eq!(survey.verdict(), Ok(None), "nothing was answered in this try");
    survey.hear(&answered(&second[1].1, 0));
    assert!(survey.verdict().is_err() && !survey.is_settled(PATIENCE - 1));
    let third = asked(&mut survey, PATIENCE);
    assert_eq!(third.len(), 2, "the silent one is given up");
    survey.hear(&answered(&third[0].1, 0));
    assert!(survey.is_settled(PATIENCE) && survey.verdict().unwrap().is_some());
}

#[test]
fn an_answer_that_another_machine_has_passed_on_is_none_to_us() {
    let mut detour = survey(&["2001:db8::10"], &["2001:db8::1"]);
    let sent = asked(&mut detour, 0);
    detour.hear(&answered(&sent[0].1, 1));
    assert!(detour.verdict().is_ok(), "nothing to compare with");
    detour.hear(&answered(&sent[1].1, 0));
    let said = detour.verdict().unwrap_err();
    assert!(said.contains("by way of another machine"), "{said}");
    assert_eq!(asked(&mut detour, 1).len(), 2, "it is asked again");
    detour.hear(&answered(&sent[0].1, 0));
    assert!(detour.verdict().unwrap().is_some(), "the best answer counts");
    // A machine that answers for its neighbour may begin with another number.
    let mut other = survey(&["2001:db8::10"], &["2001:db8::1"]);
    let sent = asked(&mut other, 0);
    other.hear(&answered(&sent[0].1, 32));
    other.hear(&answered(&sent[1].1, 0));
    assert!(other.verdict().unwrap().is_some());
}

#[test]
fn pings_that_are_translated_or_cannot_be_sent_say_nothing() {
    let mut translated = survey(&["192.0.2.10"], &["192.0.2.1"]);
    let sent = asked(&mut translated, 0);
    translated.hear(&answered(&sent[1].1, 0));
    // As the kernel's NAT does it on the way out: the node's own address instead of the VIP.
    let mut changed = sent[0].1.clone();
    changed[12..16].copy_from_slice(&[192, 0, 2, 3]);
    translated.hear(&answered(&changed, 0));
    assert!(translated.is_settled(0));
    assert_eq!(translated.verdict(), Ok(None));
    let mut refused = survey(&["192.0.2.10"], &["192.0.2.1"]);
    refused.ask(0, |_, packet| from(packet) == ip("192.0.2.3"));
    refused.hear(&answered(&sent[1].1, 0));
    assert_eq!(refused.verdict(), Ok(None));
    assert_eq!(asked(&mut refused, 1).len(), 2, "it is tried again");
}

#[test]
fn answers_to_others_and_damaged_ones_change_nothing_and_the_number_of_pings_is_bounded() {
    for (vip, router) in [("192.0.2.10", "192.0.2.1"), ("2001:db8::10", "2001:db8::1")] {
        let mut mine = survey(&[vip], &[router]);
        let mut other = Survey { cookie: 8, ..survey(&[vip], &[router]) };
        for (_, packet) in asked(&mut mine, 0) {
            let packet = answered(&packet, 0);
            other.hear(&packet);
            let whole = if ip(vip).is_ipv4() { packet.len() - 6 } else { packet.len() };
            for end in 0..whole {
                mine.hear(&packet[..end]);
            }
        }
        assert_eq!((asked(&mut mine, 0).len(), asked(&mut other, 0).len()), (2, 2));
        assert_eq!((mine.verdict(), other.verdict()), (Ok(None), Ok(None)));
    }
    let many: Vec<IpAddr> = (0..200).map(|n| ip(&format!("10.2.0.{n}"))).collect();
    let of = |first| {
        let routers = [ip("10.0.0.1"), ip("10.0.0.2")];
        asked(&mut Survey::new(7, &links(), &many, first, routers), 0)
    };
    let (first, second) = (of(0), of(296));
    assert_eq!(first.len(), 2 * (VIPS_MAX + 1));
    assert_eq!(from(&first[0].1), many[0]);
    assert_eq!(from(&second[0].1), many[96], "another time others are asked about");
}
