//! xvip's decision maker.
//!
//! This file is the layer diagram: a module may use only modules listed above it. Everything down
//! to [`node`] is the core: pure, no I/O, no clock; time and bytes are arguments, effects are
//! values. [`io`] carries them out, on one thread. Control may die at any moment: the data plane goes on
//! forwarding, and a new control process needs nothing but the configuration file.
#![forbid(unsafe_code)]

// Core.
pub mod config;
pub mod log;
pub mod node;
pub mod plan;
pub mod time;
pub mod verbs;

// Shell.
pub mod io;
