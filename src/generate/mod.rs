//! L3: prompts → prefill → cached decode → text.
//!
//! | file | holds |
//! |---|---|
//! | `scheduler.rs` | many requests at once: shared prefill, continuous batching |
//! | `grammar.rs` | constrained decoding: answers that are one JSON object |
//! | `choices.rs` | the probability of each of a list of answers, exactly |
//! | `memory.rs` | how much memory the cache of keys and values may take |
//! | `score.rs` | the negative log-likelihood of a text, and its logits |

mod choices;
mod grammar;
mod memory;
mod scheduler;
mod score;

pub use choices::{Choices, Chooser};
pub use scheduler::{Completion, Finish, Form, Limits, Request, run, stream};
pub use score::{logits, score};
