//! L3: sampling.
