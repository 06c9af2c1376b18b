//! The study: plan → cells → fine-tune → sample → judge → statistics → report. No tensors here.

pub mod flags;
pub mod judge;
pub mod plan;
pub mod questions;
pub mod stats;
pub mod store;
