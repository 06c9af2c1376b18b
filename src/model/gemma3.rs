//! Gemma 3: `config.json` → [`Spec`]. Source: transformers, `models/gemma3/configuration_gemma3.py`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::ops::glu::Activation;
use crate::ops::norm::Gain;

use super::fields::{RopeFields, from_value, layers, refuse, windows};
use super::spec::{Family, Spec};

/// The fields of `Gemma3TextConfig` that matter here; a missing one takes the class's default.
/// Hub configs of the multimodal sizes omit most of them.
#[derive(Deserialize)]
#[serde(default)]
struct Gemma3Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_activation: String,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    query_pre_attn_scalar: f64,
    sliding_window: Option<usize>,
    /// Before `layer_types`: layer i is full iff (i + 1) is a multiple of it.
    sliding_window_pattern: usize,
    layer_types: Option<Vec<String>>,
    final_logit_softcapping: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<bool>,
    rope_parameters: Option<Ropes>,
    /// The old spelling of the three: full layers, sliding layers, full layers only.
    rope_theta: f64,
    rope_local_base_freq: f64,
    rope_scaling: Option<RopeFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ropes {
    full_attention: Option<RopeFields>,
    sliding_attention: Option<RopeFields>,
}

impl Default for Gemma3Config {
    fn default() -> Self {
        Self {
            vocab_size: 262_208,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 256,
            hidden_activation: "gelu_pytorch_tanh".to_owned(),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            attention_bias: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: Some(4096),
            sliding_window_pattern: 6,
            layer_types: None,
            final_logit_softcapping: None,
            attn_logit_softcapping: None,
            use_bidirectional_attention: None,
            rope_parameters: None,
            rope_theta: 1e6,
            rope_local_base_freq: 1e4,
            rope_scaling: None,
        }
    }
}

/// The spec of a `gemma3_text` config, or of the `text_config` of a `gemma3` one.
///
/// # Errors
/// [`Error::File`] naming a field that is malformed or whose value is not supported.
pub(super) fn spec(path: &Path, config: &Value) -> Result<Spec> {
    let c: Gemma3Config = from_value(path, config.clone())?;
    let layers = layers(path, c.num_hidden_layers)?;
    refuse(path, "hidden_activation", c.hidden_activation != "gelu_pytorch_tanh")?;
    refuse(path, "attention_bias", c.attention_bias)?;
    refuse(path, "final_logit_softcapping", c.final_logit_softcapping.is_some())?;
    refuse(path, "attn_logit_softcapping", c.attn_logit_softcapping.is_some())?;
    refuse(path, "use_bidirectional_attention", c.use_bidirectional_attention == Some(true))?;
    if c.sliding_window_pattern == 0 {
        return Err(Error::file(path, "`sliding_window_pattern` is 0, expected 1 or more"));
    }
    let types = c.layer_types.unwrap_or_else(|| {
        let kind =
            |i| if (i + 1) % c.sliding_window_pattern == 0 { "full_attention" } else { "sliding_attention" };
        (0..layers).map(|i| kind(i).to_owned()).collect()
    });
    let windows = windows(path, &types, layers, c.sliding_window)?;
    let (full, sliding) = match c.rope_parameters {
        Some(ropes) => (ropes.full_attention, ropes.sliding_attention),
        None => (c.rope_scaling, None),
    };
    let full = full.unwrap_or_default().rope(path, c.rope_theta)?;
    let sliding = sliding.unwrap_or_default().rope(path, c.rope_local_base_freq)?;
    Ok(Spec {
        family: Family::Gemma3,
        vocab: c.vocab_size,
        channels: c.hidden_size,
        layers,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim,
        mlp_width: c.intermediate_size,
        context: c.max_position_embeddings,
        norm_eps: c.rms_norm_eps as f32,
        gain: Gain::OnePlus,
        post_norms: true,
        activation: Activation::GeluTanh,
        ropes: windows.iter().map(|window| if window.is_some() { sliding } else { full }).collect(),
        windows,
        softmax_scale: c.query_pre_attn_scalar.powf(-0.5) as f32,
        embedding_scale: Some((c.hidden_size as f32).sqrt()),
        tied: c.tie_word_embeddings,
        bos: Some(2),
        eos: vec![1],
        pad: Some(0),
    })
}
