//! Giving up privileges once everything that needs them has been set up.
//!
//! | thread | capabilities | system calls |
//! |---|---|---|
//! | at start | all of root's | all |
//! | management | [`STEWARD`] | all but `DENIED`, which fail with `EPERM` |
//! | replication | none | as management |
//! | worker | none | `WORKER` and a few more; `FILES` fail with `EPERM`, the rest kills |
//!
//! Capabilities and filters belong to a thread in Linux, and are inherited by the threads it starts
//! afterwards; each function here works on the calling thread alone.
//!
//! **What this protects.** Workers are what hostile packets reach. One that is made to call the
//! kernel in a way it never should cannot open a file; and if it tries to open a socket, run a
//! program, get executable memory or send data through a descriptor, it dies at that call. No
//! thread can get privileges back (`PR_SET_NO_NEW_PRIVS`, empty bounding set).
//!
//! **What it does not.** Threads share memory. An intruder who can write anywhere from a worker can
//! change what the management thread does, and so gain what that may do: that is why this one is
//! reduced as well. It keeps the network capabilities it works with, the open descriptors, and the
//! files of its user id. Only a process of its own would be a wall; the management thread talks to
//! the kernel so often about the workers' sockets that xvip has none.
//!
//! **Why a worker's mistake kills.** With `EPERM` a bug (or an attack) would go on in a
//! half-working process, and nobody would see it. A death is seen, leaves a core and an audit
//! record, and costs no connection, since the next process adopts the table. An unforeseen call of
//! the C library would kill as well; the tests walk through a worker's life, panic and abort
//! included. Files are the exception: glibc's allocator looks into one when it gives memory back, and a backtrace
//! into several. Both do without.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::clock;

/// Capabilities of the management thread after [`reduce_to_steward`]:
///
/// - `CAP_NET_ADMIN`: resolve neighbours, change how a driver runs XDP;
/// - `CAP_NET_RAW`: open AF_XDP sockets for interfaces that come (back) later;
/// - `CAP_BPF`: make maps; before Linux 5.19 any `bpf` call, where `kernel.unprivileged_bpf_disabled`
///   is set. Pinning is a matter of file permissions. Loading a program takes `CAP_PERFMON` too if
///   it is not to be slowed by Spectre barriers, and therefore happens before;
/// - `CAP_IPC_LOCK`: UMEM of such an interface, beyond `RLIMIT_MEMLOCK`.
pub const STEWARD: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::IPC_LOCK);

/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Lifts the bound on locked memory, as far as allowed: UMEM, maps and the connection table count
/// against it. Returns the bound in force, in bytes; none if there is no bound.
///
/// # Errors
/// If not even the soft bound can be raised to the hard one.
pub fn prepare_limits() -> anyhow::Result<Option<u64>> {
    if rustix::process::setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })
        .is_ok()
    {
        return Ok(None);
    }
    let maximum = rustix::process::getrlimit(Resource::Memlock).maximum;
    rustix::process::setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum })
        .context("cannot raise RLIMIT_MEMLOCK to its hard limit")?;
    Ok(maximum)
}

/// Makes `directory` a place for pinned BPF objects, readable by root alone: creates it if it is
/// missing and mounts a BPF file system on it, unless it lies in one already.
///
/// # Errors
/// If that is not permitted (`CAP_SYS_ADMIN`) or the kernel lacks the file system.
pub fn mount_bpffs(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    if is_bpffs(directory)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", directory, "bpf", flags, c"mode=0700").with_context(|| {
        format!("cannot mount a BPF file system on {}: run as root", directory.display())
    })
}

/// Undoes [`mount_bpffs`], and with it unpins whatever is pinned there. False if `directory` is not
/// the root of a BPF file system. Not possible any more after [`reduce_to_steward`].
///
/// # Errors
/// If it is busy or that is not permitted.
pub fn unmount_bpffs(directory: &Path) -> anyhow::Result<bool> {
    if !directory.exists() || !is_bpffs(directory)? {
        return Ok(false);
    }
    match rustix::mount::unmount(directory, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        // Inside somebody else's mount.
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot unmount {}", directory.display())),
    }
}

