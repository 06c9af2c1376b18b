//! [`Job`]: what is to be trained, on what, and where to.

use std::path::Path;

use super::example::Example;
use super::settings::Settings;

/// What is to be trained, on what, and where to.
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
