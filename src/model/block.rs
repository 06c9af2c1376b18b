//! One transformer block, for both families: attention and MLP, each behind a norm, each added to the residual stream.
//!
//! ```text
//!  1  h ← norm(x)                     x: the stream; from the second block on fused with the last addition
//!  2  qkv ← h · W_qkvᵀ
//!  3  q, k, v ← split, QK-norm, rotate
//!  4  a ← attention(q, k, v)
//!  5  o ← a · W_oᵀ
//!  6  δ ← norm(o)                     Gemma only; else δ = o
//!  7  m ← x + δ;  h ← norm(m)         fused
//!  8  gu ← h · W_guᵀ
//!  9  g ← act(gate) · up
//! 10  d ← g · W_downᵀ
//! 11  δ ← norm(d)                     Gemma only; else δ = d
//! 12  x ← m + δ                       left to the next norm
//! ```
//! [`Block::backward`] undoes the steps in reverse; its numbers are these.

use crate::device::Tensor;
use crate::device::philox::Key;
use crate::error::Result;
use crate::model::activations::{Layer, Scratch};
use crate::model::cache::Cache;
use crate::model::linear::Linear;
use crate::model::parameter::Parameter;
use crate::model::probe::{Probe, Site};
use crate::model::spec::Spec;
use crate::ops::attention::{self, Attention, Contexts, Documents};
use crate::ops::glu::{self, Activation};
use crate::ops::norm::{self, Norm};
use crate::ops::rope::{self, Heads, Rope};

/// What a query may look at.
pub(super) enum Attend<'a> {
    /// Packed documents.
    Documents(&'a Documents),
    /// The cache, to which each row first adds its key and value.
    Cached(&'a mut Cache, &'a Contexts),
    /// All rows are one sequence from its first position on. They are added to the cache, but attention reads them as a packed
    /// document.
    Prefill(&'a mut Cache, &'a Contexts, &'a Documents),
}

/// The weights and the choices of one block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) layer: usize,
    pub(super) rope: Rope,
    attention: Attention,
    norm: Norm,
    activation: Activation,
    pub(super) attention_norm: Parameter,
    pub(super) qkv: Linear,
    pub(super) q_norm: Parameter,
    pub(super) k_norm: Parameter,
    pub(super) o: Linear,
    pub(super) mlp_norm: Parameter,
    pub(super) gate_up: Linear,
    pub(super) down: Linear,
    /// After attention and after the MLP, where the family has them.
    pub(super) post_norms: Option<[Parameter; 2]>,
}

/// The weights of a block, by role.
pub(super) struct BlockWeights {
    pub(super) norms: [Tensor; 4],
    pub(super) linears: [Linear; 4],
    pub(super) post_norms: Option<[Tensor; 2]>,
}

impl Block {
    pub(super) fn new(spec: &Spec, layer: usize, weights: BlockWeights) -> Self {
        let [attention_norm, q_norm, k_norm, mlp_norm] = weights.norms.map(Parameter::frozen);
        let [qkv, o, gate_up, down] = weights.linears;
        let heads = Heads { query: spec.heads, kv: spec.kv_heads, dim: spec.head_dim };
        Self {
            layer,
            rope: spec.ropes[layer],
            attention: Attention { heads, scale: spec.softmax_scale, window: spec.windows[layer] },
            norm: Norm { gain: spec.gain, eps: spec.norm_eps },
            activation: spec.activation,
            attention_norm,
            qkv,
            q_norm,
            k_norm,
            o,
            mlp_norm,
            gate_up,
            down,
            post_norms: weights.post_norms.map(|n| n.map(Parameter::frozen)),
        }
    }

    /// The random stream of dropout in this pass, for the block's linear map number `map`.
    fn noise(&self, key: Option<Key>, map: u32) -> Option<(Key, u32)> {
        key.map(|key| (key, self.layer as u32 * 4 + map))
    }

