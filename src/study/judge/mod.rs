//! Judging: a second step over stored answers, that can be interrupted and repeated.

pub mod aggregate;
pub mod prompt;
