//! L3: fine-tuning: examples → packed passes → gradients → `AdamW`, with exact resume.

pub mod clip;
pub mod metrics;
pub mod progress;
pub mod schedule;
pub mod settings;

pub use progress::Status;
pub use settings::Settings;
