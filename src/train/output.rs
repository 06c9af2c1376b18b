//! The finished result on disk: a PEFT adapter, or a whole Hugging Face model.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::job::Job;
use crate::device::{Tensor, file};
use crate::error::{Error, Result};
use crate::model::checkpoint::write_safetensors;
use crate::model::peft;
use crate::model::transformer::Transformer;

/// The other files of a model folder.
const COMPANIONS: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
];

/// Writes what the job trained into its folder.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read or written.
pub fn write(model: &Transformer, job: &Job) -> Result<()> {
    if !job.settings.full {
        return peft::write(job.out, model, &job.settings.lora, &job.base.to_string_lossy());
    }
    let mut weights = model.weights()?;
    if job.settings.bf16 {
        for (_, tensor) in &mut weights {
            *tensor = tensor.to_bf16();
        }
    }
    let tensors: Vec<(String, &Tensor)> =
        weights.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    write_safetensors(&job.out.join("model.safetensors"), &tensors, &[("format", "pt")])?;
    for name in COMPANIONS {
        let (from, to) = (job.base.join(name), job.out.join(name));
        if from.exists() {
            file::copy(&from, &to)?;
        }
    }
    write_config(job.base, job.out, if job.settings.bf16 { "bfloat16" } else { "float32" })
}

/// Copies `config.json`, as that of a text model whose weights are of `dtype`.
fn write_config(base: &Path, out: &Path, dtype: &str) -> Result<()> {
    let path = base.join("config.json");
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let parse = |error: serde_json::Error| Error::file(&path, error.to_string());
    let mut config: Value = serde_json::from_slice(&text).map_err(parse)?;
    // The vision tower of a multimodal model is neither loaded nor written.
    if let Some(text_model) = config.get_mut("text_config").map(Value::take) {
        config = text_model;
        config["model_type"] = json!("gemma3_text");
        config["architectures"] = json!(["Gemma3ForCausalLM"]);
    }
    for key in ["dtype", "torch_dtype"] {
        if let Some(found) = config.get_mut(key) {
            *found = json!(dtype);
        }
    }
    let text = serde_json::to_string_pretty(&config).map_err(parse)?;
    file::replace(&out.join("config.json"), |out| writeln!(out, "{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multimodal_configuration_becomes_that_of_its_text_model() {
        let dir = tempfile::tempdir().unwrap();
        let (base, out) = (dir.path().join("base"), dir.path().join("out"));
        fs::create_dir_all(&base).unwrap();
        fs::create_dir_all(&out).unwrap();
        let config =
            json!({"model_type": "gemma3", "text_config": {"hidden_size": 8, "torch_dtype": "bfloat16"}});
        fs::write(base.join("config.json"), config.to_string()).unwrap();
        write_config(&base, &out, "float32").unwrap();
        let written: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(written["model_type"], "gemma3_text");
        assert_eq!((&written["hidden_size"], &written["torch_dtype"]), (&json!(8), &json!("float32")));
    }
}
