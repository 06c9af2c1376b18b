//! The learning rate over the steps of a run, as transformers' `get_*_schedule` define it (`optimization.py`).

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Linearly, to zero at the last step.
    #[default]
    Linear,
    /// Along half a cosine to zero at the last step.
    Cosine,
    /// It stays constant.
    Constant,
}

impl Schedule {
    /// The factor on the learning rate in optimiser step `step` (from 0) of `total`.
    /// During the warm-up it rises from 0, in the very first step, in a straight line to 1.
    pub fn factor(self, step: usize, warmup: usize, total: usize) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let span = total.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Linear => total.saturating_sub(step) as f64 / span,
            Self::Cosine => {
                let progress = (step - warmup) as f64 / span;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
            Self::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    fn curve(schedule: Schedule, warmup: usize, total: usize) -> Vec<f64> {
        (0..total).map(|step| schedule.factor(step, warmup, total)).collect()
    }

    /// Values of `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` and
    /// `get_constant_schedule_with_warmup` for 2 warm-up steps of 6.
    #[test]
    fn equals_transformers() {
        assert_eq!(curve(Schedule::Linear, 2, 6), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(curve(Schedule::Constant, 2, 6), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
        let cosine = curve(Schedule::Cosine, 2, 6);
        for (found, expected) in cosine.iter().zip([0.0, 0.5, 1.0, 0.853_553_390_6, 0.5, 0.146_446_609_4]) {
            assert!((found - expected).abs() < 1e-9, "{cosine:?}");
        }
    }

    #[test]
    fn warmup_longer_than_the_run() {
        assert_eq!(curve(Schedule::Linear, 8, 2), [0.0, 0.125]);
        assert_eq!(Schedule::Linear.factor(9, 8, 2), 0.0);
    }
}
