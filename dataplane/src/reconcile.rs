//! Which interfaces to attach to, detach from and mend. Pure.
//!
//! Each second and on each hint the management thread compares what the snapshot wants with what
//! the kernel has and what is attached. The answer depends on these alone (and on how often
//! something has failed lately), never on which event came: a lost event costs at most a second,
//! and doing what was asked leaves nothing to ask. A fault of one interface never touches another.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane_api::service::Interface;

use crate::address::DeviceId;
use crate::clock::Instant;
use crate::kernel::state::{KernelState, Link};
use crate::limits;

/// Wait after the first failed attempt; doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// An interface that kept well for so long starts at the first wait again.
const STABLE: Duration = Duration::from_secs(60);

/// Everything a plan depends on, besides past failures.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Wanted, in slot order.
    pub interfaces: &'a [Interface],
    /// Number of workers; worker *n* serves queue *n* of every interface.
    pub workers: u32,
    /// What the kernel has.
    pub kernel: &'a KernelState,
    /// When the last whole dump of it began. Attaching a program is not announced by the kernel, so
    /// an older picture says nothing about the program of an interface attached since.
    pub dumped: Instant,
    /// What we have, by slot.
    pub attached: &'a BTreeMap<DeviceId, Attached>,
}

/// An interface that our program and sockets are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Name it had.
    pub name: String,
    /// Kernel index it had.
    pub ifindex: u32,
    /// Queues with a socket of ours: 0 to this.
    pub queues: u32,
    /// Id of our XDP program.
    pub program: u32,
    /// When it was attached.
    pub since: Instant,
    /// What the workers were told last: packets can be sent on it.
    pub up: bool,
    /// A port reported that its socket is dead (`ENXIO`: the interface was deleted), in words.
    pub error: Option<String>,
}

/// One thing to do. The order in [`Plan::actions`] is that in which to do them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take sockets, program and pin off; the slot is empty afterwards.
    Detach {
        /// Slot.
        slot: DeviceId,
        /// Why, for the log.
        reason: String,
    },
    /// Put program and sockets on; report with [`Reconciler::attempted`].
    Attach {
        /// Slot, empty now.
        slot: DeviceId,
        /// Kernel index.
        ifindex: u32,
        /// How many queues to serve, from queue 0.
        queues: u32,
    },
    /// Replace the sockets, and the program where it is missing; report with
    /// [`Reconciler::attempted`]. If that fails the slot is empty afterwards.
    Reattach {
        /// Slot.
        slot: DeviceId,
        /// Kernel index, the same as before.
        ifindex: u32,
        /// How many queues to serve, from queue 0.
        queues: u32,
        /// Why, for the log.
        reason: String,
    },
    /// Tell the workers that packets can be sent; announce again.
    MarkUp {
        /// Slot.
        slot: DeviceId,
    },
    /// Tell the workers that packets cannot be sent.
    MarkDown {
        /// Slot.
        slot: DeviceId,
    },
}

/// State of the link, as shown in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// No interface of that name.
    #[default]
    Absent,
    /// Set down by the administrator.
    Down,
    /// Set up, but the cable or the other end is missing.
    NoCarrier,
    /// Packets can pass.
    Up,
}

impl LinkState {
    /// State of a link the kernel knows.
    #[must_use]
    pub const fn of(link: &Link) -> Self {
        match (link.up, link.running) {
            (false, _) => Self::Down,
            (true, false) => Self::NoCarrier,
            (true, true) => Self::Up,
        }
    }

    /// Word for the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Down => "down",
            Self::NoCarrier => "no-carrier",
            Self::Up => "up",
        }
    }
}

/// Condition of one wanted interface, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// State of the link.
    pub link: LinkState,
    /// Our program and live sockets are on it.
    pub attached: bool,
    /// Why it is not, or not for long, and what to do about it.
    pub problem: Option<String>,
    /// It works, but traffic may be lost, and what to do about it.
    pub warning: Option<String>,
}

/// What to do, and how things are before it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To do, in this order.
    pub actions: Vec<Action>,
    /// One for each wanted interface, in slot order.
    pub conditions: Vec<Condition>,
}

/// Remembers failed attempts; everything else is in the [`View`].
#[derive(Clone, Debug, Default)]
pub struct Reconciler {
    retries: BTreeMap<DeviceId, Retry>,
}

#[derive(Clone, Debug)]
struct Retry {
    attempts: u32,
    last: Instant,
    shape: Shape,
    problem: Option<String>,
}

/// What a link must look like for an earlier failure to count. The carrier is not part of it: many
/// drivers drop it for a moment when a program is attached, and attaching needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    name: String,
    ifindex: u32,
    mtu: u32,
    up: bool,
    rx_queues: u32,
}

impl Reconciler {
    /// What to do now. Changes nothing: the same arguments give the same plan.
    #[must_use]
    pub fn plan(&self, now: Instant, view: &View<'_>) -> Plan {
        let mut detach = Vec::new();
        let mut attach = Vec::new();
        let mut conditions = Vec::new();
        for (slot, have) in view.attached {
            if view.interfaces.get(slot.index()).is_none() {
                let reason = format!("interface {} is no longer configured", have.name);
                detach.push(Action::Detach { slot: *slot, reason });
            }
        }
        for (index, want) in view.interfaces.iter().enumerate().take(limits::INTERFACES) {
            let slot = DeviceId(index as u8);
            let (condition, action) = self.plan_slot(now, view, slot, &want.name, &mut detach);
            conditions.push(condition);
            attach.extend(action);
        }
        // What one slot gives up another may take over.
        detach.append(&mut attach);
        Plan { actions: detach, conditions }
    }

