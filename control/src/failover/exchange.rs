//! What goes into the state machine and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Severity;
use crate::failover::settings::Settings;
use crate::seal::Keyring;

/// A moment or a span, in nanoseconds of `CLOCK_BOOTTIME`: a machine that sleeps grows older.
pub type Nanos = u64;

/// Settings and what was read from the files that they name.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `[ha]`
    pub settings: Settings,
    /// The keys of `[ha] key`.
    pub keyring: Keyring,
    /// Of everything in the configuration that ought to be the same on both nodes; 0: not known.
    pub config_hash: u64,
}

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Time has passed: at [`super::machine::Machine::next_deadline`], or whenever.
    Tick,
    /// A datagram has come in.
    Received {
        /// Index into [`Settings::paths`].
        path: usize,
        /// All of it.
        bytes: &'a [u8],
    },
    /// An operator wants something.
    Command {
        /// Comes back in [`Output::Answer`].
        ticket: u64,
        /// What.
        command: Command,
    },
    /// What this node sees of its network. Until the first one it counts as blind.
    Evidence(Evidence),
    /// Whether our data plane is attached and answers. Until the first one it does not.
    DataPlane {
        /// Whether it is.
        alive: bool,
    },
    /// How replication stands; until the first one nothing is synced. Not looked at without
    /// [`Settings::replication`].
    Replication(Standing),
    /// Packets a second that arrive for the VIPs of groups.
    Rates(Vec<(Arc<str>, u32)>),
    /// The configuration was read again.
    Settings(Box<Setup>),
    /// Our data plane has taken an [`Output::Lease`].
    Leased {
        /// Which group.
        group: Arc<str>,
        /// As in the output.
        epoch: u64,
    },
    /// It has refused one.
    LeaseFailed {
        /// Which group.
        group: Arc<str>,
        /// Why, for people.
        reason: String,
    },
    /// It has carried out an [`Output::Release`].
    Released {
        /// Which group.
        group: Arc<str>,
    },
    /// The fencing command has ended.
    Fenced(Result<(), String>),
    /// Outcome of an [`Output::Verify`]: what was seen, or what is missing.
    Verified {
        /// Which group.
        group: Arc<str>,
        /// As in the output.
        epoch: u64,
        /// For people in both cases.
        result: Result<String, String>,
    },
    /// Outcome of an [`Output::Resolve`].
    Resolved {
        /// Which group.
        group: Arc<str>,
        /// As in the output.
        ticket: u32,
        /// Who answers.
        testimony: Testimony,
    },
}

/// What an operator may want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move a group.
    Switchover {
        /// Which; all of them if absent.
        group: Option<Arc<str>>,
        /// Name of the node that is to have it; if absent, the one that has it not.
        to: Option<String>,
        /// Even if the other node does not know all connections.
        force: bool,
    },
    /// Let nothing move by itself, on both nodes, until switched off.
    Maintenance(bool),
    /// Give everything up, in good order, and say [`Output::Left`].
    Leave,
}

/// What a node sees of its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Interfaces that are attached and have a carrier.
    pub interfaces: u8,
    /// Interfaces that ought to be.
    pub interfaces_wanted: u8,
    /// Of `[ha] ping`, those that answer.
    pub pings: u8,
    /// All of `[ha] ping`.
    pub pings_wanted: u8,
}

/// How replication stands, as the replicator sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// We have all that the peer has had to tell (its full pass is through, the stream goes on).
    pub synced_here: bool,
    /// The peer has all that we have had to tell.
    pub synced_there: bool,
    /// The last digests, both ways, were equal, and nothing has been resent since.
    pub equal: bool,
    /// Connections here that the peer ought to know.
    pub worth: u32,
    /// Of them, those that it would carry on.
    pub would_live: u32,
    /// Records not yet acknowledged by the peer.
    pub lag: u32,
    /// Age of the oldest of them, in microseconds.
    pub oldest_us: u32,
    /// Records of the peer's stream received here since control began.
    pub position: u64,
}

/// Who answers for the addresses of a group, as seen by the node that does not own it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// Different MAC addresses that answered, at most [`TESTIMONY_MACS`].
    pub macs: Vec<[u8; 6]>,
    /// Addresses of the group that nobody answered for; 255: or more.
    pub silent: u8,
    /// Addresses that were asked for; 0: it could not ask. 255: or more.
    pub asked: u8,
}

/// Most MAC addresses in a [`Testimony`].
pub const TESTIMONY_MACS: usize = 4;

