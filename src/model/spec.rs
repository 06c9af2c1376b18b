//! [`Spec`]: every difference between the supported checkpoints, as data.
//!
//! `config.rs` reads it once from a Hugging Face folder; the graph depends on it and never on the family.

use crate::ops::glu::Activation;
use crate::ops::norm::Gain;
use crate::ops::rope::Rope;

/// The family that a checkpoint belongs to. Only messages and cards use it: the graph reads the other fields of [`Spec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Gemma 3, text only.
    Gemma3,
    /// Qwen 3, dense.
    Qwen3,
}

impl Family {
    /// The name shown to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gemma3 => "Gemma 3",
            Self::Qwen3 => "Qwen 3",
        }
    }
}

/// The sizes and choices of one checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The family.
    pub family: Family,
    /// V, rows of the embedding.
    pub vocab: usize,
    /// C, width of the residual stream.
    pub channels: usize,
    /// L, number of blocks.
    pub layers: usize,
    /// H, query heads.
    pub heads: usize,
    /// KV, key/value heads; divides H.
    pub kv_heads: usize,
    /// D, width of a head; even. H·D need not equal C.
    pub head_dim: usize,
    /// F, inner width of the MLP.
    pub mlp_width: usize,
    /// The most positions that the checkpoint was trained for (`max_position_embeddings`).
    pub context: usize,
    /// Added to the mean square before the root, in every norm.
    pub norm_eps: f32,
    /// How a norm turns its weight into a factor.
    pub gain: Gain,
    /// Whether the outputs of attention and MLP are normalised before they join the residual stream.
    pub post_norms: bool,
    /// The gate's activation.
    pub activation: Activation,
    /// One a layer: `Some(w)` lets query q see keys with q − k < w; `None` all keys up to q.
    pub windows: Vec<Option<usize>>,
    /// One a layer.
    pub ropes: Vec<Rope>,
    /// Multiplies q·k.
    pub softmax_scale: f32,
    /// Multiplies the embedding's output, where there is such a factor.
    pub embedding_scale: Option<f32>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Begin-of-sequence id.
    pub bos: Option<u32>,
    /// Ids that end a generation; empty if the checkpoint names none.
    pub eos: Vec<u32>,
    /// Padding id.
    pub pad: Option<u32>,
}

impl Spec {
    /// The text model's tensors by their canonical Hugging Face names, with shapes (out, in) for projections,
    /// in the order in which a forward pass meets them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, d, f) = (self.channels, self.head_dim, self.mlp_width);
        let (q, kv) = (self.heads * d, self.kv_heads * d);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, c])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            add("input_layernorm", &[c]);
            add("self_attn.q_proj", &[q, c]);
            add("self_attn.k_proj", &[kv, c]);
            add("self_attn.v_proj", &[kv, c]);
            add("self_attn.q_norm", &[d]);
            add("self_attn.k_norm", &[d]);
            add("self_attn.o_proj", &[c, q]);
            // Where there are post-norms this name is the norm after attention, else the one before the MLP.
            add("post_attention_layernorm", &[c]);
            if self.post_norms {
                add("pre_feedforward_layernorm", &[c]);
            }
            add("mlp.gate_proj", &[f, c]);
            add("mlp.up_proj", &[f, c]);
            add("mlp.down_proj", &[c, f]);
            if self.post_norms {
                add("post_feedforward_layernorm", &[c]);
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![c]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab, c]));
        }
        tensors
    }

    /// Number of weights, a tied head counted once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
