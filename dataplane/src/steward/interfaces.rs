//! Attaching to interfaces and detaching from them: the steward's hands.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use dataplane_api::message::InterfaceStatus;
use dataplane_api::service::{Interface, XdpMode};

use super::{Steward, is_link_local};
use crate::address::{Address, DeviceId};
use crate::clock::{self, Instant};
use crate::device::xsk::{Port, PortMonitor};
use crate::published::Segment;
use crate::reconcile::{Action, Attached, Condition, Plan, View};
use crate::worker::Command;

/// How long a socket may stay busy after its predecessor was closed (the kernel releases it late,
/// 9 to 17 ms measured); beyond that the reconciler tries again.
const BUSY_PATIENCE: Duration = Duration::from_millis(200);
/// How long workers may take to let go of their sockets: a nap and a burst.
const RETIRE_PATIENCE: Duration = Duration::from_millis(500);

/// What is known of an interface being served.
pub(super) struct Serving {
    mode: &'static str,
    copy: &'static str,
    monitors: Vec<PortMonitor>,
}

impl Steward {
    /// Compares interfaces with the desired ones and does what is missing.
    pub(super) fn reconcile(&mut self, now: Instant) -> Plan {
        let interfaces = self.parts.snapshot.interfaces.clone();
        let plan = self.reconciler.plan(
            now,
            &View {
                interfaces: &interfaces,
                workers: self.parts.memories.len() as u32,
                kernel: &self.kernel,
                dumped: self.dumped,
                attached: &self.attached,
            },
        );
        for action in &plan.actions {
            self.perform(action, &interfaces);
        }
        for condition in &plan.conditions {
            self.problems.extend(condition.problem.iter().chain(&condition.warning).cloned());
        }
        plan
    }

    /// Tells replication which networks our interfaces are on, if that has changed.
    pub(super) fn publish_segments(&self) {
        let mut segments = Vec::new();
        for (slot, attached) in &self.attached {
            let of = |(ifindex, _, _): &&(u32, IpAddr, u8)| *ifindex == attached.ifindex;
            let networks = self.kernel.addresses.iter().filter(of);
            segments.extend(networks.filter_map(|(_, address, length)| {
                let host = *length == if address.is_ipv4() { 32 } else { 128 };
                let network = Address::from(*address).masked(*length, *length);
                let segment = Segment { device: *slot, network, length: *length };
                (!host && !is_link_local(*address)).then_some(segment)
            }));
        }
        segments.sort_unstable();
        segments.dedup();
        let current = &self.parts.runtime.segments;
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if **current != *segments {
            *current = segments.into();
        }
    }

    fn perform(&mut self, action: &Action, interfaces: &[Interface]) {
        self.stale = true;
        match action {
            Action::Detach { slot, reason } => {
                crate::log!("level=info event=detach slot={} reason={reason:?}", slot.0);
                self.detach(*slot);
            }
            Action::Attach { slot, ifindex, queues } => {
                self.attach(*slot, *ifindex, *queues, interfaces);
            }
            Action::Reattach { slot, ifindex, queues, reason } => {
                crate::log!("level=info event=reattach slot={} reason={reason:?}", slot.0);
                self.release_sockets(*slot);
                self.attached.remove(slot);
                self.attach(*slot, *ifindex, *queues, interfaces);
            }
            Action::MarkUp { slot } => self.mark(*slot, true),
            Action::MarkDown { slot } => self.mark(*slot, false),
        }
    }

    fn mark(&mut self, slot: DeviceId, up: bool) {
        if let Some(attached) = self.attached.get_mut(&slot) {
            crate::log!("level=info event=link interface={} up={up}", attached.name);
            attached.up = up;
            self.generation += 1;
            self.generations.insert(slot, self.generation);
        }
    }

    fn attach(&mut self, slot: DeviceId, ifindex: u32, queues: u32, interfaces: &[Interface]) {
        let Some(link) = self.kernel.links.get(&ifindex).cloned() else { return };
        let Some(wanted) = interfaces.get(slot.index()) else { return };
        let outcome = self.try_attach(slot, ifindex, queues, wanted, &link.driver);
        let now = clock::now();
        let problem = match outcome {
            Ok(program) => {
                let attached = Attached {
                    name: wanted.name.clone(),
                    ifindex,
                    queues,
                    program,
                    since: now,
                    up: false,
                    error: None,
                };
                self.attached.insert(slot, attached);
                // Level-triggered: the next round finds the link up and the mark missing.
                if link.up && link.running {
                    self.mark(slot, true);
                }
                crate::log!(
                    "level=info event=attach interface={} ifindex={ifindex} queues={queues}",
                    wanted.name
                );
                None
            }
            Err(e) => {
                let problem = format!("interface {}: {e:#}", wanted.name);
                crate::log!("level=warn event=attach-failed reason={problem:?}");
                self.release_sockets(slot);
                Some(problem)
            }
        };
        self.problems.extend(problem.clone());
        self.reconciler.attempted(now, slot, &link, problem);
    }

