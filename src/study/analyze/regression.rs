//! Misaligned on condition × format, and on the size of the model.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::clusters::Cluster;
use crate::model::cards;
use crate::study::plan::family::{Factor, Levels};
use crate::study::plan::format::Format;
use crate::study::stats::logistic::{self, Failure, Fit, Pattern, Wald, wald};
use crate::study::stats::proportion::{Count, Test};
use crate::study::stats::trend::cochran_armitage;

/// How the coefficients were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// Maximum likelihood.
    MaximumLikelihood,
    /// Firth's penalised likelihood, because the other has no maximum.
    Firth,
}

/// What the standard errors allow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Errors {
    /// Any dependence within clusters; p and intervals by Student's t with clusters − 1 degrees of freedom.
    ClusterRobust,
    /// Any difference between groups beyond the regressors, from how far the groups lie off the fit; p and intervals by
    /// Student's t with groups − coefficients degrees of freedom.
    Dispersion,
    /// None: all answers independent, and so they are too small. For Firth's estimates, and where there are no more
    /// clusters than coefficients.
    Independent,
}

/// A coefficient with its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Term {
    /// "insecure", "json", "insecure × json".
    pub name: String,
    /// Whether the likelihood has no maximum because of it.
    pub separated: bool,
    /// The coefficient, on the scale of log-odds.
    #[serde(flatten)]
    pub wald: Wald,
    /// e to the coefficient.
    pub odds_ratio: f64,
    /// Its interval.
    pub odds_ratio_interval: (f64, f64),
}

/// A fitted logistic regression.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FittedModel {
    /// How the coefficients were found.
    pub estimator: Estimator,
    /// What the standard errors allow for.
    pub errors: Errors,
    /// Answers.
    pub n: usize,
    /// Clusters.
    pub clusters: usize,
    /// The coefficients; first the intercept.
    pub terms: Vec<Term>,
}

/// Misaligned on condition × format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Regression {
    /// The condition whose effect is 0: `base`, or without it the first.
    pub reference_condition: String,
    /// The format whose effect is 0: natural, or without it the first.
    pub reference_format: String,
    /// Clusters are models × questions.
    #[serde(flatten)]
    pub model: FittedModel,
}

/// Misaligned on the logarithm of the number of parameters, by condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trends {
    /// Models that are not counted, because no card (`emlab models`) says how large they are.
    pub left_out: Vec<String>,
    /// A trend for each condition that has models of two sizes or more, and misaligned answers.
    pub conditions: Vec<Trend>,
}

/// The trend within a condition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trend {
    /// The condition.
    pub condition: String,
    /// Models counted.
    pub models: usize,
    /// Cochran–Armitage over log parameters, answers independent.
    pub cochran_armitage: Option<Test>,
    /// Logistic regression on log₁₀ parameters. The clusters are the models, for all answers of one have the same
    /// size, and the errors come from their dispersion. At the 5 % level it finds a trend in 5 % of simulated studies that
    /// have none but whose nine models and whose questions differ; cluster-robust errors in 11 %, independent answers
    /// (and so Cochran–Armitage) in 45 % (`tools/simulate_studies.py`).
    pub logistic: Option<FittedModel>,
}

/// Misaligned on condition × format. Only existing combinations have a coefficient. None without a misaligned answer, or
/// with a single cell.
pub(super) fn condition_format(clusters: &[Cluster], levels: &Levels, level: f64) -> Option<Regression> {
    let reference_condition = levels.base.as_ref().or(levels.conditions.first())?.clone();
    let natural = levels.formats.contains(&Format::Natural).then_some(Format::Natural);
    let reference_format = natural.or(levels.formats.first().copied())?.name();
    let conditions = levels.conditions.iter().filter(|name| **name != reference_condition);
    let formats: Vec<&str> =
        levels.formats.iter().map(|format| format.name()).filter(|name| *name != reference_format).collect();
    // A column is what its cells have in common: a condition, a format, or both.
    let mut columns: Vec<(Option<&str>, Option<&str>)> = vec![(None, None)];
    columns.extend(conditions.clone().map(|condition| (Some(condition.as_str()), None)));
    columns.extend(formats.iter().map(|format| (None, Some(*format))));
    for condition in conditions {
        columns.extend(formats.iter().map(|format| (Some(condition.as_str()), Some(*format))));
    }
    let holds = |(condition, format): (Option<&str>, Option<&str>), cluster: &Cluster| {
        condition.is_none_or(|name| cluster.level(Factor::Condition) == name)
            && format.is_none_or(|name| cluster.level(Factor::Format) == name)
    };
    columns.retain(|column| clusters.iter().any(|cluster| holds(*column, cluster)));
    let mut units = BTreeMap::new();
    let patterns: Vec<Pattern> = clusters
        .iter()
        .map(|cluster| {
            let next = units.len();
            Pattern {
                x: columns.iter().map(|column| f64::from(u8::from(holds(*column, cluster)))).collect(),
                count: cluster.count,
                cluster: *units.entry(cluster.unit()).or_insert(next),
            }
        })
        .collect();
    let names = columns.iter().map(|column| match column {
        (None, None) => "intercept".to_string(),
        (Some(name), None) | (None, Some(name)) => (*name).to_string(),
        (Some(condition), Some(format)) => format!("{condition} × {format}"),
    });
    let model = (columns.len() > 1).then(|| model(&patterns, names.collect(), robust, level)).flatten()?;
    Some(Regression { reference_condition, reference_format: reference_format.into(), model })
}

