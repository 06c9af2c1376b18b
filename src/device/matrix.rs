//! Small dense symmetric matrices of f64, on the host.

/// Rows of a square matrix.
pub(crate) type Matrix = Vec<Vec<f64>>;

/// The inverse of a symmetric positive definite matrix and the logarithm of its determinant, by Cholesky's
/// decomposition A = L Lᵀ; none if it is singular, that is, if a pivot is less than 1e-12 of its diagonal element.
pub(crate) fn inverse(matrix: &[Vec<f64>]) -> Option<(Matrix, f64)> {
    let n = matrix.len();
    let mut lower: Matrix = Vec::with_capacity(n);
    let mut log_determinant = 0.0;
    for (i, given) in matrix.iter().enumerate() {
        let mut row: Vec<f64> = Vec::with_capacity(i + 1);
        for (j, above) in lower.iter().enumerate() {
            row.push((given[j] - dot(&row, &above[..j])) / above[j]);
        }
        let rest = given[i] - dot(&row, &row);
        if rest.is_nan() || rest <= 1e-12 * given[i] {
            return None;
        }
        log_determinant += rest.ln();
        row.push(rest.sqrt());
        lower.push(row);
    }
    // A⁻¹ = L⁻ᵀ L⁻¹, row by row of L⁻¹: adding whole rows is good for the cache.
    let mut inverse = vec![vec![0.0; n]; n];
    let mut rows: Matrix = Vec::with_capacity(n);
    for (i, factors) in lower.iter().enumerate() {
        let mut row = vec![0.0; i + 1];
        row[i] = 1.0;
        for (factor, before) in factors.iter().zip(&rows) {
            add(&mut row, -factor, before);
        }
        for value in &mut row {
            *value /= factors[i];
        }
        for (j, value) in row.iter().enumerate() {
            add(&mut inverse[j], *value, &row);
        }
        rows.push(row);
    }
    Some((inverse, log_determinant))
}

/// to ← to + factor · row, for the elements that `row` has.
fn add(to: &mut [f64], factor: f64, row: &[f64]) {
    for (to, value) in to.iter_mut().zip(row) {
        *to += factor * value;
    }
}

/// matrix · vector.
pub(crate) fn times(matrix: &[Vec<f64>], vector: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| dot(row, vector)).collect()
}

/// Σ aᵢbᵢ.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverts() {
        let matrix = vec![vec![4.0, 2.0, 0.6], vec![2.0, 5.0, 1.0], vec![0.6, 1.0, 3.0]];
        let (inverse, log_determinant) = inverse(&matrix).unwrap();
        for (i, row) in matrix.iter().enumerate() {
            for j in 0..3 {
                let column: Vec<f64> = inverse.iter().map(|row| row[j]).collect();
                assert!((dot(row, &column) - f64::from(u8::from(i == j))).abs() < 1e-14);
            }
        }
        // 4(15 − 1) − 2(6 − 0.6) + 0.6(2 − 3)
        assert!((log_determinant - 44.6_f64.ln()).abs() < 1e-14);
        assert_eq!(super::inverse(&[vec![1.0, 2.0], vec![2.0, 4.0]]), None);
    }
}
