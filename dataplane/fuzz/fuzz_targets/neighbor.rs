//! Any bytes as a neighbour's message: never a panic, a claim is of a host, and our answer is well-formed.
#![cfg_attr(fuzzing, no_main)]

use dataplane::address::{Address, DeviceId, Mac};
use dataplane::frame::Frame;
use dataplane::wire::packet::{Kind, Packet, parse};
use dataplane::wire::{checksum, neighbor};

const OURS: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// What must hold for every input; also run over the corpus by `tests/corpus.rs`.
pub fn check(data: &[u8]) {
    let Ok(packet) = parse(data) else { return };
    let mended = mend(data, &packet);
    if let Ok(claim) = neighbor::claim(&mended, &packet) {
        assert!(matches!(packet.kind, Kind::NeighborRequest | Kind::NeighborAnswer));
        assert!(!claim.mac.is_group() && claim.address != Address::UNSPECIFIED);
        assert_eq!(claim.address.is_v4(), packet.is_v4());
    }
    let Ok(request) = neighbor::request(&mended, &packet) else { return };
    assert_eq!(packet.kind, Kind::NeighborRequest);
    assert!(!request.sender_mac.is_group() && request.sender != request.target);
    assert_eq!(request.sender.is_v4() && request.target.is_v4(), packet.is_v4());

    // With no room behind the question, with a little, and with plenty.
    for room in [0, 8, 128] {
        let mut buffer = mended.clone();
        buffer.resize(mended.len() + room, 0xa5);
        let mut frame = Frame::new(&mut buffer, 0, mended.len(), DeviceId(0));
        if neighbor::answer(&mut frame, &packet, &request, OURS) {
            assert_answers(frame.bytes(), &packet);
        } else {
            assert_eq!(frame.bytes(), mended);
        }
    }
}

/// The frame with the right ICMPv6 checksum, so that inputs get past that check.
fn mend(data: &[u8], packet: &Packet) -> Vec<u8> {
    let mut frame = data.to_vec();
    let message = usize::from(packet.transport)..usize::from(packet.end);
    let neighbor = matches!(packet.kind, Kind::NeighborRequest | Kind::NeighborAnswer);
    if neighbor && !packet.is_v4() && message.len() >= 4 {
        let field = message.start + 2..message.start + 4;
        frame[field.clone()].fill(0);
        let (source, destination) = (packet.source, packet.destination);
        let sum = checksum::transport(source, destination, 58, &frame[message]);
        frame[field].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn assert_answers(answer: &[u8], question: &Packet) {
    assert_eq!(answer[6..12], OURS.0);
    if question.is_v4() {
        assert_eq!((answer.len(), &answer[20..22]), (42, &[0, 2][..]));
    } else {
        let header: [u8; 32] = answer[22..54].try_into().expect("32 bytes");
        let [source, destination] = [0, 16].map(|at| {
            dataplane::address::Address::v6(header[at..at + 16].try_into().expect("16 bytes"))
        });
        assert_eq!((answer.len(), answer[54]), (86, 136));
        assert_eq!(checksum::transport(source, destination, 58, &answer[54..]), 0);
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));
