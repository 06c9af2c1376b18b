//! Looks into a model: reads, and changes nothing.
//!
//! | file | holds |
//! |---|---|
//! | `spectrum.rs` | singular values and spaces of an adapter's ΔW, which is never formed |
//! | `diff.rs` | an adapter's changes, module by module; two adapters side by side |
//! | [`compare`] | two models on one text: where their streams part, what they then say differently |
//! | [`patch`] | activations of one prompt put into the run of another |
//! | [`trace`] | one text's way through a model, with everything on it that can be seen |

pub mod compare;
pub mod diff;
pub mod patch;
pub mod spectrum;
pub mod trace;
