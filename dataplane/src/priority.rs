//! Real-time priority for the threads that take leases: a data plane that answers late is taken for
//! dead, and its peer takes over.
//!
//! Each function works on the calling thread; threads inherit what the one that starts them has.
#![allow(unsafe_code, reason = "no safe wrapper has sched_setscheduler")]

use std::io;

/// Below the heartbeat's, which has to be able to notice that no answer comes.
const PRIORITY: i32 = 5;

/// Before everything that has no real-time priority, poll loops included (`SCHED_RR`, `sched(7)`): what
/// runs so has to be short.
///
/// # Errors
/// Without `CAP_SYS_NICE` and an allowance in `RLIMIT_RTPRIO`.
pub fn realtime() -> io::Result<()> {
    set(libc::SCHED_RR, PRIORITY)
}

/// One among all again. Always permitted.
///
/// # Errors
/// None that the kernel documents.
pub fn ordinary() -> io::Result<()> {
    set(libc::SCHED_OTHER, 0)
}

fn set(policy: i32, priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: pid 0 is the calling thread (`sched_setscheduler(2)`), and `param` lives through the
    // call, which only reads it.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
