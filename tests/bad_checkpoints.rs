//! Model folders: the spellings that occur on the hub are read alike, and every damaged one is refused with one
//! line that names the file, the tensor or the field.

use std::fs;
use std::path::Path;

use emlab::device::Tensor;
use emlab::device::philox::Key;
use emlab::model::checkpoint::{Checkpoint, read_safetensors, write_safetensors};
use emlab::model::spec::{Family, Spec};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The smallest config with every feature: two layers, GQA, D ≠ C/H.
fn gemma_config() -> Value {
    json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 10, "hidden_size": 6,
        "intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "query_pre_attn_scalar": 16, "sliding_window": 3, "max_position_embeddings": 64,
        "layer_types": ["sliding_attention", "full_attention"], "eos_token_id": 1,
    })
}

fn qwen_config() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 10, "hidden_size": 6,
        "intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "rope_theta": 1e6, "eos_token_id": 9,
    })
}

fn folder(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn spec(config: &Value) -> emlab::Result<Spec> {
    Spec::read(folder(config).path())
}

/// `config` with the fields of `changes` set; null removes.
fn with(mut config: Value, changes: Value) -> Value {
    let (fields, Value::Object(changes)) = (config.as_object_mut().unwrap(), changes) else {
        panic!("an object")
    };
    for (key, value) in changes {
        if value.is_null() {
            fields.shift_remove(&key);
        } else {
            fields.insert(key, value);
        }
    }
    config
}

type Weights = Vec<(String, Tensor)>;

/// Random weights for every tensor of the spec.
fn weights(spec: &Spec) -> Weights {
    let random = |(row, (name, shape)): (usize, (String, Vec<usize>))| {
        let n: usize = shape.iter().product();
        let key = Key::new(7, &["weights"]);
        let data = (0..n).map(|i| key.uniform(row as u32, i as u32) - 0.5).collect();
        (name, Tensor::from_f32(&shape, data))
    };
    spec.tensors().into_iter().enumerate().map(random).collect()
}

fn write(path: &Path, tensors: &[(String, Tensor)]) {
    let views: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    write_safetensors(path, &views, &[("format", "pt")]).unwrap();
}

/// A whole model folder, its tensors passed through `change` before they are written.
fn model(config: &Value, change: impl FnOnce(&mut Weights)) -> TempDir {
    let dir = folder(config);
    let mut tensors = weights(&Spec::read(dir.path()).unwrap());
    change(&mut tensors);
    write(&dir.path().join("model.safetensors"), &tensors);
    dir
}

/// The message with which a folder is refused, on opening or on reading its tensors.
fn refusal(dir: &TempDir) -> String {
    let read = || {
        let checkpoint = Checkpoint::open(dir.path())?;
        for (name, shape) in checkpoint.spec().tensors() {
            checkpoint.tensor(&name, &shape)?;
        }
        Ok::<_, emlab::Error>(())
    };
    let message = read().expect_err("the folder must be refused").to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} must contain {part:?}");
    }
}

#[test]
fn old_and_new_spelling_are_the_same_spec() {
    let new = with(
        gemma_config(),
        json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    );
    let old = with(
        gemma_config(),
        json!({"layer_types": null, "sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
               "rope_scaling": {"type": "linear", "factor": 8.0}}),
    );
    let nested = with(old.clone(), json!({"architectures": null, "model_type": null}));
    let nested = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                        "text_config": nested, "vision_config": {"hidden_size": 3}, "eos_token_id": 1});
    let new = spec(&new).unwrap();
    assert_eq!(spec(&old).unwrap(), new);
    assert_eq!(spec(&nested).unwrap(), new);
    assert_eq!(new.windows, [Some(3), None]);
    assert_eq!((new.ropes[0].base, new.ropes[0].factor), (1e4, 1.0));
    assert_eq!((new.ropes[1].base, new.ropes[1].factor), (1e6, 8.0));

    let old = with(qwen_config(), json!({"rope_scaling": {"type": "linear", "factor": 2.0}}));
    let new = with(
        qwen_config(),
        json!({"rope_theta": null, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}}),
    );
    assert_eq!(spec(&old).unwrap(), spec(&new).unwrap());
}

