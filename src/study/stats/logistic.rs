//! Logistic regression: the logarithm of the odds of a success is x·β.

use serde::Serialize;

use super::distribution::{normal_quantile, normal_two_sided, t_quantile, t_two_sided};
use super::proportion::Count;
use crate::device::matrix::{Matrix, dot, inverse, times};

/// Answers of one cluster that have the same regressors.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// The regressors; of an intercept, 1.
    pub x: Vec<f64>,
    /// Successes and trials.
    pub count: Count,
    /// The cluster's number.
    pub cluster: usize,
}

/// A fitted model.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// β.
    pub coefficients: Vec<f64>,
    /// The inverse of the information at β: the covariance if all answers are independent.
    pub covariance: Vec<Vec<f64>>,
    /// The logarithm of the likelihood at β (of answers one by one: without binomial coefficients).
    pub log_likelihood: f64,
}

/// Why there is no maximum-likelihood fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A regressor is a combination of others, or there are no answers.
    Collinear,
    /// Some combination of regressors tells successes from failures without exception (a condition without a single
    /// misaligned answer, say): the likelihood rises for ever as these coefficients run away (Albert & Anderson 1984).
    Separated(Vec<usize>),
}

/// Steps of Newton's method. A fit that exists takes about ten; under separation no step gets smaller than about 1.
const NEWTON_STEPS: usize = 50;
/// Steps of Firth's method, which converges linearly.
const FIRTH_STEPS: usize = 1000;
/// The largest step at which β counts as found; Newton's error is about its square.
const TOLERANCE: f64 = 1e-9;

/// Maximum likelihood by Newton's method (`statsmodels.api.Logit(y, x).fit()`).
///
/// # Errors
/// [`Failure`], with the coefficients that run away.
pub fn fit(patterns: &[Pattern]) -> Result<Fit, Failure> {
    iterate(patterns, false, NEWTON_STEPS)
}

/// Firth's penalised likelihood: ln L + ½ ln det I (Firth 1993; Heinze & Schemper 2002; R's `logistf`). It has a
/// maximum under separation, too, and a smaller bias with rare events. [`Fit::covariance`] holds for independent
/// answers; a sandwich would take a condition without events for a sure one.
///
/// # Errors
/// [`Failure::Collinear`].
pub fn firth(patterns: &[Pattern]) -> Result<Fit, Failure> {
    iterate(patterns, true, FIRTH_STEPS)
}

fn iterate(patterns: &[Pattern], penalised: bool, steps: usize) -> Result<Fit, Failure> {
    let width = patterns.first().ok_or(Failure::Collinear)?.x.len();
    let mut at = State::new(patterns, vec![0.0; width], penalised).ok_or(Failure::Collinear)?;
    let mut step = vec![0.0; width];
    for _ in 0..steps {
        step = times(&at.covariance, &at.score(patterns));
        let mut next = None;
        // A full step may overshoot; the likelihood is concave, so that a part of it does not.
        for halvings in 0..40 {
            let scale = 0.5_f64.powi(halvings);
            let moved = at.beta.iter().zip(&step).map(|(beta, step)| beta + scale * step).collect();
            let state = State::new(patterns, moved, penalised);
            next = state.filter(|state| state.value >= at.value - 1e-12 * at.value.abs());
            if next.is_some() {
                break;
            }
        }
        // The information has become singular: probabilities have reached 0 or 1.
        let Some(next) = next else { break };
        at = next;
        if step.iter().zip(&at.beta).all(|(step, beta)| step.abs() <= TOLERANCE * (1.0 + beta.abs())) {
            let log_likelihood = at.log_likelihood;
            return Ok(Fit { coefficients: at.beta, covariance: at.covariance, log_likelihood });
        }
    }
    Err(Failure::Separated((0..width).filter(|&i| step[i].abs() > 1e-3).collect()))
}

/// The model at one β.
struct State {
    beta: Vec<f64>,
    /// Inverse information.
    covariance: Matrix,
    log_likelihood: f64,
    /// What is maximised.
    value: f64,
    penalised: bool,
}

