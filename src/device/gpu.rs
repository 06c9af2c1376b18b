//! [`Gpu`]: the one card that the engine uses: its context, its stream and its facts.

use std::cell::Cell;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::{result, sys};

use super::driver::failed;
use super::memory::Memory;
use super::staging::Staging;
use super::turn::{self, Turn};
use crate::error::{Error, Result};

/// The card. Every copy refers to the same card.
#[derive(Clone, Copy)]
pub struct Gpu(&'static Context);

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}
impl Eq for Gpu {}
impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.facts.name)
    }
}

/// The properties of the card, as the driver reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name, `NVIDIA H100 80GB HBM3` for instance.
    pub name: String,
    /// Compute capability, (9, 0) for instance.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes of second-level cache.
    pub cache: usize,
    /// Most bytes of shared memory a block.
    pub shared: u32,
    /// The driver's CUDA version, (13, 0) for instance.
    pub driver: (i32, i32),
}

impl Facts {
    /// A card of each architecture that kernels are compiled for, for use without a card.
    pub fn typical() -> [Self; 6] {
        let card =
            |name: &str, capability, multiprocessors, gib: usize, cache_mib: usize, shared_kib: u32| Self {
                name: name.to_owned(),
                capability,
                multiprocessors,
                memory: gib << 30,
                cache: cache_mib << 20,
                shared: shared_kib << 10,
                driver: (13, 0),
            };
        [
            card("A100 80GB", (8, 0), 108, 80, 40, 163),
            card("RTX A6000", (8, 6), 84, 48, 6, 99),
            card("L40S", (8, 9), 142, 48, 96, 99),
            card("H100 80GB", (9, 0), 132, 80, 50, 227),
            card("B200", (10, 0), 148, 180, 126, 227),
            card("RTX 5090", (12, 0), 170, 32, 96, 99),
        ]
    }

    /// Whether the card has the tensor-core and copy instructions of compute capability 9.0 (wgmma, TMA).
    pub fn is_hopper(&self) -> bool {
        self.capability == (9, 0)
    }
}

struct Context {
    handle: sys::CUcontext,
    stream: sys::CUstream,
    facts: Facts,
    memory: Mutex<Memory>,
    staging: Mutex<Staging>,
    /// Whether the host waits for every launch, so that a fault is reported with the kernel's name.
    synchronous: bool,
}

// SAFETY: the driver lets any thread use the handles inside and locks where it must. All work goes to one stream, in the
// order in which Rust's borrows of tensors let it be put there.
unsafe impl Send for Context {}
// SAFETY: as above; everything that changes is behind a lock.
unsafe impl Sync for Context {}

thread_local! {
    static BOUND: Cell<bool> = const { Cell::new(false) };
}

impl Gpu {
    /// The first card of the machine; the same one at every call.
    ///
    /// # Errors
    /// [`Error::Cuda`] saying what is missing: a driver, a card, or a card that is new enough.
    pub fn open() -> Result<Self> {
        static OPEN: OnceLock<std::result::Result<&'static Context, String>> = OnceLock::new();
        match OPEN
            .get_or_init(|| Context::open().map(|c| &*Box::leak(Box::new(c))).map_err(|e| e.to_string()))
        {
            Ok(context) => Ok(Self(context)),
            Err(what) => Err(Error::Cuda(what.clone())),
        }
    }

