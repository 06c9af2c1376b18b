//! L2: the graph.

pub mod adapter;
