//! Tiny random models of both families against Hugging Face transformers and PEFT, site by site, so that the first
//! site that differs names the bug. `tools/make_goldens.py` writes the expected values and says what they are. Everything
//! is checked on the CPU and, if there is one, on the GPU in f32 and in bf16.

use crate::golden::{Golden, MODELS, check_all, numbers, parts, places};
use emlab::Result;
use emlab::device::{DType, Tensor};
use emlab::model::cache::{Cache, SequenceRow};
use emlab::model::peft;
use emlab::model::probe::{Probe, Site};
use emlab::model::saved::Saved;
use emlab::model::transformer::Transformer;

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
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        let name = site.name();
        match site {
            Site::Embedding | Site::FinalNorm => self.compare(name.into(), x),
            // What is added follows from the streams before and after.
            Site::AttentionDelta | Site::MlpDelta => (),
            _ => self.compare(format!("layers.{layer}.{name}"), x),
        }
        Ok(false)
    }
}

impl Compare<'_> {
    fn compare(&mut self, name: String, x: &Tensor) {
        self.golden.compare(&[name], x, BOUND);
        self.seen += 1;
    }
}

fn base(golden: &Golden) -> Transformer {
    Transformer::load(&golden.folder, golden.place).unwrap()
}

/// The model with the adapter that PEFT made.
fn adapted(golden: &Golden) -> Transformer {
    let mut model = base(golden);
    peft::read_to_train(&golden.folder.join("adapter"), &mut model).unwrap();
    model
}

/// The model with every weight trained.
fn trained(golden: &Golden) -> Transformer {
    let mut model = base(golden);
    model.train_everything().unwrap();
    model
}

#[test]
fn activations_at_every_site() {
    check_all(&places(), &["gemma3", "qwen3"], |golden| {
        let model = base(golden);
        let (batch, ..) = golden.packed();
        let mut probe = Compare { golden, seen: 0 };
        model.forward(&mut Saved::for_training(&model.spec, model.place), &batch, &mut probe).unwrap();
        assert_eq!(probe.seen, 12 * model.spec.layers + 2, "{}: sites", golden.title());
    });
}

/// The logits after every row of the last pass.
fn all_logits(model: &Transformer, saved: &mut Saved) -> Tensor {
    let rows: Vec<u32> = (0..saved.hidden().shape()[0] as u32).collect();
    let mut logits = model.logits_tensor();
    model.logits(&mut logits, saved, &rows).unwrap();
    logits
}

#[test]
fn logits_and_likelihoods() {
    check_all(&places(), &MODELS, |golden| {
        let model = base(golden);
        let (batch, ..) = golden.packed();
        let mut saved = Saved::for_training(&model.spec, model.place);
        model.forward(&mut saved, &batch, &mut ()).unwrap();
        golden.compare(&["final_norm".into()], saved.hidden(), BOUND);
        golden.compare(&["logits".into()], &all_logits(&model, &mut saved), BOUND);

        // The last row of a document predicts nothing: 0 in the goldens.
        let rows = 0..batch.tokens.len() as u32;
        let inner: Vec<u32> = rows.clone().filter(|row| !batch.starts.contains(&(row + 1))).collect();
        let targets: Vec<u32> = inner.iter().map(|&row| batch.tokens[row as usize + 1]).collect();
        let mut nll = vec![0.0; rows.len()];
        for (&row, value) in inner.iter().zip(model.loss(&mut saved, &inner, &targets).unwrap()) {
            nll[row as usize] = value;
        }
        golden.compare(&["nll".into()], &Tensor::from_f32(&[rows.len()], nll), BOUND);
    });
}

