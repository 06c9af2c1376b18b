//! Two raters' scores of the same answers: a run's judges, or a judge and people.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::label;
use super::scores::{AnswerKey, Scores};
use crate::Result;
use crate::study::folder::RunFolder;
use crate::study::judge::Judgement;
use crate::study::plan::cell::{Cell, cells, questions_of};
use crate::study::plan::questions::METRICS;
use crate::study::plan::{Plan, Thresholds};
use crate::study::stats::agreement;
use crate::study::store;

/// Two raters' scores of the same answers under one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// The first rater's name.
    pub first: String,
    /// The second rater's name.
    pub second: String,
    /// "aligned" or "coherent".
    pub metric: String,
    /// Both scores, 0..=100, of every answer that both raters were asked about, in the order of the answers' keys; none
    /// where a rater gave no number.
    pub scores: Vec<(Option<f64>, Option<f64>)>,
}

/// Every pair of raters of the run in `dir`, for each metric. Raters are people, if their labels are stored with the run
/// ([`RunFolder::labels`]), and the judges in the plan's order.
///
/// # Errors
/// `Error::File` if the folder holds no run; `Error::Line` for a damaged record or label.
pub fn of_run(dir: &Path) -> Result<Vec<Pairs>> {
    let run = RunFolder::new(dir);
    let plan = run.plan()?;
    let questions = questions_of(&plan)?;
    of_cells(&run, &plan, &cells(&plan, &questions)?)
}

/// Like [`of_run`], with the plan and its cells at hand.
///
/// # Errors
/// `Error::Line` for a damaged record or label; `Error::Io`.
pub fn of_cells(run: &RunFolder, plan: &Plan, cells: &[Cell]) -> Result<Vec<Pairs>> {
    let labels = run.labels();
    let people = if labels.exists() { Some(people(run, plan, cells, &labels)?) } else { None };
    if people.is_none() && plan.judges.len() < 2 {
        return Ok(Vec::new());
    }
    let raters: Vec<Rater> = people.into_iter().chain(judges(run, plan, cells)?).collect();
    let mut pairs = Vec::new();
    for (i, first) in raters.iter().enumerate() {
        for second in &raters[i + 1..] {
            pairs.extend(METRICS.iter().filter_map(|metric| pair(first, second, metric)));
        }
    }
    Ok(pairs)
}

/// People's labels in the file `labels` (see [`label::read`]), paired with each judge's scores of the run in `dir`.
///
/// # Errors
/// As [`of_run`].
pub fn labels(dir: &Path, labels: &Path) -> Result<Vec<Pairs>> {
    let run = RunFolder::new(dir);
    let plan = run.plan()?;
    let questions = questions_of(&plan)?;
    let cells = cells(&plan, &questions)?;
    let people = people(&run, &plan, &cells, labels)?;
    let judges = judges(&run, &plan, &cells)?;
    let pairs = |judge| METRICS.iter().filter_map(|metric| pair(&people, judge, metric)).collect::<Vec<_>>();
    Ok(judges.iter().flat_map(pairs).collect())
}

/// A rater with the scores by metric.
struct Rater {
    name: String,
    scores: BTreeMap<String, Scores>,
}

fn people(run: &RunFolder, plan: &Plan, cells: &[Cell], labels: &Path) -> Result<Rater> {
    Ok(Rater { name: "people".into(), scores: label::read(run, plan, cells, labels)? })
}

fn judges(run: &RunFolder, plan: &Plan, cells: &[Cell]) -> Result<Vec<Rater>> {
    let rater = |name: &String| {
        let mut scores = BTreeMap::<String, Scores>::new();
        for cell in cells {
            for judgement in store::read::<Judgement>(&run.judgements(name, cell))?.into_values() {
                let Judgement { cell, question, sample, metric, score, .. } = judgement;
                scores.entry(metric).or_default().insert((cell, question, sample), score);
            }
        }
        Ok(Rater { name: name.clone(), scores })
    };
    plan.judges.iter().map(|judge| rater(&judge.name)).collect()
}

/// None if they have no answer in common.
fn pair(first: &Rater, second: &Rater, metric: &str) -> Option<Pairs> {
    let theirs = second.scores.get(metric)?;
    let both = |(key, score): (&AnswerKey, &Option<f64>)| Some((*score, *theirs.get(key)?));
    let scores: Vec<_> = first.scores.get(metric)?.iter().filter_map(both).collect();
    let (first, second) = (first.name.clone(), second.name.clone());
    (!scores.is_empty()).then(|| Pairs { first, second, metric: metric.to_string(), scores })
}

/// How far two raters agree under one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RaterAgreement {
    /// The first rater's name.
    pub first: String,
    /// The second rater's name.
    pub second: String,
    /// "aligned" or "coherent".
    pub metric: String,
    /// The score that separates the verdicts: misaligned below it, or coherent from it.
    pub threshold: f64,
    /// Answers that both were asked about.
    pub answers: usize,
    /// Answers to which both gave a number; everything below is about these.
    pub both: usize,
    /// Both below the threshold, only the first, only the second, neither.
    pub below: [usize; 4],
    /// Differences are first − second.
    #[serde(flatten)]
    pub statistics: agreement::Agreement,
}

impl Pairs {
    /// The scores of the answers to which both gave a number.
    pub fn numbers(&self) -> Vec<(f64, f64)> {
        self.scores.iter().filter_map(|&(first, second)| Some((first?, second?))).collect()
    }

    /// How far the two agree.
    pub fn agreement(&self, thresholds: Thresholds) -> RaterAgreement {
        let Thresholds { misaligned_below, coherent_at_least, level } = thresholds;
        let threshold = if self.metric == METRICS[0] { misaligned_below } else { coherent_at_least };
        let numbers = self.numbers();
        let mut below = [0; 4];
        for &(first, second) in &numbers {
            below[usize::from(first >= threshold) * 2 + usize::from(second >= threshold)] += 1;
        }
        RaterAgreement {
            first: self.first.clone(),
            second: self.second.clone(),
            metric: self.metric.clone(),
            threshold,
            answers: self.scores.len(),
            both: numbers.len(),
            below,
            statistics: agreement::agreement(&numbers, threshold, level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_differences() {
        let scores = [(10.0, 20.0), (10.0, 90.0), (80.0, 20.0), (80.0, 90.0), (30.0, 29.9)];
        let mut scores: Vec<_> = scores.into_iter().map(|(a, b)| (Some(a), Some(b))).collect();
        scores.push((None, Some(1.0)));
        let pairs = Pairs { first: "a".into(), second: "b".into(), metric: "aligned".into(), scores };
        let agreement = pairs.agreement(Thresholds::default());
        assert_eq!((agreement.answers, agreement.both, agreement.below), (6, 5, [1, 1, 2, 1]));
        let limits = agreement.statistics.bland_altman.unwrap();
        assert!((limits.bias - (-10.0 - 80.0 + 60.0 - 10.0 + 0.1) / 5.0).abs() < 1e-12);
        assert_eq!((agreement.statistics.same_side.k, agreement.statistics.same_side.n), (2, 5));
    }
}
