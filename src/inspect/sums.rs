//! Sums in double precision.

/// ln Σ exp x, in double precision.
pub(super) fn log_sum(x: &[f32]) -> f64 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + x.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln()
}

/// Σ x², in double precision.
pub(super) fn square_sum(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum()
}
