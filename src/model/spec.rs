//! [`Spec`]: every difference between the supported checkpoints, as data.
//!
//! Read once from a Hugging Face folder; the graph then asks it and never the family. The readers of each
//! family's `config.json` are in `gemma3.rs` and `qwen3.rs`.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::ops::glu::Activation;
use crate::ops::norm::Gain;
use crate::ops::rope::Rope;

use super::{gemma3, qwen3};

/// The family a checkpoint belongs to. For messages and cards: the graph reads the other fields of [`Spec`].
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
    /// The most positions the checkpoint was made for (`max_position_embeddings`).
    pub context: usize,
    /// Added to the mean square before the root, in every norm.
    pub norm_eps: f32,
    /// What a norm makes of its weight.
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
    /// Reads `config.json` and, where present, the ids of `generation_config.json` from the folder `dir`.
    /// Fields that a config omits take the default of the class in transformers 5, which is what the file means.
    ///
    /// # Errors
    /// [`Error::Io`] if `config.json` cannot be read; [`Error::File`] if it is malformed, or describes something
    /// this engine does not compute (another architecture, softcapping, biases, quantisation, …).
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let mut spec = Self::from_config(&path, parse(&path, &read(&path)?)?)?;
        let path = dir.join("generation_config.json");
        if path.exists() {
            spec.set_ids(&parse(&path, &read(&path)?)?);
        }
        Ok(spec)
    }

    /// From the value of a `config.json`, which messages call `path`.
    pub(super) fn from_config(path: &Path, config: Value) -> Result<Self> {
        refuse(path, "quantization_config", config.get("quantization_config").is_some_and(|q| !q.is_null()))?;
        refuse(path, "architectures", !generates_text(&config))?;
        let text = text_config(&config);
        let mut spec = match text.get("model_type").and_then(Value::as_str) {
            Some("gemma3_text") => gemma3::spec(path, &text)?,
            Some("qwen3") => qwen3::spec(path, &text)?,
            Some(other) => {
                let what =
                    format!("model type `{other}` is not supported; gemma3_text, gemma3 and qwen3 are");
                return Err(Error::file(path, what));
            }
            None => return Err(Error::file(path, "no `model_type`: not the config of a Hugging Face model")),
        };
        spec.check(path)?;
        spec.set_ids(&from_value(path, text)?);
        spec.set_ids(&from_value(path, config)?);
        Ok(spec)
    }

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

    fn set_ids(&mut self, ids: &Ids) {
        self.bos = ids.bos.or(self.bos);
        self.pad = ids.pad.or(self.pad);
        if let Some(eos) = &ids.eos {
            self.eos = eos.list();
        }
    }

    /// Bounds that keep every product of sizes within `usize`, and the relations the ops rely on.
    fn check(&self, path: &Path) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab, 1 << 20),
            ("hidden_size", self.channels, 1 << 20),
            ("intermediate_size", self.mlp_width, 1 << 20),
            ("num_attention_heads", self.heads, 1 << 10),
            ("num_key_value_heads", self.kv_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
            ("max_position_embeddings", self.context, u32::MAX as usize),
        ];
        for (name, size, most) in sizes {
            bounded(path, name, size, most)?;
        }
        refuse(path, "head_dim (odd)", !self.head_dim.is_multiple_of(2))?;
        refuse(
            path,
            "num_attention_heads (no multiple of num_key_value_heads)",
            !self.heads.is_multiple_of(self.kv_heads),
        )?;
        refuse(path, "rms_norm_eps (negative)", self.norm_eps.is_nan() || self.norm_eps < 0.0)?;
        refuse(path, "sliding_window (0)", self.windows.contains(&Some(0)))?;
        refuse(path, "query_pre_attn_scalar", !(self.softmax_scale.is_finite() && self.softmax_scale > 0.0))
    }
}

/// Token ids, as `config.json` and `generation_config.json` both spell them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Ids {
    #[serde(rename = "bos_token_id")]
    bos: Option<u32>,
    #[serde(rename = "eos_token_id")]
    eos: Option<OneOrMany>,
    #[serde(rename = "pad_token_id")]
    pad: Option<u32>,
}

