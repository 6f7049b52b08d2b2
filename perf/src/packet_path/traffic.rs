//! The packets: TCP without options in the smallest frames of their family.

use dataplane::address::{Address, Mac};
use dataplane::wire::checksum;
use dataplane::wire::packet::{Packet, TcpFlags};

/// Bytes of the Ethernet header.
const ETHERNET: usize = 14;
/// Bytes that are written for each packet: five times 16, a little more than the largest frame.
const COPY: usize = 80;

/// Address family.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Family {
    /// IPv4: 60 bytes without the frame check sequence, which is the least Ethernet has.
    V4,
    /// IPv6: 74 bytes, the least a TCP segment takes.
    V6,
}

/// Whose address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A client; 2^18 of them, each with as many ports as it takes.
    Client,
    /// The one VIP.
    Vip,
    /// A real server.
    Real,
    /// A local address of full NAT.
    Local,
    /// The data plane's own.
    Own,
}

/// Bits of a connection's number that choose the client; the rest choose its port.
const CLIENT_BITS: u32 = 18;

impl Family {
    /// The `number`-th address of a role.
    pub(crate) fn address(self, role: Role, number: u32) -> Address {
        let (base, prefix) = match role {
            Role::Client => (0x0a00_0100, 0x2001_0db8_0001_u128),
            Role::Vip => (0xc000_020a, 0x2001_0db8_0002),
            Role::Real => (0xac10_000a, 0x2001_0db8_0003),
            Role::Local => (0xac11_0001, 0x2001_0db8_0004),
            Role::Own => (0xac12_0001, 0x2001_0db8_0005),
        };
        match self {
            Self::V4 => Address::v4(base + number),
            Self::V6 => Address::from_bits(prefix << 80 | u128::from(base + number)),
        }
    }

    /// Client address and port of a connection.
    pub(crate) fn client(self, connection: u32) -> (Address, u16) {
        let address = self.address(Role::Client, connection & ((1 << CLIENT_BITS) - 1));
        (address, 1024 + (connection >> CLIENT_BITS) as u16)
    }

    const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    const fn frame(self) -> usize {
        match self {
            Self::V4 => 60,
            Self::V6 => 74,
        }
    }
}

/// Both ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Who sent it.
    pub(crate) source: (Address, u16),
    /// Whom to.
    pub(crate) destination: (Address, u16),
}

impl Ends {
    /// Of a packet.
    pub(crate) fn of(packet: &Packet) -> Self {
        Self {
            source: (packet.source, packet.source_port),
            destination: (packet.destination, packet.destination_port),
        }
    }

    /// Of an answer to it.
    pub(crate) fn reverse(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// What distinguishes the packets of one template. Sixteen bytes, so that reading them in order
/// costs a quarter of a cache line a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    ip_checksum: u16,
    tcp_checksum: u16,
}

impl Patch {
    /// Low bits of the client's address, and its port, of a packet that a client sends.
    #[inline(always)]
    pub(crate) fn client(&self) -> (u32, u16) {
        (self.source, self.source_port)
    }
}

/// The packets of one direction and kind, but for what a [`Patch`] holds.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: [u8; COPY],
    family: Family,
    source: Address,
    destination: Address,
}

impl Template {
    /// Packets with these flags from hosts like `ends.source` to hosts like `ends.destination`:
    /// the same but for the last 32 bits of their addresses.
    pub(crate) fn new(family: Family, flags: u8, link: (Mac, Mac), ends: Ends) -> Self {
        let mut bytes = [0; COPY];
        let (from, to) = link;
        bytes[..6].copy_from_slice(&to.0);
        bytes[6..12].copy_from_slice(&from.0);
        let ip = &mut bytes[ETHERNET..];
        match family {
            Family::V4 => {
                let total_len = (Family::V4.frame() - ETHERNET) as u16;
                ip[0] = 0x45;
                ip[2..4].copy_from_slice(&total_len.to_be_bytes());
                ip[6] = 0x40;
                ip[8] = 64;
                ip[9] = 6;
            }
            Family::V6 => {
                ip[0] = 0x60;
                ip[4..6].copy_from_slice(&20_u16.to_be_bytes());
                ip[6] = 6;
                ip[7] = 64;
                ip[8..24].copy_from_slice(&ends.source.0.octets());
                ip[24..40].copy_from_slice(&ends.destination.0.octets());
            }
        }
        let kind: u16 = if family == Family::V4 { 0x0800 } else { 0x86dd };
        bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        let tcp = &mut bytes[ETHERNET + family.header()..];
        tcp[7] = 1;
        tcp[12] = 5 << 4;
        tcp[13] = flags;
        if flags & TcpFlags::ACK != 0 {
            tcp[11] = 1;
        }
        tcp[14..16].copy_from_slice(&0xffff_u16.to_be_bytes());
        Self { bytes, family, source: ends.source.0, destination: ends.destination.0 }
    }

