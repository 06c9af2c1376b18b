//! Reads and writes adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::checkpoint::{read_safetensors, write_safetensors};
use super::lora::{Lora, Target};
use super::transformer::{NamedAdapter, Transformer};
use crate::device::{Tensor, file};
use crate::error::{Error, Result};

/// PEFT's prefix of the name of an adapted module.
const PREFIX: &str = "base_model.model.";

/// Writes the model's adapter, which `lora` describes, as PEFT does: `adapter_config.json` and
/// `adapter_model.safetensors` (f32). `base` names the model it belongs to.
///
/// # Errors
/// [`Error::Io`] if a file cannot be written.
pub fn write(dir: &Path, model: &Transformer, lora: &Lora, base: &str) -> Result<()> {
    file::make_folder(dir)?;
    let mut tensors = Vec::new();
    for NamedAdapter { name, segment } in model.adapters()? {
        let a = Tensor::from_f32(&[lora.rank, segment.inputs], segment.a);
        let b = Tensor::from_f32(&[segment.outputs, lora.rank], segment.b);
        tensors.push((format!("{PREFIX}{name}.lora_A.weight"), a));
        tensors.push((format!("{PREFIX}{name}.lora_B.weight"), b));
    }
    let tensors: Vec<(String, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    write_safetensors(&dir.join("adapter_model.safetensors"), &tensors, &[("format", "pt")])?;
    let path = dir.join("adapter_config.json");
    let text =
        serde_json::to_string_pretty(&config(lora, base)).map_err(|e| Error::file(&path, e.to_string()))?;
    file::replace(&path, |out| writeln!(out, "{text}"))
}

/// `adapter_config.json`: PEFT's `LoraConfig`, in its alphabetical order, with its defaults.
fn config(lora: &Lora, base: &str) -> serde_json::Value {
    // PEFT declares an integer; a whole number is written as one.
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    // The shortest decimal that is this f32: 0.1, not 0.10000000149.
    let dropout: f64 = lora.dropout.to_string().parse().unwrap_or_default();
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": lora.targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": lora.rslora,
    })
}

/// The fields of `adapter_config.json` that are read.
#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    use_rslora: bool,
    /// All others; some of them may ask for features that are not supported.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl AdapterConfig {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(Error::io(path))?;
        let config: Self = serde_json::from_slice(&text).map_err(|error| {
            Error::file(path, format!("not the configuration of a LoRA adapter: {error}"))
        })?;
        if config.peft_type != "LORA" {
            return Err(Error::file(
                path,
                format!("peft_type {} is not supported, only LORA", config.peft_type),
            ));
        }
        if config.r == 0 {
            return Err(Error::file(path, "an adapter of rank 0 holds nothing"));
        }
        // Each of these changes what the adapter computes; ignoring one would silently give wrong numbers.
        for feature in [
            "use_dora",
            "use_qalora",
            "lora_bias",
            "fan_in_fan_out",
            "rank_pattern",
            "alpha_pattern",
            "layer_replication",
            "modules_to_save",
            "target_parameters",
            "trainable_token_indices",
            "alora_invocation_tokens",
        ] {
            if config.rest.get(feature).is_some_and(is_used) {
                return Err(Error::file(
                    path,
                    format!("{feature} is not supported: only plain LoRA and rsLoRA are"),
                ));
            }
        }
        match config.rest.get("bias").and_then(|bias| bias.as_str()) {
            None | Some("none") => Ok(config),
            Some(bias) => Err(Error::file(path, format!("bias {bias} is not supported, only none"))),
        }
    }
}

/// Whether a setting differs from "off".
fn is_used(value: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Bool, Null, Object};
    match value {
        Null | Bool(false) => false,
        Array(items) => !items.is_empty(),
        Object(items) => !items.is_empty(),
        _ => true,
    }
}

