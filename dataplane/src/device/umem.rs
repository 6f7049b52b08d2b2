//! The frames of a worker, in a UMEM that outlives every interface.
//!
//! Sockets can share a UMEM only with a socket that is bound, and a socket whose interface goes
//! away is unbound for good. So the UMEM hangs on an anchor that cannot go away: a socket on the
//! loopback of a nameless network namespace, which that socket keeps alive. Ports come and go
//! beside it, and need no new pinning of memory (no `CAP_IPC_LOCK`).
//!
//! Sockets that share a UMEM are all copying or all zero-copy. A zero-copy port therefore registers
//! the same memory once more, for itself; that is charged against `RLIMIT_MEMLOCK` unless the
//! process has `CAP_IPC_LOCK`. The same way is taken where no namespace may be made.
#![allow(unsafe_code)]

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use rustix::thread::UnshareFlags;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use crate::limits::FRAME_SIZE;

pub(super) type Queues = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// The frames of one worker (a UMEM of [`FRAME_SIZE`]-byte chunks). A handle, cheap to clone; the
/// memory lives as long as any handle, port or device on it.
#[derive(Clone)]
pub struct Memory(Arc<MemoryInner>);

struct MemoryInner {
    umem: Mutex<Umem>,
    /// Keeps the UMEM bound; `None` where no namespace could be made for it.
    anchor: Option<Mutex<Queues>>,
    base: NonNull<u8>,
    frames: u32,
    ring: u32,
    taken: AtomicBool,
}

// SAFETY: `base` is an address of a shared mapping that `umem` keeps; it is bound to no thread, and
// the frames behind it are handed out by `Memory::chunk` only, whose caller vouches for them.
unsafe impl Send for MemoryInner {}
// SAFETY: as above; everything else in it is `Sync` by itself.
unsafe impl Sync for MemoryInner {}

impl Memory {
    /// Allocates and pins `frames` frames, at least 64. Every ring of every port will have `ring`
    /// entries, a power of two from 64 to 32,768.
    ///
    /// A port holds at most `ring` frames for receiving and `ring` for sending: with
    /// `2 * ring` frames for each port and 64 more, none can starve another.
    ///
    /// Needs `CAP_NET_RAW` and, beyond `RLIMIT_MEMLOCK`, `CAP_IPC_LOCK`; with `CAP_SYS_ADMIN` ports
    /// can be opened later without either limit (see the head of this module's source).
    ///
    /// # Errors
    /// Sizes out of range, or what the kernel refused.
    pub fn new(frames: u32, ring: u32) -> anyhow::Result<Self> {
        ensure!(
            ring.is_power_of_two() && (64..=32_768).contains(&ring),
            "ring of {ring} entries: expected a power of two from 64 to 32768"
        );
        let Some(count) = NonZeroU32::new(frames).filter(|n| n.get() >= 64) else {
            bail!("{frames} frames: expected at least 64");
        };
        // A socket belongs to the namespace of the thread that made it, so the UMEM's own socket
        // is made on a thread that has left ours.
        let made = std::thread::spawn(move || anchored(count, ring)).join();
        let (umem, Base(base), anchor) = match made {
            Ok(made) => made?,
            Err(_) => bail!("the thread that allocates frames died"),
        };
        Ok(Self(Arc::new(MemoryInner {
            umem: Mutex::new(umem),
            anchor: anchor.map(Mutex::new),
            base,
            frames,
            ring,
            taken: AtomicBool::new(false),
        })))
    }