/// Something to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// Index into [`Settings::paths`].
        path: usize,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// Tell our data plane that it owns the group for `ttl`, counted from the `now` of the call that
    /// gave this, however late it is read; answer by [`Input::Leased`] or
    /// [`Input::LeaseFailed`]. A new epoch has it announce.
    Lease {
        /// Which group.
        group: Arc<str>,
        /// Number of the ownership.
        epoch: u64,
        /// For how long.
        ttl: Duration,
    },
    /// Tell our data plane that it owns the group no more; answer by [`Input::Released`].
    Release {
        /// Which group.
        group: Arc<str>,
        /// Last known number of an ownership.
        epoch: u64,
    },
    /// Run the fencing command; answer by [`Input::Fenced`].
    Fence,
    /// Look whether the group has really arrived here; answer by [`Input::Verified`].
    Verify {
        /// Which group.
        group: Arc<str>,
        /// Number of the ownership.
        epoch: u64,
        /// Who answers for it as the peer sees it; none: there is no peer to ask, or it has not
        /// answered yet (it is then asked again).
        testimony: Option<Testimony>,
        /// Packets a second that the peer had when it owned the group, if it has just done.
        peer_rate: Option<u32>,
    },
    /// The peer wants to know who answers for the group's addresses: have our data plane
    /// `resolve` them; answer by [`Input::Resolved`].
    Resolve {
        /// Which group.
        group: Arc<str>,
        /// Comes back.
        ticket: u32,
    },
    /// Tell people.
    Event(Event),
    /// A command has been carried out, or cannot be: once for each command.
    Answer {
        /// As in [`Input::Command`].
        ticket: u64,
        /// For people in both cases.
        result: Result<String, String>,
    },
    /// After [`Command::Leave`]: nothing is owned any more and the peer has been told. The machine
    /// does nothing further.
    Left,
}

/// Something people may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// Group, if it is about one.
    pub group: Option<Arc<str>>,
    /// Why, in words.
    pub reason: String,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// This node owns the group from now on.
    Taken,
    /// It does no longer.
    Released,
    /// It has found that it was not running for longer than its lease, and gave everything up.
    FencedItself,
    /// Both nodes owned the group.
    Conflict,
    /// The group has really arrived: [`Output::Verify`] succeeded.
    Verified,
    /// It has not, or not quite: the service is degraded.
    Unverified,
    /// The peer is there.
    PeerUp,
    /// Its beats are later than `warntime`.
    PeerLate,
    /// It is silent on all paths for `deadtime`.
    PeerDead,
    /// It has left in good order.
    PeerLeft,
    /// It has started again.
    PeerRestarted,
    /// A path brings nothing while another does.
    PathDown,
    /// It brings beats again.
    PathUp,
    /// The fencing command runs.
    Fencing,
    /// It has succeeded.
    Fenced,
    /// It has not.
    FencingFailed,
    /// A group could not be handed over, or taken.
    HandoverFailed,
    /// Nothing moves by itself.
    MaintenanceOn,
    /// Things move by themselves again.
    MaintenanceOff,
    /// The nodes are not configured alike.
    ConfigDiffers,
    /// They are.
    ConfigAgrees,
    /// Messages were refused: which, and how many.
    Refused,
}

impl EventKind {
    /// Word for logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Released => "released",
            Self::FencedItself => "fenced-itself",
            Self::Conflict => "conflict",
            Self::Verified => "verified",
            Self::Unverified => "unverified",
            Self::PeerUp => "peer-up",
            Self::PeerLate => "peer-late",
            Self::PeerDead => "peer-dead",
            Self::PeerLeft => "peer-left",
            Self::PeerRestarted => "peer-restarted",
            Self::PathDown => "path-down",
            Self::PathUp => "path-up",
            Self::Fencing => "fencing",
            Self::Fenced => "fenced",
            Self::FencingFailed => "fencing-failed",
            Self::HandoverFailed => "handover-failed",
            Self::MaintenanceOn => "maintenance-on",
            Self::MaintenanceOff => "maintenance-off",
            Self::ConfigDiffers => "config-differs",
            Self::ConfigAgrees => "config-agrees",
            Self::Refused => "refused",
        }
    }

    /// How much it matters.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::PeerDead | Self::Conflict | Self::FencingFailed | Self::FencedItself => {
                Severity::Critical
            }
            Self::PeerLate
            | Self::PathDown
            | Self::Unverified
            | Self::HandoverFailed
            | Self::ConfigDiffers
            | Self::Refused
            | Self::Fencing => Severity::Warning,
            _ => Severity::Info,
        }
    }
}
