//! The connection table: fixed size, allocated at start, lock-free, shared by all workers.
//!
//! Any worker finds any connection. One entry serves both directions: it is found by the client's
//! side of the flow, which requests and replies both carry; replies of full NAT, which carry a local
//! port instead, are found by [`Ports`]. Entries live in a file in shared memory that a restarted
//! process adopts ([`Table::adopt`]); everything else is built anew from them.
//!
//! No call blocks, allocates or enters the kernel, but for creation, adoption and
//! [`Table::page`] (which fills a vector). Memory: 64 bytes an entry, 16 of index, 4 of free list.
//!
//! `entry.rs` is one entry, `glimpse.rs` the same undecoded, `index.rs` finds it, `insert.rs` is the one hard protocol,
//! `origin.rs` says which connections came from the peer.

mod entry;
#[cfg(not(loom))]
mod file;
mod finder;
mod free;
mod glimpse;
mod index;
mod insert;
mod memory;
mod origin;
mod ports;
mod sync;
mod table;
pub mod tcp;

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use entry::{Conn, Found, Handle, Identity, LastHop};
#[cfg(not(loom))]
pub use file::{AdoptError, Adopted, CreateError, FileError};
pub use finder::Finder;
pub use glimpse::{Asked, Glimpse, Key};
pub use index::{Hash, Probe};
pub use insert::{Ended, Outcome, Reservation};
pub use memory::Unavailable;
pub use origin::Origin;
pub use ports::Ports;
pub use table::Table;
pub use tcp::State;
