//! Moves rows along a direction: adds the direction, or erases their component along it.
//!
//! ```text
//! add    x_n ← x_n + dose · v
//! erase  x_n ← x_n − (x_n · v) v      v of length 1
//! ```
//! Shapes: x (N, C); v (C), f32.

use crate::device::tensor::{expect, expect_f32};
use crate::device::{Device, Tensor};
use crate::error::Result;

pub use cuda::variants;

/// Adds `dose` · `v` (C) to every row of `x` (N, C).
///
/// # Errors
/// A shape or element type that disagrees.
pub fn add(x: &mut Tensor, v: &Tensor, dose: f32) -> Result<()> {
    check(x, v)?;
    match x.device() {
        Device::Cuda(gpu) => cuda::launch(gpu, x, v, dose, 0.0),
        Device::Cpu => {
            cpu::add(x.f32_mut(), v.f32(), dose);
            Ok(())
        }
    }
}

/// Erases the component along `v` (C), of length 1, from every row of `x` (N, C).
///
/// # Errors
/// A shape or element type that disagrees.
pub fn erase(x: &mut Tensor, v: &Tensor) -> Result<()> {
    check(x, v)?;
    match x.device() {
        Device::Cuda(gpu) => cuda::launch(gpu, x, v, 0.0, 1.0),
        Device::Cpu => {
            cpu::erase(x.f32_mut(), v.f32());
            Ok(())
        }
    }
}

fn check(x: &Tensor, v: &Tensor) -> Result<()> {
    let [n, c] = x.dims()?;
    expect("steer", &[("x", x, &[n, c])])?;
    expect_f32("steer", x.device(), &[("v", v, &[c])])
}

/// The definition.
pub mod cpu {
    /// See [`super::add`].
    pub fn add(x: &mut [f32], v: &[f32], dose: f32) {
        for x in x.chunks_exact_mut(v.len()) {
            for (x, v) in x.iter_mut().zip(v) {
                *x += dose * v;
            }
        }
    }

    /// See [`super::erase`].
    pub fn erase(x: &mut [f32], v: &[f32]) {
        for x in x.chunks_exact_mut(v.len()) {
            let along: f32 = x.iter().zip(v).map(|(x, v)| x * v).sum();
            for (x, v) in x.iter_mut().zip(v) {
                *x -= along * v;
            }
        }
    }
}

mod cuda {
    use crate::device::launch::Variant;
    use crate::device::{DType, Gpu, Tensor};
    use crate::error::Result;

    /// The kernel for rows of a type.
    pub fn variants(real: DType) -> [Variant; 1] {
        [Variant::new("steer", "steer_rows", &[real.define()], 256)]
    }

    /// x ← x + (dose − erased · x·v) v.
    pub fn launch(gpu: Gpu, x: &mut Tensor, v: &Tensor, dose: f32, erased: f32) -> Result<()> {
        let [n, c] = x.dims()?;
        if n == 0 {
            return Ok(());
        }
        let [variant] = variants(x.dtype());
        let args = [x.into(), v.into(), c.into(), dose.into(), erased.into()];
        // SAFETY: steer_rows(real *x, const float *v, u32 c, float dose, float erased); shapes were checked.
        unsafe { variant.launch(gpu, n, &args) }
    }
}