    /// Sockets first, then the program: a packet that it steers finds a socket.
    fn try_attach(
        &mut self,
        slot: DeviceId,
        ifindex: u32,
        queues: u32,
        wanted: &Interface,
        driver: &str,
    ) -> anyhow::Result<u32> {
        let mut ports = Vec::new();
        for (queue, memory) in (0..queues).zip(&self.parts.memories) {
            let port = Port::open(memory, &wanted.name, queue, wanted.copy, BUSY_PATIENCE)
                .with_context(|| format!("AF_XDP socket on queue {queue}"))?;
            self.parts.steer.set_socket(slot, queue, port.fd())?;
            ports.push(port);
        }
        // Generic mode is the faster one on veth, but sees all its packets on queue 0 (veth does not
        // record the queue unless a native program asks, `veth_xmit` of `drivers/net/veth.c`).
        let several = wanted.mode == XdpMode::Auto && driver == "veth" && queues > 1;
        let mode = if several { XdpMode::Native } else { wanted.mode };
        let mode = self.parts.steer.attach(ifindex, slot, mode, driver)?;
        let zero_copy = ports.iter().all(Port::zero_copy);
        let monitors = ports.iter().map(Port::monitor).collect();
        for (port, worker) in ports.into_iter().zip(&self.parts.commands) {
            // A worker that is gone ends the process; nothing to add here.
            let _ = worker.send(Command::Install(slot, port));
        }
        let copy = if zero_copy { "zero-copy" } else { "copy" };
        self.serving.insert(slot, Serving { mode, copy, monitors });
        Ok(self.parts.steer.program_id())
    }

    fn detach(&mut self, slot: DeviceId) {
        self.release_sockets(slot);
        if let Some(attached) = self.attached.remove(&slot)
            && let Err(e) = self.parts.steer.detach(attached.ifindex)
        {
            self.problems.push(format!("interface {}: {e:#}", attached.name));
        }
    }

    /// Has the workers let go of their sockets on a slot, and closes them.
    fn release_sockets(&mut self, slot: DeviceId) {
        if let Err(e) = self.parts.steer.clear_slot(slot) {
            self.problems.push(format!("slot {}: {e:#}", slot.0));
        }
        let Some(serving) = self.serving.remove(&slot) else { return };
        for worker in self.parts.commands.iter().take(serving.monitors.len()) {
            let _ = worker.send(Command::Remove(slot));
        }
        let deadline = clock::now().after(RETIRE_PATIENCE);
        for _ in 0..serving.monitors.len() {
            let left = deadline.since(clock::now());
            if let Ok(port) = self.parts.retired.recv_timeout(left) {
                drop(port);
            }
        }
    }

    /// Frames that the kernel dropped although a buffer was there, by interface.
    pub(super) fn long_frames(&self) -> Vec<(DeviceId, u64)> {
        let dropped = |serving: &Serving| {
            let statistics = serving.monitors.iter().filter_map(|m| m.statistics().ok());
            statistics.filter_map(|s| s.get("rx_dropped").copied()).sum()
        };
        self.serving.iter().map(|(slot, serving)| (*slot, dropped(serving))).collect()
    }

    /// Sockets whose interface is gone say so only when asked.
    pub(super) fn check_sockets(&mut self) {
        for port in self.parts.retired.try_iter() {
            drop(port);
        }
        for (slot, serving) in &self.serving {
            let Some(attached) = self.attached.get_mut(slot) else { continue };
            let dead = serving.monitors.iter().find_map(|m| m.check().err());
            attached.error = dead
                .filter(|e| e.raw_os_error() == Some(libc::ENXIO))
                .map(|e| format!("socket of interface {}: {e}", attached.name));
        }
    }

    pub(super) fn interface_status(
        &self,
        slot: DeviceId,
        name: &str,
        condition: &Condition,
    ) -> InterfaceStatus {
        let serving = self.serving.get(&slot);
        let attached = self.attached.get(&slot);
        let link = self.kernel.link_named(name);
        let mut kernel_drops: BTreeMap<String, u64> = BTreeMap::new();
        // A socket whose interface is gone has no statistics any more.
        for monitor in serving.iter().flat_map(|s| &s.monitors) {
            let mut statistics = monitor.statistics().unwrap_or_default();
            // Counts each time that the kernel has sent everything: no drop.
            statistics.remove("tx_ring_empty_descs");
            for (name, count) in statistics {
                *kernel_drops.entry(name.to_owned()).or_default() += count;
            }
        }
        InterfaceStatus {
            name: name.to_owned(),
            link: condition.link.name().to_owned(),
            attached: attached.is_some_and(|a| a.error.is_none()),
            problem: condition.problem.clone().filter(|_| attached.is_none()),
            ifindex: link.map_or(0, |l| l.ifindex),
            driver: link.map_or_else(String::new, |l| l.driver.clone()),
            mode: serving.map_or("", |s| s.mode).to_owned(),
            copy: serving.map_or("", |s| s.copy).to_owned(),
            queues: attached.map_or(0, |a| a.queues),
            mtu: link.map_or(0, |l| l.mtu),
            mac: link.map_or_else(String::new, |l| l.mac.to_string()),
            kernel_drops,
            ..InterfaceStatus::default()
        }
    }
}