/// Forward, loss and backward of all documents in one pass; every gradient is compared.
fn check_gradients(golden: &Golden, model: &mut Transformer, name: &str, loss: f64) {
    let (batch, rows, targets, weight) = golden.packed();
    let mut saved = Saved::for_training(&model.spec, model.place);
    model.forward(&mut saved, &batch, &mut ()).unwrap();
    let nll = model.loss_gradient(&mut saved, &rows, &targets, weight).unwrap();
    model.backward(&mut saved, &batch, &mut ()).unwrap();
    let found = f64::from(weight) * nll.iter().map(|&x| f64::from(x)).sum::<f64>();
    golden.compare_number(name, found, loss, BOUND);
    // From the head down, as the backward pass goes: the first that differs is nearest to the bug.
    for (name, parameter) in model.trainable().into_iter().rev() {
        let names: Vec<_> = parts(&name).iter().map(|part| format!("gradient.{part}")).collect();
        golden.compare(&names, parameter.gradient.as_ref().unwrap(), GRADIENT_BOUND);
    }
}

#[test]
fn gradients_of_every_weight() {
    check_all(&places(), &MODELS, |golden| {
        let mut model = trained(golden);
        let trained: usize = model.trainable().iter().map(|(_, p)| p.value.len()).sum();
        assert_eq!(trained, model.spec.parameters(), "{}: trained parameters", golden.title());
        check_gradients(golden, &mut model, "loss", golden.numbers.loss);
    });
}

#[test]
fn gradients_of_every_adapter() {
    check_all(&places(), &MODELS, |golden| {
        let mut model = adapted(golden);
        let (found, title) = (model.trainable().len(), golden.title());
        assert_eq!(found, 8 * model.spec.layers, "{title}: A and B of four fused projections");
        check_gradients(golden, &mut model, "adapted_loss", golden.numbers.adapted_loss);
    });
}

#[test]
fn logits_with_an_adapter_of_peft() {
    check_all(&places(), &MODELS, |golden| {
        let model = adapted(golden);
        let (batch, ..) = golden.packed();
        let mut saved = Saved::for_inference(&model.spec, model.place);
        model.forward(&mut saved, &batch, &mut ()).unwrap();
        golden.compare(&["adapted.logits".into()], &all_logits(&model, &mut saved), BOUND);
    });
}

/// The bits of a tensor's elements; bf16 widened, which keeps them apart.
fn bits(tensor: &Tensor) -> Vec<u32> {
    numbers(tensor).into_iter().map(f32::to_bits).collect()
}

/// The bits of everything that a forward and a backward pass compute, by name.
fn pass(golden: &Golden, model: &mut Transformer, saved: &mut Saved) -> Vec<(String, Vec<u32>)> {
    let (batch, rows, targets, weight) = golden.packed();
    for (_, parameter) in model.trainable_mut() {
        parameter.gradient.as_mut().unwrap().clear().unwrap();
    }
    model.forward(saved, &batch, &mut ()).unwrap();
    let mut all = vec![("hidden".to_owned(), bits(saved.hidden()))];
    all.push(("logits".to_owned(), bits(&all_logits(model, saved))));
    let nll = model.loss_gradient(saved, &rows, &targets, weight).unwrap();
    all.push(("nll".to_owned(), nll.into_iter().map(f32::to_bits).collect()));
    all.push(("gradient of hidden".to_owned(), bits(saved.dhidden())));
    model.backward(saved, &batch, &mut ()).unwrap();
    for (name, parameter) in model.trainable() {
        all.push((format!("gradient of {name}"), bits(parameter.gradient.as_ref().unwrap())));
    }
    all
}

/// The same work gives the same bits: in buffers that hold the last pass, in fresh ones, and when layers are computed
/// again in the backward pass.
#[test]
fn the_same_bits_every_time() {
    check_all(&places(), &MODELS, |golden| {
        for mut model in [trained(golden), adapted(golden)] {
            let mut saved = Saved::for_training(&model.spec, model.place);
            let once = pass(golden, &mut model, &mut saved);
            let (mut fresh, mut recomputing) = (
                Saved::for_training(&model.spec, model.place),
                Saved::for_recomputing(&model.spec, model.place),
            );
            let others = [("again", &mut saved), ("afresh", &mut fresh), ("recomputing", &mut recomputing)];
            for (how, saved) in others {
                for ((name, found), (_, expected)) in pass(golden, &mut model, saved).iter().zip(&once) {
                    assert!(found == expected, "{}: {name} differs, {how}", golden.title());
                }
            }
        }
    });
}

