//! Reduced threads against a real kernel, each in a process of its own.
//!
//! Needs root. Without it the tests say so and pass; with `REQUIRE_NETNS=1` that fails.
//! A case is a child process: this test binary again, told by a variable what to do.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(unsafe_code)]

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, socket};
use rustix::process::{Resource, Rlimit};
use rustix::thread::UnshareFlags;

use dataplane::privilege::{
    STEWARD, confine_worker, mount_bpffs, prepare_limits, reduce_to_steward, unmount_bpffs,
};

const CASE: &str = "XVIP_PRIVILEGE_CASE";
const SIGSYS: i32 = 31;
const EPERM: i32 = 1;

/// What a child does; each name is that of a case below.
fn carry_out(case: &str) {
    match case {
        "worker-status" => worker(|| print_status("worker")),
        "worker-loop" => {
            // Made before, as by the management thread; `AF_XDP` is 44.
            let xdp = socket(AddressFamily::from_raw(44), SocketType::RAW, None).unwrap();
            let event = eventfd(0, EventfdFlags::empty()).unwrap();
            worker(move || {
                poll_loop();
                kick(&xdp);
                rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
                rustix::io::read(&event, &mut [0; 8]).unwrap();
                drop((xdp, event));
                eprintln!("worker has run");
            });
        }
        "worker-panic" => {
            worker(|| {
                let caught = std::panic::catch_unwind(|| panic!("a bug"));
                assert!(caught.is_err());
            });
        }
        "worker-abort" => worker(|| std::process::abort()),
        "worker-open" => worker(|| {
            let error = fs::File::open("/etc/hostname").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(EPERM));
            assert!(fs::metadata("/etc/hostname").is_err());
        }),
        "worker-socket" => worker(|| drop(UdpSocket::bind("127.0.0.1:0"))),
        "worker-exec" => worker(|| drop(Command::new("true").status())),
        "worker-thread" => worker(|| drop(std::thread::spawn(|| {}))),
        "worker-send" => {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let to = socket.local_addr().unwrap();
            worker(move || drop(socket.send_to(b"stolen", to)));
        }
        "worker-write" => {
            let mut file = tempfile::tempfile().unwrap();
            worker(move || drop(file.write(b"more than eight bytes")));
        }
        "worker-exec-memory" => worker(executable_memory),
        "steward-status" => steward(|| print_status("steward")),
        "steward-denied" => steward(|| {
            let refused = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(EPERM));
            refused(Command::new("/bin/true").status().unwrap_err());
            refused(rustix::process::chroot("/").unwrap_err().into());
            refused(unmount_error());
            assert!(reduce_to_steward().is_ok(), "twice is once");
        }),
        "steward-works" => steward(steward_works),
        "steward-attaches" => {
            let place = tempfile::tempdir().unwrap();
            // SAFETY: affects the network of this thread and those it starts, and no descriptors.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            assert!(
                Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success()
            );
            mount_bpffs(place.path()).unwrap();
            let (program, map) = (load_program(), make_map());
            let pin = place.path().join("link");
            let work = move || steward(move || attach_later(program, map, &pin));
            let outcome = std::panic::catch_unwind(work);
            assert!(unmount_bpffs(place.path()).unwrap());
            outcome.unwrap();
        }
        "steward-starts-worker" => steward(|| worker(|| print_status("worker"))),
        other => panic!("no such case: {other}"),
    }
}

/// Runs `work` on a confined thread, and waits for it.
fn worker(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("worker".into());
    let run = || {
        confine_worker().unwrap();
        work();
    };
    thread.spawn(run).unwrap().join().unwrap();
}

fn steward(work: impl FnOnce() + Send + 'static) {
    let run = || {
        reduce_to_steward().unwrap();
        work();
    };
    std::thread::spawn(run).join().unwrap();
}

/// Prints what the kernel says of the calling thread; a worker has to ask another for that.
fn print_status(name: &'static str) {
    let tid = rustix::thread::gettid().as_raw_nonzero();
    if name == "steward" {
        let status = fs::read(format!("/proc/self/task/{tid}/status")).unwrap();
        std::io::stdout().write_all(&status).unwrap();
        return;
    }
    // Eight bytes to standard error: all a worker can say.
    eprint!("{tid:>8}");
    std::thread::park_timeout(Duration::from_millis(1500));
}

/// All that a worker does in its life: waits, allocates, locks, kicks, frees.
fn poll_loop() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut kept = Vec::new();
    for turn in 0..200usize {
        kept.push(vec![turn as u8; 1 << (turn % 20)]);
        if turn % 3 == 0 {
            kept.swap_remove(turn % kept.len());
        }
    }
    let mut map = std::collections::HashMap::new();
    map.insert(1, "seeded by getrandom");
    let nothing = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let stderr = std::io::stderr();
    let _ = poll(&mut [PollFd::new(&stderr, PollFlags::IN)], Some(&nothing)).unwrap();
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let guard = pair.0.lock().unwrap();
    drop(pair.1.wait_timeout(guard, Duration::from_millis(2)).unwrap());
    std::thread::park_timeout(Duration::from_millis(2));
    std::thread::yield_now();
    assert!(dataplane::clock::now().nanos() > 0);
}

