//! Heartbeats over UDP, to an address or to a group.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::sockopt::{
    set_ip_add_membership_with_ifindex, set_ip_multicast_if_with_ifindex, set_ip_multicast_loop,
    set_ip_multicast_ttl, set_ip_tos, set_ipv6_add_membership, set_ipv6_multicast_hops,
    set_ipv6_multicast_if, set_ipv6_multicast_loop, set_ipv6_tclass, set_socket_reuseaddr,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netdevice, socket_with};

/// DSCP CS6, network control (RFC 4594 section 3.1): switches that can tell put it first.
const TOS: u8 = 0xc0;

/// A socket that is bound and knows where to send.
#[derive(Debug)]
pub(super) struct Udp {
    pub(super) socket: UdpSocket,
    to: SocketAddr,
    /// Whom messages must come from; nobody in particular in a group.
    from: Option<IpAddr>,
    /// The interface it is bound to, and its number at that time.
    interface: Option<(String, u32)>,
}

impl Udp {
    /// From address to address.
    pub(super) fn unicast(
        local: SocketAddr,
        remote: SocketAddr,
        interface: Option<&str>,
    ) -> io::Result<Self> {
        let socket = open(local)?;
        let interface = interface.map(|name| bind_to(&socket, name)).transpose()?;
        let index = interface.as_ref().map_or(0, |(_, index)| *index);
        bind(&socket, &scoped(local, index))?;
        let (from, to) = (Some(remote.ip()), scoped(remote, index));
        Ok(Self { socket, to, from, interface })
    }

    /// To everybody in the group on that interface, and from there.
    pub(super) fn multicast(group: SocketAddr, interface: &str) -> io::Result<Self> {
        let socket = open(group)?;
        set_socket_reuseaddr(&socket, true)?;
        let interface = bind_to(&socket, interface)?;
        let index = interface.1;
        match group.ip() {
            IpAddr::V4(v4) => {
                let any = Ipv4Addr::UNSPECIFIED;
                set_ip_add_membership_with_ifindex(&socket, &v4, &any, index)?;
                set_ip_multicast_if_with_ifindex(&socket, &Ipv4Addr::UNSPECIFIED, &any, index)?;
                set_ip_multicast_loop(&socket, false)?;
                set_ip_multicast_ttl(&socket, 1)?;
            }
            IpAddr::V6(v6) => {
                set_ipv6_add_membership(&socket, &v6, index)?;
                set_ipv6_multicast_if(&socket, index)?;
                set_ipv6_multicast_loop(&socket, false)?;
                set_ipv6_multicast_hops(&socket, 1)?;
            }
        }
        let to = scoped(group, index);
        bind(&socket, &to)?;
        Ok(Self { socket, to, from: None, interface: Some(interface) })
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self.socket.send_to(bytes, self.to) {
            Ok(_) => Ok(()),
            // A queue that is full is a beat lost, and no reason to open everything anew.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The next datagram: its length, or `None` if it is from somebody else.
    ///
    /// # Errors
    /// Nothing is there ([`io::ErrorKind::WouldBlock`]), or the socket is of no use any more.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let (length, from) = self.socket.recv_from(buffer)?;
        Ok(self.from.is_none_or(|wanted| wanted == from.ip()).then_some(length))
    }

    /// Why it is of no use any more: its interface is gone or is another one now.
    pub(super) fn problem(&self) -> Option<String> {
        let (name, index) = self.interface.as_ref()?;
        match netdevice::name_to_index(&self.socket, name) {
            Ok(now) if now == *index => None,
            Ok(_) => Some(format!("interface {name} was made anew")),
            Err(_) => Some(format!("interface {name} is gone")),
        }
    }
}

fn open(at: SocketAddr) -> io::Result<UdpSocket> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: UdpSocket = socket_with(family, SocketType::DGRAM, flags, None)?.into();
    // For what it is worth: not every system lets us.
    let _ = match at {
        SocketAddr::V4(_) => set_ip_tos(&socket, TOS),
        SocketAddr::V6(_) => set_ipv6_tclass(&socket, TOS.into()),
    };
    Ok(socket)
}

/// Ties the socket to the interface; its name and number.
fn bind_to(socket: &UdpSocket, name: &str) -> io::Result<(String, u32)> {
    let index = netdevice::name_to_index(socket, name)
        .map_err(|e| io::Error::other(format!("interface {name}: {e}")))?;
    setsockopt(&socket.as_fd(), BindToDevice, &OsString::from(name))
        .map_err(|e| io::Error::other(format!("cannot use interface {name} alone: {e}")))?;
    Ok((name.to_owned(), index))
}

/// An address that means something only on one link needs to say on which.
fn scoped(at: SocketAddr, index: u32) -> SocketAddr {
    let link = |ip: &Ipv6Addr| {
        ip.is_unicast_link_local() || (ip.is_multicast() && ip.octets()[1] & 0xf <= 2)
    };
    match at {
        SocketAddr::V6(mut v6) if link(v6.ip()) && v6.scope_id() == 0 => {
            v6.set_scope_id(index);
            v6.into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(udp: &Udp) -> Option<Vec<u8>> {
        let mut buffer = [0; 2000];
        for _ in 0..200 {
            match udp.receive(&mut buffer) {
                Ok(length) => return length.map(|l| buffer[..l].to_vec()),
                Err(_) => std::thread::park_timeout(std::time::Duration::from_millis(5)),
            }
        }
        panic!("nothing came")
    }

    fn free(address: &str) -> SocketAddr {
        UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap()
    }

    #[test]
    fn beats_arrive_and_those_of_strangers_are_left_out() {
        let (a, b) = (free("127.0.0.1"), free("127.0.0.2"));
        let one = Udp::unicast(a, b, None).unwrap();
        let two = Udp::unicast(b, a, None).unwrap();
        one.send(b"beat").unwrap();
        assert_eq!(wait(&two).unwrap(), b"beat");
        UdpSocket::bind("127.0.0.3:0").unwrap().send_to(b"forged", b).unwrap();
        assert_eq!(wait(&two), None);
        assert!(two.receive(&mut [0; 9]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
        assert_eq!(one.problem(), None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let (a, b) = (free("127.0.0.1"), free("127.0.0.2"));
        let error = Udp::unicast(a, b, Some("xvip-none0")).unwrap_err().to_string();
        assert!(error.contains("interface xvip-none0"), "{error}");
        assert!(Udp::multicast("239.1.2.3:9".parse().unwrap(), "xvip-none0").is_err());
    }

    #[test]
    fn an_address_of_a_link_is_used_on_that_link() {
        let scope = |text: &str| match scoped(text.parse().unwrap(), 7) {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        assert_eq!(["[fe80::1]:1", "[ff12::1]:1"].map(scope), [7, 7]);
        assert_eq!(["[2001:db8::1]:1", "[ff15::1]:1", "10.0.0.1:1"].map(scope), [0, 0, 0]);
    }
}
