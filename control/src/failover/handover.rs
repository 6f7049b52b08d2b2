//! A group on its way to the peer.

use crate::failover::exchange::Nanos;

/// Why a group is being handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Operator,
    Evidence,
    Failback,
    Leave,
}

impl Cause {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Operator => "switched over by the operator",
            Self::Evidence => "the peer sees more of the network",
            Self::Failback => "it goes back to the node that it prefers",
            Self::Leave => "this node leaves",
        }
    }
}

/// A group on its way to the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    pub(super) cause: Cause,
    pub(super) force: bool,
    /// Until then the peer is waited for to know every connection; then it is offered.
    pub(super) drain_until: Nanos,
    /// Since it is offered: until when.
    pub(super) offered_until: Option<Nanos>,
}
