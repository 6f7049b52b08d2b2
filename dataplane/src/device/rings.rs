//! The four rings of an AF_XDP socket, in a mapping of our own.
//!
//! xsk-rs creates, binds and releases the socket; its accessors are calls into C and take no
//! address inside a frame. The ring work is done here, on a second mapping of the same rings, by
//! the worker that owns the port. xsk-rs's own `produce` and `consume` are never called on such a
//! socket.
//!
//! Layout and ordering: `net/xdp/xsk_queue.h` of the kernel.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp;

/// `struct xdp_desc` (`include/uapi/linux/if_xdp.h`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Desc {
    /// Offset in the UMEM.
    pub(super) addr: u64,
    /// Bytes.
    pub(super) len: u32,
    /// Not used.
    pub(super) options: u32,
}

/// What may lie in a ring: plain bytes, any of them valid.
pub(super) trait Entry: Copy {}
impl Entry for Desc {}
impl Entry for u64 {}

/// One mapped ring. Invariant: `producer`, `consumer` and `flags` point to aligned words, and
/// `entries` to `mask + 1` entries, all inside the mapping, which lives until `self` is dropped.
struct Ring<T> {
    mapping: NonNull<u8>,
    len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    /// Our own index; only this process writes it.
    mine: u32,
    /// The kernel's index as last read.
    theirs: u32,
}

// SAFETY: a ring owns its mapping; nothing in it is bound to a thread.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    fn map(fd: BorrowedFd<'_>, at: &xdp::XdpRingOffset, page: u64, size: u32) -> io::Result<Self> {
        assert!(size.is_power_of_two(), "ring sizes are powers of two");
        let flags = at.flags.ok_or(io::ErrorKind::Unsupported)?;
        let len = at.desc as usize + size as usize * size_of::<T>();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let how = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let mapping = unsafe { mmap(std::ptr::null_mut(), len, protection, how, fd, page)? };
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let inside = |offset: u64, bytes: usize| {
            assert!(offset as usize + bytes <= len && offset.is_multiple_of(4));
            // SAFETY: the offset lies inside the mapping, by the line above.
            unsafe { mapping.add(offset as usize) }
        };
        Ok(Self {
            mapping,
            len,
            producer: inside(at.producer, 4).cast(),
            consumer: inside(at.consumer, 4).cast(),
            flags: inside(flags, 4).cast(),
            entries: inside(at.desc, size as usize * size_of::<T>()).cast(),
            mask: size - 1,
            mine: 0,
            theirs: 0,
        })
    }

    #[inline(always)]
    fn word(&self, word: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: `word` is one of the three words of the invariant, and the kernel, like us,
        // accesses them atomically only.
        unsafe { word.as_ref() }
    }

    #[inline(always)]
    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked, so inside the `mask + 1` entries of the invariant.
        unsafe { self.entries.add((index & self.mask) as usize) }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and no reference into it outlives `self`.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.len) };
    }
}

/// A ring the kernel reads: transmit, fill.
pub(super) struct Producer<T: Entry>(Ring<T>);

impl<T: Entry> Producer<T> {
    fn new(mut ring: Ring<T>) -> Self {
        ring.mine = ring.word(ring.producer).load(Relaxed);
        ring.theirs = ring.word(ring.consumer).load(Acquire);
        Self(ring)
    }

    /// Entries that may be pushed.
    #[inline(always)]
    pub(super) fn room(&mut self) -> u32 {
        let ring = &mut self.0;
        if ring.mine.wrapping_sub(ring.theirs) > ring.mask {
            ring.theirs = ring.word(ring.consumer).load(Acquire);
        }
        (ring.mask + 1).saturating_sub(ring.mine.wrapping_sub(ring.theirs))
    }

    /// Appends; false, and nothing appended, if the ring is full. The kernel sees it after
    /// [`Self::submit`].
    #[inline(always)]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.room() == 0 {
            return false;
        }
        // SAFETY: the pointer is inside the ring, and the slot is ours: the consumer is past it.
        unsafe { self.0.entry(self.0.mine).write(entry) };
        self.0.mine = self.0.mine.wrapping_add(1);
        true
    }

    /// Shows the kernel what was pushed.
    #[inline(always)]
    pub(super) fn submit(&mut self) {
        self.0.word(self.0.producer).store(self.0.mine, Release);
    }

    /// Pushed entries the kernel has not taken yet.
    #[inline(always)]
    pub(super) fn unconsumed(&mut self) -> u32 {
        self.0.theirs = self.0.word(self.0.consumer).load(Acquire);
        self.0.mine.wrapping_sub(self.0.theirs)
    }

    /// Whether the kernel wants a system call before it goes on (`XDP_RING_NEED_WAKEUP`).
    #[inline(always)]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.word(self.0.flags).load(Relaxed) & 1 != 0
    }
}

/// A ring the kernel writes: receive, completion.
pub(super) struct Consumer<T: Entry>(Ring<T>);

impl<T: Entry> Consumer<T> {
    fn new(mut ring: Ring<T>) -> Self {
        ring.mine = ring.word(ring.consumer).load(Relaxed);
        ring.theirs = ring.word(ring.producer).load(Acquire);
        Self(ring)
    }

    /// The next entry; the kernel may reuse its slot after [`Self::release`].
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let ring = &mut self.0;
        // SAFETY: inside the ring; the kernel wrote it before its producer index, read with
        // `Acquire`, and leaves it alone until we move the consumer index.
        let entry = unsafe { ring.entry(ring.mine).read() };
        ring.mine = ring.mine.wrapping_add(1);
        Some(entry)
    }

    /// Whether there is nothing to pop.
    #[inline(always)]
    pub(super) fn is_empty(&mut self) -> bool {
        let ring = &mut self.0;
        if ring.mine == ring.theirs {
            ring.theirs = ring.word(ring.producer).load(Acquire);
        }
        ring.mine == ring.theirs
    }

    /// Gives popped slots back.
    #[inline(always)]
    pub(super) fn release(&mut self) {
        self.0.word(self.0.consumer).store(self.0.mine, Release);
    }
}

/// The rings of one socket, each of `size` entries.
pub(super) struct Rings {
    pub(super) rx: Consumer<Desc>,
    pub(super) tx: Producer<Desc>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

impl Rings {
    /// Maps the rings of a socket that has all four, each of `size` entries.
    pub(super) fn map(fd: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        let at = rustix::net::sockopt::xdp_mmap_offsets(fd)?;
        Ok(Self {
            rx: Consumer::new(Ring::map(fd, &at.rx, xdp::XDP_PGOFF_RX_RING, size)?),
            tx: Producer::new(Ring::map(fd, &at.tx, xdp::XDP_PGOFF_TX_RING, size)?),
            fill: Producer::new(Ring::map(fd, &at.fr, xdp::XDP_UMEM_PGOFF_FILL_RING, size)?),
            completion: Consumer::new(Ring::map(
                fd,
                &at.cr,
                xdp::XDP_UMEM_PGOFF_COMPLETION_RING,
                size,
            )?),
            _not_sync: PhantomData,
        })
    }
}
