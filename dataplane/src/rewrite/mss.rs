//! The MSS option of a SYN (RFC 9293 section 3.7.1), lowered so that full segments fit a tunnel.
//!
//! Runs on the worker, once for each SYN of a service that asks for it.

use crate::frame::Frame;
use crate::wire::checksum::Update;
use crate::wire::packet::{Kind, Packet, TcpFlags};

use super::{chunk, set_word, word};

/// Lowers the MSS option of a SYN or SYN-ACK to `max` if it is larger; true if it did.
///
/// Options that contradict themselves (a length of zero or one, one that runs over the header) leave
/// the packet as it is, and none is added where there is none.
pub fn clamp(frame: &mut Frame<'_>, packet: &Packet, max: u16) -> bool {
    if packet.kind != Kind::Tcp || !packet.tcp_flags.has(TcpFlags::SYN) {
        return false;
    }
    let range = usize::from(packet.transport)..usize::from(packet.end);
    let Some(segment) = frame.bytes_mut().get_mut(range) else { return false };
    let Some(&offset) = segment.get(12) else { return false };
    let Some(header) = segment.get_mut(..usize::from(offset >> 4) * 4) else { return false };
    let Some(at) = find(header) else { return false };
    let Some(value) = chunk::<2>(header, at) else { return false };
    let old = word(value, 0);
    if old <= max {
        return false;
    }
    set_word(value, 0, max);
    // At an odd offset the option lies across two words of the sum, its bytes in each other's place.
    let update = if at % 2 == 0 {
        Update::new().word(old, max)
    } else {
        Update::new().word(old.swap_bytes(), max.swap_bytes())
    };
    if let Some(checksum) = chunk::<2>(header, 16) {
        set_word(checksum, 0, update.apply(word(checksum, 0)));
    }
    true
}

/// Offset of the value of the MSS option in a TCP header; of the last one, which is the one that
/// counts for a receiver that reads them in order.
fn find(header: &[u8]) -> Option<u16> {
    let mut found = None;
    let mut at = 20;
    while let Some(&kind) = header.get(at) {
        match kind {
            0 => break,
            1 => at += 1,
            _ => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() {
                    return None;
                }
                if kind == 2 && len == 4 {
                    found = u16::try_from(at + 2).ok();
                }
                at += len;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