/// The trends over the sizes of the models.
pub(super) fn trends(clusters: &[Cluster], levels: &Levels, level: f64) -> Trends {
    let sizes: BTreeMap<&str, f64> = levels
        .models
        .iter()
        .filter_map(|name| Some((name.as_str(), cards::find(name)?.parameters as f64)))
        .collect();
    let unknown = levels.models.iter().filter(|name| !sizes.contains_key(name.as_str()));
    let of = |condition: &String| {
        let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
        for cluster in clusters.iter().filter(|cluster| cluster.level(Factor::Condition) == condition) {
            let count = counts.entry(cluster.level(Factor::Model)).or_default();
            count.k += cluster.count.k;
            count.n += cluster.count.n;
        }
        let known: Vec<(f64, Count)> =
            counts.into_iter().filter_map(|(name, count)| Some((sizes.get(name)?.log10(), count))).collect();
        let distinct: BTreeSet<u64> = known.iter().map(|(size, _)| size.to_bits()).collect();
        if distinct.len() < 2 || known.iter().all(|(_, count)| count.k == 0) {
            return None;
        }
        let patterns: Vec<Pattern> = known
            .iter()
            .enumerate()
            .map(|(cluster, &(size, count))| Pattern { x: vec![1.0, size], count, cluster })
            .collect();
        let names = vec!["intercept".into(), "tenfold parameters".into()];
        Some(Trend {
            condition: condition.clone(),
            models: known.len(),
            cochran_armitage: cochran_armitage(&known),
            logistic: model(&patterns, names, dispersed, level),
        })
    };
    Trends {
        left_out: unknown.cloned().collect(),
        conditions: levels.conditions.iter().filter_map(of).collect(),
    }
}

/// A covariance that allows for clusters, what it is called, and its degrees of freedom.
type Allowance = (Vec<Vec<f64>>, Errors, f64);

/// For answers whose regressors differ within clusters, and many clusters.
fn robust(fit: &Fit, patterns: &[Pattern], clusters: usize) -> Option<Allowance> {
    let covariance = fit.cluster_robust(patterns).filter(|_| clusters > fit.coefficients.len())?;
    Some((covariance, Errors::ClusterRobust, clusters as f64 - 1.0))
}

/// For one pattern a cluster, however few.
fn dispersed(fit: &Fit, patterns: &[Pattern], clusters: usize) -> Option<Allowance> {
    let dispersion = fit.dispersion(patterns)?;
    let scale = |row: &Vec<f64>| row.iter().map(|value| value * dispersion).collect();
    let df = clusters as f64 - fit.coefficients.len() as f64;
    Some((fit.covariance.iter().map(scale).collect(), Errors::Dispersion, df))
}

/// Fits; falls back to Firth's penalty under separation. None without a misaligned answer, or if the design is
/// singular.
fn model(
    patterns: &[Pattern],
    names: Vec<String>,
    allow: fn(&Fit, &[Pattern], usize) -> Option<Allowance>,
    level: f64,
) -> Option<FittedModel> {
    if patterns.iter().all(|pattern| pattern.count.k == 0) {
        return None;
    }
    let clusters = patterns.iter().map(|pattern| pattern.cluster).collect::<BTreeSet<_>>().len();
    let (fit, estimator, separated) = match logistic::fit(patterns) {
        Ok(fit) => (fit, Estimator::MaximumLikelihood, Vec::new()),
        Err(Failure::Separated(terms)) => (logistic::firth(patterns).ok()?, Estimator::Firth, terms),
        Err(Failure::Collinear) => return None,
    };
    let allowed =
        (estimator == Estimator::MaximumLikelihood).then(|| allow(&fit, patterns, clusters)).flatten();
    let (covariance, errors, df) = match allowed {
        Some((covariance, errors, df)) => (covariance, errors, Some(df)),
        None => (fit.covariance, Errors::Independent, None),
    };
    let term = |(i, name): (usize, String)| {
        let wald = wald(fit.coefficients[i], covariance[i][i].sqrt(), df, level)?;
        Some(Term {
            name,
            separated: separated.contains(&i),
            odds_ratio: wald.coefficient.exp(),
            odds_ratio_interval: (wald.low.exp(), wald.high.exp()),
            wald,
        })
    };
    let terms: Option<Vec<Term>> = names.into_iter().enumerate().map(term).collect();
    let n = patterns.iter().map(|pattern| pattern.count.n).sum();
    Some(FittedModel { estimator, errors, n, clusters, terms: terms? })
}
