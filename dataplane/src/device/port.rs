//! Sockets bound to one queue of one interface each.
//!
//! Opened and dropped by the management thread, used by the worker in between.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context;
use dataplane_api::service::CopyMode;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, sockopt};

use super::rings::Rings;
use super::umem::{Memory, Queues, errno};
use crate::clock;
use crate::limits::FRAME_SIZE;

/// Most frames one transmit call sends when the budget cannot be raised (`TX_BATCH_SIZE` in
/// `net/xdp/xsk.c`).
pub(super) const TX_BATCH: u32 = 32;
/// `XDP_MAX_TX_SKB_BUDGET` (`include/uapi/linux/if_xdp.h`, since Linux 6.17).
const MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Time between two attempts to bind a queue that the kernel has not released yet.
const BUSY_STEP: Duration = Duration::from_millis(1);

/// What keeps the kernel's socket open.
enum Kept {
    /// Shares the UMEM of the anchor.
    Shared(Queues),
    /// Registered the memory for itself.
    Own(OwnedFd),
}

impl Kept {
    fn fd(&self) -> RawFd {
        match self {
            Self::Shared((_, rx, _)) => rx.fd().as_raw_fd(),
            Self::Own(fd) => fd.as_raw_fd(),
        }
    }
}

struct Inner {
    kept: Mutex<Option<Kept>>,
    fd: RawFd,
    /// errno of the last transmit call; 0 after one that worked.
    error: AtomicI32,
    /// Set when the kernel has let go of every frame.
    released: Arc<AtomicBool>,
    _memory: Memory,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The last reference is closed here (the port's mapping of the rings went before), and the
        // kernel waits in it until no receive path can touch the socket (`xsk_unbind_dev`).
        drop(kept.take());
        self.released.store(true, Release);
    }
}

/// One bound socket: one queue of one interface. Opened and dropped by the management thread (both
/// are slow), lent to the worker in between.
pub struct Port {
    // Before `inner`: a mapping keeps the socket open.
    pub(super) rings: Rings,
    inner: Arc<Inner>,
    memory: Memory,
    zero_copy: bool,
    tx_batch: u32,
}

impl Port {
    /// Binds `queue` of `interface`. `EBUSY` is retried for `patience`, at most three seconds: the
    /// kernel releases the queue of a closed socket some milliseconds late.
    ///
    /// Works on an interface that is down; frames flow when it comes up. Works with `CAP_NET_RAW`
    /// alone in copy mode (see [`Memory::new`]).
    ///
    /// # Errors
    /// The interface, the queue, and what the kernel said.
    pub fn open(
        memory: &Memory,
        interface: &str,
        queue: u32,
        copy: CopyMode,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let deadline = clock::now().after(patience.min(Duration::from_secs(3)));
        let open = |zero_copy| loop {
            match bind(memory, interface, queue, zero_copy) {
                Err(error) if errno(&error) == Some(libc::EBUSY) && clock::now() < deadline => {
                    pause(BUSY_STEP);
                }
                other => break other,
            }
        };
        let kept = match copy {
            CopyMode::Copy => open(false),
            CopyMode::ZeroCopy => open(true),
            CopyMode::Auto => match bind(memory, interface, queue, true) {
                Err(error) if errno(&error) == Some(libc::EBUSY) => {
                    open(true).or_else(|_| open(false))
                }
                other => other.or_else(|_| open(false)),
            },
        };
        let how = if copy == CopyMode::ZeroCopy { "zero-copy socket" } else { "socket" };
        let context = || format!("{how} on queue {queue} of {interface}");
        let kept = kept.map_err(remedy).with_context(context)?;
        Self::bound(memory, kept).with_context(context)
    }

    fn bound(memory: &Memory, kept: Kept) -> anyhow::Result<Self> {
        let raw = kept.fd();
        let inner = Arc::new(Inner {
            kept: Mutex::new(Some(kept)),
            fd: raw,
            error: AtomicI32::new(0),
            released: Arc::new(AtomicBool::new(false)),
            _memory: memory.clone(),
        });
        // SAFETY: open until `inner` is dropped, at the earliest at the end of this function.
        let fd = unsafe { BorrowedFd::borrow_raw(raw) };
        let ring = memory.ring();
        let options = sockopt::xdp_options(fd).context("XDP_OPTIONS")?;
        let raised = set_option(raw, libc::SOL_XDP, MAX_TX_SKB_BUDGET, ring);
        // A packet on its way is charged to the send buffer; its default would hold up the ring
        // at some 200 of them. Where it cannot be raised, transmission is slower, not wrong.
        let _ = set_option(raw, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, ring.saturating_mul(4096));
        Ok(Self {
            rings: Rings::map(fd, ring).context("mapping the rings")?,
            inner,
            memory: memory.clone(),
            zero_copy: options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY),
            tx_batch: if raised.is_ok() { ring } else { TX_BATCH },
        })
    }

    /// The socket, for the XSKMAP.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `inner` keeps it open, and the result borrows `self`.
        unsafe { BorrowedFd::borrow_raw(self.inner.fd) }
    }

    /// Whether the kernel moves frames without copying them.
    #[must_use]
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// The memory it was opened on.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A view for the management thread, usable while the worker has the port. It does not keep
    /// the socket open.
    #[must_use]
    pub fn monitor(&self) -> PortMonitor {
        PortMonitor(Arc::downgrade(&self.inner))
    }

    /// Most frames one transmit call sends.
    pub(super) fn tx_batch(&self) -> u32 {
        self.tx_batch
    }

    /// Becomes true when the kernel has let go of every frame.
    pub(super) fn released(&self) -> Arc<AtomicBool> {
        self.inner.released.clone()
    }

    /// Publishes the outcome of a transmit call.
    pub(super) fn set_error(&self, errno: i32) {
        self.inner.error.store(errno, Relaxed);
    }
}

