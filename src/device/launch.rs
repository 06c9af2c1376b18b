//! [`Variant`]: a kernel with its load-time constants, launched in one call. A launch checks its arguments against the
//! parameters that the kernel declares and, if blocks wait for each other, its grid against what the card can hold.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{LazyLock, PoisonError, RwLock};

use cudarc::driver::sys;

use super::compile::Define;
use super::driver;
use super::gpu::Gpu;
use super::kernel::Kernel;
use super::tensor::Tensor;
use super::tensor_map::TensorMap;
use crate::error::Result;

/// The blocks of a launch, in x, y and z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid([u32; 3]);

impl From<[usize; 3]> for Grid {
    fn from(blocks: [usize; 3]) -> Self {
        Self(blocks.map(|n| u32::try_from(n).expect("a number of blocks that fits 32 bits")))
    }
}
/// In x.
impl From<usize> for Grid {
    fn from(blocks: usize) -> Self {
        [blocks, 1, 1].into()
    }
}

/// A kernel with its load-time constants and the size of its blocks: everything about a launch but the grid and the arguments.
/// It depends only on sizes and the [facts](super::gpu::Facts) of a card, so it can be computed without a card.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// File of `kernels/`, without `.cu`.
    pub source: &'static str,
    /// A function in it.
    pub function: &'static str,
    /// Its load-time constants.
    pub defines: Vec<Define>,
    /// Threads a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory a block.
    pub shared: usize,
    /// Whether blocks wait for other blocks of the same launch (`grid_sync`, stream-K). All of them must then be resident on
    /// the card at once: a block that is not resident cannot start before one ends, and none would end.
    pub resident: bool,
}

impl Variant {
    /// Without dynamic shared memory, and with blocks that do not wait for each other.
    pub fn new(source: &'static str, function: &'static str, defines: &[Define], threads: usize) -> Self {
        Self { source, function, defines: defines.to_vec(), threads, shared: 0, resident: false }
    }

    /// With dynamic shared memory.
    #[must_use]
    pub fn shared(self, bytes: usize) -> Self {
        Self { shared: bytes, ..self }
    }

    /// With blocks that wait for each other: every launch checks that all fit on the card.
    #[must_use]
    pub fn resident(self) -> Self {
        Self { resident: true, ..self }
    }

