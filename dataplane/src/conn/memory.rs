//! Memory of the table: anonymous, or a file in shared memory that outlives the process.
//!
//! Everything is there before the first packet: no page is faulted in later, and a file system
//! without room is an error here and not a `SIGBUS` there. The only unsafe code of the table.
#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
#[cfg(not(loom))]
use std::{fs::File, ptr::NonNull};

#[cfg(not(loom))]
use rustix::fs::{FallocateFlags, fallocate};
#[cfg(not(loom))]
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

#[cfg(not(loom))]
use super::sync::{AtomicU32, AtomicU64, Line};

/// The kernel did not give the memory.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes of memory for the connection table are not to be had: {source}")]
pub struct Unavailable {
    bytes: usize,
    source: io::Error,
}

/// Size of a huge page on the machines we know; alignment and size are rounded to it so that the
/// kernel can use them.
#[cfg(not(loom))]
pub(super) const HUGE: usize = 2 << 20;
/// Smallest page.
#[cfg(not(loom))]
const PAGE: usize = 4096;

/// Types for which every pattern of bits is a value, and which are shared safely: atomics.
///
/// # Safety
/// As said; and the alignment is at most a page.
#[cfg(not(loom))]
pub(super) unsafe trait Plain: Sync {}
#[cfg(not(loom))]
// SAFETY: integers have no invalid value, atomics may be shared.
unsafe impl Plain for AtomicU32 {}
#[cfg(not(loom))]
// SAFETY: as above.
unsafe impl Plain for AtomicU64 {}
#[cfg(not(loom))]
// SAFETY: eight `AtomicU64`, `repr(C)`, no padding, aligned to 64.
unsafe impl Plain for Line {}
#[cfg(loom)]
pub(super) trait Plain: Default {}
#[cfg(loom)]
impl<T: Default> Plain for T {}

/// A fixed array of atomics, with an optional header of the same type in front.
#[cfg(not(loom))]
#[derive(Debug)]
pub(super) struct Region<T> {
    /// What `munmap` gets.
    mapping: (NonNull<u8>, usize),
    /// First of `header + count` elements, all inside the mapping.
    first: NonNull<T>,
    header: usize,
    count: usize,
    /// Keeps the lock on the file.
    _file: Option<File>,
}

// SAFETY: a region is an owned array of `T`, which are shared atomics (`Plain`); the pointers never
// change and are unmapped only when the owner drops it.
#[cfg(not(loom))]
unsafe impl<T: Plain + Send> Send for Region<T> {}
// SAFETY: as above.
#[cfg(not(loom))]
unsafe impl<T: Plain> Sync for Region<T> {}

#[cfg(not(loom))]
impl<T: Plain> Region<T> {
    /// `count` zeroed elements, on huge pages where the kernel has some.
    pub(super) fn anonymous(count: usize) -> Result<Self, Unavailable> {
        let region = Self::reserve(count)?;
        region.fault_in((count * size_of::<T>()).max(1));
        Ok(region)
    }

