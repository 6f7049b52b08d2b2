//! What tests on a real kernel share: a BPF file system, network namespaces, and the loud skip.
#![allow(dead_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::mount::MountFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// Whether the test may go on. Without root it is skipped, which fails it under `REQUIRE_NETNS=1`.
#[must_use]
pub(crate) fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert_ne!(std::env::var("REQUIRE_NETNS").as_deref(), Ok("1"), "this test needs root");
    eprintln!("SKIPPED: needs root");
    false
}

/// A BPF file system of its own, gone with the value.
pub(crate) struct BpfFs(TempDir);

impl BpfFs {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount("bpf", dir.path(), "bpf", MountFlags::empty(), None).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // A process of its own: a failed test may have left this thread without capabilities.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Runs a command and expects it to succeed.
pub(crate) fn run(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}: {status}");
}

/// A network namespace, gone with the value.
pub(crate) struct NetNs(String);

impl NetNs {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("xvdev{}-{}", COUNT.fetch_add(1, Relaxed), std::process::id());
        run(&format!("ip netns add {name}"));
        Self(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Moves the calling thread (which should end with the test) into it.
    pub(crate) fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// `ip` inside.
    pub(crate) fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }

    /// `ip` inside, whether it succeeds or not.
    pub(crate) fn try_ip(&self, arguments: &str) {
        let words = arguments.split_whitespace();
        let _ = Command::new("ip").args(["-n", &self.0]).args(words).output();
    }

    /// A pair of veth interfaces with two queues each, up, without addresses.
    pub(crate) fn veth(&self, a: &str, b: &str) {
        let queues = "numrxqueues 2 numtxqueues 2";
        self.ip(&format!("link add name {a} {queues} type veth peer name {b} {queues}"));
        for name in [a, b] {
            // Nobody but the test speaks on it.
            let off = format!("net.ipv6.conf.{name}.disable_ipv6=1");
            run(&format!("ip netns exec {} sysctl -qw {off}", self.0));
            self.ip(&format!("link set dev {name} up"));
        }
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Kernel index of an interface in the namespace of the calling thread.
pub(crate) fn ifindex(name: &str) -> u32 {
    let kind = rustix::net::SocketType::DGRAM;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, kind, None).unwrap();
    rustix::net::netdevice::name_to_index(socket, name).unwrap()
}
