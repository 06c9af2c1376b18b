//! How much memory a training pass takes, before it is made.

use crate::model::linear::Linear;
use crate::model::transformer::Transformer;
use crate::ops::linear_cross_entropy;

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

impl Transformer {
    /// Bytes that a training pass over `n` tokens, all of which may carry loss, takes beside weights, gradients and
    /// optimiser: with every layer's activations kept, or with all but one computed again. What kernels need while they
    /// work comes on top.
    pub fn training_bytes(&self, n: usize, recompute: bool) -> usize {
        let real = self.place.real.size();
        let layers = self.spec.layers;
        let (c, f) = (self.spec.channels, self.spec.mlp_width);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let logits = n.min(linear_cross_entropy::chunk(self.place.device)) * self.spec.vocab;
        // hidden, dhidden, residual, stream, dx, dy, rows, drows; final_r, tokens, positions, indices, sources, angles
        let whole = Width { real: 8 * c, float: 5 + self.angle_width() };
        let backward = Width { real: self.backward_width(f), float: 0 };
        let kept = if recompute {
            2 * self.layer_width().bytes(n, real) + layers * n * c * real
        } else {
            layers * self.layer_width().bytes(n, real)
        };
        let dlogits = if head.value.dtype().size() == 2 { logits * 2 } else { 0 };
        kept + whole.bytes(n, real) + backward.bytes(n, real) + logits * 4 + dlogits
    }

    /// As the fields of `BlockSaved`.
    fn layer_width(&self) -> Width {
        let spec = &self.spec;
        let (c, f) = (spec.channels, spec.mlp_width);
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let ranks: usize =
            self.blocks.first().map_or(0, |b| b.linears().map(Linear::adapter_width).iter().sum());
        // x, attention_norm, attention_out, residual_mid, mlp_norm, mlp_out; qkv and q, k, v; attention; gate_up, glu
        let mut width = Width { real: 6 * c + 2 * (q + 2 * kv) + q + 3 * f + ranks, float: 0 };
        // attention_norm_r, mlp_norm_r, qk_r, lse
        width.float = 2 + spec.heads + spec.kv_heads + spec.heads;
        if spec.post_norms {
            width.real += 2 * c;
            width.float += 2;
        }
        width
    }

    /// As the fields of `Scratch` that only a backward pass fills: dgate_up, dglu, dattention, dq, dk, dv, dqkv, ds.
    fn backward_width(&self, f: usize) -> usize {
        let spec = &self.spec;
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let ranks = self
            .blocks
            .first()
            .map_or(0, |b| b.linears().map(Linear::adapter_width).into_iter().max().unwrap_or(0));
        3 * f + q + 2 * (q + 2 * kv) + ranks
    }

    /// cos and sin of each kind of rotation.
    fn angle_width(&self) -> usize {
        let mut kinds = self.spec.ropes.clone();
        kinds.dedup();
        let distinct = kinds.iter().enumerate().filter(|(i, kind)| !kinds[..*i].contains(kind)).count();
        distinct * self.spec.head_dim
    }
}
