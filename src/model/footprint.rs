//! How much memory a training pass takes, before it is made.

use crate::model::adapter::{Lora, Target};
use crate::model::linear::Linear;
use crate::model::spec::Spec;
use crate::model::transformer::Transformer;
use crate::ops::linear_cross_entropy;

/// What a pass leaves free on a GPU: for what kernels need while they work, and for the driver.
pub const RESERVE: usize = 1 << 30;

/// What a layer, or the pass as a whole, keeps for each token: numbers of the activations' element type, and f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Width {
    real: usize,
    float: usize,
}

impl Width {
    fn bytes(self, n: usize, real: usize) -> usize {
        n * (self.real * real + self.float * 4)
    }
}

/// What decides the footprint of a training pass.
#[derive(Clone, Copy, Debug)]
pub struct Footprint<'a> {
    /// The model's sizes.
    pub spec: &'a Spec,
    /// Bytes of an activation.
    pub real: usize,
    /// Ranks of all adapters of a layer together, and of those of its largest projection.
    pub ranks: [usize; 2],
    /// Whether the gradient of the logits is kept in bf16 beside them.
    pub bf16_head: bool,
    /// Rows whose logits exist at the same time.
    pub chunk: usize,
}

impl<'a> Footprint<'a> {
    /// Of LoRA in bf16 on a GPU, before there is a model.
    pub fn of_lora(spec: &'a Spec, lora: &Lora) -> Self {
        let count = |targets: &[Target]| {
            lora.rank * targets.iter().filter(|target| lora.targets.contains(target)).count()
        };
        let [qkv, gate_up] = [count(&[Target::Q, Target::K, Target::V]), count(&[Target::Gate, Target::Up])];
        let [o, down] = [count(&[Target::O]), count(&[Target::Down])];
        let ranks = [qkv + gate_up + o + down, qkv.max(gate_up).max(o).max(down)];
        Self { spec, real: 2, ranks, bf16_head: true, chunk: linear_cross_entropy::GPU_CHUNK }
    }

    /// Bytes that a training pass over `n` tokens, all of which may carry loss, takes beside weights, gradients and
    /// optimiser: with every layer's activations kept, or with all but one computed again. What kernels need while they
    /// work comes on top.
    pub fn training_bytes(self, n: usize, recompute: bool) -> usize {
        let Self { spec, real, .. } = self;
        let (layers, c, f) = (spec.layers, spec.channels, spec.mlp_width);
        let logits = n.min(self.chunk) * spec.vocab;
        // hidden, dhidden, residual, stream, dx, dy, rows, drows; final_r, tokens, positions, indices, sources, angles
        let whole = Width { real: 8 * c, float: 5 + self.angle_width() };
        let backward = Width { real: self.backward_width(f), float: 0 };
        let kept = if recompute {
            2 * self.layer_width().bytes(n, real) + layers * n * c * real
        } else {
            layers * self.layer_width().bytes(n, real)
        };
        let dlogits = if self.bf16_head { logits * 2 } else { 0 };
        kept + whole.bytes(n, real) + backward.bytes(n, real) + logits * 4 + dlogits
    }

    /// As the fields of `BlockSaved`.
    fn layer_width(self) -> Width {
        let spec = self.spec;
        let (c, f) = (spec.channels, spec.mlp_width);
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        // x, attention_norm, attention_out, residual_mid, mlp_norm, mlp_out; qkv and q, k, v; attention; gate_up, glu
        let mut width = Width { real: 6 * c + 2 * (q + 2 * kv) + q + 3 * f + self.ranks[0], float: 0 };
        // attention_norm_r, mlp_norm_r, qk_r, lse
        width.float = 2 + spec.heads + spec.kv_heads + spec.heads;
        if spec.post_norms {
            width.real += 2 * c;
            width.float += 2;
        }
        width
    }

    /// As the fields of `Scratch` that only a backward pass fills: dgate_up, dglu, dattention, dq, dk, dv, dqkv, ds.
    fn backward_width(self, f: usize) -> usize {
        let spec = self.spec;
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        3 * f + q + 2 * (q + 2 * kv) + self.ranks[1]
    }

    /// cos and sin of each kind of rotation.
    fn angle_width(self) -> usize {
        let kinds = &self.spec.ropes;
        let distinct = kinds.iter().enumerate().filter(|(i, kind)| !kinds[..*i].contains(kind)).count();
        distinct * self.spec.head_dim
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
            ranks: [ranks.iter().sum(), ranks.into_iter().max().unwrap_or(0)],
            bf16_head: head.value.dtype().size() == 2,
            chunk: linear_cross_entropy::chunk(self.place.device),
        };
        footprint.training_bytes(n, recompute)
    }
}
