//! One file a command: its arguments and the call they make.

pub mod analyze;
pub mod info;