#[test]
fn omitted_fields_take_the_class_default() {
    // The published config of the 4B checkpoint has no more than this, besides its vision tower.
    let text = json!({"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                      "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                      "sliding_window": 1024});
    let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                        "text_config": text, "eos_token_id": [1, 106], "boi_token_index": 255_999});
    let spec = spec(&config).unwrap();
    assert_eq!((spec.family, spec.vocab, spec.heads, spec.kv_heads), (Family::Gemma3, 262_208, 8, 4));
    assert_eq!((spec.head_dim, spec.context, spec.tied), (256, 131_072, true));
    assert_eq!(spec.windows.iter().filter(|w| w.is_none()).count(), 5);
    assert_eq!(spec.eos, [1, 106]);
    assert_eq!(spec.softmax_scale, 0.0625);
    assert_eq!(spec.embedding_scale, Some(2560_f32.sqrt()));
    assert_eq!(spec.parameters(), 3_880_263_168);
}

#[test]
fn generation_config_decides_what_ends_a_text() {
    let dir = folder(&gemma_config());
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [1, 6], "top_k": 64}"#).unwrap();
    let spec = Spec::read(dir.path()).unwrap();
    assert_eq!((spec.eos, spec.bos, spec.pad), (vec![1, 6], Some(2), Some(0)));
}

