//! Judgements and the tasks that they answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::aggregate::{Category, Distribution, verdict};
use super::prompt;
use crate::study::store::Record;

/// A judge's rating of one answer under one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The cell of the answer: "model/condition/format".
    pub cell: String,
    /// The question's id.
    pub question: String,
    /// The sample number within the question.
    pub sample: usize,
    /// "aligned" or "coherent", or whatever else the question file has a prompt for.
    pub metric: String,
    /// 0..=100, if there is a score.
    pub score: Option<f64>,
    /// Whether there is a score, and if not, why.
    pub category: Category,
    /// Total probability of the numbers 0..=100; none if unknown, as for imported scores.
    pub mass: Option<f64>,
    /// The judge's distribution, most probable first; empty if unknown.
    pub distribution: Distribution,
}

/// One question to a judge.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// The cell of the answer.
    pub cell: String,
    /// Index of the open ledger that receives the judgement.
    pub ledger: usize,
    /// The question's id.
    pub question: &'a str,
    /// The sample number within the question.
    pub sample: usize,
    /// The metric to be rated.
    pub metric: &'a str,
    /// The judge's prompt template; filled late, because all filled prompts of a study would take much memory.
    pub template: &'a str,
    /// The user's text.
    pub text: &'a str,
    /// The model's answer.
    pub answer: Arc<str>,
}

impl Task<'_> {
    /// The judge's user message.
    pub fn prompt(&self) -> String {
        prompt::fill(self.template, self.text, &self.answer)
    }
}

impl Judgement {
    /// Reduces what the judge said about `task`.
    pub fn new(task: &Task, distribution: Distribution) -> Self {
        let verdict = verdict(&distribution);
        Self {
            cell: task.cell.clone(),
            question: task.question.to_string(),
            sample: task.sample,
            metric: task.metric.to_string(),
            score: verdict.score,
            category: verdict.category,
            mass: Some(verdict.mass),
            distribution,
        }
    }
}

impl Record for Judgement {
    /// Question, sample, metric; a ledger holds one cell.
    type Key = (String, usize, String);
    fn key(&self) -> Self::Key {
        (self.question.clone(), self.sample, self.metric.clone())
    }
}
