//! L1: one file an op.