/// Wakes the kernel for transmission and for reception. The socket is not bound, so that both fail,
/// but they reach it.
fn kick(xdp: &OwnedFd) {
    let error = rustix::net::send(xdp, &[], SendFlags::DONTWAIT).unwrap_err();
    assert_eq!(error, rustix::io::Errno::NXIO);
    let nothing: &mut [u8] = &mut [];
    assert!(rustix::net::recv(xdp, nothing, RecvFlags::DONTWAIT).is_err());
    assert_eq!(rustix::net::sockopt::socket_error(xdp).unwrap(), Ok(()));
}

/// What the management thread still has to be able to do after it was reduced.
fn steward_works() {
    use dataplane::kernel::Monitor;
    // Netlink, sysfs, files, sockets, threads.
    let mut monitor = Monitor::open().unwrap();
    monitor.follow(["lo"]);
    assert!(monitor.dump().unwrap().link_named("lo").is_some());
    assert!(monitor.route([127, 0, 0, 1].into(), 0).unwrap().is_some());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.socket");
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    // An AF_XDP socket, for an interface that comes later.
    socket(AddressFamily::from_raw(44), SocketType::RAW, None).unwrap();
}

/// An XDP program that passes everything; loaded while privileged.
fn load_program() -> i32 {
    let instruction = |code, imm| libbpf_sys::bpf_insn { code, imm, ..Default::default() };
    // r0 = XDP_PASS; exit
    let program = [instruction(0xb7, 2), instruction(0x95, 0)];
    // SAFETY: name, licence and instructions live across the call; no options is allowed.
    let fd = unsafe {
        let (name, licence) = (c"pass".as_ptr(), c"GPL".as_ptr());
        let none = std::ptr::null_mut();
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            name,
            licence,
            program.as_ptr(),
            2,
            none,
        )
    };
    assert!(fd >= 0, "load: {fd}");
    fd
}

fn make_map() -> i32 {
    // SAFETY: the name lives across the call; no options is allowed.
    let fd = unsafe {
        let kind = libbpf_sys::BPF_MAP_TYPE_XSKMAP;
        libbpf_sys::bpf_map_create(kind, c"sockets".as_ptr(), 4, 4, 4, std::ptr::null())
    };
    assert!(fd >= 0, "map: {fd}");
    fd
}

/// What an interface that comes later takes: memory beyond `RLIMIT_MEMLOCK`, a socket, its place in the
/// map, the program on the interface, and a pin.
fn attach_later(program: i32, map: i32, pin: &Path) {
    let limit = Rlimit { current: Some(65536), maximum: Some(65536) };
    rustix::process::setrlimit(Resource::Memlock, limit).unwrap();
    let xdp = socket(AddressFamily::from_raw(44), SocketType::RAW, None).unwrap();
    let (len, key, lo) = (4 << 20, 0u32, 1);
    let (both, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping that is never unmapped, registered with the kernel in the structure that
    // `XDP_UMEM_REG` (4) of `SOL_XDP` (283) takes; map key and value are 4 bytes as it was made.
    unsafe {
        let memory = mmap_anonymous(std::ptr::null_mut(), len, both, private).unwrap();
        let umem = libc::xdp_umem_reg {
            addr: memory as u64,
            len: len as u64,
            chunk_size: 2048,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        let (size, umem) = (size_of_val(&umem) as u32, (&raw const umem).cast());
        let fd = xdp.as_raw_fd();
        let done = libc::setsockopt(fd, 283, 4, umem, size);
        assert_eq!(done, 0, "umem: {}", std::io::Error::last_os_error());
        let done = libbpf_sys::bpf_map_update_elem(
            map,
            (&raw const key).cast(),
            (&raw const fd).cast(),
            0,
        );
        assert_eq!(done, 0, "map: {}", std::io::Error::last_os_error());
        let link = libbpf_sys::bpf_link_create(program, lo, libbpf_sys::BPF_XDP, std::ptr::null());
        assert!(link >= 0, "attach: {}", std::io::Error::last_os_error());
        let path = std::ffi::CString::new(pin.as_os_str().as_encoded_bytes()).unwrap();
        let done = libbpf_sys::bpf_obj_pin(link, path.as_ptr());
        assert_eq!(done, 0, "pin: {}", std::io::Error::last_os_error());
    }
    let mut monitor = dataplane::kernel::Monitor::open().unwrap();
    let state = monitor.dump().unwrap();
    assert!(state.links[&1].xdp_program.is_some() && state.links[&1].xdp_generic);
    monitor.resolve(1, [127, 0, 0, 5].into()).unwrap();
    fs::remove_file(pin).unwrap();
}

fn unmount_error() -> std::io::Error {
    rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::empty()).unwrap_err().into()
}

fn executable_memory() {
    let protection = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
    // SAFETY: a new mapping, of which nothing is used.
    let _ = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE) };
}

