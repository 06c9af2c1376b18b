//! The seam between the driver and the engine: everything that a study needs from models.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::device::philox::Key;
use crate::generate::{Finish, Form};
use crate::model::chat::Message;
use crate::study::judge::aggregate::Distribution;
use crate::study::plan::judges::Local;
use crate::study::plan::steering::Steering;
use crate::study::plan::{Sampling, Tuning};

/// Weights that answer: a checkpoint, an optional adapter, and optional steering.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// The checkpoint's folder.
    pub base: PathBuf,
    /// The adapter's folder.
    pub adapter: Option<PathBuf>,
    /// Steering of the residual stream.
    pub steering: Option<Steering>,
}

/// A conversation to be continued.
#[derive(Clone, Debug)]
pub struct Ask {
    /// System prompt, if there is one, and user's text.
    pub messages: Vec<Message>,
    /// The random numbers that decide the answer.
    pub key: Key,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its text, without special tokens.
    pub text: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// Why sampling stopped.
    pub finish: Finish,
}

/// What a study needs from models.
pub trait Engine {
    /// Fine-tunes the checkpoint in `model` and writes an adapter, or with `full` a checkpoint, into `out`. Resumes
    /// an interrupted attempt.
    ///
    /// # Errors
    /// If the model or the data cannot be used, the loss is not finite, or `out` cannot be written.
    fn tune(&mut self, model: &Path, tuning: &Tuning, out: &Path) -> Result<()>;

    /// Answers every ask, and calls `done` with its index as soon as it is answered.
    ///
    /// # Errors
    /// If the model cannot be used; whatever `done` returns.
    fn answer(
        &mut self,
        weights: &Weights,
        sampling: &Sampling,
        form: Option<Form>,
        asks: &[Ask],
        done: &mut dyn FnMut(usize, Reply) -> Result<()>,
    ) -> Result<()>;

    /// Lets a local judge rate every prompt, calling `done` with its index as soon as it is rated.
    ///
    /// # Errors
    /// If the model cannot be used; whatever `done` returns.
    fn rate(
        &mut self,
        judge: &Local,
        prompts: &[&str],
        done: &mut dyn FnMut(usize, Distribution) -> Result<()>,
    ) -> Result<()>;
}
