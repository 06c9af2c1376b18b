//! L3: fine-tuning: examples → packed passes → gradients → `AdamW`, with exact resume.
//!
//! | file | holds |
//! |---|---|
//! | `dataset.rs` | JSON Lines → documents |
//! | `example.rs` | documents → tokens and the mask of those that carry loss |
//! | `settings.rs` | every choice of a run, with the recipe's values |
//! | `packing.rs` | which examples a step uses, and how they share passes |
//! | `schedule.rs` `clip.rs` | the learning rate; the gradient's norm |
//! | `metrics.rs` `progress.rs` | the curve on disk; the state on stderr |

pub mod clip;
pub mod dataset;
pub mod example;
pub mod metrics;
pub mod packing;
pub mod progress;
pub mod schedule;
pub mod settings;

pub use example::Example;
pub use progress::Status;
pub use settings::Settings;
