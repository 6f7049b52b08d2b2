//! Which neighbours send to us what is for an address of ours: a ping that comes from a VIP is answered to
//! whomever the neighbour takes for its owner. Pure: packets go out and come in.
//!
//! Only neighbours in the network of the VIP are asked. They have no other way to it than a MAC address of
//! their own finding, so that one that answers our own address on the same link and not the VIP has found
//! another one. (Who answers known hosts only is not asked: `answers_vips = false`.)

use std::collections::BTreeSet;
use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

/// Most addresses that one neighbour is asked about in one survey: routers answer only so many pings a second.
const VIPS_MAX: usize = 8;
/// Tries after which a neighbour that has answered nothing is given up.
const PATIENCE: u32 = 2;
/// Hops that a ping may make: it stays on the link.
const TTL: u8 = 1;
/// Bytes of payload: the cookie, and which ping it is.
const PAYLOAD: usize = 12;

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

/// What has become of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// Answered to us, with so many hops left.
    Answered(u8),
    /// It could not be sent as it is, or was answered to another address: somebody on the way translates.
    Void,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ping {
    from: IpAddr,
    fate: Fate,
}

impl Ping {
    const fn from(from: IpAddr) -> Self {
        Self { from, fate: Fate::Open }
    }
}

/// One neighbour, and what it is asked.
#[derive(Debug)]
struct Asked {
    neighbour: IpAddr,
    /// The first one from this node's own address, the others from VIPs.
    pings: Vec<Ping>,
}

impl Asked {
    /// Hops left of the answers to this node itself.
    fn direct(&self) -> Option<u8> {
        let answers = self.pings.iter().filter_map(|ping| match ping.fate {
            Fate::Answered(hops) => Some(hops),
            Fate::Open | Fate::Void => None,
        });
        answers.max()
    }

    /// Whether nothing more is to be expected after so many tries.
    fn is_settled(&self, tries: u32) -> bool {
        let open = self.pings.iter().any(|ping| ping.fate == Fate::Open);
        !open || (tries >= PATIENCE && self.direct().is_none())
    }
}

/// Pings to neighbours from an address of this node, and from VIPs in the same network.
#[derive(Debug)]
pub struct Survey {
    /// Begins each payload, so that answers are known to be ours.
    cookie: u64,
    asked: Vec<Asked>,
}

impl Survey {
    /// Which of `neighbours` can be asked about which of `addresses`, from those `links`. Of many addresses
    /// `cookie` chooses some.
    #[must_use]
    pub fn new(
        cookie: u64,
        links: &[Link],
        addresses: &[IpAddr],
        neighbours: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        // One that is ours to give away is none of this node.
        let own = |link: &&Link| !addresses.contains(&link.address);
        let links: Vec<&Link> = links.iter().filter(own).collect();
        let mut others: BTreeSet<IpAddr> = neighbours.into_iter().collect();
        others.retain(|n| !addresses.contains(n) && links.iter().all(|link| link.address != *n));
        let mut asked = Vec::new();
        for neighbour in others {
            let near = links.iter().filter(|link| link.holds(neighbour));
            let Some(link) = near.max_by_key(|link| link.prefix) else { continue };
            let mut vips: Vec<IpAddr> =
                addresses.iter().filter(|a| link.holds(**a)).copied().collect();
            if vips.is_empty() {
                continue;
            }
            if vips.len() > VIPS_MAX {
                let first = cookie % vips.len() as u64;
                vips.rotate_left(first as usize);
            }
            let froms = std::iter::once(link.address).chain(vips.into_iter().take(VIPS_MAX));
            asked.push(Asked { neighbour, pings: froms.map(Ping::from).collect() });
        }
        Self { cookie, asked }
    }

    /// Whether nothing more is to be expected after so many tries; at once if there is nobody to ask.
    #[must_use]
    pub fn is_settled(&self, tries: u32) -> bool {
        self.asked.iter().all(|asked| asked.is_settled(tries))
    }

    /// What is to be sent in the next try: to whom, and the packet from its IP header on. `send` says
    /// whether it went out.
    pub fn ask(&mut self, tries: u32, mut send: impl FnMut(IpAddr, &[u8]) -> bool) {
        let cookie = self.cookie;
        for (at, asked) in self.asked.iter_mut().enumerate() {
            if asked.is_settled(tries) {
                continue;
            }
            let neighbour = asked.neighbour;
            for (number, ping) in asked.pings.iter_mut().enumerate() {
                let packet = packet(cookie, (at, number), ping.from, neighbour);
                if ping.fate == Fate::Open && !send(neighbour, &packet) {
                    ping.fate = Fate::Void;
                }
            }
        }
    }

