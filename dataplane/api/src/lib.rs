//! The contracts between xvip's processes and nodes.
//!
//! A type is here only if its bytes or its JSON cross between two processes or two nodes; no I/O, no
//! logic beyond validation, no dependency but serde.
//!
//! | contract | produced by | consumed by |
//! |---|---|---|
//! | [`service::Snapshot`] | control (`plan`) | data plane |
//! | [`message::Request`], [`message::Reply`] | control ↔ data plane | agent socket |
//! | [`record::Record`], [`sync::Frame`] | data plane ↔ control ↔ the peer's control ↔ its data plane | replication socket, datagrams between nodes |
//! | [`counter::Reason`] | data plane | everybody who shows a number |
#![forbid(unsafe_code)]

pub mod counter;
pub mod message;
pub mod record;
pub mod service;
pub mod sync;

/// Version of every contract in this crate. Both ends of the agent socket compare it in the first
/// message and refuse to talk across a difference.
pub const VERSION: u32 = 1;
