//! The conditions of a plan.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::source::Source;
use super::steering::{Steering, SteeringFile};
use crate::{Result, train};

/// What is done to a model before and while its answers are sampled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    /// Its name in cells and tables.
    pub name: String,
    /// Another condition, whose fine-tuning this one uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// The fine-tuning; none leaves the model unchanged, or uses that of `like`.
    #[serde(flatten)]
    pub tuning: Option<Tuning>,
    /// Steering of the residual stream while answers are sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steer: Option<Steering>,
}

impl Condition {
    /// Whether the model is unchanged.
    pub fn is_untouched(&self) -> bool {
        self.tuning.is_none() && self.like.is_none() && self.steer.is_none()
    }
}

/// A fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tuning {
    /// Training data: chats as JSON Lines.
    pub data: PathBuf,
    /// Use only the first so many examples; none uses all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examples: Option<usize>,
    /// Training settings.
    pub training: train::Settings,
}

/// A condition as the file spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionFile {
    pub(super) name: Spanned<String>,
    like: Option<Spanned<String>>,
    data: Option<Spanned<PathBuf>>,
    examples: Option<usize>,
    /// Over [training].
    training: Option<Spanned<toml::Table>>,
    steer: Option<Spanned<SteeringFile>>,
}

impl Source<'_> {
    /// Every condition; `shared` is [training].
    pub(super) fn conditions(
        &self,
        files: &[ConditionFile],
        shared: Option<&Spanned<toml::Table>>,
    ) -> Result<Vec<Condition>> {
        let conditions = files.iter().map(|file| self.condition(file, shared)).collect::<Result<Vec<_>>>()?;
        for like in files.iter().filter_map(|file| file.like.as_ref()) {
            let tuned = |c: &&Condition| c.name == *like.get_ref() && c.tuning.is_some();
            if !conditions.iter().any(|c| tuned(&c)) {
                let what = format!("like = {:?}: no condition of that name has data", like.get_ref());
                return Err(self.error(like.span().start, what));
            }
        }
        Ok(conditions)
    }

    fn condition(&self, file: &ConditionFile, shared: Option<&Spanned<toml::Table>>) -> Result<Condition> {
        let name = file.name.get_ref().clone();
        let steer = file.steer.as_ref().map(|steer| self.steering(steer)).transpose()?;
        let like = file.like.as_ref().map(|like| like.get_ref().clone());
        let Some(data) = &file.data else {
            if file.examples.is_some() || file.training.is_some() {
                let what = format!("condition {name:?} sets a fine-tuning but names no data");
                return Err(self.error(file.name.span().start, what));
            }
            return Ok(Condition { name, like, tuning: None, steer });
        };
        if like.is_some() {
            let what = format!("condition {name:?} has data of its own, and is like another");
            return Err(self.error(file.name.span().start, what));
        }
        // Each table is checked by itself first, so that an error names the line of the one that is wrong.
        let mut table = toml::Table::new();
        let mut training = train::Settings::default();
        for over in shared.into_iter().chain(&file.training) {
            merge(&mut table, over.get_ref());
            let at = over.span().start;
            let settings = table.clone().try_into::<train::Settings>();
            training = settings.map_err(|error| self.error(at, format!("training: {}", error.message())))?;
            training.check().map_err(|error| self.error(at, error.to_string()))?;
        }
        let data = self.data_file(data, "training data")?;
        let tuning = Some(Tuning { data, examples: file.examples, training });
        Ok(Condition { name, like, tuning, steer })
    }

    fn steering(&self, file: &Spanned<SteeringFile>) -> Result<Steering> {
        let direction = self.absolute(&file.get_ref().direction)?;
        let resolved = Steering::new(SteeringFile { direction, ..file.get_ref().clone() });
        resolved.map_err(|error| self.error(file.span().start, format!("steer: {error}")))
    }
}

/// Overwrites values of `base` with those of `over`, recursively.
fn merge(base: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}