impl State {
    /// None if the information is singular.
    fn new(patterns: &[Pattern], beta: Vec<f64>, penalised: bool) -> Option<Self> {
        let width = beta.len();
        let mut information = vec![vec![0.0; width]; width];
        let mut log_likelihood = 0.0;
        for Pattern { x, count, .. } in patterns {
            let (k, n, eta) = (count.k as f64, count.n as f64, dot(x, &beta));
            let pi = logistic(eta);
            // ln(1 + e^η) without overflow.
            log_likelihood += k * eta - n * (eta.max(0.0) + (-eta.abs()).exp().ln_1p());
            let weight = n * pi * logistic(-eta);
            for i in 0..width {
                for j in 0..width {
                    information[i][j] += weight * x[i] * x[j];
                }
            }
        }
        let (covariance, log_determinant) = inverse(&information)?;
        let value = log_likelihood + if penalised { 0.5 * log_determinant } else { 0.0 };
        Some(Self { beta, covariance, log_likelihood, value, penalised })
    }

    fn score(&self, patterns: &[Pattern]) -> Vec<f64> {
        let mut score = vec![0.0; self.beta.len()];
        for Pattern { x, count, .. } in patterns {
            let (n, eta) = (count.n as f64, dot(x, &self.beta));
            let pi = logistic(eta);
            let mut residual = count.k as f64 - n * pi;
            if self.penalised {
                let leverage = n * pi * logistic(-eta) * dot(x, &times(&self.covariance, x));
                residual += leverage * (0.5 - pi);
            }
            score.iter_mut().zip(x).for_each(|(score, x)| *score += residual * x);
        }
        score
    }
}

fn logistic(eta: f64) -> f64 {
    1.0 / (1.0 + (-eta).exp())
}

impl Fit {
    /// The covariance of β if answers may depend on each other within clusters, in any way: the sandwich
    /// I⁻¹ (Σ s sᵀ) I⁻¹ over the clusters' scores s, times G/(G − 1) · (N − 1)/(N − width) for G clusters and N
    /// answers (Liang & Zeger 1986; `statsmodels` `fit(cov_type="cluster", cov_kwds={"groups": …})`). None with fewer
    /// than two clusters. With few clusters, or hardly more than coefficients, it is too small.
    pub fn cluster_robust(&self, patterns: &[Pattern]) -> Option<Vec<Vec<f64>>> {
        let width = self.coefficients.len();
        let mut scores = std::collections::BTreeMap::new();
        for Pattern { x, count, cluster } in patterns.iter().filter(|pattern| pattern.count.n > 0) {
            let residual = count.k as f64 - count.n as f64 * logistic(dot(x, &self.coefficients));
            let score = scores.entry(*cluster).or_insert_with(|| vec![0.0; width]);
            score.iter_mut().zip(x).for_each(|(score, x)| *score += residual * x);
        }
        let groups = scores.len() as f64;
        let n = patterns.iter().map(|pattern| pattern.count.n as f64).sum::<f64>();
        if groups < 2.0 || n <= width as f64 {
            return None;
        }
        let factor = groups / (groups - 1.0) * (n - 1.0) / (n - width as f64);
        let mut covariance = vec![vec![0.0; width]; width];
        // I⁻¹s of a cluster is how far it alone moves β.
        for score in scores.values() {
            let moved = times(&self.covariance, score);
            for i in 0..width {
                for j in 0..width {
                    covariance[i][j] += factor * moved[i] * moved[j];
                }
            }
        }
        Some(covariance)
    }
}

impl Fit {
    /// Pearson's Σ (k − nπ)² / (nπ(1 − π)) over patterns − width, each pattern one group: above 1 if groups differ by
    /// more than answers drawn independently would. The covariance times it, with Student's t of patterns − width
    /// degrees of freedom, allows for that, and holds with few groups where [`Fit::cluster_robust`] does not
    /// (McCullagh & Nelder 1989, section 4.5; `statsmodels` `GLM(k / n, x, Binomial(), var_weights=n).fit(scale="X2")`). None with no more patterns than
    /// coefficients.
    pub fn dispersion(&self, patterns: &[Pattern]) -> Option<f64> {
        let term = |Pattern { x, count, .. }: &Pattern| {
            let (n, eta) = (count.n as f64, dot(x, &self.coefficients));
            let pi = logistic(eta);
            (count.k as f64 - n * pi).powi(2) / (n * pi * logistic(-eta))
        };
        let groups = patterns.iter().filter(|pattern| pattern.count.n > 0);
        let (squares, n) = groups.fold((0.0, 0), |(sum, n), pattern| (sum + term(pattern), n + 1));
        let width = self.coefficients.len();
        (n > width).then(|| squares / (n - width) as f64)
    }
}

