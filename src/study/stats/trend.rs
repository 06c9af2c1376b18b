//! Trend of a rate over ordered groups.

use super::distribution::normal_two_sided;
use super::proportion::{Count, Test};

/// The Cochran–Armitage test of a linear trend of the rate over the groups' scores (Armitage 1955; R's
/// `prop.trend.test`): z = Σ s(k − n·p) / √(p(1 − p)(Σ n s² − (Σ n s)² / N)), p the pooled rate; above 0 if the rate
/// rises. (`statsmodels`' `Table.test_ordinal_association` divides by N − 1: its z is smaller by √((N − 1)/N).)
/// None if all scores or all trials are alike.
pub fn cochran_armitage(groups: &[(f64, Count)]) -> Option<Test> {
    let n: f64 = groups.iter().map(|(_, count)| count.n as f64).sum();
    let (first, ..) = groups.iter().find(|(_, count)| count.n > 0)?;
    if groups.iter().all(|(score, count)| score == first || count.n == 0) {
        return None;
    }
    let pooled = groups.iter().map(|(_, count)| count.k as f64).sum::<f64>() / n;
    let mean = groups.iter().map(|(score, count)| score * count.n as f64).sum::<f64>() / n;
    let (mut sum, mut spread) = (0.0, 0.0);
    for (score, count) in groups {
        sum += (score - mean) * (count.k as f64 - count.n as f64 * pooled);
        spread += (score - mean).powi(2) * count.n as f64;
    }
    let z = sum / (pooled * (1.0 - pooled) * spread).sqrt();
    z.is_finite().then(|| Test { statistic: z, p: normal_two_sided(z) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::stats::proportion::two_proportion_z;

    #[test]
    fn two_groups_are_the_z_test() {
        let (a, b) = (Count { k: 147, n: 21_600 }, Count { k: 15, n: 21_600 });
        let trend = cochran_armitage(&[(3.0, b), (7.0, a)]).unwrap();
        let z = two_proportion_z(a, b).unwrap();
        assert!((trend.statistic - z.statistic).abs() < 1e-12);
    }

    #[test]
    fn no_trend_without_differences() {
        let count = Count { k: 3, n: 10 };
        assert_eq!(cochran_armitage(&[]), None);
        assert_eq!(cochran_armitage(&[(1.0, count), (1.0, count)]), None);
        assert_eq!(cochran_armitage(&[(1.0, Count { k: 0, n: 9 }), (2.0, Count { k: 0, n: 9 })]), None);
        assert_eq!(cochran_armitage(&[(1.0, count), (2.0, count)]).unwrap().statistic, 0.0);
    }
}
