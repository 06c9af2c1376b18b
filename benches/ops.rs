//! CPU time of the ops at the sizes of Gemma 3 270M: `cargo bench --bench ops [-- FILTER]`.
//!
//! Throughput is in multiply-adds × 2 for products ("elements" are FLOP) and in bytes of weights read for single rows.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emlab::device::philox::Key;
use emlab::device::{DType, Device, Tensor};
use emlab::ops::attention::{self, Attention, Documents};
use emlab::ops::glu::{self, Activation};
use emlab::ops::linear_cross_entropy::{self, Gradients};
use emlab::ops::rope::Heads;
use emlab::ops::sample::{self, Draw, Sampling};
use emlab::ops::{linear, norm};
use half::bf16;

/// C, F and V of Gemma 3 270M.
const SIZES: (usize, usize, usize) = (640, 2048, 262_144);
const HEADS: Heads = Heads { query: 4, kv: 1, dim: 256 };

fn random(shape: &[usize]) -> Tensor {
    let key = Key::new(1, &["bench"]);
    let n = shape.iter().product();
    Tensor::from_f32(shape, (0..n).map(|i| key.uniform(0, i as u32) - 0.5).collect())
}

fn random_half(shape: &[usize]) -> Tensor {
    Tensor::from_bf16(shape, random(shape).f32().iter().map(|x| bf16::from_f32(*x)).collect())
}

fn linears(criterion: &mut Criterion) {
    let (c, f, v) = SIZES;
    let mut group = criterion.benchmark_group("linear");
    for (name, rows, outputs, inputs) in
        [("head", 1, v, c), ("head", 16, v, c), ("gate_up", 1024, 2 * f, c), ("down", 1024, c, f)]
    {
        let (x, w) = (random(&[rows, inputs]), random_half(&[outputs, inputs]));
        let mut y = Tensor::zeros(DType::F32, &[rows, outputs]);
        group.throughput(if rows == 1 {
            Throughput::Bytes(w.bytes() as u64)
        } else {
            Throughput::Elements(2 * (rows * outputs * inputs) as u64)
        });
        group.bench_function(format!("{name} {rows} x {outputs} x {inputs}"), |b| {
            b.iter(|| linear::forward(&mut y, &mut Tensor::empty(), black_box(&x), &w, None));
        });
    }
    group.finish();
}

fn attentions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    let n = 1024;
    let (wide, narrow) = ([n, HEADS.q_width()], [n, HEADS.kv_width()]);
    let (q, k, v) = (random(&wide), random(&narrow), random(&narrow));
    let [mut out, mut dq] = [0, 1].map(|_| Tensor::zeros(DType::F32, &wide));
    let [mut dk, mut dv] = [0, 1].map(|_| Tensor::zeros(DType::F32, &narrow));
    let mut lse = Tensor::zeros(DType::F32, &[n, HEADS.query]);
    for window in [None, Some(512)] {
        let attention = Attention { heads: HEADS, scale: 1.0 / 16.0, window };
        let documents = Documents::new(&[0, n as u32], Device::Cpu).expect("documents on the host");
        group.bench_function(format!("forward window {window:?}"), |b| {
            b.iter(|| attention::forward(&mut out, &mut lse, [&q, &k, &v], &documents, attention));
        });
        group.bench_function(format!("backward window {window:?}"), |b| {
            let dout = random(&wide);
            b.iter(|| {
                let into = [&mut dq, &mut dk, &mut dv];
                attention::backward(into, &dout, [&out, &lse], [&q, &k, &v], &documents, attention)
            });
        });
    }
    group.finish();
}

fn rows(criterion: &mut Criterion) {
    let (c, f, v) = SIZES;
    let n = 1024;
    let mut group = criterion.benchmark_group("rows");
    let (x, w, gate_up) = (random(&[n, c]), random(&[c]), random(&[n, 2 * f]));
    let [mut y, mut r, mut glu] =
        [vec![n, c], vec![n], vec![n, f]].map(|shape| Tensor::zeros(DType::F32, &shape));
    let gain = norm::Norm { gain: norm::Gain::OnePlus, eps: 1e-6 };
    group.bench_function("norm", |b| b.iter(|| norm::forward(&mut y, &mut r, &x, &w, gain)));
    group.bench_function("glu", |b| b.iter(|| glu::forward(&mut glu, &gate_up, Activation::GeluTanh)));
    let logits = random(&[16, v]);
    group.bench_function("sample 16 of the whole vocabulary", |b| {
        let draws = [0; 16].map(|_| Draw { key: Key::new(2, &[]), position: 3, forbidden: &[] });
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        let mut tokens = [0; 16];
        b.iter(|| sample::forward(&mut tokens, &mut logits.clone(), sampling, &draws));
    });
    group.finish();
}

fn loss(criterion: &mut Criterion) {
    let (c, _, v) = SIZES;
    let n = 256;
    let (x, w) = (random(&[n, c]), random_half(&[v, c]));
    let (mut dx, mut scratch) = (Tensor::zeros(DType::F32, &[n, c]), Tensor::empty());
    let mut group = criterion.benchmark_group("linear_cross_entropy");
    group.sample_size(10).throughput(Throughput::Elements(4 * (n * v * c) as u64));
    group.bench_function("loss and gradient of 256 rows", |b| {
        b.iter(|| {
            let gradients = Gradients { dx: Some(&mut dx), dw: None };
            linear_cross_entropy::forward(gradients, &mut scratch, &x, &w, &vec![7; n], 1.0)
        });
    });
    group.finish();
}

criterion_group!(benches, linears, attentions, rows, loss);
criterion_main!(benches);
