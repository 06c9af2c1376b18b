//! A rater's scores, by answer.

use std::collections::BTreeMap;

/// Identifies an answer: cell, question, sample number.
pub type AnswerKey = (String, String, usize);

/// One rater's scores of answers under one metric; none where there was no number.
pub type Scores = BTreeMap<AnswerKey, Option<f64>>;
