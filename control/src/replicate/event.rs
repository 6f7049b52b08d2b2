//! What replication tells the rest of control.

use dataplane_api::VERSION;
use dataplane_api::sync::Malformed;

/// What the rest of control ought to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session with the peer is open; this version is spoken.
    Opened {
        /// The version.
        version: u8,
    },
    /// The session is over.
    Lost(Ended),
    /// The peer has all our connections.
    PeerSynced,
    /// We have all of the peer's.
    Synced,
    /// The tables differed in so many of 256 parts, which were asked for again.
    Repairing {
        /// Parts.
        buckets: u32,
    },
    /// The peer speaks versions that we do not.
    Version {
        /// Its lowest.
        low: u8,
        /// Its highest.
        high: u8,
    },
    /// What [`Replication::drain`] asked for: all changes up to then are acknowledged.
    Drained,
}

/// Why the session with the own data plane cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// It is no frame.
    Malformed(Malformed),
    /// It speaks another version.
    Version(u32),
    /// A frame at the wrong time, or with a number that cannot be.
    Unexpected,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Version(theirs) => write!(
                f,
                "the data plane speaks version {theirs}, control {VERSION}: use both of one release"
            ),
            Self::Unexpected => f.write_str("the data plane said what it cannot say now"),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer's control is stopped, or has other settings now.
    PeerStopped,
    /// The peer's data plane is gone.
    PeerDataPlane,
    /// The peer ended it for a reason of its own: it heard nothing of us, or began anew.
    PeerAnew,
    /// Nothing was heard of the peer.
    Silence,
    /// A datagram was sent again and again, in vain, while others came through.
    Blocked,
    /// Our own data plane is gone.
    DataPlane,
    /// We stop, or have other settings.
    Stopped,
    /// The session is to be encrypted, and there is no key.
    NoKey,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PeerStopped => "the peer's control stopped",
            Self::PeerDataPlane => "the peer's data plane is gone",
            Self::PeerAnew => "the peer began anew",
            Self::Silence => "nothing is heard of the peer",
            Self::Blocked => {
                "datagrams do not arrive while others do: see that the way between the nodes \
                 carries 1400 bytes of UDP (`ping -M do -s 1400 PEER`)"
            }
            Self::DataPlane => "our own data plane is gone",
            Self::Stopped => "replication was stopped",
            Self::NoKey => {
                "one of the nodes wants encryption, and this one has no key: give both the same \
                 `key` in `[ha]`"
            }
        })
    }
}

impl Ended {
    /// What the peer is told.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Stopped => 1,
            Self::DataPlane => 2,
            _ => 3,
        }
    }

    pub(super) const fn of_peer(code: u8) -> Self {
        match code {
            1 => Self::PeerStopped,
            2 => Self::PeerDataPlane,
            _ => Self::PeerAnew,
        }
    }
}