/// A model that goes on with sequences in its cache.
struct Decoder<'a> {
    model: &'a Transformer,
    cache: Cache,
    saved: Saved,
}

impl<'a> Decoder<'a> {
    /// With room for sequences of these lengths.
    fn new(model: &'a Transformer, lengths: impl Iterator<Item = usize>) -> Self {
        let cache = Cache::new(&model.spec, model.place, lengths.map(Cache::pages_for).sum()).unwrap();
        Self { model, cache, saved: Saved::for_inference(&model.spec, model.place) }
    }

    /// A new sequence, in one pass; the logits after each of its tokens.
    fn prefill(&mut self, tokens: &[u32]) -> (SequenceRow, Vec<Vec<f32>>) {
        let sequence = self.cache.add();
        let rows: Vec<SequenceRow> =
            (0..tokens.len()).map(|position| SequenceRow { sequence, position }).collect();
        (SequenceRow { sequence, position: tokens.len() }, self.step(tokens, &rows))
    }

    /// The logits after each of `tokens`, put at `rows`.
    fn step(&mut self, tokens: &[u32], rows: &[SequenceRow]) -> Vec<Vec<f32>> {
        self.model.infer(&mut self.saved, &mut self.cache, tokens, rows).unwrap();
        let logits = numbers(&all_logits(self.model, &mut self.saved));
        logits.chunks_exact(self.model.spec.vocab).map(<[f32]>::to_vec).collect()
    }
}

/// Half of each document in one pass, the rest token by token, all documents together: logits as if they had never been
/// apart.
#[test]
fn logits_through_the_cache() {
    check_all(&places(), &MODELS, |golden| {
        let model = base(golden);
        let documents = &golden.numbers.documents;
        let mut decoder = Decoder::new(&model, documents.iter().map(|document| document.ids.len()));
        let mut logits = Vec::new();
        let mut next: Vec<SequenceRow> = Vec::new();
        for document in documents {
            let (row, found) = decoder.prefill(&document.ids[..document.ids.len().div_ceil(2)]);
            next.push(row);
            logits.push(found);
        }
        loop {
            let open: Vec<usize> =
                (0..documents.len()).filter(|&i| next[i].position < documents[i].ids.len()).collect();
            if open.is_empty() {
                break;
            }
            let rows: Vec<SequenceRow> = open.iter().map(|&i| next[i]).collect();
            let tokens: Vec<u32> = open.iter().map(|&i| documents[i].ids[next[i].position]).collect();
            for (&i, row) in open.iter().zip(decoder.step(&tokens, &rows)) {
                logits[i].push(row);
                next[i].position += 1;
            }
        }
        let logits = logits.concat();
        let shape = [logits.len(), model.spec.vocab];
        golden.compare(&["logits".into()], &Tensor::from_f32(&shape, logits.concat()), BOUND);
    });
}

fn likeliest(logits: &[f32]) -> u32 {
    logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32
}

/// Prompts of unequal length, one prefill each, then decoded together through the cache and beyond the window. In f32
/// only: in bf16 the likeliest token may be another.
#[test]
fn greedy_continuations() {
    let places: Vec<_> = places().into_iter().filter(|place| place.real == DType::F32).collect();
    check_all(&places, &MODELS, |golden| {
        let model = base(golden);
        let prompts = &golden.numbers.greedy;
        let mut decoder = Decoder::new(&model, prompts.iter().map(|g| g.prompt.len() + g.completion.len()));
        let (mut rows, mut next) = (Vec::new(), Vec::new());
        for greedy in prompts {
            let (row, logits) = decoder.prefill(&greedy.prompt);
            rows.push(row);
            next.push(likeliest(logits.last().unwrap()));
        }
        for step in 0..prompts[0].completion.len() {
            let expected: Vec<u32> = prompts.iter().map(|greedy| greedy.completion[step]).collect();
            assert_eq!(next, expected, "{}: token {step} of each continuation", golden.title());
            next = decoder.step(&next, &rows).iter().map(|logits| likeliest(logits)).collect();
            for row in &mut rows {
                row.position += 1;
            }
        }
    });
}
