//! [`Footprint`]: how much memory a training pass will take.

use crate::model::activations::{Dimensions, Ends, Layer, Scratch, Table};
use crate::model::linear::Linear;
use crate::model::lora::{Lora, Target};
use crate::model::pass::PassInputs;
use crate::model::spec::Spec;
use crate::model::transformer::Transformer;
use crate::ops::linear_cross_entropy;

/// Bytes that a pass leaves free on a GPU, for the workspace of kernels and for the driver.
pub const RESERVE: usize = 1 << 30;

/// Everything that the memory of a training pass depends on.
#[derive(Clone, Copy, Debug)]
pub struct Footprint<'a> {
    /// The model's sizes.
    pub spec: &'a Spec,
    /// Bytes of an activation.
    pub real: usize,
    /// Summed ranks of the adapters of each fused projection: qkv, o, gate_up, down.
    pub ranks: [usize; 4],
    /// Whether the gradient of the logits is kept in bf16 beside them.
    pub bf16_head: bool,
    /// Rows whose logits exist at the same time.
    pub chunk: usize,
}

impl<'a> Footprint<'a> {
    /// Of LoRA in bf16 on a GPU, without a model at hand.
    pub fn of_lora(spec: &'a Spec, lora: &Lora) -> Self {
        let count = |targets: &[Target]| {
            lora.rank * targets.iter().filter(|target| lora.targets.contains(target)).count()
        };
        let ranks = [
            count(&[Target::Q, Target::K, Target::V]),
            count(&[Target::O]),
            count(&[Target::Gate, Target::Up]),
            count(&[Target::Down]),
        ];
        Self { spec, real: 2, ranks, bf16_head: true, chunk: linear_cross_entropy::GPU_CHUNK }
    }

    /// Bytes that a training pass over `n` tokens, all of which may carry loss, takes beside weights, gradients and
    /// optimiser: with every layer's activations kept, or with all but two layers' computed again. The workspace of kernels
    /// comes on top.
    pub fn training_bytes(self, n: usize, recompute: bool) -> usize {
        let Self { spec, real, ranks, bf16_head, chunk } = self;
        let sizes = Dimensions::of(spec).with_ranks(ranks);
        let layer = Layer::bytes(&sizes, n, real);
        let layers = if recompute {
            2 * layer + spec.layers * Layer::kept_bytes(&sizes, n, real)
        } else {
            spec.layers * layer
        };
        let others =
            PassInputs::bytes(spec, n) + Ends::bytes(&sizes, n, real) + Scratch::bytes(&sizes, n, real);
        let logits = n.min(chunk) * spec.vocab;
        let dlogits = if bf16_head { logits * 2 } else { 0 };
        layers + others + logits * 4 + dlogits
    }
}

impl Transformer {
    /// [`Footprint::training_bytes`] of this model and its adapters.
    pub fn training_bytes(&self, n: usize, recompute: bool) -> usize {
        let ranks = self.blocks.first().map_or([0, 0, 0, 0], |b| b.linears().map(Linear::adapter_width));
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let footprint = Footprint {
            spec: &self.spec,
            real: self.place.real.size(),
            ranks,
            bf16_head: head.value.dtype().size() == 2,
            chunk: linear_cross_entropy::chunk(self.place.device),
        };
        footprint.training_bytes(n, recompute)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::place::Place;
    use crate::model::saved::Saved;
    use crate::model::transformer::Batch;

    #[test]
    fn the_footprint_is_what_a_pass_takes() {
        for family in ["gemma3", "qwen3"] {
            let spec =
                Spec::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo").join(family)).unwrap();
            let mut model = Transformer::random(spec.clone(), 0, Place::CPU).unwrap();
            model.attach(&Lora { rank: 4, ..Lora::default() }, 0).unwrap();
            let n = 300;
            let batch = Batch { tokens: vec![5; n], starts: vec![0, 120, n as u32], dropout: None };
            let rows: Vec<u32> = (0..n as u32).collect();
            for (recompute, mut saved) in [
                (false, Saved::for_training(&spec, Place::CPU)),
                (true, Saved::for_recomputing(&spec, Place::CPU)),
            ] {
                model.forward(&mut saved, &batch, &mut ()).unwrap();
                model.loss_gradient(&mut saved, &rows, &vec![1; n], 1.0).unwrap();
                model.backward(&mut saved, &batch, &mut ()).unwrap();
                let (found, planned) = (saved.used_bytes(), model.training_bytes(n, recompute));
                assert!(found <= planned, "{family}: {found} bytes, {planned} planned");
                assert!(planned < found + found / 10, "{family}: {found} bytes, {planned} planned");
            }
        }
    }
}
