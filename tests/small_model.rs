//! A model of few layers whose heads and rows are of real models' widths, so that a training step and an answer go through
//! the kernels that real models use, at sizes that compute-sanitizer can watch (`tools/sanitize.sh`).

use emlab::device::philox::Key;
use emlab::generate::{self, Choices, Chooser, Completion, Limits, Request};
use emlab::model::cards;
use emlab::model::lora::Lora;
use emlab::model::place::Place;
use emlab::model::saved::Saved;
use emlab::model::spec::Spec;
use emlab::model::tokenizer::Tokenizer;
use emlab::model::transformer::{Batch, Transformer};
use emlab::ops::adamw::AdamW;
use emlab::ops::sample::Sampling;
use emlab::train::optimiser::Optimiser;

use crate::tiny;

const LAYERS: usize = 2;

/// The shape of a card's model with fewer, narrower layers: the head width and the ratio of heads stay.
fn spec(card: &str, vocab: usize) -> Spec {
    let whole = cards::find(card).unwrap().spec().unwrap();
    let group = whole.heads / whole.kv_heads;
    Spec {
        vocab,
        channels: 256,
        layers: LAYERS,
        heads: 2 * group,
        kv_heads: 2,
        mlp_width: 384,
        windows: vec![Some(100), None],
        ropes: whole.ropes[..LAYERS].to_vec(),
        eos: vec![7],
        ..whole
    }
}

/// Head widths 128 and 256, norms of both kinds; one vocabulary that is cut among the blocks of a cluster, one that is not.
fn specs() -> [Spec; 2] {
    [spec("qwen3-8b", 20_480), spec("gemma-3-4b-it", 3000)]
}

/// Three documents, one of a single token.
fn batch(spec: &Spec, n: u32) -> Batch {
    let starts = vec![0, 130, 131, n];
    let tokens = (0..n as usize).map(|i| (i * 7919 + i * i * 31) as u32 % spec.vocab as u32).collect();
    Batch { tokens, starts, dropout: Some(Key::new(3, &["dropout"])) }
}

/// Two optimiser steps: the losses and the gradient norms.
fn steps(spec: &Spec, n: u32, place: Place, lora: bool, recompute: bool) -> Vec<f64> {
    let mut model = Transformer::random(spec.clone(), 5, place).unwrap();
    if lora {
        model.attach(&Lora { rank: 16, dropout: 0.1, ..Lora::default() }, 1).unwrap();
    } else {
        model.train_everything().unwrap();
    }
    let mut optimiser = Optimiser::new(&model).unwrap();
    let mut saved = if recompute {
        Saved::for_recomputing(&model.spec, model.place)
    } else {
        Saved::for_training(&model.spec, model.place)
    };
    let batch = batch(spec, n);
    let rows: Vec<u32> = (0..129).chain(140..n - 1).collect();
    let targets: Vec<u32> = rows.iter().map(|row| batch.tokens[*row as usize + 1]).collect();
    let mut found = Vec::new();
    for step in 1..=2 {
        model.forward(&mut saved, &batch, &mut ()).unwrap();
        let nll = model.loss_gradient(&mut saved, &rows, &targets, 1.0 / rows.len() as f32).unwrap();
        model.backward(&mut saved, &batch, &mut ()).unwrap();
        let adamw = AdamW { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, decay: 0.01, step };
        found.push(nll.iter().map(|x| f64::from(*x)).sum::<f64>() / rows.len() as f64);
        found.push(optimiser.step(&mut model, adamw, 1.0).unwrap());
    }
    found
}

/// A pass of few rows, whose products are computed transposed.
#[test]
fn short_steps_repeat() {
    steps_repeat(220);
}

/// A pass of many rows, whose products leave through the copy engine.
#[test]
fn long_steps_repeat() {
    steps_repeat(280);
}

/// The same every time, kept or computed again, and nearly the same in both precisions.
fn steps_repeat(n: u32) {
    let places: Vec<Place> = tiny::places().into_iter().filter(|place| *place != Place::CPU).collect();
    for spec in specs() {
        for lora in [true, false] {
            let mut first: Option<Vec<f64>> = None;
            for place in &places {
                let found = steps(&spec, n, *place, lora, false);
                assert_eq!(found, steps(&spec, n, *place, lora, true), "{:?} {place:?}", spec.family);
                assert!(found[2] < found[0], "the loss goes down: {found:?}");
                // Both precisions begin with the same weights, but for rounding.
                let exact = first.get_or_insert_with(|| found.clone());
                let near = found.iter().zip(exact).all(|(x, y)| (x - *y).abs() < 0.03 * *y);
                assert!(near, "{:?} {place:?}: {found:?}, in f32 {first:?}", spec.family);
            }
        }
    }
}

#[test]
fn answers_and_choices_do_not_depend_on_company() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/qwen3");
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    for spec in specs() {
        for place in tiny::places() {
            let model = Transformer::random(spec.clone(), 5, place).unwrap();
            let prompt = |i: usize| (0..40 + 70 * i).map(|t| ((t * 131 + i * 17) % 2000) as u32).collect();
            let requests: Vec<Request> =
                (0..3).map(|i| Request { ids: prompt(i), key: Key::new(1, &[&i.to_string()]) }).collect();
            let run = |requests: &[Request]| -> Vec<Completion> {
                let limits = Limits { max_tokens: 4, min_tokens: 4, ..Limits::default() };
                generate::run(&model, &tokenizer, requests, &sampling, &limits, &mut |_, _| Ok(())).unwrap()
            };
            let together = run(&requests);
            assert_eq!(together, run(&requests), "{:?} {place:?}", spec.family);
            assert_eq!(together[1..2], run(&requests[1..2]), "{:?} {place:?}", spec.family);
            let strings = [vec![5], vec![5, 9], vec![8, 8, 8]];
            let mut chooser = Chooser::new(&model, &strings).unwrap();
            let mut ask = |prompts: &[Vec<u32>]| {
                let mut all: Vec<Choices> = Vec::new();
                let mut keep = |_, choices| {
                    all.push(choices);
                    Ok(())
                };
                chooser.run(prompts, &mut keep).unwrap();
                all
            };
            let prompts: Vec<Vec<u32>> = requests.iter().map(|request| request.ids.clone()).collect();
            let choices = ask(&prompts);
            assert_eq!(choices[2..], ask(&prompts[2..]), "{:?} {place:?}", spec.family);
            let finite =
                |choices: &Choices| choices.log_masses.iter().all(|log| log.is_finite() && *log < 0.0);
            assert!(choices.iter().all(finite), "{choices:?}");
        }
    }
}