    /// Reports that an [`Action::Attach`] or [`Action::Reattach`] of `link` was carried out, and
    /// what went wrong if it failed.
    pub fn attempted(
        &mut self,
        now: Instant,
        slot: DeviceId,
        link: &Link,
        problem: Option<String>,
    ) {
        let shape = Shape::of(link);
        let before = self
            .retries
            .get(&slot)
            .filter(|retry| retry.shape == shape && now.since(retry.last) < STABLE);
        let attempts = before.map_or(0, |retry| retry.attempts).saturating_add(1);
        self.retries.insert(slot, Retry { attempts, last: now, shape, problem });
    }

    fn plan_slot(
        &self,
        now: Instant,
        view: &View<'_>,
        slot: DeviceId,
        name: &str,
        detach: &mut Vec<Action>,
    ) -> (Condition, Option<Action>) {
        let link = view.kernel.link_named(name);
        let mut have = view.attached.get(&slot);
        let mut condition = Condition {
            link: link.map_or(LinkState::Absent, LinkState::of),
            ..Condition::default()
        };
        let unfit = link.map_or_else(|| Some(missing(name, have, view.kernel)), unfit);
        let reason = match have {
            Some(have) if have.name != name => {
                Some(format!("the slot of interface {} is now that of {name}", have.name))
            }
            // Another slot may want what carries the old index now, after a rename.
            Some(have) if link.is_some_and(|link| link.ifindex != have.ifindex) => {
                Some(format!("interface {name} was deleted and created again, or renamed"))
            }
            Some(_) => unfit.clone(),
            None => None,
        };
        if let Some(reason) = reason {
            detach.push(Action::Detach { slot, reason });
            have = None;
        }
        let (Some(link), None) = (link, &unfit) else {
            condition.problem = unfit;
            return (condition, None);
        };
        condition.warning = queue_warning(link, view);
        let queues = served(link, view.workers);
        let retry = self.retries.get(&slot).filter(|retry| retry.shape == Shape::of(link));
        let may_try = retry.is_none_or(|retry| retry.may_try(now));
        let Some(have) = have else {
            condition.problem = retry.and_then(|retry| retry.problem.clone());
            let action = Action::Attach { slot, ifindex: link.ifindex, queues };
            return (condition, may_try.then_some(action));
        };
        condition.attached = have.error.is_none();
        if let Some(reason) = broken(have, link, queues, view.dumped) {
            condition.problem = Some(reason.clone());
            let action = Action::Reattach { slot, ifindex: link.ifindex, queues, reason };
            return (condition, may_try.then_some(action));
        }
        let action = match (have.up, condition.link == LinkState::Up) {
            (false, true) => Some(Action::MarkUp { slot }),
            (true, false) => Some(Action::MarkDown { slot }),
            _ => None,
        };
        (condition, action)
    }
}

impl Retry {
    fn may_try(&self, now: Instant) -> bool {
        let doublings = self.attempts.saturating_sub(1).min(8);
        now >= self.last.after(RETRY_MAX.min(RETRY_FIRST * (1 << doublings)))
    }
}

impl Shape {
    fn of(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            ifindex: link.ifindex,
            mtu: link.mtu,
            up: link.up,
            rx_queues: link.rx_queues,
        }
    }
}

/// Queues served of `link`.
fn served(link: &Link, workers: u32) -> u32 {
    link.rx_queues.min(workers).max(1)
}

fn missing(name: &str, have: Option<&Attached>, kernel: &KernelState) -> String {
    match have.and_then(|have| kernel.links.get(&have.ifindex)) {
        Some(link) => format!("interface {name} was renamed to {}", link.name),
        None => format!("interface {name} not found"),
    }
}

/// Why we cannot work with a link as it is.
fn unfit(link: &Link) -> Option<String> {
    let name = &link.name;
    if !link.ethernet {
        return Some(format!("interface {name} does not carry Ethernet frames"));
    }
    (link.mtu > limits::MTU_MAX).then(|| {
        format!(
            "MTU {} of interface {name} is larger than {}, the most that fits a frame: \
             run `ip link set {name} mtu 1500`",
            link.mtu,
            limits::MTU_MAX
        )
    })
}

/// Why what is attached no longer works.
fn broken(have: &Attached, link: &Link, queues: u32, dumped: Instant) -> Option<String> {
    let name = &link.name;
    if let Some(error) = &have.error {
        return Some(format!("interface {name}: {error}"));
    }
    if have.queues != queues {
        return Some(format!("interface {name} now has {} receive queues", link.rx_queues));
    }
    match link.xdp_program {
        _ if dumped <= have.since => None,
        Some(id) if id == have.program => None,
        None => Some(format!("the XDP program was taken off interface {name}")),
        Some(id) => Some(format!(
            "XDP program {id} on interface {name} is not ours: \
             take it off with `ip link set {name} xdp off`"
        )),
    }
}

/// Queues and workers that do not match.
fn queue_warning(link: &Link, view: &View<'_>) -> Option<String> {
    let (name, rx, workers) = (&link.name, link.rx_queues, view.workers);
    if rx > workers {
        return Some(format!(
            "interface {name} has {rx} receive queues and only {workers} of them a worker: service \
             traffic on the others is lost; run `ethtool -L {name} combined {workers}` or \
             configure {rx} cores"
        ));
    }
    let widest = view
        .interfaces
        .iter()
        .filter_map(|other| view.kernel.link_named(&other.name))
        .map(|other| served(other, workers))
        .max();
    (widest > Some(served(link, workers))).then(|| {
        format!(
            "interface {name} has {rx} receive queues, fewer than another interface: workers from \
             {rx} on cannot send on it; make them equal with `ethtool -L`, or use fewer cores"
        )
    })
}

#[cfg(test)]
mod tests;
