//! Qwen 3 (dense): `config.json` → [`Spec`]. Source: transformers, `models/qwen3/configuration_qwen3.py`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::Result;
use crate::ops::glu::Activation;
use crate::ops::norm::Gain;

use super::fields::{RopeFields, from_value, layers, refuse, windows};
use super::spec::{Family, Spec};

/// The fields of `Qwen3Config` that matter here; a missing one takes the class's default.
#[derive(Deserialize)]
#[serde(default)]
struct Qwen3Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    /// Without `layer_types`: the first layer that slides, if `use_sliding_window`.
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
    rope_parameters: Option<RopeFields>,
    /// The old spelling of the two.
    rope_theta: f64,
    rope_scaling: Option<RopeFields>,
}

impl Default for Qwen3Config {
    fn default() -> Self {
        Self {
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 22_016,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            head_dim: 128,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: false,
            use_sliding_window: false,
            sliding_window: Some(4096),
            max_window_layers: 28,
            layer_types: None,
            rope_parameters: None,
            rope_theta: 1e4,
            rope_scaling: None,
        }
    }
}

/// The spec of a `qwen3` config.
///
/// # Errors
/// [`Error::File`](crate::Error::File) naming a field that is malformed or whose value is not supported.
pub(super) fn spec(path: &Path, config: &Value) -> Result<Spec> {
    let c: Qwen3Config = from_value(path, config.clone())?;
    let layers = layers(path, c.num_hidden_layers)?;
    refuse(path, "hidden_act", c.hidden_act != "silu")?;
    refuse(path, "attention_bias", c.attention_bias)?;
    let window = c.sliding_window.filter(|_| c.use_sliding_window);
    let types = c.layer_types.unwrap_or_else(|| {
        let slides = |i| window.is_some() && i >= c.max_window_layers;
        let kind = |i| if slides(i) { "sliding_attention" } else { "full_attention" };
        (0..layers).map(|i| kind(i).to_owned()).collect()
    });
    let rope = c.rope_scaling.or(c.rope_parameters).unwrap_or_default().rope(path, c.rope_theta)?;
    Ok(Spec {
        family: Family::Qwen3,
        vocab: c.vocab_size,
        channels: c.hidden_size,
        layers,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads.unwrap_or(c.num_attention_heads),
        head_dim: c.head_dim,
        mlp_width: c.intermediate_size,
        context: c.max_position_embeddings,
        norm_eps: c.rms_norm_eps as f32,
        gain: Gain::Plain,
        post_norms: false,
        activation: Activation::Silu,
        windows: windows(path, &types, layers, window)?,
        ropes: vec![rope; layers],
        softmax_scale: (c.head_dim as f64).powf(-0.5) as f32,
        embedding_scale: None,
        tied: c.tie_word_embeddings,
        bos: None,
        eos: Vec::new(),
        pad: None,
    })
}
