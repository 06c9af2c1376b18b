//! One file a command: its arguments and the call they make.

pub mod analyze;
pub mod fetch;
pub mod info;
pub mod models;
