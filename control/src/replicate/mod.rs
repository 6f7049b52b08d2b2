//! Connections of one node made known to the other: sequenced, acknowledged, sent again until they
//! are.
//!
//! Pure: datagrams, frames and the time are arguments; what is to be sent is asked for. The thread
//! that carries it out is `io::replicator`. Between a data plane and its control there is the
//! replication socket ([`dataplane_api::sync`]), between the two controls there are datagrams
//! ([`datagram`], and `docs/protocols.md`).
//!
//! * [`Replication`] is one node's half: it orders passes and digests of its own data plane,
//!   carries its stream to the peer, and the peer's into its data plane;
//! * `link` is the way between the nodes: `session` (who talks to whom), `outbox` and `inbox`
//!   (windows, order, repetition);
//! * `guard` proves what is sent and checks what comes, and encrypts if it is to;
//! * `meter` measures, [`view`] is what people see.
//!
//! Promises: items of one session reach the peer's data plane in order and once, or the session
//! ends and all is sent anew; what is not proved to be the peer's, in this session, changes nothing
//! but a counter; every queue has a maximum in [`limits`].

pub mod datagram;
mod event;
mod export;
mod guard;
mod import;
mod inbox;
pub mod limits;
mod link;
mod meter;
mod outbox;
mod replication;
mod session;
pub mod view;
#[cfg(test)]
pub(crate) mod tests;

pub use event::{Ended, Event, FrameError};
pub use guard::Guard;
pub use replication::Replication;
pub use view::View;