    /// Runs the block. `before`: the previous block's stream and what is still to be added to it; the first block
    /// finds the stream in `s.x`.
    pub(super) fn forward(
        &self,
        s: &mut Layer,
        before: Option<[&Tensor; 2]>,
        angles: &Tensor,
        attend: &mut Attend,
        dropout: Option<Key>,
        probe: &mut dyn Probe,
    ) -> Result<()> {
        let heads = self.attention.heads;
        // 1. norm of the stream
        let w = &self.attention_norm.value;
        if let Some([x, delta]) = before {
            let (h, r) = (&mut s.attention_norm, &mut s.attention_norm_r);
            norm::add_forward(&mut s.x, h, r, x, delta, w, self.norm)?;
            if probe.at(self.layer - 1, Site::Residual, &mut s.x)? {
                norm::forward(&mut s.attention_norm, &mut s.attention_norm_r, &s.x, w, self.norm)?;
            }
        } else {
            norm::forward(&mut s.attention_norm, &mut s.attention_norm_r, &s.x, w, self.norm)?;
        }
        probe.at(self.layer, Site::AttentionNorm, &mut s.attention_norm)?;
        // 2. q | k | v
        self.qkv.forward(&mut s.qkv, &mut s.qkv_s, &s.attention_norm, self.noise(dropout, 0))?;
        probe.at(self.layer, Site::Qkv, &mut s.qkv)?;
        // 3. split, normalise, rotate
        let gains = [&self.q_norm.value, &self.k_norm.value];
        rope::forward([&mut s.q, &mut s.k, &mut s.v, &mut s.qk_r], &s.qkv, angles, gains, heads, self.norm)?;
        probe.at(self.layer, Site::Query, &mut s.q)?;
        probe.at(self.layer, Site::Key, &mut s.k)?;
        // 4. attention
        self.attend(s, attend)?;
        probe.at(self.layer, Site::Attention, &mut s.attention)?;
        // 5. output projection
        self.o.forward(&mut s.attention_out, &mut s.o_s, &s.attention, self.noise(dropout, 1))?;
        probe.at(self.layer, Site::AttentionOut, &mut s.attention_out)?;
        // 6. its norm
        let mut delta = &mut s.attention_out;
        if let Some([w, _]) = &self.post_norms {
            norm::forward(&mut s.attention_delta, &mut s.attention_delta_r, delta, &w.value, self.norm)?;
            delta = &mut s.attention_delta;
        }
        probe.at(self.layer, Site::AttentionDelta, delta)?;
        // 7. into the stream, and its norm
        let w = &self.mlp_norm.value;
        let (h, r) = (&mut s.mlp_norm, &mut s.mlp_norm_r);
        norm::add_forward(&mut s.residual_mid, h, r, &s.x, delta, w, self.norm)?;
        if probe.at(self.layer, Site::ResidualMid, &mut s.residual_mid)? {
            norm::forward(&mut s.mlp_norm, &mut s.mlp_norm_r, &s.residual_mid, w, self.norm)?;
        }
        probe.at(self.layer, Site::MlpNorm, &mut s.mlp_norm)?;
        // 8. gate | up
        self.gate_up.forward(&mut s.gate_up, &mut s.gate_up_s, &s.mlp_norm, self.noise(dropout, 2))?;
        probe.at(self.layer, Site::GateUp, &mut s.gate_up)?;
        // 9. gated product
        glu::forward(&mut s.glu, &s.gate_up, self.activation)?;
        probe.at(self.layer, Site::Glu, &mut s.glu)?;
        // 10. down
        self.down.forward(&mut s.mlp_out, &mut s.down_s, &s.glu, self.noise(dropout, 3))?;
        probe.at(self.layer, Site::MlpOut, &mut s.mlp_out)?;
        // 11. its norm; 12. is the next norm's
        let mut delta = &mut s.mlp_out;
        if let Some([_, w]) = &self.post_norms {
            norm::forward(&mut s.mlp_delta, &mut s.mlp_delta_r, delta, &w.value, self.norm)?;
            delta = &mut s.mlp_delta;
        }
        probe.at(self.layer, Site::MlpDelta, delta)?;
        Ok(())
    }

