//! Statistics, with the names and definitions of scipy and statsmodels.

use statrs::distribution::{ContinuousCDF, Normal};

/// The standard normal quantile at `p` in (0, 1).
pub fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// Wilson's score interval of `k` successes in `n` trials at confidence `level`
/// (`statsmodels.stats.proportion.proportion_confint(k, n, 1 - level, "wilson")`; Wilson 1927).
/// With no trials nothing is known: (0, 1).
pub fn wilson(k: usize, n: usize, level: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let z = normal_quantile(0.5 + level / 2.0);
    let (p, n) = (k as f64 / n as f64, n as f64);
    let denominator = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / denominator;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / denominator;
    // At the ends centre ∓ half is 0 or 1 up to rounding.
    let low = if k == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { (centre + half).min(1.0) };
    (low, high)
}

/// Pearson's r of the pairs (x, y) (`scipy.stats.pearsonr`); none with fewer than two pairs or a constant side.
pub fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let (mean_x, mean_y) =
        (pairs.iter().map(|p| p.0).sum::<f64>() / n, pairs.iter().map(|p| p.1).sum::<f64>() / n);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    (pairs.len() >= 2 && xx > 0.0 && yy > 0.0).then(|| (xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation of the pairs (`scipy.stats.spearmanr`): Pearson's r of the ranks, ties sharing the
/// mean of their ranks; none where [`pearson`] is none.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let x = ranks(&pairs.iter().map(|p| p.0).collect::<Vec<_>>());
    let y = ranks(&pairs.iter().map(|p| p.1).collect::<Vec<_>>());
    pearson(&x.into_iter().zip(y).collect::<Vec<_>>())
}

/// Ranks counted from 1, ties sharing their mean (`scipy.stats.rankdata`).
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0.0;
    for tie in order.chunk_by(|&a, &b| values[a] == values[b]) {
        for &i in tie {
            ranks[i] = before + f64::midpoint(tie.len() as f64, 1.0);
        }
        before += tie.len() as f64;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// k, n and the interval.
    const WILSON: [(usize, usize, f64, f64); 6] = [
        (0, 10, 0.0, 0.277_532_8),
        (3, 10, 0.107_791_267, 0.603_221_853),
        (10, 10, 0.722_467_2, 1.0),
        (147, 21_600, 0.005_793_444_965, 0.007_993_059_597),
        (15, 21_600, 0.000_420_904_106, 0.001_145_551_512),
        (69, 7_200, 0.007_579_955_213, 0.012_109_742_240),
    ];
    const PEARSON: f64 = 0.715_714_042;
    const SPEARMAN: f64 = 0.718_181_818;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-12), "{a} is not {b}");
    }

    /// Values of statsmodels 0.15, `proportion_confint(k, n, 0.05, "wilson")`.
    #[test]
    fn wilson_agrees_with_statsmodels() {
        for (k, n, low, high) in WILSON {
            let (l, h) = wilson(k, n, 0.95);
            close(l, low);
            close(h, high);
        }
        assert_eq!(wilson(0, 0, 0.95), (0.0, 1.0));
    }

    /// Values of scipy 1.17, `pearsonr` and `spearmanr`.
    #[test]
    fn correlations_agree_with_scipy() {
        let pairs = [(1.0, 2.5), (2.0, 1.0), (2.0, 7.5), (3.5, 4.0), (8.0, 7.5), (9.0, 20.0), (-4.0, 3.0)];
        close(pearson(&pairs).unwrap(), PEARSON);
        close(spearman(&pairs).unwrap(), SPEARMAN);
        assert_eq!(pearson(&[(1.0, 2.0)]), None);
        assert_eq!(pearson(&[]), None);
        assert_eq!(spearman(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
