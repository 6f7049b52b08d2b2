//! ICMP errors about packets that we had put into a tunnel: what they quote starts with our own outer
//! header.

use crate::address::Address;

/// What such an error tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelError {
    /// The other end of the tunnel: the real.
    pub real: Address,
    /// The MTU of the path, if that is what the error is about (RFC 1191 section 4, RFC 4443
    /// section 3.2).
    pub mtu: Option<u16>,
}

/// Reads an ICMP (`v4`) or ICMPv6 error from its type byte on; none if it does not quote a packet of
/// ours that carries IP in IP.
#[must_use]
pub fn parse(icmp: &[u8], v4: bool) -> Option<TunnelError> {
    let (head, quote) = icmp.split_first_chunk::<8>()?;
    let (protocol, real, too_big) = if v4 {
        let header = quote.first_chunk::<20>()?;
        let [a, b, c, d] = [header[16], header[17], header[18], header[19]];
        let real = Address::v4(u32::from_be_bytes([a, b, c, d]));
        let needed = head[0] == 3 && head[1] == 4;
        (header[9], real, needed.then(|| u32::from(u16::from_be_bytes([head[6], head[7]]))))
    } else {
        let header = quote.first_chunk::<40>()?;
        let mut real = [0; 16];
        real.copy_from_slice(&header[24..]);
        let mtu = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        // Of a packet that left in pieces the fragment header comes first.
        let next = if header[6] == 44 { *quote.get(40)? } else { header[6] };
        (next, Address::v6(real), (head[0] == 2).then_some(mtu))
    };
    if !matches!(protocol, 4 | 41) {
        return None;
    }
    // RFC 1191 section 7.1: an old router says 0. Nothing below the minimum is believed.
    let least = if v4 { 576 } else { 1280 };
    let mtu = too_big.map(|mtu| u16::try_from(mtu.max(least)).unwrap_or(u16::MAX));
    Some(TunnelError { real, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_a_tunnel_packet_names_real_and_mtu() {
        let mut icmp = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 4, 0, 0];
        icmp.extend([10, 0, 0, 1, 10, 0, 0, 7, 0x45, 0]);
        let real = Address::v4(0x0a00_0007);
        assert_eq!(parse(&icmp, true), Some(TunnelError { real, mtu: Some(1400) }));
        icmp[6] = 0;
        assert_eq!(parse(&icmp, true).unwrap().mtu, Some(576), "120 is not believed");
        icmp[17] = 6;
        assert_eq!(parse(&icmp, true), None, "a TCP packet of ours is no tunnel");
        for length in 0..28 {
            assert_eq!(parse(&icmp[..length], true), None);
        }
    }
}
