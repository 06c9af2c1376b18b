//! Small host values on their way to the GPU: copied into pinned memory, from where they travel when their turn comes, so
//! that nobody waits.

use std::ptr;

use cudarc::driver::{result, sys};

use super::gpu::failed;
use crate::error::Result;

/// Bytes of pinned memory.
const SIZE: usize = 8 << 20;
/// Most bytes that are copied aside: beyond, waiting costs no more.
const MOST: usize = 1 << 20;

/// Pinned memory that is filled from its beginning to its end, again and again.
#[derive(Debug)]
pub(super) struct Staging {
    memory: *mut u8,
    /// Bytes on their way or gone.
    used: usize,
}

// SAFETY: the memory is this value's own, and any thread may use pinned memory.
unsafe impl Send for Staging {}

impl Staging {
    /// Allocates; never freed, as the context that it belongs to.
    pub(super) fn new() -> Result<Self> {
        // SAFETY: as cuMemHostAlloc.
        let memory = unsafe { result::malloc_host(SIZE, 0) }.map_err(|e| failed("pinned memory", e))?;
        Ok(Self { memory: memory.cast(), used: 0 })
    }

    /// Puts a copy to the device address `to` on the stream; false, and nothing done, if `bytes` are too many.
    ///
    /// # Safety
    /// As many bytes at `to` must be the caller's to overwrite.
    pub(super) unsafe fn send(&mut self, stream: sys::CUstream, to: u64, bytes: &[u8]) -> Result<bool> {
        if bytes.len() > MOST {
            return Ok(false);
        }
        if self.used + bytes.len() > SIZE {
            // SAFETY: as cuStreamSynchronize: what was copied aside has arrived.
            unsafe { result::stream::synchronize(stream) }.map_err(|e| failed("waiting for the GPU", e))?;
            self.used = 0;
        }
        // SAFETY: the range lies inside the memory, and nothing is on its way from it; the caller answers for `to`.
        unsafe {
            let aside = self.memory.add(self.used);
            ptr::copy_nonoverlapping(bytes.as_ptr(), aside, bytes.len());
            let aside = std::slice::from_raw_parts(aside, bytes.len());
            result::memcpy_htod_async(to, aside, stream).map_err(|e| failed("copying to the GPU", e))?;
        }
        self.used += bytes.len();
        Ok(true)
    }
}
