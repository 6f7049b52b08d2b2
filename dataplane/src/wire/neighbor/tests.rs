use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Icmpv6Slice, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::address::DeviceId;
use crate::wire::packet::parse;

const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OURS: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn octets(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn arp_request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(ASKER);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(ASKER);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame.resize(60, 0xa5);
    frame
}

/// A solicitation with the right checksum, written by etherparse.
fn solicit(source: &str, destination: &str, target: &str, options: &[u8]) -> Vec<u8> {
    let payload = [&octets(target)[..], options].concat();
    let builder = PacketBuilder::ethernet2(ASKER, [0x33, 0x33, 0xff, 0, 0, 0x10])
        .ipv6(octets(source), octets(destination), 255)
        .icmpv6_raw(135, 0, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).unwrap();
    frame
}

fn solicit_usual(options: &[u8]) -> Vec<u8> {
    solicit("2001:db8::7", "ff02::1:ff00:10", "2001:db8::10", options)
}

fn ask(frame: &[u8]) -> Result<Request, Reason> {
    request(frame, &parse(frame)?)
}

/// The answer to the question in `frame`, out of a buffer full of rubbish.
fn answered(frame: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xa5; 256];
    buffer[64..64 + frame.len()].copy_from_slice(frame);
    let packet = parse(frame).unwrap();
    let question = request(frame, &packet).unwrap();
    let mut frame = Frame::new(&mut buffer, 64, frame.len(), DeviceId(0));
    assert!(answer(&mut frame, &packet, &question, OURS));
    frame.bytes().to_vec()
}

/// Source, destination, flags and target of an advertisement, as etherparse reads it, its checksum
/// verified and its only option found to be [`OURS`].
fn read_advertisement(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, bool, bool, Ipv6Addr) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("no IPv6") };
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
    let (source, destination) = (ip.header().source(), ip.header().destination());
    assert_eq!(ip.header().hop_limit(), 255);
    assert!(Icmpv6Slice::is_checksum_valid(&icmp, source, destination));
    let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("no NA") };
    assert!(!header.router);
    let (target, option) = icmp.payload().split_first_chunk::<16>().unwrap();
    assert_eq!(option, [&[2, 1][..], &OURS.0].concat());
    let flags = (header.solicited, header.r#override);
    (source.into(), destination.into(), flags.0, flags.1, (*target).into())
}

#[test]
fn an_arp_request_is_read_and_answered_to_its_sender() {
    let frame = arp_request([192, 0, 2, 7], [192, 0, 2, 10]);
    let expected = Request {
        target: address("192.0.2.10"),
        sender: address("192.0.2.7"),
        sender_mac: Mac(ASKER),
    };
    assert_eq!(ask(&frame), Ok(expected));
    let reply = [
        &ASKER[..],
        &OURS.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
        &OURS.0,
        &[192, 0, 2, 10],
        &ASKER,
        &[192, 0, 2, 7],
    ];
    assert_eq!(answered(&frame), reply.concat());
}

#[test]
fn an_arp_probe_is_answered_with_a_normal_reply() {
    let frame = arp_request([0; 4], [192, 0, 2, 10]);
    assert_eq!(ask(&frame).unwrap().sender, Address::v4(0));
    let reply = answered(&frame);
    assert_eq!(reply[..6], ASKER);
    assert_eq!(reply[20..22], [0, 2]);
    assert_eq!(reply[38..42], [0; 4]);
}

#[test]
fn arp_that_is_no_request_for_ipv4_over_ethernet_is_ignored() {
    let good = arp_request([192, 0, 2, 7], [192, 0, 2, 10]);
    for at in 14..22 {
        let mut frame = good.clone();
        frame[at] ^= 0x10;
        assert_eq!(ask(&frame), Err(Reason::NeighborIgnored), "byte {at}");
    }
    let packet = parse(&good).unwrap();
    let mut reply = good;
    reply[21] = 2;
    assert_eq!(request(&reply, &packet), Err(Reason::NeighborIgnored));
}

#[test]
fn arp_from_an_impossible_sender_or_announcing_itself_is_refused() {
    let target = [192, 0, 2, 10];
    for sender in [[224, 0, 0, 1], [127, 0, 0, 1], [255; 4]] {
        assert_eq!(ask(&arp_request(sender, target)), Err(Reason::BadSource));
    }
    assert_eq!(ask(&arp_request(target, target)), Err(Reason::NeighborIgnored));
    let mut frame = arp_request([192, 0, 2, 7], target);
    frame[22] = 3;
    assert_eq!(ask(&frame), Err(Reason::BadSource));
}

