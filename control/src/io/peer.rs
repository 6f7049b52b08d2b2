//! Who is at the other end of a connection to the control socket, as the kernel noted when it was
//! made (`unix(7)`, `SO_PEERCRED`, `SO_PEERGROUPS`).
//!
//! Names and `/proc` are not asked: a process may have become another one meanwhile.
#![allow(unsafe_code, reason = "no safe wrapper has SO_PEERGROUPS")]

use std::os::fd::AsRawFd;

use tokio::net::UnixStream;

use crate::node::Peer;

/// Groups of a process, at most (`NGROUPS_MAX`, `include/uapi/linux/limits.h`).
const GROUPS_MAX: usize = 65_536;

/// The peer; if the kernel does not tell, somebody with no rights.
pub(super) fn of(stream: &UnixStream) -> Peer {
    match stream.peer_cred() {
        Ok(c) => Peer {
            uid: c.uid(),
            gid: c.gid(),
            pid: c.pid().unwrap_or(0),
            groups: groups(stream).into(),
        },
        Err(_) => Peer { uid: u32::MAX, gid: u32::MAX, pid: 0, groups: [].into() },
    }
}

/// Supplementary groups; none if the kernel does not tell (before 4.13).
fn groups(stream: &UnixStream) -> Vec<u32> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    // The second time it is as long as the kernel said.
    for _ in 0..2 {
        let size = size_of::<libc::gid_t>();
        let Ok(mut bytes) = libc::socklen_t::try_from(groups.len() * size) else { break };
        // SAFETY: the descriptor is open as long as `stream` is borrowed; `groups` is writable for
        // `bytes` bytes and aligned for `gid_t`, and the kernel writes no more than that
        // (`sk_getsockopt`, `net/core/sock.c`).
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = usize::try_from(bytes).unwrap_or(0) / size;
        if done == 0 {
            groups.truncate(count);
            return groups;
        }
        let error = std::io::Error::last_os_error().raw_os_error();
        if error != Some(libc::ERANGE) || count > GROUPS_MAX {
            break;
        }
        groups.resize(count, 0);
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_credentials_are_seen_at_the_other_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (a, _b) = UnixStream::pair().unwrap();
            let peer = of(&a);
            assert_eq!(peer.uid, rustix::process::getuid().as_raw());
            assert_eq!(peer.gid, rustix::process::getgid().as_raw());
            let mut ours: Vec<u32> =
                rustix::process::getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
            let mut seen = peer.groups.to_vec();
            ours.sort_unstable();
            seen.sort_unstable();
            assert_eq!(seen, ours);
        });
    }
}