    /// `count` zeroed elements that take memory only where they are used, at the price of a page
    /// fault each time that a page is used first.
    pub(super) fn reserve(count: usize) -> Result<Self, Unavailable> {
        let bytes = (count * size_of::<T>()).max(1);
        let fail = |source: rustix::io::Errno| Unavailable { bytes, source: source.into() };
        let flags = MapFlags::PRIVATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let base = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            mmap_anonymous(std::ptr::null_mut(), spare(bytes), access, flags)
        };
        let base = mapped(base).map_err(fail)?;
        Ok(Self::inside(base, bytes, 0, count))
    }

    /// The first `bytes` of a file: `header` elements, then `count`. The file gets that size.
    pub(super) fn file(
        file: File,
        bytes: usize,
        header: usize,
        count: usize,
    ) -> Result<Self, Unavailable> {
        assert!((header + count) * size_of::<T>() <= bytes, "the elements fit into the file");
        let fail = |source: rustix::io::Errno| Unavailable { bytes, source: source.into() };
        // SAFETY: as in `anonymous`; it only reserves addresses, aligned for huge pages.
        let base = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            mmap_anonymous(std::ptr::null_mut(), spare(bytes), ProtFlags::empty(), flags)
        };
        let base = mapped(base).map_err(fail)?;
        let mut region = Self::inside(base, bytes, header, count);
        // SAFETY: replaces part of the reservation above, which `region` owns and nobody uses yet:
        // `inside` saw to it that `bytes` from `first` on lie in it.
        unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            mmap(region.first.as_ptr().cast(), bytes, access, flags, &file, 0).map_err(fail)?;
        }
        // First through the mapping, for only that can give huge pages; it fails without a signal
        // if there is no room. Then by the file, which says why.
        let faulted = region.advise(bytes);
        fallocate(&file, FallocateFlags::empty(), 0, bytes as u64).map_err(fail)?;
        if !faulted {
            region.touch(bytes);
        }
        region._file = Some(file);
        Ok(region)
    }

    fn inside(base: NonNull<u8>, bytes: usize, header: usize, count: usize) -> Self {
        let start = base.addr().get();
        let offset = if bytes >= HUGE { start.next_multiple_of(HUGE) - start } else { 0 };
        // SAFETY: `spare` made the mapping longer by as much as alignment can cost.
        let first = unsafe { base.add(offset) }.cast();
        Self { mapping: (base, spare(bytes)), first, header, count, _file: None }
    }

    fn fault_in(&self, bytes: usize) {
        if !self.advise(bytes) {
            self.touch(bytes);
        }
    }

    /// Asks for huge pages and for all pages now; whether the latter succeeded.
    fn advise(&self, bytes: usize) -> bool {
        let start = self.first.as_ptr().cast();
        // SAFETY: advice about our own mapping; neither kind changes what it contains.
        unsafe {
            // A kernel without them serves small pages: slower, and right.
            let _ = madvise(start, bytes, Advice::LinuxHugepage);
            madvise(start, bytes, Advice::LinuxPopulateWrite).is_ok()
        }
    }

    /// Writes to every page without changing it, for kernels before 5.14.
    fn touch(&self, bytes: usize) {
        for offset in (0..bytes).step_by(PAGE) {
            // SAFETY: inside the mapping, aligned to a page, and every pattern is an `AtomicU64`.
            let word = unsafe { self.first.cast::<AtomicU64>().byte_add(offset).as_ref() };
            word.fetch_or(0, super::sync::Ordering::Relaxed);
        }
    }

    pub(super) fn header(&self) -> &[T] {
        // SAFETY: `first` starts `header + count` elements inside the mapping, which lives as long
        // as `self`; any bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.header) }
    }
}

#[cfg(not(loom))]
impl<T> Deref for Region<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: as in `header`.
        unsafe { std::slice::from_raw_parts(self.first.add(self.header).as_ptr(), self.count) }
    }
}

#[cfg(not(loom))]
impl<T> Drop for Region<T> {
    fn drop(&mut self) {
        let (base, bytes) = self.mapping;
        // SAFETY: the whole mapping is ours, and borrows of it end with `self`. It cannot fail for a
        // mapping that exists; if it did, it would leak.
        let _ = unsafe { munmap(base.as_ptr().cast(), bytes) };
    }
}

#[cfg(not(loom))]
fn mapped(base: rustix::io::Result<*mut core::ffi::c_void>) -> rustix::io::Result<NonNull<u8>> {
    NonNull::new(base?.cast()).ok_or(rustix::io::Errno::NOMEM)
}

/// Length of a mapping in which `bytes` can be aligned.
#[cfg(not(loom))]
fn spare(bytes: usize) -> usize {
    if bytes >= HUGE { bytes.next_multiple_of(HUGE) + HUGE } else { bytes }
}

/// Secret random numbers.
///
/// # Errors
/// If the kernel has no random numbers.
#[cfg(not(loom))]
pub(super) fn random<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0_u64; N];
    let bytes = size_of_val(&words);
    // SAFETY: the buffer is ours and that long.
    let got = unsafe { libc::getrandom(words.as_mut_ptr().cast(), bytes, 0) };
    if usize::try_from(got) == Ok(bytes) { Ok(words) } else { Err(io::Error::last_os_error()) }
}

/// loom's atomics cannot lie in a mapping.
#[cfg(loom)]
#[derive(Debug)]
pub(super) struct Region<T>(Box<[T]>);

#[cfg(loom)]
impl<T: Plain> Region<T> {
    pub(super) fn reserve(count: usize) -> Result<Self, Unavailable> {
        Self::anonymous(count)
    }

    pub(super) fn anonymous(count: usize) -> Result<Self, Unavailable> {
        Ok(Self((0..count).map(|_| T::default()).collect()))
    }
}

#[cfg(loom)]
impl<T> Deref for Region<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}
