//! VIPs on `lo`: put there and taken away by rtnetlink, and written down so that the next process
//! can take away what a killed one has left.
//!
//! `/32` and `/128`, without duplicate address detection, and deprecated, so that the kernel never
//! chooses a VIP as the source of connections of its own (RFC 6724 §5 rule 3).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt;

/// `lo` has this index in every network namespace (`LOOPBACK_IFINDEX`, `include/net/flow.h`).
const LO: u32 = 1;
/// Longest wait for the kernel's answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What is on `lo` because of us.
pub(super) struct Loopback {
    /// Where it is written down.
    record: PathBuf,
    ours: Mutex<BTreeSet<IpAddr>>,
}

impl Loopback {
    /// Takes away what the last process has left.
    pub(super) fn new(record: PathBuf) -> Self {
        let text = std::fs::read_to_string(&record).unwrap_or_default();
        let left: BTreeSet<IpAddr> = text.lines().filter_map(|l| l.parse().ok()).collect();
        let loopback = Self { record, ours: Mutex::new(left) };
        loopback.clear();
        loopback
    }

    pub(super) fn ours(&self) -> BTreeSet<IpAddr> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts it there. One that was there already is somebody else's and stays for good.
    pub(super) fn add(&self, vip: IpAddr) -> anyhow::Result<()> {
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        if ours.contains(&vip) {
            return Ok(());
        }
        // Written down first: what is not written down is never taken away.
        let mut wanted = ours.clone();
        wanted.insert(vip);
        self.write(&wanted)?;
        match change(vip, true) {
            Ok(true) => *ours = wanted,
            Ok(false) => self.write(&ours)?,
            Err(error) => {
                self.write(&ours)?;
                return Err(error).with_context(|| format!("cannot put {vip} on lo"));
            }
        }
        Ok(())
    }

    /// Takes it away.
    pub(super) fn remove(&self, vip: IpAddr) {
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        if ours.remove(&vip) {
            let _ = change(vip, false);
            let _ = self.write(&ours);
        }
    }

    /// Takes all of ours away.
    pub(super) fn clear(&self) {
        for vip in self.ours() {
            self.remove(vip);
        }
    }

    fn write(&self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let text: String = addresses.iter().map(|a| format!("{a}\n")).collect();
        let path = &self.record;
        if addresses.is_empty() {
            return match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
                _ => Ok(()),
            };
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Adds or removes an address; whether that changed anything.
fn change(vip: IpAddr, add: bool) -> anyhow::Result<bool> {
    let mut address = AddressMessage::default();
    let (family, length) = match vip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    address.header.family = family;
    address.header.prefix_len = length;
    address.header.index = LO;
    address.header.flags = AddressHeaderFlags::Nodad;
    address.attributes.push(AddressAttribute::Local(vip));
    address.attributes.push(AddressAttribute::Address(vip));
    let mut flags = NLM_F_REQUEST | NLM_F_ACK;
    let message = if add {
        // Fails if it is there: then it is not ours.
        flags |= NLM_F_CREATE | netlink_packet_core::NLM_F_EXCL;
        flags &= !NLM_F_REPLACE;
        address.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        let mut life = CacheInfo::default();
        (life.ifa_preferred, life.ifa_valid) = (0, u32::MAX);
        address.attributes.push(AddressAttribute::CacheInfo(life));
        RouteNetlinkMessage::NewAddress(address)
    } else {
        RouteNetlinkMessage::DelAddress(address)
    };
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    match ask(&bytes)? {
        0 => Ok(true),
        code if code == rustix::io::Errno::EXIST.raw_os_error() && add => Ok(false),
        code if code == rustix::io::Errno::ADDRNOTAVAIL.raw_os_error() && !add => Ok(false),
        code => Err(std::io::Error::from_raw_os_error(code).into()),
    }
}

/// Sends a request and waits for its acknowledgement: 0 or an error number.
fn ask(request: &[u8]) -> anyhow::Result<i32> {
    let socket = Socket::new(NETLINK_ROUTE).context("netlink: socket")?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
    socket.connect(&SocketAddr::new(0, 0)).context("netlink: connect")?;
    socket.send(request, 0).context("netlink: send")?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0).context("netlink: no answer")?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?;
    match answer.payload {
        NetlinkPayload::Error(error) => Ok(error.code.map_or(0, |code| -code.get())),
        _ => bail!("netlink: an answer to another question"),
    }
}