/// A coefficient with its error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wald {
    /// β, the change of the log-odds.
    pub coefficient: f64,
    /// Its standard error.
    pub error: f64,
    /// coefficient / error.
    pub statistic: f64,
    /// Its two-sided p.
    pub p: f64,
    /// Lower end of β's interval.
    pub low: f64,
    /// Upper end of β's interval.
    pub high: f64,
}

/// Tests `coefficient` against 0: by the normal distribution, or by Student's t with `df` degrees of freedom
/// (`statsmodels`' `use_t`; its choice for clusters is their number − 1). None if the error is 0.
pub fn wald(coefficient: f64, error: f64, df: Option<f64>, level: f64) -> Option<Wald> {
    let statistic = coefficient / error;
    let (p, quantile) = match df {
        None => (normal_two_sided(statistic), normal_quantile(0.5 + level / 2.0)),
        Some(df) => (t_two_sided(statistic, df), t_quantile(0.5 + level / 2.0, df)),
    };
    let half = quantile * error;
    let test = Wald { coefficient, error, statistic, p, low: coefficient - half, high: coefficient + half };
    (error > 0.0).then_some(test)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(x: &[f64], k: usize, n: usize, cluster: usize) -> Pattern {
        Pattern { x: x.to_vec(), count: Count { k, n }, cluster }
    }

    #[test]
    fn two_groups_have_their_odds() {
        let patterns = [pattern(&[1.0, 0.0], 3, 4000, 0), pattern(&[1.0, 1.0], 40, 5000, 1)];
        let fitted = fit(&patterns).unwrap();
        assert!((fitted.coefficients[0] - (3.0_f64 / 3997.0).ln()).abs() < 1e-12);
        let odds = (40.0 / 4960.0) / (3.0 / 3997.0_f64);
        assert!((fitted.coefficients[1] - odds.ln()).abs() < 1e-12);
        // Woolf's variance.
        let variance = 1.0 / 3.0 + 1.0 / 3997.0 + 1.0 / 40.0 + 1.0 / 4960.0;
        assert!((fitted.covariance[1][1] / variance - 1.0).abs() < 1e-10);
        assert_eq!(fitted.cluster_robust(&patterns[..1]), None);
    }

    /// With one binary regressor Firth's estimate is that of counts with ½ added.
    #[test]
    fn separation_is_said_and_firth_is_finite() {
        for (k_a, k_b, named) in [(0, 40, vec![0, 1]), (40, 0, vec![1])] {
            let patterns = [pattern(&[1.0, 0.0], k_a, 4000, 0), pattern(&[1.0, 1.0], k_b, 5000, 1)];
            assert_eq!(fit(&patterns), Err(Failure::Separated(named)));
            let fitted = firth(&patterns).unwrap();
            let log_odds = |k: usize, n: usize| ((k as f64 + 0.5) / ((n - k) as f64 + 0.5)).ln();
            assert!((fitted.coefficients[0] - log_odds(k_a, 4000)).abs() < 1e-8);
            assert!((fitted.coefficients[1] - log_odds(k_b, 5000) + log_odds(k_a, 4000)).abs() < 1e-8);
        }
        assert_eq!(
            fit(&[pattern(&[1.0, 1.0], 1, 9, 0), pattern(&[1.0, 1.0], 2, 9, 1)]),
            Err(Failure::Collinear)
        );
        assert_eq!(fit(&[]), Err(Failure::Collinear));
        assert_eq!(fit(&[pattern(&[1.0], 0, 0, 0)]), Err(Failure::Collinear));
    }
}
