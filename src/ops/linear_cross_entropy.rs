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

pub use cuda::variants;

/// Rows whose logits exist at the same time on the CPU.
pub const CHUNK: usize = 128;

/// Rows whose logits exist at the same time.
pub fn chunk(device: Device) -> usize {
    if device == Device::Cpu { CHUNK } else { GPU_CHUNK }
}

/// [`chunk`] on a GPU.
pub const GPU_CHUNK: usize = cuda::CHUNK;

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
    scratch.resize(&[chunk(x.device()).min(n), v])?;
    let mut nll = vec![0.0; n];
    match x.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, &mut nll, gradients, scratch, [x, w], targets, weight)?,
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

mod cuda {
    use super::Gradients;
    use crate::device::gemm::{Part, View, multiply};
    use crate::device::gpu::Facts;
    use crate::device::launch::{Arg, Variant};
    use crate::device::product::Store;
    use crate::device::{DType, Gpu, Tensor, workspace};
    use crate::error::Result;
    use crate::ops::slices::Slices;

    /// Rows whose logits exist at the same time.
    pub const CHUNK: usize = 512;

    fn variant(slices: Slices, real: DType) -> Variant {
        slices.variant("cross_entropy", "cross_entropy_rows", real)
    }

    /// The kernels for a vocabulary of `v`, on a card: the loss alone, and with a gradient of a type.
    pub fn variants(facts: &Facts, real: DType, v: usize) -> Vec<Variant> {
        let mut all = vec![variant(Slices::of(facts, v), DType::F32), variant(Slices::of(facts, v), real)];
        all.dedup();
        all
    }

    /// See [`super::forward`].
    pub fn forward(
        gpu: Gpu,
        nll: &mut [f32],
        mut gradients: Gradients,
        logits: &mut Tensor,
        [x, w]: [&Tensor; 2],
        targets: &[u32],
        weight: f32,
    ) -> Result<()> {
        let ([n, _], [v, _]) = (x.dims()?, w.dims()?);
        if n == 0 {
            return Ok(());
        }
        // nll, lse and targets, 4 bytes a row each.
        workspace::with(gpu, DType::U32, &[3, n], |rows| {
            rows.write(2 * n, targets)?;
            for first in (0..n).step_by(CHUNK) {
                let range = first..n.min(first + CHUNK);
                logits.resize(&[range.len(), v])?;
                let part = Part::new(View::new(x).rows(range.clone()), View::new(w).t());
                multiply(gpu, logits, Store::Overwrite, 1.0, &[part])?;
                let place = [0, n, 2 * n].map(|row| rows.pointer() + 4 * (row + first) as u64);
                if gradients.dx.is_none() && gradients.dw.is_none() {
                    losses(gpu, place, None, logits, weight)?;
                    continue;
                }
                workspace::with(gpu, x.dtype(), &[range.len(), v], |dlogits| {
                    losses(gpu, place, Some(&mut *dlogits), logits, weight)?;
                    if let Some(dx) = &mut gradients.dx {
                        let part = Part { at: [first, 0], ..Part::new(View::new(dlogits), View::new(w)) };
                        multiply(gpu, dx, Store::Overwrite, 1.0, &[part])?;
                    }
                    if let Some(dw) = &mut gradients.dw {
                        let part = Part::new(View::new(dlogits).t(), View::new(x).rows(range.clone()));
                        multiply(gpu, dw, Store::Accumulate, 1.0, &[part])?;
                    }
                    Ok(())
                })?;
            }
            rows.resize(&[n])?;
            for (nll, bits) in nll.iter_mut().zip(rows.read::<u32>()?) {
                *nll = f32::from_bits(bits);
            }
            Ok(())
        })
    }

    /// nll and lse of a chunk of logits, and their gradient.
    fn losses(
        gpu: Gpu,
        [nll, lse, targets]: [u64; 3],
        dlogits: Option<&mut Tensor>,
        logits: &Tensor,
        weight: f32,
    ) -> Result<()> {
        let [n, v] = logits.dims()?;
        let real = dlogits.as_ref().map_or(DType::F32, |d| d.dtype());
        let slices = Slices::of(gpu.facts(), v);
        let dlogits = dlogits.map_or(Arg::Pointer(0), Into::into);
        let args = [
            Arg::Pointer(nll),
            Arg::Pointer(lse),
            dlogits,
            logits.into(),
            Arg::Pointer(targets),
            weight.into(),
        ];
        // SAFETY: cross_entropy_rows(float *nll, float *lse, real *dlogits, const float *logits, const u32 *targets, float
        // weight); n rows each, targets below V as the op checked.
        unsafe { variant(slices, real).launch(gpu, slices.blocks(n), &args) }
    }
}
