//! Host matrix products.