    /// Puts a launch on the engine's stream. The first launch compiles and loads the kernel.
    ///
    /// # Safety
    /// The arguments must be those of the C function, in its order: the count and the sizes are checked, the meaning
    /// cannot be. Every pointer must be good for what the kernel reads and writes with this grid.
    ///
    /// # Errors
    /// As [`compile::cached`](super::compile::cached); [`Error::Cuda`](crate::Error::Cuda) if the driver refuses.
    pub unsafe fn launch(&self, gpu: Gpu, grid: impl Into<Grid>, args: &[Arg]) -> Result<()> {
        let loaded = self.load(gpu)?;
        let grid = grid.into();
        loaded.check(grid, args);
        let _turn = gpu.bind()?;
        let mut parts: [*mut c_void; MOST_ARGUMENTS] = [ptr::null_mut(); MOST_ARGUMENTS];
        for (part, arg) in parts.iter_mut().zip(args) {
            *part = arg.parts().0;
        }
        let Grid([x, y, z]) = grid;
        // SAFETY: as cuLaunchKernel asks: the function is loaded, each parameter points to a value of its size (checked
        // above), the driver copies them before it returns. The caller answers for what they mean.
        let code = unsafe {
            sys::cuLaunchKernel(
                loaded.kernel.function,
                x,
                y,
                z,
                self.threads as u32,
                1,
                1,
                self.shared as u32,
                gpu.stream(),
                parts.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        driver::check(self.function, code)?;
        gpu.check_launch(self.function)
    }

    /// As [`launch`](Self::launch), in x, with a thread for every `each` of `n` elements and at least one block.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// As there.
    pub unsafe fn launch_over(&self, gpu: Gpu, n: usize, each: usize, args: &[Arg]) -> Result<()> {
        let blocks = n.div_ceil(each * self.threads).max(1);
        // SAFETY: the caller answers for it.
        unsafe { self.launch(gpu, blocks, args) }
    }

    /// The loaded kernel; the same one at every call.
    fn load(&self, gpu: Gpu) -> Result<&'static LoadedKernel> {
        let loaded = LOADED.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.get(self) {
            return Ok(loaded);
        }
        drop(loaded);
        let kernel = Kernel::load(gpu, self.source, self.function, &self.defines)?;
        let most_blocks =
            if self.resident { Some(kernel.resident_blocks(gpu, self.threads, self.shared)?) } else { None };
        let loaded = &*Box::leak(Box::new(LoadedKernel { kernel, most_blocks }));
        LOADED.write().unwrap_or_else(PoisonError::into_inner).insert(self.clone(), loaded);
        Ok(loaded)
    }
}

/// The kernel of a variant.
struct LoadedKernel {
    kernel: Kernel,
    /// If its blocks wait for each other: the most that run at once.
    most_blocks: Option<usize>,
}

static LOADED: LazyLock<RwLock<HashMap<Variant, &'static LoadedKernel>>> = LazyLock::new(RwLock::default);

/// The most arguments of a kernel.
const MOST_ARGUMENTS: usize = 32;

impl LoadedKernel {
    /// Panics if a launch cannot work: arguments that the kernel does not declare, or blocks that would wait for ever.
    fn check(&self, grid: Grid, args: &[Arg]) {
        let Kernel { name, parameters, .. } = &self.kernel;
        let sizes = args.iter().map(|arg| arg.parts().1);
        assert!(
            args.len() <= MOST_ARGUMENTS && sizes.clone().eq(parameters.iter().copied()),
            "{name}: arguments of {:?} bytes, parameters of {parameters:?}",
            sizes.collect::<Vec<_>>(),
        );
        if let Some(most) = self.most_blocks {
            let blocks: usize = grid.0.iter().map(|n| *n as usize).product();
            assert!(
                blocks <= most,
                "{name}: {blocks} blocks wait for each other, but the card runs only {most} at once"
            );
        }
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// An address on the card; 0 for none.
    Pointer(u64),
    /// `u32` or `int`.
    U32(u32),
    /// `u64`.
    U64(u64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
    /// `const __grid_constant__ CUtensorMap`.
    Map(TensorMap),
    /// A structure of `u32`, passed by value.
    Words(&'a [u32]),
}

impl Arg<'_> {
    fn parts(&self) -> (*mut c_void, usize) {
        match self {
            Self::Pointer(x) | Self::U64(x) => (ptr::from_ref(x).cast_mut().cast(), 8),
            Self::U32(x) => (ptr::from_ref(x).cast_mut().cast(), 4),
            Self::F32(x) => (ptr::from_ref(x).cast_mut().cast(), 4),
            Self::F64(x) => (ptr::from_ref(x).cast_mut().cast(), 8),
            Self::Map(x) => (ptr::from_ref(x).cast_mut().cast(), 128),
            Self::Words(x) => (x.as_ptr().cast_mut().cast(), size_of_val(*x)),
        }
    }
}

impl From<&Tensor> for Arg<'_> {
    fn from(tensor: &Tensor) -> Self {
        Self::Pointer(tensor.pointer())
    }
}
impl From<&mut Tensor> for Arg<'_> {
    fn from(tensor: &mut Tensor) -> Self {
        Self::Pointer(tensor.pointer())
    }
}
impl From<u32> for Arg<'_> {
    fn from(x: u32) -> Self {
        Self::U32(x)
    }
}
/// Sizes: kernels take them as `u32`.
impl From<usize> for Arg<'_> {
    fn from(x: usize) -> Self {
        Self::U32(u32::try_from(x).expect("a size that kernels count in 32 bits"))
    }
}
/// Addresses and large counts.
impl From<u64> for Arg<'_> {
    fn from(x: u64) -> Self {
        Self::U64(x)
    }
}
impl From<f32> for Arg<'_> {
    fn from(x: f32) -> Self {
        Self::F32(x)
    }
}
