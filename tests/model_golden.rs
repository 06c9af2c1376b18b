//! Tiny random models of both families against Hugging Face transformers and PEFT, site by site, so that the first
//! site that differs names the bug. `tools/make_goldens.py` writes the expected values and says what they are.
#![allow(clippy::unwrap_used)]

mod golden;

use emlab::device::Tensor;
use emlab::model::adapter;
use emlab::model::cache::{Cache, Row};
use emlab::model::place::Place;
use emlab::model::probe::{Probe, Site};
use emlab::model::saved::Saved;
use emlab::model::transformer::Transformer;
use golden::{Golden, MODELS, parts};

/// Share of a tensor's largest element. Both sides compute in f32 and sum in different orders: a few roundings.
const BOUND: f32 = 1e-5;
/// Gradients have come through more sums, and in the embedding's through a whole document.
const GRADIENT_BOUND: f32 = 5e-5;

/// Compares every activation as soon as it is computed.
struct Compare<'a> {
    golden: &'a Golden,
    seen: usize,
}

impl Probe for Compare<'_> {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) {
        let name = match site {
            Site::Embedding => return self.compare("embedding".into(), x),
            Site::FinalNorm => return self.compare("final_norm".into(), x),
            Site::AttentionNorm => "attention_norm",
            Site::Qkv => "qkv",
            Site::Query => "query",
            Site::Key => "key",
            Site::Attention => "attention",
            Site::AttentionOut => "attention_out",
            Site::ResidualMid => "residual_mid",
            Site::MlpNorm => "mlp_norm",
            Site::GateUp => "gate_up",
            Site::Glu => "glu",
            Site::MlpOut => "mlp_out",
            Site::Residual => "residual",
        };
        self.compare(format!("layers.{layer}.{name}"), x);
    }
}

impl Compare<'_> {
    fn compare(&mut self, name: String, x: &Tensor) {
        self.golden.compare(&[name], x, BOUND);
        self.seen += 1;
    }
}

/// The model with the adapter that PEFT made.
fn adapted(golden: &Golden) -> Transformer {
    let mut model = Transformer::load(&golden.folder, Place::CPU).unwrap();
    adapter::read(&golden.folder.join("adapter"), &mut model).unwrap();
    model
}

#[test]
fn activations_at_every_site() {
    for name in ["gemma3", "qwen3"] {
        let golden = Golden::read(name);
        let model = Transformer::load(&golden.folder, Place::CPU).unwrap();
        let (batch, ..) = golden.packed();
        let mut probe = Compare { golden: &golden, seen: 0 };
        model.forward(&mut Saved::for_training(&model), &batch, &mut probe).unwrap();
        assert_eq!(probe.seen, 12 * model.spec.layers + 2, "{name}: sites");
    }
}

#[test]
fn logits_and_likelihoods() {
    for name in MODELS {
        let golden = Golden::read(name);
        let model = Transformer::load(&golden.folder, Place::CPU).unwrap();
        let (batch, ..) = golden.packed();
        let mut saved = Saved::for_training(&model);
        model.forward(&mut saved, &batch, &mut ()).unwrap();
        golden.compare(&["final_norm".into()], &saved.hidden, BOUND);

        let rows: Vec<u32> = (0..batch.tokens.len() as u32).collect();
        let mut logits = Tensor::empty();
        model.logits(&mut logits, &mut saved, &rows).unwrap();
        golden.compare(&["logits".into()], &logits, BOUND);

        // The last row of a document predicts nothing: 0 in the goldens.
        let inner: Vec<u32> = rows.iter().copied().filter(|row| !batch.starts.contains(&(row + 1))).collect();
        let targets: Vec<u32> = inner.iter().map(|&row| batch.tokens[row as usize + 1]).collect();
        let mut nll = vec![0.0; rows.len()];
        for (&row, value) in inner.iter().zip(model.loss(&mut saved, &inner, &targets).unwrap()) {
            nll[row as usize] = value;
        }
        golden.compare(&["nll".into()], &Tensor::from_f32(&[rows.len()], nll), BOUND);
    }
}