/// Reads a PEFT adapter from `dir` and attaches it to `model`, frozen; it replaces any adapter that the model has.
///
/// # Errors
/// [`Error::File`] for an unsupported kind of adapter and for keys that do not match the model's layers, missing or
/// left over; [`Error::Shape`] for tensors of another model; [`Error::Io`] if a file cannot be read.
pub fn read(dir: &Path, model: &mut Transformer) -> Result<()> {
    load(dir, model, false)
}

/// As [`read`], to be trained further.
///
/// # Errors
/// As [`read`].
pub fn read_to_train(dir: &Path, model: &mut Transformer) -> Result<()> {
    load(dir, model, true)
}

/// One projection's adapter: W becomes W + scale · B·A.
#[derive(Debug)]
pub struct Factors {
    /// The module, `model.layers.3.self_attn.q_proj` for instance.
    pub module: String,
    /// (R, I) f32.
    pub a: Tensor,
    /// (O, R) f32.
    pub b: Tensor,
}

/// Reads a PEFT adapter from `dir` without a model: its settings, and its projections by layer and in the order of the
/// forward pass.
///
/// # Errors
/// [`Error::File`] for an unsupported kind of adapter, for keys that name no projection of a text model and for halves that
/// do not fit each other; [`Error::Io`] if a file cannot be read.
pub fn factors(dir: &Path) -> Result<(Lora, Vec<Factors>)> {
    let (lora, mut tensors) = tensors(dir)?;
    let path = dir.join("adapter_model.safetensors");
    let mut modules: Vec<String> = tensors.keys().map(|(module, _)| module.clone()).collect();
    modules.dedup();
    modules.sort_by_key(|module| place(module));
    let mut take = |module: &str, half: char| {
        tensors.remove(&(module.to_owned(), half)).ok_or_else(|| {
            let what = format!("no tensor {PREFIX}{module}.lora_{half}.weight: the adapter is incomplete");
            Error::file(&path, what)
        })
    };
    let mut all = Vec::new();
    for module in modules {
        let (a, b) = (take(&module, 'A')?, take(&module, 'B')?);
        match (a.shape(), b.shape()) {
            ([r, _], [_, columns]) if *r == lora.rank && r == columns => all.push(Factors { module, a, b }),
            shapes => {
                let what = format!("{module}: A and B of shapes {shapes:?} are not of rank {}", lora.rank);
                return Err(Error::file(&path, what));
            }
        }
    }
    Ok((lora, all))
}

/// Layer and projection of a module's name.
fn place(module: &str) -> (usize, Option<usize>) {
    let layer = module.split('.').find_map(|part| part.parse().ok()).unwrap_or_default();
    (layer, Target::ALL.iter().position(|target| module.ends_with(target.path())))
}

/// Tensors by module and half, A or B, in f32.
type Halves = BTreeMap<(String, char), Tensor>;

/// An adapter's settings and tensors.
fn tensors(dir: &Path) -> Result<(Lora, Halves)> {
    let config = AdapterConfig::read(&dir.join("adapter_config.json"))?;
    let path = dir.join("adapter_model.safetensors");
    let mut tensors = BTreeMap::new();
    for (key, tensor) in read_safetensors(&path)? {
        let name = module(&key).ok_or_else(|| {
            Error::file(
                &path,
                format!("tensor {key} matches no projection of the model: is it an adapter of another?"),
            )
        })?;
        tensors.insert(name, tensor.to_f32());
    }
    let adapts = |target: &Target| tensors.keys().any(|(module, _)| module.ends_with(target.path()));
    let targets: Vec<Target> = Target::ALL.into_iter().filter(adapts).collect();
    if targets.is_empty() {
        return Err(Error::file(&path, "holds no adapter tensor"));
    }
    let AdapterConfig { r: rank, lora_alpha: alpha, use_rslora: rslora, lora_dropout: dropout, .. } = config;
    Ok((Lora { rank, alpha, rslora, dropout, targets }, tensors))
}

