//! What stands where a balancer would: hands frames from one interface to the other, and does to
//! some of them what a bad balancer might do.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::address::DeviceId;
use dataplane::counters::Counters;
use dataplane::device::Device;
use dataplane::device::xsk::{Memory, Port, XskDevice};
use dataplane::frame::{Frame, Outbox, Verdict};
use dataplane_api::service::CopyMode;
use pktgen::bpf::{Mode, Receive};
use pktgen::craft::{renumber, turn};
use pktgen::parse::{UDP, flag, parse};

use crate::lab::ifindex;

/// What it does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    /// Of so many data packets each way, one is lost (0: none).
    pub(crate) lose: u64,
    /// … comes twice.
    pub(crate) repeat: u64,
    /// … has a bit changed.
    pub(crate) damage: u64,
    /// … comes three packets late.
    pub(crate) delay: u64,
    /// Of so many opening packets, one is lost.
    pub(crate) lose_opening: u64,
    /// Answers every SYN with a reset.
    pub(crate) reset: bool,
    /// Hands nothing on at all.
    pub(crate) mute: bool,
    /// Takes frames of the kernel's programs too.
    pub(crate) native: bool,
}

/// What it did, each way: to the servers, to the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deeds {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) damaged: u64,
    pub(crate) delayed: u64,
    pub(crate) lost_openings: u64,
    /// For another MAC address than the owner's.
    pub(crate) misdirected: u64,
}

pub(crate) struct Relay {
    /// Last byte of the only MAC address that is listened to on the clients' side; 0: any.
    pub(crate) owner: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<[Deeds; 2]>,
}

impl Relay {
    /// Between interfaces `a` (the clients' side) and `b` of the calling thread's namespace.
    pub(crate) fn start(a: &str, b: &str, manners: Manners) -> Self {
        let memory = Memory::new(8 * 2048, 2048).unwrap();
        let mut device = XskDevice::new(&memory).unwrap();
        let mut programs = Vec::new();
        let mode = if manners.native { Mode::Native } else { Mode::Generic };
        for (id, name) in [(0, a), (1, b)] {
            let patience = Duration::from_secs(2);
            let port = Port::open(&memory, name, 0, CopyMode::Copy, patience).unwrap();
            let receive = Receive::attach(ifindex(name), mode).unwrap();
            receive.set_socket(0, port.fd().as_fd()).unwrap();
            programs.push(receive);
            assert!(device.install(DeviceId(id), port).is_none());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let owner = Arc::new(AtomicU8::new(0));
        let thread = std::thread::spawn({
            let (stop, owner) = (stop.clone(), owner.clone());
            move || {
                let _programs = programs;
                let counters = Counters::default();
                let mut ways = [Way::default(), Way::default()];
                while !stop.load(Relaxed) {
                    let received = device.poll(&counters, |frames, verdicts, outbox| {
                        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
                            let way = &mut ways[usize::from(frame.device().0)];
                            let owner = owner.load(Relaxed);
                            if frame.device().0 == 0 && owner != 0 && frame.bytes()[5] != owner {
                                way.deeds.misdirected += 1;
                            } else {
                                way.hand_on(manners, frame, outbox);
                            }
                            *verdict = Verdict::Held;
                        }
                    });
                    if received == 0 {
                        device.wait(Duration::from_millis(1));
                    }
                }
                // What is still held back when all is over never comes.
                ways.map(|way| Deeds {
                    lost: way.deeds.lost + way.late.len() as u64,
                    delayed: way.deeds.delayed - way.late.len() as u64,
                    ..way.deeds
                })
            }
        });
        Self { owner, stop, thread }
    }

    pub(crate) fn end(self) -> [Deeds; 2] {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

#[derive(Default)]
struct Way {
    deeds: Deeds,
    data: u64,
    openings: u64,
    late: Vec<(u64, Vec<u8>)>,
}

impl Way {
    /// Everything leaves as a copy, in the order in which it is sent: copies overtake what leaves in
    /// its own frame.
    fn hand_on(&mut self, manners: Manners, frame: &mut Frame<'_>, out: &mut dyn Outbox) {
        let to = DeviceId(1 - frame.device().0);
        let Ok(view) = parse(frame.bytes()) else { return };
        if manners.mute {
            return;
        }
        if view.flags & flag::SYN != 0 && manners.reset {
            let device = frame.device();
            let bytes = frame.bytes_mut();
            assert!(turn(bytes, &view));
            assert!(renumber(bytes, &view, flag::RST | flag::ACK, 0, 1));
            assert!(out.send(device, bytes));
            return;
        }
        // The first packet of a UDP flow has number 0.
        let number = frame.bytes().get(view.payload + 4..view.payload + 8);
        let first = view.protocol == UDP && number == Some(&[0; 4]);
        if first || view.payload == view.end || view.flags & flag::SYN != 0 {
            self.openings += 1;
            if manners.lose_opening > 0 && self.openings.is_multiple_of(manners.lose_opening) {
                self.deeds.lost_openings += 1;
            } else {
                assert!(out.send(to, frame.bytes()));
            }
            return;
        }
        self.data += 1;
        let data = self.data;
        let turn = |each: u64| each > 0 && data.is_multiple_of(each);
        if turn(manners.lose) {
            self.deeds.lost += 1;
        } else if turn(manners.damage) {
            self.deeds.damaged += 1;
            frame.bytes_mut()[view.end - 1] ^= 0x10;
            assert!(out.send(to, frame.bytes()));
        } else if turn(manners.delay) {
            self.deeds.delayed += 1;
            self.late.push((data + 3, frame.bytes().to_vec()));
        } else {
            // Refused when the interface is gone.
            let _ = out.send(to, frame.bytes());
            if turn(manners.repeat) && out.send(to, frame.bytes()) {
                self.deeds.repeated += 1;
            }
        }
        self.late.retain(|(when, late)| *when > data || !out.send(to, late));
    }
}
