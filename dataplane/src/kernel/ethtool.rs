//! Two questions that rtnetlink does not answer: how many queues an interface uses, and its driver.
//!
//! `IFLA_NUM_RX_QUEUES` is what the driver allocated (a veth pair allocates one for each CPU and
//! uses one of them), so the count in use comes from `SIOCETHTOOL`, or from sysfs where the driver
//! has no channels (`tun`). Management thread; each call takes the kernel's RTNL lock for a moment.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

/// `SIOCETHTOOL`, `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GDRVINFO`, `include/uapi/linux/ethtool.h`.
const GET_DRIVER: u32 = 0x0000_0003;
/// `ETHTOOL_GCHANNELS`, likewise.
const GET_CHANNELS: u32 = 0x0000_003c;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 32 * 4 + 12 + 5 * 4],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// A structure that starts with an ethtool command number and that the kernel fills for it.
///
/// # Safety
/// The type must be `repr(C)`, valid for every bit pattern, and at least as long as what the kernel
/// writes for the command stored in its first four bytes.
unsafe trait Query {}

// SAFETY: integers only, laid out and as long (196 bytes) as `struct ethtool_drvinfo`.
unsafe impl Query for DriverInfo {}
// SAFETY: integers only, laid out and as long (36 bytes) as `struct ethtool_channels`.
unsafe impl Query for Channels {}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);

/// Queues in use for receiving and transmitting; none if nobody knows.
pub(super) fn queues(socket: impl AsFd, name: &str, ifindex: u32) -> Option<(u32, u32)> {
    let mut channels = Channels { cmd: GET_CHANNELS, ..Channels::default() };
    if ask(socket, name, &mut channels) {
        let rx = channels.rx.saturating_add(channels.combined);
        let tx = channels.tx.saturating_add(channels.combined);
        if rx > 0 && tx > 0 {
            return Some((rx, tx));
        }
    }
    queues_in_sysfs(name, ifindex)
}

/// Name of the driver; none if it does not tell.
pub(super) fn driver(socket: impl AsFd, name: &str) -> Option<String> {
    let mut info = DriverInfo { cmd: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
    if !ask(socket, name, &mut info) {
        return None;
    }
    let text = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}

fn ask<Q: Query>(socket: impl AsFd, name: &str, query: &mut Q) -> bool {
    // SAFETY: `ifreq` is a C structure of integers and unions of such; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero, as the kernel expects.
    if name.len() >= request.ifr_name.len() {
        return false;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(query).cast::<c_void>().cast();
    // SAFETY: `request` and, behind it, `query` live across the call and are not aliased; by the
    // contract of `Query` the kernel writes no further than its end.
    unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCETHTOOL as _, &raw mut request) == 0 }
}

/// Counts `/sys/class/net/NAME/queues`, if that shows the interface meant: sysfs belongs to the
/// network namespace in which it was mounted, which need not be ours.
fn queues_in_sysfs(name: &str, ifindex: u32) -> Option<(u32, u32)> {
    let directory = format!("/sys/class/net/{name}");
    let seen = fs::read_to_string(format!("{directory}/ifindex")).ok()?;
    if seen.trim().parse() != Ok(ifindex) {
        return None;
    }
    let (mut rx, mut tx) = (0, 0);
    for entry in fs::read_dir(format!("{directory}/queues")).ok()?.flatten() {
        match entry.file_name().as_encoded_bytes() {
            [b'r', b'x', ..] => rx += 1,
            [b't', b'x', ..] => tx += 1,
            _ => {}
        }
    }
    (rx > 0 && tx > 0).then_some((rx, tx))
}
