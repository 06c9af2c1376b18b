//! Gated linear unit: `y = a(gate) · up`, with the gate's activation a.
//!
//! ```text
//! a(x) = x · σ(z),   a'(x) = σ + x · σ · (1 − σ) · z',   σ = 1 / (1 + e^−z)
//! silu: z = x            gelu (tanh form): z = 2 √(2/π) (x + 0.044715 x³), since ½ (1 + tanh u) = σ(2u)
//! ```
//! Shapes: y (N, F); gate_up (N, 2F), the gate in the first half of a row. Source: Shazeer, arXiv 2002.05202.

use crate::device::tensor::expect;
use crate::device::{Device, Tensor};
use crate::error::Result;

pub use cuda::variants;

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Gaussian error linear unit in the tanh form: Gemma.
    GeluTanh,
    /// Sigmoid linear unit: Qwen.
    Silu,
}

/// `y` (N, F) from `gate_up` (N, 2F).
///
/// # Errors
/// A shape or element type that disagrees.
pub fn forward(y: &mut Tensor, gate_up: &Tensor, activation: Activation) -> Result<()> {
    let [n, f] = y.dims()?;
    expect("glu", &[("y", y, &[n, f]), ("gate_up", gate_up, &[n, 2 * f])])?;
    match y.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, y, gate_up, activation)?,
        Device::Cpu => cpu::forward(y.f32_mut(), gate_up.f32(), f, activation),
    }
    Ok(())
}

/// Gradient of [`forward`]: overwrites `dgate_up` (N, 2F).
///
/// # Errors
/// A shape or element type that disagrees.
pub fn backward(dgate_up: &mut Tensor, dy: &Tensor, gate_up: &Tensor, activation: Activation) -> Result<()> {
    let [n, f] = dy.dims()?;
    let wide: &[usize] = &[n, 2 * f];
    expect("glu backward", &[("dgate_up", dgate_up, wide), ("dy", dy, &[n, f]), ("gate_up", gate_up, wide)])?;
    match dy.device() {
        Device::Cuda(gpu) => cuda::backward(gpu, dgate_up, dy, gate_up, activation)?,
        Device::Cpu => cpu::backward(dgate_up.f32_mut(), dy.f32(), gate_up.f32(), f, activation),
    }
    Ok(())
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::Activation;
    use crate::ops::real::Real;

    /// 2 √(2/π).
    const SCALE: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;

    /// (a(x), a'(x)).
    #[inline(always)]
    fn value_and_slope<T: Real>(x: T, activation: Activation) -> (T, T) {
        let one = T::of(1.0);
        let (z, dz) = match activation {
            Activation::Silu => (x, one),
            Activation::GeluTanh => {
                let (scale, cubic) = (T::of(SCALE), T::of(CUBIC) * x * x);
                (scale * (x + cubic * x), scale * (one + T::of(3.0) * cubic))
            }
        };
        let sigma = one / (one + (-z).exp());
        (x * sigma, sigma + x * sigma * (one - sigma) * dz)
    }

    /// See [`super::forward`].
    pub fn forward<T: Real>(y: &mut [T], gate_up: &[T], f: usize, activation: Activation) {
        y.par_chunks_mut(f).zip(gate_up.par_chunks(2 * f)).for_each(|(y, gate_up)| {
            let (gate, up) = gate_up.split_at(f);
            for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                *y = value_and_slope(*gate, activation).0 * *up;
            }
        });
    }

    /// See [`super::backward`].
    pub fn backward<T: Real>(dgate_up: &mut [T], dy: &[T], gate_up: &[T], f: usize, activation: Activation) {
        let inputs = dy.par_chunks(f).zip(gate_up.par_chunks(2 * f));
        dgate_up.par_chunks_mut(2 * f).zip(inputs).for_each(|(dgate_up, (dy, gate_up))| {
            let ((dgate, dup), (gate, up)) = (dgate_up.split_at_mut(f), gate_up.split_at(f));
            for i in 0..f {
                let (value, slope) = value_and_slope(gate[i], activation);
                dgate[i] = dy[i] * up[i] * slope;
                dup[i] = dy[i] * value;
            }
        });
    }
}

mod cuda {
    use super::Activation;
    use crate::device::launch::Variant;
    use crate::device::{DType, Gpu, Tensor};
    use crate::error::Result;

    fn variant(function: &'static str, dtype: DType, f: usize, activation: Activation) -> Variant {
        let gelu = i64::from(activation == Activation::GeluTanh);
        Variant::new("glu", function, &[dtype.define(), ("F", f as i64), ("GELU", gelu)], 256)
    }

    /// The kernels for rows of `f` elements of a type.
    pub fn variants(dtype: DType, f: usize, activation: Activation) -> Vec<Variant> {
        ["glu_forward", "glu_backward"].map(|function| variant(function, dtype, f, activation)).to_vec()
    }

    /// The kernel for all of `y`, and the vectors of `y`, each of which a thread takes.
    fn by_vector(function: &'static str, y: &Tensor, activation: Activation) -> Result<(Variant, usize)> {
        let ([n, f], dtype) = (y.dims()?, y.dtype());
        Ok((variant(function, dtype, f, activation), n * (f / dtype.width(f))))
    }

    /// See [`super::forward`].
    pub fn forward(gpu: Gpu, y: &mut Tensor, gate_up: &Tensor, activation: Activation) -> Result<()> {
        let (variant, vectors) = by_vector("glu_forward", y, activation)?;
        let n = y.shape()[0].into();
        // SAFETY: glu_forward(real *y, const real *gate_up, u32 n); shapes were checked.
        unsafe { variant.launch_over(gpu, vectors, 1, &[y.into(), gate_up.into(), n]) }
    }

    /// See [`super::backward`].
    pub fn backward(
        gpu: Gpu,
        dgate_up: &mut Tensor,
        dy: &Tensor,
        gate_up: &Tensor,
        activation: Activation,
    ) -> Result<()> {
        let (variant, vectors) = by_vector("glu_backward", dy, activation)?;
        let args = [dgate_up.into(), dy.into(), gate_up.into(), dy.shape()[0].into()];
        // SAFETY: glu_backward(real *dgate_up, const real *dy, const real *gate_up, u32 n); shapes were checked.
        unsafe { variant.launch_over(gpu, vectors, 1, &args) }
    }
}
