//! What a rater gave.

use std::collections::BTreeMap;

/// Which answer: cell, question, number among the question's.
pub type AnswerKey = (String, String, usize);

/// One rater's scores of answers under one metric; none where there was no number.
pub type Scores = BTreeMap<AnswerKey, Option<f64>>;
