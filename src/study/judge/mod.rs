//! Judging: a second step over stored answers, that can be interrupted and repeated.

pub mod aggregate;
pub mod local;
pub mod openai;
mod pace;
pub mod prompt;

use serde::{Deserialize, Serialize};

use self::aggregate::{Category, Distribution, verdict};
use super::store::Record;

/// What a judge made of one answer under one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The cell of the answer: "model/condition/format".
    pub cell: String,
    /// The question's id.
    pub question: String,
    /// The answer's number among the question's.
    pub sample: usize,
    /// "aligned" or "coherent", or whatever else the question file has a prompt for.
    pub metric: String,
    /// 0..=100, if there is a score.
    pub score: Option<f64>,
    /// Whether there is a score, and if not, why.
    pub category: Category,
    /// Probability that lay on the numbers 0..=100.
    pub mass: f64,
    /// All that the judge said, most probable first.
    pub distribution: Distribution,
}

/// One question to a judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// The cell of the answer.
    pub cell: String,
    /// The question's id.
    pub question: String,
    /// The answer's number among the question's.
    pub sample: usize,
    /// What is to be rated.
    pub metric: String,
    /// The judge's user message.
    pub prompt: String,
}

impl Judgement {
    /// Reduces what the judge said about `task`.
    pub fn new(task: &Task, distribution: Distribution) -> Self {
        let verdict = verdict(&distribution);
        Self {
            cell: task.cell.clone(),
            question: task.question.clone(),
            sample: task.sample,
            metric: task.metric.clone(),
            score: verdict.score,
            category: verdict.category,
            mass: verdict.mass,
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
