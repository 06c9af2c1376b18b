//! Tiny random models as Hugging Face folders, with a tokenizer of single bytes. Shared by the tests of the loops.

use std::fs;
use std::path::Path;

use crate::needs;
use emlab::device::{DType, Tensor};
use emlab::model::checkpoint::write_safetensors;
use emlab::model::place::Place;
use emlab::model::spec::Spec;
use emlab::model::tokenizer::Tokenizer;
use emlab::model::transformer::Transformer;
use serde_json::{Map, Value, json};

/// End-of-turn and BOS ids, after the 256 bytes.
pub const EOS: u32 = 257;

/// Both families.
pub const FAMILIES: [&str; 2] = ["gemma3", "qwen3"];

/// Writes a random model of `family` into `dir`.
pub fn write(dir: &Path, family: &str) {
    fs::write(dir.join("config.json"), config(family).to_string()).unwrap();
    fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let template = "{{ '<bos>' }}{% for m in messages %}{{ m.role + ':' + m.content + '<end>\n' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
    fs::write(dir.join("tokenizer_config.json"), json!({ "chat_template": template }).to_string()).unwrap();
    let model = Transformer::random(Spec::read(dir).unwrap(), 1, Place::CPU).unwrap();
    // Larger than an untrained model's, so that its answers differ.
    let weights: Vec<(String, Tensor)> = model
        .weights()
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| {
            let scaled = tensor.f32().iter().map(|x| if tensor.shape().len() == 2 { 12.0 * x } else { *x });
            (name, Tensor::from_f32(tensor.shape(), scaled.collect()))
        })
        .collect();
    let named: Vec<(String, &Tensor)> = weights.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    write_safetensors(&dir.join("model.safetensors"), &named, &[]).unwrap();
}

/// A random model of `family` and its tokenizer.
pub fn model(family: &str) -> (Transformer, Tokenizer) {
    model_on(family, Place::CPU)
}

/// [`model`], somewhere else.
pub fn model_on(family: &str, place: Place) -> (Transformer, Tokenizer) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), family);
    (Transformer::load(dir.path(), place).unwrap(), Tokenizer::open(dir.path()).unwrap())
}

/// The CPU, and a GPU in both precisions if there is one.
pub fn places() -> Vec<Place> {
    let gpu = needs::gpu("small models on the GPU, in f32 and bf16")
        .map(|gpu| [DType::F32, DType::Bf16].map(|real| Place { real, ..Place::gpu(gpu) }));
    std::iter::once(Place::CPU).chain(gpu.into_iter().flatten()).collect()
}

fn config(family: &str) -> Value {
    let mut config = json!({
        "vocab_size": 258, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 96,
        "rms_norm_eps": 1e-6, "bos_token_id": 256, "eos_token_id": EOS, "pad_token_id": 256,
    });
    let more = match family {
        "gemma3" => json!({
            "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "query_pre_attn_scalar": 8,
            "sliding_window": 7, "sliding_window_pattern": 2, "hidden_activation": "gelu_pytorch_tanh",
        }),
        _ => json!({
            "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu",
            "tie_word_embeddings": false,
        }),
    };
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// Byte-level BPE without merges: a token a byte.
fn tokenizer() -> Value {
    // GPT-2's printable stand-ins: a printable byte is itself, the others follow from U+0100.
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut vocab = Map::new();
    let mut next = 256;
    for byte in 0..256 {
        let stand_in = if printable(&byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocab.insert(char::from_u32(stand_in).unwrap().to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(256, "<bos>"), special(EOS, "<end>")],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<bos>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "<bos>": { "id": "<bos>", "ids": [256], "tokens": ["<bos>"] } },
        },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}
