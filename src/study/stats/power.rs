//! Power of the two-sided test of two proportions, on Cohen's h (Cohen 1988, chapter 6), and its inversions. All take
//! the answers as independent; [`design_effect`] says by how much that is too hopeful.

use super::distribution::{normal_quantile, normal_sf};

/// The probability that the two-sided test at level `alpha` finds an effect of size `h` with `n_a` and `n_b` answers
/// (`statsmodels.stats.power.NormalIndPower().power(h, n_a, alpha, ratio=n_b / n_a)`).
///
/// Put in the effect that was seen, it is the "achieved power", which only says in other words what p says.
pub fn power(h: f64, n_a: f64, n_b: f64, alpha: f64) -> f64 {
    let shift = h.abs() * (1.0 / (1.0 / n_a + 1.0 / n_b)).sqrt();
    let critical = -normal_quantile(alpha / 2.0);
    normal_sf(critical - shift) + normal_sf(critical + shift)
}

/// The answers in each of two equal arms at which the test has the given power
/// (`NormalIndPower().solve_power(h, None, alpha, power)`); not a whole number. None if no number has it: h is 0, or
/// the power is not between alpha and 1.
pub fn sample_size(h: f64, power: f64, alpha: f64) -> Option<f64> {
    // With n_a = n_b = n the shift is |h|·√(n/2).
    let shift = shift_of(power, alpha)?;
    (h != 0.0).then(|| 2.0 * (shift / h).powi(2))
}

/// The smallest h above 0 that the test finds with the given power
/// (`NormalIndPower().solve_power(None, n_a, alpha, power, ratio=n_b / n_a)`); none as for [`sample_size`].
pub fn detectable_effect(n_a: f64, n_b: f64, power: f64, alpha: f64) -> Option<f64> {
    Some(shift_of(power, alpha)? * (1.0 / n_a + 1.0 / n_b).sqrt())
}

/// The rate that lies `h` above `base` on Cohen's scale (below it if h < 0); none if there is none between 0 and 1.
pub fn rate_at(base: f64, h: f64) -> Option<f64> {
    let angle = base.sqrt().asin() + h / 2.0;
    (0.0..=std::f64::consts::FRAC_PI_2).contains(&angle).then(|| angle.sin().powi(2))
}

/// By how much clusters of `size` answers with intra-cluster correlation `icc` inflate the variance of a rate:
/// 1 + (size − 1)·icc (Kish 1965). `n` such answers say as much as n / effect independent ones.
pub fn design_effect(size: f64, icc: f64) -> f64 {
    1.0 + (size - 1.0) * icc
}

/// The distance of the statistic's mean from 0, in its standard deviations, at which the test has the given power.
fn shift_of(power: f64, alpha: f64) -> Option<f64> {
    if !(power > alpha && power < 1.0 && alpha > 0.0) {
        return None;
    }
    let critical = -normal_quantile(alpha / 2.0);
    let has = |shift: f64| normal_sf(critical - shift) + normal_sf(critical + shift);
    // The far tail only adds to the power: the shift that reaches it with the near one alone is an upper bound.
    let (mut low, mut high) = (0.0, critical + normal_quantile(power).max(0.0) + 1.0);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if has(middle) < power { low = middle } else { high = middle }
    }
    Some(f64::midpoint(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inversions_invert() {
        for (h, wanted, alpha) in
            [(0.067, 0.8, 0.05), (0.5, 0.99, 0.01), (-0.2, 0.06, 0.05), (1e-3, 0.9, 0.05)]
        {
            let n = sample_size(h, wanted, alpha).unwrap();
            assert!((power(h, n, n, alpha) - wanted).abs() < 1e-12, "{h} {wanted}");
            let effect = detectable_effect(n, n, wanted, alpha).unwrap();
            assert!((effect / h.abs() - 1.0).abs() < 1e-12, "{effect} is not {h}");
        }
        let higher = rate_at(0.01, 0.1).unwrap();
        assert!((super::super::proportion::cohens_h(higher, 0.01) - 0.1).abs() < 1e-14);
    }

    #[test]
    fn what_cannot_be_had() {
        assert_eq!(sample_size(0.0, 0.8, 0.05), None);
        assert_eq!(sample_size(0.1, 0.05, 0.05), None);
        assert_eq!(sample_size(0.1, 1.0, 0.05), None);
        assert_eq!(rate_at(0.01, -0.5), None);
        assert_eq!(rate_at(0.99, 0.5), None);
        assert!((power(0.0, 10.0, 10.0, 0.05) - 0.05).abs() < 1e-10);
    }
}
