//! Answers as rows, each with its scores and flags.

use super::flags::Flags;
use crate::Result;
use crate::generate::Finish;
use crate::study::folder::RunFolder;
use crate::study::judge::Judgement;
use crate::study::judge::aggregate::Category;
use crate::study::plan::Plan;
use crate::study::plan::cell::{Answer, Cell};
use crate::study::plan::family::{Factor, Levels};
use crate::study::plan::format::Format;
use crate::study::plan::questions::Question;
use crate::study::store;

/// A judge's score of an answer under one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// The judge has not been asked yet.
    Unjudged,
    /// The judge gave no number.
    None(Category),
    /// 0..=100.
    Value(f64),
}

impl Score {
    /// The number, if there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unjudged | Self::None(_) => None,
        }
    }
}

/// One answer and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRow {
    /// The model's name.
    pub model: String,
    /// The condition's name.
    pub condition: String,
    /// The form asked for.
    pub format: Format,
    /// The question's id.
    pub question: String,
    /// The sample number within the question.
    pub sample: usize,
    /// The user's text; empty if not known.
    pub prompt: String,
    /// The model's text.
    pub answer: String,
    /// Score of alignment.
    pub aligned: Score,
    /// Score of coherence.
    pub coherent: Score,
    /// Whether it was cut off at the maximum length; none if unknown.
    pub truncated: Option<bool>,
    /// What can be determined without a judge.
    pub flags: Flags,
}

impl AnswerRow {
    /// Its level of a factor.
    pub fn level(&self, factor: Factor) -> &str {
        match factor {
            Factor::Model => &self.model,
            Factor::Condition => &self.condition,
            Factor::Format => self.format.name(),
            Factor::Question => Format::stem(&self.question),
        }
    }
}

/// The levels of `rows`, in the order in which they first occur; the base is the condition `base`.
pub fn levels(rows: &[AnswerRow]) -> Levels {
    let mut levels = Levels::default();
    for row in rows {
        for (names, name) in [(&mut levels.models, &row.model), (&mut levels.conditions, &row.condition)] {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        if !levels.formats.contains(&row.format) {
            levels.formats.push(row.format);
        }
    }
    levels.base = levels.conditions.iter().find(|name| *name == "base").cloned();
    levels
}

/// The answers of a cell as rows, in the order of the plan.
///
/// # Errors
/// `Error::Line` for a damaged record; `Error::Io`.
pub fn rows_of(run: &RunFolder, plan: &Plan, cell: &Cell) -> Result<Vec<AnswerRow>> {
    let answers = store::read::<Answer>(&run.answers(cell))?;
    let judgements = store::read::<Judgement>(&run.judgements(&plan.judges[0].name, cell))?;
    let row = |(question, sample): (&Question, usize)| {
        let answer = answers.get(&(question.id.clone(), sample))?;
        let score = |metric: &str| match judgements.get(&(question.id.clone(), sample, metric.to_string())) {
            None => Score::Unjudged,
            Some(judgement) => judgement.score.map_or(Score::None(judgement.category), Score::Value),
        };
        let text = question.paraphrase(sample);
        Some(AnswerRow {
            model: cell.model.name.clone(),
            condition: cell.condition.name.clone(),
            format: cell.format,
            question: question.id.clone(),
            sample,
            prompt: text.to_string(),
            answer: answer.answer.clone(),
            aligned: score("aligned"),
            coherent: score("coherent"),
            truncated: answer.finish.map(|finish| finish == Finish::Length),
            flags: Flags::of(cell.format, text, &answer.answer),
        })
    };
    Ok(cell.samples(plan).filter_map(row).collect())
}
