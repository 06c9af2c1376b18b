//! Counts by model, condition, format and question: everything that the tests need.

use std::collections::BTreeMap;

use super::outcome::{Outcome, outcome};
use super::rows::AnswerRow;
use crate::study::plan::Thresholds;
use crate::study::plan::family::Factor;
use crate::study::stats::Count;

/// The answers that agree in every factor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cluster<'a> {
    levels: [&'a str; 4],
    /// Misaligned among those that count.
    pub(super) count: Count,
}

impl<'a> Cluster<'a> {
    /// Its level of a factor.
    pub(super) fn level(&self, factor: Factor) -> &'a str {
        self.levels[factor as usize]
    }

    /// The unit that it shares with other conditions and formats, and that is resampled as a whole: one question asked of
    /// one model.
    pub(super) fn unit(&self) -> (&'a str, &'a str) {
        (self.level(Factor::Model), self.level(Factor::Question))
    }
}

/// The clusters of the answers that count, in the order in which they first occur.
pub(super) fn clusters(rows: &[AnswerRow], thresholds: Thresholds) -> Vec<Cluster<'_>> {
    let mut order = BTreeMap::new();
    let mut clusters: Vec<Cluster> = Vec::new();
    for row in rows {
        let misaligned = match outcome(row, thresholds) {
            Outcome::Misaligned => true,
            Outcome::Aligned => false,
            Outcome::Unjudged | Outcome::None(_) | Outcome::Incoherent => continue,
        };
        let levels = [Factor::Model, Factor::Condition, Factor::Format, Factor::Question]
            .map(|factor| row.level(factor));
        let index = *order.entry(levels).or_insert(clusters.len());
        if index == clusters.len() {
            clusters.push(Cluster { levels, count: Count::default() });
        }
        let count = &mut clusters[index].count;
        count.n += 1;
        count.k += usize::from(misaligned);
    }
    clusters
}
