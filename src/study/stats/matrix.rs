//! Small dense symmetric matrices.

/// Rows of a square matrix.
pub(super) type Matrix = Vec<Vec<f64>>;

/// The inverse of a symmetric positive definite matrix and the logarithm of its determinant, by Cholesky's
/// decomposition; none if it is singular: if a pivot is less than 1e-12 of its diagonal element.
pub(super) fn inverse(matrix: &[Vec<f64>]) -> Option<(Matrix, f64)> {
    let n = matrix.len();
    let mut lower = vec![vec![0.0; n]; n];
    let mut log_determinant = 0.0;
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let rest = matrix[i][j] - dot;
            if i > j {
                lower[i][j] = rest / lower[j][j];
            } else if rest > 1e-12 * matrix[i][i] {
                lower[i][i] = rest.sqrt();
                log_determinant += rest.ln();
            } else {
                return None;
            }
        }
    }
    let mut inverse = vec![vec![0.0; n]; n];
    for column in 0..n {
        // L y = e, then Lᵀ x = y.
        let mut x: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i == column))).collect();
        for i in 0..n {
            let dot: f64 = (0..i).map(|k| lower[i][k] * x[k]).sum();
            x[i] = (x[i] - dot) / lower[i][i];
        }
        for i in (0..n).rev() {
            let dot: f64 = (i + 1..n).map(|k| lower[k][i] * x[k]).sum();
            x[i] = (x[i] - dot) / lower[i][i];
        }
        for (row, value) in inverse.iter_mut().zip(x) {
            row[column] = value;
        }
    }
    Some((inverse, log_determinant))
}

/// matrix · vector.
pub(super) fn times(matrix: &[Vec<f64>], vector: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| dot(row, vector)).collect()
}

/// Σ aᵢbᵢ.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
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
