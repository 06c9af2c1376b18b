//! Steering of a condition: a direction that acts in every forward pass while answers are sampled.
//!
//! ```toml
//! steer = { direction = "direction.safetensors", dose = 2.0 }
//! steer = { direction = "direction.safetensors", kind = "probe", depths = [6, 7], dose = -1.0 }
//! steer = { direction = "direction.safetensors", erase = true }
//! ```
//!
//! `emlab inspect direction` writes such files. A dose of 1 adds the whole vector: the difference of the two sets' means,
//! or the probe's direction scaled to that length; a negative dose steers away from the positive set. A depth is the
//! number of blocks passed, and each depth has its own direction. The default is the file's best depth for adding, and
//! every depth for erasing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::direction::{Directions, Kind};
use crate::model::spec::Spec;
use crate::model::steering::{Action, Steer};
use crate::study::store;
use crate::{Error, Result};

/// A steering with every value explicit.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(into = "SteeringFile")]
pub struct Steering {
    /// The file of directions.
    pub direction: PathBuf,
    /// Which kind of direction.
    pub kind: Kind,
    /// At which depths.
    pub depths: Vec<usize>,
    /// Multiple of the direction that is added; none erases it.
    pub dose: Option<f64>,
}

/// A steering as written in a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SteeringFile {
    pub(super) direction: PathBuf,
    #[serde(default)]
    pub(super) kind: Kind,
    pub(super) depths: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dose: Option<f64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) erase: bool,
}

impl From<Steering> for SteeringFile {
    fn from(Steering { direction, kind, depths, dose }: Steering) -> Self {
        Self { direction, kind, depths: Some(depths), dose, erase: dose.is_none() }
    }
}

impl Steering {
    /// Resolves what a plan says; `file.direction` is where the file is.
    ///
    /// # Errors
    /// Those of [`Directions::read`]; `Error::Setting` for a depth that they do not have, or without one of dose and erase.
    pub(super) fn new(file: SteeringFile) -> Result<Self> {
        let SteeringFile { direction, kind, depths, dose, erase } = file;
        if dose.is_some() == erase || dose.is_some_and(|dose| !dose.is_finite()) {
            return Err(Error::Setting("give either a finite dose or erase = true".into()));
        }
        let mut steering = Self { direction, kind, depths: Vec::new(), dose };
        let directions = Directions::read(&steering.direction)?;
        steering.depths = depths.unwrap_or_else(|| directions.default_depths(steering.action()));
        if steering.depths.is_empty() {
            return Err(Error::Setting("depths must not be empty".into()));
        }
        directions.steers(kind, &steering.depths, steering.action())?;
        Ok(steering)
    }

    fn action(&self) -> Action {
        self.dose.map_or(Action::Erase, |dose| Action::Add(dose as f32))
    }

    /// The steering as the model applies it.
    ///
    /// # Errors
    /// Those of [`Directions::read`].
    pub fn steers(&self) -> Result<Vec<Steer>> {
        Directions::read(&self.direction)?.steers(self.kind, &self.depths, self.action())
    }

    /// Checks that the directions are those of a model of these sizes.
    ///
    /// # Errors
    /// `Error::File` if they are not; those of [`Directions::read`].
    pub(super) fn check(&self, model: &str, spec: &Spec) -> Result<()> {
        Directions::read_for(&self.direction, model, spec).map(|_| ())
    }

    /// What answers depend on: the file's content, and what is done with it.
    ///
    /// # Errors
    /// `Error::Io` if the file cannot be read.
    pub(super) fn configuration(&self) -> Result<Value> {
        let bytes = std::fs::read(&self.direction).map_err(Error::io(&self.direction))?;
        Ok(json!({
            "direction_sha256": store::sha256(&bytes),
            "kind": self.kind,
            "depths": self.depths,
            "dose": self.dose,
        }))
    }

    /// In words: "dose 2 of mean_difference in direction.safetensors at depth 7".
    pub fn label(&self) -> String {
        let what = self.dose.map_or("erasing".into(), |dose| format!("dose {dose} of"));
        format!("{what} {}", self.place())
    }

    /// What a dose–response has in common: "mean_difference in direction.safetensors at depth 7".
    pub fn place(&self) -> String {
        let file = self.direction.file_name().unwrap_or_default().to_string_lossy();
        let depths: Vec<String> = self.depths.iter().map(ToString::to_string).collect();
        let s = if depths.len() == 1 { "" } else { "s" };
        format!("{} in {file} at depth{s} {}", self.kind.name(), depths.join(", "))
    }
}
