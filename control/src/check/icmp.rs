//! `type = "icmp"`: the server answers a ping (RFC 792, RFC 4443).

use std::net::IpAddr;

/// Largest payload, in bytes.
pub const PAYLOAD_MAX: u16 = 1400;
/// Bytes of random data that begin each payload, by which an answer is known to be ours.
pub const COOKIE: usize = 16;
/// Bytes of the header of an echo message.
const HEADER: usize = 8;

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Bytes of payload, [`COOKIE`] to [`PAYLOAD_MAX`].
    pub size: u16,
}

/// An echo request to `to`, with its checksum if the kernel does not make it (IPv4).
#[must_use]
pub fn request(to: IpAddr, cookie: &[u8; COOKIE], size: u16) -> Vec<u8> {
    let mut message = vec![0; HEADER + usize::from(size).max(COOKIE)];
    message[0] = if to.is_ipv4() { 8 } else { 128 };
    // Id and sequence number: the kernel may write an id of its own over ours.
    message[4..8].copy_from_slice(&cookie[..4]);
    message[HEADER..HEADER + COOKIE].copy_from_slice(cookie);
    if to.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Whether `packet` is the answer to our request. `with_header`: an IPv4 header stands before the
/// message, as raw sockets deliver it.
#[must_use]
pub fn is_answer(from: IpAddr, cookie: &[u8; COOKIE], packet: &[u8], with_header: bool) -> bool {
    let skip = match packet.first() {
        Some(first) if with_header => usize::from(first & 15) * 4,
        _ => 0,
    };
    let reply = if from.is_ipv4() { 0 } else { 129 };
    let Some(message) = packet.get(skip..) else { return false };
    message.get(..2) == Some(&[reply, 0])
        && message.get(HEADER..HEADER + COOKIE) == Some(cookie.as_slice())
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    };
    // At most 700 words: no overflow.
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_request_has_the_checksum_of_the_rfc() {
        let message = request(V4, &[0xa5; COOKIE], 56);
        assert_eq!(message.len(), 64);
        assert_eq!((message[0], checksum(&message)), (8, 0));
        // RFC 1071 §3: the sum of its example is ddf2.
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(request(V6, &[0xa5; COOKIE], 0)[..4], [128, 0, 0, 0]);
        assert_eq!(request(V6, &[0xa5; COOKIE], 0).len(), 24);
    }

    #[test]
    fn only_the_echo_of_our_payload_is_an_answer() {
        let cookie = [7; COOKIE];
        for (address, reply) in [(V4, 0), (V6, 129)] {
            let mut message = request(address, &cookie, 56);
            assert!(!is_answer(address, &cookie, &message, false));
            message[0] = reply;
            assert!(is_answer(address, &cookie, &message, false));
            let mut framed = vec![0x45; 20];
            framed.extend(&message);
            assert!(is_answer(address, &cookie, &framed, true));
            framed[0] = 0x4f;
            assert!(!is_answer(address, &cookie, &framed, true));
            for end in 0..24 {
                assert!(!is_answer(address, &cookie, &message[..end], false));
            }
            assert!(!is_answer(address, &[8; COOKIE], &message, false));
        }
        assert!(!is_answer(V4, &cookie, &[0x4f], true) && !is_answer(V4, &cookie, &[], true));
    }
}