#[test]
fn qwen_windows() {
    assert_eq!(spec(&qwen_config()).unwrap().windows, [None, None]);
    let sliding = json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1});
    assert_eq!(spec(&with(qwen_config(), sliding)).unwrap().windows, [None, Some(4)]);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let cases = [
        (gemma_config(), json!({"model_type": "llama"}), "llama"),
        (gemma_config(), json!({"model_type": null}), "model_type"),
        (gemma_config(), json!({"architectures": ["Gemma3ForSequenceClassification"]}), "architectures"),
        (gemma_config(), json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (gemma_config(), json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (gemma_config(), json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        (gemma_config(), json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        (gemma_config(), json!({"hidden_activation": "relu"}), "hidden_activation"),
        (gemma_config(), json!({"layer_types": ["full_attention"]}), "layer_types"),
        (
            gemma_config(),
            json!({"layer_types": ["chunked_attention", "full_attention"]}),
            "chunked_attention",
        ),
        (gemma_config(), json!({"head_dim": 3}), "head_dim"),
        (gemma_config(), json!({"num_hidden_layers": 4_000_000_000_u32}), "num_hidden_layers"),
        (gemma_config(), json!({"num_attention_heads": 0}), "num_attention_heads"),
        (gemma_config(), json!({"vocab_size": "many"}), "many"),
        (qwen_config(), json!({"model_type": "qwen3_moe"}), "qwen3_moe"),
        (qwen_config(), json!({"attention_bias": true}), "attention_bias"),
        (qwen_config(), json!({"hidden_act": "gelu"}), "hidden_act"),
        (qwen_config(), json!({"num_attention_heads": 3, "num_key_value_heads": 2}), "num_key_value_heads"),
        (qwen_config(), json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "yarn"),
        (qwen_config(), json!({"rope_scaling": {"rope_type": "linear"}}), "factor"),
    ];
    for (config, change, name) in cases {
        let message = spec(&with(config, change)).unwrap_err().to_string();
        assert_names(&message, &["config.json", name]);
        assert!(!message.contains('\n'), "one line: {message}");
    }
    let dir = folder(&json!({}));
    fs::write(dir.path().join("config.json"), "{\"model_type\":").unwrap();
    assert_names(&Spec::read(dir.path()).unwrap_err().to_string(), &["config.json", "JSON", "line 1"]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert_names(&Spec::read(dir.path()).unwrap_err().to_string(), &["config.json"]);
}

#[test]
fn whole_checkpoints_read_back() {
    for config in [gemma_config(), qwen_config()] {
        let dir = model(&config, |_| {});
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert!(checkpoint.has("model.layers.1.self_attn.q_proj.weight"));
        assert_eq!(checkpoint.has("lm_head.weight"), !checkpoint.spec().tied);
        for (name, expected) in weights(checkpoint.spec()) {
            let found = checkpoint.tensor(&name, expected.shape()).unwrap();
            assert_eq!(found.f32(), expected.f32(), "{name}");
        }
        assert_names(
            &checkpoint.tensor("model.norm.weight", &[7]).unwrap_err().to_string(),
            &["model.norm", "[7]"],
        );
    }
}

#[test]
fn prefixes_of_multimodal_checkpoints_are_removed_and_the_tower_is_skipped() {
    for (body, head) in [("language_model.model.", "language_model."), ("model.language_model.", "")] {
        let config = with(gemma_config(), json!({"tie_word_embeddings": false}));
        let dir = model(&config, |tensors| {
            for (name, _) in tensors.iter_mut() {
                *name = match name.strip_prefix("model.") {
                    Some(rest) => format!("{body}{rest}"),
                    None => format!("{head}{name}"),
                };
            }
            let tower = if head.is_empty() { "model.vision_tower.x" } else { "vision_tower.x" };
            tensors.push((tower.to_owned(), Tensor::from_f32(&[1], vec![f32::NAN])));
            let projector =
                if head.is_empty() { "model.multi_modal_projector.x" } else { "multi_modal_projector.x" };
            tensors.push((projector.to_owned(), Tensor::from_f32(&[1], vec![1.0])));
        });
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        for (name, expected) in weights(checkpoint.spec()) {
            assert_eq!(checkpoint.tensor(&name, expected.shape()).unwrap().f32(), expected.f32(), "{name}");
        }
    }
}

/// Splits a model over two shards with an index; returns the folder.
fn sharded() -> TempDir {
    let dir = folder(&qwen_config());
    let tensors = weights(&Spec::read(dir.path()).unwrap());
    let (first, second) = tensors.split_at(5);
    write(&dir.path().join("model-1.safetensors"), first);
    write(&dir.path().join("model-2.safetensors"), second);
    let shard = |i: usize| if i < 5 { "model-1.safetensors" } else { "model-2.safetensors" };
    let map: serde_json::Map<_, _> =
        tensors.iter().enumerate().map(|(i, (name, _))| (name.clone(), json!(shard(i)))).collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    dir
}

fn edit_index(dir: &TempDir, edit: impl FnOnce(&mut Value)) {
    let path = dir.path().join("model.safetensors.index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut index["weight_map"]);
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn shards_are_read_and_checked() {
    let dir = sharded();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for (name, expected) in weights(checkpoint.spec()) {
        assert_eq!(checkpoint.tensor(&name, expected.shape()).unwrap().f32(), expected.f32(), "{name}");
    }

    fs::remove_file(dir.path().join("model-2.safetensors")).unwrap();
    assert_names(&refusal(&dir), &["index.json", "model-2.safetensors", "fetch"]);

    let dir = sharded();
    edit_index(&dir, |map| map["lm_head.weight"] = json!("model-1.safetensors"));
    assert_names(&refusal(&dir), &["model-1.safetensors", "lm_head.weight"]);

    let dir = sharded();
    edit_index(&dir, |map| {
        map.as_object_mut().unwrap().shift_remove("lm_head.weight");
    });
    assert_names(&refusal(&dir), &["lm_head.weight"]);

    let dir = sharded();
    edit_index(&dir, |map| map["lm_head.weight"] = json!("../model-1.safetensors"));
    assert_names(&refusal(&dir), &["index.json", "plain file name"]);

    let dir = sharded();
    fs::write(dir.path().join("model.safetensors.index.json"), "[]").unwrap();
    assert_names(&refusal(&dir), &["index.json"]);
}

#[test]
fn damaged_files_are_refused() {
    let path = |dir: &TempDir| dir.path().join("model.safetensors");
    let dir = model(&gemma_config(), |_| {});
    let bytes = fs::read(path(&dir)).unwrap();
    for length in [0, 5, 100, bytes.len() - 1] {
        fs::write(path(&dir), &bytes[..length]).unwrap();
        assert_names(&refusal(&dir), &["model.safetensors", "truncated or corrupt"]);
    }

    let dir = model(&gemma_config(), |_| {});
    let mut bytes = fs::read(path(&dir)).unwrap();
    bytes[9] = b'!';
    fs::write(path(&dir), bytes).unwrap();
    assert_names(&refusal(&dir), &["model.safetensors", "truncated or corrupt"]);

    // What a clone without git-lfs leaves behind.
    fs::write(path(&dir), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    assert_names(&refusal(&dir), &["model.safetensors", "truncated or corrupt"]);

    fs::remove_file(path(&dir)).unwrap();
    assert_names(&refusal(&dir), &["model.safetensors.index.json"]);
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let change = |edit: &dyn Fn(&mut Weights)| refusal(&model(&gemma_config(), |t| edit(t)));
    let replace = |tensor: Tensor| {
        change(&|tensors| tensors.iter_mut().find(|(n, _)| n == name).unwrap().1 = tensor.clone())
    };
    assert_names(&change(&|tensors| tensors.retain(|(n, _)| n != name)), &[name, "config.json"]);
    assert_names(&replace(Tensor::from_f32(&[6, 5], vec![0.0; 30])), &[name, "[6, 5]", "[5, 6]"]);
    assert_names(&replace(Tensor::from_u32(&[5, 6], vec![0; 30])), &[name, "U32", "quantised"]);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut data = vec![0.0; 30];
        data[29] = bad;
        assert_names(&replace(Tensor::from_f32(&[5, 6], data.clone())), &["model.safetensors", name, "NaN"]);
        let data = data.into_iter().map(half::bf16::from_f32).collect();
        assert_names(&replace(Tensor::from_bf16(&[5, 6], data)), &[name, "NaN"]);
    }
    let bias = ("model.layers.0.self_attn.q_proj.bias".to_owned(), Tensor::from_f32(&[8], vec![0.0; 8]));
    assert_names(&change(&|tensors| tensors.push(bias.clone())), &["q_proj.bias", "config.json"]);
    let twice = ("language_model.model.norm.weight".to_owned(), Tensor::from_f32(&[6], vec![0.0; 6]));
    assert_names(&change(&|tensors| tensors.push(twice.clone())), &["twice"]);
}

#[test]
fn element_types_survive_a_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let tensors = [
        ("f".to_owned(), Tensor::from_f32(&[2, 1], vec![1.5, -0.0])),
        ("h".to_owned(), Tensor::from_bf16(&[3], [1.0, 2.0, -3.5].map(half::bf16::from_f32).to_vec())),
        ("i".to_owned(), Tensor::from_u32(&[1], vec![u32::MAX])),
    ];
    write(&path, &tensors);
    let read = read_safetensors(&path).unwrap();
    for (name, expected) in &tensors {
        let (_, found) = read.iter().find(|(n, _)| n == name).unwrap();
        assert_eq!((found.shape(), found.dtype()), (expected.shape(), expected.dtype()));
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    }
    let half = [0.5_f32, -2.0].map(|x| half::f16::from_f32(x).to_le_bytes()).concat();
    let half = TensorView::new(Dtype::F16, vec![2], &half).unwrap();
    fs::write(&path, safetensors::serialize([("half", half)], None).unwrap()).unwrap();
    assert_eq!(read_safetensors(&path).unwrap()[0].1.f32(), [0.5, -2.0]);

    let missing = dir.path().join("none/a.safetensors");
    assert_names(&write_safetensors(&missing, &[], &[]).unwrap_err().to_string(), &["none"]);
}
