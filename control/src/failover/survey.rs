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
pub const VIPS_MAX: usize = 8;
/// Tries after which a neighbour that has answered nothing is given up.
const PATIENCE: u32 = 2;
/// Hops that a ping may make.
const TTL: u8 = 64;
/// Bytes of payload: the cookie, which ping it is, which try.
const PAYLOAD: usize = 14;
/// Most machines that a misled answer is believed to have passed.
const DETOUR_MAX: u8 = 4;

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
        let alike = match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            // Every link has the network of link-local addresses.
            (IpAddr::V6(own), IpAddr::V6(other)) if !own.is_unicast_link_local() => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        self.prefix > 0 && alike >= self.prefix
    }
}

/// What has become of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Never went out.
    Kept,
    Sent,
    /// Answered to us, with so many hops left at best.
    Answered(u8),
    /// Answered to another address: somebody on the way translates.
    Translated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ping {
    from: IpAddr,
    fate: Fate,
}

/// One neighbour, and what it is asked.
#[derive(Clone, Debug)]
struct Asked {
    neighbour: IpAddr,
    /// From this node's own address; sent again as long as one of the others is.
    own: Ping,
    /// The last try in which that was sent,
    tried: u32,
    /// and the last one in which it was answered.
    answered: Option<u32>,
    /// From VIPs.
    vips: Vec<Ping>,
}

impl Asked {
    /// Whether an answer of so many hops left has passed machines that answers to this node have not.
    /// Where replies set out with another number, nothing can be said.
    fn is_detour(&self, hops: u8) -> bool {
        let Fate::Answered(own) = self.own.fate else { return false };
        let start =
            |hops: u8| [32, 64, 128].into_iter().find(|start| hops <= *start).unwrap_or(255);
        start(own) == start(hops) && (1..=DETOUR_MAX).contains(&own.saturating_sub(hops))
    }

    fn is_open(&self, ping: &Ping) -> bool {
        match ping.fate {
            Fate::Kept | Fate::Sent => true,
            Fate::Answered(hops) => self.is_detour(hops),
            Fate::Translated => false,
        }
    }

    fn is_silent(&self) -> bool {
        let mut pings = std::iter::once(&self.own).chain(&self.vips);
        !pings.any(|ping| matches!(ping.fate, Fate::Answered(_)))
    }

    /// Whether nothing more is to be expected after so many tries.
    fn is_settled(&self, tries: u32) -> bool {
        let open = self.is_open(&self.own) || self.vips.iter().any(|vip| self.is_open(vip));
        !open || (tries >= PATIENCE && self.is_silent())
    }

    /// What it says of the VIPs: how many it sends to us, or which one elsewhere.
    fn verdict(&self) -> Result<usize, String> {
        let neighbour = self.neighbour;
        // Silence counts beside an answer of the same moment only: pings may be lost, or too many.
        let answers = self.answered == Some(self.tried);
        let mut ours = 0;
        for Ping { from, fate } in &self.vips {
            match *fate {
                Fate::Answered(hops) if self.is_detour(hops) => {
                    return Err(format!(
                        "{neighbour} answers pings from {from} by way of another machine: it sends there \
                         what is for that address"
                    ));
                }
                Fate::Sent if answers => {
                    return Err(format!(
                        "{neighbour} answers pings from {}, and none from {from}: it sends elsewhere what \
                         is for that address",
                        self.own.from
                    ));
                }
                Fate::Answered(_) => ours += 1,
                Fate::Kept | Fate::Sent | Fate::Translated => {}
            }
        }
        Ok(ours)
    }
}

/// Pings to neighbours from an address of this node, and from VIPs in the same network.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Begins each payload, so that answers are known to be ours.
    cookie: u64,
    asked: Vec<Asked>,
}

