//! L2: the graph. Gemma 3 and Qwen 3 from Hugging Face folders; forward and backward explicit, one block for both.
//!
//! | file | holds |
//! |---|---|
//! | [`spec`] (`gemma3.rs`, `qwen3.rs`) | every difference between the checkpoints, as data |
//! | [`cards`] | the published checkpoints of the study, from `models/` |
//! | [`checkpoint`] (`tensor_file.rs`) | a Hugging Face folder on disk |
//! | `weights.rs` | tensors of a checkpoint → the graph, and back |
//! | [`parameter`], [`linear`], [`adapter`] | a weight and its gradient; fused projections; `LoRA` |
//! | `block.rs`, [`transformer`] | the graph |
//! | [`place`] | where the model computes, and in which element type |
//! | [`footprint`] | how much memory a training pass takes |
//! | [`saved`] | what a forward leaves for its backward |
//! | [`cache`], [`decoder`] | paged keys and values; a token of each of many sequences in, the next out |
//! | [`probe`] | named sites to look into |
//! | [`steering`] | directions added to the residual stream, or erased from it |
//! | [`direction`] | directions that tell two sets of texts apart, as a file |
//! | [`tokenizer`], [`chat`] | text → tokens → text; conversations → text |

pub mod adapter;
mod block;
pub mod cache;
pub mod cards;
pub mod chat;
pub mod checkpoint;
pub mod decoder;
pub mod direction;
pub mod footprint;
mod gemma3;
pub mod linear;
pub mod parameter;
pub mod place;
pub mod probe;
mod qwen3;
pub mod saved;
pub mod spec;
pub mod steering;
mod tensor_file;
pub mod tokenizer;
pub mod transformer;
mod weights;
