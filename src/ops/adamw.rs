//! `AdamW`: one step of Adam with decoupled weight decay and bias correction.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
//! p ← p (1 − lr · decay) − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//! Shapes: p, m, v, g alike, any shape. Source: Loshchilov & Hutter, arXiv 1711.05101, in the form and order of
//! `torch.optim.AdamW`.

use crate::device::tensor::{expect_device, expect_dtype, expect_f32, expect_shape};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;

/// The scalars of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// β₁ and β₂.
    pub betas: [f32; 2],
    /// ε.
    pub eps: f32,
    /// Decoupled weight decay.
    pub decay: f32,
    /// t, counted from 1.
    pub step: u32,
}

/// One step: updates `p`, `m` and `v`; the gradient is `scale · g` (clipping). `copy` receives p rounded, where ops
/// compute with that.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn step(
    [p, m, v]: [&mut Tensor; 3],
    copy: Option<&mut Tensor>,
    g: &Tensor,
    scale: f32,
    adamw: AdamW,
) -> Result<()> {
    let shape = g.shape();
    expect_f32("adamw", g.device(), &[("p", p, shape), ("m", m, shape), ("v", v, shape), ("g", g, shape)])?;
    if let Some(copy) = &copy {
        expect_shape("adamw", "copy", copy, shape)?;
        expect_device("adamw", "copy", copy, g.device())?;
        expect_dtype("adamw", "copy", copy, DType::Bf16)?;
    }
    match g.device() {
        Device::Cuda(_) => return Err(crate::device::unported()),
        Device::Cpu => {
            cpu::step([p.f32_mut(), m.f32_mut(), v.f32_mut()], g.f32(), scale, adamw);
            if let Some(copy) = copy {
                *copy = p.to_bf16();
            }
        }
    }
    Ok(())
}

/// Σ g² over all of `gradients`, in double precision and in a fixed order: the square of the global norm.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
pub fn square_sum(gradients: &[&Tensor]) -> Result<f64> {
    let Some(device) = gradients.first().map(|g| g.device()) else { return Ok(0.0) };
    for g in gradients {
        expect_f32("square_sum", device, &[("g", g, g.shape())])?;
    }
    match device {
        Device::Cpu => Ok(gradients.iter().map(|g| cpu::square_sum(g.f32())).sum()),
        Device::Cuda(_) => Err(crate::device::unported()),
    }
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::AdamW;

    const CHUNK: usize = 1 << 14;

    /// See [`super::step`].
    pub fn step([p, m, v]: [&mut [f32]; 3], g: &[f32], scale: f32, adamw: AdamW) {
        let [b1, b2] = adamw.betas;
        // The corrections lose digits in f32 when β₂ is near 1.
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(adamw.step as i32);
        let rate = (f64::from(adamw.lr) / correction(b1)) as f32;
        let root = correction(b2).sqrt() as f32;
        let keep = 1.0 - adamw.lr * adamw.decay;
        let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        p.par_chunks_mut(CHUNK).zip(moments).zip(g.par_chunks(CHUNK)).for_each(|((p, (m, v)), g)| {
            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                let g = g * scale;
                *m += (g - *m) * (1.0 - b1);
                *v = *v * b2 + g * g * (1.0 - b2);
                *p = *p * keep - rate * (*m / (v.sqrt() / root + adamw.eps));
            }
        });
    }

    /// See [`super::square_sum`].
    pub fn square_sum(g: &[f32]) -> f64 {
        let parts: Vec<f64> =
            g.par_chunks(CHUNK).map(|g| g.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()).collect();
        parts.into_iter().sum()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Two steps by the formula, in double precision.
        #[test]
        fn follows_the_formula() {
            let gradients = [[0.5f32, -2.0, 1e-3], [-0.25, 0.5, 4e-3]];
            let (mut p, mut m, mut v) = ([1.0f32, -0.5, 0.25], [0.0f32; 3], [0.0f32; 3]);
            let (mut p64, mut m64, mut v64) = ([1.0f64, -0.5, 0.25], [0.0f64; 3], [0.0f64; 3]);
            for (t, g) in (1..).zip(&gradients) {
                let adamw = AdamW { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1, step: t };
                step([&mut p, &mut m, &mut v], g, 2.0, adamw);
                for i in 0..3 {
                    let g = 2.0 * f64::from(g[i]);
                    m64[i] = 0.9 * m64[i] + 0.1 * g;
                    v64[i] = 0.999 * v64[i] + 0.001 * g * g;
                    let (mh, vh) =
                        (m64[i] / (1.0 - 0.9f64.powi(t as i32)), v64[i] / (1.0 - 0.999f64.powi(t as i32)));
                    p64[i] = p64[i] * (1.0 - 0.01 * 0.1) - 0.01 * mh / (vh.sqrt() + 1e-8);
                    assert!((f64::from(p[i]) - p64[i]).abs() < 1e-6, "step {t}, element {i}");
                }
            }
        }
    }
}
