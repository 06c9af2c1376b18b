//! L2: the graph. Gemma 3 and Qwen 3 from Hugging Face folders; forward and backward explicit, one block for both.
//!
//! | file | holds |
//! |---|---|
//! | [`spec`] | every difference between the checkpoints, as data |
//! | `config.rs` (`gemma3.rs`, `qwen3.rs`, `fields.rs`) | `config.json` → [`spec::Spec`]: the family's reader, and what readers share |
//! | [`cards`] | the published checkpoints of the study, from `models/` |
//! | [`checkpoint`] (`tensor_file.rs`) | a Hugging Face folder on disk |
//! | [`place`] | where the model computes, and in which element type |
//! | [`parameter`], [`lora`], [`linear`] | a weight and its gradient; `LoRA`'s settings; fused projections |
//! | [`probe`] | named sites to look into |
//! | `pass.rs`, `activations.rs`, [`saved`] | the inputs of a pass; the tables of all that it computes; both, kept from pass to pass |
//! | [`cache`] | paged keys and values |
//! | [`steering`] | directions added to the residual stream, or erased from it |
//! | `block.rs`, [`transformer`] | the graph |
//! | `weights.rs` | tensors of a checkpoint → the graph, and back |
//! | [`peft`] | adapters on disk |
//! | [`footprint`] | how much memory a training pass takes |
//! | [`decoder`] | a token of each of many sequences in, the next out |
//! | [`direction`] | directions that tell two sets of texts apart, as a file |
//! | [`tokenizer`], [`chat`], [`text`] | text → tokens → text; conversations → text; tokens with an answer among them |

mod activations;
mod block;
pub mod cache;
pub mod cards;
pub mod chat;
pub mod checkpoint;
mod config;
pub mod decoder;
pub mod direction;
mod fields;
pub mod footprint;
mod gemma3;
pub mod linear;
pub mod lora;
pub mod parameter;
mod pass;
pub mod peft;
pub mod place;
pub mod probe;
mod qwen3;
pub mod saved;
pub mod spec;
pub mod steering;
mod tensor_file;
pub mod text;
pub mod tokenizer;
pub mod transformer;
mod weights;