fn is_bpffs(directory: &Path) -> anyhow::Result<bool> {
    let status = rustix::fs::statfs(directory)
        .with_context(|| format!("cannot look at {}", directory.display()))?;
    // The width of the field differs between architectures.
    Ok(u64::from((status.f_type as u64 & 0xffff_ffff) as u32) == BPF_FS_MAGIC)
}

/// Leaves the calling thread, and those it starts from now on, the capabilities in [`STEWARD`] and
/// no way to get others, and refuses it the system calls that only an intruder needs.
///
/// Load programs, mount and raise limits before.
///
/// # Errors
/// If the kernel refuses; the thread may then be reduced in part, and the process should end.
pub fn reduce_to_steward() -> anyhow::Result<()> {
    reduce_to(STEWARD)
}

/// The same, without any capability.
///
/// # Errors
/// As [`reduce_to_steward`].
pub fn reduce_to_nothing() -> anyhow::Result<()> {
    reduce_to(CapabilitySet::empty())
}

fn reduce_to(keep: CapabilitySet) -> anyhow::Result<()> {
    limit_capabilities(keep)?;
    rustix::thread::set_no_new_privs(true).context("PR_SET_NO_NEW_PRIVS")?;
    let mut rules: Rules = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    // A new user namespace would bring all capabilities inside it.
    let user = libc::CLONE_NEWUSER as u64;
    let new_user = (0, Width::Qword, Is::MaskedEq(user), user);
    rules.insert(libc::SYS_clone, vec![when(&[&new_user])?]);
    install(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    // Its flags are in memory, where a filter cannot look; the C library then falls back to
    // `clone`.
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    install(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

/// Leaves the calling thread no capability and only the system calls of a poll loop; opening a file
/// fails with `EPERM`, and any other call ends the process with `SIGSYS`.
///
/// The thread must have pinned itself, and sockets and memory must be there; new ones can be handed
/// to it. It may close, unmap and query what it owns, sleep in `poll` or on a futex, kick AF_XDP
/// sockets, use eventfds, allocate, print to standard error, panic and end.
///
/// # Errors
/// If the kernel refuses; the thread may then be confined in part, and the process should end.
pub fn confine_worker() -> anyhow::Result<()> {
    // The first reading of the clock looks for the vDSO, and may open a file for that.
    let _ = clock::now();
    limit_capabilities(CapabilitySet::empty())?;
    rustix::thread::set_no_new_privs(true).context("PR_SET_NO_NEW_PRIVS")?;
    // Of two filters the stricter verdict counts: these have to pass the second to fail softly
    // here.
    let files: Rules = FILES.iter().map(|call| (*call, Vec::new())).collect();
    let mut rules = worker_rules()?;
    rules.extend(files.clone());
    install(files, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    install(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// Sets the capabilities of the calling thread to those of `keep` it has; empties the inheritable,
/// ambient and bounding sets.
fn limit_capabilities(keep: CapabilitySet) -> anyhow::Result<()> {
    let have = rustix::thread::capabilities(None).context("cannot read capabilities")?;
    rustix::thread::clear_ambient_capability_set().context("cannot clear ambient capabilities")?;
    // Emptying the bounding set takes a capability; without it there may be nothing to empty.
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) if have.effective.contains(CapabilitySet::SETPCAP) => {
                rustix::thread::remove_capability_from_bounding_set(capability).with_context(
                    || format!("cannot drop capability {bit} from the bounding set"),
                )?;
            }
            Ok(_) => {}
            // Past the last that this kernel knows.
            Err(_) => break,
        }
    }
    let left = have.permitted.intersection(keep);
    let sets =
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).context("cannot drop capabilities")
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
/// Index of an argument, its width, comparison, and what with.
type Argument = (u8, Width, Is, u64);

/// System calls that the management thread is refused. Not a list of what it may do: its work lies
/// in libraries (libbpf, the C library) whose calls change with their versions, and a refused call
/// there would strand an interface. These none of them needs.
const DENIED: &[i64] = &[
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    // Keys, identities, and ways round file permissions.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    // Interfaces with a long record of kernel bugs.
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// System calls that a worker may make with any arguments.
const WORKER: &[i64] = &[
    // Wait, and be woken.
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // Where the vDSO has no clock.
    libc::SYS_clock_gettime,
    // The allocator, and what a detached interface leaves behind.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_close,
    // `XDP_STATISTICS`, `SO_ERROR`; reads only.
    libc::SYS_getsockopt,
    // Seeds of hash maps and of the allocator.
    libc::SYS_getrandom,
    // Ending, and dying: a signal to this very thread's process, see below.
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// System calls that a worker is refused without being killed for them. glibc's allocator reads
/// `/proc/sys/vm/overcommit_memory` before it shrinks a heap (`check_may_shrink_heap`,
/// malloc/arena.c), and panics look for debug information; none of them minds being refused.
const FILES: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

fn worker_rules() -> anyhow::Result<Rules> {
    let mut rules: Rules = WORKER.iter().map(|call| (*call, Vec::new())).collect();
    // Kicks of AF_XDP sockets carry no data (`net/xdp/xsk.c`); nothing else can be sent or
    // received.
    let no_data = (2, Width::Qword, Is::Eq, 0);
    rules.insert(libc::SYS_sendto, vec![when(&[&no_data, &(4, Width::Qword, Is::Eq, 0)])?]);
    rules.insert(libc::SYS_recvfrom, vec![when(&[&no_data])?]);
    // An eventfd moves eight bytes; standard error takes the message of a panic.
    let eight = (2, Width::Qword, Is::Eq, 8);
    rules.insert(libc::SYS_read, vec![when(&[&eight])?]);
    let stderr = (0, Width::Dword, Is::Eq, libc::STDERR_FILENO as u64);
    rules.insert(libc::SYS_write, vec![when(&[&eight])?, when(&[&stderr])?]);
    rules.insert(libc::SYS_writev, vec![when(&[&stderr])?]);
    // The standard library's check of a descriptor that it closes, in debug builds.
    let get_flags = (1, Width::Dword, Is::Eq, libc::F_GETFD as u64);
    rules.insert(libc::SYS_fcntl, vec![when(&[&get_flags])?]);
    // Memory, but never executable.
    let exec = libc::PROT_EXEC as u64;
    let data = (2, Width::Qword, Is::MaskedEq(exec), 0);
    rules.insert(libc::SYS_mmap, vec![when(&[&data])?]);
    rules.insert(libc::SYS_mprotect, vec![when(&[&data])?]);
    // `abort` signals the thread that calls it.
    let process = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let own = (0, Width::Dword, Is::Eq, u64::from(process));
    rules.insert(libc::SYS_tgkill, vec![when(&[&own])?]);
    // Names of mappings and threads; seccomp and capabilities are out of reach of these.
    let name = |option: i32| (0, Width::Dword, Is::Eq, option as u64);
    rules.insert(
        libc::SYS_prctl,
        vec![when(&[&name(libc::PR_SET_VMA)])?, when(&[&name(libc::PR_SET_NAME)])?],
    );
    Ok(rules)
}

/// A rule that matches if every argument does.
fn when(arguments: &[&Argument]) -> anyhow::Result<SeccompRule> {
    let conditions = arguments
        .iter()
        .map(|(index, width, is, value)| {
            SeccompCondition::new(*index, width.clone(), is.clone(), *value)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}

/// Compiles a filter and installs it on the calling thread.
fn install(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> anyhow::Result<()> {
    let architecture = std::env::consts::ARCH.try_into().context("seccomp: architecture")?;
    let filter = SeccompFilter::new(rules, otherwise, matched, architecture)?;
    let program: seccompiler::BpfProgram = filter.try_into().context("seccomp: filter")?;
    seccompiler::apply_filter(&program).context("seccomp: cannot install the filter")
}
