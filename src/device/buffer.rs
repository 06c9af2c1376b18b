//! [`Buffer`]: memory on the GPU that grows on demand, and copies into and out of it.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::driver::failed;
use super::gpu::Gpu;
use super::{memory, turn};
use crate::error::{Error, Result};

/// Memory that grows on demand.
#[derive(Debug)]
pub(super) struct Buffer {
    gpu: Gpu,
    purpose: &'static str,
    /// None while there are no bytes. A recorded graph holds a share of each allocation it uses.
    memory: Option<Arc<Allocation>>,
}

/// Memory on the card, freed when dropped.
#[derive(Debug)]
struct Allocation {
    gpu: Gpu,
    pointer: u64,
    bytes: usize,
    purpose: &'static str,
}

impl Allocation {
    fn new(gpu: Gpu, bytes: usize, purpose: &'static str) -> Result<Self> {
        let _turn = gpu.bind()?;
        // SAFETY: as cuMemAlloc.
        let pointer = unsafe { result::malloc_sync(bytes) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = gpu.free_memory().map_or(0, |(free, _)| free);
                Error::Memory { what: purpose, needed: bytes, free, used: gpu.memory().used }
            }
            _ => failed("cuMemAlloc", error),
        })?;
        gpu.ledger().add(purpose, bytes);
        Ok(Self { gpu, pointer, bytes, purpose })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // A failure here means that the context is already lost, which the next call reports.
        if let Ok(_turn) = self.gpu.bind() {
            // SAFETY: as cuMemFree, which waits for the work that uses the memory; the pointer is ours, freed once.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
        self.gpu.ledger().remove(self.purpose, self.bytes);
    }
}

impl Buffer {
    /// No bytes yet.
    pub(super) fn empty(gpu: Gpu) -> Self {
        Self { gpu, purpose: memory::current_purpose(), memory: None }
    }

    pub(super) fn gpu(&self) -> Gpu {
        self.gpu
    }

    /// The address, for a launch. If a graph is being recorded, it keeps the allocation alive.
    pub(super) fn pointer(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| {
            turn::keep(memory);
            memory.pointer
        })
    }

    fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.bytes)
    }

    /// Makes room for `bytes` bytes; the content is lost if it must grow.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.bytes() {
            // The old memory goes first: both may not fit.
            self.memory = None;
            self.memory = Some(Arc::new(Allocation::new(self.gpu, bytes, self.purpose)?));
        }
        Ok(())
    }

    /// Sets the first bytes to `value`.
    pub(super) fn fill(&mut self, value: u8, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes(), "{bytes} of {} bytes", self.bytes());
        if bytes == 0 {
            return Ok(());
        }
        let _turn = self.gpu.bind()?;
        // SAFETY: as cuMemsetD8Async; the bytes are ours.
        unsafe { result::memset_d8_async(self.pointer(), value, bytes, self.gpu.stream()) }
            .map_err(|e| failed("clearing GPU memory", e))
    }

    /// Overwrites the first bytes with those of another buffer.
    pub(super) fn copy_from(&mut self, from: &Self, bytes: usize) -> Result<()> {
        assert!(
            bytes <= self.bytes() && bytes <= from.bytes(),
            "{bytes} of {} and {} bytes",
            self.bytes(),
            from.bytes()
        );
        if bytes == 0 {
            return Ok(());
        }
        let _turn = self.gpu.bind()?;
        // SAFETY: as cuMemcpyDtoDAsync; two allocations, both long enough.
        unsafe { result::memcpy_dtod_async(self.pointer(), from.pointer(), bytes, self.gpu.stream()) }
            .map_err(|e| failed("copying on the GPU", e))
    }

    /// Copies bytes from one offset to another; the ranges do not overlap.
    pub(super) fn copy_within(&mut self, from: usize, to: usize, bytes: usize) -> Result<()> {
        assert!(from.max(to) + bytes <= self.bytes(), "{bytes} bytes at {from} and {to} of {}", self.bytes());
        let _turn = self.gpu.bind()?;
        // SAFETY: as cuMemcpyDtoDAsync; both ranges are ours and apart.
        unsafe {
            let at = |offset: usize| self.pointer() + offset as u64;
            result::memcpy_dtod_async(at(to), at(from), bytes, self.gpu.stream())
        }
        .map_err(|e| failed("copying on the GPU", e))
    }

    /// Overwrites bytes from `offset` on with host bytes. A small copy goes through the staging buffer, without a wait.
    pub(super) fn upload(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(
            offset + bytes.len() <= self.bytes(),
            "{} bytes at {offset} of {}",
            bytes.len(),
            self.bytes()
        );
        assert!(!turn::is_recording(), "host values have no place in a recorded graph");
        if bytes.is_empty() {
            return Ok(());
        }
        let _turn = self.gpu.bind()?;
        let to = self.pointer() + offset as u64;
        if self.gpu.stage(to, bytes)? {
            return Ok(());
        }
        // SAFETY: as cuMemcpyHtoDAsync; the host bytes live until the wait below is over.
        unsafe { result::memcpy_htod_async(to, bytes, self.gpu.stream()) }
            .map_err(|e| failed("copying to the GPU", e))?;
        self.gpu.synchronize()
    }

    /// Copies the first bytes to the host.
    pub(super) fn download(&self, bytes: &mut [u8]) -> Result<()> {
        assert!(bytes.len() <= self.bytes(), "{} of {} bytes", bytes.len(), self.bytes());
        if bytes.is_empty() {
            return Ok(());
        }
        let _turn = self.gpu.bind()?;
        // SAFETY: as cuMemcpyDtoHAsync; the host bytes live until the wait below is over.
        unsafe { result::memcpy_dtoh_async(bytes, self.pointer(), self.gpu.stream()) }
            .map_err(|e| failed("copying from the GPU", e))?;
        self.gpu.synchronize()
    }
}
