//! Which of two nodes owns which VIPs. Pure: time, bytes and events go in, things to do come out.
//!
//! The heartbeat thread runs it, and nothing else does. [`machine::Machine`] is the whole; the rules are in
//! `decide`, the states in `group`. Two machines under a network that does everything a network can
//! do are in `control/tests/simulation.rs`.

pub mod settings;
pub mod view;
pub mod exchange;
pub mod beat;
pub mod evidence;
pub mod gaps;
mod decide;
mod group;
mod handover;
mod peer;
pub mod survey;
mod verify;
mod world;
pub mod machine;