    /// Somebody's packet, from its IP header on. Anything but an answer to one of ours changes nothing.
    pub fn hear(&mut self, packet: &[u8]) {
        let Some(reply) = Reply::read(packet) else { return };
        let Some((cookie, (at, number))) = split(reply.payload) else { return };
        if cookie != self.cookie {
            return;
        }
        let Some(asked) = self.asked.get_mut(at).filter(|a| a.neighbour == reply.from) else {
            return;
        };
        let Some(ping) = asked.pings.get_mut(number) else { return };
        if ping.fate == Fate::Open {
            let straight = reply.to == ping.from;
            ping.fate = if straight { Fate::Answered(reply.hops) } else { Fate::Void };
        }
    }

    /// Those who have answered nothing at all.
    pub fn silent(&self) -> impl Iterator<Item = IpAddr> {
        self.asked.iter().filter(|asked| asked.direct().is_none()).map(|asked| asked.neighbour)
    }

    /// What is known in the end: who sends to us, in words, or none if nobody says anything.
    ///
    /// # Errors
    /// Who answers this node and not one of its VIPs, or that by way of somebody else: it sends elsewhere
    /// what is for that.
    pub fn verdict(&self) -> Result<Option<String>, String> {
        let mut good = Vec::new();
        for asked in &self.asked {
            // Who answers nobody has nothing to say.
            let Some(direct) = asked.direct() else { continue };
            let neighbour = asked.neighbour;
            let mut answered = 0;
            for ping in asked.pings.iter().skip(1) {
                match ping.fate {
                    Fate::Void => {}
                    Fate::Answered(hops) if hops >= direct => answered += 1,
                    Fate::Answered(_) => {
                        return Err(format!(
                            "{neighbour} answers pings from {} by way of another machine: it sends there \
                             what is for that address",
                            ping.from
                        ));
                    }
                    Fate::Open => {
                        return Err(format!(
                            "{neighbour} answers pings of this node, and none from {}: it sends elsewhere \
                             what is for that address",
                            ping.from
                        ));
                    }
                }
            }
            if answered > 0 {
                good.push(neighbour.to_string());
            }
        }
        let who = good.join(", ");
        Ok((!good.is_empty()).then(|| format!("pings from the VIPs are answered to us by {who}")))
    }
}

/// An echo request (RFC 792, RFC 4443 section 4.1).
fn packet(cookie: u64, (at, number): (usize, usize), from: IpAddr, to: IpAddr) -> Vec<u8> {
    let id = cookie as u16;
    // Both are far below the bound: 256 targets at most, each asked about a few addresses.
    let (at, number) = (at as u16, number as u16);
    let mut payload = [0; PAYLOAD];
    payload[..8].copy_from_slice(&cookie.to_be_bytes());
    payload[8..10].copy_from_slice(&at.to_be_bytes());
    payload[10..].copy_from_slice(&number.to_be_bytes());
    let mut packet = Vec::new();
    let written = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL)
            .icmpv4_echo_request(id, number)
            .write(&mut packet, &payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL)
            .icmpv6_echo_request(id, number)
            .write(&mut packet, &payload),
        _ => return packet,
    };
    // So few bytes are not too long, and memory can be written.
    debug_assert!(written.is_ok());
    packet
}

/// Cookie, neighbour and number of a ping.
fn split(payload: &[u8]) -> Option<(u64, (usize, usize))> {
    let (cookie, rest) = payload.split_first_chunk()?;
    let (at, rest) = rest.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    let place = (u16::from_be_bytes(*at).into(), u16::from_be_bytes(*number).into());
    Some((u64::from_be_bytes(*cookie), place))
}

/// An echo reply.
struct Reply<'a> {
    from: IpAddr,
    to: IpAddr,
    hops: u8,
    payload: &'a [u8],
}

impl<'a> Reply<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        let (from, to, hops): (IpAddr, IpAddr, u8) = match sliced.net? {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), header.ttl())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
            }
            NetSlice::Arp(_) => return None,
        };
        let payload = match sliced.transport? {
            TransportSlice::Icmpv4(icmp)
                if matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(_)) =>
            {
                icmp.payload()
            }
            TransportSlice::Icmpv6(icmp)
                if matches!(icmp.icmp_type(), Icmpv6Type::EchoReply(_)) =>
            {
                icmp.payload()
            }
            _ => return None,
        };
        Some(Self { from, to, hops, payload })
    }
}

