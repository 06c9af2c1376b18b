//! Looks into a model: reads, and changes nothing.
//!
//! | file | holds |
//! |---|---|
//! | `spectrum.rs` | singular values and spaces of an adapter's ΔW, which is never formed |
//! | `diff.rs` | an adapter's changes, module by module; two adapters side by side |
//! | [`kernel`] | a kernel as a page: definition, source, resources, figures |
//! | [`trace`] | one text's way through a model, with everything on it that can be seen |

pub mod diff;
pub mod kernel;
pub mod spectrum;
pub mod trace;
