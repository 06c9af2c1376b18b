//! [`Real`]: the number type of the CPU reference. f32 computes; a dual number differentiates, exactly and without
//! a step size: run a forward on duals and `.tangent` is the derivative that its backward must reproduce.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

use half::bf16;

use crate::device::product::{self, Store, View, ViewMut};

/// The operations on numbers that the CPU reference needs.
pub trait Real:
    Copy
    + Debug
    + Send
    + Sync
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + Sum
    + Factor<Self>
    + 'static
{
    /// The constant `x`.
    fn of(x: f32) -> Self;
    /// e^x.
    #[must_use]
    fn exp(self) -> Self;
    /// Natural logarithm.
    #[must_use]
    fn ln(self) -> Self;
    /// Square root.
    #[must_use]
    fn sqrt(self) -> Self;
}

/// An element that can be the right-hand side of a product of `T`s.
pub trait Factor<T: Real>: Copy + Send + Sync + 'static {
    /// The value as a `T`, exactly.
    fn value(self) -> T;
    /// `dst ← alpha · a · b`, or `dst += …`.
    fn multiply(dst: ViewMut<'_, T>, store: Store, alpha: f32, a: View<'_, T>, b: View<'_, Self>);
    /// `dst ← x · wᵀ` for few rows, each independent of the others; dst (M, O), x (M, I), w (O, I).
    fn multiply_rows(dst: &mut [T], x: &[T], w: &[Self], inputs: usize);
}

impl Real for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn exp(self) -> Self {
        exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
}

/// e^x within 2 units in the last place, without branches, so that loops over it vectorise; flushes to 0 below −87.3
/// and saturates above 88.7. Reduction and polynomial after Cephes' expf.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding and subtracting 1.5 · 2²³ rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let y = x.clamp(-87.3, 88.7);
    let rounded = y * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = y - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let mantissa = p * r * r + r + 1.0;
    // n from the bits: a cast would ask about NaN, one number at a time. 2^n as two factors, so that n = 128 does not
    // overflow the exponent field.
    let n = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let result = mantissa * power(half) * power(n.wrapping_sub(half));
    if x < -87.3 { 0.0 } else { result }
}

impl Factor<f32> for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
    fn multiply(dst: ViewMut<'_, f32>, store: Store, alpha: f32, a: View<'_, f32>, b: View<'_, f32>) {
        product::multiply(dst, store, alpha, a, b);
    }
    fn multiply_rows(dst: &mut [f32], x: &[f32], w: &[f32], inputs: usize) {
        product::multiply_rows(dst, x, w, inputs);
    }
}

impl Factor<f32> for bf16 {
    #[inline(always)]
    fn value(self) -> f32 {
        self.to_f32()
    }
    fn multiply(dst: ViewMut<'_, f32>, store: Store, alpha: f32, a: View<'_, f32>, b: View<'_, bf16>) {
        product::multiply(dst, store, alpha, a, b);
    }
    fn multiply_rows(dst: &mut [f32], x: &[f32], w: &[bf16], inputs: usize) {
        product::multiply_rows(dst, x, w, inputs);
    }
}

/// value + tangent · ε with ε² = 0, in double precision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dual {
    /// The value.
    pub value: f64,
    /// Its derivative in the direction that the inputs' tangents name.
    pub tangent: f64,
}

impl Dual {
    /// A value and its derivative.
    pub fn new(value: f64, tangent: f64) -> Self {
        Self { value, tangent }
    }

    /// Chain rule: f(x) with f'(x) = `slope`.
    fn through(self, value: f64, slope: f64) -> Self {
        Self::new(value, slope * self.tangent)
    }
}

impl PartialEq for Dual {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialOrd for Dual {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl Add for Dual {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        Self::new(self.value + b.value, self.tangent + b.tangent)
    }
}

impl Sub for Dual {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        Self::new(self.value - b.value, self.tangent - b.tangent)
    }
}

impl Mul for Dual {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        Self::new(self.value * b.value, self.tangent * b.value + self.value * b.tangent)
    }
}

impl Div for Dual {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let value = self.value / b.value;
        Self::new(value, (self.tangent - value * b.tangent) / b.value)
    }
}

impl Neg for Dual {
    type Output = Self;
    fn neg(self) -> Self {
        Self::new(-self.value, -self.tangent)
    }
}

impl AddAssign for Dual {
    fn add_assign(&mut self, b: Self) {
        *self = *self + b;
    }
}

impl SubAssign for Dual {
    fn sub_assign(&mut self, b: Self) {
        *self = *self - b;
    }
}

impl Sum for Dual {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), |a, b| a + b)
    }
}

impl Real for Dual {
    fn of(x: f32) -> Self {
        Self::new(f64::from(x), 0.0)
    }
    fn exp(self) -> Self {
        let y = self.value.exp();
        self.through(y, y)
    }
    fn ln(self) -> Self {
        self.through(self.value.ln(), 1.0 / self.value)
    }
    fn sqrt(self) -> Self {
        let y = self.value.sqrt();
        self.through(y, 0.5 / y)
    }
}

impl Factor<Dual> for Dual {
    fn value(self) -> Dual {
        self
    }
    fn multiply(mut dst: ViewMut<'_, Dual>, store: Store, alpha: f32, a: View<'_, Dual>, b: View<'_, Dual>) {
        let ((m, k), (_, n)) = (a.size(), b.size());
        for i in 0..m {
            for j in 0..n {
                let sum: Dual = (0..k).map(|p| a.at(i, p) * b.at(p, j)).sum::<Dual>() * Dual::of(alpha);
                let out = dst.at(i, j);
                *out = if store == Store::Accumulate { *out + sum } else { sum };
            }
        }
    }
    fn multiply_rows(dst: &mut [Dual], x: &[Dual], w: &[Dual], inputs: usize) {
        let (m, outputs) = (x.len() / inputs, w.len() / inputs);
        let (x, w) = (View::new(x, m, inputs), View::new(w, outputs, inputs));
        Self::multiply(ViewMut::new(dst, m, outputs), Store::Overwrite, 1.0, x, w.t());
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -87_200..=88_600 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(Real::exp(x)) - exact).abs() <= 2.4e-7 * exact, "exp({x})");
        }
        assert_eq!((Real::exp(0.0f32), Real::exp(-1000.0f32), Real::exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(Real::exp(f32::NAN).is_nan());
    }
}
