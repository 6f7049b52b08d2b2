//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861) for the generator's own addresses.
//!
//! Pure: bytes in, bytes out. [`crate::packet_socket`] moves them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::Addresses;
use crate::meter::mac_of_real;
use crate::parse::{ETHERNET, ETHERTYPE_V6, add_bytes, fold};

const ETHERTYPE_ARP: u16 = 0x0806;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement: override; solicited as well.
const OVERRIDE: u8 = 0x20;
const SOLICITED: u8 = 0x40 | OVERRIDE;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
/// First 13 bytes of the groups of neighbour solicitation, `ff02::1:ff00:0/104`.
const GROUP: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

/// The stations that live behind one interface.
#[derive(Clone, Copy, Debug)]
pub struct Stations {
    /// Their addresses.
    pub addresses: Addresses,
    /// MAC address of the interface.
    pub mac: [u8; 6],
    /// Whether each has a MAC address of its own ([`mac_of_real`]).
    pub distinct: bool,
}

impl Stations {
    /// Where a station is; none if it is not one of these.
    #[must_use]
    pub fn mac(&self, address: IpAddr) -> Option<[u8; 6]> {
        let index = self.addresses.index(address)?;
        Some(if self.distinct { mac_of_real(index) } else { self.mac })
    }

    /// The answer to a frame that asks for one of the stations.
    #[must_use]
    pub fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        match read(frame)? {
            Message::Question { target, sender, sender_mac } => {
                let mac = self.mac(target)?;
                Some(write(Kind::Answer, (target, mac), (sender, sender_mac), sender_mac))
            }
            Message::Answer { .. } => None,
        }
    }

    /// A question of the first station for an address: to all, or to the neighbour that is believed
    /// to have it.
    #[must_use]
    pub fn question(&self, target: IpAddr, known: Option<[u8; 6]>) -> Vec<u8> {
        let first = self.addresses.first();
        let mac = self.mac(first).unwrap_or(self.mac);
        // Real servers behind a tunnel may have no address of the other family to ask from: then
        // nobody asks (RFC 5227 section 2.1.1), or the interface itself (RFC 4291 section 2.5.1).
        let sender = match (first, target) {
            (IpAddr::V6(_), IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (IpAddr::V4(_), IpAddr::V6(_)) => link_local(mac).into(),
            _ => first,
        };
        let group = match target {
            IpAddr::V4(_) => [0xff; 6],
            IpAddr::V6(v6) => {
                let [.., a, b, c] = v6.octets();
                [0x33, 0x33, 0xff, a, b, c]
            }
        };
        let kind = if known.is_some() { Kind::Check } else { Kind::Question };
        write(kind, (sender, mac), (target, [0; 6]), known.unwrap_or(group))
    }
}

/// An address that an interface has by itself, from its MAC address (RFC 4291 appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let [ab, cff, fed, ef] = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
    Ipv6Addr::new(0xfe80, 0, 0, 0, ab, cff, fed, ef)
}

impl Stations {
    /// Tells whoever waits for a station where it is (gratuitous ARP, RFC 5227 section 3;
    /// unsolicited advertisement, RFC 4861 section 7.2.6): a neighbour that failed to find it before
    /// it was there would not ask again for some time.
    #[must_use]
    pub fn announcement(&self, index: u32) -> Vec<u8> {
        let address = self.addresses.get(index);
        let from = (address, self.mac(address).unwrap_or(self.mac));
        match address {
            IpAddr::V4(_) => write(Kind::Question, from, (address, [0; 6]), [0xff; 6]),
            IpAddr::V6(_) => {
                let nobody = (Ipv6Addr::UNSPECIFIED.into(), [0; 6]);
                write(Kind::Answer, from, nobody, [0x33, 0x33, 0, 0, 0, 1])
            }
        }
    }
}

/// When to ask for a neighbour that is known, as Linux does (`ucast_solicit`): it itself each second,
/// and all, once it did not answer three times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vigil {
    next: u64,
    unanswered: u32,
}

