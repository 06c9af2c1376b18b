//! How much memory the cache of keys and values may take.

use crate::device::Device;
use crate::error::Result;
use crate::model::transformer::Transformer;

/// Bytes that the cache of keys and values may take: `allowed`, or by default 2 GiB of the host's memory, or all free memory of
/// the GPU less a reserve.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
pub(super) fn cache_bytes(model: &Transformer, allowed: Option<usize>) -> Result<usize> {
    /// Left for activations, logits and the workspace of kernels.
    const RESERVE: usize = 3 << 30;
    match (allowed, model.place.device) {
        (Some(bytes), _) => Ok(bytes),
        (None, Device::Cpu) => Ok(2 << 30),
        (None, Device::Cuda(gpu)) => Ok(gpu.free_memory()?.0.saturating_sub(RESERVE)),
    }
}
