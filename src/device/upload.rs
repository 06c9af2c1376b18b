//! [`Upload`]: large host-to-GPU copies through two pinned buffers: while one is copied, all cores fill the other.

use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::{AnyBitPattern, NoUninit, cast_slice_mut};
use cudarc::driver::{result, sys};
use rayon::prelude::*;

use super::driver::failed;
use super::gpu::Gpu;
use super::tensor::Tensor;
use crate::error::Result;

/// Bytes of one part.
const STAGE: usize = 64 << 20;
/// Bytes that one thread prepares at a time.
const PIECE: usize = 1 << 20;

/// Two pinned buffers and the stream on which they are copied.
pub struct Upload {
    gpu: Gpu,
    stream: sys::CUstream,
    stages: [Stage; 2],
    /// The stage to be filled next.
    next: usize,
}

struct Stage {
    memory: *mut u8,
    /// Recorded after the last copy out of the stage.
    arrived: sys::CUevent,
}

impl Upload {
    /// Allocates the buffers.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the driver refuses.
    pub fn new(gpu: Gpu) -> Result<Self> {
        let _turn = gpu.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| failed("cuStreamCreate", e))?;
        let stage = || {
            // SAFETY: as cuMemHostAlloc; freed in `drop`.
            let memory = unsafe { result::malloc_host(STAGE, 0) }.map_err(|e| failed("pinned memory", e))?;
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let arrived = result::event::create(flags).map_err(|e| failed("cuEventCreate", e))?;
            Ok(Stage { memory: memory.cast(), arrived })
        };
        Ok(Self { gpu, stream, stages: [stage()?, stage()?], next: 0 })
    }

    /// Overwrites `n` elements of `to` from `first` on. `fill(i, part)` writes the elements from the i-th on and returns
    /// whether they are valid; it is called on many threads at once. Returns whether all were. Copies may still be in flight
    /// on return: [`finish`](Self::finish) waits for them.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
    pub fn write<T: NoUninit + AnyBitPattern + Send>(
        &mut self,
        to: &mut Tensor,
        first: usize,
        n: usize,
        fill: impl Fn(usize, &mut [T]) -> bool + Sync,
    ) -> Result<bool> {
        let size = size_of::<T>();
        assert_eq!(size, to.dtype().size(), "the size of an element");
        assert!(first + n <= to.len(), "{n} elements from {first} on of {}", to.len());
        let good = AtomicBool::new(true);
        for start in (0..n).step_by(STAGE / size) {
            let part = (n - start).min(STAGE / size);
            let stage = &self.stages[self.next];
            let turn = self.gpu.bind()?;
            // SAFETY: as cuEventSynchronize: the last copy out of the stage is over before it is written again.
            unsafe { result::event::synchronize(stage.arrived) }
                .map_err(|e| failed("copying to the GPU", e))?;
            drop(turn);
            // SAFETY: STAGE bytes of pinned memory that is ours, that nothing reads now, and that any bytes may fill.
            let bytes = unsafe { std::slice::from_raw_parts_mut(stage.memory, part * size) };
            let values: &mut [T] = cast_slice_mut(bytes);
            values.par_chunks_mut(PIECE / size).enumerate().for_each(|(piece, values)| {
                if !fill(start + piece * (PIECE / size), values) {
                    good.store(false, Ordering::Relaxed);
                }
            });
            let target = to.pointer() + ((first + start) * size) as u64;
            let _turn = self.gpu.bind()?;
            // SAFETY: as cuMemcpyHtoDAsync and cuEventRecord: the tensor has room (checked above), and the stage is not
            // written before the event.
            unsafe {
                result::memcpy_htod_async(target, bytes, self.stream)
                    .map_err(|e| failed("copying to the GPU", e))?;
                result::event::record(stage.arrived, self.stream).map_err(|e| failed("cuEventRecord", e))?;
            }
            self.next = 1 - self.next;
        }
        Ok(good.into_inner())
    }

    /// Waits until every copy has arrived.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
    pub fn finish(self) -> Result<()> {
        let _turn = self.gpu.bind()?;
        // SAFETY: as cuStreamSynchronize.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("copying to the GPU", e))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // A failure here was already reported by an earlier call.
        let Ok(_turn) = self.gpu.bind() else { return };
        // SAFETY: as cuStreamSynchronize, cuMemFreeHost, cuEventDestroy and cuStreamDestroy, each once, when no copy is in
        // flight any more.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for stage in &self.stages {
                let _ = result::free_host(stage.memory.cast());
                let _ = result::event::destroy(stage.arrived);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}
