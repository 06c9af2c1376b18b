//! Ten optimiser steps on tiny random models against PEFT and transformers' Trainer: warm-up, schedule, clipping,
//! accumulation over unequal examples, an incomplete last step, `AdamW`. `tools/make_goldens.py` writes the expected
//! values; the adapters start from emlab's own first weights, which it draws too. On the CPU and, if there is one, on the
//! GPU in f32 and in bf16.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::golden::{Golden, MODELS, Training, check_all, places, read_tensors};
use emlab::device::Tensor;
use emlab::model::lora::Lora;
use emlab::model::text::Text;
use emlab::model::transformer::Transformer;
use emlab::train::dataset::Origin;
use emlab::train::{self, Example, Job, Settings};

/// Relative difference of a loss. Both sides round in f32, and `AdamW` divides by small numbers.
const LOSS_BOUND: f32 = 1e-5;
const NORM_BOUND: f32 = 1e-4;
/// Share of a trained matrix's largest element.
const WEIGHT_BOUND: f32 = 1e-3;

fn settings(training: &Training, full: bool) -> Settings {
    let expected = &training.settings;
    Settings {
        seed: expected.seed,
        full,
        batch_size: expected.batch,
        accumulation: expected.accumulation,
        learning_rate: expected.learning_rate,
        warmup_steps: expected.warmup_steps,
        weight_decay: expected.weight_decay,
        max_grad_norm: expected.max_grad_norm,
        held_out: 0.0,
        shuffle: false,
        // Several passes a step, with several examples each.
        pack_tokens: 40,
        lora: Lora { rank: 3, alpha: 7.0, rslora: true, ..Lora::default() },
        ..Settings::default()
    }
}

fn check_curve(golden: &Golden, training: &Training, out: &Path, full: bool) {
    let origin = |line| Origin { path: Arc::new("expected.json".into()), line };
    let examples: Vec<Example> = golden
        .numbers
        .examples
        .iter()
        .enumerate()
        .map(|(i, example)| Example {
            origin: origin(i + 1),
            text: Text { ids: example.ids.clone(), answer: example.loss.clone() },
        })
        .collect();
    let settings = settings(training, full);
    let mut model = Transformer::load(&golden.folder, golden.place).unwrap();
    let job = Job { base: &golden.folder, examples: &examples, settings: &settings, out };
    let report = train::run(&mut model, &job, &mut |_| {}).unwrap();
    let run = if full { "full_training" } else { "adapter_training" };
    assert_eq!(report.steps, training.settings.steps, "{}, {run}: steps", golden.title());

    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let curve = |key: &str| lines.iter().map(|line| line[key].as_f64().unwrap()).collect::<Vec<_>>();
    for (found, expected) in curve("learning_rate").iter().zip(&training.learning_rates) {
        assert!((found - expected).abs() <= 1e-12 * expected, "learning rate {found}, expected {expected}");
    }
    golden.compare_curve(&format!("{run}.losses"), &curve("loss"), &training.losses, LOSS_BOUND);
    let norms = &training.gradient_norms;
    golden.compare_curve(&format!("{run}.gradient_norms"), &curve("grad_norm"), norms, NORM_BOUND);
}

#[test]
fn adapters() {
    check_all(&places(), &MODELS, |golden| {
        let out = tempfile::tempdir().unwrap();
        check_curve(golden, &golden.numbers.adapter_training, out.path(), false);
        let found = read_tensors(&out.path().join("adapter_model.safetensors"));
        assert_eq!(found.len(), golden.tensors.keys().filter(|key| key.starts_with("trained.")).count());
        for (key, (shape, data)) in found {
            let path = key.strip_prefix("base_model.model.").unwrap().strip_suffix(".weight").unwrap();
            golden.compare(&[format!("trained.{path}")], &Tensor::from_f32(&shape, data), WEIGHT_BOUND);
        }
    });
}

#[test]
fn every_weight() {
    check_all(&places(), &MODELS, |golden| {
        let out = tempfile::tempdir().unwrap();
        check_curve(golden, &golden.numbers.full_training, out.path(), true);
        Transformer::load(out.path(), golden.place).unwrap();
    });
}