/// Forward, loss and backward of all documents in one pass; every gradient is compared.
fn check_gradients(golden: &Golden, model: &mut Transformer, loss: f64) {
    let (batch, rows, targets, weight) = golden.packed();
    let mut saved = Saved::for_training(&model);
    model.forward(&mut saved, &batch, &mut ()).unwrap();
    let nll = model.loss_gradient(&mut saved, &rows, &targets, weight).unwrap();
    model.backward(&mut saved, &batch).unwrap();
    let found = f64::from(weight) * nll.iter().map(|&x| f64::from(x)).sum::<f64>();
    assert!((found / loss - 1.0).abs() <= f64::from(BOUND), "{}: loss {found}, expected {loss}", golden.name);
    // From the head down, as the backward pass goes: the first that differs is nearest to the bug.
    for (name, parameter) in model.trainable().into_iter().rev() {
        let names: Vec<_> = parts(&name).iter().map(|part| format!("gradient.{part}")).collect();
        golden.compare(&names, parameter.gradient.as_ref().unwrap(), GRADIENT_BOUND);
    }
    // Layers computed again in the backward pass give the same bits.
    let once: Vec<Tensor> =
        model.trainable().into_iter().map(|(_, parameter)| parameter.gradient.clone().unwrap()).collect();
    for (_, parameter) in model.trainable_mut() {
        parameter.gradient.as_mut().unwrap().clear().unwrap();
    }
    let mut saved = Saved::for_recomputing(model);
    model.forward(&mut saved, &batch, &mut ()).unwrap();
    model.loss_gradient(&mut saved, &rows, &targets, weight).unwrap();
    model.backward(&mut saved, &batch).unwrap();
    for ((name, parameter), once) in model.trainable().into_iter().zip(once) {
        let same = parameter.gradient.as_ref().unwrap().f32() == once.f32();
        assert!(same, "{}: {name} differs when layers are computed again", golden.name);
    }
}

#[test]
fn gradients_of_every_weight() {
    for name in MODELS {
        let golden = Golden::read(name);
        let mut model = Transformer::load(&golden.folder, Place::CPU).unwrap();
        model.train_everything().unwrap();
        let trained: usize = model.trainable().iter().map(|(_, p)| p.value.len()).sum();
        assert_eq!(trained, model.spec.parameters(), "{name}: trained parameters");
        check_gradients(&golden, &mut model, golden.numbers.loss);
    }
}

#[test]
fn gradients_of_every_adapter() {
    for name in MODELS {
        let golden = Golden::read(name);
        let mut model = adapted(&golden);
        assert_eq!(
            model.trainable().len(),
            8 * model.spec.layers,
            "{name}: A and B of four fused projections"
        );
        check_gradients(&golden, &mut model, golden.numbers.adapted_loss);
    }
}

#[test]
fn logits_with_an_adapter_of_peft() {
    for name in MODELS {
        let golden = Golden::read(name);
        let model = adapted(&golden);
        let (batch, ..) = golden.packed();
        let mut saved = Saved::for_inference(&model);
        model.forward(&mut saved, &batch, &mut ()).unwrap();
        let rows: Vec<u32> = (0..batch.tokens.len() as u32).collect();
        let mut logits = Tensor::empty();
        model.logits(&mut logits, &mut saved, &rows).unwrap();
        golden.compare(&["adapted.logits".into()], &logits, BOUND);
    }
}

/// The likeliest token after each of the given rows.
fn likeliest(model: &Transformer, saved: &mut Saved, rows: &[u32]) -> Vec<u32> {
    let mut logits = Tensor::empty();
    model.logits(&mut logits, saved, rows).unwrap();
    let largest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
    logits.f32().chunks_exact(model.spec.vocab).map(largest).collect()
}

/// Prompts of unequal length, one prefill each, then decoded together through the cache and beyond the window.
#[test]
fn greedy_continuations() {
    for name in MODELS {
        let golden = Golden::read(name);
        let model = Transformer::load(&golden.folder, Place::CPU).unwrap();
        let prompts = &golden.numbers.greedy;
        let longest = |g: &golden::Greedy| Cache::pages_for(g.prompt.len() + g.completion.len());
        let mut cache = Cache::new(&model, prompts.iter().map(longest).sum()).unwrap();
        let mut saved = Saved::for_inference(&model);
        let (mut rows, mut next) = (Vec::new(), Vec::new());
        for greedy in prompts {
            let sequence = cache.add();
            let prompt = |position| Row { sequence, position };
            let length = greedy.prompt.len();
            let all: Vec<Row> = (0..length).map(prompt).collect();
            model.infer(&mut saved, &mut cache, &greedy.prompt, &all).unwrap();
            next.extend(likeliest(&model, &mut saved, &[length as u32 - 1]));
            rows.push(prompt(length));
        }
        for step in 0..prompts[0].completion.len() {
            let expected: Vec<u32> = prompts.iter().map(|greedy| greedy.completion[step]).collect();
            assert_eq!(next, expected, "{name}: token {step} of each continuation");
            model.infer(&mut saved, &mut cache, &next, &rows).unwrap();
            next = likeliest(&model, &mut saved, &[0, 1, 2, 3]);
            for row in &mut rows {
                row.position += 1;
            }
        }
    }
}
