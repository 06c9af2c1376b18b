//! [`Trace`]: everything that can be seen of one text's pass through a model.
//!
//! | file | holds |
//! |---|---|
//! | `tracing.rs` | the trace, and how it is made |
//! | `record.rs` | the probe that keeps residual streams, attention patterns, sizes of updates, MLP statistics |
//! | `lens.rs` | the prediction at every depth |
//! | `cost.rs` | time, bytes and arithmetic of every op |
//! | `files.rs` | a trace as safetensors and JSON |
//! | `page/` | a trace as one page |
//!
//! A depth d is the residual stream after d blocks: 0 is the embedding, L the input of the final norm.

pub mod cost;
mod files;
pub mod lens;
mod page;
mod record;
mod tracing;

pub use record::{Mlp, Norms};
pub use tracing::{Options, Sizes, Trace, trace};
