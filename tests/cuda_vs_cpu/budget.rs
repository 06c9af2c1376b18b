//! What every single element of a correct result may be off by.
//!
//! A Frobenius ratio over a whole tensor forgives one element that is entirely wrong. So each op computes, beside its
//! reference, an error budget for each element, from the magnitudes of the terms that it adds. Three constants
//! carry all of them:
//!
//! * u = 2⁻²⁴: one rounding to f32, to nearest (24 bits: half a unit in the last place).
//! * 2⁻²³: one addition in a tensor core, which cuts off instead of rounding. A product of 16 terms aligns them with
//!   the accumulator and cuts each once, so n terms lose at most n · 2⁻²³ of the sum of their magnitudes.
//! * 2⁻⁸: one rounding to bf16 (8 bits, to nearest), at the store and wherever a kernel hands bf16 to its next product.
//!
//! n roundings to nearest lose at most n · u of the sum of magnitudes. Since they are of either sign, they lose more than
//! 10 √n · u with a probability below 2 n e⁻⁵⁰ (Higham and Mary, SIAM J. Sci. Comput. 41, 2019, theorem 2.4): the smaller
//! of the two counts. The reference computes in f32, too: its roundings are part of the budget.

use std::ops::Range;

use emlab::device::product::{self, Store, View, ViewMut};
use emlab::device::{DType, Tensor};
use rayon::prelude::*;

use super::{agree_within, download};

/// One rounding to f32.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;
/// One rounding to bf16.
const BF16: f64 = 1.0 / 256.0;
/// One addition in a tensor core.
const CUT: f64 = 2.0 * U;
/// Below the smallest normal number an exponential may vanish.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// The share of Σ|terms| that a sum of `n` products loses in f32.
fn float_sum(n: usize) -> f64 {
    let n = n as f64 + 2.0;
    n.min(10.0 * n.sqrt()) * U
}

/// The share of Σ|terms| by which two sums of `n` products in f32 may differ: the kernel's and the reference's.
pub fn floats(n: usize) -> f64 {
    2.0 * float_sum(n)
}

/// [`floats`], where the kernel's products have factors of type `dtype`: bf16 goes through tensor cores.
pub fn products(n: usize, dtype: DType) -> f64 {
    float_sum(n) + if dtype == DType::Bf16 { (n as f64 + 2.0) * CUT } else { float_sum(n) }
}

/// The rounding of a number that is stored as `dtype`.
pub fn rounding(dtype: DType) -> f64 {
    if dtype == DType::Bf16 { BF16 } else { U }
}

/// The rounding of what a kernel hands to its next product as `dtype`; in f32 there is none.
pub fn handed_on(dtype: DType) -> f64 {
    if dtype == DType::Bf16 { BF16 } else { 0.0 }
}

/// |x|, element by element.
pub fn abs(x: &Tensor) -> Tensor {
    Tensor::from_f32(x.shape(), x.f32().iter().map(|x| x.abs()).collect())
}

/// Matrix A · B, added to `sum` (rows of A, columns of B).
pub fn add_product(sum: ViewMut<'_, f32>, scale: f32, a: View<'_, f32>, b: View<'_, f32>) {
    product::multiply(sum, Store::Accumulate, scale, a, b);
}

/// A tensor of two dimensions as a matrix.
pub fn matrix(t: &Tensor) -> View<'_, f32> {
    View::new(t.f32(), t.shape()[0], t.shape()[1])
}

/// The same, to be added to.
pub fn into(t: &mut Tensor) -> ViewMut<'_, f32> {
    let rows = t.shape()[0];
    into_rows(t, 0..rows)
}

/// Some of its rows, to be added to.
pub fn into_rows(t: &mut Tensor, rows: Range<usize>) -> ViewMut<'_, f32> {
    let width = t.shape()[1];
    ViewMut::new(&mut t.f32_mut()[rows.start * width..rows.end * width], rows.len(), width)
}

/// A result as it should be.
pub struct Expected {
    pub name: String,
    /// The reference, on the host.
    pub exact: Tensor,
    /// What each element may be off by before it is stored.
    pub error: Vec<f64>,
    /// The element type that it was computed in, for the norm-wise limit.
    pub dtype: DType,
    /// The element type that it is stored as.
    pub stored: DType,
}

