//! [`Staging`]: small host-to-GPU copies. The bytes are first copied into pinned memory, so that the copy to the GPU can be
//! queued on the stream and the host does not wait for it.

use std::ptr;

use cudarc::driver::{result, sys};

use super::driver::failed;
use crate::error::Result;

/// Bytes of pinned memory.
const SIZE: usize = 8 << 20;
/// The largest copy that is staged: for a larger one, waiting costs no more than the extra copy.
const MOST: usize = 1 << 20;

/// Pinned memory, filled from start to end and then from the start again.
#[derive(Debug)]
pub(super) struct Staging {
    memory: *mut u8,
    /// Bytes filled since the last start; their copies are queued or done.
    used: usize,
}

// SAFETY: the memory is this value's own, and any thread may use pinned memory.
unsafe impl Send for Staging {}

impl Staging {
    /// Allocates the memory. It is never freed, like the context that it belongs to.
    pub(super) fn new() -> Result<Self> {
        // SAFETY: as cuMemHostAlloc.
        let memory = unsafe { result::malloc_host(SIZE, 0) }.map_err(|e| failed("pinned memory", e))?;
        Ok(Self { memory: memory.cast(), used: 0 })
    }

    /// Queues a copy of `bytes` to the device address `to`. Returns false, and does nothing, if there are too many bytes.
    ///
    /// # Safety
    /// As many bytes at `to` must be the caller's to overwrite.
    pub(super) unsafe fn send(&mut self, stream: sys::CUstream, to: u64, bytes: &[u8]) -> Result<bool> {
        if bytes.len() > MOST {
            return Ok(false);
        }
        if self.used + bytes.len() > SIZE {
            // SAFETY: as cuStreamSynchronize. After it, every staged copy has arrived.
            unsafe { result::stream::synchronize(stream) }.map_err(|e| failed("waiting for the GPU", e))?;
            self.used = 0;
        }
        // SAFETY: the range lies inside the memory, and no queued copy reads it; the caller answers for `to`.
        unsafe {
            let staged = self.memory.add(self.used);
            ptr::copy_nonoverlapping(bytes.as_ptr(), staged, bytes.len());
            let staged = std::slice::from_raw_parts(staged, bytes.len());
            result::memcpy_htod_async(to, staged, stream).map_err(|e| failed("copying to the GPU", e))?;
        }
        self.used += bytes.len();
        Ok(true)
    }
}
