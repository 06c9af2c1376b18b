//! Two raters' scores of the same answers: a run's judges, or a judge and people.

use std::collections::BTreeMap;
use std::path::Path;

use super::cell::{Cell, cells};
use super::judge::Judgement;
use super::judging::judgements_folder;
use super::label;
use super::plan::Plan;
use super::run::{questions_of, saved_plan};
use super::store;
use crate::Result;

/// Which answer: cell, question, number among the question's.
pub type AnswerKey = (String, String, usize);

/// One rater's scores of answers under one metric; none where there was no number.
pub type Scores = BTreeMap<AnswerKey, Option<f64>>;

/// What two raters gave the same answers under one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// The first rater's name.
    pub first: String,
    /// The second rater's name.
    pub second: String,
    /// "aligned" or "coherent".
    pub metric: String,
    /// Their scores, 0..=100, of every answer that both were asked about, by the answer's key; none where a rater gave
    /// no number.
    pub scores: Vec<(Option<f64>, Option<f64>)>,
}

/// The metrics that the analysis knows.
pub const METRICS: [&str; 2] = ["aligned", "coherent"];

/// Each pair of judges of the run in `dir`, in the plan's order, under each metric.
///
/// # Errors
/// `Error::File` if the folder holds no run; `Error::Line` for a damaged record.
pub fn judges(dir: &Path) -> Result<Vec<Pairs>> {
    let plan = saved_plan(dir)?;
    let questions = questions_of(&plan)?;
    let cells = cells(&plan, &questions)?;
    let raters = raters(dir, &plan, &cells)?;
    let mut pairs = Vec::new();
    for (i, first) in raters.iter().enumerate() {
        for second in &raters[i + 1..] {
            pairs.extend(METRICS.iter().filter_map(|metric| pair(first, second, metric)));
        }
    }
    Ok(pairs)
}

/// People's labels, as [`label::read`] reads them from `labels`, paired with each judge's scores of the run in `dir`.
///
/// # Errors
/// Those of [`judges`] and [`label::read`].
pub fn labels(dir: &Path, labels: &Path) -> Result<Vec<Pairs>> {
    let plan = saved_plan(dir)?;
    let questions = questions_of(&plan)?;
    let cells = cells(&plan, &questions)?;
    let people = Rater { name: "people".into(), scores: label::read(dir, &plan, &cells, labels)? };
    let mut pairs = Vec::new();
    for judge in raters(dir, &plan, &cells)? {
        pairs.extend(METRICS.iter().filter_map(|metric| pair(&people, &judge, metric)));
    }
    Ok(pairs)
}

/// One who rates, and the scores by metric.
struct Rater {
    name: String,
    scores: BTreeMap<String, Scores>,
}

fn raters(dir: &Path, plan: &Plan, cells: &[Cell]) -> Result<Vec<Rater>> {
    let rater = |name: &String| {
        let mut scores = BTreeMap::<String, Scores>::new();
        for cell in cells {
            for judgement in store::read::<Judgement>(&judgements_folder(dir, name, cell))?.into_values() {
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

/// How far two raters agree, in plain counts and differences.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Answers that both were asked about.
    pub answers: usize,
    /// Answers to which both gave a number: the rest is about these.
    pub both: usize,
    /// Both below the threshold, only the first, only the second, neither.
    pub below: [usize; 4],
    /// Mean of second − first; not a number if `both` is 0.
    pub mean_difference: f64,
    /// Mean of |second − first|; not a number if `both` is 0.
    pub mean_absolute_difference: f64,
}

impl Pairs {
    /// How far the two agree; `threshold` parts the scores in two kinds.
    pub fn agreement(&self, threshold: f64) -> Agreement {
        let numbers = self.scores.iter().filter_map(|&(first, second)| Some((first?, second?)));
        let (mut both, mut below, mut sum, mut absolute) = (0, [0; 4], 0.0, 0.0);
        for (first, second) in numbers {
            both += 1;
            below[usize::from(first >= threshold) * 2 + usize::from(second >= threshold)] += 1;
            sum += second - first;
            absolute += (second - first).abs();
        }
        Agreement {
            answers: self.scores.len(),
            both,
            below,
            mean_difference: sum / both as f64,
            mean_absolute_difference: absolute / both as f64,
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
        let agreement = pairs.agreement(30.0);
        assert_eq!((agreement.answers, agreement.both, agreement.below), (6, 5, [1, 1, 2, 1]));
        assert!((agreement.mean_difference - (10.0 + 80.0 - 60.0 + 10.0 - 0.1) / 5.0).abs() < 1e-12);
        assert!((agreement.mean_absolute_difference - (10.0 + 80.0 + 60.0 + 10.0 + 0.1) / 5.0).abs() < 1e-12);
    }
}
