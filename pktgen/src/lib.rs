//! xvip's packet generator and checker.

pub mod bpf;
pub mod cps;
pub mod craft;
pub mod engine;
pub mod flood;
pub mod flow;
pub mod ledger;
pub mod load;
pub mod meter;
pub mod ndr;
pub mod neighbors;
pub mod options;
pub mod order;
pub mod packet_socket;
pub mod parse;
pub mod progress;
pub mod rate;
pub mod report;
pub mod run;
pub mod show;
pub mod size;
pub mod sources;
pub mod spec;
pub mod stamp;
pub mod trial;
