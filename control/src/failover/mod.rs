//! Which of two nodes owns which VIPs. Pure.

pub mod settings;
