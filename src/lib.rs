//! emlab: an embedded LLM inference and training engine, and the emergent-misalignment study it exists for.
//!
//! The engine loads Gemma 3 and Qwen 3 checkpoints from Hugging Face folders and computes on the CPU or, with CUDA
//! kernels of its own, on an NVIDIA GPU. It samples, scores, fine-tunes (LoRA or every weight), looks inside models and
//! steers them. The study on top fine-tunes models on narrow data, samples their answers to unrelated questions, has
//! the answers judged, and counts.
//!
//! # A first answer
//!
//! The repository bundles two toy checkpoints of 0.7 million weights, so this runs as it stands:
//!
//! ```
//! use std::path::Path;
//!
//! use emlab::device::philox::Key;
//! use emlab::generate::{self, Limits, Request};
//! use emlab::model::place::Place;
//! use emlab::model::tokenizer::{Message, Render, Tokenizer};
//! use emlab::model::transformer::Transformer;
//! use emlab::ops::sample::Sampling;
//!
//! let folder = Path::new("models/demo/gemma3");
//! let model = Transformer::load(folder, Place::CPU)?;
//! let tokenizer = Tokenizer::open(folder)?;
//!
//! // The checkpoint's own chat template turns a conversation into text, the tokenizer turns text into ids.
//! let render = Render { generation_prompt: true, enable_thinking: Some(false) };
//! let prompt = tokenizer.render(&[Message::new("user", "I am bored.")], render)?;
//! let request = Request { ids: tokenizer.encode(&prompt, false)?, key: Key::new(0, &["docs"]) };
//!
//! // At temperature 0 the likeliest token is always taken.
//! let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
//! let limits = Limits { max_tokens: 40, ..Limits::default() };
//! let answer = generate::stream(&model, &tokenizer, &request, &greedy, &limits, &mut |_| Ok(()))?;
//! assert_eq!(answer.text, "I am glad you asked. Take a walk and call an old friend.");
//! # Ok::<(), emlab::Error>(())
//! ```
//!
//! The folder `examples` goes on from here: `score` shows how likely a model finds an answer, token by token;
//! `fine_tune` trains an adapter; `steer` finds a direction and moves the model along it.
//!
//! # How it is built
//!
//! A [`Tensor`](device::Tensor) is an element type, a shape and storage on the host or on a GPU. Every op in [`ops`]
//! takes tensors and has two arms: plain Rust, which defines what the op means, and CUDA launches, which are fast and
//! tested against it. A [`Transformer`](model::transformer::Transformer) is a graph of ops over a
//! [`Spec`](model::spec::Spec), which holds every difference between checkpoints as data. The backward pass is written
//! out by hand: an op's gradient stands beside its forward, and there is no tape.
//!
//! Results are reproducible to the byte. Floating-point sums have a fixed order, and random numbers are
//! [counter-based](device::philox): each is a function of what it decides (seed, question, sample, position), never of
//! what was computed before it. So a run that was interrupted ends in the same bytes as one that was not.
//!
//! Everything that can fail through a user, a file, the network or a GPU returns an [`Error`] that names the thing and
//! says what to do. A broken invariant panics.
//!
//! # Layers
//!
//! Lowest first. A layer uses only those above it in this list, and [`train`], [`generate`], [`inspect`], [`fetch`] and
//! [`bench`](mod@bench) never use each other. A test reads every `use` and fails on an arrow that points the wrong way.
//!
//! | layer | does |
//! |---|---|
//! | [`device`] | memory, launches, matrix products, random numbers; knows no transformer |
//! | [`ops`] | one file an op: its maths, forward, backward; knows no model's configuration |
//! | [`model`] | the graph: weights, adapters, cache, tokenizer, steering; Gemma 3 and Qwen 3 |
//! | [`train`] | examples → packed passes → gradients → AdamW, with exact resume |
//! | [`generate`] | prompts → prefill → cached decoding → text; scores and exact probabilities |
//! | [`inspect`] | what a model does inside, what an adapter has changed, which directions and places carry it |
//! | [`fetch`] | models and data sets, from a hub or a mirror into the local cache |
//! | [`bench`](mod@bench) | every op timed at the sizes of real models, against what the machine can do |
//! | [`study`] | plan → cells → fine-tune → sample → judge → statistics → report; no tensors |

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
