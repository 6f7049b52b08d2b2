//! `xvip-perf forwarder`: frames from one interface to the other, nothing looked at.
//!
//! The same device layer as the data plane's (`dataplane::device::xsk`), the same number of frames,
//! the same rings, one pinned thread; what it does not do is what a load balancer is for. So it is
//! the limit of any balancer on this machine and these interfaces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use dataplane::address::DeviceId;
use dataplane::counters::Counters;
use dataplane::device::Device;
use dataplane::device::xsk::{Memory, Port, XskDevice};
use dataplane::frame::Verdict;
use dataplane_api::service::{CopyMode, XdpMode};
use pktgen::bpf::{Mode, Receive};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::lab::balancer::xdp_mode;
use crate::lab::say;
use crate::lab::turns::Turns;
use crate::packet_path::pin;

/// How long the kernel may take to release a queue.
const PATIENCE: Duration = Duration::from_secs(2);

/// Options of `forwarder`.
#[derive(Args)]
pub(crate) struct Options {
    /// The two interfaces, each with its own MAC address and that of what goes out there:
    /// NAME,OWN,NEIGHBOUR.
    #[arg(long = "interface", required = true, value_parser = side)]
    interfaces: Vec<Side>,
    /// The core to run on.
    #[arg(long)]
    core: usize,
    /// Packet buffers for each interface, as `engine.frames`.
    #[arg(long, default_value_t = 8192)]
    frames: u32,
    /// Where the program of the first interface runs: auto, native or generic; auto is generic,
    /// which the data plane takes on veth.
    #[arg(long, default_value = "auto", value_parser = xdp_mode)]
    front: XdpMode,
    /// The same of the second.
    #[arg(long, default_value = "auto", value_parser = xdp_mode)]
    back: XdpMode,
}

/// An interface, and what every frame that leaves there begins with: the MAC addresses of its
/// neighbour and its own.
#[derive(Clone, Debug, PartialEq)]
struct Side {
    name: String,
    addresses: [u8; 12],
}

fn side(text: &str) -> Result<Side, String> {
    let mac = |text: &str| -> Option<[u8; 6]> {
        let bytes: Option<Vec<u8>> =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        bytes?.try_into().ok()
    };
    let read = || {
        let (name, macs) = text.split_once(',')?;
        let (own, neighbor) = macs.split_once(',')?;
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&mac(neighbor)?);
        addresses[6..].copy_from_slice(&mac(own)?);
        Some(Side { name: name.to_owned(), addresses })
    };
    read().ok_or_else(|| "expected NAME,MAC,MAC".to_owned())
}

/// Forwards until SIGINT or SIGTERM; on SIGUSR1 says what it has done so far.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let [left, right] = options.interfaces.as_slice() else { bail!("expected two interfaces") };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("catching signals")?;
    }
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, Arc::clone(&asked)).context("catching SIGUSR1")?;
    // As the data plane counts them (`setup::hire`).
    let ring = (options.frames / 4).clamp(64, 32_768).next_power_of_two();
    let frames = options.frames.saturating_mul(2).checked_next_power_of_two();
    let memory = Memory::new(frames.context("--frames: too many")?, ring)?;
    let mut device = XskDevice::new(&memory)?;
    let _programs = [
        attach(&mut device, &memory, DeviceId(0), left, options.front)?,
        attach(&mut device, &memory, DeviceId(1), right, options.back)?,
    ];
    let sides = [left.addresses, right.addresses];
    pin(options.core)?;
    let counters = Counters::default();
    let mut turns = Turns::default();
    say("ready");
    while !stop.load(Relaxed) {
        if asked.load(Relaxed) {
            asked.store(false, Relaxed);
            say(&turns.line());
        }
        let found = device.poll(&counters, |frames, verdicts, _| {
            for (frame, verdict) in frames.iter_mut().zip(verdicts) {
                let out = 1 - frame.device().index().min(1);
                let bytes = frame.bytes_mut();
                if let Some(head) = bytes.first_chunk_mut() {
                    *head = sides[out];
                }
                *verdict = Verdict::Transmit(DeviceId(out as u8));
            }
        });
        turns.all += 1;
        turns.busy += u64::from(found > 0);
        turns.packets += found as u64;
    }
    Ok(())
}

fn attach(
    device: &mut XskDevice,
    memory: &Memory,
    id: DeviceId,
    side: &Side,
    mode: XdpMode,
) -> anyhow::Result<Receive> {
    let name = &side.name;
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).context("socket")?;
    let ifindex = name_to_index(socket, name).with_context(|| format!("interface {name}"))?;
    let mode = match mode {
        XdpMode::Native => Mode::Native,
        XdpMode::Auto | XdpMode::Generic => Mode::Generic,
    };
    let receive = Receive::attach(ifindex, mode).with_context(|| format!("interface {name}"))?;
    let port = Port::open(memory, name, 0, CopyMode::Auto, PATIENCE)?;
    receive.set_socket(0, port.fd())?;
    if device.install(id, port).is_some() {
        bail!("interface {name}: the device does not take it");
    }
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_and_what_is_none_is_named() {
        let read = side("front,02:00:00:00:00:01,02:78:00:00:00:ff").unwrap();
        assert_eq!(read.name, "front");
        assert_eq!(read.addresses, [2, 0x78, 0, 0, 0, 255, 2, 0, 0, 0, 0, 1]);
        for bad in ["front", "front,02:00:00:00:00:01", "front,2,3", "f,0:0:0:0:0:0,0:0:0:0:0:0:0"]
        {
            assert!(side(bad).unwrap_err().contains("expected"), "{bad}");
        }
    }
}
