//! The programs of `bpf/` in the kernel: loaded, attached, and gone with the value.
//!
//! Runs on the thread that sets up and ends a run. The one file here that talks to libbpf past
//! `libbpf-rs`, which can neither choose the mode of an XDP link nor ask what is attached.
#![allow(unsafe_code)]

pub mod data;
pub mod image;
pub mod layout;

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, bail, ensure};
use libbpf_rs::{
    MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, PrintLevel, ProgramMut,
    set_print,
};
use libbpf_sys as sys;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Queues of an interface that can have a socket (`bpf/receive.bpf.c`).
pub const QUEUES: u32 = 64;

/// Number of the loopback interface in every namespace.
const LOOPBACK: u32 = 1;

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the driver if it can, else on socket buffers.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// On socket buffers.
    Generic,
}

impl Mode {
    /// Its name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The program that hands the traffic of an interface to AF_XDP sockets.
pub struct Receive {
    sockets: MapHandle,
    mode: Mode,
    link: OwnedFd,
}

impl Receive {
    /// Attaches it. TCP and UDP, also in IP tunnels, go to the sockets of their queues, everything
    /// else and what comes on other queues to the kernel.
    ///
    /// # Errors
    /// If the interface is gone or has an XDP program, or the kernel or the driver cannot do it.
    pub fn attach(ifindex: u32, mode: Mode) -> anyhow::Result<Self> {
        let object = load(include_bytes!(concat!(env!("OUT_DIR"), "/receive.bpf.o")), |_| Ok(()))?;
        let sockets = map(&object, "sockets")?;
        let (link, mode) = link_xdp(program(&object, "receive")?.as_fd(), ifindex, mode)?;
        Ok(Self { sockets, mode, link })
    }

    /// Sends what comes in on `queue` to the AF_XDP socket `fd`, until either is closed.
    ///
    /// # Errors
    /// If the queue is not below [`QUEUES`] or `fd` is not an AF_XDP socket.
    pub fn set_socket(&self, queue: u32, fd: BorrowedFd<'_>) -> anyhow::Result<()> {
        ensure!(queue < QUEUES, "queue {queue}: only the first {QUEUES} can have a socket");
        let fd = fd.as_raw_fd().cast_unsigned();
        self.sockets
            .update(&queue.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
            .with_context(|| format!("giving queue {queue} its socket"))
    }

    /// Where it runs: never [`Mode::Auto`].
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        unlink(&self.link);
    }
}

/// The kernel's reasons since the last [`load`] began; the verifier's verdict is among them.
static SAID: Mutex<String> = Mutex::new(String::new());

fn keep(_: PrintLevel, message: String) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    // The verifier's log comes in one piece; what matters stands at its end.
    let lines: Vec<&str> = message.lines().collect();
    for line in &lines[lines.len().saturating_sub(12)..] {
        if said.len() < 4096 {
            said.push_str(line);
            said.push('\n');
        }
    }
}

/// Loads a compiled object: creates its maps, has its programs verified.
fn load(
    elf: &[u8],
    prepare: impl FnOnce(&mut OpenObject) -> anyhow::Result<()>,
) -> anyhow::Result<Object> {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        set_print(Some((PrintLevel::Warn, keep)));
    });
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut object = ObjectBuilder::default().open_memory(elf)?;
    prepare(&mut object)?;
    object.load().map_err(|error| {
        let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        let hint = match error.kind() {
            libbpf_rs::ErrorKind::PermissionDenied => "; it needs root",
            _ => "",
        };
        anyhow::anyhow!("the kernel refused the program{hint}: {error}\n{}", said.trim_end())
    })
}

fn map(object: &Object, name: &str) -> anyhow::Result<MapHandle> {
    let found = object.maps().find(|map| map.name() == name);
    let found = found.with_context(|| format!("the object has no map {name}"))?;
    MapHandle::try_from(&found).with_context(|| format!("map {name}"))
}

fn program<'a>(object: &'a Object, name: &str) -> anyhow::Result<ProgramMut<'a>> {
    let found = object.progs_mut().find(|program| program.name() == name);
    found.with_context(|| format!("the object has no program {name}"))
}

