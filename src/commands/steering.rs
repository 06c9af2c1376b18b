//! Steering arguments, for every command that runs a model.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use emlab::model::direction::{Directions, Kind};
use emlab::model::steering::Action;
use emlab::model::transformer::Transformer;

/// How the model's residual stream is steered
#[derive(clap::Args)]
pub struct SteerArgs {
    /// Steer the model in every forward pass, along the directions in a file written by `emlab inspect direction`
    #[arg(long, value_name = "FILE")]
    steer: Option<PathBuf>,
    /// Depth at which to steer, in blocks: one (4) or a range (3-7); may be repeated. Each depth uses its own direction
    /// [default: the file's best depth; with --erase, every depth]
    #[arg(long, value_name = "D", requires = "steer", value_parser = depths)]
    steer_depth: Vec<RangeInclusive<usize>>,
    /// Multiple of the direction to add: 1 is the whole difference between the two means; negative values steer away
    /// from the positive set [default: 1]
    #[arg(long, value_name = "X", requires = "steer", allow_negative_numbers = true)]
    dose: Option<f32>,
    /// Instead of adding, erase the stream's component along the direction
    #[arg(long, requires = "steer", conflicts_with = "dose")]
    erase: bool,
    /// Which direction to use: mean_difference, or probe (scaled to the same length)
    #[arg(long, value_name = "KIND", requires = "steer", default_value = "mean_difference")]
    steer_kind: Kind,
}

impl SteerArgs {
    /// Steers `model` if the arguments ask for it. Errors call the model `name`.
    ///
    /// # Errors
    /// If the file cannot be read, or its directions belong to another model.
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
