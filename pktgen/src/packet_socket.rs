//! A thread that answers for the generator's addresses and asks for others.
//!
//! It has packet sockets for ARP and IPv6 on each interface (not for all protocols: those would see,
//! and slow down, every packet that is sent). What the workers' program passes to the kernel, it
//! sees.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::engine::next_hop::NextHop;
use crate::neighbors::{Ask, Stations, Vigil, learn, learn_again};

/// How often the thread looks whether it should end.
const LOOK: i64 = 50_000_000;
/// Stations of an interface that announce themselves at the start; the rest waits to be asked for.
const ANNOUNCED_MAX: u32 = 1024;
/// Time between two questions for the same address.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Who was found.
#[derive(Default)]
struct Known {
    macs: Mutex<HashMap<IpAddr, [u8; 6]>>,
    more: Condvar,
}

/// A neighbour whose moves are followed.
struct Followed {
    interface: String,
    target: IpAddr,
    hop: Arc<NextHop>,
    vigil: Vigil,
}

/// The running thread; ends with the value.
pub struct Neighbors {
    links: Arc<Vec<Link>>,
    known: Arc<Known>,
    followed: Arc<Mutex<Vec<Followed>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Sends frames out of one interface, past the workers' sockets; receives nothing.
pub struct Sender(OwnedFd);

impl Sender {
    /// For the interface with this number.
    ///
    /// # Errors
    /// Of `socket(2)` and `bind(2)`: needs `CAP_NET_RAW`.
    pub fn open(index: u32) -> io::Result<Self> {
        // Protocol 0: nothing is ever received.
        open(index, 0).map(Self)
    }

    /// Sends a frame; false if there is no room now.
    ///
    /// # Errors
    /// Of `send(2)`, those of a full queue left out.
    pub fn send(&self, frame: &[u8]) -> io::Result<bool> {
        use rustix::io::Errno;
        match rustix::net::send(self.0.as_fd(), frame, rustix::net::SendFlags::DONTWAIT) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// One interface.
struct Link {
    interface: String,
    stations: Stations,
    sockets: Vec<OwnedFd>,
}

impl Neighbors {
    /// Starts it for these interfaces (name and number).
    ///
    /// # Errors
    /// Of `socket(2)` and `bind(2)`: needs `CAP_NET_RAW`.
    pub fn start(interfaces: &[(String, u32, Stations)]) -> anyhow::Result<Self> {
        let mut links = Vec::new();
        for (interface, index, stations) in interfaces {
            let protocols = [libc::ETH_P_ARP, libc::ETH_P_IPV6];
            let sockets: io::Result<_> =
                protocols.into_iter().map(|protocol| open(*index, protocol as u16)).collect();
            let sockets = sockets.with_context(|| format!("packet socket on {interface}"))?;
            links.push(Link { interface: interface.clone(), stations: *stations, sockets });
        }
        for link in &links {
            for index in 0..link.stations.addresses.count().min(ANNOUNCED_MAX) {
                // Lost ones are asked for.
                let _ = send(link, &link.stations.announcement(index));
            }
        }
        let links = Arc::new(links);
        let (known, stop) = (Arc::new(Known::default()), Arc::new(AtomicBool::new(false)));
        let followed = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::Builder::new().name("neighbors".into()).spawn({
            let (links, known, stop) = (links.clone(), known.clone(), stop.clone());
            let followed = followed.clone();
            move || serve(&links, &known, &followed, &stop)
        })?;
        Ok(Self { links, known, followed, stop, thread: Some(thread) })
    }

    /// MAC address of `target`, as seen from `interface`.
    ///
    /// # Errors
    /// If nobody answers for `patience`.
    pub fn resolve(
        &self,
        interface: &str,
        target: IpAddr,
        patience: Duration,
    ) -> anyhow::Result<[u8; 6]> {
        let link = self.links.iter().find(|link| link.interface == interface);
        let link = link.with_context(|| format!("{interface} is not an interface of this run"))?;
        let question = link.stations.question(target, None);
        let deadline = clock::now().after(patience);
        let mut asked = 0;
        let mut macs = self.known.macs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(mac) = macs.get(&target) {
                return Ok(*mac);
            }
            if clock::now() >= deadline {
                let what = if target.is_ipv4() { "ARP requests" } else { "solicitations" };
                bail!("{target} does not answer on {interface}: {asked} {what} in {patience:?}");
            }
            send(link, &question).with_context(|| format!("asking on {interface}"))?;
            asked += 1;
            let waited = self.known.more.wait_timeout(macs, ASK_AGAIN);
            macs = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Neighbors {
    /// From now on `hop` is where `target` is, as seen from `interface`: asked for each second, and
    /// moved at once by whatever announces it elsewhere.
    pub fn follow(&self, interface: &str, target: IpAddr, hop: Arc<NextHop>) {
        let known = self.known.macs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mac) = known.get(&target) {
            hop.seen(*mac, clock::now());
        }
        drop(known);
        let interface = interface.to_owned();
        let followed = Followed { interface, target, hop, vigil: Vigil::default() };
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).push(followed);
    }
}

impl Drop for Neighbors {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(links: &[Link], known: &Known, followed: &Mutex<Vec<Followed>>, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Relaxed) {
        let mut fds: Vec<_> = links
            .iter()
            .flat_map(|link| &link.sockets)
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: LOOK }));
        let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
        for link in links {
            for socket in &link.sockets {
                // A bounded number: whoever floods must not keep the thread from ending.
                for _ in 0..256 {
                    let flags = rustix::net::RecvFlags::DONTWAIT;
                    let Ok((_, len)) = rustix::net::recv(socket, &mut buffer[..], flags) else {
                        break;
                    };
                    handle(link, known, &mut followed, &buffer[..len.min(2048)]);
                }
            }
        }
        for one in followed.iter_mut() {
            if let Some(link) = links.iter().find(|link| link.interface == one.interface) {
                one.ask(link);
            }
        }
    }
}