/// Attaches an XDP program to an interface for as long as the result is open.
fn link_xdp(program: BorrowedFd<'_>, ifindex: u32, mode: Mode) -> anyhow::Result<(OwnedFd, Mode)> {
    let wanted: &[Mode] = match mode {
        Mode::Auto => &[Mode::Native, Mode::Generic],
        Mode::Native => &[Mode::Native],
        Mode::Generic => &[Mode::Generic],
    };
    let mut refusal = io::Error::from_raw_os_error(95);
    for &mode in wanted {
        match try_link(program, ifindex, mode) {
            Ok(link) => return Ok((link, mode)),
            // In this mode, or (EEXIST) in the other one.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::AlreadyExists
                ) =>
            {
                let who = attached(ifindex).map(|id| format!(" (number {id})")).unwrap_or_default();
                bail!(
                    "interface {ifindex} has an XDP program already{who}: does another generator \
                     or a balancer run on it? `ip link` shows it, `ip link set IF xdp off` \
                     removes it"
                );
            }
            Err(error) => refusal = error,
        }
    }
    Err(refusal).with_context(|| format!("attaching to interface {ifindex}, {} mode", mode.name()))
}

fn try_link(program: BorrowedFd<'_>, ifindex: u32, mode: Mode) -> io::Result<OwnedFd> {
    let mut options = sys::bpf_link_create_opts {
        sz: size_of::<sys::bpf_link_create_opts>() as sys::size_t,
        ..Default::default()
    };
    options.flags = match mode {
        Mode::Generic => sys::XDP_FLAGS_SKB_MODE,
        _ => sys::XDP_FLAGS_DRV_MODE,
    };
    let (program, target) = (program.as_raw_fd(), ifindex.cast_signed());
    // SAFETY: `options` is initialised and says its size; both numbers are passed by value.
    let fd =
        done(unsafe { sys::bpf_link_create(program, target, sys::BPF_XDP, &raw const options) })?;
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Number of the XDP program on an interface, if there is one and the kernel tells.
fn attached(ifindex: u32) -> Option<u32> {
    let mut options = sys::bpf_xdp_query_opts {
        // Up to here: more would make libbpf ask for features, over generic netlink.
        sz: offset_of!(sys::bpf_xdp_query_opts, feature_flags) as sys::size_t,
        ..Default::default()
    };
    // SAFETY: `options` is initialised and has at least the size it says.
    done(unsafe { sys::bpf_xdp_query(ifindex.cast_signed(), 0, &raw mut options) }).ok()?;
    [options.drv_prog_id, options.skb_prog_id, options.hw_prog_id, options.prog_id]
        .into_iter()
        .find(|&id| id != 0)
}

/// Keeps a program among those that the kernel calls directly.
///
/// Else every test run puts it there and takes it away, and waits for all processors both times
/// (`bpf_dispatcher_change_prog`): 10 to 30 ms, in which nothing is sent.
struct Ready {
    link: OwnedFd,
    _namespace: File,
}

impl Ready {
    /// Attaches the program where it never runs: to the loopback of an empty namespace.
    fn new(program: BorrowedFd<'_>) -> anyhow::Result<Self> {
        let attach = || {
            // SAFETY: a network namespace of its own changes nothing about this thread's memory
            // and descriptors; the thread ends right after.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            let namespace = File::open("/proc/thread-self/ns/net")?;
            Ok(Self { link: try_link(program, LOOPBACK, Mode::Generic)?, _namespace: namespace })
        };
        let attached = std::thread::scope(|scope| scope.spawn(attach).join());
        let attached: io::Result<Self> =
            attached.map_err(|_| anyhow::anyhow!("the attaching thread has panicked"))?;
        attached.context("attaching the program in a namespace of its own")
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        unlink(&self.link);
    }
}

/// Detaches. Closing would not do while a child just forked has the link open too.
fn unlink(link: &OwnedFd) {
    // SAFETY: an open descriptor.
    unsafe { sys::bpf_link_detach(link.as_raw_fd()) };
}

/// Runs an XDP program `repeat` times in the kernel on frames that begin as copies of `frame` and
/// come back to it with what it wrote; those it redirects leave (`BPF_F_TEST_XDP_LIVE_FRAMES`,
/// Linux 5.18). They go out after each `batch` runs. A signal ends it early, which is no error.
fn run_live(program: BorrowedFd<'_>, frame: &[u8], repeat: u32, batch: u32) -> io::Result<()> {
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        repeat: repeat.cast_signed(),
        flags: sys::BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..Default::default()
    };
    // SAFETY: `frame` has as many bytes as said and outlives the call; nothing is written back.
    match done(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

fn done(result: i32) -> io::Result<i32> {
    if result >= 0 { Ok(result) } else { Err(io::Error::from_raw_os_error(-result)) }
}
