//! [`Job`]: the inputs of a training run, and the folder of its result.

use std::path::Path;

use super::example::Example;
use super::settings::Settings;

/// The inputs of a training run, and the folder of its result.
pub struct Job<'a> {
    /// The model's folder. An adapter names it; a fully trained model gets a copy of its tokenizer.
    pub base: &'a Path,
    /// The examples, before the held-out ones are set aside.
    pub examples: &'a [Example],
    /// The settings of the run.
    pub settings: &'a Settings,
    /// The folder that receives checkpoints, `metrics.jsonl` and the result.
    pub out: &'a Path,
}