impl Followed {
    fn ask(&mut self, link: &Link) {
        let mac = self.hop.mac();
        if let Some(ask) = self.vigil.look(clock::now().nanos(), mac.is_some()) {
            let to = mac.filter(|_| ask == Ask::Neighbor);
            // Lost if the interface is gone; the next second is another chance.
            let _ = send(link, &link.stations.question(self.target, to));
        }
    }

    fn hear(&mut self, link: &Link, frame: &[u8]) {
        if self.interface != link.interface {
            return;
        }
        if let Some((address, mac)) = learn_again(frame, self.hop.mac())
            && address == self.target
        {
            let now = clock::now();
            self.vigil.heard(now.nanos());
            self.hop.seen(mac, now);
        }
    }
}

fn handle(link: &Link, known: &Known, followed: &mut [Followed], frame: &[u8]) {
    followed.iter_mut().for_each(|one| one.hear(link, frame));
    if let Some(answer) = link.stations.answer(frame) {
        // Lost if the interface is gone; who asked asks again.
        let _ = send(link, &answer);
    }
    if let Some((address, mac)) = learn(frame) {
        known.macs.lock().unwrap_or_else(PoisonError::into_inner).insert(address, mac);
        known.more.notify_all();
    }
}

fn send(link: &Link, frame: &[u8]) -> io::Result<()> {
    // Both sockets are bound to the interface; a raw frame may leave by either.
    let Some(socket) = link.sockets.first() else { return Ok(()) };
    use rustix::io::Errno;
    match rustix::net::send(socket.as_fd(), frame, rustix::net::SendFlags::DONTWAIT) {
        // A full queue is lost time, no more: who waits for an answer asks again.
        Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A packet socket for one protocol of one interface, that takes frames for any MAC address.
fn open(index: u32, protocol: u16) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: plain numbers; the protocol is 0 so that nothing arrives before the socket is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the structure is plain numbers, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is `len` readable bytes for the length of the call.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let mut member: libc::packet_mreq = unsafe { std::mem::zeroed() };
    member.mr_ifindex = index.cast_signed();
    member.mr_type = libc::PACKET_MR_PROMISC as u16;
    let len = size_of_val(&member) as libc::socklen_t;
    let (level, name) = (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP);
    // SAFETY: `member` is `len` readable bytes for the length of the call.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const member).cast(), len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}
