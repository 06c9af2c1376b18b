//! [`Gpu`]: the one card that the engine uses: its context, its stream, its facts, its kernels.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use cudarc::driver::{result, sys};

use super::DType;
use super::compile::{self, Define};
use super::launch::{Kernel, TensorMap};
use super::memory::Memory;
use super::staging::Staging;
use super::turn::{self, Turn};
use crate::error::{Error, Result};

/// The card. Copies are the same card.
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

/// What the driver says of the card.
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
    /// A card of each architecture that kernels are made for: what is known of a card where there is none.
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

    /// Whether the card has the tensor-core and copy instructions of compute capability 9.0.
    pub fn is_hopper(&self) -> bool {
        self.capability == (9, 0)
    }
}

struct Context {
    handle: sys::CUcontext,
    stream: sys::CUstream,
    facts: Facts,
    memory: Mutex<Memory>,
    kernels: RwLock<HashMap<Key, &'static Kernel>>,
    modules: Mutex<HashMap<(&'static str, Vec<Define>), Module>>,
    staging: Mutex<Staging>,
    /// Whether every launch is waited for, so that a fault names its kernel.
    synchronous: bool,
}

type Key = (&'static str, &'static str, Vec<Define>);
struct Module(sys::CUmodule);

// SAFETY: the handles inside may be used from any thread; the driver locks where it must. Only one stream is used, and
// Rust's borrows of tensors order the work that is put on it.
unsafe impl Send for Context {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Context {}
// SAFETY: as above.
unsafe impl Send for Module {}

thread_local! {
    static BOUND: Cell<bool> = const { Cell::new(false) };
}

/// Turns a driver's code into an error that names the call.
pub(super) fn call(name: &str, code: sys::CUresult) -> Result<()> {
    code.result().map_err(|error| failed(name, error))
}

pub(super) fn failed(name: &str, error: result::DriverError) -> Error {
    let text = error.error_string().map_or_else(|_| "unknown error".into(), |text| text.to_string_lossy());
    Error::Cuda(format!("{name}: {text} ({:?})", error.0))
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

    /// What the driver says of the card.
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

    /// Makes the card current on this thread, once no other thread records a graph: before whatever is asked of the card.
    pub(super) fn bind(self) -> Result<Turn> {
        let turn = turn::take();
        if !BOUND.get() {
            // SAFETY: as cuCtxSetCurrent; the context lives as long as the process.
            unsafe { result::ctx::set_current(self.0.handle) }.map_err(|e| failed("cuCtxSetCurrent", e))?;
            BOUND.set(true);
        }
        Ok(turn)
    }

    /// Waits until everything that was put on the stream is done.
    ///
    /// # Errors
    /// [`Error::Cuda`] if any of it failed.
    pub fn synchronize(self) -> Result<()> {
        let _turn = self.bind()?;
        // SAFETY: as cuStreamSynchronize; the stream lives as long as the process.
        unsafe { result::stream::synchronize(self.0.stream) }.map_err(|e| failed("waiting for the GPU", e))
    }

    pub(super) fn check_if_asked(self, kernel: &str) -> Result<()> {
        if !self.0.synchronous {
            return Ok(());
        }
        // SAFETY: as cuStreamSynchronize.
        unsafe { result::stream::synchronize(self.0.stream) }.map_err(|e| failed(kernel, e))
    }

    /// The kernel `name` of `kernels/SOURCE.cu` with these load-time constants, compiled at its first use.
    ///
    /// # Errors
    /// As [`compile::cached`]; [`Error::Cuda`] if the driver refuses the code.
    pub fn kernel(
        self,
        source: &'static str,
        name: &'static str,
        defines: &[Define],
    ) -> Result<&'static Kernel> {
        let key = (source, name, defines.to_vec());
        let read = self.0.kernels.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = read.get(&key) {
            return Ok(kernel);
        }
        drop(read);
        let kernel: &'static Kernel = Box::leak(Box::new(self.load(source, name, defines)?));
        self.0.kernels.write().unwrap_or_else(PoisonError::into_inner).insert(key, kernel);
        Ok(kernel)
    }

