//! Multicast groups that interfaces listen to for us.
//!
//! A neighbour asks for an IPv6 address by a frame to a group made of its last 24 bits (RFC 4861
//! section 7.2.2, RFC 2464 section 7). The kernel, which does not have our addresses, does not listen
//! to their groups, and an interface that filters throws such frames away before the steering program
//! sees them. Management thread; memberships end with the process.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::address::{Address, Mac};

/// The group in which an address is asked for; none for IPv4, which is asked for by broadcast.
#[must_use]
pub fn group_of(address: Address) -> Option<Mac> {
    let [.., a, b, c] = address.octets();
    (!address.is_v4()).then_some(Mac([0x33, 0x33, 0xff, a, b, c]))
}

/// Memberships of interfaces (by index) in groups.
#[derive(Debug)]
pub struct Memberships {
    /// Packets do not come here: it is open for no protocol.
    socket: OwnedFd,
    joined: BTreeSet<(u32, Mac)>,
}

impl Memberships {
    /// None yet. Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// If the kernel gives no packet socket.
    pub fn open() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, joined: BTreeSet::new() })
    }

    /// Joins and leaves what is missing and too much. What could not be joined is tried again by the
    /// next call.
    ///
    /// # Errors
    /// The first refusal; the rest is done all the same.
    pub fn follow(&mut self, wanted: &BTreeSet<(u32, Mac)>) -> io::Result<()> {
        let mut outcome = Ok(());
        for gone in self.joined.difference(wanted).copied().collect::<Vec<_>>() {
            // It fails with an interface that is gone, and its memberships with it.
            let _ = self.set(libc::PACKET_DROP_MEMBERSHIP, gone);
            self.joined.remove(&gone);
        }
        for new in wanted.difference(&self.joined).copied().collect::<Vec<_>>() {
            match self.set(libc::PACKET_ADD_MEMBERSHIP, new) {
                Ok(()) => {
                    self.joined.insert(new);
                }
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }

    fn set(&self, option: libc::c_int, (ifindex, mac): (u32, Mac)) -> io::Result<()> {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac.0);
        let request = libc::packet_mreq {
            mr_ifindex: ifindex.cast_signed(),
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: 6,
            mr_address: address,
        };
        let size = size_of::<libc::packet_mreq>() as libc::socklen_t;
        let value = (&raw const request).cast::<c_void>();
        // SAFETY: `value` points to `size` bytes that live through the call, and the kernel only reads
        // them.
        let outcome = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, option, value, size)
        };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_address_is_asked_for_in_the_group_of_its_last_three_bytes() {
        let group = |text: &str| group_of(text.parse::<IpAddr>().unwrap().into());
        assert_eq!(group("2001:db8::12:3456"), Some(Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56])));
        assert_eq!(group("192.0.2.1"), None);
    }
}
