//! `config.json` → [`Spec`]: which family a checkpoint belongs to, its token ids, and the bounds that every spec keeps.
//!
//! The readers of each family's own fields are in `gemma3.rs` and `qwen3.rs`.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fields::{bounded, from_value, refuse};
use super::spec::Spec;
use super::{gemma3, qwen3};
use crate::error::{Error, Result};

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

    fn set_ids(&mut self, ids: &Ids) {
        self.bos = ids.bos.or(self.bos);
        self.pad = ids.pad.or(self.pad);
        if let Some(eos) = &ids.eos {
            self.eos = eos.list();
        }
    }

    /// Checks the bounds that keep every product of sizes within `usize`, and the relations between sizes that the ops need.
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

/// False for a classifier or a bare encoder: their folders look the same but have no head over the vocabulary.
fn generates_text(config: &Value) -> bool {
    let Some(names) = config.get("architectures").and_then(Value::as_array) else { return true };
    names
        .iter()
        .filter_map(Value::as_str)
        .any(|n| n.ends_with("ForCausalLM") || n.ends_with("ForConditionalGeneration"))
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::file(path, format!("not valid JSON for this file: {e}")))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io(path))
}
