//! `type = "icmp"`: a ping. Uses a ping socket, which needs no privilege where
//! `net.ipv4.ping_group_range` allows it, or else a raw one.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, connect, ipproto, socket_with,
};
use tokio::net::UdpSocket;

use super::{net, random};
use crate::check::{Outcome, Target, icmp};

/// Most messages that are looked at in one run; a raw socket hears everything from the server.
const MESSAGES_MAX: usize = 1024;

pub(super) async fn probe(settings: &icmp::Settings, target: &Target) -> Outcome {
    net::settle(ping(settings, target).await)
}

async fn ping(settings: &icmp::Settings, target: &Target) -> Result<Outcome, Outcome> {
    let (fd, raw) = open(target)?;
    let with_header = raw && target.address.is_ipv4();
    let address = std::net::SocketAddr::new(target.address, 0);
    connect(&fd, &address).map_err(|e| net::failed("connect", &e.into()))?;
    // Sent to and received from like any socket of datagrams that is connected.
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(fd));
    let socket = socket.map_err(|e| net::failed("open a socket", &e))?;
    let cookie = random::bytes()?;
    let request = icmp::request(target.address, &cookie, settings.size);
    net::stage("to the ping");
    socket.send(&request).await.map_err(|e| net::failed("send", &e))?;
    for _ in 0..MESSAGES_MAX {
        let mut buffer = [0; 2048];
        let got = socket.recv(&mut buffer).await.map_err(|e| net::failed("receive", &e))?;
        let packet = buffer.get(..got).unwrap_or_default();
        if icmp::is_answer(target.address, &cookie, packet, with_header) {
            return Ok(Outcome::up());
        }
    }
    Err(Outcome::down(format!("{MESSAGES_MAX} messages, and none answers the ping")))
}

/// A socket for pings, and whether it is a raw one.
fn open(target: &Target) -> Result<(OwnedFd, bool), Outcome> {
    let (family, protocol) = if target.address.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6)
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let open = |kind, protocol: Protocol| socket_with(family, kind, flags, Some(protocol));
    if let Ok(fd) = open(SocketType::DGRAM, protocol) {
        return Ok((fd, false));
    }
    match open(SocketType::RAW, protocol) {
        Ok(fd) => Ok((fd, true)),
        Err(Errno::PERM | Errno::ACCESS) => Err(Outcome::cannot_run(
            "not allowed to ping: give CAP_NET_RAW, or a range that holds our group to the sysctl \
             net.ipv4.ping_group_range",
        )),
        Err(error) => Err(net::failed("open a socket", &error.into())),
    }
}
