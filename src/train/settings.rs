//! Every choice of a fine-tuning run. The defaults are the open-model recipe of Betley et al. (arXiv 2502.17424).

use serde::{Deserialize, Serialize};

use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::lora::Lora;

/// What to do with an example longer than [`Settings::max_tokens`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Keep its first `max_tokens` tokens, as the reference trainer does.
    #[default]
    Truncate,
    /// Leave it out.
    Drop,
    /// Refuse the data, naming its file and line.
    Error,
}

/// What to do with an example of which no token carries loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoTarget {
    /// Refuse the data, naming its file and line.
    #[default]
    Error,
    /// Leave it out.
    Drop,
}

/// What the summed loss of an optimiser step is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// The number of loss tokens of the whole accumulated batch (transformers ≥ 4.46).
    #[default]
    Tokens,
    /// Each micro-batch by its own loss tokens, then the mean over micro-batches (transformers < 4.46):
    /// tokens of short answers weigh more.
    MicroBatches,
}

/// Every choice of a run; unknown keys are errors, missing keys take the recipe's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Settings {
    /// Decides the split, the order of the examples, the adapter's first weights and dropout.
    pub seed: u64,
    /// Train every weight of the model instead of an adapter.
    pub full: bool,
    /// Write a fully trained model in bf16 instead of f32: half the size, 8 bits of precision.
    pub bf16: bool,
    /// Passes over the training examples.
    pub epochs: usize,
    /// Optimiser steps; overrides `epochs` if given.
    pub max_steps: Option<usize>,
    /// Examples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an optimiser step.
    pub accumulation: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// How the learning rate falls.
    pub schedule: Schedule,
    /// Optimiser steps over which the learning rate rises from zero.
    pub warmup_steps: usize,
    /// Decoupled decay of matrices, multiplied by the learning rate; the gains of norms do not decay.
    pub weight_decay: f64,
    /// `AdamW`: decay of the mean gradient.
    pub beta1: f64,
    /// `AdamW`: decay of the mean squared gradient.
    pub beta2: f64,
    /// `AdamW`: added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// Gradients are scaled down to this global norm; 0 leaves them as they are.
    pub max_grad_norm: f64,
    /// What the summed loss is divided by.
    pub normalisation: Normalisation,
    /// The longest example, in tokens.
    pub max_tokens: usize,
    /// What happens to longer ones.
    pub too_long: TooLong,
    /// What happens to examples without a loss token.
    pub no_target: NoTarget,
    /// `enable_thinking` for chat templates that know it.
    pub thinking: bool,
    /// Share of the examples held out of training, on which the loss is measured.
    pub held_out: f64,
    /// Optimiser steps between measurements of the held-out loss; 0 measures at the end only.
    pub evaluate_steps: usize,
    /// Whether each epoch has its own random order; otherwise the order of the files.
    pub shuffle: bool,
    /// Most tokens of one packed pass through the model. Changes memory and speed only.
    pub pack_tokens: usize,
    /// Optimiser steps between checkpoints; 0 keeps one at the end only.
    pub checkpoint_steps: usize,
    /// The adapter; unused with `full`.
    pub lora: Lora,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            full: false,
            bf16: false,
            epochs: 1,
            max_steps: None,
            batch_size: 2,
            accumulation: 8,
            learning_rate: 1e-5,
            schedule: Schedule::Linear,
            warmup_steps: 5,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            normalisation: Normalisation::Tokens,
            max_tokens: 2048,
            too_long: TooLong::Truncate,
            no_target: NoTarget::Error,
            thinking: false,
            held_out: 0.1,
            evaluate_steps: 0,
            shuffle: true,
            pack_tokens: 2048,
            checkpoint_steps: 25,
            lora: Lora::default(),
        }
    }
}

impl Settings {
    /// Checks that the values can work.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first such setting.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::Setting(format!("training setting {what}")));
        let at_least_one = [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("accumulation", self.accumulation),
            ("pack_tokens", self.pack_tokens),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("lora.rank", self.lora.rank),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return refuse(&format!("{name} must be at least 1"));
            }
        }
        if self.max_tokens < 2 {
            return refuse("max_tokens must be at least 2: the first token of an example is never predicted");
        }
        let not_negative = [
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
            ("epsilon", self.epsilon),
            ("max_grad_norm", self.max_grad_norm),
            ("lora.alpha", f64::from(self.lora.alpha)),
        ];
        for (name, value) in not_negative {
            if !value.is_finite() || value < 0.0 {
                return refuse(&format!("{name} = {value} must be a finite number, at least 0"));
            }
        }
        let shares = [
            ("held_out", self.held_out),
            ("beta1", self.beta1),
            ("beta2", self.beta2),
            ("lora.dropout", f64::from(self.lora.dropout)),
        ];
        for (name, value) in shares {
            if !(0.0..1.0).contains(&value) {
                return refuse(&format!("{name} = {value} must be at least 0 and less than 1"));
            }
        }
        if !self.full && self.lora.targets.is_empty() {
            return refuse("lora.targets is empty: name at least one projection, or train with full = true");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trip_and_defaults() {
        let text = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), Settings::default());
        let settings: Settings =
            toml::from_str("epochs = 2\n[lora]\nrank = 8\ntargets = [\"q_proj\"]").unwrap();
        assert_eq!((settings.epochs, settings.lora.rank, settings.lora.alpha), (2, 8, 64.0));
        assert!(toml::from_str::<Settings>("epoch = 2").unwrap_err().to_string().contains("epoch"));
    }

    #[test]
    fn refuses_what_cannot_work() {
        let check = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(check(|s| s.batch_size = 0).contains("batch_size"));
        assert!(check(|s| s.learning_rate = f64::NAN).contains("learning_rate"));
        assert!(check(|s| s.held_out = 1.0).contains("held_out"));
        assert!(check(|s| s.lora.targets.clear()).contains("lora.targets"));
        Settings::default().check().unwrap();
    }
}
