//! Products: the four fused projections of a block and the head.

use std::ops::Range;

use crate::Result;
use crate::device::Tensor;
use crate::ops::linear::{self, Adapter, Gradients};

use crate::bench::case::{Case, DECODE, ModelSizes, Work};
use crate::bench::inputs::Inputs;

/// R of the study's adapters.
const RANK: usize = 32;

/// One fused projection: the output rows of each of its segments, and its inputs.
#[derive(Clone)]
struct Projection {
    part: &'static str,
    segments: Vec<usize>,
    inputs: usize,
}

impl Projection {
    fn outputs(&self) -> usize {
        self.segments.iter().sum()
    }

    fn weight(&self, inputs: &Inputs) -> Result<Tensor> {
        inputs.weight(&[self.outputs(), self.inputs])
    }

    fn adapter(&self, inputs: &Inputs) -> Result<Lora> {
        let mut next = 0;
        let segments = self.segments.iter().map(|rows| {
            next += rows;
            next - rows..next
        });
        Ok(Lora {
            segments: segments.collect(),
            a: inputs.adapter(&[self.segments.len() * RANK, self.inputs])?,
            b: inputs.adapter(&[self.outputs(), RANK])?,
        })
    }

    fn sizes(&self, n: usize) -> String {
        format!("part={} N={n} O={} I={}", self.part, self.outputs(), self.inputs)
    }

    /// As `sizes`, with R and the rows of each adapted segment.
    fn lora_sizes(&self, n: usize) -> String {
        let segments: Vec<String> = self.segments.iter().map(usize::to_string).collect();
        format!("{} R={RANK} S={}", self.sizes(n), segments.join("+"))
    }
}

/// An adapter on every segment.
struct Lora {
    segments: Vec<Range<usize>>,
    a: Tensor,
    b: Tensor,
}

impl Lora {
    fn view(&self) -> Adapter<'_> {
        // α = 64 over √R: no power of two.
        Adapter { a: &self.a, b: &self.b, segments: &self.segments, scale: 11.31, dropout: None }
    }
}

fn projections(model: &ModelSizes) -> [Projection; 4] {
    let (c, f, heads) = (model.spec.channels, model.spec.mlp_width, model.heads());
    let (q, kv) = (heads.q_width(), heads.kv_width());
    [
        Projection { part: "qkv", segments: vec![q, kv, kv], inputs: c },
        Projection { part: "o", segments: vec![c], inputs: q },
        Projection { part: "gate_up", segments: vec![f, f], inputs: c },
        Projection { part: "down", segments: vec![c], inputs: f },
    ]
}

/// Training passes of N rows, then decoding passes; with adapters the batch of the study only.
pub fn cases(model: &ModelSizes) -> Vec<Case> {
    let mut cases = Vec::new();
    let parts = projections(model);
    let training = [forward, forward_lora, backward, backward_lora, backward_full];
    for case in training {
        cases.extend(parts.iter().map(|part| case(model, part, model.n)));
    }
    for n in DECODE {
        cases.extend(parts.iter().map(|part| forward(model, part, n)));
        cases.push(head(model, n));
    }
    cases.extend(parts.iter().map(|part| forward_lora(model, part, DECODE[3])));
    cases
}

/// gate_up in a training pass.
pub fn product(model: &ModelSizes) -> Case {
    forward(model, &projections(model)[2], model.n)
}

/// Bytes of x, W and y.
fn operands(model: &ModelSizes, [n, o, i]: [usize; 3]) -> usize {
    (n * i + n * o) * model.real + o * i * model.weight
}

/// y = x Wᵀ: reads x and W, writes y.
fn forward(model: &ModelSizes, part: &Projection, n: usize) -> Case {
    let (part, o, i) = (part.clone(), part.outputs(), part.inputs);
    model.case("linear forward", part.sizes(n), [2 * n * o * i, operands(model, [n, o, i])], move |inputs| {
        let (mut y, x, w) = (inputs.result(&[n, o])?, inputs.real(&[n, i])?, part.weight(inputs)?);
        let mut none = inputs.place.real();
        Ok(Box::new(move || linear::forward(&mut y, &mut none, &x, &w, None)))
    })
}

/// The head in decoding: as `forward`, but the logits are f32.
fn head(model: &ModelSizes, n: usize) -> Case {
    let (v, c) = (model.spec.vocab, model.spec.channels);
    let part = Projection { part: "head", segments: vec![v], inputs: c };
    let bytes = n * c * model.real + v * c * model.weight + 4 * n * v;
    model.case("linear forward", part.sizes(n), [2 * n * v * c, bytes], move |inputs| {
        let (mut y, x, w) = (inputs.float_result(&[n, v])?, inputs.real(&[n, c])?, part.weight(inputs)?);
        let mut none = inputs.place.real();
        Ok(Box::new(move || linear::forward(&mut y, &mut none, &x, &w, None)))
    })
}

