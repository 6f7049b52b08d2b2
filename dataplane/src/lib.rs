//! xvip's packet processor.
//!
//! This file is the layer diagram: a module may use only modules listed above it. The core does no
//! I/O, reads no clock and makes no system call; time and bytes are arguments. The steward's part
//! decides, purely, what should be done with the kernel's network. The shells own sockets, files and
//! threads.

// Core: the life of a packet.
pub mod limits;
pub mod clock;
pub mod prefetch;
pub mod address;
pub mod lease;
pub mod counters;
pub mod frame;
pub mod wire;
pub mod sched;
pub mod conn;
pub mod ids;
pub mod service;
pub mod routes;
pub mod ending;
pub mod published;
pub mod rewrite;
pub mod fragment;
pub mod capture;
pub mod changes;
pub mod probes;
pub mod resolver;
pub mod forward;

// What the steward decides; pure, on what the kernel told.
pub mod kernel;
pub mod next_hop;
pub mod reply_routes;
pub mod reconcile;
pub mod announce;

// Shells.
pub mod log;
pub mod device;
pub mod steer;
pub mod privilege;
pub mod priority;
pub mod bell;
pub mod runtime;
pub mod status;
pub mod why;
pub mod state_file;
pub mod sync;
pub mod worker;
pub mod agent;
pub mod steward;
