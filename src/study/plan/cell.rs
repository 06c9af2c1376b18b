//! Cells, the units of a study: one model under one condition, asked in one format; and the questions that they ask.

use serde::{Deserialize, Serialize};

use super::conditions::Condition;
use super::format::Format;
use super::judges::JudgeKind;
use super::questions::{self, Question, with_made};
use super::settings::{Model, Plan};
use crate::device::philox::Key;
use crate::generate::Finish;
use crate::study::store::Record;
use crate::{Error, Result};

/// One model under one condition, asked in one format.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    /// The model.
    pub model: &'a Model,
    /// The condition.
    pub condition: &'a Condition,
    /// The condition whose fine-tuning is used: `condition` itself unless it is `like` another.
    pub tuned: &'a Condition,
    /// The format.
    pub format: Format,
    /// The questions of that format.
    pub questions: Vec<&'a Question>,
}

/// One answer, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The cell: "model/condition/format".
    pub cell: String,
    /// The question's id.
    pub question: String,
    /// The sample number within the question.
    pub sample: usize,
    /// What the model wrote, without special tokens.
    pub answer: String,
    /// Its length in tokens; none if unknown, as for imported answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Why sampling stopped; none if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
}

impl Record for Answer {
    /// Question and sample; a ledger holds one cell.
    type Key = (String, usize);
    fn key(&self) -> Self::Key {
        (self.question.clone(), self.sample)
    }
}

impl<'a> Cell<'a> {
    /// "model/condition/format": its name in records, and the path of its ledgers.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.model.name, self.condition.name, self.format.name())
    }

    /// Every answer that the plan asks for: a question and a sample number.
    pub fn samples<'b>(&'b self, plan: &'b Plan) -> impl Iterator<Item = (&'a Question, usize)> + 'b {
        self.questions.iter().flat_map(|question| {
            let n = plan.samples.unwrap_or(question.samples_per_paraphrase) * question.paraphrases.len();
            (0..n).map(move |sample| (*question, sample))
        })
    }

    /// The stream of random numbers that decides one answer.
    pub fn key(&self, seed: u64, question: &str, sample: usize) -> Key {
        Key::new(seed, &[&self.id(), question, &sample.to_string()])
    }
}

/// The questions of a plan: its file's, and those made from them for its formats.
///
/// # Errors
/// Those of [`questions::read`]; `Error::File` if a judge needs prompts that a question does not have.
pub fn questions_of(plan: &Plan) -> Result<Vec<Question>> {
    let questions = questions::read(&plan.questions)?;
    let asked = plan.judges.iter().find(|judge| !matches!(judge.kind, JudgeKind::Imported(_)));
    let unprepared = questions.iter().find(|question| question.judge_prompts.is_empty());
    if let (Some(judge), Some(question)) = (asked, unprepared) {
        let what =
            format!("question {:?} has no judge_prompts, which judge {:?} needs", question.id, judge.name);
        return Err(Error::file(&plan.questions, what));
    }
    Ok(with_made(questions, &plan.formats))
}

/// The cells of a plan, in its order: models, then conditions, then formats.
///
/// # Errors
/// `Error::Setting` if there are none.
pub fn cells<'a>(plan: &'a Plan, questions: &'a [Question]) -> Result<Vec<Cell<'a>>> {
    let mut cells = Vec::new();
    for model in &plan.models {
        for condition in &plan.conditions {
            let like = |other: &&Condition| condition.like.as_ref() == Some(&other.name);
            let tuned = plan.conditions.iter().find(like).unwrap_or(condition);
            for &format in &plan.formats {
                let questions: Vec<_> = questions.iter().filter(|q| q.format() == format).collect();
                if !questions.is_empty() {
                    cells.push(Cell { model, condition, tuned, format, questions });
                }
            }
        }
    }
    if cells.is_empty() {
        let formats: Vec<_> = plan.formats.iter().map(|format| format.name()).collect();
        let what = format!(
            "{}: no question has a format of the plan ({})",
            plan.questions.display(),
            formats.join(", ")
        );
        return Err(Error::Setting(what));
    }
    Ok(cells)
}