/// Statistics and errors of a port, for other threads than the worker's.
#[derive(Clone)]
pub struct PortMonitor(Weak<Inner>);

impl PortMonitor {
    /// What the kernel dropped (`XDP_STATISTICS`), by name; absent once the port is closed.
    ///
    /// # Errors
    /// Of `getsockopt(2)`.
    pub fn statistics(&self) -> io::Result<BTreeMap<&'static str, u64>> {
        let read = self.with_fd(|fd| sockopt::xdp_statistics(fd))?;
        let zero = Option::unwrap_or_default;
        Ok(BTreeMap::from([
            ("rx_dropped", read.rx_dropped),
            ("rx_invalid_descs", read.rx_invalid_descs),
            ("tx_invalid_descs", read.tx_invalid_descs),
            ("rx_ring_full", zero(read.rx_ring_full)),
            ("rx_fill_ring_empty_descs", zero(read.rx_fill_ring_empty_descs)),
            ("tx_ring_empty_descs", zero(read.tx_ring_empty_descs)),
        ]))
    }

    /// Error of the worker's last attempt to transmit, until one works: `ENXIO` if the interface
    /// is gone (open a new port), `ENETDOWN` if it is down (it goes on by itself).
    #[must_use]
    pub fn error(&self) -> Option<io::Error> {
        let errno = self.0.upgrade()?.error.load(Relaxed);
        (errno != 0).then(|| io::Error::from_raw_os_error(errno))
    }

    /// Asks the kernel whether the socket is bound to a live interface; nothing is received. The
    /// only way to notice on an interface that just falls silent.
    ///
    /// # Errors
    /// `ENXIO` if the interface is gone, `ENETDOWN` if it is down, `ENOTCONN` if the port is
    /// closed.
    pub fn check(&self) -> io::Result<()> {
        self.with_fd(|fd| recv(fd, &mut [0_u8; 0], RecvFlags::DONTWAIT).map(drop))
    }

    fn with_fd<T>(
        &self,
        ask: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let inner = self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        // SAFETY: `inner` keeps it open for the length of this call.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.fd) };
        Ok(ask(fd)?)
    }
}

/// One attempt.
fn bind(memory: &Memory, interface: &str, queue: u32, zero_copy: bool) -> anyhow::Result<Kept> {
    if !zero_copy && let Some(shared) = memory.share(interface, queue) {
        return shared.map(Kept::Shared);
    }
    register(memory, interface, queue, zero_copy).map(Kept::Own).map_err(anyhow::Error::new)
}

/// A socket that registers the memory for itself.
fn register(memory: &Memory, interface: &str, queue: u32, zero_copy: bool) -> io::Result<OwnedFd> {
    let index = rustix::net::netdevice::name_to_index(
        rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?,
        interface,
    )?;
    let kind = SocketType::RAW;
    let fd = rustix::net::socket_with(AddressFamily::XDP, kind, SocketFlags::CLOEXEC, None)?;
    let ring = memory.ring();
    sockopt::set_xdp_umem_reg(
        &fd,
        XdpUmemReg {
            addr: memory.address(),
            len: u64::from(memory.frames()) * FRAME_SIZE as u64,
            chunk_size: FRAME_SIZE as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        },
    )?;
    sockopt::set_xdp_umem_fill_ring_size(&fd, ring)?;
    sockopt::set_xdp_umem_completion_ring_size(&fd, ring)?;
    sockopt::set_xdp_rx_ring_size(&fd, ring)?;
    sockopt::set_xdp_tx_ring_size(&fd, ring)?;
    let copy =
        if zero_copy { SocketAddrXdpFlags::XDP_ZEROCOPY } else { SocketAddrXdpFlags::XDP_COPY };
    let flags = copy | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    rustix::net::bind(&fd, &SocketAddrXdp::new(flags, index, queue))?;
    Ok(fd)
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: u32) -> io::Result<()> {
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `value` is `len` readable bytes for the length of the call.
    let done = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What to do about an errno of binding.
fn remedy(error: anyhow::Error) -> anyhow::Error {
    let hint = match errno(&error) {
        Some(libc::EBUSY) => "another socket is bound to it; is a second data plane running?",
        Some(libc::EINVAL) => "the interface has fewer queues than there are workers (ethtool -L)",
        Some(libc::ENODEV) => "no such interface",
        Some(libc::EOPNOTSUPP) => "the driver cannot do zero-copy; use copy = \"copy\"",
        Some(libc::EPERM) => "needs CAP_NET_RAW",
        Some(libc::ENOBUFS) => "memory may not be locked: CAP_IPC_LOCK, or raise `ulimit -l`",
        _ => return error,
    };
    error.context(hint)
}

fn pause(step: Duration) {
    // The kernel announces nothing when it has released a queue.
    #[allow(clippy::disallowed_methods)]
    std::thread::sleep(step);
}
