//! What the data plane knows of the kernel and asks of it.
//!
//! Runs on the management thread, never on a worker. [`state`] is pure: it turns netlink messages
//! into a picture of links, addresses and neighbours. [`netlink`] owns the sockets; `message` reads
//! what comes from them; [`routes`] reads the
//! routing table; `ethtool` asks what netlink does not tell (queues in use, driver); [`multicast`] has
//! interfaces listen to groups.

mod ethtool;
mod message;
pub mod multicast;
pub mod netlink;
pub mod routes;
pub mod state;

pub use netlink::{Drained, Monitor};
pub use state::{KernelState, Link, Neighbor, Reachability, Route};
