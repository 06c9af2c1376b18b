//! Normal random numbers, generated on the GPU because generating them on the host would take minutes.

use super::launch::Variant;
use super::philox::Key;
use super::{DType, Device, Tensor};
use crate::error::Result;

/// The kernel for a type.
pub fn variants(dtype: DType) -> [Variant; 1] {
    [Variant::new("random", "random_normal", &[dtype.define()], 256)]
}

/// Overwrites `n` elements of `to`, on a GPU, from `first` on: N(0, `deviation`²); the i-th depends on (`key`, i) alone.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
pub fn normal(to: &mut Tensor, first: usize, n: usize, key: Key, deviation: f32) -> Result<()> {
    let Device::Cuda(gpu) = to.device() else { panic!("random numbers for a host tensor are made there") };
    assert!(first + n <= to.len(), "{n} elements from {first} on of {}", to.len());
    let [variant] = variants(to.dtype());
    let at = to.pointer() + (first * to.dtype().size()) as u64;
    let args = [at.into(), key.0[0].into(), key.0[1].into(), deviation.into(), (n as u64).into()];
    // SAFETY: random_normal(real *y, u32 k0, u32 k1, float scale, u64 n); `to` has room, as checked.
    unsafe { variant.launch_over(gpu, n, 4, &args) }
}