#[test]
fn a_solicitation_is_read_and_answered_to_its_sender() {
    let other = [2, 0, 0, 0, 0, 8];
    // A nonce option (RFC 3971) first: it is walked over.
    let options = [&[14, 1, 1, 2, 3, 4, 5, 6, 1, 1][..], &other].concat();
    let frame = solicit_usual(&options);
    let expected = Request {
        target: address("2001:db8::10"),
        sender: address("2001:db8::7"),
        sender_mac: Mac(other),
    };
    assert_eq!(ask(&frame), Ok(expected));
    let reply = answered(&frame);
    assert_eq!(reply.len(), ADVERTISEMENT_LEN);
    assert_eq!(reply[..12], [&other[..], &OURS.0].concat());
    let [us, them] = ["2001:db8::10", "2001:db8::7"].map(|text| text.parse().unwrap());
    assert_eq!(read_advertisement(&reply), (us, them, true, true, us));
}

#[test]
fn a_solicitation_without_an_option_is_answered_to_where_it_came_from() {
    let frame = solicit("2001:db8::7", "2001:db8::10", "2001:db8::10", &[]);
    assert_eq!(ask(&frame).unwrap().sender_mac, Mac(ASKER));
    assert_eq!(answered(&frame)[..6], ASKER);
}

#[test]
fn a_duplicate_address_probe_is_answered_to_all_nodes() {
    let frame = solicit("::", "ff02::1:ff00:10", "2001:db8::10", &[]);
    let reply = answered(&frame);
    assert_eq!(reply[..6], [0x33, 0x33, 0, 0, 0, 1]);
    let us: Ipv6Addr = "2001:db8::10".parse().unwrap();
    let all_nodes = "ff02::1".parse().unwrap();
    assert_eq!(read_advertisement(&reply), (us, all_nodes, false, true, us));
}

#[test]
fn a_probe_that_says_who_asks_or_goes_elsewhere_is_ignored() {
    let group = "ff02::1:ff00:10";
    let option = [1, 1, 2, 0, 0, 0, 0, 7];
    let target = "2001:db8::10";
    assert_eq!(ask(&solicit("::", group, target, &option)), Err(Reason::NeighborIgnored));
    assert_eq!(ask(&solicit("::", "ff02::1", target, &[])), Err(Reason::NeighborIgnored));
    assert_eq!(ask(&solicit("::", target, target, &[])), Err(Reason::NeighborIgnored));
}

#[test]
fn a_solicitation_that_breaks_a_rule_is_refused() {
    let (from, group, target) = ("2001:db8::7", "ff02::1:ff00:10", "2001:db8::10");
    for (options, reason) in [
        (&[1, 0, 2, 0, 0, 0, 0, 7][..], Reason::Malformed),
        (&[1, 2, 2, 0, 0, 0, 0, 7], Reason::Malformed),
        (&[[1, 2, 2, 0, 0, 0, 0, 7], [0; 8]].concat(), Reason::Malformed),
        (&[1, 1, 2, 0, 0, 0, 0], Reason::Malformed),
        (&[1], Reason::Malformed),
        (&[1, 1, 3, 0, 0, 0, 0, 7], Reason::BadSource),
    ] {
        assert_eq!(ask(&solicit(from, group, target, options)), Err(reason), "{options:?}");
    }
    for (source, destination, asked, reason) in [
        ("ff02::7", group, target, Reason::BadSource),
        ("::1", group, target, Reason::BadSource),
        (from, group, "ff02::10", Reason::NeighborIgnored),
        (from, group, "::ffff:192.0.2.10", Reason::NeighborIgnored),
        (target, group, target, Reason::NeighborIgnored),
    ] {
        assert_eq!(ask(&solicit(source, destination, asked, &[])), Err(reason), "{source} {asked}");
    }
    let mut wrong_sum = solicit_usual(&[]);
    wrong_sum[56] ^= 1;
    assert_eq!(ask(&wrong_sum), Err(Reason::Malformed));
    let mut far = solicit_usual(&[]);
    far[21] = 254;
    assert_eq!(ask(&far), Err(Reason::NeighborIgnored));
}

#[test]
fn an_answer_that_does_not_fit_leaves_the_question_alone() {
    let question = solicit_usual(&[]);
    let mut buffer = question.clone();
    let packet = parse(&question).unwrap();
    let request = request(&question, &packet).unwrap();
    let mut frame = Frame::new(&mut buffer, 0, question.len(), DeviceId(0));
    assert!(!answer(&mut frame, &packet, &request, OURS));
    assert_eq!(frame.bytes(), question);
}

