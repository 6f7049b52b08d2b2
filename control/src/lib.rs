//! xvip's decision maker.
//!
//! This file is the layer diagram: a module may use only modules listed above it. Everything down
//! to [`node`] is the core: pure, no I/O, no clock; time and bytes are arguments, effects are
//! values. [`io`] carries them out, on one thread. Control may die at any moment: the data plane goes on
//! forwarding, and a new control process needs nothing but the configuration file.
#![deny(unsafe_code)]

// Core.
pub mod time;
pub mod log;
pub mod event;
pub mod check;
pub mod sorry;
pub mod alert;
pub mod seal;
pub mod failover;
pub mod replicate;
pub mod config;
pub mod alike;
pub mod overrides;
pub mod verbs;
pub mod compare;
pub mod health;
pub mod plan;
pub mod spare;
pub mod metrics;
pub mod node;

// Shell.
pub mod io;
