//! L0: memory, launches and products; knows no transformer.
//!
//! | file | holds |
//! |---|---|
//! | `file.rs` | files: mapped for reading, replaced as a whole when written |
//! | `tensor.rs` | [`Tensor`]: element type, shape, storage |
//! | `gpu.rs` | [`Gpu`]: context, stream, facts, kernels |
//! | `memory.rs` | memory on the GPU, and what it is used for |
//! | `compile.rs` | NVRTC: `kernels/*.cu` → machine code, cached on disk |
//! | `launch.rs` | launches, checked against what the kernel declares |
//! | `graph.rs` | launches recorded once and repeated |
//! | `turn.rs` | what keeps other threads out of a recording |
//! | `gemm.rs` | matrix products on the card |
//! | `elementwise.rs` | casts, sums and the like on the GPU |
//! | `workspace.rs` | memory that an op needs between its launches |
//! | `staging.rs` | small host values on their way to the GPU |
//! | `upload.rs` | large amounts of host data to the GPU, through pinned memory |
//! | `random.rs` | normal random numbers made on the GPU |
//! | `matrix.rs` | small symmetric matrices of f64, on the host |
//! | `product.rs` | host matrix products, the safe face of the crate `gemm` |
//! | `philox.rs` | counter-based random numbers, the same stream on every device |

pub mod compile;
pub mod elementwise;
pub mod file;
pub mod gemm;
pub mod gpu;
pub mod graph;
pub mod launch;
pub(crate) mod matrix;
pub mod memory;
pub mod philox;
pub mod product;
pub mod random;
mod staging;
pub mod tensor;
pub mod turn;
pub mod upload;
pub mod workspace;

pub use gpu::Gpu;
pub use tensor::{DType, Device, Tensor};

/// Runs `f` on a worker of the thread pool. Called from outside, every parallel loop hands its work over and waits to
/// be woken, some 50 µs a loop; from a worker it just begins. A pass over a model is hundreds of loops.
pub fn on_workers<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