/// Time between two questions, in nanoseconds.
const ASK_EACH: u64 = 1_000_000_000;
/// Questions to the neighbour itself before all are asked.
const CHECKS: u32 = 3;

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The neighbour itself.
    Neighbor,
    /// Everybody.
    All,
}

impl Vigil {
    /// Whom to ask at `now` (nanoseconds), if anybody; `known` is whether the neighbour is.
    pub fn look(&mut self, now: u64, known: bool) -> Option<Ask> {
        if now < self.next {
            return None;
        }
        self.next = now + ASK_EACH;
        self.unanswered = self.unanswered.saturating_add(1);
        Some(if known && self.unanswered <= CHECKS { Ask::Neighbor } else { Ask::All })
    }

    /// It was heard at `now`.
    pub fn heard(&mut self, now: u64) {
        *self = Self { next: now + ASK_EACH, unanswered: 0 };
    }
}

/// Who is where, if a frame says so: an answer, or the sender of a question.
#[must_use]
pub fn learn(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    match read(frame)? {
        Message::Question { sender, sender_mac, .. } => Some((sender, sender_mac)),
        Message::Answer { sender, mac, .. } => Some((sender, mac)),
    }
}

/// As [`learn`], from a frame that may tell of another MAC address than the one that is known: an
/// advertisement without its override flag may not (RFC 4861 section 7.2.5).
#[must_use]
pub fn learn_again(frame: &[u8], known: Option<[u8; 6]>) -> Option<(IpAddr, [u8; 6])> {
    match read(frame)? {
        Message::Answer { sender, overrides: false, .. } => Some((sender, known?)),
        _ => learn(frame),
    }
}

enum Message {
    Question { target: IpAddr, sender: IpAddr, sender_mac: [u8; 6] },
    Answer { sender: IpAddr, mac: [u8; 6], overrides: bool },
}

enum Kind {
    Question,
    /// A question to the neighbour itself.
    Check,
    Answer,
}

fn read(frame: &[u8]) -> Option<Message> {
    match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
        ETHERTYPE_ARP => read_arp(frame.get(ETHERNET..)?.first_chunk()?),
        ETHERTYPE_V6 => read_discovery(frame),
        _ => None,
    }
}

fn read_arp(body: &[u8; 28]) -> Option<Message> {
    // Hardware Ethernet, protocol IPv4, address lengths 6 and 4.
    let [0, 1, 8, 0, 6, 4, 0, operation, ..] = *body else { return None };
    let sender_mac: [u8; 6] = *body[8..].first_chunk()?;
    let sender = Ipv4Addr::from(*body[14..].first_chunk::<4>()?).into();
    let target = Ipv4Addr::from(*body[24..].first_chunk::<4>()?).into();
    match u16::from(operation) {
        ARP_REQUEST => Some(Message::Question { target, sender, sender_mac }),
        ARP_REPLY => Some(Message::Answer { sender, mac: sender_mac, overrides: true }),
        _ => None,
    }
}

fn read_discovery(frame: &[u8]) -> Option<Message> {
    let ip: &[u8; 40] = frame.get(ETHERNET..)?.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let message = frame.get(ETHERNET + 40..ETHERNET + 40 + len)?;
    // Never forwarded: hop limit 255 (RFC 4861 section 7.1).
    if ip[6] != ICMPV6 || ip[7] != 255 || message.len() < 24 || message[1] != 0 {
        return None;
    }
    let pseudo = u64::from(ICMPV6) + len as u64;
    if fold(add_bytes(add_bytes(pseudo, &ip[8..]), message)) != 0xffff {
        return None;
    }
    let target = Ipv6Addr::from(*message[8..].first_chunk::<16>()?).into();
    let sender = Ipv6Addr::from(*ip[8..].first_chunk::<16>()?).into();
    match message[0] {
        SOLICITATION => {
            let sender_mac = option(&message[24..], 1).or_else(|| frame[6..].first_chunk())?;
            Some(Message::Question { target, sender, sender_mac: *sender_mac })
        }
        ADVERTISEMENT => Some(Message::Answer {
            sender: target,
            mac: *option(&message[24..], 2)?,
            overrides: message[4] & OVERRIDE != 0,
        }),
        _ => None,
    }
}

