//! Any bytes as a frame, and as the packet an ICMP error quotes: never a panic, offsets in order.
#![cfg_attr(fuzzing, no_main)]

use dataplane::wire::packet::{Kind, Packet, parse, parse_quoted};

/// What must hold for every input; also run over the corpus by `tests/corpus.rs`.
pub fn check(data: &[u8]) {
    if let Ok(packet) = parse(data) {
        assert_ordered(&packet, data);
    }
    if let Ok(packet) = parse_quoted(data) {
        assert_ordered(&packet, data);
    }
}

fn assert_ordered(packet: &Packet, data: &[u8]) {
    assert!(packet.network <= packet.transport && packet.transport <= packet.end, "{packet:?}");
    assert!(usize::from(packet.end) <= data.len(), "{packet:?}");
    assert!(packet.fragment_header <= packet.transport, "{packet:?}");
    // An announcement is a question or an answer from an address about itself (RFC 5227 section 3).
    if !matches!(packet.kind, Kind::NeighborRequest | Kind::NeighborAnswer) {
        assert!(packet.source != packet.destination, "{packet:?}");
    }
    assert_eq!(packet.source.is_v4(), packet.destination.is_v4(), "{packet:?}");
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));