    fn attend(&self, s: &mut Layer, attend: &mut Attend) -> Result<()> {
        let packed = |s: &mut Layer, documents: &Documents| {
            attention::forward(&mut s.attention, &mut s.lse, [&s.q, &s.k, &s.v], documents, self.attention)
        };
        match attend {
            Attend::Documents(documents) => packed(s, documents),
            Attend::Prefill(cache, contexts, documents) => {
                attention::store(cache.layer_mut(self.layer), [&s.k, &s.v], contexts, self.attention.heads)?;
                packed(s, documents)
            }
            Attend::Cached(cache, contexts) => {
                attention::store(cache.layer_mut(self.layer), [&s.k, &s.v], contexts, self.attention.heads)?;
                attention::cached(&mut s.attention, &s.q, cache.layer(self.layer), contexts, self.attention)
            }
        }
    }

    /// The mirror image of [`forward`](Self::forward). `scratch.stream` arrives as the gradient of the stream after
    /// the block and leaves as the gradient of the stream before it.
    pub(super) fn backward(
        &mut self,
        scratch: &mut Scratch,
        s: &Layer,
        angles: &Tensor,
        documents: &Documents,
        dropout: Option<Key>,
        probe: &mut dyn Probe,
    ) -> Result<()> {
        let (t, layer) = (scratch, self.layer);
        let heads = self.attention.heads;
        let noise = [0, 1, 2, 3].map(|map| self.noise(dropout, map));
        // 12. δ joins the stream: its gradient is the stream's. 11. through its norm
        probe.gradient(layer, Site::Residual, &t.stream)?;
        probe.gradient(layer, Site::MlpDelta, &t.stream)?;
        let mut dout = &t.stream;
        if let Some([_, w]) = &mut self.post_norms {
            let Parameter { value, gradient, .. } = w;
            norm::backward(&mut t.dy, gradient.as_mut(), dout, &s.mlp_out, &s.mlp_delta_r, value, self.norm)?;
            dout = &t.dy;
        }
        probe.gradient(layer, Site::MlpOut, dout)?;
        // 10. down
        self.down.backward(&mut t.dglu, &mut t.ds, dout, [&s.glu, &s.down_s], noise[3])?;
        probe.gradient(layer, Site::Glu, &t.dglu)?;
        // 9. gated product
        glu::backward(&mut t.dgate_up, &t.dglu, &s.gate_up, self.activation)?;
        probe.gradient(layer, Site::GateUp, &t.dgate_up)?;
        // 8. gate | up
        self.gate_up.backward(&mut t.dx, &mut t.ds, &t.dgate_up, [&s.mlp_norm, &s.gate_up_s], noise[2])?;
        probe.gradient(layer, Site::MlpNorm, &t.dx)?;
        // 7. the norm's gradient joins the stream's
        let Parameter { value, gradient, .. } = &mut self.mlp_norm;
        let gain = gradient.as_mut();
        norm::add_backward(&mut t.stream, gain, &t.dx, &s.residual_mid, &s.mlp_norm_r, value, self.norm)?;
        probe.gradient(layer, Site::ResidualMid, &t.stream)?;
        probe.gradient(layer, Site::AttentionDelta, &t.stream)?;
        // 6. through the norm of δ
        let mut dout = &t.stream;
        if let Some([w, _]) = &mut self.post_norms {
            let Parameter { value, gradient, .. } = w;
            let (x, r) = (&s.attention_out, &s.attention_delta_r);
            norm::backward(&mut t.dy, gradient.as_mut(), dout, x, r, value, self.norm)?;
            dout = &t.dy;
        }
        probe.gradient(layer, Site::AttentionOut, dout)?;
        // 5. output projection
        self.o.backward(&mut t.dattention, &mut t.ds, dout, [&s.attention, &s.o_s], noise[1])?;
        probe.gradient(layer, Site::Attention, &t.dattention)?;
        // 4. attention
        let (into, saved) = ([&mut t.dq, &mut t.dk, &mut t.dv], [&s.attention, &s.lse]);
        attention::backward(into, &t.dattention, saved, [&s.q, &s.k, &s.v], documents, self.attention)?;
        probe.gradient(layer, Site::Key, &t.dk)?;
        probe.gradient(layer, Site::Query, &t.dq)?;
        // 3. rotate back, through the head norms, together
        let [q, k] = [&mut self.q_norm, &mut self.k_norm];
        let gains = q.gradient.as_mut().zip(k.gradient.as_mut()).map(|(q, k)| [q, k]);
        let (grads, saved) = ([&t.dq, &t.dk, &t.dv], [&s.qkv, &s.qk_r, angles]);
        rope::backward(&mut t.dqkv, gains, grads, saved, [&q.value, &k.value], heads, self.norm)?;
        probe.gradient(layer, Site::Qkv, &t.dqkv)?;
        // 2. q | k | v
        self.qkv.backward(&mut t.dx, &mut t.ds, &t.dqkv, [&s.attention_norm, &s.qkv_s], noise[0])?;
        probe.gradient(layer, Site::AttentionNorm, &t.dx)?;
        // 1. the norm's gradient joins the stream's
        let Parameter { value, gradient, .. } = &mut self.attention_norm;
        let (gain, r) = (gradient.as_mut(), &s.attention_norm_r);
        norm::add_backward(&mut t.stream, gain, &t.dx, &s.x, r, value, self.norm)
    }

