//! What `tools/make_goldens.py` wrote into tests/goldens, and how it is compared, on the CPU and on a GPU. Shared by the
//! golden tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::needs;
use emlab::device::{DType, Device, Tensor};
use emlab::model::place::Place;
use emlab::model::transformer::Batch;
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// The tiny models.
pub const MODELS: [&str; 3] = ["gemma3", "qwen3", "qwen3_tied"];

/// What a GPU in f32 may differ by where the CPU may differ by less: its exponentials and square roots are coarser.
const GPU_BOUND: f32 = 1e-4;
/// How many times the error of transformers in bf16 is allowed in bf16.
const FACTOR: f64 = 2.0;

/// Everything that can compute here: the CPU and, if there is one, the GPU in f32 and in bf16.
pub fn places() -> Vec<Place> {
    let mut places = vec![Place::CPU];
    if let Some(gpu) = needs::gpu("goldens on the GPU, in f32 and bf16") {
        places.extend([DType::F32, DType::Bf16].map(|real| Place { device: Device::Cuda(gpu), real }));
    }
    places
}

/// Checks each of `models` at each of `places`: all of them, even if some fail.
pub fn check_all(places: &[Place], models: &[&'static str], check: impl Fn(&Golden)) {
    let mut failed = Vec::new();
    for &place in places {
        for &name in models {
            let golden = Golden::read(name, place);
            if catch_unwind(AssertUnwindSafe(|| check(&golden))).is_err() {
                failed.push(golden.title());
            }
        }
    }
    assert!(failed.is_empty(), "what is said above of: {}", failed.join(", "));
}

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

/// bf16.json.
#[derive(Debug, Deserialize)]
struct Rounded {
    /// Those of transformers in bf16.
    errors: BTreeMap<String, f64>,
    /// Losses and the curves of training runs for rounded weights.
    numbers: BTreeMap<String, Vec<f64>>,
}

/// All expected values of one model at one place, computed in f32 from the weights that it has there.
pub struct Golden {
    pub name: &'static str,
    pub place: Place,
    pub folder: PathBuf,
    pub numbers: Numbers,
    /// By name: shape and elements.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// In bf16 only: by name, the relative Frobenius error of transformers in bf16.
    errors: BTreeMap<String, f64>,
    /// Which of `tensors` were kept in half precision.
    halves: BTreeSet<String>,
}

impl Golden {
    pub fn read(name: &'static str, place: Place) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
        let mut numbers: Numbers =
            serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let mut tensors = read_tensors(&folder.join("expected.safetensors"));
        let (mut errors, mut halves) = (BTreeMap::new(), BTreeSet::new());
        if place.real == DType::Bf16 {
            let rounded: Rounded =
                serde_json::from_slice(&fs::read(folder.join("bf16.json")).unwrap()).unwrap();
            numbers.loss = rounded.numbers["loss"][0];
            numbers.adapted_loss = rounded.numbers["adapted_loss"][0];
            let runs = [
                ("full_training", &mut numbers.full_training),
                ("adapter_training", &mut numbers.adapter_training),
            ];
            for (run, training) in runs {
                training.losses.clone_from(&rounded.numbers[&format!("{run}.losses")]);
                training.gradient_norms.clone_from(&rounded.numbers[&format!("{run}.gradient_norms")]);
            }
            let replaced = read_tensors(&folder.join("bf16.safetensors"));
            halves.extend(replaced.keys().cloned());
            tensors.extend(replaced);
            errors = rounded.errors;
        }
        Self { name, place, folder, numbers, tensors, errors, halves }
    }

    /// The model and the place, for messages.
    pub fn title(&self) -> String {
        let place = if self.place == Place::CPU { "the CPU" } else { "the GPU" };
        format!("{} on {place} in {}", self.name, self.place.real.name())
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

    /// Panics, naming the tensor, unless `found` equals the stack of `names`: in f32 but for `bound` times its largest
    /// element, in bf16 by [`compare_rounded`](Self::compare_rounded).
    pub fn compare(&self, names: &[String], found: &Tensor, bound: f32) {
        let (shape, expected) = self.stacked(names);
        let what = format!("{}, {}", self.title(), names.join(" | "));
        assert_eq!(found.shape(), shape, "{what}: shape");
        let found = numbers(found);
        if self.place.real == DType::Bf16 {
            let mut rest = &found[..];
            for name in names {
                let (part, others) = rest.split_at(self.tensors[name].1.len());
                self.compare_rounded(name, part, bound);
                rest = others;
            }
            return;
        }
        let bound = self.bound(bound);
        let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let mut largest = 0f32;
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs() / size;
            // Not `>`: a NaN must fail.
            assert!(
                error <= bound,
                "{what}, element {i} of {shape:?}: {found}, expected {expected} ({error:.1e})"
            );
            largest = largest.max(error);
        }
        self.report(&what, largest.into(), bound.into());
    }

    /// Panics, naming the tensor, unless its relative Frobenius error is at most twice that of transformers in bf16. To
    /// that comes what the reference leaves open: f32 arithmetic may move each element by `bound` of the largest,
    /// as the CPU may in the same test; half precision moves each by 2⁻¹¹ of itself at most.
    fn compare_rounded(&self, name: &str, found: &[f32], bound: f32) {
        let wide = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<_>>();
        let (found, expected) = (wide(found), wide(&self.tensors[name].1));
        let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
        let arithmetic = f64::from(bound) * largest * (expected.len() as f64).sqrt() / frobenius(&expected);
        let storage = if self.halves.contains(name) { 2f64.powi(-11) } else { 0.0 };
        self.check_error(name, relative_error(&found, &expected), arithmetic + storage);
    }

    /// Panics, naming the number, unless `found` equals `expected`: in f32 but for `bound` times that, in bf16 as
    /// tensors.
    pub fn compare_number(&self, name: &str, found: f64, expected: f64, bound: f32) {
        self.compare_curve(name, &[found], &[expected], bound);
    }

    /// Panics, naming the curve, unless each point of `found` equals that of `expected`: in f32 but for `bound` times
    /// that; in bf16 all points are taken as one vector and compared as tensors are.
    pub fn compare_curve(&self, name: &str, found: &[f64], expected: &[f64], bound: f32) {
        assert_eq!(found.len(), expected.len(), "{}, {name}: points", self.title());
        if self.place.real == DType::Bf16 {
            return self.check_error(name, relative_error(found, expected), bound.into());
        }
        let bound = f64::from(self.bound(bound));
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found - expected).abs() / expected.abs();
            let what = format!("{}, {name}, point {i}", self.title());
            assert!(error <= bound, "{what}: {found}, expected {expected} ({error:.1e})");
            self.report(&what, error, bound);
        }
    }

    /// The rule for bf16: whole tensors. Single elements are held to their budgets in cuda_vs_cpu, op by op.
    fn check_error(&self, name: &str, error: f64, open: f64) {
        let what = format!("{}, {name}", self.title());
        let reference = *self.errors.get(name).unwrap_or_else(|| panic!("{what}: no bf16 error"));
        let allowed = FACTOR * reference + open;
        self.report(&what, error, allowed);
        assert!(error <= allowed, "{what}: error {error:.2e}, transformers in bf16 {reference:.2e}");
    }

    /// What the CPU is held to in f32, a GPU is held to less closely.
    fn bound(&self, bound: f32) -> f32 {
        if self.place == Place::CPU { bound } else { bound.max(GPU_BOUND) }
    }

    /// One line for each comparison on a GPU; shown of a test that fails, or with `--nocapture`.
    fn report(&self, what: &str, error: f64, allowed: f64) {
        if self.place != Place::CPU {
            eprintln!("{what}: {error:.2e} of {allowed:.2e}");
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

fn frobenius(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let difference: Vec<f64> = found.iter().zip(expected).map(|(found, x)| found - x).collect();
    frobenius(&difference) / frobenius(expected)
}

/// The elements of a tensor of any place and precision.
pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.numbers().unwrap()
}

/// Every tensor of a file, f32 or half precision.
pub fn read_tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let data = view.data();
        let data = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F16 => {
                data.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
            }
            other => panic!("{name}: {other:?}"),
        };
        (name, (view.shape().to_vec(), data))
    });
    tensors.collect()
}
