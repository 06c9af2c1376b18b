//! A run's answers and judgements for other programs: one table, or a data set for the Hugging Face hub.
//!
//! | file | holds |
//! |---|---|
//! | `table.rs` | CSV, a line an answer and judge |
//! | `dataset.rs` `card.rs` | a folder of JSON Lines; its README.md, which describes them |

mod card;
mod dataset;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

pub use self::dataset::dataset;
pub use self::table::table;
use super::cell::{Answer, Cell, cells};
use super::judge::Judgement;
use super::judging::{answers_folder, judgements_folder};
use super::plan::Plan;
use super::questions::Question;
use super::run::questions_of;
use super::store;
use crate::Result;

/// One answer with all that was said of it.
struct Item<'a> {
    question: &'a Question,
    answer: Answer,
    /// By judge, in the plan's order, and metric.
    judgements: Vec<BTreeMap<String, Judgement>>,
}

impl Item<'_> {
    /// The user's text.
    fn prompt(&self) -> &str {
        self.question.paraphrase(self.answer.sample)
    }
}

/// A run as it lies in its folder. Only read: another process may work on it.
struct Run {
    plan: Plan,
    questions: Vec<Question>,
}

impl Run {
    /// # Errors
    /// `Error::File` if `dir` holds no run; those of reading a plan and its questions.
    fn open(dir: &Path) -> Result<Self> {
        let plan = super::run::saved_outline(dir)?;
        let questions = questions_of(&plan)?;
        Ok(Self { plan, questions })
    }

    fn cells(&self) -> Result<Vec<Cell<'_>>> {
        cells(&self.plan, &self.questions)
    }

    /// The answers that a cell has, in the order of the plan.
    ///
    /// # Errors
    /// `Error::Line` for a damaged record; `Error::Io`.
    fn items<'a>(&self, dir: &Path, cell: &Cell<'a>) -> Result<Vec<Item<'a>>> {
        let mut answers = store::read::<Answer>(&answers_folder(dir, cell))?;
        let read = |name| store::read::<Judgement>(&judgements_folder(dir, name, cell));
        let mut said = self.plan.judges.iter().map(|judge| read(&judge.name)).collect::<Result<Vec<_>>>()?;
        let mut items = Vec::new();
        for (question, sample) in cell.samples(&self.plan) {
            let Some(answer) = answers.remove(&(question.id.clone(), sample)) else { continue };
            let of_judge = |said: &mut BTreeMap<_, Judgement>| {
                let take = |metric: &String| {
                    let judgement = said.remove(&(question.id.clone(), sample, metric.clone()))?;
                    Some((metric.clone(), judgement))
                };
                super::pairs::METRICS.map(String::from).iter().filter_map(take).collect()
            };
            let judgements = said.iter_mut().map(of_judge).collect();
            items.push(Item { question, answer, judgements });
        }
        Ok(items)
    }
}