    /// Bytes of a frame.
    pub(crate) fn len(&self) -> usize {
        self.family.frame()
    }

    /// The source address with these low bits.
    #[inline(always)]
    pub(crate) fn source(&self, low: u32) -> Address {
        Address::from_bits(self.source.bits() >> 32 << 32 | u128::from(low))
    }

    /// The patch that makes a packet between these ends, checksums right.
    pub(crate) fn patch(&self, ends: Ends) -> Patch {
        let low = |address: Address| address.bits() as u32;
        let mut patch = Patch {
            source: low(ends.source.0),
            destination: low(ends.destination.0),
            source_port: ends.source.1,
            destination_port: ends.destination.1,
            ip_checksum: 0,
            tcp_checksum: 0,
        };
        debug_assert!(self.source.bits() >> 32 == ends.source.0.bits() >> 32);
        debug_assert!(self.destination.bits() >> 32 == ends.destination.0.bits() >> 32);
        let mut bytes = [0; COPY];
        self.write(&patch, &mut bytes);
        let (ip, rest) = bytes[ETHERNET..self.len()].split_at(self.family.header());
        if self.family == Family::V4 {
            patch.ip_checksum = checksum::plain(ip);
        }
        patch.tcp_checksum = checksum::transport(ends.source.0, ends.destination.0, 6, rest);
        patch
    }

    /// Writes a packet to the beginning of a buffer (and some zeros behind it).
    #[inline(always)]
    pub(crate) fn write(&self, patch: &Patch, buffer: &mut [u8; COPY]) {
        *buffer = self.bytes;
        let (addresses, tcp) = match self.family {
            Family::V4 => {
                buffer[24..26].copy_from_slice(&patch.ip_checksum.to_be_bytes());
                ([26, 30], 34)
            }
            Family::V6 => ([34, 50], 54),
        };
        buffer[addresses[0]..addresses[0] + 4].copy_from_slice(&patch.source.to_be_bytes());
        buffer[addresses[1]..addresses[1] + 4].copy_from_slice(&patch.destination.to_be_bytes());
        buffer[tcp..tcp + 2].copy_from_slice(&patch.source_port.to_be_bytes());
        buffer[tcp + 2..tcp + 4].copy_from_slice(&patch.destination_port.to_be_bytes());
        buffer[tcp + 16..tcp + 18].copy_from_slice(&patch.tcp_checksum.to_be_bytes());
    }
}

/// Numbers without a pattern (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Puts a slice into an order of which every one is as likely.
    pub(crate) fn shuffle<T>(&mut self, slice: &mut [T]) {
        for i in (1..slice.len()).rev() {
            let other = (u128::from(self.next()) * (i as u128 + 1)) >> 64;
            slice.swap(i, other as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::wire::packet;

    #[test]
    fn packets_are_parsed_with_right_checksums() {
        for family in [Family::V4, Family::V6] {
            let vip = (family.address(Role::Vip, 0), 80);
            let ends = |i| Ends { source: family.client(i), destination: vip };
            let template =
                Template::new(family, TcpFlags::ACK, (Mac([2; 6]), Mac([4; 6])), ends(0));
            for i in [0, 1, 77_777, 9_999_999] {
                let mut buffer = [0xa5; COPY];
                template.write(&template.patch(ends(i)), &mut buffer);
                let frame = &buffer[..template.len()];
                let packet = packet::parse(frame).unwrap();
                assert_eq!(Ends::of(&packet), ends(i));
                let segment = &frame[usize::from(packet.transport)..usize::from(packet.end)];
                let sum = checksum::transport(packet.source, packet.destination, 6, segment);
                assert_eq!(sum, 0);
            }
        }
    }

    #[test]
    fn connections_have_clients_of_their_own() {
        let mut all: Vec<_> = (0..1 << 20).map(|i| Family::V4.client(i)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1 << 20);
    }
}