    /// Every parameter by name, in the order of the forward pass.
    pub(super) fn parameters(&self) -> Vec<(String, &Parameter)> {
        let path = |name: &str| format!("model.layers.{}.{name}", self.layer);
        let mut all = vec![(path("input_layernorm.weight"), &self.attention_norm)];
        all.extend(self.qkv.parameters(&path("self_attn.qkv")));
        all.push((path("self_attn.q_norm.weight"), &self.q_norm));
        all.push((path("self_attn.k_norm.weight"), &self.k_norm));
        all.extend(self.o.parameters(&path("self_attn.o")));
        if let Some([attention, _]) = &self.post_norms {
            all.push((path("post_attention_layernorm.weight"), attention));
        }
        all.push((path(self.mlp_norm_name()), &self.mlp_norm));
        all.extend(self.gate_up.parameters(&path("mlp.gate_up")));
        all.extend(self.down.parameters(&path("mlp.down")));
        if let Some([_, mlp]) = &self.post_norms {
            all.push((path("post_feedforward_layernorm.weight"), mlp));
        }
        all
    }

    /// [`parameters`](Self::parameters), to be changed.
    pub(super) fn parameters_mut(&mut self) -> Vec<(String, &mut Parameter)> {
        let layer = self.layer;
        let mlp_norm = self.mlp_norm_name();
        let path = |name: &str| format!("model.layers.{layer}.{name}");
        let (mut post_attention, mut post_mlp) = (None, None);
        if let Some([attention, mlp]) = &mut self.post_norms {
            (post_attention, post_mlp) = (Some(attention), Some(mlp));
        }
        let mut all = vec![(path("input_layernorm.weight"), &mut self.attention_norm)];
        all.extend(self.qkv.parameters_mut(&path("self_attn.qkv")));
        all.push((path("self_attn.q_norm.weight"), &mut self.q_norm));
        all.push((path("self_attn.k_norm.weight"), &mut self.k_norm));
        all.extend(self.o.parameters_mut(&path("self_attn.o")));
        all.extend(post_attention.map(|p| (path("post_attention_layernorm.weight"), p)));
        all.push((path(mlp_norm), &mut self.mlp_norm));
        all.extend(self.gate_up.parameters_mut(&path("mlp.gate_up")));
        all.extend(self.down.parameters_mut(&path("mlp.down")));
        all.extend(post_mlp.map(|p| (path("post_feedforward_layernorm.weight"), p)));
        all
    }

    /// Hugging Face's name of the norm before the MLP. Without post-norms it is named after the attention that precedes it.
    fn mlp_norm_name(&self) -> &'static str {
        if self.post_norms.is_some() {
            "pre_feedforward_layernorm.weight"
        } else {
            "post_attention_layernorm.weight"
        }
    }

    /// The four linear maps, by path inside the layer.
    pub(super) fn linears(&self) -> [&Linear; 4] {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
    }

    /// [`linears`](Self::linears), to be changed.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.qkv, &mut self.o, &mut self.gate_up, &mut self.down]
    }
}
