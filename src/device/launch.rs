//! Launches: a kernel, its grid, its arguments, checked against what the kernel declares.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys;

use super::compile::Define;
use super::gpu::{Gpu, call};
use crate::device::Tensor;
use crate::error::Result;

/// A compiled kernel, ready to be launched on the card that it was loaded on.
#[derive(Debug)]
pub struct Kernel {
    pub(super) function: sys::CUfunction,
    pub(super) name: &'static str,
    /// Sizes of its parameters, in bytes.
    pub(super) parameters: Vec<usize>,
}

// SAFETY: a CUfunction is a handle that the driver lets any thread use.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Kernel {}

/// How many threads run a kernel, and with how much shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory a block.
    pub shared: u32,
}

impl Grid {
    /// `blocks` blocks of `threads` threads.
    pub fn new(blocks: usize, threads: u32) -> Self {
        Self { blocks: [blocks as u32, 1, 1], threads, shared: 0 }
    }

    /// One thread, or one for every `each` of `n` elements, in blocks of `threads`.
    pub fn over(n: usize, each: usize, threads: u32) -> Self {
        Self::new(n.div_ceil(each * threads as usize).max(1), threads)
    }

    /// With dynamic shared memory.
    #[must_use]
    pub fn shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }
}

/// A kernel with its load-time constants, and what a block of it takes: a launch without its blocks and arguments. It
/// follows from sizes and the [facts](super::gpu::Facts) of a card, so that it is known where there is no card.
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
}

impl Variant {
    /// Without dynamic shared memory.
    pub fn new(source: &'static str, function: &'static str, defines: &[Define], threads: usize) -> Self {
        Self { source, function, defines: defines.to_vec(), threads, shared: 0 }
    }

    /// With dynamic shared memory.
    #[must_use]
    pub fn shared(self, bytes: usize) -> Self {
        Self { shared: bytes, ..self }
    }

    /// Ready to be launched.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn kernel(&self, gpu: Gpu) -> Result<&'static Kernel> {
        gpu.kernel(self.source, self.function, &self.defines)
    }

    /// A launch of `blocks` blocks.
    pub fn grid(&self, blocks: usize) -> Grid {
        self.grid_of([blocks as u32, 1, 1])
    }

    /// A launch of as many blocks in x, y and z.
    pub fn grid_of(&self, blocks: [u32; 3]) -> Grid {
        Grid { blocks, threads: self.threads as u32, shared: self.shared as u32 }
    }

    /// A launch of a thread for every `each` of `n` elements, and one block at least.
    pub fn grid_over(&self, n: usize, each: usize) -> Grid {
        self.grid(n.div_ceil(each * self.threads).max(1))
    }
}

/// A description of a matrix for the tensor memory accelerator, passed by value.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct TensorMap(pub(super) sys::CUtensorMap);

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

impl Kernel {
    /// Launches on the engine's stream.
    ///
    /// # Safety
    /// The arguments must be those of the C function, in its order: the count and the sizes are checked, the meaning
    /// cannot be. Every pointer must be good for what the kernel reads and writes with this grid.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the driver refuses.
    pub unsafe fn launch(&self, gpu: Gpu, grid: Grid, args: &[Arg]) -> Result<()> {
        let sizes = args.iter().map(|arg| arg.parts().1);
        assert!(
            sizes.clone().eq(self.parameters.iter().copied()),
            "{}: arguments of {:?} bytes, parameters of {:?}",
            self.name,
            sizes.collect::<Vec<_>>(),
            self.parameters
        );
        let _turn = gpu.bind()?;
        let mut parts: [*mut c_void; 32] = [ptr::null_mut(); 32];
        for (part, arg) in parts.iter_mut().zip(args) {
            *part = arg.parts().0;
        }
        let ([x, y, z], threads) = (grid.blocks, grid.threads);
        // SAFETY: as cuLaunchKernel asks: the function is loaded, each parameter points to a value of its size (checked
        // above), the driver copies them before it returns. The caller answers for what they mean.
        let code = unsafe {
            sys::cuLaunchKernel(
                self.function,
                x,
                y,
                z,
                threads,
                1,
                1,
                grid.shared,
                gpu.stream(),
                parts.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        call(self.name, code)?;
        gpu.check_if_asked(self.name)
    }
}
