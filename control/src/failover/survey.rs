//! Which neighbours send to us what is for an address of ours: a ping that comes from a VIP is answered to
//! whomever the neighbour takes for its owner. Pure: packets go out and come in.
//!
//! Only neighbours in the network of the VIP are asked. They have no other way to it than a MAC address of
//! their own finding, and one that answers our own address on the same link has no reason not to answer
//! the VIP: its silence is evidence too.

use std::collections::BTreeSet;
use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

/// Most pings of one survey, each repeated as long as it is not answered.
pub const PINGS_MAX: usize = 64;
/// Hops that a ping may make: its answer comes from the link.
const TTL: u8 = 64;

/// An address of this node, on an interface that carries VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The address.
    pub address: IpAddr,
    /// How many of its bits are those of its network, 0 to 32 or 128.
    pub prefix: u32,
}

impl Link {
    /// Whether the other address is reached by this link without a router.
    fn holds(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                self.prefix > 0 && differing.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                // Every link has the network of link-local addresses.
                !own.is_unicast_link_local()
                    && self.prefix > 0
                    && differing.leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ping {
    to: IpAddr,
    from: IpAddr,
    answered: bool,
}

/// What one neighbour is asked.
#[derive(Debug)]
struct Asked {
    /// From the address of this node.
    own: Ping,
    /// From ours.
    vips: Vec<Ping>,
}

/// Pings to neighbours from their own network, and from addresses of ours in it.
#[derive(Debug)]
pub struct Survey {
    /// Begins each payload, so that answers are known to be ours.
    cookie: u64,
    asked: Vec<Asked>,
}

impl Survey {
    /// Which of `neighbours` can be asked about which of `addresses`, from those `links`.
    #[must_use]
    pub fn new(
        cookie: u64,
        links: &[Link],
        addresses: &[IpAddr],
        neighbours: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let ping = |from, to| Ping { to, from, answered: false };
        let (mut asked, mut room) = (Vec::new(), PINGS_MAX);
        let known: BTreeSet<IpAddr> =
            links.iter().map(|link| link.address).chain(addresses.iter().copied()).collect();
        let mut others: BTreeSet<IpAddr> = neighbours.into_iter().collect();
        others.retain(|neighbour| !known.contains(neighbour));
        for neighbour in others {
            let Some(link) = links.iter().find(|link| link.holds(neighbour)) else { continue };
            let ours = addresses.iter().filter(|a| link.holds(**a) && **a != link.address);
            let vips: Vec<Ping> =
                ours.take(room.saturating_sub(1)).map(|vip| ping(*vip, neighbour)).collect();
            if !vips.is_empty() {
                room -= vips.len() + 1;
                asked.push(Asked { own: ping(link.address, neighbour), vips });
            }
        }
        Self { cookie, asked }
    }

    fn pings(&self) -> impl Iterator<Item = &Ping> {
        self.asked.iter().flat_map(|asked| std::iter::once(&asked.own).chain(&asked.vips))
    }

    /// Whether every ping has been answered; one without pings is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pings().all(|ping| ping.answered)
    }

    /// Pings without an answer so far: to whom, and the packet from its IP header on.
    pub fn packets(&self) -> impl Iterator<Item = (IpAddr, Vec<u8>)> {
        self.pings().filter(|ping| !ping.answered).map(|ping| (ping.to, self.packet(ping)))
    }

    /// An echo request (RFC 792, RFC 4443 section 4.1).
    fn packet(&self, ping: &Ping) -> Vec<u8> {
        let (payload, id) = (self.cookie.to_be_bytes(), self.cookie as u16);
        let mut packet = Vec::new();
        let written = match (ping.from, ping.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), TTL)
                    .icmpv4_echo_request(id, 1)
                    .write(&mut packet, &payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), TTL)
                    .icmpv6_echo_request(id, 1)
                    .write(&mut packet, &payload)
            }
            _ => return packet,
        };
        // Eight bytes are not too long, and memory can be written.
        debug_assert!(written.is_ok());
        packet
    }

    /// Somebody's packet, from its IP header on. Anything but an answer to one of ours changes nothing.
    pub fn hear(&mut self, packet: &[u8]) {
        let Some((from, to, payload)) = reply(packet) else { return };
        if payload.get(..8) != Some(&self.cookie.to_be_bytes()[..]) {
            return;
        }
        let pings = self
            .asked
            .iter_mut()
            .flat_map(|asked| std::iter::once(&mut asked.own).chain(&mut asked.vips));
        for ping in pings.filter(|ping| (ping.from, ping.to) == (to, from)) {
            ping.answered = true;
        }
    }

    /// What is known in the end: who sends to us, in words, or none if nobody could be asked.
    ///
    /// # Errors
    /// Who answers this node and not one of its VIPs: it sends elsewhere what is for that.
    pub fn verdict(&self) -> Result<Option<String>, String> {
        let mut good = Vec::new();
        for Asked { own, vips } in &self.asked {
            let deaf = vips.iter().find(|ping| !ping.answered);
            match deaf {
                Some(deaf) if own.answered => {
                    return Err(format!(
                        "{} answers pings from {}, and none from {}: it sends elsewhere what is for that",
                        own.to, own.from, deaf.from
                    ));
                }
                // Who answers nobody has nothing to say.
                Some(_) => {}
                None => good.push(own.to.to_string()),
            }
        }
        let who = good.join(", ");
        Ok((!good.is_empty()).then(|| format!("pings from the VIPs are answered to us by {who}")))
    }
}

