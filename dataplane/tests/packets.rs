//! The whole packet path in memory: a snapshot compiled, frames in, frames out.
//!
//! Frames are built and judged by etherparse, which knows nothing of ours; time is an argument. Rows
//! of the test matrix of the project (A: packets, B: connections) are named in comments.
#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "packets/connections.rs"]
mod connections;
#[path = "packets/ending.rs"]
mod ending;
#[path = "packets/express.rs"]
mod express;
#[path = "packets/fallback.rs"]
mod fallback;
#[path = "packets/fragments.rs"]
mod fragments;
#[path = "packets/harness.rs"]
mod harness;
#[path = "packets/icmp.rs"]
mod icmp;
#[path = "packets/methods.rs"]
mod methods;
#[path = "packets/ownership.rs"]
mod ownership;
#[path = "packets/packet.rs"]
mod packet;
#[path = "packets/persistence.rs"]
mod persistence;
#[path = "packets/pressure.rs"]
mod pressure;
#[path = "packets/random.rs"]
mod random;
#[path = "packets/refused.rs"]
mod refused;
#[path = "packets/replication.rs"]
mod replication;
#[path = "packets/replication_socket.rs"]
mod replication_socket;
#[path = "packets/reply.rs"]
mod reply;
#[path = "packets/scheduling.rs"]
mod scheduling;
#[path = "packets/seeing.rs"]
mod seeing;
