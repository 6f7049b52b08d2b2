//! Cutting an IPv4 packet that is too large for the next link and may be cut (RFC 791 section 3.2,
//! RFC 1812 section 5.2.6).
//!
//! Runs on the worker, off the fast path: a sender that knows its path sets Don't Fragment. It works
//! on packets without options, as all are that pass the parser.

use crate::frame::Frame;
use crate::limits::FRAME_SIZE;
use crate::wire::checksum;
use crate::wire::packet::Packet;

use super::{ETHERNET, IPV4, chunk, set_word, word};

/// The More Fragments flag.
const MORE: u16 = 0x2000;
/// The bits of the offset, in units of eight bytes.
const OFFSET: u16 = 0x1fff;

/// Cuts the packet into fragments of at most `mtu` bytes: the first stays in the frame, the others
/// are made in `scratch` and shown to `emit`, Ethernet header included, from the second on. A packet
/// that fits stays whole. A fragment is cut into smaller ones of its datagram.
///
/// The packet may have been rewritten; `packet` is what the parser said of it. A transport checksum
/// covers the datagram, so it is right before it is cut or wrong for ever.
///
/// False, and nothing changed, if it is IPv6, must not be fragmented, or `mtu` has no room for eight
/// bytes of payload.
pub fn split(
    frame: &mut Frame<'_>,
    packet: &Packet,
    mtu: u16,
    scratch: &mut [u8; FRAME_SIZE],
    emit: &mut dyn FnMut(&[u8]),
) -> bool {
    if packet.ip_len() <= usize::from(mtu) {
        return true;
    }
    let room = usize::from(mtu).saturating_sub(IPV4) & !7;
    if !packet.is_v4() || packet.dont_fragment || room == 0 {
        return false;
    }
    let start = usize::from(packet.network) + IPV4;
    let Some(header) = chunk::<IPV4>(frame.bytes_mut(), packet.network) else { return false };
    let cut = word(header, 6);
    let bytes = frame.bytes();
    let (Some(head), Some(payload)) = (bytes.get(..start), bytes.get(start..packet.end.into()))
    else {
        return false;
    };
    if start != ETHERNET + IPV4 {
        return false;
    }
    for (number, piece) in payload.chunks(room).enumerate().skip(1) {
        let offset = number * room;
        let Some(place) = scratch.get_mut(..start + piece.len()) else { return false };
        place[..start].copy_from_slice(head);
        place[start..].copy_from_slice(piece);
        let last = offset + piece.len() == payload.len();
        write(place, piece.len(), place_of(cut, offset, last));
        emit(place);
    }
    // Shrinking always succeeds.
    let _ = frame.resize(start + room);
    write(frame.bytes_mut(), room, place_of(cut, 0, false));
    true
}

/// Flags and offset of a piece, `offset` bytes into what was cut.
fn place_of(cut: u16, offset: usize, last: bool) -> u16 {
    let more = if last { cut & MORE } else { MORE };
    more | ((cut & OFFSET) + (offset >> 3) as u16)
}

/// Writes length, place and checksum of a piece, keeping an error of the old checksum.
fn write(bytes: &mut [u8], len: usize, place: u16) {
    let Some(header) = chunk::<IPV4>(bytes, ETHERNET as u16) else { return };
    let update = checksum::Update::new()
        .word(word(header, 2), (IPV4 + len) as u16)
        .word(word(header, 6), place);
    set_word(header, 2, (IPV4 + len) as u16);
    set_word(header, 6, place);
    set_word(header, 10, update.apply(word(header, 10)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rewrite::testing::{Sample, assert_header, fragment_v4, on, samples};
    use crate::wire::packet::parse;

    /// Puts fragments of one datagram together; what they say must fit exactly.
    fn reassemble(mut pieces: Vec<Vec<u8>>) -> (Vec<u8>, bool) {
        pieces.sort_by_key(|piece| u16::from_be_bytes([piece[20] & 0x1f, piece[21]]));
        let mut payload = Vec::new();
        let base = usize::from(u16::from_be_bytes([pieces[0][20] & 0x1f, pieces[0][21]])) * 8;
        let mut more = true;
        for piece in pieces {
            assert_header(&piece);
            assert!(more, "a fragment behind the last one");
            let at = usize::from(u16::from_be_bytes([piece[20] & 0x1f, piece[21]])) * 8;
            assert_eq!(at - base, payload.len(), "a gap, or an overlap");
            more = piece[20] & 0x20 != 0;
            payload.extend_from_slice(&piece[34..]);
        }
        (payload, more)
    }

    fn cut(bytes: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
        let mut pieces = Vec::new();
        let mut scratch = [0; FRAME_SIZE];
        let (done, first) = on(bytes, |frame, packet| {
            split(frame, packet, mtu, &mut scratch, &mut |piece| pieces.push(piece.to_vec()))
        });
        pieces.insert(0, first);
        done.then_some(pieces)
    }

    proptest! {
        #[test]
        fn the_pieces_fit_and_make_up_the_packet(
            sample in samples().prop_filter("IPv4", |s| s.source.is_ipv4()),
            mtu in 28_u16..1600,
        ) {
            let bytes = Sample { dont_fragment: false, ..sample }.bytes();
            let pieces = cut(&bytes, mtu).unwrap();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= 14 + usize::from(mtu)));
            for piece in &pieces {
                prop_assert_eq!(&piece[..16], &bytes[..16], "Ethernet, version, TOS");
                prop_assert_eq!(&piece[18..20], &bytes[18..20], "identification");
                prop_assert_eq!(&piece[22..24], &bytes[22..24], "TTL, protocol");
                prop_assert_eq!(&piece[26..34], &bytes[26..34], "addresses");
                prop_assert!(pieces.len() == 1 || parse(piece).is_ok() || mtu < 44);
            }
            prop_assert_eq!(reassemble(pieces), (bytes[34..].to_vec(), false));
        }

        #[test]
        fn a_fragment_in_the_middle_is_cut_into_fragments_of_the_same_datagram(
            mtu in 28_u16..400, from in 1_usize..20,
        ) {
            let whole = Sample { payload: vec![7; 1000], ..Sample::v4(false) }.bytes();
            let middle = fragment_v4(&whole, from * 8, from * 8 + 400);
            let pieces = cut(&middle, mtu).unwrap();
            let start = u16::from_be_bytes([pieces[0][20] & 0x1f, pieces[0][21]]);
            prop_assert_eq!(usize::from(start), from);
            prop_assert_eq!(reassemble(pieces), (middle[34..].to_vec(), true));
        }
    }

    #[test]
    fn what_may_not_be_cut_stays_as_it_is() {
        let long = |v4: bool, dont_fragment| {
            let sample = if v4 { Sample::v4(true) } else { Sample::v6(true) };
            Sample { payload: vec![7; 1000], dont_fragment, ..sample }.bytes()
        };
        for (bytes, mtu) in
            [(long(true, true), 600), (long(false, false), 1280), (long(true, false), 27)]
        {
            let fits = bytes.len() - 14 <= usize::from(mtu);
            assert_eq!(cut(&bytes, mtu).is_some(), fits, "{mtu}");
        }
        let bytes = long(true, false);
        assert_eq!(cut(&bytes, 1040), Some(vec![bytes.clone()]));
        assert_eq!(cut(&bytes, 1039).unwrap().len(), 2);
    }
}