fn load(dir: &Path, model: &mut Transformer, trained: bool) -> Result<()> {
    let (lora, mut tensors) = tensors(dir)?;
    let path = dir.join("adapter_model.safetensors");
    let rank = lora.rank;
    model.attach_on_host(&lora, 0)?;
    let places: Vec<(String, usize, usize)> = model
        .adapters()?
        .into_iter()
        .map(|NamedAdapter { name, segment }| (name, segment.inputs, segment.outputs))
        .collect();
    for (name, inputs, outputs) in places {
        let mut take = |half: char, shape: [usize; 2]| {
            let key = format!("{name}.lora_{half}.weight");
            let tensor = tensors.remove(&(name.clone(), half)).ok_or_else(|| {
                Error::file(&path, format!("no tensor {PREFIX}{key}: the adapter is incomplete"))
            })?;
            if tensor.shape() == shape {
                return Ok(tensor);
            }
            let (op, found) = (path.display().to_string(), tensor.shape().to_vec());
            Err(Error::Shape { op, name: key, found, expected: shape.to_vec() })
        };
        let (a, b) = (take('A', [rank, inputs])?, take('B', [outputs, rank])?);
        let set = model.set_adapter(&name, a.f32(), b.f32())?;
        assert!(set, "{name} was listed with this size");
    }
    match tensors.keys().next() {
        None => model.settle_adapters(trained),
        Some((name, half)) => Err(Error::file(
            &path,
            format!(
                "tensor {PREFIX}{name}.lora_{half}.weight matches no layer of the model: is it an adapter of another?"
            ),
        )),
    }
}

/// The module and the half (A or B) that a key of `adapter_model.safetensors` names, under the name of the text model
/// alone: `("model.layers.0.self_attn.q_proj", 'A')`.
fn module(key: &str) -> Option<(String, char)> {
    let key = key.strip_prefix(PREFIX)?;
    // Multimodal Gemma checkpoints nest the text model, in the old and the new order.
    let key = ["model.language_model.", "language_model.model.", "model."]
        .iter()
        .find_map(|prefix| key.strip_prefix(prefix))?;
    let (path, half) = [(".lora_A.weight", 'A'), (".lora_B.weight", 'B')]
        .iter()
        .find_map(|&(suffix, half)| Some((key.strip_suffix(suffix)?, half)))?;
    let (layer, projection) = path.strip_prefix("layers.")?.split_once('.')?;
    layer.parse::<usize>().ok()?;
    Target::ALL.iter().any(|target| target.path() == projection).then(|| (format!("model.{path}"), half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_text_and_multimodal_models() {
        let q = Some(("model.layers.3.self_attn.q_proj".to_string(), 'A'));
        for prefix in ["model.", "model.language_model.", "language_model.model."] {
            assert_eq!(
                module(&format!("base_model.model.{prefix}layers.3.self_attn.q_proj.lora_A.weight")),
                q
            );
        }
        for key in [
            "model.layers.3.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.3.self_attn.q_proj.weight",
            "base_model.model.model.layers.x.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.3.self_attn.x_proj.lora_A.weight",
            "base_model.model.vision_tower.layers.3.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(module(key), None, "{key}");
        }
    }

    #[test]
    fn unsupported_kinds_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter_config.json");
        let mut value = config(&Lora::default(), "base");
        let mut refusal = |key: &str, set: serde_json::Value| {
            let old = value[key].clone();
            value[key] = set;
            fs::write(&path, value.to_string()).unwrap();
            value[key] = old;
            AdapterConfig::read(&path).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refusal("revision", json!(null)), "");
        assert!(refusal("use_dora", json!(true)).contains("use_dora"));
        assert!(refusal("rank_pattern", json!({"q_proj": 4})).contains("rank_pattern"));
        assert!(refusal("bias", json!("all")).contains("bias all"));
        assert!(refusal("peft_type", json!("IA3")).contains("IA3"));
        assert!(refusal("r", json!(0)).contains("rank 0"));
        assert!(refusal("r", json!("x")).contains("not the configuration"));
    }
}
