//! One connection as 80 bytes, big-endian: what replication carries from node to node.
//!
//! It names everything by what both nodes know (addresses, names), never by a number that one of
//! them has given: interface names, workers and table sizes may differ between them.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | operation: 1 upsert, 2 remove |
//! | 1 | state ([`Record::state`]); the top bit: the real's SYN-ACK was seen |
//! | 2 | IP protocol number, 6 or 17 |
//! | 3 | 0 |
//! | 4–9 | MAC address that the client's packets came from; zero: unknown |
//! | 10–11 | segment it came in on ([`segment_tag`]); 0: unknown |
//! | 12–15 | service: [`tag`] of its name |
//! | 16–31 | client address (IPv4 mapped into IPv6, as all addresses here) |
//! | 32–47 | VIP |
//! | 48–63 | real |
//! | 64–65 | client port |
//! | 66–67 | port of the VIP |
//! | 68–69 | port of the real |
//! | 70–71 | local port of full NAT; 0: none |
//! | 72–75 | local address of full NAT: [`tag`] of its 16 bytes; 0: none |
//! | 76–79 | origin: entry's generation 16, tick opened 16 |

use std::net::{IpAddr, Ipv6Addr};

/// Size of a record.
pub const RECORD_BYTES: usize = 80;

/// What is to be done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is there, and like this.
    Upsert,
    /// It has ended.
    Remove,
}

/// A connection, or a client's tie to a real (persistence), as the peer has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What is to be done.
    pub operation: Operation,
    /// State: 4 `ESTABLISHED`, 5 `FIN_WAIT`, 6 `CLOSE_WAIT`, 7 `LAST_ACK`, 8 `TIME_WAIT`, 9 `CLOSE`,
    /// 11 `UDP`, 12 `TEMPLATE`; others are not replicated.
    pub state: u8,
    /// Whether the real's SYN-ACK was seen.
    pub synack: bool,
    /// IP protocol number, 6 or 17.
    pub protocol: u8,
    /// MAC address that the client's packets came from; zero if unknown.
    pub mac: [u8; 6],
    /// [`segment_tag`] of the interface they came in on; 0 if unknown.
    pub segment: u16,
    /// [`tag`] of the service's name.
    pub service: u32,
    /// Client; of a template its address under the mask.
    pub client: IpAddr,
    /// VIP; of a template as the table has it.
    pub vip: IpAddr,
    /// Real.
    pub real: IpAddr,
    /// Client's port; 0 in a template.
    pub client_port: u16,
    /// Port of the VIP; 0 in a template.
    pub vip_port: u16,
    /// Port of the real.
    pub real_port: u16,
    /// Full NAT: [`tag`] of the local address's bytes, and local port.
    pub local: Option<(u32, u16)>,
    /// Tells lives of one key apart, so that the removal of an old one does not end a new one: low 16
    /// bits of the generation of the entry and of the tick in which it was opened, at the sender.
    pub origin: u32,
}

