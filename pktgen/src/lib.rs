//! xvip's packet generator and checker.

pub mod flow;
pub mod report;
pub mod stamp;