impl Survey {
    /// Which of `neighbours` can be asked about which of `addresses`, from those `links`. Of more than
    /// [`VIPS_MAX`] addresses in a network those from the one numbered `first` on are asked about.
    #[must_use]
    pub fn new(
        cookie: u64,
        links: &[Link],
        addresses: &[IpAddr],
        first: usize,
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
                let first = first % vips.len();
                vips.rotate_left(first);
                vips.truncate(VIPS_MAX);
            }
            let ping = |from| Ping { from, fate: Fate::Kept };
            asked.push(Asked {
                neighbour,
                own: ping(link.address),
                tried: 0,
                answered: None,
                vips: vips.into_iter().map(ping).collect(),
            });
        }
        Self { cookie, asked }
    }

    /// Whether nothing more is to be expected after so many tries; at once if there is nobody to ask.
    #[must_use]
    pub fn is_settled(&self, tries: u32) -> bool {
        self.asked.iter().all(|asked| asked.is_settled(tries))
    }

    /// What is to be sent after so many tries: to whom, and the packet from its IP header on. `send` says
    /// whether it went out.
    pub fn ask(&mut self, tries: u32, mut send: impl FnMut(IpAddr, &[u8]) -> bool) {
        let cookie = self.cookie;
        for (at, asked) in self.asked.iter_mut().enumerate() {
            if asked.is_settled(tries) {
                continue;
            }
            let neighbour = asked.neighbour;
            let mut sent = |number, ping: &mut Ping| {
                let place = Place { at, number, tries };
                if send(neighbour, &packet(cookie, place, ping.from, neighbour))
                    && ping.fate == Fate::Kept
                {
                    ping.fate = Fate::Sent;
                }
            };
            let open: Vec<bool> = asked.vips.iter().map(|vip| asked.is_open(vip)).collect();
            for ((number, vip), open) in (1..).zip(&mut asked.vips).zip(open) {
                if open {
                    sent(number, vip);
                }
            }
            // Behind them: if so many pings are too many, this one is too.
            sent(0, &mut asked.own);
            asked.tried = tries;
        }
    }

    /// Somebody's packet, from its IP header on. Anything but an answer to one of ours changes nothing.
    pub fn hear(&mut self, packet: &[u8]) {
        let Some(reply) = Reply::read(packet) else { return };
        let Some((cookie, Place { at, number, tries })) = split(reply.payload) else { return };
        if cookie != self.cookie {
            return;
        }
        let Some(asked) = self.asked.get_mut(at).filter(|a| a.neighbour == reply.from) else {
            return;
        };
        let ping = match number.checked_sub(1) {
            None => &mut asked.own,
            Some(number) => match asked.vips.get_mut(number) {
                Some(vip) => vip,
                None => return,
            },
        };
        ping.fate = match ping.fate {
            Fate::Translated => Fate::Translated,
            _ if reply.to != ping.from => Fate::Translated,
            Fate::Answered(hops) => Fate::Answered(hops.max(reply.hops)),
            Fate::Kept | Fate::Sent => Fate::Answered(reply.hops),
        };
        if number == 0 {
            asked.answered = asked.answered.max(Some(tries));
        }
    }

    /// Those who have answered nothing at all.
    pub fn silent(&self) -> impl Iterator<Item = IpAddr> {
        self.asked.iter().filter(|asked| asked.is_silent()).map(|asked| asked.neighbour)
    }

    /// What is known in the end: who sends to us, in words, or none if nobody says anything.
    ///
    /// # Errors
    /// Who answers this node and not one of its VIPs, or that by way of somebody else: it sends elsewhere
    /// what is for that.
    pub fn verdict(&self) -> Result<Option<String>, String> {
        let mut good = Vec::new();
        for asked in &self.asked {
            if asked.verdict()? > 0 {
                good.push(asked.neighbour.to_string());
            }
        }
        let who = good.join(", ");
        Ok((!good.is_empty()).then(|| format!("pings from the VIPs are answered to us by {who}")))
    }
}

/// Which ping it is: of which neighbour, from which address (0: the node's own), in which try.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    number: usize,
    tries: u32,
}

/// An echo request (RFC 792, RFC 4443 section 4.1).
fn packet(cookie: u64, place: Place, from: IpAddr, to: IpAddr) -> Vec<u8> {
    // All are far below the bound: 256 targets at most, a few addresses, a few tries.
    let [at, number, tries] = [place.at as u16, place.number as u16, place.tries as u16];
    let (id, sequence) = (cookie as u16, tries << 8 | number);
    let mut payload = [0; PAYLOAD];
    payload[..8].copy_from_slice(&cookie.to_be_bytes());
    for (to, value) in payload[8..].chunks_exact_mut(2).zip([at, number, tries]) {
        to.copy_from_slice(&value.to_be_bytes());
    }
    let mut packet = Vec::new();
    let written = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL)
            .icmpv4_echo_request(id, sequence)
            .write(&mut packet, &payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL)
            .icmpv6_echo_request(id, sequence)
            .write(&mut packet, &payload),
        _ => return packet,
    };
    // So few bytes are not too long, and memory can be written.
    debug_assert!(written.is_ok());
    packet
}

/// The cookie, and which ping it is.
fn split(payload: &[u8]) -> Option<(u64, Place)> {
    let (cookie, rest) = payload.split_first_chunk()?;
    let mut values = rest.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (at, number, tries) = (values.next()?, values.next()?, values.next()?);
    let place = Place { at: at.into(), number: number.into(), tries: tries.into() };
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
mod tests;
