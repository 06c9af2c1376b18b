//! How far two raters agree: two judges, or a judge and people.

use serde::Serialize;

use super::correlation::{self, Correlation};
use super::distribution::normal_quantile;
use super::proportion::Count;

/// What a disagreement by d categories costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// 1 for any d > 0.
    Unweighted,
    /// d.
    Linear,
    /// d².
    Quadratic,
}

/// Cohen's kappa of pairs of categories, each below `categories`: 1 − Σ w·seen / Σ w·expected, where the raters'
/// shares of each category are given (Cohen 1968; `sklearn.metrics.cohen_kappa_score(…, labels=range(categories),
/// weights=…)`). None without pairs, or if both raters always name one and the same category.
///
/// # Panics
/// If a category is not below `categories`.
pub fn kappa(pairs: &[(usize, usize)], categories: usize, weights: Weights) -> Option<f64> {
    let weight = |a: usize, b: usize| match weights {
        Weights::Unweighted => f64::from(u8::from(a != b)),
        Weights::Linear => a.abs_diff(b) as f64,
        Weights::Quadratic => (a.abs_diff(b) as f64).powi(2),
    };
    let (mut first, mut second) = (vec![0.0; categories], vec![0.0; categories]);
    for &(a, b) in pairs {
        first[a] += 1.0;
        second[b] += 1.0;
    }
    let seen: f64 = pairs.iter().map(|&(a, b)| weight(a, b)).sum();
    let mut expected = 0.0;
    for (a, x) in first.iter().enumerate() {
        for (b, y) in second.iter().enumerate() {
            expected += weight(a, b) * x * y / pairs.len() as f64;
        }
    }
    (expected > 0.0).then(|| 1.0 - seen / expected)
}

/// Bias and limits of agreement (Bland & Altman 1986; `statsmodels.graphics.agreement.mean_diff_plot` draws them).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BlandAltman {
    /// Mean of first − second.
    pub bias: f64,
    /// Standard deviation of the differences, n − 1 in the denominator.
    pub deviation: f64,
    /// bias − z·deviation.
    pub low: f64,
    /// bias + z·deviation.
    pub high: f64,
}

/// Bias, and the limits between which a share `level` of the differences lies if they are normal. None with fewer
/// than two pairs.
pub fn bland_altman(pairs: &[(f64, f64)], level: f64) -> Option<BlandAltman> {
    let n = pairs.len() as f64;
    if pairs.len() < 2 {
        return None;
    }
    let bias = pairs.iter().map(|(a, b)| a - b).sum::<f64>() / n;
    let deviation = (pairs.iter().map(|(a, b)| (a - b - bias).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let half = normal_quantile(0.5 + level / 2.0) * deviation;
    Some(BlandAltman { bias, deviation, low: bias - half, high: bias + half })
}

/// All of it, for two raters' scores under one metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Pearson's r.
    pub pearson: Option<Correlation>,
    /// Linear-weighted kappa of the scores rounded to whole numbers.
    pub kappa_linear: Option<f64>,
    /// Quadratic-weighted kappa of the scores rounded to whole numbers.
    pub kappa_quadratic: Option<f64>,
    /// Bias and limits of agreement.
    pub bland_altman: Option<BlandAltman>,
    /// Pairs that fall on the same side of the threshold.
    pub same_side: Count,
    /// Unweighted kappa of the sides.
    pub kappa_side: Option<f64>,
}

/// Compares two raters' scores, 0 to 100; a score is below `threshold` or on the other side.
///
/// # Panics
/// If a score is above 100.
pub fn agreement(pairs: &[(f64, f64)], threshold: f64, level: f64) -> Agreement {
    let whole: Vec<_> = pairs.iter().map(|(a, b)| (a.round() as usize, b.round() as usize)).collect();
    let side = |score: f64| usize::from(score < threshold);
    let sides: Vec<_> = pairs.iter().map(|&(a, b)| (side(a), side(b))).collect();
    Agreement {
        pearson: correlation::pearson(pairs, level),
        kappa_linear: kappa(&whole, 101, Weights::Linear),
        kappa_quadratic: kappa(&whole, 101, Weights::Quadratic),
        bland_altman: bland_altman(pairs, level),
        same_side: Count { k: sides.iter().filter(|(a, b)| a == b).count(), n: sides.len() },
        kappa_side: kappa(&sides, 2, Weights::Unweighted),
    }
}
