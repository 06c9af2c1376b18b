//! Output head and cross-entropy in one, a chunk of rows at a time: the logits of all rows never exist together.
//!
//! ```text
//! logits = x · wᵀ,   nll_n = lse_n − logits[n, target_n],   lse_n = ln Σ_v exp logits[n, v]
//! L = weight · Σ_n nll_n:   dlogits = weight · (exp(logits − lse) − onehot),   dx = dlogits · w,   dw += dlogitsᵀ · x
//! ```
//! Shapes: x, dx (N, C); w, dw (V, C), w in f32 or bf16; targets (N). The loss is the end of the graph, so its forward
//! and backward are one pass: each chunk's logits become their own gradient in place.

use crate::device::tensor::{expect, expect_f32, expect_weight};
use crate::device::{DType, Device, Tensor};
use crate::error::{Error, Result};

/// Rows whose logits exist at the same time.
pub const CHUNK: usize = 128;

/// Gradients wanted from [`forward`], each of `weight · Σ nll`.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Overwritten, (N, C).
    pub dx: Option<&'a mut Tensor>,
    /// Added to, (V, C).
    pub dw: Option<&'a mut Tensor>,
}

/// The negative log-likelihood of each target, (N); `scratch` holds one chunk of logits.
///
/// # Errors
/// A shape or element type that disagrees; a target not below V.
pub fn forward(
    gradients: Gradients,
    scratch: &mut Tensor,
    x: &Tensor,
    w: &Tensor,
    targets: &[u32],
    weight: f32,
) -> Result<Vec<f32>> {
    let ([n, c], [v, _]) = (x.dims()?, w.dims()?);
    expect("linear_cross_entropy", &[("x", x, &[n, c])])?;
    expect_weight("linear_cross_entropy", w, x, &[v, c])?;
    assert_eq!(targets.len(), n, "targets for the rows of x");
    if let Some(target) = targets.iter().find(|t| **t as usize >= v) {
        return Err(Error::Run(format!("target token {target} is outside the model's vocabulary of {v}")));
    }
    if let Some(dx) = &gradients.dx {
        expect("linear_cross_entropy", &[("x", x, &[n, c]), ("dx", dx, &[n, c])])?;
    }
    if let Some(dw) = &gradients.dw {
        expect_f32("linear_cross_entropy", x.device(), &[("dw", dw, &[v, c])])?;
    }
    scratch.resize(&[CHUNK.min(n), v])?;
    let mut nll = vec![0.0; n];
    match x.device() {
        Device::Cuda(_) => return Err(crate::device::unported()),
        Device::Cpu => {
            let grads = (gradients.dx.map(Tensor::f32_mut), gradients.dw.map(Tensor::f32_mut));
            let logits = scratch.f32_mut();
            match w.dtype() {
                DType::Bf16 => cpu::forward(&mut nll, grads, logits, x.f32(), w.bf16(), targets, weight),
                _ => cpu::forward(&mut nll, grads, logits, x.f32(), w.f32(), targets, weight),
            }
        }
    }
    Ok(nll)
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::CHUNK;
    use crate::device::product::{Store, View, ViewMut};
    use crate::ops::real::{Factor, Real};

    /// See [`super::forward`].
    pub fn forward<T: Real, W: Factor<T>>(
        nll: &mut [T],
        (mut dx, mut dw): (Option<&mut [T]>, Option<&mut [T]>),
        logits: &mut [T],
        x: &[T],
        w: &[W],
        targets: &[u32],
        weight: f32,
    ) {
        let n = targets.len();
        let c = x.len() / n.max(1);
        let v = w.len() / c.max(1);
        let w = View::new(w, v, c);
        for first in (0..n).step_by(CHUNK) {
            let rows = CHUNK.min(n - first);
            let x = View::new(&x[first * c..(first + rows) * c], rows, c);
            let logits = &mut logits[..rows * v];
            W::multiply(ViewMut::new(logits, rows, v), Store::Overwrite, 1.0, x, w.t());
            let sums = nll[first..first + rows].par_iter_mut().zip(&targets[first..]);
            logits.par_chunks_mut(v).zip(sums).for_each(|(row, (nll, target))| {
                *nll = row_gradient(row, *target as usize, T::of(weight));
            });
            let logits = View::new(logits, rows, v);
            if let Some(dx) = &mut dx {
                let dx = ViewMut::new(&mut dx[first * c..(first + rows) * c], rows, c);
                W::multiply(dx, Store::Overwrite, 1.0, logits, w);
            }
            if let Some(dw) = &mut dw {
                T::multiply(ViewMut::new(dw, v, c), Store::Accumulate, 1.0, logits.t(), x);
            }
        }
    }

    /// Returns the row's nll and leaves weight · (softmax − onehot) in it.
    fn row_gradient<T: Real>(row: &mut [T], target: usize, weight: T) -> T {
        let at_target = row[target];
        let max = row.iter().fold(row[0], |a, b| if *b > a { *b } else { a });
        let mut lanes = [T::default(); 16];
        for chunk in row.chunks_mut(16) {
            for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                *x = (*x - max).exp();
                *lane += *x;
            }
        }
        let sum: T = lanes.into_iter().sum();
        let factor = weight / sum;
        for x in row.iter_mut() {
            *x = *x * factor;
        }
        row[target] -= weight;
        max + sum.ln() - at_target
    }
}