    /// The properties of the card, as the driver reports them.
    pub fn facts(self) -> &'static Facts {
        &self.0.facts
    }

    /// As [`Facts::is_hopper`].
    pub fn is_hopper(self) -> bool {
        self.0.facts.is_hopper()
    }

    pub(super) fn stream(self) -> sys::CUstream {
        self.0.stream
    }

    /// Makes the card current on this thread, after waiting while another thread records a graph. Every driver call needs it.
    pub(super) fn bind(self) -> Result<Turn> {
        let turn = turn::take();
        if !BOUND.get() {
            // SAFETY: as cuCtxSetCurrent; the context lives as long as the process.
            unsafe { result::ctx::set_current(self.0.handle) }.map_err(|e| failed("cuCtxSetCurrent", e))?;
            BOUND.set(true);
        }
        Ok(turn)
    }

    /// Waits until all work on the stream is done.
    ///
    /// # Errors
    /// [`Error::Cuda`] if any of it failed.
    pub fn synchronize(self) -> Result<()> {
        let _turn = self.bind()?;
        // SAFETY: as cuStreamSynchronize; the stream lives as long as the process.
        unsafe { result::stream::synchronize(self.0.stream) }.map_err(|e| failed("waiting for the GPU", e))
    }

    /// With `EMLAB_SYNCHRONOUS=1`, waits for the launch of `kernel` and reports its fault.
    pub(super) fn check_launch(self, kernel: &str) -> Result<()> {
        if !self.0.synchronous {
            return Ok(());
        }
        // SAFETY: as cuStreamSynchronize.
        unsafe { result::stream::synchronize(self.0.stream) }.map_err(|e| failed(kernel, e))
    }

    /// Queues a copy of a few host bytes to `to` without waiting for it; false if they are too many. The caller owns as many
    /// bytes at `to`.
    pub(super) fn stage(self, to: u64, bytes: &[u8]) -> Result<bool> {
        let mut staging = self.0.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `Buffer`, the only caller, owns the memory.
        unsafe { staging.send(self.0.stream, to, bytes) }
    }

    /// Whether graphs can be recorded: not if the host waits for every launch.
    pub fn records(self) -> bool {
        !self.0.synchronous
    }

    /// Bytes that no process uses, and all bytes of the card.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver cannot say.
    pub fn free_memory(self) -> Result<(usize, usize)> {
        let _turn = self.bind()?;
        result::mem_get_info().map_err(|e| failed("cuMemGetInfo", e))
    }

    /// The memory that this process has allocated.
    pub fn memory(self) -> Memory {
        self.ledger().clone()
    }

    /// The book of allocations.
    pub(super) fn ledger(self) -> MutexGuard<'static, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds that the card takes for the work that `f` puts on the stream.
    ///
    /// # Errors
    /// Those of `f`; [`Error::Cuda`].
    pub fn time(self, f: impl FnOnce() -> Result<()>) -> Result<f64> {
        let event = || {
            let _turn = self.bind()?;
            result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
                .map_err(|e| failed("cuEventCreate", e))
        };
        let record = |event| {
            let _turn = self.bind()?;
            // SAFETY: as cuEventRecord; the event is ours.
            unsafe { result::event::record(event, self.0.stream) }.map_err(|e| failed("cuEventRecord", e))
        };
        let (start, end) = (event()?, event()?);
        record(start)?;
        // No turn is held here: `f` may record a graph.
        let outcome = f();
        record(end)?;
        let _turn = self.bind()?;
        // SAFETY: as cuEventSynchronize, cuEventElapsedTime and cuEventDestroy; the events are ours.
        unsafe {
            result::event::synchronize(end).map_err(|e| failed("waiting for the GPU", e))?;
            let milliseconds =
                result::event::elapsed(start, end).map_err(|e| failed("cuEventElapsedTime", e))?;
            result::event::destroy(start).map_err(|e| failed("cuEventDestroy", e))?;
            result::event::destroy(end).map_err(|e| failed("cuEventDestroy", e))?;
            outcome.map(|()| f64::from(milliseconds) * 1e-3)
        }
    }
}

impl Context {
    fn open() -> Result<Self> {
        // SAFETY: looks a library up by name and loads it; its initialisers are NVIDIA's.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Cuda("no NVIDIA driver (libcuda) on this machine".into()));
        }
        result::init().map_err(|e| failed("cuInit", e))?;
        if result::device::get_count().map_err(|e| failed("cuDeviceGetCount", e))? == 0 {
            return Err(Error::Cuda("the NVIDIA driver sees no card".into()));
        }
        let device = result::device::get(0).map_err(|e| failed("cuDeviceGet", e))?;
        let facts = facts(device).map_err(|e| failed("asking the card what it is", e))?;
        let (major, minor) = facts.capability;
        if major < 8 {
            return Err(Error::Cuda(format!(
                "{} has compute capability {major}.{minor}; 8.0 (Ampere) or newer is needed",
                facts.name
            )));
        }
        if facts.driver < (12, 0) {
            let (major, minor) = facts.driver;
            return Err(Error::Cuda(format!(
                "the NVIDIA driver is made for CUDA {major}.{minor}; a driver for CUDA 12.0 or newer is needed"
            )));
        }
        // SAFETY: as cuDevicePrimaryCtxRetain, never released; cuCtxSetCurrent.
        let context = unsafe {
            let context =
                result::primary_ctx::retain(device).map_err(|e| failed("cuDevicePrimaryCtxRetain", e))?;
            result::ctx::set_current(context).map_err(|e| failed("cuCtxSetCurrent", e))?;
            context
        };
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| failed("cuStreamCreate", e))?;
        let synchronous = std::env::var_os("EMLAB_SYNCHRONOUS").is_some_and(|value| value == "1");
        Ok(Self {
            handle: context,
            stream,
            facts,
            memory: Mutex::default(),
            staging: Mutex::new(Staging::new()?),
            synchronous,
        })
    }
}

fn facts(device: sys::CUdevice) -> std::result::Result<Facts, result::DriverError> {
    use sys::CUdevice_attribute_enum as A;
    // SAFETY: as cuDeviceGetAttribute, cuDeviceTotalMem and cuDriverGetVersion.
    unsafe {
        let attribute = |what| result::device::get_attribute(device, what).map(|x| x as u32);
        let capability = (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let mut version = 0;
        sys::cuDriverGetVersion(&raw mut version).result()?;
        Ok(Facts {
            name: result::device::get_name(device)?,
            capability,
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory: result::device::total_mem(device)?,
            cache: attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
            shared: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver: (version / 1000, version % 1000 / 10),
        })
    }
}