/// Sender, receiver and payload of an echo reply.
fn reply(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (from, to): (IpAddr, IpAddr) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    match sliced.transport? {
        TransportSlice::Icmpv4(icmp) if matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(_)) => {
            Some((from, to, icmp.payload()))
        }
        TransportSlice::Icmpv6(icmp) if matches!(icmp.icmp_type(), Icmpv6Type::EchoReply(_)) => {
            Some((from, to, icmp.payload()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn links() -> Vec<Link> {
        [("192.0.2.3", 24), ("fe80::3", 64), ("2001:db8::3", 64), ("10.0.0.3", 8)]
            .map(|(address, prefix)| Link { address: ip(address), prefix })
            .into()
    }

    fn survey(addresses: &[&str], neighbours: &[&str]) -> Survey {
        let addresses: Vec<_> = addresses.iter().map(|a| ip(a)).collect();
        Survey::new(7, &links(), &addresses, neighbours.iter().map(|n| ip(n)))
    }

    /// What a neighbour makes of a ping (RFC 792: addresses reversed, type changed).
    fn answered(packet: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        match (sliced.net.unwrap(), sliced.transport.unwrap()) {
            (NetSlice::Ipv4(net), TransportSlice::Icmpv4(icmp)) => {
                let Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else { panic!("no request") };
                let header = net.header();
                PacketBuilder::ipv4(header.destination(), header.source(), 64)
                    .icmpv4_echo_reply(echo.id, echo.seq)
                    .write(&mut out, icmp.payload())
                    .unwrap();
            }
            (NetSlice::Ipv6(net), TransportSlice::Icmpv6(icmp)) => {
                let Icmpv6Type::EchoRequest(echo) = icmp.icmp_type() else { panic!("no request") };
                let header = net.header();
                PacketBuilder::ipv6(header.destination(), header.source(), 64)
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
        let none = |survey: Survey| assert!(survey.is_complete() && survey.verdict() == Ok(None));
        none(survey(&["192.0.2.10"], &["198.51.100.1", "10.0.0.1", "2001:db8::1"]));
        none(survey(&["192.0.2.10"], &["192.0.2.10", "192.0.2.3"]));
        none(survey(&["fe80::10"], &["fe80::1"]));
        let both = survey(
            &["192.0.2.10", "2001:db8::10", "192.0.2.11"],
            &["192.0.2.1", "2001:db8::1", "192.0.2.1"],
        );
        let to: Vec<_> = both.packets().map(|(to, _)| to.to_string()).collect();
        assert_eq!(to, ["192.0.2.1", "192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::1"]);
    }

    #[test]
    fn whoever_answers_all_reaches_us_and_is_not_asked_again() {
        let mut survey = survey(&["192.0.2.10", "2001:db8::10"], &["192.0.2.1", "2001:db8::1"]);
        let packets: Vec<_> = survey.packets().map(|(_, packet)| packet).collect();
        assert_eq!(packets.len(), 4);
        for packet in packets {
            let before = survey.packets().count();
            survey.hear(&packet);
            assert_eq!(survey.packets().count(), before, "a request is no answer");
            survey.hear(&answered(&packet));
            assert_eq!(survey.packets().count(), before - 1);
        }
        let said = survey.verdict().unwrap().unwrap();
        assert!(said.ends_with("answered to us by 192.0.2.1, 2001:db8::1"), "{said}");
    }

    #[test]
    fn a_neighbour_that_answers_us_and_not_the_vip_sends_elsewhere_and_a_silent_one_says_nothing() {
        let mut survey = survey(&["192.0.2.10"], &["192.0.2.1"]);
        assert_eq!(survey.verdict(), Ok(None));
        let own = survey.packets().next().unwrap().1;
        survey.hear(&answered(&own));
        let said = survey.verdict().unwrap_err();
        assert!(
            said.contains("192.0.2.1 answers") && said.contains("none from 192.0.2.10"),
            "{said}"
        );
    }

    #[test]
    fn answers_to_others_and_damaged_ones_change_nothing_and_the_number_of_pings_is_bounded() {
        let mut mine = survey(&["192.0.2.10"], &["192.0.2.1"]);
        let mut other = Survey { cookie: 8, ..survey(&["192.0.2.10"], &["192.0.2.1"]) };
        let packets: Vec<_> = mine.packets().map(|(_, packet)| answered(&packet)).collect();
        for packet in &packets {
            other.hear(packet);
            for end in 0..packet.len() {
                mine.hear(&packet[..end]);
            }
        }
        assert_eq!((mine.packets().count(), other.packets().count()), (2, 2));
        let many: Vec<IpAddr> = (0..200).map(|n| ip(&format!("10.1.0.{n}"))).collect();
        let full = Survey::new(7, &links(), &many, [ip("10.0.0.1"), ip("10.0.0.2")]);
        assert_eq!(full.packets().count(), PINGS_MAX);
    }
}
