//! `type = "ntp"`: a time server is synchronised and its time is right (RFC 5905).
//!
//! One packet of 48 bytes each way. The transmit timestamp of the request is random: the answer
//! must repeat it, and it tells nobody our time.

use std::time::Duration;

use super::Outcome;

/// Bytes of a packet without extensions.
pub const PACKET: usize = 48;
/// Seconds from 1900, where NTP counts from, to 1970.
const UNIX: u64 = 2_208_988_800;
/// Leap indicator, version 4, mode 3 (client).
const CLIENT: u8 = 0b00_100_011;

/// What is demanded of the time server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Highest stratum, 1 to 15.
    pub stratum: u8,
    /// Furthest that its time may be from ours; `None` for any.
    pub offset: Option<Duration>,
}

/// The request with `cookie` as its transmit timestamp.
#[must_use]
pub fn request(cookie: [u8; 8]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    packet[0] = CLIENT;
    packet[40..].copy_from_slice(&cookie);
    packet
}

impl Settings {
    /// Judges a packet that came at `received`, the request having left at `sent` (both since
    /// 1970). `None` if it does not answer our request.
    #[must_use]
    pub fn judge(
        &self,
        cookie: [u8; 8],
        packet: &[u8],
        sent: Duration,
        received: Duration,
    ) -> Option<Outcome> {
        let packet: &[u8; PACKET] = packet.first_chunk()?;
        // Mode 4 (server), and our cookie as its origin timestamp.
        if packet[0] & 7 != 4 || packet[24..32] != cookie {
            return None;
        }
        let (leap, stratum) = (packet[0] >> 6, packet[1]);
        if stratum == 0 && packet[12..16] != [0; 4] {
            // A "kiss of death" (§7.4): four letters say why.
            let code = packet[12..16].escape_ascii();
            return Some(Outcome::down(format!("the server sends us away: {code}")));
        }
        if leap == 3 || !(1..16).contains(&stratum) {
            return Some(Outcome::down(format!("not synchronised (stratum {stratum})")));
        }
        if stratum > self.stratum {
            let allowed = self.stratum;
            return Some(Outcome::down(format!("stratum {stratum}, at most {allowed} is allowed")));
        }
        let (arrived, left) = (stamp(packet, 32), stamp(packet, 40));
        if arrived == 0 || left == 0 {
            return Some(Outcome::down("the answer holds no time"));
        }
        let offset = offset(fixed(sent), arrived, left, fixed(received));
        if let Some(allowed) = self.offset
            && offset.unsigned_abs() > allowed.as_nanos()
        {
            let seconds = offset as f64 / 1e9;
            let reason = format!("its time differs from ours by {seconds:+.3} s");
            return Some(Outcome::down(reason));
        }
        Some(Outcome::up())
    }
}

fn stamp(packet: &[u8; PACKET], at: usize) -> u64 {
    packet[at..].first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
}

/// A time since 1970 as an NTP timestamp: 32 bits of seconds, modulo an era, and of fraction.
fn fixed(time: Duration) -> u64 {
    let seconds = time.as_secs().wrapping_add(UNIX) << 32;
    seconds | ((u64::from(time.subsec_nanos()) << 32) / 1_000_000_000)
}

/// Nanoseconds that the server is ahead of us (§8): the differences are of times near each other,
/// so that eras need not be known.
fn offset(sent: u64, arrived: u64, left: u64, received: u64) -> i128 {
    let signed = |later: u64, earlier: u64| i128::from(later.wrapping_sub(earlier).cast_signed());
    let halves = signed(arrived, sent) + signed(left, received);
    (halves * 1_000_000_000 / 2) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: [u8; 8] = *b"12345678";
    const NOW: Duration = Duration::from_millis(1_700_000_000_250);

    /// An answer of a server whose clock is `ahead` milliseconds ahead.
    fn answer(ahead: i64) -> [u8; PACKET] {
        let mut packet = [0; PACKET];
        packet[0] = 0b00_100_100;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&COOKIE);
        let time = Duration::from_millis(NOW.as_millis() as u64).as_millis() as i64 + ahead;
        let time = fixed(Duration::from_millis(time as u64)).to_be_bytes();
        packet[32..40].copy_from_slice(&time);
        packet[40..48].copy_from_slice(&time);
        packet
    }

    fn judge(settings: &Settings, packet: &[u8]) -> Option<Outcome> {
        settings.judge(COOKIE, packet, NOW, NOW)
    }

    fn strict() -> Settings {
        Settings { stratum: 3, offset: Some(Duration::from_millis(100)) }
    }

    #[test]
    fn a_synchronised_server_with_the_right_time_passes() {
        assert_eq!(request(COOKIE)[..4], [0x23, 0, 0, 0]);
        for ahead in [-99, 0, 99] {
            assert_eq!(judge(&strict(), &answer(ahead)), Some(Outcome::up()), "{ahead}");
        }
        // The time on the way, the same in both directions, is no offset.
        let later = NOW + Duration::from_secs(2);
        let sent = NOW - Duration::from_secs(2);
        assert_eq!(strict().judge(COOKIE, &answer(0), sent, later), Some(Outcome::up()));
    }

    #[test]
    fn a_wrong_clock_is_named_with_its_sign() {
        for (ahead, shown) in [(-1500, "-1.500 s"), (101, "+0.101 s"), (864_000_000, "+864000.000")]
        {
            let outcome = judge(&strict(), &answer(ahead)).unwrap();
            assert!(outcome.reason().unwrap().contains(shown), "{outcome:?}");
            let any = Settings { stratum: 3, offset: None };
            assert_eq!(judge(&any, &answer(ahead)), Some(Outcome::up()));
        }
    }

    #[test]
    fn servers_without_time_are_down() {
        let mut packet = answer(0);
        for (leap, stratum, part) in [
            (3, 2, "not synchronised"),
            (3, 0, "not synchronised"),
            (0, 0, "stratum 0"),
            (0, 16, "16"),
            (0, 255, "255"),
            (0, 4, "at most 3"),
        ] {
            packet[0] = (leap << 6) | 0b100_100;
            packet[1] = stratum;
            let outcome = judge(&strict(), &packet).unwrap();
            assert!(outcome.reason().unwrap().contains(part), "{outcome:?}");
        }
        packet[..2].copy_from_slice(&[0xe4, 0]);
        packet[12..16].copy_from_slice(b"RA\x1b\0");
        let outcome = judge(&strict(), &packet).unwrap();
        assert_eq!(outcome.reason(), Some(r"the server sends us away: RA\x1b\x00"));
        let mut packet = answer(0);
        packet[40..].fill(0);
        assert_eq!(judge(&strict(), &packet).unwrap().reason(), Some("the answer holds no time"));
    }

    #[test]
    fn what_does_not_answer_us_is_no_answer() {
        let mut packet = answer(0);
        assert_eq!(judge(&strict(), &packet[..47]), None);
        assert_eq!(judge(&strict(), &[]), None);
        packet[24] ^= 1;
        assert_eq!(judge(&strict(), &packet), None);
        assert_eq!(judge(&strict(), &request(COOKIE)), None);
    }
}
