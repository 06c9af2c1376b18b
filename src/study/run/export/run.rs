//! A run as it is exported: its answers, each with what every judge said of it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;
use crate::study::folder::RunFolder;
use crate::study::judge::Judgement;
use crate::study::plan::Plan;
use crate::study::plan::cell::{Answer, Cell, cells, questions_of};
use crate::study::plan::questions::{METRICS, Question};
use crate::study::store;

/// An answer with all its judgements.
pub(super) struct Item<'a> {
    pub(super) question: &'a Question,
    pub(super) answer: Answer,
    /// By judge, in the plan's order, and metric.
    pub(super) judgements: Vec<BTreeMap<String, Judgement>>,
}

impl Item<'_> {
    /// The user's text.
    pub(super) fn prompt(&self) -> &str {
        self.question.paraphrase(self.answer.sample)
    }
}

/// A run in its folder. Only read: another process may work on it.
pub(super) struct ExportedRun {
    pub(super) folder: RunFolder,
    pub(super) plan: Plan,
    questions: Vec<Question>,
}

impl ExportedRun {
    /// # Errors
    /// `Error::File` if `dir` holds no run; those of reading a plan and its questions.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let folder = RunFolder::new(dir);
        let plan = folder.outline()?;
        let questions = questions_of(&plan)?;
        Ok(Self { folder, plan, questions })
    }

    pub(super) fn cells(&self) -> Result<Vec<Cell<'_>>> {
        cells(&self.plan, &self.questions)
    }

    /// The answers of a cell, in the order of the plan.
    ///
    /// # Errors
    /// `Error::Line` for a damaged record; `Error::Io`.
    pub(super) fn items<'a>(&self, cell: &Cell<'a>) -> Result<Vec<Item<'a>>> {
        let mut answers = store::read::<Answer>(&self.folder.answers(cell))?;
        let read = |name| store::read::<Judgement>(&self.folder.judgements(name, cell));
        let mut said = self.plan.judges.iter().map(|judge| read(&judge.name)).collect::<Result<Vec<_>>>()?;
        let mut items = Vec::new();
        for (question, sample) in cell.samples(&self.plan) {
            let Some(answer) = answers.remove(&(question.id.clone(), sample)) else { continue };
            let of_judge = |said: &mut BTreeMap<_, Judgement>| {
                let take = |metric: &String| {
                    let judgement = said.remove(&(question.id.clone(), sample, metric.clone()))?;
                    Some((metric.clone(), judgement))
                };
                METRICS.map(String::from).iter().filter_map(take).collect()
            };
            let judgements = said.iter_mut().map(of_judge).collect();
            items.push(Item { question, answer, judgements });
        }
        Ok(items)
    }
}