#[test]
fn an_ipv4_address_is_announced_by_a_gratuitous_arp_request() {
    let mut buffer = [0xa5; 128];
    let len = announcement(address("192.0.2.10"), OURS, &mut buffer);
    let vip = [192, 0, 2, 10];
    let expected =
        [&[0xff; 6][..], &OURS.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &OURS.0, &vip, &[0; 6], &vip];
    assert_eq!(buffer[..len], expected.concat());
}

#[test]
fn an_ipv6_address_is_announced_by_an_unsolicited_advertisement_to_all_nodes() {
    let mut buffer = [0xa5; 128];
    let len = announcement(address("2001:db8::10"), OURS, &mut buffer);
    assert_eq!(buffer[..12], [&[0x33, 0x33, 0, 0, 0, 1][..], &OURS.0].concat());
    let us: Ipv6Addr = "2001:db8::10".parse().unwrap();
    let all_nodes = "ff02::1".parse().unwrap();
    assert_eq!(read_advertisement(&buffer[..len]), (us, all_nodes, false, true, us));
}

#[test]
fn an_announcement_is_no_question() {
    let mut buffer = [0; 128];
    for text in ["192.0.2.10", "2001:db8::10"] {
        let len = announcement(address(text), OURS, &mut buffer);
        assert_eq!(ask(&buffer[..len]), Err(Reason::NeighborIgnored));
    }
}

/// What the sender of a frame claims.
fn claimed(frame: &[u8]) -> Result<(Address, Mac), Reason> {
    claim(frame, &parse(frame)?).map(|claim| (claim.address, claim.mac))
}

#[test]
fn whoever_speaks_claims_the_address_in_whose_name_it_speaks() {
    let vip = address("192.0.2.10");
    let mut reply = arp_request([192, 0, 2, 10], [192, 0, 2, 7]);
    for operation in [1, 2] {
        reply[21] = operation;
        assert_eq!(claimed(&reply), Ok((vip, Mac(ASKER))));
    }
    // What neighbours learn is the address in the message, not that of the frame.
    reply[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 8]);
    assert_eq!(claimed(&reply), Ok((vip, Mac([2, 0, 0, 0, 0, 8]))));
    let asks = solicit_usual(&[&[1, 1][..], &OURS.0].concat());
    assert_eq!(claimed(&asks), Ok((address("2001:db8::7"), OURS)));
    assert_eq!(claimed(&solicit_usual(&[])), Ok((address("2001:db8::7"), Mac(ASKER))));
    let mut buffer = [0; 128];
    for vip in ["192.0.2.10", "2001:db8::10"].map(address) {
        let length = announcement(vip, OURS, &mut buffer);
        assert_eq!(claimed(&buffer[..length]), Ok((vip, OURS)), "what we say ourselves");
    }
}

#[test]
fn who_has_no_address_claims_none() {
    assert_eq!(claimed(&arp_request([0; 4], [192, 0, 2, 10])), Err(Reason::NeighborIgnored));
    assert_eq!(
        claimed(&arp_request([224, 0, 0, 1], [192, 0, 2, 10])),
        Err(Reason::NeighborIgnored)
    );
    let probe = solicit("::", "ff02::1:ff00:10", "2001:db8::10", &[]);
    assert_eq!(claimed(&probe), Err(Reason::NeighborIgnored));
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
        let mut frame = arp_request([192, 0, 2, 10], [192, 0, 2, 10]);
        frame[22..28].copy_from_slice(&mac);
        assert_eq!(claimed(&frame), Err(Reason::BadSource));
    }
    let mut buffer = [0; 128];
    let length = announcement(address("2001:db8::10"), OURS, &mut buffer);
    for at in [56, 70, 79, 85] {
        let mut spoilt = buffer;
        spoilt[at] ^= 1;
        assert_eq!(claimed(&spoilt[..length]), Err(Reason::Malformed), "byte {at}");
    }
    assert_eq!(claimed(&buffer[..length - 1]), Err(Reason::Malformed));
}

#[test]
fn our_own_question_is_one_that_we_would_answer() {
    for target in ["192.0.2.10", "2001:db8::10", "fe80::1"] {
        let mut buffer = [0xa5; 128];
        let length = question(address(target), OURS, &mut buffer);
        let frame = &buffer[..length];
        let asked = ask(frame).unwrap();
        assert_eq!((asked.target, asked.sender_mac), (address(target), OURS));
        assert_eq!(claimed(frame), Err(Reason::NeighborIgnored), "it claims nothing");
        let answer = answered(frame);
        assert_eq!(claimed(&answer), Ok((address(target), OURS)));
        SlicedPacket::from_ethernet(frame).unwrap();
    }
}
