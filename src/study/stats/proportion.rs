//! One proportion, and two of them compared, all answers independent.

use serde::Serialize;

use super::distribution::{chi_square_sf, normal_quantile, normal_two_sided};

/// `k` successes in `n` trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Successes, at most `n`.
    pub k: usize,
    /// Trials.
    pub n: usize,
}

impl Count {
    /// k / n; none without trials.
    pub fn rate(self) -> Option<f64> {
        (self.n > 0).then(|| self.k as f64 / self.n as f64)
    }
}

/// Wilson's score interval at confidence `level`
/// (`statsmodels.stats.proportion.proportion_confint(k, n, 1 - level, "wilson")`; Wilson 1927).
/// With no trials nothing is known: (0, 1).
pub fn wilson(count: Count, level: f64) -> (f64, f64) {
    let Some(p) = count.rate() else { return (0.0, 1.0) };
    let (z, n) = (normal_quantile(0.5 + level / 2.0), count.n as f64);
    let denominator = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / denominator;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / denominator;
    // At the ends centre ∓ half is 0 or 1 up to rounding.
    let low = if count.k == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if count.k == count.n { 1.0 } else { (centre + half).min(1.0) };
    (low, high)
}

/// A statistic and its two-sided p.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Test {
    /// The statistic.
    pub statistic: f64,
    /// Its two-sided p.
    pub p: f64,
}

/// The z test of equal proportions with the pooled variance (`statsmodels.stats.proportion.proportions_ztest`); above
/// 0 if `a` has the higher rate. None if an arm has no trials, or all trials of both end the same.
pub fn two_proportion_z(a: Count, b: Count) -> Option<Test> {
    let pooled = (a.k + b.k) as f64 / (a.n + b.n) as f64;
    let variance = pooled * (1.0 - pooled) * (1.0 / a.n as f64 + 1.0 / b.n as f64);
    let z = (a.rate()? - b.rate()?) / variance.sqrt();
    z.is_finite().then(|| Test { statistic: z, p: normal_two_sided(z) })
}

/// A chi-square statistic.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ChiSquare {
    /// Σ (observed − expected)² / expected.
    pub statistic: f64,
    /// (rows − 1)(columns − 1).
    pub df: usize,
    /// The probability of as large a statistic.
    pub p: f64,
}

/// Pearson's chi-square test of independence in a table of counts, rows of equal length
/// (`scipy.stats.chi2_contingency`). `yates` moves each count of a 2 × 2 table by up to ½ towards its expectation;
/// larger tables are not corrected. None if a row or a column is empty, or there is only one.
///
/// # Panics
/// If the rows differ in length.
pub fn chi_square(table: &[&[usize]], yates: bool) -> Option<ChiSquare> {
    let columns = table.first()?.len();
    assert!(table.iter().all(|row| row.len() == columns), "rows of {columns} columns");
    let row_sums: Vec<f64> = table.iter().map(|row| row.iter().sum::<usize>() as f64).collect();
    let column_sums: Vec<f64> =
        (0..columns).map(|j| table.iter().map(|row| row[j]).sum::<usize>() as f64).collect();
    let total: f64 = row_sums.iter().sum();
    let df = (table.len() - 1) * columns.saturating_sub(1);
    if df == 0 || row_sums.iter().chain(&column_sums).any(|&sum| sum == 0.0) {
        return None;
    }
    let mut statistic = 0.0;
    for (row, row_sum) in table.iter().zip(&row_sums) {
        for (&observed, column_sum) in row.iter().zip(&column_sums) {
            let expected = row_sum * column_sum / total;
            let mut distance = (observed as f64 - expected).abs();
            if yates && df == 1 {
                distance -= distance.min(0.5);
            }
            statistic += distance * distance / expected;
        }
    }
    Some(ChiSquare { statistic, df, p: chi_square_sf(statistic, df as f64) })
}

