//! The gated linear unit, forward and backward.

use emlab::device::{DType, Tensor};
use emlab::ops::glu::{self, Activation};

use super::budget::{Expected, U};
use super::{DTYPES, card, host, poisoned, random, twice, upload};

/// Rows and width.
pub const CASES: [[usize; 2]; 6] = [[5, 37], [3, 1], [130, 640], [65, 6912], [1, 4096], [40, 9728]];

/// gate_up, also far out on both sides, and dy.
pub fn inputs([n, f]: [usize; 2], dtype: DType) -> [Tensor; 2] {
    let mut x = random("gate_up", &[n, 2 * f], dtype);
    for (i, x) in x.f32_mut().iter_mut().enumerate() {
        *x *= [1.0, 4.0, 16.0, 128.0][i % 4];
    }
    [x, random("dy", &[n, f], dtype)]
}

/// a(x) and a'(x), and what they may be off by.
///
/// z takes a few roundings, which e^−z turns into a relative error of σ that grows with |z|. 1 − σ loses what σ was
/// rounded by; from z = 20 on σ is 1 on both sides.
fn activation_errors(x: f64, activation: Activation) -> [f64; 3] {
    let (z, dz) = match activation {
        Activation::Silu => (x, 1.0),
        Activation::GeluTanh => {
            (1.595_769 * (x + 0.044_715 * x.powi(3)), 1.595_769 * (1.0 + 3.0 * 0.044_715 * x * x))
        }
    };
    let sigma = 1.0 / (1.0 + (-z).exp());
    let value = x.abs() * sigma;
    // Where σ leaves the range of f32, either side may have none of it.
    let (relative, vanishing) = ((16.0 * z.abs() + 64.0) * U, f64::from(f32::MIN_POSITIVE));
    let cancelled = if z < 20.0 { 8.0 * U } else { 0.0 };
    let slope = sigma * relative + value * dz * ((1.0 - sigma) * 2.0 * relative + cancelled);
    let gone = vanishing * (1.0 + x.abs() * (1.0 + dz));
    [value, value * relative + gone, slope + gone]
}

/// y and dgate_up as they should be.
pub fn expected(
    [n, f]: [usize; 2],
    activation: Activation,
    [x, dy]: [&Tensor; 2],
    dtype: DType,
) -> [Expected; 2] {
    let (mut y, mut dx) = (host(&[n, f]), host(&[n, 2 * f]));
    glu::forward(&mut y, x, activation).unwrap();
    glu::backward(&mut dx, dy, x, activation).unwrap();
    let (mut of_y, mut of_dx) = (vec![0.0; n * f], vec![0.0; 2 * n * f]);
    for (e, of_y) in of_y.iter_mut().enumerate() {
        let (row, i) = (e / f, e % f);
        let [gate, up] = [0, f].map(|half| f64::from(x.f32()[row * 2 * f + half + i]));
        let ([value, value_error, slope_error], dy) =
            (activation_errors(gate, activation), f64::from(dy.f32()[e]).abs());
        *of_y = up.abs() * (value_error + 4.0 * U * value);
        let slope = f64::from(dx.f32()[row * 2 * f + i]).abs();
        of_dx[row * 2 * f + i] = dy * up.abs() * slope_error + 8.0 * U * slope;
        of_dx[row * 2 * f + f + i] = dy * (value_error + 4.0 * U * value);
    }
    let name = |what: &str| format!("{what} of {n} × {f}, {activation:?}");
    [Expected::new(name("y"), &y, of_y, dtype), Expected::new(name("dgate_up"), &dx, of_dx, dtype)]
}

#[test]
fn glu_forward_and_backward() {
    let Some(card) = card() else { return };
    for [n, f] in CASES {
        for activation in [Activation::GeluTanh, Activation::Silu] {
            for dtype in DTYPES {
                let [x, dy] = inputs([n, f], dtype);
                let expected = expected([n, f], activation, [&x, &dy], dtype);
                let [x, dy] = [&x, &dy].map(|t| upload(t, dtype, card));
                let found = twice(&expected[0].name, || {
                    let (mut y, mut dx) =
                        (poisoned(&[n, f], dtype, card), poisoned(&[n, 2 * f], dtype, card));
                    glu::forward(&mut y, &x, activation).unwrap();
                    glu::backward(&mut dx, &dy, &x, activation).unwrap();
                    [y, dx]
                });
                for (expected, found) in expected.iter().zip(&found) {
                    expected.holds(found);
                }
            }
        }
    }
}
