//! L0: memory, launches and products; knows no transformer.
//!
//! | file | holds |
//! |---|---|
//! | `file.rs` | files: mapped for reading, replaced as a whole when written |
//! | `philox.rs` | counter-based random numbers, the same stream on every device |
//! | `product.rs` | host matrix products, the safe face of the crate `gemm` |
//! | `matrix.rs` | small symmetric matrices of f64, on the host |
//! | `workers.rs` | [`on_workers`]: a pass runs inside the thread pool |
//! | `driver.rs` | errors of the CUDA driver |
//! | `compile.rs` | NVRTC: `kernels/*.cu` → machine code, cached on disk |
//! | `turn.rs` | keeps other threads off the card while one records a graph |
//! | `staging.rs` | small host-to-GPU copies that are not waited for |
//! | `memory.rs` | the book of GPU memory: how much, and what for |
//! | `gpu.rs` | [`Gpu`]: context, stream, facts |
//! | `buffer.rs` | memory on the GPU, and copies into and out of it |
//! | `dtype.rs`, `tensor.rs` | [`Tensor`]: element type, shape, storage |
//! | `kernel.rs`, `tensor_map.rs`, `launch.rs` | loaded kernels; matrices as the copy engine sees them; checked launches |
//! | `graph.rs` | launches recorded once and replayed |
//! | `upload.rs` | large host-to-GPU copies, through pinned memory |
//! | `workspace.rs` | memory that an op needs between its launches |
//! | `elementwise.rs`, `random.rs` | casts, sums and the like; normal random numbers, both on the GPU |
//! | `gemm.rs` (`gemm/problem.rs`, `gemm/hopper.rs`) | matrix products on the card |
//!
//! A file uses only files above it in this table.

mod buffer;
pub mod compile;
mod driver;
mod dtype;
pub mod elementwise;
pub mod file;
pub mod gemm;
pub mod gpu;
pub mod graph;
mod kernel;
pub mod launch;
pub(crate) mod matrix;
pub mod memory;
pub mod philox;
pub mod product;
pub mod random;
mod staging;
pub mod tensor;
pub mod tensor_map;
pub mod turn;
pub mod upload;
mod workers;
pub mod workspace;

pub use dtype::DType;
pub use gpu::Gpu;
pub use tensor::{Device, Tensor};
pub use workers::on_workers;
