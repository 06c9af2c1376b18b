//! [`Spectrum`]: the singular value decomposition of ΔW = s·B·A from its factors.
//!
//! ```text
//! B = Q R (O×R, R×R)    Aᵀ = P T (I×R, R×R)    s·R·Tᵀ = U Σ Vᵀ (R×R)    ΔW = (Q U) Σ (P V)ᵀ
//! ```
//!
//! O(R²(O + I)) instead of O(O·I·min(O, I)). In f64: Q and P by Gram–Schmidt, twice over (Giraud et al., Numer. Math. 101,
//! 2005), the small matrix by one-sided Jacobi rotations (Demmel and Veselić, SIAM J. Matrix Anal. 13, 1992).

use crate::device::matrix::dot;

/// Columns of a matrix.
type MatrixColumns = Vec<Vec<f64>>;

/// ΔW by its singular values and vectors.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// The R singular values σ, in descending order.
    pub values: Vec<f64>,
    /// Output directions, each of length O; zero where σ is 0.
    pub left: MatrixColumns,
    /// Input directions, each of length I; zero where σ is 0.
    pub right: MatrixColumns,
}

impl Spectrum {
    /// Of `scale` · `b` · `a`; `b` is (O, R) and `a` (R, I), by rows.
    pub fn of_product(scale: f64, b: &[f32], a: &[f32], rank: usize) -> Self {
        let widen = |x: &f32| f64::from(*x);
        let columns = |k: usize| b.iter().skip(k).step_by(rank).map(widen).collect();
        let (q, r) = orthogonalise((0..rank).map(columns).collect());
        let rows = a.chunks(a.len() / rank).map(|row| row.iter().map(widen).collect());
        let (p, t) = orthogonalise(rows.collect());
        // Column j of s·R·Tᵀ; element (i, k) of R is r[k][i].
        let element = |i: usize, j: usize| scale * (0..rank).map(|k| r[k][i] * t[k][j]).sum::<f64>();
        let small = (0..rank).map(|j| (0..rank).map(|i| element(i, j)).collect()).collect();
        let (u, values, v) = jacobi(small);
        Self { values, left: combine(&q, &u), right: combine(&p, &v) }
    }

    /// ‖ΔW‖ by Frobenius, √Σσ².
    pub fn norm(&self) -> f64 {
        self.values.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Directions that matter: exp of the entropy of σ²/Σσ²; 0 if there is no change.
    pub fn effective_rank(&self) -> f64 {
        let total = self.norm().powi(2);
        if total == 0.0 {
            return 0.0;
        }
        let shares = self.values.iter().map(|x| x * x / total).filter(|share| *share > 0.0);
        (-shares.map(|share| share * share.ln()).sum::<f64>()).exp()
    }

    /// Σ over pairs of singular vectors of σσ'(u·u')(v·v') = ⟨ΔW, ΔW'⟩ over both norms: the cosine of the angle between two
    /// changes; 0 if one of them is none.
    pub fn cosine(&self, other: &Self) -> f64 {
        let mut sum = 0.0;
        for ((x, u), v) in self.values.iter().zip(&self.left).zip(&self.right) {
            for ((y, w), z) in other.values.iter().zip(&other.left).zip(&other.right) {
                sum += x * y * dot(u, w) * dot(v, z);
            }
        }
        let norms = self.norm() * other.norm();
        if norms == 0.0 { 0.0 } else { sum / norms }
    }
}

/// How far two spaces are one, from 0 to 1: Σ (x·y)² over the first `k` directions of both, over k (Hu et al., arXiv 2106.09685,
/// section 7.2).
pub fn overlap(a: &[Vec<f64>], b: &[Vec<f64>], k: usize) -> f64 {
    let k = k.min(a.len()).min(b.len());
    let sum: f64 = a[..k].iter().flat_map(|x| b[..k].iter().map(|y| dot(x, y).powi(2))).sum();
    if k == 0 { 0.0 } else { sum / k as f64 }
}

/// x += s · y.
fn add(x: &mut [f64], s: f64, y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += s * y);
}

fn divide(x: &mut [f64], by: f64) {
    for x in x {
        *x /= by;
    }
}

/// Q and R of columns X = Q R; `r[j][i]` is element (i, j). A column that depends on those before it leaves a zero in Q.
fn orthogonalise(mut x: MatrixColumns) -> (MatrixColumns, MatrixColumns) {
    let mut r = vec![vec![0.0; x.len()]; x.len()];
    for (j, r) in r.iter_mut().enumerate() {
        let (before, rest) = x.split_at_mut(j);
        let column = &mut rest[0];
        let length = dot(column, column).sqrt();
        for _ in 0..2 {
            for (q, r) in before.iter().zip(&mut *r) {
                let along = dot(q, column);
                *r += along;
                add(column, -along, q);
            }
        }
        let left = dot(column, column).sqrt();
        if left > 1e-14 * length {
            r[j] = left;
            divide(column, left);
        } else {
            column.fill(0.0);
        }
    }
    (x, r)
}