/// Fisher's exact test, two-sided: the probability, the margins given, of all tables that are at most as probable as
/// the one seen (`scipy.stats.fisher_exact`). 1 if an arm has no trials.
///
/// Neighbouring tables differ by a ratio of integers; sums of its logarithm neither overflow nor, for 43,200 trials,
/// lose more than 1e-11. Probabilities within 1e-7 of the one seen count as equal to it, as in R's `fisher.test`.
pub fn fisher_exact(a: Count, b: Count) -> f64 {
    let successes = a.k + b.k;
    let (first, last) = (successes.saturating_sub(b.n), successes.min(a.n));
    // Logarithms of the probabilities of `first..=last` successes in a, up to a constant.
    let mut weights = Vec::with_capacity(last - first + 1);
    let mut weight = 0.0;
    for k in first..=last {
        weights.push(weight);
        if k < last {
            let up = (successes - k) as f64 * (a.n - k) as f64;
            let down = (k + 1) as f64 * (b.n + k + 1 - successes) as f64;
            weight += (up / down).ln();
        }
    }
    let seen = weights[a.k - first];
    let highest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = weights.iter().map(|w| (w - highest).exp()).sum();
    let tail: f64 = weights.iter().filter(|w| **w <= seen + 1e-7).map(|w| (w - seen).exp()).sum();
    ((seen - highest).exp() * tail / total).min(1.0)
}

/// An odds ratio with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OddsRatio {
    /// The odds of `a` over those of `b`.
    pub ratio: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// A count was 0, and ½ has been added to all four.
    pub corrected: bool,
}

/// The odds ratio with Woolf's interval at confidence `level`: normal on the logarithm (Woolf 1955;
/// `statsmodels.stats.contingency_tables.Table2x2.oddsratio_confint`). If one of the four counts is 0, ½ is added to
/// each (Haldane 1956, Anscombe 1956), and the result says so; `Table2x2(…, shift_zeros=True)` adds it to the empty
/// one alone. None if an arm has no trials.
pub fn odds_ratio(a: Count, b: Count, level: f64) -> Option<OddsRatio> {
    if a.n == 0 || b.n == 0 {
        return None;
    }
    let (cells, corrected) = cells(a, b);
    let log = log_odds_ratio(cells);
    let error = cells.iter().map(|cell| 1.0 / cell).sum::<f64>().sqrt();
    let half = normal_quantile(0.5 + level / 2.0) * error;
    Some(OddsRatio { ratio: log.exp(), low: (log - half).exp(), high: (log + half).exp(), corrected })
}

/// Successes and failures of both arms, each with ½ added if one is 0; and whether that was so.
pub(super) fn cells(a: Count, b: Count) -> ([f64; 4], bool) {
    let counts = [a.k, a.n - a.k, b.k, b.n - b.k];
    let corrected = counts.contains(&0);
    (counts.map(|count| count as f64 + if corrected { 0.5 } else { 0.0 }), corrected)
}

/// The logarithm of the odds ratio of successes and failures of two arms.
pub(super) fn log_odds_ratio([a, not_a, b, not_b]: [f64; 4]) -> f64 {
    (a / not_a).ln() - (b / not_b).ln()
}

/// The difference of the rates, a − b, with Newcombe's hybrid score interval at confidence `level` (Newcombe 1998,
/// method 10; `statsmodels.stats.proportion.confint_proportions_2indep(…, method="newcomb")`): difference, low, high.
/// None if an arm has no trials.
pub fn risk_difference(a: Count, b: Count, level: f64) -> Option<(f64, f64, f64)> {
    let (rate_a, rate_b) = (a.rate()?, b.rate()?);
    let ((low_a, high_a), (low_b, high_b)) = (wilson(a, level), wilson(b, level));
    let difference = rate_a - rate_b;
    let below = (rate_a - low_a).hypot(high_b - rate_b);
    let above = (high_a - rate_a).hypot(rate_b - low_b);
    Some((difference, difference - below, difference + above))
}

/// Cohen's h of two rates: the difference of 2·arcsin √p (Cohen 1988;
/// `statsmodels.stats.proportion.proportion_effectsize`).
pub fn cohens_h(a: f64, b: f64) -> f64 {
    2.0 * (a.sqrt().asin() - b.sqrt().asin())
}
