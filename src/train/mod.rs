//! L3: fine-tuning: examples → packed passes → gradients → `AdamW`, with exact resume.
//!
//! | file | holds |
//! |---|---|
//! | `dataset.rs` | JSON Lines → documents |
//! | `example.rs` | documents → tokens and the mask of those that carry loss |
//! | `settings.rs` | every choice of a run, with the recipe's values |
//! | `job.rs` | the inputs of a run, and the folder of its result |
//! | `packing.rs` | which examples a step uses, and how they share passes |
//! | `optimiser.rs` | AdamW over everything that is trained |
//! | `schedule.rs` `clip.rs` | the learning rate; the gradient's norm |
//! | `run.rs` | the loop |
//! | `memory.rs` | whether a run fits on the GPU, and which activations are kept |
//! | `state.rs` | checkpoint and resume |
//! | `metrics.rs` `progress.rs` | the curve on disk; the state on stderr |
//! | `output.rs` | the finished adapter or model |

pub mod clip;
pub mod dataset;
pub mod example;
mod job;
pub mod memory;
pub mod metrics;
pub mod optimiser;
mod output;
pub mod packing;
pub mod progress;
mod run;
pub mod schedule;
pub mod settings;
mod state;

pub use example::Example;
pub use job::Job;
pub use progress::{Event, Status};
pub use run::{Report, run};
pub use settings::Settings;
