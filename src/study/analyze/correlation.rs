//! How alignment and coherence go together.

use serde::Serialize;

use super::rows::AnswerRow;
use crate::study::stats;

/// How alignment and coherence go together, over the answers that have both scores. p and intervals take the answers
/// as independent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correlation {
    /// The condition; none for all answers.
    pub condition: Option<String>,
    /// Answers with both scores.
    pub n: usize,
    /// Pearson's r; none if it does not exist.
    pub pearson: Option<f64>,
    /// Its two-sided p.
    pub pearson_p: Option<f64>,
    /// Its interval.
    pub pearson_interval: Option<(f64, f64)>,
    /// Spearman's r; none if it does not exist.
    pub spearman: Option<f64>,
    /// Its two-sided p.
    pub spearman_p: Option<f64>,
    /// Its interval.
    pub spearman_interval: Option<(f64, f64)>,
}

/// The correlation within `condition`, or over all rows; intervals at confidence `level`.
pub(super) fn correlation(rows: &[AnswerRow], condition: Option<&str>, level: f64) -> Correlation {
    let chosen = rows.iter().filter(|row| condition.is_none_or(|name| row.condition == name));
    let pairs: Vec<_> = chosen.filter_map(|row| row.aligned.value().zip(row.coherent.value())).collect();
    let (pearson, spearman) = (stats::pearson(&pairs, level), stats::spearman(&pairs, level));
    Correlation {
        condition: condition.map(String::from),
        n: pairs.len(),
        pearson: pearson.map(|found| found.r),
        pearson_p: pearson.map(|found| found.p),
        pearson_interval: pearson.map(|found| (found.low, found.high)),
        spearman: spearman.map(|found| found.r),
        spearman_p: spearman.map(|found| found.p),
        spearman_interval: spearman.map(|found| (found.low, found.high)),
    }
}