/// The link-layer address of an option of this type.
fn option(mut options: &[u8], wanted: u8) -> Option<&[u8; 6]> {
    while let [kind, len, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(len) * 8)?;
        if option.is_empty() {
            return None;
        }
        if kind == wanted {
            return option[2..].first_chunk();
        }
        options = rest;
    }
    None
}

/// A question of `from` for `to`, or an answer of `from` to `to`; sent to `mac`.
fn write(kind: Kind, from: (IpAddr, [u8; 6]), to: (IpAddr, [u8; 6]), mac: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&from.1);
    match (from.0, to.0) {
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            frame.extend_from_slice(&ETHERTYPE_V6.to_be_bytes());
            write_discovery(&mut frame, kind, (source, from.1), target);
        }
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            frame.extend_from_slice(&ETHERTYPE_ARP.to_be_bytes());
            let operation = match kind {
                Kind::Question | Kind::Check => ARP_REQUEST,
                Kind::Answer => ARP_REPLY,
            };
            frame.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
            frame.extend_from_slice(&operation.to_be_bytes());
            frame.extend_from_slice(&from.1);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&to.1);
            frame.extend_from_slice(&target.octets());
            frame.resize(60, 0);
        }
        _ => {}
    }
    frame
}

fn write_discovery(frame: &mut Vec<u8>, kind: Kind, from: (Ipv6Addr, [u8; 6]), to: Ipv6Addr) {
    let (kind, flags, target, destination, link) = match kind {
        Kind::Question => {
            let mut group = [0; 16];
            group[..13].copy_from_slice(&GROUP);
            group[13..].copy_from_slice(&to.octets()[13..]);
            (SOLICITATION, 0, to, Ipv6Addr::from(group), 1)
        }
        Kind::Check => (SOLICITATION, 0, to, to, 1),
        // To a probe (sender `::`) it goes to all nodes, unsolicited (RFC 4861 section 7.2.4).
        Kind::Answer if to.is_unspecified() => {
            (ADVERTISEMENT, OVERRIDE, from.0, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 2)
        }
        Kind::Answer => (ADVERTISEMENT, SOLICITED, from.0, to, 2),
    };
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&[link, 1]);
    message.extend_from_slice(&from.1);
    let mut ip = [0; 40];
    ip[0] = 0x60;
    ip[5] = message.len() as u8;
    ip[6] = ICMPV6;
    ip[7] = 255;
    ip[8..24].copy_from_slice(&from.0.octets());
    ip[24..].copy_from_slice(&destination.octets());
    let pseudo = u64::from(ICMPV6) + message.len() as u64;
    let sum = !fold(add_bytes(add_bytes(pseudo, &ip[8..]), &message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stations(first: &str, distinct: bool) -> Stations {
        let addresses = Addresses::new(first.parse().unwrap(), 10).unwrap();
        Stations { addresses, mac: [2, 0, 0, 0, 0, 1], distinct }
    }

    #[test]
    fn who_asks_for_a_station_is_told_and_who_asks_for_another_is_not() {
        for (asked, asking, stranger) in [
            ("198.19.0.1", "198.18.0.1", "198.19.0.11"),
            ("2001:db8:19::1", "2001:db8:18::1", "2001:db8:19::b"),
        ] {
            let (here, there) = (stations(asked, true), stations(asking, false));
            let target = here.addresses.get(3);
            let question = there.question(target, None);
            assert_eq!(learn(&question), Some((there.addresses.first(), there.mac)));
            let answer = here.answer(&question).expect("an answer");
            assert_eq!(learn(&answer), Some((target, mac_of_real(3))));
            assert_eq!(answer[..6], there.mac, "to who asked");
            assert_eq!(here.answer(&there.question(stranger.parse().unwrap(), None)), None);
            assert_eq!(here.answer(&answer), None, "an answer is no question");
        }
    }

    #[test]
    fn a_station_announces_itself_to_all() {
        for first in ["198.19.0.1", "2001:db8:19::1"] {
            let here = stations(first, true);
            let frame = here.announcement(3);
            assert_eq!(learn(&frame), Some((here.addresses.get(3), mac_of_real(3))));
            assert_eq!(frame[0] & 1, 1, "to a group");
        }
    }

    #[test]
    fn a_known_neighbour_is_asked_itself_and_answers() {
        for (asked, asking) in [("198.19.0.1", "198.18.0.1"), ("2001:db8:19::1", "2001:db8:18::1")]
        {
            let (here, there) = (stations(asked, true), stations(asking, false));
            let question = there.question(here.addresses.get(2), Some(mac_of_real(2)));
            assert_eq!(question[..6], mac_of_real(2), "to nobody else");
            let answer = here.answer(&question).expect("an answer");
            assert_eq!(learn(&answer), Some((here.addresses.get(2), mac_of_real(2))));
        }
    }

    #[test]
    fn who_has_no_address_of_a_family_asks_all_the_same() {
        for (asked, asking) in [("198.19.0.1", "2001:db8:18::1"), ("2001:db8:19::1", "198.18.0.1")]
        {
            let (here, there) = (stations(asked, true), stations(asking, false));
            let answer = here.answer(&there.question(here.addresses.get(2), None));
            let answer = answer.expect("an answer");
            assert_eq!(answer[..6], there.mac, "to who asked");
            assert_eq!(learn(&answer), Some((here.addresses.get(2), mac_of_real(2))));
        }
        let mac = [0x02, 0xab, 0xcd, 0x12, 0x34, 0x56];
        assert_eq!(link_local(mac), "fe80::ab:cdff:fe12:3456".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn an_advertisement_without_override_moves_nobody() {
        let here = stations("2001:db8:19::1", true);
        let there = stations("2001:db8:18::1", false);
        let (target, old) = (here.addresses.get(3), [2, 0, 0, 0, 0, 9]);
        let mut answer = here.answer(&there.question(target, None)).unwrap();
        assert_eq!(learn_again(&answer, Some(old)), Some((target, mac_of_real(3))));
        answer[58] &= !OVERRIDE;
        let sum = u16::from_be_bytes([answer[56], answer[57]]);
        answer[56..58].copy_from_slice(&(sum + (u16::from(OVERRIDE) << 8)).to_be_bytes());
        assert_eq!(learn_again(&answer, Some(old)), Some((target, old)), "heard, and not moved");
        assert_eq!(learn_again(&answer, None), None);
    }

    #[test]
    fn a_neighbour_that_falls_silent_is_asked_for_three_times_and_then_all_are() {
        let second = ASK_EACH;
        let mut vigil = Vigil::default();
        assert_eq!(vigil.look(0, false), Some(Ask::All), "not known yet");
        vigil.heard(5);
        assert_eq!(vigil.look(second, true), None);
        let asked: Vec<_> = (1..6).filter_map(|n| vigil.look(n * second + 5, true)).collect();
        assert_eq!(asked, [Ask::Neighbor, Ask::Neighbor, Ask::Neighbor, Ask::All, Ask::All]);
        vigil.heard(6 * second);
        assert_eq!(vigil.look(7 * second, true), Some(Ask::Neighbor));
    }

    #[test]
    fn cut_and_damaged_messages_say_nothing() {
        for asked in ["198.19.0.1", "2001:db8:19::1"] {
            let here = stations(asked, false);
            let question = here.question(here.addresses.get(1), None);
            let len = if asked.contains(':') { question.len() } else { 42 };
            for cut in 0..len {
                assert_eq!(learn(&question[..cut]), None, "{cut}");
            }
            if asked.contains(':') {
                for at in 22..question.len() {
                    let mut bad = question.clone();
                    bad[at] ^= 1;
                    assert_eq!(learn(&bad), None, "byte {at}");
                }
            }
        }
    }
}
