//! Two rates compared when answers come in clusters: answers of one model to one question resemble each other, so a test
//! that assumes independence rejects too often.

use serde::Serialize;

use super::distribution::{t_quantile, t_two_sided};
use super::proportion::Count;

/// The answers of one cluster in each of two arms; an arm may have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The cluster's answers in the first arm.
    pub a: Count,
    /// … and in the second.
    pub b: Count,
}

/// A difference of two rates with its cluster-robust error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The rate of a less that of b, each over all its answers.
    pub difference: f64,
    /// Its standard error.
    pub error: f64,
    /// difference / error.
    pub t: f64,
    /// Two-sided p of Student's t with clusters − 1 degrees of freedom.
    pub p: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The difference of the rates of `a` and `b` with an error that allows any dependence within clusters, and an
/// interval at confidence `level` (`statsmodels` `OLS(misaligned, [1, in a]).fit(cov_type="cluster",
/// cov_kwds={"groups": …}, use_t=True)`; Liang & Zeger 1986). A cluster with answers in both arms is a pair: what it
/// has in common cancels.
///
/// None with fewer than two clusters, an arm without answers, or no variation between clusters.
pub fn difference(clusters: &[Pair], level: f64) -> Option<Difference> {
    let total = |arm: fn(&Pair) -> Count| {
        let (k, n) = clusters.iter().map(arm).fold((0, 0), |(k, n), count| (k + count.k, n + count.n));
        Count { k, n }
    };
    let (a, b) = (total(|pair| pair.a), total(|pair| pair.b));
    let (rate_a, rate_b) = (a.rate()?, b.rate()?);
    let influence =
        |count: Count, rate: f64, arm: Count| (count.k as f64 - rate * count.n as f64) / arm.n as f64;
    let squares: f64 =
        clusters.iter().map(|c| (influence(c.a, rate_a, a) - influence(c.b, rate_b, b)).powi(2)).sum();
    let (groups, n) = (clusters.len() as f64, (a.n + b.n) as f64);
    let variance = squares * groups / (groups - 1.0) * (n - 1.0) / (n - 2.0);
    let (difference, error) = (rate_a - rate_b, variance.sqrt());
    // Rounding alone leaves an error some 1e-16 of the rates where there is none.
    if groups < 2.0 || n <= 2.0 || error <= 1e-12 * (rate_a + rate_b) {
        return None;
    }
    let df = groups - 1.0;
    let (t, half) = (difference / error, t_quantile(0.5 + level / 2.0, df) * error);
    Some(Difference {
        difference,
        error,
        t,
        p: t_two_sided(t, df),
        low: difference - half,
        high: difference + half,
    })
}
