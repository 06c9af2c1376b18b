//! Tail probabilities and quantiles. A tail is computed as such, never as 1 − the rest: z = 10.4 has p = 2.5e-25,
//! and must say so. (statrs' erfc is within 1e-10, relative, as far out as z = 37.)

use std::f64::consts::SQRT_2;

use statrs::distribution::{Continuous, ContinuousCDF, StudentsT};
use statrs::function::beta::beta_reg;
use statrs::function::erf::{erfc, erfc_inv};
use statrs::function::gamma::gamma_ur;

/// The standard normal quantile at `p` in (0, 1) (`scipy.stats.norm.ppf`).
pub fn normal_quantile(p: f64) -> f64 {
    -SQRT_2 * erfc_inv(2.0 * p)
}

/// The probability that a standard normal variable exceeds `z` (`scipy.stats.norm.sf`).
pub fn normal_sf(z: f64) -> f64 {
    0.5 * erfc(z / SQRT_2)
}

/// The probability that a standard normal variable is at least as far from 0 as `z`: a two-sided p.
pub fn normal_two_sided(z: f64) -> f64 {
    erfc(z.abs() / SQRT_2)
}

/// The same of Student's t with `df` > 0 degrees of freedom (`2 * scipy.stats.t.sf(abs(t), df)`): the regularised
/// incomplete beta function at df / (df + t²).
pub fn t_two_sided(t: f64, df: f64) -> f64 {
    beta_reg(df / 2.0, 0.5, df / (df + t * t))
}

/// The quantile of Student's t with `df` > 0 degrees of freedom at `p` in (0, 1) (`scipy.stats.t.ppf`).
pub fn t_quantile(p: f64, df: f64) -> f64 {
    if p < 0.5 {
        return -t_quantile(1.0 - p, df);
    }
    let distribution = StudentsT::new(0.0, 1.0, df).expect("df above 0");
    let t = distribution.inverse_cdf(p);
    // With many degrees of freedom it stops 1e-7 away; a step of Newton's method goes the rest.
    t + (t_two_sided(t, df) / 2.0 - (1.0 - p)) / distribution.pdf(t)
}

/// The probability that a chi-square variable with `df` > 0 degrees of freedom exceeds `x` (`scipy.stats.chi2.sf`).
pub fn chi_square_sf(x: f64, df: f64) -> f64 {
    if x <= 0.0 { 1.0 } else { gamma_ur(df / 2.0, x / 2.0) }
}