/// Entry of the children; does nothing in a normal run.
#[test]
fn child() {
    if let Ok(case) = std::env::var(CASE) {
        carry_out(&case);
    }
}

fn command(case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CASE, case).env("RUST_BACKTRACE", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a case; none if this process may not.
fn run(case: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        let why = "needs root to have privileges to give up";
        assert!(std::env::var_os("REQUIRE_NETNS").is_none_or(|v| v != "1"), "{why}");
        eprintln!("SKIPPED: {why}");
        return None;
    }
    Some(command(case).output().unwrap())
}

fn succeeds(case: &str) -> Option<Output> {
    let output = run(case)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{case}: {}\n{stdout}\n{stderr}", output.status);
    Some(output)
}

fn dies_of_sigsys(case: &str) {
    if let Some(output) = run(case) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{case}: {}\n{stderr}", output.status);
    }
}

/// A line of `/proc/.../status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in\n{status}")).trim()
}

/// The status of the worker of a running child, as the kernel shows it to others.
fn worker_status(case: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return run(case).map(|_| String::new());
    }
    let mut child = command(case).spawn().unwrap();
    let mut tid = [0; 8];
    std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut tid).unwrap();
    let tid = String::from_utf8_lossy(&tid).trim().to_owned();
    let status = fs::read_to_string(format!("/proc/{}/task/{tid}/status", child.id())).unwrap();
    assert!(child.wait().unwrap().success(), "{case}");
    Some(status)
}

#[test]
fn a_worker_has_no_capability_and_a_filter() {
    for case in ["worker-status", "steward-starts-worker"] {
        let Some(status) = worker_status(case) else { return };
        for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{case}: {set}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        assert_eq!(field(&status, "Seccomp"), "2", "mode 2 is a filter");
    }
}

#[test]
fn the_management_thread_keeps_four_capabilities_and_no_way_to_more() {
    let Some(output) = succeeds("steward-status") else { return };
    let status = String::from_utf8(output.stdout).unwrap();
    let four = format!("{:016x}", STEWARD.bits());
    // Bits 12, 13, 14 and 39 of `include/uapi/linux/capability.h`.
    assert_eq!(four, "0000008000007000");
    for (set, value) in [("CapEff", &*four), ("CapPrm", &*four)] {
        assert_eq!(field(&status, set), value);
    }
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Seccomp"), "2");
}

#[test]
fn a_worker_can_do_all_that_a_poll_loop_needs() {
    if let Some(output) = succeeds("worker-loop") {
        assert!(String::from_utf8_lossy(&output.stderr).contains("worker has run"));
    }
}

#[test]
fn a_worker_can_panic_and_say_why() {
    if let Some(output) = succeeds("worker-panic") {
        assert!(String::from_utf8_lossy(&output.stderr).contains("a bug"));
    }
}

#[test]
fn a_worker_cannot_open_a_file_and_is_told_so() {
    succeeds("worker-open");
}

#[test]
fn a_worker_that_aborts_dies_of_that_and_not_of_the_filter() {
    if let Some(output) = run("worker-abort") {
        assert_eq!(output.status.signal(), Some(6), "{}", output.status);
    }
}

#[test]
fn a_worker_that_does_what_no_poll_loop_does_kills_the_process() {
    for case in [
        "worker-socket",
        "worker-exec",
        "worker-thread",
        "worker-send",
        "worker-write",
        "worker-exec-memory",
    ] {
        dies_of_sigsys(case);
    }
}

#[test]
fn the_management_thread_is_refused_what_only_an_intruder_needs() {
    succeeds("steward-denied");
}

#[test]
fn the_management_thread_can_still_do_its_work() {
    succeeds("steward-works");
}

#[test]
fn the_management_thread_can_still_attach_an_interface_that_comes_later() {
    succeeds("steward-attaches");
}

#[test]
fn a_place_for_pins_is_mounted_once_and_removed_once() {
    if !rustix::process::geteuid().is_root() {
        run("skip");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bpf");
    mount_bpffs(&place).unwrap();
    mount_bpffs(&place).unwrap();
    assert_eq!(mounts(&place), 1, "the second call found the first's");
    // Within a mounted one nothing is mounted, and nothing is unmounted.
    let inner = place.join("xvip");
    mount_bpffs(&inner).unwrap();
    assert_eq!(mounts(&inner), 0);
    assert!(!unmount_bpffs(&inner).unwrap());
    assert!(unmount_bpffs(&place).unwrap());
    assert!(!unmount_bpffs(&place).unwrap(), "there is none any more");
    assert!(!unmount_bpffs(&directory.path().join("nowhere")).unwrap());
    assert_eq!(mounts(&place), 0);
}

fn mounts(place: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let here = format!(" {} bpf ", place.display());
    mounts.lines().filter(|line| line.contains(&here)).count()
}

#[test]
fn the_bound_on_locked_memory_is_raised_as_far_as_allowed() {
    let bound = prepare_limits().unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    assert_eq!(limit.current, bound);
    assert_eq!(limit.current, limit.maximum);
}
