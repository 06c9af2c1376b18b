//! L0: memory and products; knows no transformer.
//!
//! | file | holds |
//! |---|---|
//! | `file.rs` | files: mapped for reading, replaced as a whole when written |
//! | `tensor.rs` | [`Tensor`]: element type, shape, storage |
//! | `product.rs` | host matrix products, the safe face of the crate `gemm` |
//! | `philox.rs` | counter-based random numbers, the same stream on every device |

pub mod file;
pub mod philox;
pub mod product;
pub mod tensor;

pub use tensor::{DType, Device, Tensor};
