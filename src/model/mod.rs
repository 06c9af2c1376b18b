//! L2: the graph.

pub mod adapter;
pub mod chat;
pub mod checkpoint;
mod gemma3;
mod qwen3;
pub mod spec;
mod tensor_file;
pub mod tokenizer;
