//! What every packet of a flow carries so that its receiver can judge it.
//!
//! Pure. The same layout is written and read by the programs in `bpf/` (`bpf/stamp.h`).
//!
//! A 64-byte TCP frame over IPv4 has six bytes of payload, so a TCP stamp lies in the header fields
//! that no forwarder rewrites (sequence and acknowledgement number) and in those six bytes:
//!
//! | field | TCP | UDP |
//! |---|---|---|
//! | flow | acknowledgement number | payload 0..4 |
//! | sequence | sequence number | payload 4..8 |
//! | time | payload 0..4 | payload 8..12 |
//! | check | payload 4..6 | payload 12..14 |
//!
//! All big-endian. Only data packets are stamped; a handshake or the closing of a connection is not.

/// Bytes of TCP payload that hold a stamp.
pub const TCP_PAYLOAD: usize = 6;
/// Bytes of UDP payload that hold a stamp.
pub const UDP_PAYLOAD: usize = 14;
/// Nanoseconds of one unit of [`Stamp::time`]: 32 bits last 68 seconds.
pub const TIME_UNIT: u64 = 16;

/// Which way a packet goes. Part of the check, so that a reflected request is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Client to real server.
    Request,
    /// Real server to client.
    Reply,
}

/// Number, order and time of a packet in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the flow ([`crate::flow`]); the receiver compares it with the addresses.
    pub flow: u32,
    /// 1, 2, 3… for each way of a flow; wraps.
    pub sequence: u32,
    /// When the packet was due (not when it was sent: that would hide the generator's own delay,
    /// and with it every stall it caught), in units of [`TIME_UNIT`] of `CLOCK_BOOTTIME`; wraps.
    pub time: u32,
}

impl Stamp {
    /// The check of a stamp in a run with this key: a keyed mix of everything, folded to 16 bits.
    ///
    /// Together with the transport checksum, which the receiver verifies too, it tells our packets
    /// from others' and whole ones from damaged ones.
    #[must_use]
    pub fn check(self, key: u32, way: Way) -> u16 {
        // Multiplications and shifts only: the kernel's BPF machine computes the same.
        let mut mix = key ^ self.flow.wrapping_mul(0x9e37_79b1);
        mix = (mix ^ mix >> 15).wrapping_mul(0x85eb_ca77) ^ self.sequence;
        mix = (mix ^ mix >> 13).wrapping_mul(0xc2b2_ae3d) ^ self.time;
        mix = (mix ^ mix >> 16).wrapping_mul(0x27d4_eb2f) ^ way as u32;
        mix = (mix ^ mix >> 15).wrapping_mul(0x1656_67b1);
        (mix >> 16) as u16 ^ mix as u16
    }

    /// Writes it for TCP: `header` is the TCP header (at least 20 bytes), `payload` what follows
    /// the options. False, and nothing written, if either is too short.
    #[must_use]
    pub fn write_tcp(self, key: u32, way: Way, header: &mut [u8], payload: &mut [u8]) -> bool {
        let (Some(numbers), Some(rest)) = (header.get_mut(4..12), payload.get_mut(..TCP_PAYLOAD))
        else {
            return false;
        };
        numbers[..4].copy_from_slice(&self.sequence.to_be_bytes());
        numbers[4..].copy_from_slice(&self.flow.to_be_bytes());
        rest[..4].copy_from_slice(&self.time.to_be_bytes());
        rest[4..].copy_from_slice(&self.check(key, way).to_be_bytes());
        true
    }

    /// Writes it for UDP. False, and nothing written, if the payload is too short.
    #[must_use]
    pub fn write_udp(self, key: u32, way: Way, payload: &mut [u8]) -> bool {
        let Some(payload) = payload.get_mut(..UDP_PAYLOAD) else { return false };
        payload[..4].copy_from_slice(&self.flow.to_be_bytes());
        payload[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        payload[8..12].copy_from_slice(&self.time.to_be_bytes());
        payload[12..].copy_from_slice(&self.check(key, way).to_be_bytes());
        true
    }

    /// Reads the stamp of a TCP packet; none if it has none, or a damaged one.
    #[must_use]
    pub fn read_tcp(key: u32, way: Way, header: &[u8], payload: &[u8]) -> Option<Self> {
        let stamp =
            Self { flow: word(header, 8)?, sequence: word(header, 4)?, time: word(payload, 0)? };
        (half(payload, 4)? == stamp.check(key, way)).then_some(stamp)
    }

    /// Reads the stamp of a UDP packet; none if it has none, or a damaged one.
    #[must_use]
    pub fn read_udp(key: u32, way: Way, payload: &[u8]) -> Option<Self> {
        let stamp =
            Self { flow: word(payload, 0)?, sequence: word(payload, 4)?, time: word(payload, 8)? };
        (half(payload, 12)? == stamp.check(key, way)).then_some(stamp)
    }
}

/// A moment of `CLOCK_BOOTTIME` in nanoseconds as [`Stamp::time`].
#[must_use]
pub fn time(nanos: u64) -> u32 {
    (nanos / TIME_UNIT) as u32
}

/// Nanoseconds from a stamp's time to now; 0 if the stamp is of the future (clocks of two cores
/// differ by some nanoseconds), taken to be one that is less than half a turn ahead.
#[must_use]
pub fn age(stamped: u32, now: u64) -> u64 {
    let units = time(now).wrapping_sub(stamped);
    if units > u32::MAX / 2 { 0 } else { u64::from(units) * TIME_UNIT }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { flow: 99_999, sequence: 7, time: 0xfedc_ba98 };

    #[test]
    fn what_was_written_is_read_and_a_changed_bit_is_noticed() {
        let (mut header, mut payload) = ([0; 20], [0; TCP_PAYLOAD]);
        assert!(STAMP.write_tcp(5, Way::Request, &mut header, &mut payload));
        assert_eq!(Stamp::read_tcp(5, Way::Request, &header, &payload), Some(STAMP));
        assert_eq!(Stamp::read_tcp(6, Way::Request, &header, &payload), None, "another run");
        assert_eq!(Stamp::read_tcp(5, Way::Reply, &header, &payload), None, "reflected");
        let mut packet = [0; UDP_PAYLOAD];
        assert!(STAMP.write_udp(5, Way::Reply, &mut packet));
        assert_eq!(Stamp::read_udp(5, Way::Reply, &packet), Some(STAMP));
        for bit in 0..UDP_PAYLOAD * 8 {
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read_udp(5, Way::Reply, &packet), None, "bit {bit}");
            packet[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn short_packets_have_no_stamp() {
        assert!(!STAMP.write_udp(0, Way::Request, &mut [0; UDP_PAYLOAD - 1]));
        assert!(!STAMP.write_tcp(0, Way::Request, &mut [0; 20], &mut [0; TCP_PAYLOAD - 1]));
        assert_eq!(Stamp::read_udp(0, Way::Request, &[0; UDP_PAYLOAD - 1]), None);
        assert_eq!(Stamp::read_tcp(0, Way::Request, &[0; 11], &[0; TCP_PAYLOAD]), None);
    }

    #[test]
    fn time_wraps_without_a_jump_and_the_future_is_now() {
        let late = (u64::from(u32::MAX) + 1) * TIME_UNIT;
        assert_eq!(age(time(late - 160), late + 160), 320);
        assert_eq!(age(time(late + 160), late), 0);
    }
}
