//! Memory on the GPU that an op needs between its launches, kept from call to call.

use std::sync::{Mutex, PoisonError};

use super::gpu::Gpu;
use super::memory::purpose;
use super::{DType, Device, Tensor};
use crate::error::Result;

/// Calls `f` with a tensor of this shape, whose elements are unspecified. All launches share one stream, so what one call
/// leaves behind is read before the next call overwrites it. Not for launches that a graph replays: the memory moves when
/// a later call asks for more.
///
/// # Errors
/// Those of `f`; [`Error::Memory`](crate::Error::Memory) if too little is free.
pub fn with<R>(
    gpu: Gpu,
    dtype: DType,
    shape: &[usize],
    f: impl FnOnce(&mut Tensor) -> Result<R>,
) -> Result<R> {
    assert!(!gpu.is_recording(), "memory that moves has no place in a recorded graph");
    static SPACE: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());
    let space = || SPACE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = space();
    let found = all.iter().rposition(|tensor| tensor.dtype() == dtype).map(|i| all.swap_remove(i));
    // `f` may ask for more.
    drop(all);
    let new = || purpose("workspace", || Tensor::empty_on(Device::Cuda(gpu), dtype));
    let mut tensor = found.unwrap_or_else(new);
    let result = tensor.resize(shape).and_then(|()| f(&mut tensor));
    space().push(tensor);
    result
}
