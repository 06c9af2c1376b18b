//! L1: one file an op.

pub mod glu;
pub mod norm;
pub mod rope;
