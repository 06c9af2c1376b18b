//! L3: prompts → prefill → cached decode → text.
//!
//! | file | holds |
//! |---|---|
//! | `scheduler.rs` | many requests at once: shared prefill, continuous batching |
//! | `grammar.rs` | answers whose form is forced |
//! | `choices.rs` | the probability of each of a list of answers, exactly |
//! | `score.rs` | the negative log-likelihood of a text, and its logits |

mod choices;
mod grammar;
mod scheduler;
mod score;

use crate::device::Device;
use crate::error::Result;
use crate::model::transformer::Transformer;

pub use choices::{Choices, Chooser};
pub use scheduler::{Completion, Finish, Form, Limits, Request, run, stream};
pub use score::{logits, score};

/// Bytes that a cache of keys and values may take: what is allowed, or by default 2 GiB of the host's memory, or what is
/// free on the GPU but for a reserve.
fn cache_bytes(model: &Transformer, allowed: Option<usize>) -> Result<usize> {
    /// Left for activations, logits and what kernels need while they work.
    const RESERVE: usize = 3 << 30;
    match (allowed, model.place.device) {
        (Some(bytes), _) => Ok(bytes),
        (None, Device::Cpu) => Ok(2 << 30),
        (None, Device::Cuda(gpu)) => Ok(gpu.free_memory()?.0.saturating_sub(RESERVE)),
    }
}