    fn load(self, source: &'static str, name: &'static str, defines: &[Define]) -> Result<Kernel> {
        let _turn = self.bind()?;
        let mut modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source, defines.to_vec());
        if !modules.contains_key(&key) {
            let code = compile::cached(source, defines, self.0.facts.capability)?;
            // SAFETY: as cuModuleLoadData: the image is a whole CUBIN, as NVRTC gave it.
            let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
            modules.insert(key.clone(), Module(module.map_err(|e| failed("cuModuleLoadData", e))?));
        }
        let c_name = CString::new(name).expect("kernel names hold no NUL");
        // SAFETY: as cuModuleGetFunction; modules are never unloaded.
        let function = unsafe { result::module::get_function(modules[&key].0, c_name) };
        let function = function.map_err(|e| failed(name, e))?;
        // SAFETY: as cuFuncSetAttribute; the card has this much shared memory.
        unsafe {
            let fixed = result::function::get_function_attribute(
                function,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            );
            let fixed = fixed.map_err(|e| failed(name, e))?;
            let most = self.0.facts.shared as i32 - fixed;
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, attribute, most)
                .map_err(|e| failed(name, e))?;
            if self.0.facts.capability >= (9, 0) {
                // Clusters of 16 blocks.
                let attribute =
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
                result::function::set_function_attribute(function, attribute, 1)
                    .map_err(|e| failed(name, e))?;
            }
        }
        Ok(Kernel { function, name, parameters: parameters(function) })
    }

    /// Describes `rows × cols` bf16 elements at `pointer`, rows `pitch` elements apart, for copies of
    /// `box_rows × box_cols` with a swizzle of 128 bytes; elements outside read as zero.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver refuses: the pointer must be 16-byte aligned, the pitch a multiple of 8.
    pub fn tensor_map(self, pointer: u64, sizes: [usize; 3], boxes: [usize; 2]) -> Result<TensorMap> {
        self.tensor_map_of(DType::Bf16, pointer, sizes, boxes)
    }

    /// As [`tensor_map`](Self::tensor_map), of f32 or bf16.
    ///
    /// # Errors
    /// As there; rows of f32 must be multiples of 4 elements apart.
    pub fn tensor_map_of(
        self,
        dtype: DType,
        pointer: u64,
        [rows, cols, pitch]: [usize; 3],
        [box_rows, box_cols]: [usize; 2],
    ) -> Result<TensorMap> {
        use sys::CUtensorMapDataType_enum as Type;
        let kind = match dtype {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::U32 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        };
        let _turn = self.bind()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let (sizes, pitch) = ([cols as u64, rows as u64], [(pitch * dtype.size()) as u64]);
        let (boxes, steps) = ([box_cols as u32, box_rows as u32], [1u32, 1]);
        // SAFETY: as cuTensorMapEncodeTiled: arrays of the rank, rank − 1 strides; it only writes the map.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                kind,
                2,
                pointer as *mut c_void,
                sizes.as_ptr(),
                pitch.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        call("cuTensorMapEncodeTiled", code)?;
        Ok(TensorMap(map))
    }

    /// Puts a copy of few host bytes on the stream, which is not waited for; false if they are too many. The caller owns as
    /// many bytes at `to`.
    pub(super) fn stage(self, to: u64, bytes: &[u8]) -> Result<bool> {
        let mut staging = self.0.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `Buffer`, the only caller, owns the memory.
        unsafe { staging.send(self.0.stream, to, bytes) }
    }

    /// Whether a graph can be recorded: not where every launch is waited for.
    pub fn records(self) -> bool {
        !self.0.synchronous
    }

    /// Bytes that no process uses, and bytes of the card.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver cannot say.
    pub fn free_memory(self) -> Result<(usize, usize)> {
        let _turn = self.bind()?;
        result::mem_get_info().map_err(|e| failed("cuMemGetInfo", e))
    }

    /// What this process has allocated.
    pub fn memory(self) -> Memory {
        self.ledger().clone()
    }

    /// Where allocations are booked.
    pub(super) fn ledger(self) -> MutexGuard<'static, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds that the card spends on what `f` puts on the stream.
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
        // It may record a graph: the turn is its own.
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

/// Sizes of a kernel's parameters, in bytes.
fn parameters(function: sys::CUfunction) -> Vec<usize> {
    let size = |index: usize| {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: as cuFuncGetParamInfo; it refuses an index past the last.
        let code = unsafe { sys::cuFuncGetParamInfo(function, index, &raw mut offset, &raw mut size) };
        code.result().ok().map(|()| size)
    };
    (0..).map_while(size).collect()
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
            kernels: RwLock::default(),
            modules: Mutex::default(),
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
