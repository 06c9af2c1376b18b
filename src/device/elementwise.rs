//! Element-wise operations on whole tensors on the GPU (`kernels/tensor.cu`).

use super::launch::Variant;
use super::tensor::{expect_device, expect_dtype, expect_shape};
use super::{DType, Device, Gpu, Tensor};
use crate::error::Result;

fn card(y: &Tensor) -> Gpu {
    let Device::Cuda(gpu) = y.device() else { panic!("element-wise work on a host tensor") };
    gpu
}

fn variant(function: &'static str, dtype: DType) -> Variant {
    Variant::new("tensor", function, &[dtype.define()], 256)
}

/// The kernels for a type.
pub fn variants(dtype: DType) -> [Variant; 4] {
    ["tensor_narrow", "tensor_widen", "tensor_fill", "tensor_add"].map(|function| variant(function, dtype))
}

/// `y` ← `x` in the element type of `y`: f32 to bf16, rounded to nearest, ties to even, or back.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Place`](crate::Error::Place) or
/// [`Error::DType`](crate::Error::DType) if they disagree.
pub fn cast(y: &mut Tensor, x: &Tensor) -> Result<()> {
    let gpu = card(y);
    expect_shape("cast", "x", x, y.shape())?;
    expect_device("cast", "x", x, y.device())?;
    let function = match (x.dtype(), y.dtype()) {
        (DType::F32, DType::Bf16) => "tensor_narrow",
        (DType::Bf16, DType::F32) => "tensor_widen",
        (_, same) => {
            expect_dtype("cast", "x", x, same)?;
            return y.copy_from(x);
        }
    };
    let n = y.len();
    let (variant, args) = (variant(function, y.dtype()), [y.into(), x.into(), (n as u64).into()]);
    // SAFETY: tensor_narrow(bf16 *y, const float *x, u64 n), tensor_widen(float *y, const bf16 *x, u64 n); n elements each.
    unsafe { variant.launch_over(gpu, n, 8, &args) }
}

/// Every element of `y`, f32 or bf16, becomes `value`.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
pub fn fill(y: &mut Tensor, value: f32) -> Result<()> {
    let (gpu, n) = (card(y), y.len());
    let variant = variant("tensor_fill", y.dtype());
    let args = [y.into(), value.into(), (n as u64).into()];
    // SAFETY: tensor_fill(real *y, float value, u64 n); y has n elements.
    unsafe { variant.launch_over(gpu, n, 8, &args) }
}

/// `y` ← `y` + `scale` · `x`.
///
/// # Errors
/// As [`cast`].
pub fn add(y: &mut Tensor, x: &Tensor, scale: f32) -> Result<()> {
    let (gpu, n) = (card(y), y.len());
    expect_shape("add", "x", x, y.shape())?;
    expect_device("add", "x", x, y.device())?;
    expect_dtype("add", "x", x, y.dtype())?;
    let variant = variant("tensor_add", y.dtype());
    let args = [y.into(), x.into(), scale.into(), (n as u64).into()];
    // SAFETY: tensor_add(real *y, const real *x, float scale, u64 n); n elements each.
    unsafe { variant.launch_over(gpu, n, 8, &args) }
}
