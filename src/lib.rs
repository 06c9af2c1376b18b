//! emlab: an embedded LLM inference and training engine, and the emergent-misalignment study it exists for.
//!
//! Layers, lowest first; a layer uses only those above it in this list, and `train`, `generate`, `inspect` and
//! `fetch` never use each other:
//!
//! * [`device`]: memory, products, random numbers. Knows no transformer.
//! * [`ops`]: one file an op: its maths, its forward, its backward. Knows no model's configuration.
//! * [`model`]: the graph: Gemma 3 and Qwen 3 from Hugging Face folders, weights, adapters, cache, tokenizer.
//! * [`train`]: examples → packed passes → gradients → `AdamW`, with exact resume.
//! * [`generate`]: prompts → prefill → cached decode → text.
//! * [`inspect`]: what a model does inside, what an adapter has changed, which directions and places carry it.
//! * [`fetch`]: models and data sets from a hub or a mirror into the local cache.
//! * [`bench`]: every op at the sizes of real models, timed. Uses the layers up to `model`.
//! * [`study`]: plan → cells → fine-tune → sample → judge → statistics → report. No tensors here.

pub mod bench;
pub mod device;
pub mod error;
pub mod fetch;
pub mod generate;
mod html;
pub mod inspect;
pub mod interrupt;
pub mod model;
pub mod ops;
pub mod progress;
pub mod study;
pub mod train;

pub use error::{Error, Result};

/// The Rust in the documentation, which `cargo test --doc` runs.
#[cfg(doctest)]
#[doc = include_str!("../docs/transformer.md")]
pub struct TransformerWalk;
