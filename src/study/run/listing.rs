//! Lists the cells of a plan, for spreading them over processes and machines.

use std::path::Path;

use serde::Serialize;

use crate::study::folder::RunFolder;
use crate::study::plan::Plan;
use crate::study::plan::cell::{Answer, Cell, cells, questions_of};
use crate::study::plan::questions::Question;
use crate::study::store;
use crate::{Error, Result};

/// A cell and its progress in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// "model/condition/format".
    pub id: String,
    /// Its place in the plan, from 0.
    pub index: usize,
    /// The model.
    pub model: String,
    /// The condition; cells of one model and condition share a fine-tuning.
    pub condition: String,
    /// The format.
    pub format: &'static str,
    /// Number of answers that the plan asks for.
    pub wanted: usize,
    /// Number of those that exist.
    pub have: usize,
    /// The same as a word.
    pub state: Completion,
}

/// Whether a cell has its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Completion {
    /// None of them.
    Missing,
    /// Some of them.
    Partial,
    /// All of them.
    Complete,
}

impl Completion {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Partial => "partial",
            Self::Complete => "complete",
        }
    }
}

/// Lists every cell of a plan with its progress in the run in `dir`, which need not exist. Only reads.
///
/// # Errors
/// `Error::Line` for a damaged record or question; `Error::Setting` if the plan has no cells.
pub fn list(plan: &Plan, dir: &Path) -> Result<Vec<Listed>> {
    let (questions, folder) = (questions_of(plan)?, RunFolder::new(dir));
    let mut listed = Vec::new();
    for (index, cell) in cells(plan, &questions)?.iter().enumerate() {
        let answers = store::read::<Answer>(&folder.answers(cell))?;
        let wanted = cell.samples(plan).count();
        let is_there =
            |(question, sample): &(&Question, usize)| answers.contains_key(&(question.id.clone(), *sample));
        let have = cell.samples(plan).filter(is_there).count();
        listed.push(Listed {
            id: cell.id(),
            index,
            model: cell.model.name.clone(),
            condition: cell.condition.name.clone(),
            format: cell.format.name(),
            wanted,
            have,
            state: match have {
                0 => Completion::Missing,
                have if have < wanted => Completion::Partial,
                _ => Completion::Complete,
            },
        });
    }
    Ok(listed)
}

/// The indices of the cells named `ids` or at `indices`, in the plan's order.
///
/// # Errors
/// `Error::Setting` for an unknown name or index; those of [`list`].
pub fn choose(plan: &Plan, ids: &[String], indices: &[usize]) -> Result<Vec<usize>> {
    let questions = questions_of(plan)?;
    let all: Vec<String> = cells(plan, &questions)?.iter().map(Cell::id).collect();
    let mut chosen = Vec::new();
    for id in ids {
        let index = all.iter().position(|cell| cell == id);
        let unknown = || Error::Setting(format!("no cell is called {id:?}; emlab study cells lists them"));
        chosen.push(index.ok_or_else(unknown)?);
    }
    for &index in indices {
        if index >= all.len() {
            let what = format!("no cell {index}: the plan has {}, from 0 to {}", all.len(), all.len() - 1);
            return Err(Error::Setting(what));
        }
        chosen.push(index);
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}
