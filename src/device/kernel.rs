//! [`Kernel`]: a compiled function, loaded into the card's context.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{LazyLock, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::compile::{self, Define};
use super::driver::failed;
use super::gpu::Gpu;
use crate::error::Result;

/// A function that can be launched.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) function: sys::CUfunction,
    pub(super) name: &'static str,
    /// Sizes of its parameters, in bytes.
    pub(super) parameters: Vec<usize>,
}

// SAFETY: a CUfunction is a handle that the driver lets any thread use.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Kernel {}

/// The machine code of one source file with one set of load-time constants.
struct Module(sys::CUmodule);

// SAFETY: a CUmodule is a handle that the driver lets any thread use.
unsafe impl Send for Module {}

/// Modules by source file and load-time constants.
type Modules = HashMap<(&'static str, Vec<Define>), Module>;

/// Every module loaded so far. Modules are never unloaded.
static MODULES: LazyLock<Mutex<Modules>> = LazyLock::new(Mutex::default);

impl Kernel {
    /// Loads the function `name` of `kernels/SOURCE.cu` with these load-time constants, compiling the file if it is not in the
    /// cache.
    ///
    /// # Errors
    /// As [`compile::cached`]; [`Error::Cuda`](crate::Error::Cuda) if the driver refuses the code.
    pub(super) fn load(
        gpu: Gpu,
        source: &'static str,
        name: &'static str,
        defines: &[Define],
    ) -> Result<Self> {
        let _turn = gpu.bind()?;
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source, defines.to_vec());
        if !modules.contains_key(&key) {
            let code = compile::cached(source, defines, gpu.facts().capability)?;
            // SAFETY: as cuModuleLoadData: the image is a whole CUBIN, as NVRTC gave it.
            let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
            modules.insert(key.clone(), Module(module.map_err(|e| failed("cuModuleLoadData", e))?));
        }
        let c_name = CString::new(name).expect("kernel names hold no NUL");
        // SAFETY: as cuModuleGetFunction; modules are never unloaded.
        let function = unsafe { result::module::get_function(modules[&key].0, c_name) };
        let function = function.map_err(|e| failed(name, e))?;
        allow_all_resources(gpu, function).map_err(|e| failed(name, e))?;
        Ok(Self { function, name, parameters: parameters(function) })
    }

    /// The most blocks of `threads` threads and `shared` bytes of dynamic shared memory that run on the card at once.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the driver cannot say.
    pub(super) fn resident_blocks(&self, gpu: Gpu, threads: usize, shared: usize) -> Result<usize> {
        let _turn = gpu.bind()?;
        // SAFETY: as cuOccupancyMaxActiveBlocksPerMultiprocessor; the function is loaded.
        let each = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(self.function, threads as i32, shared)
        };
        let each = each.map_err(|e| failed(self.name, e))?;
        Ok(each as usize * gpu.facts().multiprocessors as usize)
    }
}

/// Lets a function use all the shared memory of a block and, from compute capability 9.0 on, clusters of 16 blocks.
fn allow_all_resources(gpu: Gpu, function: sys::CUfunction) -> std::result::Result<(), result::DriverError> {
    use sys::CUfunction_attribute_enum as Attribute;
    // SAFETY: as cuFuncGetAttribute and cuFuncSetAttribute; the function is loaded and the card has this much shared memory.
    unsafe {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        let fixed = result::function::get_function_attribute(function, attribute)?;
        let most = gpu.facts().shared as i32 - fixed;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(function, attribute, most)?;
        if gpu.facts().capability >= (9, 0) {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            result::function::set_function_attribute(function, attribute, 1)?;
        }
    }
    Ok(())
}

/// Sizes of a function's parameters, in bytes.
fn parameters(function: sys::CUfunction) -> Vec<usize> {
    let size = |index: usize| {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: as cuFuncGetParamInfo; it refuses an index past the last.
        let code = unsafe { sys::cuFuncGetParamInfo(function, index, &raw mut offset, &raw mut size) };
        code.result().ok().map(|()| size)
    };
    (0..).map_while(size).collect()
}
