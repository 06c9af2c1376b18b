//! L3: prompts → prefill → cached decode → text.
//!
//! | file | holds |
//! |---|---|
//! | `scheduler.rs` | many requests at once: shared prefill, continuous batching |
//! | `choices.rs` | the probability of each of a list of answers, exactly |
//! | `score.rs` | the negative log-likelihood of a text, and its logits |

mod choices;
mod scheduler;
mod score;

pub use choices::{Choices, Chooser};
pub use scheduler::{Completion, Finish, Limits, Request, run, stream};
pub use score::{logits, score};