    /// How many frames it has.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.0.frames
    }

    /// Entries of each ring.
    #[must_use]
    pub fn ring(&self) -> u32 {
        self.0.ring
    }

    /// Whether both are handles of the same memory.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// True for the first caller only: there is one owner of the frames.
    pub(super) fn take(&self) -> bool {
        !self.0.taken.swap(true, AcqRel)
    }

    /// A socket that shares the UMEM with the anchor; `None` if there is no anchor.
    pub(super) fn share(&self, interface: &str, queue: u32) -> Option<anyhow::Result<Queues>> {
        self.0.anchor.as_ref()?;
        let umem = self.0.umem.lock().unwrap_or_else(PoisonError::into_inner);
        Some(socket(&umem, interface, queue, self.ring()))
    }

    /// Where it begins, as the kernel is told.
    pub(super) fn address(&self) -> u64 {
        self.0.base.as_ptr().expose_provenance() as u64
    }

    /// The bytes of frame `index`.
    ///
    /// # Safety
    /// The frame must be with the caller: not in a ring, not with the kernel, and no other slice
    /// of it alive.
    ///
    /// # Panics
    /// If there is no such frame.
    #[inline(always)]
    pub(super) unsafe fn chunk<'a>(&self, index: u32) -> &'a mut [u8] {
        assert!(index < self.0.frames);
        // SAFETY: inside the mapping of `frames * FRAME_SIZE` bytes, by the line above; exclusive,
        // by the caller's promise. The device that calls this keeps a handle, so it stays mapped.
        unsafe {
            let start = self.0.base.add(index as usize * FRAME_SIZE);
            std::slice::from_raw_parts_mut(start.as_ptr(), FRAME_SIZE)
        }
    }
}

/// An address of the UMEM, on its way from the thread that made it.
struct Base(NonNull<u8>);

// SAFETY: see `MemoryInner`.
unsafe impl Send for Base {}

/// The UMEM, and its anchor if a namespace could be made. Runs on a thread of its own.
fn anchored(frames: NonZeroU32, ring: u32) -> anyhow::Result<(Umem, Base, Option<Queues>)> {
    // SAFETY: the network namespace is this thread's alone, and no descriptor depends on it.
    let apart = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.is_ok();
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(FRAME_SIZE as u32)?)
        .fill_queue_size(QueueSize::new(ring)?)
        .comp_queue_size(QueueSize::new(ring)?)
        .build()?;
    let (umem, descs) =
        Umem::new(config, frames, false).map_err(with_cause).with_context(|| {
            let bytes = u64::from(frames.get()) * FRAME_SIZE as u64;
            format!("{bytes} bytes of frames: needs CAP_NET_RAW, and CAP_IPC_LOCK or `ulimit -l`")
        })?;
    let first = descs.first().context("a UMEM without frames")?;
    // SAFETY: a frame of this very UMEM, and nothing is read: only the address is taken.
    let data = unsafe { umem.data(first) }.contents().as_ptr().expose_provenance();
    let base = std::ptr::with_exposed_provenance_mut(data - first.addr());
    let base = NonNull::new(base).context("a UMEM at address zero")?;
    let anchor = apart.then(|| socket(&umem, "lo", 0, ring)).transpose();
    let anchor = anchor.context("socket that keeps the frames bound")?;
    Ok((umem, Base(base), anchor))
}

/// An xsk-rs socket without a program of its own.
fn socket(umem: &Umem, interface: &str, queue: u32, ring: u32) -> anyhow::Result<Queues> {
    let config = SocketConfig::builder()
        .rx_queue_size(QueueSize::new(ring)?)
        .tx_queue_size(QueueSize::new(ring)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let name: Interface = interface.parse().context("interface name with a NUL byte")?;
    // SAFETY: the program load is inhibited, which is all that is asked for.
    unsafe { Socket::new(config, umem, &name, queue) }.map_err(with_cause)
}

/// xsk-rs keeps the errno in `source()`; brought to the front, so that it can be matched on.
fn with_cause(error: impl Error + Send + Sync + 'static) -> anyhow::Error {
    match error.source().and_then(|e| e.downcast_ref::<io::Error>()).and_then(|e| e.raw_os_error())
    {
        Some(errno) => anyhow::Error::new(io::Error::from_raw_os_error(errno)),
        None => anyhow::Error::new(error),
    }
}

pub(super) fn errno(error: &anyhow::Error) -> Option<i32> {
    error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
}