/// Multiply-adds × 2 of S = x Aᵀ and of S Bᵀ, and bytes of A, B and S, which is written too.
fn adapter_work(model: &ModelSizes, part: &Projection, n: usize) -> [usize; 2] {
    let (all, o, i) = (part.segments.len() * RANK, part.outputs(), part.inputs);
    [2 * n * (all * i + RANK * o), (all * i + RANK * o + n * all) * model.real]
}

/// y = x Wᵀ + s (x Aᵀ) Bᵀ.
fn forward_lora(model: &ModelSizes, part: &Projection, n: usize) -> Case {
    let (part, o, i) = (part.clone(), part.outputs(), part.inputs);
    let [flops, bytes] = adapter_work(model, &part, n);
    let work = [2 * n * o * i + flops, operands(model, [n, o, i]) + bytes];
    model.case("linear lora forward", part.lora_sizes(n), work, move |inputs| {
        let (mut y, x, w) = (inputs.result(&[n, o])?, inputs.real(&[n, i])?, part.weight(inputs)?);
        let (mut s, lora) = (inputs.place.real(), part.adapter(inputs)?);
        Ok(Box::new(move || linear::forward(&mut y, &mut s, &x, &w, Some(lora.view()))))
    })
}

/// dx = dy W: reads dy and W, writes dx.
fn backward(model: &ModelSizes, part: &Projection, n: usize) -> Case {
    let (o, i) = (part.outputs(), part.inputs);
    let work = [2 * n * o * i, operands(model, [n, o, i])];
    model.case("linear backward", part.sizes(n), work, prepare_backward(part, n, Trained::Nothing))
}

/// dx, dS, dA and dB: the products with A and with B twice each; x is read too.
fn backward_lora(model: &ModelSizes, part: &Projection, n: usize) -> Case {
    let (o, i) = (part.outputs(), part.inputs);
    let [flops, bytes] = adapter_work(model, part, n);
    let gradients = 8 * (part.segments.len() * RANK * i + RANK * o);
    let work =
        [2 * n * o * i + 2 * flops, operands(model, [n, o, i]) + n * i * model.real + bytes + gradients];
    model.case("linear lora backward", part.lora_sizes(n), work, prepare_backward(part, n, Trained::Adapter))
}

/// dx and dW, which is read and written in f32; x is read too.
fn backward_full(model: &ModelSizes, part: &Projection, n: usize) -> Case {
    let (o, i) = (part.outputs(), part.inputs);
    let work = [4 * n * o * i, operands(model, [n, o, i]) + n * i * model.real + 8 * o * i];
    model.case("linear full backward", part.sizes(n), work, prepare_backward(part, n, Trained::Weight))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trained {
    Nothing,
    Adapter,
    Weight,
}

fn prepare_backward(
    part: &Projection,
    n: usize,
    trained: Trained,
) -> impl FnOnce(&Inputs) -> Result<Work> + 'static {
    let (part, o, i) = (part.clone(), part.outputs(), part.inputs);
    move |inputs| {
        let (mut dx, dy, x) = (inputs.result(&[n, i])?, inputs.real(&[n, o])?, inputs.real(&[n, i])?);
        let (w, mut ds) = (part.weight(inputs)?, inputs.place.real());
        let none = inputs.place.real();
        match trained {
            Trained::Nothing => Ok(Box::new(move || {
                linear::backward(&mut dx, &mut ds, Gradients::default(), &dy, [&x, &none], &w, None)
            })),
            Trained::Weight => {
                let mut dw = inputs.float_result(&[o, i])?;
                Ok(Box::new(move || {
                    let gradients = Gradients { w: Some(&mut dw), adapter: None };
                    linear::backward(&mut dx, &mut ds, gradients, &dy, [&x, &none], &w, None)
                }))
            }
            Trained::Adapter => {
                let lora = part.adapter(inputs)?;
                let s = inputs.real(&[n, lora.a.shape()[0]])?;
                let (mut da, mut db) =
                    (inputs.float_result(lora.a.shape())?, inputs.float_result(lora.b.shape())?);
                Ok(Box::new(move || {
                    let gradients = Gradients { w: None, adapter: Some([&mut da, &mut db]) };
                    linear::backward(&mut dx, &mut ds, gradients, &dy, [&x, &s], &w, Some(lora.view()))
                }))
            }
        }
    }
}
