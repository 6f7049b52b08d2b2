//! Real-time priority and locked memory for the thread of the heartbeat, as far as the system lets us.
#![allow(unsafe_code, reason = "no safe wrapper has sched_setscheduler")]

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Above everything that has no real-time priority, below everything that has.
const PRIORITY: i32 = 10;
/// Bit of `CAP_IPC_LOCK` (`include/uapi/linux/capability.h`).
const IPC_LOCK: u64 = 1 << 14;

/// What was had of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Granted {
    /// `SCHED_RR`.
    pub(super) realtime: bool,
    /// Memory stays in memory.
    pub(super) locked: bool,
}

/// Asks for both, for the calling thread and its process; what was refused, in words.
pub(super) fn ask() -> (Granted, Vec<String>) {
    let mut refused = Vec::new();
    let realtime = priority(PRIORITY).map_err(|e| {
        refused.push(format!(
            "the heartbeat has no real-time priority ({e}): other programs can delay it; give \
             xvip-control CAP_SYS_NICE, or LimitRTPRIO"
        ));
    });
    let locked = lock().map_err(|e| {
        refused.push(format!(
            "memory is not locked ({e}): swapping can delay the heartbeat; give xvip-control \
             CAP_IPC_LOCK, or LimitMEMLOCK=infinity"
        ));
    });
    (Granted { realtime: realtime.is_ok(), locked: locked.is_ok() }, refused)
}

/// Gives the calling thread that real-time priority.
fn priority(priority: i32) -> std::io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // Children (fencing, checks of type script) must not inherit it.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: pid 0 is the calling thread (`sched_setscheduler(2)`), and `param` lives through the
    // call, which only reads it.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Locks what the process has and will have, each page when it is first used.
fn lock() -> Result<(), String> {
    let unlimited = Rlimit { current: None, maximum: None };
    let raised = setrlimit(Resource::Memlock, unlimited).is_ok();
    // With a limit, locking what is to come makes allocations fail once it is reached.
    if !raised && getrlimit(Resource::Memlock).current.is_some() && !may_lock() {
        return Err("there is a limit on locked memory".to_owned());
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(flags).map_err(|e| e.to_string())
}

fn may_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).is_some_and(|c| c & IPC_LOCK != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_is_so_and_what_is_refused_is_said() {
        // A thread of its own: the others of this process keep their priority.
        let thread = std::thread::spawn(|| {
            let (granted, refused) = ask();
            // Its fields from the third on (`proc(5)`): 40 is the priority, 41 the policy.
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            (granted, refused, fields[40 - 3].to_owned(), fields[41 - 3].to_owned())
        });
        let (granted, refused, priority, policy) = thread.join().unwrap();
        let wanted = if granted.realtime { ("10", "2") } else { ("0", "0") };
        assert_eq!((priority.as_str(), policy.as_str()), wanted);
        let missing = [granted.realtime, granted.locked].iter().filter(|g| !**g).count();
        assert_eq!(refused.len(), missing, "{refused:?}");
    }
}
