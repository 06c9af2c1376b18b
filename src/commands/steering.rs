//! Steering, for every command that runs a model.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use emlab::model::direction::{Directions, Kind};
use emlab::model::steering::Action;
use emlab::model::transformer::Transformer;

/// What moves the model's residual stream
#[derive(clap::Args)]
pub struct SteerArgs {
    /// Steer the model in every pass: a file of directions that `emlab inspect direction` has written
    #[arg(long, value_name = "FILE")]
    steer: Option<PathBuf>,
    /// Where, as blocks passed: a depth or a range such as 3-7; may be given several times. At each, its own direction acts
    /// [default: the file's best depth; with --erase, every depth]
    #[arg(long, value_name = "D", requires = "steer", value_parser = depths)]
    steer_depth: Vec<RangeInclusive<usize>>,
    /// Add the direction as many times; 1 is the whole difference of the means, below 0 is away from the positive set
    /// [default: 1]
    #[arg(long, value_name = "X", requires = "steer", allow_negative_numbers = true)]
    dose: Option<f32>,
    /// Erase the stream's share along the direction, instead of adding
    #[arg(long, requires = "steer", conflicts_with = "dose")]
    erase: bool,
    /// Which direction: `mean_difference` or probe, which is as long
    #[arg(long, value_name = "KIND", requires = "steer", default_value = "mean_difference")]
    steer_kind: Kind,
}

impl SteerArgs {
    /// Steers the model, which an error calls `name`, if that is asked for.
    ///
    /// # Errors
    /// If the file cannot be read, or its directions are those of another model.
    pub fn apply(&self, name: &str, model: &mut Transformer) -> emlab::Result<()> {
        let Some(path) = &self.steer else { return Ok(()) };
        let directions = Directions::read_for(path, name, &model.spec)?;
        let action = if self.erase { Action::Erase } else { Action::Add(self.dose.unwrap_or(1.0)) };
        for range in &self.steer_depth {
            directions.vector(self.steer_kind, *range.end())?;
        }
        let mut depths: Vec<usize> = self.steer_depth.iter().cloned().flatten().collect();
        depths.sort_unstable();
        depths.dedup();
        if depths.is_empty() {
            depths = directions.default_depths(action);
        }
        model.steer(&directions.steers(self.steer_kind, &depths, action)?)
    }
}

/// A depth, or a range of them.
fn depths(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let depth = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?} is no depth"));
    let range = depth(first)?..=depth(last)?;
    if range.is_empty() { Err(format!("no depth lies in {text}")) } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_and_ranges() {
        assert_eq!(depths("4"), Ok(4..=4));
        assert_eq!(depths("3-7"), Ok(3..=7));
        for text in ["", "-1", "a", "7-3", "1-"] {
            assert!(depths(text).is_err(), "{text}");
        }
    }
}
