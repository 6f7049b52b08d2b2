//! The pings of a [`Survey`]: sent from addresses that are the data plane's, heard beside it.
//!
//! Answers to a VIP are not the data plane's (it takes nothing but what it forwards or answers), and not
//! of the kernel's protocols either (the address is none of its own): a packet socket sees them between.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, SockaddrStorage, recvfrom};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, eth, ipproto, sendto, socket_with, sockopt,
};

use super::boottime;
use crate::failover::exchange::Nanos;
use crate::failover::survey::{Link, Survey};

/// How often a ping is sent that is not answered, and how long an answer is waited for each time.
const TRIES: u32 = 4;
const WAIT: Nanos = 50_000_000;
/// Packets of others that come meanwhile wait there too.
const BUFFER: usize = 1 << 20;
/// As much of a packet as matters: what is cut off is longer than any answer to us.
const PACKET: usize = 256;

/// How often it is begun anew if this node stands still meanwhile.
const ATTEMPTS: u32 = 3;

/// Sends a survey's pings and hears the answers, for 200 ms at most if this node does not stand still.
///
/// # Errors
/// Nothing is known by it: why.
pub(super) fn carry_out(survey: &mut Survey) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        let mut attempt = survey.clone();
        if run(&mut attempt)? {
            *survey = attempt;
            return Ok(());
        }
    }
    anyhow::bail!("this node stands still again and again while it asks the neighbours")
}

/// False if this node stood still meanwhile.
fn run(survey: &mut Survey) -> anyhow::Result<bool> {
    let mut ends: [Option<Ends>; 2] = [None, None];
    let mut problem = None;
    let begun = boottime();
    for tries in 0..TRIES {
        let due = begun.saturating_add(WAIT * Nanos::from(tries));
        // Nothing is said in the name of a VIP long after it was ours, and silence of a time in which
        // this node stood still is none.
        if boottime() > due.saturating_add(WAIT / 2) {
            return Ok(false);
        }
        survey.ask(tries, |to, packet| {
            // A machine may have one family only.
            let slot = &mut ends[usize::from(to.is_ipv6())];
            if slot.is_none() {
                match Ends::open(to) {
                    Ok(ends) => *slot = Some(ends),
                    Err(error) => problem = Some(error),
                }
            }
            let Some(ends) = slot else { return false };
            sendto(&ends.mouth, packet, SendFlags::DONTWAIT, &SocketAddr::new(to, 0)).is_ok()
        });
        loop {
            for ends in ends.iter().flatten() {
                ends.hear(survey).context("cannot hear the neighbours")?;
            }
            let left = due.saturating_add(WAIT).saturating_sub(boottime());
            if survey.is_settled(tries) || left == 0 {
                break;
            }
            let left = Timespec { tv_sec: 0, tv_nsec: i64::try_from(left).unwrap_or(0) };
            let mut fds: Vec<_> =
                ends.iter().flatten().map(|ends| PollFd::new(&ends.ear, PollFlags::IN)).collect();
            let _ = poll(&mut fds, Some(&left));
        }
        if survey.is_settled(tries) {
            break;
        }
    }
    match problem {
        Some(error) if survey.verdict() == Ok(None) => {
            Err(error).context("cannot ask the neighbours, which takes CAP_NET_RAW")
        }
        _ => Ok(true),
    }
}

/// The sockets of one family.
struct Ends {
    /// Hears every packet that comes in by any interface, from its IP header on (`packet(7)`).
    ear: OwnedFd,
    /// Sends packets with headers of our own (`raw(7)`, `ipv6(7)`: implied by `IPPROTO_RAW`).
    mouth: OwnedFd,
}

impl Ends {
    fn open(to: IpAddr) -> rustix::io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (family, all) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, eth::IP),
            IpAddr::V6(_) => (AddressFamily::INET6, eth::IPV6),
        };
        let ear = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, Some(all))?;
        if sockopt::set_socket_recv_buffer_size_force(&ear, BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&ear, BUFFER);
        }
        let mouth = socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))?;
        Ok(Self { ear, mouth })
    }

    /// Hears what has come.
    fn hear(&self, survey: &mut Survey) -> nix::Result<()> {
        let mut buffer = [0; PACKET];
        // Others' packets are no reason to stay for ever.
        for _ in 0..4096 {
            match recvfrom::<LinkAddr>(self.ear.as_raw_fd(), &mut buffer) {
                // A switch floods what it has no port for: an answer to a MAC address of nobody's
                // comes here too, and proves the contrary.
                Ok((length, Some(link))) if link.pkttype() == libc::PACKET_HOST => {
                    survey.hear(&buffer[..length]);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// This node's addresses on those interfaces; none if they cannot be had.
pub(super) fn links(interfaces: &BTreeSet<&str>) -> Vec<Link> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    // An IPv4 address may have a label behind the name: `eth0:1`.
    let ours = all.filter(|found| {
        found.interface_name.split(':').next().is_some_and(|name| interfaces.contains(name))
    });
    ours.filter_map(|found| {
        let address = ip(&found.address?)?;
        let prefix = match ip(&found.netmask?)? {
            IpAddr::V4(mask) => mask.to_bits().leading_ones(),
            IpAddr::V6(mask) => mask.to_bits().leading_ones(),
        };
        Some(Link { address, prefix })
    })
    .collect()
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}
