//! Correlation of pairs.

use serde::Serialize;

use super::distribution::{normal_quantile, t_two_sided};

/// A correlation with its test against 0 and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Correlation {
    /// −1 to 1.
    pub r: f64,
    /// Two-sided p: r·√((n − 2)/(1 − r²)) against Student's t with n − 2 degrees of freedom; 1 with two pairs.
    pub p: f64,
    /// Lower end of the interval; −1 with three pairs or fewer.
    pub low: f64,
    /// Upper end of the interval; 1 with three pairs or fewer.
    pub high: f64,
}

/// Pearson's r of the pairs (x, y), with Fisher's interval at confidence `level`: normal on artanh r, standard error
/// 1/√(n − 3) (`scipy.stats.pearsonr` and its `confidence_interval`). None with fewer than two pairs or a constant
/// side.
pub fn pearson(pairs: &[(f64, f64)], level: f64) -> Option<Correlation> {
    let r = product_moment(pairs)?;
    Some(inference(r, pairs.len(), 1.0, level))
}

/// Spearman's rank correlation of the pairs (`scipy.stats.spearmanr`): Pearson's r of the ranks, ties sharing the
/// mean of their ranks. The interval is Fisher's with the standard error √((1 + r²/2)/(n − 3)) of Bonett & Wright
/// 2000. None where [`pearson`] is none.
pub fn spearman(pairs: &[(f64, f64)], level: f64) -> Option<Correlation> {
    let x = ranks(&pairs.iter().map(|p| p.0).collect::<Vec<_>>());
    let y = ranks(&pairs.iter().map(|p| p.1).collect::<Vec<_>>());
    let r = product_moment(&x.into_iter().zip(y).collect::<Vec<_>>())?;
    Some(inference(r, pairs.len(), 1.0 + r * r / 2.0, level))
}

fn product_moment(pairs: &[(f64, f64)]) -> Option<f64> {
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

/// Test and interval of `r` over `n` pairs; `factor` multiplies the variance of artanh r.
fn inference(r: f64, n: usize, factor: f64, level: f64) -> Correlation {
    let p = if n == 2 {
        1.0
    } else {
        let df = (n - 2) as f64;
        t_two_sided(r * (df / ((1.0 - r) * (1.0 + r))).sqrt(), df)
    };
    let (low, high) = if n <= 3 {
        (-1.0, 1.0)
    } else {
        let half = normal_quantile(0.5 + level / 2.0) * (factor / (n - 3) as f64).sqrt();
        ((r.atanh() - half).tanh(), (r.atanh() + half).tanh())
    };
    Correlation { r, p, low, high }
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

    #[test]
    fn few_or_constant_pairs() {
        assert_eq!(pearson(&[], 0.95), None);
        assert_eq!(pearson(&[(1.0, 2.0)], 0.95), None);
        assert_eq!(spearman(&[(1.0, 2.0), (1.0, 3.0)], 0.95), None);
        let two = pearson(&[(1.0, 2.0), (2.0, 3.0)], 0.95).unwrap();
        assert_eq!((two.p, two.low, two.high), (1.0, -1.0, 1.0));
        let line = pearson(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0), (4.0, 8.0)], 0.95).unwrap();
        assert!(line.r > 1.0 - 1e-15 && line.p < 1e-15 && line.low > 1.0 - 1e-12 && line.high == 1.0);
    }
}