/// X = U Σ Vᵀ of a square matrix by columns: columns are rotated in pairs until all are orthogonal.
fn jacobi(mut x: MatrixColumns) -> (MatrixColumns, Vec<f64>, MatrixColumns) {
    let n = x.len();
    let mut v: MatrixColumns =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..60 {
        let mut still = true;
        for i in 0..n {
            for j in i + 1..n {
                let [a, b, c] = [dot(&x[i], &x[i]), dot(&x[j], &x[j]), dot(&x[i], &x[j])];
                if c.abs() <= 1e-15 * (a * b).sqrt() {
                    continue;
                }
                still = false;
                let zeta = (b - a) / (2.0 * c);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                for columns in [&mut x, &mut v] {
                    let (first, second) = columns.split_at_mut(j);
                    for (p, q) in first[i].iter_mut().zip(&mut second[0]) {
                        (*p, *q) = (cosine * (*p - tangent * *q), cosine * (tangent * *p + *q));
                    }
                }
            }
        }
        if still {
            break;
        }
    }
    let mut found: Vec<(f64, Vec<f64>, Vec<f64>)> = x
        .into_iter()
        .zip(v)
        .map(|(mut u, v)| {
            let value = dot(&u, &u).sqrt();
            if value > 0.0 {
                divide(&mut u, value);
            }
            (value, u, v)
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut u, mut values, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for (value, left, right) in found {
        u.push(left);
        values.push(value);
        v.push(right);
    }
    (u, values, v)
}

/// Each column of the product of `q` and a small matrix.
fn combine(q: &MatrixColumns, small: &MatrixColumns) -> MatrixColumns {
    let product = |weights: &Vec<f64>| {
        let mut sum = vec![0.0; q[0].len()];
        q.iter().zip(weights).for_each(|(column, weight)| add(&mut sum, *weight, column));
        sum
    };
    small.iter().map(product).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::philox::Key;

    fn random(name: &str, n: usize) -> Vec<f32> {
        let key = Key::new(7, &[name]);
        (0..n as u32).map(|i| key.uniform(0, i) - 0.5).collect()
    }

    #[test]
    fn the_parts_make_the_whole() {
        let [o, r, i] = [23, 5, 17];
        let (b, a) = (random("b", o * r), random("a", r * i));
        let spectrum = Spectrum::of_product(1.5, &b, &a, r);
        assert!(spectrum.values.is_sorted_by(|x, y| x >= y));
        for row in 0..o {
            for column in 0..i {
                let terms = (0..r).map(|k| f64::from(b[row * r + k]) * f64::from(a[k * i + column]));
                let expected = 1.5 * terms.sum::<f64>();
                let found: f64 = (0..r)
                    .map(|k| spectrum.values[k] * spectrum.left[k][row] * spectrum.right[k][column])
                    .sum();
                assert!((found - expected).abs() < 1e-13, "{row} {column}: {found} {expected}");
            }
        }
        for space in [&spectrum.left, &spectrum.right] {
            for (j, x) in space.iter().enumerate() {
                for (k, y) in space.iter().enumerate() {
                    assert!((dot(x, y) - f64::from(u8::from(j == k))).abs() < 1e-12);
                }
            }
        }
        assert!((overlap(&spectrum.left, &spectrum.left, 3) - 1.0).abs() < 1e-12);
        assert!((spectrum.cosine(&spectrum) - 1.0).abs() < 1e-12);
        let opposite = Spectrum::of_product(-0.5, &b, &a, r);
        assert!((spectrum.cosine(&opposite) + 1.0).abs() < 1e-12);
    }

    #[test]
    fn fewer_directions_than_the_rank_and_none() {
        let (b, a) = (random("b", 12), random("a", 20));
        // The second column of B is twice the first.
        let b: Vec<f32> = b.chunks(2).flat_map(|row| [row[0], 2.0 * row[0]]).collect();
        let spectrum = Spectrum::of_product(1.0, &b, &a, 2);
        assert!(spectrum.values[1] < 1e-15 * spectrum.values[0].max(1.0));
        assert!((spectrum.effective_rank() - 1.0).abs() < 1e-9);
        let nothing = Spectrum::of_product(1.0, &[0.0; 12], &a, 2);
        assert_eq!((nothing.norm(), nothing.effective_rank(), nothing.cosine(&spectrum)), (0.0, 0.0, 0.0));
    }
}
