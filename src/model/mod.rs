//! L2: the graph.