#[cfg(test)]
mod tests {
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
        Survey::new(7, &links(), &addresses, neighbours.iter().map(|n| ip(n)))
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
        let ends: Vec<_> =
            sent.iter().map(|(to, packet)| format!("{} {to}", from(packet))).collect();
        assert_eq!(
            ends,
            [
                "192.0.2.3 192.0.2.1",
                "192.0.2.10 192.0.2.1",
                "192.0.2.11 192.0.2.1",
                "2001:db8::3 2001:db8::1",
                "2001:db8::10 2001:db8::1"
            ]
        );
    }

    #[test]
    fn whoever_answers_all_reaches_us_and_is_not_asked_again() {
        let mut survey = survey(&["192.0.2.10", "2001:db8::10"], &["192.0.2.1", "2001:db8::1"]);
        let sent = asked(&mut survey, 0);
        assert_eq!(sent.len(), 4);
        for (at, (_, packet)) in sent.iter().enumerate() {
            survey.hear(packet);
            assert_eq!(asked(&mut survey, 1).len(), 4 - at, "a request is no answer");
            survey.hear(&answered(packet, 0));
            assert_eq!(asked(&mut survey, 1).len(), 3 - at);
        }
        assert!(survey.is_settled(1) && survey.silent().next().is_none());
        let said = survey.verdict().unwrap().unwrap();
        assert!(said.ends_with("answered to us by 192.0.2.1, 2001:db8::1"), "{said}");
    }

    #[test]
    fn a_neighbour_that_answers_us_and_not_the_vip_sends_elsewhere_and_a_silent_one_says_nothing() {
        let mut survey = survey(&["192.0.2.10"], &["192.0.2.1", "192.0.2.2"]);
        let sent = asked(&mut survey, 0);
        assert_eq!(survey.verdict(), Ok(None));
        survey.hear(&answered(&sent[0].1, 0));
        let said = survey.verdict().unwrap_err();
        assert!(said.contains("192.0.2.1 answers") && said.contains("from 192.0.2.10"), "{said}");
        assert_eq!(survey.silent().collect::<Vec<_>>(), [ip("192.0.2.2")]);
        assert_eq!(asked(&mut survey, PATIENCE).len(), 1, "the silent one is given up");
        survey.hear(&answered(&sent[1].1, 0));
        assert!(survey.is_settled(PATIENCE) && !survey.is_settled(PATIENCE - 1));
        assert!(survey.verdict().unwrap().is_some());
    }

    #[test]
    fn an_answer_that_another_machine_has_passed_on_is_none_to_us() {
        let mut survey = survey(&["2001:db8::10"], &["2001:db8::1"]);
        let sent = asked(&mut survey, 0);
        survey.hear(&answered(&sent[1].1, 1));
        assert!(survey.verdict().is_ok(), "nothing to compare with");
        survey.hear(&answered(&sent[0].1, 0));
        let said = survey.verdict().unwrap_err();
        assert!(said.contains("by way of another machine"), "{said}");
    }

    #[test]
    fn pings_that_are_translated_or_cannot_be_sent_say_nothing() {
        let mut translated = survey(&["192.0.2.10"], &["192.0.2.1"]);
        let sent = asked(&mut translated, 0);
        translated.hear(&answered(&sent[0].1, 0));
        // As the kernel's NAT does it on the way out: the node's own address instead of the VIP.
        let mut changed = sent[1].1.clone();
        changed[12..16].copy_from_slice(&[192, 0, 2, 3]);
        translated.hear(&answered(&changed, 0));
        assert!(translated.is_settled(0));
        assert_eq!(translated.verdict(), Ok(None));
        let mut refused = survey(&["192.0.2.10"], &["192.0.2.1"]);
        refused.ask(0, |_, packet| from(packet) == ip("192.0.2.3"));
        refused.hear(&answered(&sent[0].1, 0));
        assert_eq!((refused.is_settled(1), refused.verdict()), (true, Ok(None)));
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
        }
        let many: Vec<IpAddr> = (0..200).map(|n| ip(&format!("10.2.0.{n}"))).collect();
        let of = |cookie| {
            let mut full = Survey::new(cookie, &links(), &many, [ip("10.0.0.1"), ip("10.0.0.2")]);
            asked(&mut full, 0)
        };
        let (first, second) = (of(0), of(100));
        assert_eq!(first.len(), 2 * (VIPS_MAX + 1));
        assert_eq!(from(&first[1].1), many[0]);
        assert_eq!(from(&second[1].1), many[100], "another time others are asked about");
    }
}
