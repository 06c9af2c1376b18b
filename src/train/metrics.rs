//! `metrics.jsonl`: one line an optimiser step, one a held-out measurement, with transformers' field names. It holds
//! no clock time, so that an interrupted and resumed run ends in the same bytes as an uninterrupted one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metric {
    /// An optimiser step.
    Train {
        /// Optimiser steps made, this one included.
        step: usize,
        /// Share of the run's examples seen, in epochs.
        epoch: f64,
        /// Mean negative log-likelihood of the loss tokens, before the update.
        loss: f64,
        /// Global norm of the gradient, before clipping.
        grad_norm: f64,
        /// The learning rate of the update.
        learning_rate: f64,
        /// Loss tokens of the step.
        tokens: usize,
    },
    /// A measurement on the held-out examples.
    HeldOut {
        /// Optimiser steps made before it.
        step: usize,
        /// Mean negative log-likelihood of the held-out loss tokens.
        eval_loss: f64,
        /// Their number.
        eval_tokens: usize,
    },
}

impl Metric {
    /// Optimiser steps made.
    pub fn step(&self) -> usize {
        match self {
            Self::Train { step, .. } | Self::HeldOut { step, .. } => *step,
        }
    }
}

/// The open file.
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens `metrics.jsonl` in `dir`, dropping lines written after `step` and an incomplete last line.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read or written.
    pub fn resume(dir: &Path, step: usize) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let kept =
            if path.exists() { kept_bytes(&fs::read(&path).map_err(Error::io(&path))?, step) } else { 0 };
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        file.set_len(kept as u64).map_err(Error::io(&path))?;
        Ok(Self { path, file })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn append(&mut self, metric: &Metric) -> Result<()> {
        let mut line =
            serde_json::to_string(metric).map_err(|error| Error::file(&self.path, error.to_string()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Waits until the lines are on the disk.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }

    /// Every line so far.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn read(&self) -> Result<Vec<Metric>> {
        let bytes = fs::read(&self.path).map_err(Error::io(&self.path))?;
        Ok(bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// The length of the leading lines that are whole and not later than `step`.
fn kept_bytes(bytes: &[u8], step: usize) -> usize {
    let keeps = |line: &&[u8]| {
        line.ends_with(b"\n")
            && serde_json::from_slice::<Metric>(line).is_ok_and(|metric| metric.step() <= step)
    };
    bytes.split_inclusive(|&byte| byte == b'\n').take_while(keeps).map(<[u8]>::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(step: usize) -> Metric {
        let (epoch, loss, grad_norm, learning_rate) = (0.1, 1.0 / 3.0, 2.5, 1e-5);
        Metric::Train { step, epoch, loss, grad_norm, learning_rate, tokens: 7 }
    }

    #[test]
    fn resuming_drops_later_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let evaluated = Metric::HeldOut { step: 2, eval_loss: 0.5, eval_tokens: 3 };
        let mut metrics = Metrics::resume(dir.path(), 0).unwrap();
        for metric in [train(1), train(2), evaluated, train(3)] {
            metrics.append(&metric).unwrap();
        }
        metrics.file.write_all(b"{\"step\":4,\"epo").unwrap();
        let metrics = Metrics::resume(dir.path(), 2).unwrap();
        assert_eq!(metrics.read().unwrap(), [train(1), train(2), evaluated]);
        assert!(fs::read_to_string(&metrics.path).unwrap().ends_with("\"eval_tokens\":3}\n"));
        assert!(Metrics::resume(dir.path(), 0).unwrap().read().unwrap().is_empty());
    }
}