/// One id or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn list(&self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![*id],
            Self::Many(ids) => ids.clone(),
        }
    }
}

/// The rotary parameters of one kind of layer: an entry of `rope_parameters`, or the old `rope_scaling`.
#[derive(Deserialize, Clone, Default)]
#[serde(default)]
pub(super) struct RopeFields {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    factor: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

impl RopeFields {
    /// The rope these fields describe, `base` where they name no theta.
    pub(super) fn rope(&self, path: &Path, base: f64) -> Result<Rope> {
        refuse(path, "partial_rotary_factor", self.partial_rotary_factor.is_some_and(|p| p != 1.0))?;
        let base = self.rope_theta.unwrap_or(base);
        refuse(path, "rope_theta (must be above 1)", !(base.is_finite() && base > 1.0))?;
        match self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default") {
            "default" => Ok(Rope { base, factor: 1.0 }),
            "linear" => {
                let factor = self.factor.unwrap_or(f64::NAN);
                refuse(
                    path,
                    "rope type linear (its factor must be 1 or more)",
                    !(factor >= 1.0 && factor.is_finite()),
                )?;
                Ok(Rope { base, factor })
            }
            other => Err(Error::file(
                path,
                format!("rope type `{other}` is not supported; default and linear are"),
            )),
        }
    }
}

/// The config of the language model: the whole of it, or the part that a multimodal Gemma nests.
fn text_config(config: &Value) -> Value {
    if config.get("model_type").and_then(Value::as_str) != Some("gemma3") {
        return config.clone();
    }
    let mut text = config.get("text_config").and_then(Value::as_object).cloned().unwrap_or_default();
    text.insert("model_type".to_owned(), "gemma3_text".into());
    if let Some(tied) = config.get("tie_word_embeddings") {
        text.insert("tie_word_embeddings".to_owned(), tied.clone());
    }
    Value::Object(text)
}

/// False for a classifier or a bare encoder, whose folder looks alike but has no head over the vocabulary.
fn generates_text(config: &Value) -> bool {
    let Some(names) = config.get("architectures").and_then(Value::as_array) else { return true };
    names
        .iter()
        .filter_map(Value::as_str)
        .any(|n| n.ends_with("ForCausalLM") || n.ends_with("ForConditionalGeneration"))
}

/// Most layers a config may ask for; far above any checkpoint, far below what memory cannot hold.
const MOST_LAYERS: usize = 1 << 10;

/// Checks the number of layers, before anything is made for each of them.
pub(super) fn layers(path: &Path, layers: usize) -> Result<usize> {
    bounded(path, "num_hidden_layers", layers, MOST_LAYERS)?;
    Ok(layers)
}

fn bounded(path: &Path, name: &str, size: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&size) {
        return Ok(());
    }
    Err(Error::file(path, format!("`{name}` is {size}, expected 1 to {most}")))
}

/// The window of each layer from the `layer_types` of a config.
pub(super) fn windows(
    path: &Path,
    types: &[String],
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>> {
    if types.len() != layers {
        let what = format!("`layer_types` has {} entries for {layers} layers", types.len());
        return Err(Error::file(path, what));
    }
    let of = |kind: &String| match (kind.as_str(), window) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(_)) => Ok(window),
        ("sliding_attention", None) => {
            Err(Error::file(path, "`layer_types` names sliding_attention but there is no `sliding_window`"))
        }
        (other, _) => Err(Error::file(path, format!("layer type `{other}` is not supported"))),
    };
    types.iter().map(of).collect()
}

/// Refuses a config in which `field` has a value this engine does not compute.
pub(super) fn refuse(path: &Path, field: &str, present: bool) -> Result<()> {
    if present { Err(Error::file(path, format!("this value of `{field}` is not supported"))) } else { Ok(()) }
}

/// A part of a config as its Rust type.
pub(super) fn from_value<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::file(path, e.to_string()))
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::file(path, format!("not valid JSON for this file: {e}")))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io(path))
}
