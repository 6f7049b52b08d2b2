//! Bytes and their meaning: parsers and builders of headers.
//!
//! A parser never trusts a length: it answers with a [`dataplane_api::counter::Reason`] and never
//! panics, whatever the bytes. A builder writes into a slice whose length the caller has checked.

pub mod checksum;
pub mod glance;
pub mod neighbor;
pub mod packet;
pub mod tunnel_error;
mod walk;
