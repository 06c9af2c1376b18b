//! L3: models and data sets into the local cache.