impl Expected {
    /// Of an op whose results are stored in the type that it computes in.
    pub fn new(name: impl Into<String>, exact: &Tensor, error: Vec<f64>, dtype: DType) -> Self {
        assert_eq!(exact.len(), error.len(), "an error for each element");
        Self { name: name.into(), exact: exact.clone(), error, dtype, stored: dtype }
    }

    /// The same, stored as f32.
    pub fn stored_as_float(self) -> Self {
        Self { stored: DType::F32, ..self }
    }

    /// Asserts that a result on the card agrees: as a whole, and every element.
    pub fn holds(&self, found: &Tensor) {
        self.holds_within(found, 0.0);
    }

    /// [`Self::holds`], where as a whole both sides may be off by more: together by `whole`.
    pub fn holds_within(&self, found: &Tensor, whole: f64) {
        assert_eq!(found.shape(), self.exact.shape(), "{}: shape", self.name);
        assert_eq!(found.dtype(), self.stored, "{}: element type", self.name);
        agree_within(&self.name, found, self.exact.f32(), self.dtype, whole);
        if let Err(why) = self.check(&download(found)) {
            panic!("{why}");
        }
        self.sees_one_wrong_element();
    }

    /// What element `i` may be off by once it is stored.
    fn allowed(&self, i: usize) -> f64 {
        let (exact, error) = (f64::from(self.exact.f32()[i]).abs(), self.error[i]);
        error + rounding(self.stored) * (exact + error) + TINY
    }

    /// How much of its budget element `i` takes if it is `found`; NaN takes all of it.
    fn share(&self, i: usize, found: f32) -> f64 {
        let off = (f64::from(found) - f64::from(self.exact.f32()[i])).abs();
        if off.is_nan() { f64::INFINITY } else { off / self.allowed(i) }
    }

    /// Asserts that one wrong element would be seen: one that was never written, one of the wrong sign, its neighbour's
    /// value. Elements near zero, and neighbours that are nearly equal, are no errors to be seen.
    pub fn sees_one_wrong_element(&self) {
        let exact = self.exact.f32();
        let squares: f64 = exact.iter().map(|x| f64::from(*x).powi(2)).sum();
        let visible = (squares / exact.len().max(1) as f64).sqrt() / 2.0;
        let mut tried = 0;
        for i in (0..exact.len()).step_by((exact.len() / 101).max(1)) {
            for wrong in [0.0, -exact[i], exact[(i + 1) % exact.len()], f32::NAN] {
                if f64::from(wrong - exact[i]).abs() < visible {
                    continue;
                }
                let share = self.share(i, wrong);
                assert!(share > 1.0, "{}: element {i} is {}, and may be {wrong}", self.name, exact[i]);
                tried += 1;
            }
        }
        assert!(tried > 0 || exact.is_empty(), "{}: nothing was planted", self.name);
    }

    /// Compares element by element; tells which elements are off, and by what.
    pub fn check(&self, found: &[f32]) -> Result<(), String> {
        let exact = self.exact.f32();
        assert_eq!(found.len(), exact.len(), "{}: elements", self.name);
        let width = self.exact.shape().last().copied().unwrap_or(1).max(1);
        let wrong: Vec<(usize, f64)> = (0..found.len())
            .into_par_iter()
            .map(|i| (i, self.share(i, found[i])))
            .filter(|(_, share)| *share > 1.0)
            .collect();
        let Some((worst, share)) = wrong.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)) else {
            return Ok(());
        };
        let rows: Vec<usize> = wrong.iter().map(|(i, _)| i / width).collect();
        Err(format!(
            "{} as {}: {} of {} elements are off by more than they may, in rows {} to {} of {}; the worst, row {} \
             column {}, is {}, expected {} ± {:.2e} ({share:.1} times that)",
            self.name,
            self.stored.name(),
            wrong.len(),
            found.len(),
            rows[0],
            rows[rows.len() - 1],
            found.len() / width,
            worst / width,
            worst % width,
            found[worst],
            exact[worst],
            self.allowed(worst),
        ))
    }
}
