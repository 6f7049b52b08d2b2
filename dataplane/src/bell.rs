//! Wakes a worker that sleeps: an announcement must not wait for its nap to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// What a worker listens to while it waits for frames. The default is one that is never heard.
#[derive(Debug, Default)]
pub struct Bell(Option<OwnedFd>);

impl Bell {
    /// One that works.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Some(fd)))
    }

    /// Wakes the worker, or keeps it from going to sleep next.
    pub fn ring(&self) {
        if let Some(fd) = &self.0 {
            // It fails only if it has been rung 2^64 times and not heard.
            let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
        }
    }

    /// Makes it silent again; the worker's part.
    pub fn hush(&self) {
        if let Some(fd) = &self.0 {
            // Nothing to read: it was silent.
            let _ = rustix::io::read(fd, &mut [0; 8]);
        }
    }

    /// Readable after it was rung.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}
