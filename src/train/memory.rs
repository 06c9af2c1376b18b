//! Decides before a run starts whether it fits on the GPU, and which activations are kept for the backward pass.

use std::fmt;

use crate::device::Device;
use crate::device::memory::Memory;
use crate::error::{Error, Result};
use crate::model::footprint::RESERVE;
use crate::model::transformer::Transformer;

/// How a run uses the GPU's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Memory already allocated, by purpose: weights, adapters, gradients, optimiser.
    pub allocated: Memory,
    /// Tokens of the largest pass.
    pub tokens: usize,
    /// Bytes of that pass.
    pub activations: usize,
    /// Whether the backward pass computes layers again.
    pub recompute: bool,
    /// Bytes still free.
    pub free: usize,
}

impl MemoryPlan {
    /// The plan of a run whose largest pass has `tokens` tokens; `None` on the CPU, where everything is kept.
    ///
    /// # Errors
    /// [`Error::Setting`] saying what is needed and which setting helps, if the run cannot fit.
    pub fn new(model: &Transformer, tokens: usize) -> Result<Option<Self>> {
        let Device::Cuda(gpu) = model.place.device else { return Ok(None) };
        let (free, _) = gpu.free_memory()?;
        let [keep, again] = [false, true].map(|recompute| model.training_bytes(tokens, recompute));
        let recompute = keep + RESERVE > free;
        let activations = if recompute { again } else { keep };
        let allocated = gpu.memory();
        if activations + RESERVE > free {
            return Err(Error::Setting(format!(
                "a pass of {tokens} tokens needs {} of GPU memory for its activations, and {} are free beside {}; lower \
                 pack_tokens or max_tokens, or free the GPU of other processes",
                gib(activations + RESERVE),
                gib(free),
                by_purpose(&allocated),
            )));
        }
        Ok(Some(Self { allocated, tokens, activations, recompute, free: free - activations }))
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = if self.recompute { "layers computed again" } else { "all layers kept" };
        let Self { allocated, tokens, activations, free, .. } = self;
        let (held, most, left) = (by_purpose(allocated), gib(*activations), gib(*free));
        write!(f, "GPU memory: {held}, at most {most} for a pass of {tokens} tokens ({policy}), {left} free")
    }
}

fn by_purpose(memory: &Memory) -> String {
    let used = memory.purposes.iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<String> = used.map(|(name, bytes)| format!("{} {name}", gib(*bytes))).collect();
    parts.join(", ")
}

fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
