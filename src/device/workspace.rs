//! Memory on the GPU that an op needs between its launches, kept from call to call.

use std::sync::{Mutex, PoisonError};

use super::gpu::Gpu;
use super::launch::Arg;
use super::memory::purpose;
use super::turn;
use super::{DType, Device, Tensor};
use crate::error::Result;

/// Calls `f` with a tensor of this shape, whose elements are unspecified. All launches share one stream, so the launches of one
/// call are done with the memory before those of the next overwrite it. Not for launches that a graph replays: the memory
/// moves when a later call asks for more.
///
/// # Errors
/// Those of `f`; [`Error::Memory`](crate::Error::Memory) if too little is free.
pub fn with<R>(
    gpu: Gpu,
    dtype: DType,
    shape: &[usize],
    f: impl FnOnce(&mut Tensor) -> Result<R>,
) -> Result<R> {
    static SPACE: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());
    assert!(!turn::is_recording(), "a graph cannot hold memory that moves");
    let space = || SPACE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = space();
    let found = all.iter().rposition(|tensor| tensor.dtype() == dtype).map(|i| all.swap_remove(i));
    // Unlocked during `f`, which may ask for a tensor of its own.
    drop(all);
    let new = || purpose("workspace", || Tensor::empty_on(Device::Cuda(gpu), dtype));
    let mut tensor = found.unwrap_or_else(new);
    let result = tensor.resize(shape).and_then(|()| f(&mut tensor));
    space().push(tensor);
    result
}

/// The word in which `grid_sync` of `kernels/column_sums.cuh` counts the blocks that have arrived. Launches can share it because
/// they follow each other on one stream.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory) if nothing is free.
pub fn arrived(gpu: Gpu) -> Result<Arg<'static>> {
    static WORD: Mutex<Option<Tensor>> = Mutex::new(None);
    let mut word = turn::share(&WORD);
    if let Some(word) = &*word {
        return Ok(Arg::Pointer(word.pointer()));
    }
    let zero = purpose("workspace", || Tensor::zeros_on(Device::Cuda(gpu), DType::U32, &[1]))?;
    Ok(Arg::Pointer(word.insert(zero).pointer()))
}
