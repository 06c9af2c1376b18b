//! What `tools/make_goldens.py` wrote into tests/goldens, and how it is compared. Shared by the golden tests.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use emlab::device::Tensor;
use emlab::model::transformer::Batch;
use safetensors::SafeTensors;
use serde::Deserialize;

/// The tiny models.
pub const MODELS: [&str; 3] = ["gemma3", "qwen3", "qwen3_tied"];

/// Token ids and, for each, whether it is a target of the loss.
#[derive(Clone, Debug, Deserialize)]
pub struct Example {
    pub ids: Vec<u32>,
    pub loss: Vec<bool>,
}

/// A prompt and what the model says after it, greedily.
#[derive(Debug, Deserialize)]
pub struct Greedy {
    pub prompt: Vec<u32>,
    pub completion: Vec<u32>,
}

/// A training run of the reference.
#[derive(Debug, Deserialize)]
pub struct Training {
    pub settings: TrainingSettings,
    pub losses: Vec<f64>,
    pub gradient_norms: Vec<f64>,
    pub learning_rates: Vec<f64>,
}

/// Its settings, in the reference trainer's words.
#[derive(Debug, Deserialize)]
pub struct TrainingSettings {
    pub seed: u64,
    pub warmup_steps: usize,
    pub weight_decay: f64,
    pub batch: usize,
    pub accumulation: usize,
    pub steps: usize,
    pub max_grad_norm: f64,
    pub learning_rate: f64,
}

#[derive(Debug, Deserialize)]
pub struct Numbers {
    pub documents: Vec<Example>,
    pub greedy: Vec<Greedy>,
    pub examples: Vec<Example>,
    pub loss: f64,
    pub adapted_loss: f64,
    pub full_training: Training,
    pub adapter_training: Training,
}

/// All expected values of one model.
pub struct Golden {
    pub name: &'static str,
    pub folder: PathBuf,
    pub numbers: Numbers,
    /// By name: shape and elements.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Golden {
    pub fn read(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
        let numbers = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let tensors = read_tensors(&folder.join("expected.safetensors"));
        Self { name, folder, numbers, tensors }
    }

    /// The expected tensors of `names`, rows stacked: the projections that one fused matrix holds.
    pub fn stacked(&self, names: &[String]) -> (Vec<usize>, Vec<f32>) {
        let mut all: (Vec<usize>, Vec<f32>) = (Vec::new(), Vec::new());
        for name in names {
            let (shape, data) = &self.tensors.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
            if all.0.is_empty() {
                all.0.clone_from(shape);
            } else {
                assert_eq!(all.0[1..], shape[1..], "{name}: columns");
                all.0[0] += shape[0];
            }
            all.1.extend(data);
        }
        all
    }

    /// Panics, naming the tensor, unless `found` equals the stack of `names` but for `bound` times its largest
    /// element.
    pub fn compare(&self, names: &[String], found: &Tensor, bound: f32) {
        let (shape, expected) = self.stacked(names);
        let what = format!("{}, {}", self.name, names.join(" | "));
        assert_eq!(found.shape(), shape, "{what}: shape");
        let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (i, (found, expected)) in found.f32().iter().zip(&expected).enumerate() {
            let error = (found - expected).abs() / size;
            // Not `>`: a NaN must fail.
            assert!(
                error <= bound,
                "{what}, element {i} of {shape:?}: {found}, expected {expected} ({error:.1e})"
            );
        }
    }

    /// All documents in one pass, and the rows, targets and weight of the mean loss over their marked tokens.
    pub fn packed(&self) -> (Batch, Vec<u32>, Vec<u32>, f32) {
        let mut batch = Batch { starts: vec![0], ..Batch::default() };
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for document in &self.numbers.documents {
            let start = batch.tokens.len() as u32;
            for (i, &id) in document.ids.iter().enumerate().filter(|&(i, _)| document.loss[i]) {
                rows.push(start + i as u32 - 1);
                targets.push(id);
            }
            batch.tokens.extend(&document.ids);
            batch.starts.push(batch.tokens.len() as u32);
        }
        let weight = 1.0 / targets.len() as f32;
        (batch, rows, targets, weight)
    }
}

/// Hugging Face's names of the parts of one of emlab's parameters: fused projections are stacked in this order.
pub fn parts(name: &str) -> Vec<String> {
    const FUSED: [(&str, &[&str]); 4] = [
        ("self_attn.qkv.", &["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."]),
        ("self_attn.o.", &["self_attn.o_proj."]),
        ("mlp.gate_up.", &["mlp.gate_proj.", "mlp.up_proj."]),
        ("mlp.down.", &["mlp.down_proj."]),
    ];
    let fused = FUSED.iter().find(|(fused, _)| name.contains(fused));
    fused.map_or_else(
        || vec![name.to_owned()],
        |(fused, parts)| parts.iter().map(|part| name.replace(fused, part)).collect(),
    )
}

/// Every f32 tensor of a file.
pub fn read_tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
        (name, (view.shape().to_vec(), data))
    });
    tensors.collect()
}