impl Record {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        let (local, local_port) = self.local.unwrap_or((0, 0));
        out[0] = match self.operation {
            Operation::Upsert => 1,
            Operation::Remove => 2,
        };
        out[1] = self.state & 0x7f | u8::from(self.synack) << 7;
        out[2] = self.protocol;
        out[4..10].copy_from_slice(&self.mac);
        out[10..12].copy_from_slice(&self.segment.to_be_bytes());
        out[12..16].copy_from_slice(&self.service.to_be_bytes());
        out[16..32].copy_from_slice(&octets(self.client));
        out[32..48].copy_from_slice(&octets(self.vip));
        out[48..64].copy_from_slice(&octets(self.real));
        out[64..66].copy_from_slice(&self.client_port.to_be_bytes());
        out[66..68].copy_from_slice(&self.vip_port.to_be_bytes());
        out[68..70].copy_from_slice(&self.real_port.to_be_bytes());
        out[70..72].copy_from_slice(&local_port.to_be_bytes());
        out[72..76].copy_from_slice(&local.to_be_bytes());
        out[76..80].copy_from_slice(&self.origin.to_be_bytes());
        out
    }

    /// Reads one; `None` if it means nothing.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let two = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let four = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let operation = match bytes[0] {
            1 => Operation::Upsert,
            2 => Operation::Remove,
            _ => return None,
        };
        let state = bytes[1] & 0x7f;
        let known = matches!(state, 4..=9 | 11 | 12) && matches!(bytes[2], 6 | 17) && bytes[3] == 0;
        let mut mac = [0; 6];
        mac.copy_from_slice(&bytes[4..10]);
        let local = match (four(72), two(70)) {
            (0, 0) => None,
            (_, 0) => return None,
            (tag, port) => Some((tag, port)),
        };
        known.then_some(Self {
            operation,
            state,
            synack: bytes[1] & 0x80 != 0,
            protocol: bytes[2],
            mac,
            segment: two(10),
            service: four(12),
            client: address(bytes, 16),
            vip: address(bytes, 32),
            real: address(bytes, 48),
            client_port: two(64),
            vip_port: two(66),
            real_port: two(68),
            local,
            origin: four(76),
        })
    }
}

/// A name or an address as a number that both nodes come to: FNV-1a, 32 bits, never 0.
#[must_use]
pub const fn tag(bytes: &[u8]) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    if hash == 0 { 1 } else { hash }
}

/// The network that an interface is on, as a number that both nodes come to: [`tag`] of the 16 bytes
/// of its prefix and of its length, folded to 16 bits; never 0.
#[must_use]
pub fn segment_tag(network: IpAddr, length: u8) -> u16 {
    let mut bytes = [0; 17];
    bytes[..16].copy_from_slice(&octets(network));
    bytes[16] = length;
    let tag = tag(&bytes);
    ((tag >> 16) as u16 ^ tag as u16).max(1)
}

/// Sixteen bytes of an address, as [`Record`] has them.
#[must_use]
pub const fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(bytes: &[u8; RECORD_BYTES], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    let v6 = Ipv6Addr::from(octets);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            operation: Operation::Upsert,
            state: 4,
            synack: true,
            protocol: 6,
            mac: [2, 0, 0, 0, 0, 7],
            segment: 0x1234,
            service: tag(b"web"),
            client: "203.0.113.9".parse().unwrap(),
            vip: "2001:db8::10".parse().unwrap(),
            real: "10.0.1.2".parse().unwrap(),
            client_port: 40_000,
            vip_port: 80,
            real_port: 8080,
            local: Some((7, 1024)),
            origin: 0xdead_beef,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_and_stands_where_the_table_says() {
        let bytes = record().encode();
        assert_eq!(Record::decode(&bytes), Some(record()));
        assert_eq!((bytes[0], bytes[1], bytes[2]), (1, 0x84, 6));
        assert_eq!(bytes[26..32], [0xff, 0xff, 203, 0, 113, 9]);
        assert_eq!(bytes[64..72], [0x9c, 0x40, 0, 80, 0x1f, 0x90, 4, 0]);
        let removed = Record { operation: Operation::Remove, local: None, ..record() };
        assert_eq!(Record::decode(&removed.encode()), Some(removed));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (at, value) in [(0, 0), (0, 3), (1, 3), (1, 10), (1, 13), (2, 1), (3, 1)] {
            let mut bytes = record().encode();
            bytes[at] = value;
            assert_eq!(Record::decode(&bytes), None, "byte {at} = {value}");
        }
    }

    #[test]
    fn tags_are_those_that_were_published() {
        assert_eq!(tag(b""), 0x811c_9dc5);
        assert_eq!(tag(b"a"), 0xe40c_292c);
        assert_ne!(segment_tag("10.0.0.0".parse().unwrap(), 24), 0);
    }
}
