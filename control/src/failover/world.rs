//! What a group needs to know of everything else, as values.

use crate::failover::evidence::Rank;
use crate::failover::exchange::Nanos;
use crate::failover::peer::Liveness;

/// What a group needs to know of everything else.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) now: Nanos,
    pub(super) keepalive: Nanos,
    pub(super) deadtime: Nanos,
    pub(super) initdead: Nanos,
    /// Longest lease.
    pub(super) ttl: Nanos,
    pub(super) node: &'a str,
    pub(super) peer_name: &'a str,
    /// Since when this node listens without an interruption.
    pub(super) listening_since: Nanos,
    pub(super) data_plane: bool,
    /// Whether it has been awake for long enough to know what it says.
    pub(super) settled: bool,
    pub(super) leaving: bool,
    pub(super) maintenance: bool,
    pub(super) blind: bool,
    pub(super) synced: bool,
    pub(super) rank: Rank,
    /// What fencing says: may something be taken from a silent peer?
    pub(super) fence: Fence,
    /// Records that the peer does not have yet; 0 without replication.
    pub(super) lag: u32,
    /// Whether both tables are the same, as far as digests say.
    pub(super) equal: bool,
    pub(super) failback: bool,
    pub(super) liveness: Liveness,
    pub(super) there: bool,
    pub(super) alive_since: Nanos,
    pub(super) fresh: bool,
    pub(super) peer_rank: Rank,
    pub(super) peer_would_take: bool,
    pub(super) peer_leaving: bool,
    pub(super) hears_us_at: Option<Nanos>,
    pub(super) gives_up_at: Option<Nanos>,
    /// Since when the peer sees more than we do.
    pub(super) fitter_since: Option<Nanos>,
}

/// Whether a silent peer has been made harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    /// Nothing is configured.
    NotWanted,
    /// Not yet.
    Needed,
    Running,
    Done,
    /// Tried again then.
    Failed(Nanos),
}
