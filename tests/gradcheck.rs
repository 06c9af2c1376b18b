//! Every op's backward against the exact derivative of its forward.
//!
//! The CPU reference is generic over `Real`. Run on dual numbers, a forward gives the derivative along a random
//! direction of each input in turn; run on duals without a tangent, the backward is double precision arithmetic. The
//! two must agree to rounding. Then the public op, in f32, must agree with the double precision one, gains and all;
//! `dx` starts as NaN (it must be overwritten) and a second backward adds to `dw` what the first one did. Where a backward
//! adds a single term to each element of `dw` (one row, or one product) that doubles it exactly; where rows are added one
//! by one, it doubles it to rounding.

use emlab::device::philox::Key;
use emlab::device::{DType, Device, Tensor};
use emlab::ops::attention::{self, Attention, Contexts, Documents};
use emlab::ops::glu::{self, Activation};
use emlab::ops::linear::{self, Adapter, Dropout};
use emlab::ops::linear_cross_entropy as lce;
use emlab::ops::norm::{self, Gain, Norm};
use emlab::ops::real::{Dual, Real};
use emlab::ops::rope::{self, Heads, Rope};
use emlab::ops::{embedding, linear_cross_entropy};

/// Random numbers in (−1, 1), the same for the same name.
fn random(name: &str, n: usize) -> Vec<f32> {
    let key = Key::new(3, &[name]);
    (0..n).map(|i| 2.0 * key.uniform(0, i as u32) - 1.0).collect()
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, random(name, shape.iter().product()))
}

fn nan(shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, vec![f32::NAN; shape.iter().product()])
}

fn duals(values: &[f32]) -> Vec<Dual> {
    values.iter().map(|x| Dual::of(*x)).collect()
}

/// Inputs by name, as f32 values.
type Inputs = Vec<(&'static str, Vec<f32>)>;

/// `forward`: inputs → output. `backward`: inputs, doutput → the gradient of each input, `None` where there is none.
/// Both on duals. Returns (output, gradients) in double precision for the comparison with the f32 op.
fn check(
    inputs: &Inputs,
    forward: impl Fn(&[Vec<Dual>]) -> Vec<Dual>,
    backward: impl Fn(&[Vec<Dual>], &[Dual]) -> Vec<Vec<Dual>>,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let plain: Vec<Vec<Dual>> = inputs.iter().map(|(_, x)| duals(x)).collect();
    let output = forward(&plain);
    let seed = duals(&random("doutput", output.len()));
    let gradients = backward(&plain, &seed);
    for (i, (name, _)) in inputs.iter().enumerate() {
        let direction = random(&format!("direction of {name}"), plain[i].len());
        let mut moved = plain.clone();
        for (x, d) in moved[i].iter_mut().zip(&direction) {
            x.tangent = f64::from(*d);
        }
        let exact: f64 = forward(&moved).iter().zip(&seed).map(|(y, s)| y.tangent * s.value).sum();
        let found: f64 = gradients[i].iter().zip(&direction).map(|(g, d)| g.value * f64::from(*d)).sum();
        assert!(
            (exact - found).abs() <= 1e-9 * exact.abs().max(1.0),
            "gradient of {name}: {found}, exactly {exact}"
        );
    }
    let values = |x: Vec<Dual>| x.into_iter().map(|x| x.value).collect::<Vec<f64>>();
    (values(output), gradients.into_iter().map(values).collect())
}

/// Largest difference against the largest magnitude.
fn close(name: &str, found: &Tensor, expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}: elements");
    let scale = expected.iter().fold(1e-3, |a: f64, b| a.max(b.abs()));
    for (i, (f, e)) in found.f32().iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= 1e-5 * scale, "{name}[{i}] is {f}, expected {e}");
    }
}

/// The output gradient that `check` used.
fn seed(shape: &[usize]) -> Tensor {
    tensor("doutput", shape)
}

fn zeros(n: usize) -> Vec<Dual> {
    vec![Dual::default(); n]
}

#[test]
fn norm_alone() {
    let (n, c) = (5, 37);
    for gain in [Gain::OnePlus, Gain::Plain] {
        let norm = Norm { gain, eps: 1e-6 };
        let inputs = vec![("x", random("x", n * c)), ("w", random("w", c))];
        let (y64, grads) = check(
            &inputs,
            |v| {
                let (mut y, mut r) = (zeros(n * c), zeros(n));
                norm::cpu::forward(&mut y, &mut r, &v[0], &v[1], norm);
                y
            },
            |v, dy| {
                let (mut y, mut r, mut dx, mut dw) = (zeros(n * c), zeros(n), zeros(n * c), zeros(c));
                norm::cpu::forward(&mut y, &mut r, &v[0], &v[1], norm);
                norm::cpu::backward(&mut dx, Some(&mut dw), dy, &v[0], &r, &v[1], norm);
                vec![dx, dw]
            },
        );
        let (x, w) = (tensor("x", &[n, c]), tensor("w", &[c]));
        let (mut y, mut r, mut dx, mut dw) =
            (nan(&[n, c]), nan(&[n]), nan(&[n, c]), Tensor::zeros(DType::F32, &[c]));
        norm::forward(&mut y, &mut r, &x, &w, norm).unwrap();
        norm::backward(&mut dx, Some(&mut dw), &seed(&[n, c]), &x, &r, &w, norm).unwrap();
        close("y", &y, &y64);
        close("dx", &dx, &grads[0]);
        close("dw", &dw, &grads[1]);
        let once = dw.clone();
        norm::backward(&mut dx, Some(&mut dw), &seed(&[n, c]), &x, &r, &w, norm).unwrap();
        doubled("dw", &once, &dw, &grads[1]);
    }
}

/// After two backwards: twice the gradient, to the rounding of rows that are added one by one.
fn doubled(name: &str, once: &Tensor, twice: &Tensor, expected: &[f64]) {
    let double: Vec<f64> = expected.iter().map(|x| 2.0 * x).collect();
    close(name, twice, &double);
    assert_ne!(once.f32(), twice.f32(), "{name} was not added to");
}

/// After two backwards that add one term each: exactly twice the gradient.
fn doubled_exactly(name: &str, once: &Tensor, twice: &Tensor) {
    let double: Vec<f32> = once.f32().iter().map(|x| 2.0 * x).collect();
    assert!(once.f32().iter().any(|x| *x != 0.0), "{name} is zero");
    assert_eq!(twice.f32(), double, "{name}, twice");
}

/// Runs a backward twice on the same gradients, which start at zero.
fn twice(shapes: &[&[usize]], mut backward: impl FnMut(&mut [Tensor])) -> [Vec<Tensor>; 2] {
    let mut grads: Vec<Tensor> = shapes.iter().map(|shape| Tensor::zeros(DType::F32, shape)).collect();
    backward(&mut grads);
    let once = grads.clone();
    backward(&mut grads);
    [once, grads]
}

#[test]
fn norm_after_addition() {
    let (n, c) = (4, 21);
    let norm = Norm { gain: Gain::OnePlus, eps: 1e-6 };
    let inputs = vec![("x", random("x", n * c)), ("delta", random("delta", n * c)), ("w", random("w", c))];
    // The output is the pair (sum, y): the gradient of the stream arrives through sum.
    let forward = |v: &[Vec<Dual>]| {
        let (mut sum, mut y, mut r) = (zeros(n * c), zeros(n * c), zeros(n));
        norm::cpu::add_forward(&mut sum, &mut y, &mut r, &v[0], &v[1], &v[2], norm);
        (sum, y, r)
    };
    let (_, grads) = check(
        &inputs,
        |v| {
            let (sum, y, _) = forward(v);
            [sum, y].concat()
        },
        |v, dout| {
            let (sum, _, r) = forward(v);
            let (mut stream, mut dw) = (dout[..n * c].to_vec(), zeros(c));
            norm::cpu::add_backward(&mut stream, Some(&mut dw), &dout[n * c..], &sum, &r, &v[2], norm);
            vec![stream.clone(), stream, dw]
        },
    );
    let (x, delta, w) = (tensor("x", &[n, c]), tensor("delta", &[n, c]), tensor("w", &[c]));
    let (mut sum, mut y, mut r) = (nan(&[n, c]), nan(&[n, c]), nan(&[n]));
    norm::add_forward(&mut sum, &mut y, &mut r, &x, &delta, &w, norm).unwrap();
    let both = random("doutput", 2 * n * c);
    let dy = Tensor::from_f32(&[n, c], both[n * c..].to_vec());
    let [once, two] = twice(&[&[c]], |dw| {
        for gain in [None, Some(&mut dw[0])] {
            let mut stream = Tensor::from_f32(&[n, c], both[..n * c].to_vec());
            norm::add_backward(&mut stream, gain, &dy, &sum, &r, &w, norm).unwrap();
            close("stream", &stream, &grads[0]);
        }
    });
    close("dw", &once[0], &grads[2]);
    doubled("dw", &once[0], &two[0], &grads[2]);
}

#[test]
fn rope_with_head_norms() {
    let (n, heads) = (6, Heads { query: 3, kv: 1, dim: 10 });
    let norm = Norm { gain: Gain::OnePlus, eps: 1e-6 };
    let positions = Tensor::from_u32(&[n], vec![0, 1, 2, 0, 1, 700]);
    let mut angles = Tensor::empty();
    rope::angles(&mut angles, &positions, Rope { base: 1e4, factor: 8.0 }, heads.dim).unwrap();
    let angles64 = duals(angles.f32());
    let inputs = vec![
        ("qkv", random("qkv", n * heads.qkv_width())),
        ("wq", random("wq", heads.dim)),
        ("wk", random("wk", heads.dim)),
    ];
    let (q, kv) = (n * heads.q_width(), n * heads.kv_width());
    let forward = |v: &[Vec<Dual>]| {
        let mut o = [zeros(q), zeros(kv), zeros(kv), zeros(n * (heads.query + heads.kv))];
        let [oq, ok, ov, r] = &mut o;
        rope::cpu::forward([oq, ok, ov, r], &v[0], &angles64, [&v[1], &v[2]], heads, norm);
        o
    };
    let (out, grads) = check(
        &inputs,
        |v| {
            let [q, k, v, _] = forward(v);
            [q, k, v].concat()
        },
        |v, dout| {
            let [.., r] = forward(v);
            let (mut dqkv, mut dwq, mut dwk) =
                (zeros(n * heads.qkv_width()), zeros(heads.dim), zeros(heads.dim));
            rope::cpu::backward(
                &mut dqkv,
                Some([&mut dwq, &mut dwk]),
                [&dout[..q], &dout[q..q + kv], &dout[q + kv..]],
                [&v[0], &r, &angles64],
                [&v[1], &v[2]],
                heads,
                norm,
            );
            vec![dqkv, dwq, dwk]
        },
    );
    let (qkv, wq, wk) =
        (tensor("qkv", &[n, heads.qkv_width()]), tensor("wq", &[heads.dim]), tensor("wk", &[heads.dim]));
    let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
    let mut o = [nan(&wide), nan(&narrow), nan(&narrow), nan(&[n, heads.query + heads.kv])];
    rope::forward(o.each_mut(), &qkv, &angles, [&wq, &wk], heads, norm).unwrap();
    close("q", &o[0], &out[..q]);
    close("k", &o[1], &out[q..q + kv]);
    close("v", &o[2], &out[q + kv..]);
    let all = random("doutput", q + 2 * kv);
    let grad = |range: std::ops::Range<usize>, shape: &[usize]| Tensor::from_f32(shape, all[range].to_vec());
    let dout = [grad(0..q, &wide), grad(q..q + kv, &narrow), grad(q + kv..q + 2 * kv, &narrow)];
    let saved = [&qkv, &o[3], &angles];
    let [once, two] = twice(&[&[heads.dim], &[heads.dim]], |dw| {
        let [dwq, dwk] = dw else { unreachable!("two gains") };
        for gains in [None, Some([dwq, dwk])] {
            let mut dqkv = nan(&[n, heads.qkv_width()]);
            rope::backward(&mut dqkv, gains, dout.each_ref(), saved, [&wq, &wk], heads, norm).unwrap();
            close("dqkv", &dqkv, &grads[0]);
        }
    });
    for (i, name) in ["dwq", "dwk"].into_iter().enumerate() {
        close(name, &once[i], &grads[1 + i]);
        doubled(name, &once[i], &two[i], &grads[1 + i]);
    }
}

#[test]
fn glu_of_both_kinds() {
    let (n, f) = (3, 19);
    for activation in [Activation::GeluTanh, Activation::Silu] {
        let inputs = vec![("gate_up", random("gate_up", n * 2 * f).iter().map(|x| 4.0 * x).collect())];
        let (y64, grads) = check(
            &inputs,
            |v| {
                let mut y = zeros(n * f);
                glu::cpu::forward(&mut y, &v[0], f, activation);
                y
            },
            |v, dy| {
                let mut dx = zeros(n * 2 * f);
                glu::cpu::backward(&mut dx, dy, &v[0], f, activation);
                vec![dx]
            },
        );
        let x = Tensor::from_f32(&[n, 2 * f], inputs[0].1.clone());
        let (mut y, mut dx) = (nan(&[n, f]), nan(&[n, 2 * f]));
        glu::forward(&mut y, &x, activation).unwrap();
        glu::backward(&mut dx, &seed(&[n, f]), &x, activation).unwrap();
        close("y", &y, &y64);
        close("dgate_up", &dx, &grads[0]);
    }
}

/// Three projections fused, the first and the last adapted, with and without dropout; few rows and many.
#[test]
fn linear_with_adapters() {
    let (inputs_wide, rank, segments) = (23, 3, [0..7, 12..21]);
    let (outputs, b_rows) = (21, 16);
    for (n, p) in [(4, 0.0), (4, 0.4), (linear::STABLE_ROWS + 3, 0.0)] {
        let dropout = (p > 0.0).then(|| Dropout { p, key: Key::new(1, &["mask"]), map: 2 });
        let spec = linear::cpu::Segments {
            rows: &segments,
            rank,
            inputs: inputs_wide,
            outputs,
            scale: 1.7,
            dropout,
        };
        let width = segments.len() * rank;
        let inputs = vec![
            ("x", random("x", n * inputs_wide)),
            ("w", random("w", outputs * inputs_wide)),
            ("a", random("a", width * inputs_wide)),
            ("b", random("b", b_rows * rank)),
        ];
        let forward = |v: &[Vec<Dual>]| {
            let (mut y, mut s) = (zeros(n * outputs), zeros(n * width));
            linear::cpu::forward(&mut y, &v[0], &v[1], inputs_wide);
            linear::cpu::adapter_forward(&mut y, &mut s, &v[0], [&v[2], &v[3]], spec);
            (y, s)
        };
        let (y64, grads) = check(
            &inputs,
            |v| forward(v).0,
            |v, dy| {
                let s = forward(v).1;
                let [mut dx, mut dw, mut da, mut db] = [0, 1, 2, 3].map(|i| zeros(v[i].len()));
                let mut ds = zeros(n * width);
                linear::cpu::backward(&mut dx, dy, &v[1], inputs_wide);
                linear::cpu::weight_backward(&mut dw, dy, &v[0], inputs_wide);
                let grads = Some([&mut da[..], &mut db[..]]);
                linear::cpu::adapter_backward(&mut dx, &mut ds, grads, dy, [&v[0], &s], [&v[2], &v[3]], spec);
                vec![dx, dw, da, db]
            },
        );
        let (x, w) = (tensor("x", &[n, inputs_wide]), tensor("w", &[outputs, inputs_wide]));
        let (a, b) = (tensor("a", &[width, inputs_wide]), tensor("b", &[b_rows, rank]));
        let adapter = Adapter { a: &a, b: &b, segments: &segments, scale: 1.7, dropout };
        let (mut y, mut s, mut dx, mut ds) =
            (nan(&[n, outputs]), Tensor::empty(), nan(&[n, inputs_wide]), Tensor::empty());
        linear::forward(&mut y, &mut s, &x, &w, Some(adapter)).unwrap();
        close("y", &y, &y64);
        let [once, two] = twice(&[w.shape(), a.shape(), b.shape()], |grad| {
            let [dw, da, db] = grad else { unreachable!("three gradients") };
            let gradients = linear::Gradients { w: Some(dw), adapter: Some([da, db]) };
            dx.f32_mut().fill(f32::NAN);
            linear::backward(&mut dx, &mut ds, gradients, &seed(&[n, outputs]), [&x, &s], &w, Some(adapter))
                .unwrap();
            close("dx", &dx, &grads[0]);
        });
        for (i, name) in ["dw", "da", "db"].into_iter().enumerate() {
            close(name, &once[i], &grads[1 + i]);
            // The scale rounds what is added to da once more.
            if name == "da" {
                doubled(name, &once[i], &two[i], &grads[1 + i]);
            } else {
                doubled_exactly(name, &once[i], &two[i]);
            }
        }
    }
}

/// Documents of 1, 70 and 5 rows (a block and a bit), grouped heads, with and without a window.
#[test]
fn attention_over_documents() {
    let heads = Heads { query: 4, kv: 2, dim: 6 };
    let starts = [0u32, 1, 71, 76];
    let n = 76;
    for window in [None, Some(9)] {
        let attention = Attention { heads, scale: 0.37, window };
        let (wide, narrow) = (n * heads.q_width(), n * heads.kv_width());
        let inputs = vec![("q", random("q", wide)), ("k", random("k", narrow)), ("v", random("v", narrow))];
        let forward = |v: &[Vec<Dual>]| {
            let (mut out, mut lse) = (zeros(wide), zeros(n * heads.query));
            attention::cpu::forward(&mut out, &mut lse, [&v[0], &v[1], &v[2]], &starts, attention);
            (out, lse)
        };
        let (out64, grads) = check(
            &inputs,
            |v| forward(v).0,
            |v, dout| {
                let (out, lse) = forward(v);
                let (mut dq, mut dk, mut dv) = (zeros(wide), zeros(narrow), zeros(narrow));
                let into = [&mut dq[..], &mut dk, &mut dv];
                attention::cpu::backward(into, dout, [&out, &lse], [&v[0], &v[1], &v[2]], &starts, attention);
                vec![dq, dk, dv]
            },
        );
        definition(&inputs, &starts, attention, &out64);
        let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
        let (q, k, v) = (tensor("q", &wide), tensor("k", &narrow), tensor("v", &narrow));
        let (mut out, mut lse) = (nan(&wide), nan(&[n, heads.query]));
        let documents = Documents::new(&starts, Device::Cpu).unwrap();
        attention::forward(&mut out, &mut lse, [&q, &k, &v], &documents, attention).unwrap();
        close("out", &out, &out64);
        let (mut dq, mut dk, mut dv) = (nan(&wide), nan(&narrow), nan(&narrow));
        let saved = [&out, &lse];
        let into = [&mut dq, &mut dk, &mut dv];
        attention::backward(into, &seed(&wide), saved, [&q, &k, &v], &documents, attention).unwrap();
        for (found, expected) in [dq, dk, dv].iter().zip(&grads) {
            close("dq, dk, dv", found, expected);
        }
        cached(&q, &k, &v, &starts, attention, &out64);
    }
}

/// Attention by the formula, row by row: masks and head groups are what tiling could get wrong.
fn definition(inputs: &Inputs, starts: &[u32], attention: Attention, expected: &[f64]) {
    let heads = attention.heads;
    let [q, k, v] = [0, 1, 2].map(|i| &inputs[i].1);
    for doc in starts.windows(2) {
        for i in doc[0] as usize..doc[1] as usize {
            for h in 0..heads.query {
                let kv = h * heads.kv / heads.query * heads.dim;
                let seen: Vec<usize> =
                    (doc[0] as usize..=i).filter(|j| attention.window.is_none_or(|w| i - j < w)).collect();
                let at = |x: &[f32], row: usize, width: usize, start: usize, d: usize| {
                    f64::from(x[row * width + start + d])
                };
                let weights: Vec<f64> = seen
                    .iter()
                    .map(|j| {
                        let dot: f64 = (0..heads.dim)
                            .map(|d| {
                                at(q, i, heads.q_width(), h * heads.dim, d)
                                    * at(k, *j, heads.kv_width(), kv, d)
                            })
                            .sum();
                        (dot * f64::from(attention.scale)).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for d in 0..heads.dim {
                    let value: f64 = seen
                        .iter()
                        .zip(&weights)
                        .map(|(j, w)| w / total * at(v, *j, heads.kv_width(), kv, d))
                        .sum();
                    let found = expected[i * heads.q_width() + h * heads.dim + d];
                    assert!(
                        (value - found).abs() < 1e-9,
                        "row {i}, head {h}: {found}, by definition {value}"
                    );
                }
            }
        }
    }
}

/// The same rows through a paged cache whose pages lie out of order.
fn cached(q: &Tensor, k: &Tensor, v: &Tensor, starts: &[u32], attention: Attention, expected: &[f64]) {
    let width = attention.heads.kv_width();
    let pages = 8;
    let mut cache = [0, 1].map(|_| nan(&[pages * attention::PAGE, width]));
    let mut free = [5u32, 2, 7, 0, 6, 1, 3].into_iter();
    let mut tables: Vec<Vec<u32>> = Vec::new();
    let mut rows = Vec::new();
    for (d, doc) in starts.windows(2).enumerate() {
        tables.push(Vec::new());
        for (position, row) in (doc[0] as usize..doc[1] as usize).enumerate() {
            if position % attention::PAGE == 0 {
                tables[d].push(free.next().unwrap());
            }
            assert_eq!(row, rows.len());
            rows.push((d, position));
        }
    }
    let most = tables.iter().map(Vec::len).max().unwrap();
    let table = |d: usize| tables[d].iter().copied().chain([u32::MAX; 8]).take(most);
    let positions = rows.iter().map(|(_, position)| *position as u32).collect();
    let pages = rows.iter().flat_map(|(d, _)| table(*d)).collect();
    let contexts = Contexts::new(
        Tensor::from_u32(&[rows.len()], positions),
        Tensor::from_u32(&[rows.len(), most], pages),
    );
    attention::store(cache.each_mut(), [k, v], &contexts, attention.heads).unwrap();
    let mut out = nan(q.shape());
    attention::cached(&mut out, q, cache.each_ref(), &contexts, attention).unwrap();
    close("cached out", &out, expected);
}

#[test]
fn cross_entropy_over_chunks() {
    let (n, c, v) = (lce::CHUNK + 3, 5, 33);
    let targets: Vec<u32> = (0..n as u32).map(|i| i * 7 % v as u32).collect();
    let weight = 0.25;
    let inputs = vec![("x", random("x", n * c)), ("w", random("w", v * c))];
    let run = |x: &[Vec<Dual>], dx: Option<&mut [Dual]>, dw: Option<&mut [Dual]>| {
        let (mut nll, mut logits) = (zeros(n), zeros(lce::CHUNK * v));
        lce::cpu::forward(&mut nll, (dx, dw), &mut logits, &x[0], &x[1], &targets, weight);
        nll
    };
    // The op differentiates weight · Σ nll: the output is that one number.
    let (loss, grads) = check(
        &inputs,
        |x| vec![run(x, None, None).into_iter().sum::<Dual>() * Dual::of(weight)],
        |x, dout| {
            let (mut dx, mut dw) = (zeros(n * c), zeros(v * c));
            run(x, Some(&mut dx), Some(&mut dw));
            [dx, dw].map(|g| g.into_iter().map(|g| g * dout[0]).collect()).into()
        },
    );
    let factor = f64::from(random("doutput", 1)[0]);
    let (x, w) = (tensor("x", &[n, c]), tensor("w", &[v, c]));
    let unscaled = |g: &[f64]| g.iter().map(|g| g / factor).collect::<Vec<_>>();
    let [once, two] = twice(&[&[v, c]], |dw| {
        let (mut dx, mut scratch) = (nan(&[n, c]), Tensor::empty());
        let gradients = linear_cross_entropy::Gradients { dx: Some(&mut dx), dw: Some(&mut dw[0]) };
        let nll = lce::forward(gradients, &mut scratch, &x, &w, &targets, weight).unwrap();
        let total: f64 = nll.iter().map(|x| f64::from(*x)).sum();
        assert!((total * f64::from(weight) - loss[0]).abs() < 1e-4 * loss[0].abs());
        close("dx", &dx, &unscaled(&grads[0]));
    });
    close("dw", &once[0], &unscaled(&grads[1]));
    doubled("dw", &once[0], &two[0], &unscaled(&grads[1]));
}

#[test]
fn embedding_of_repeated_tokens() {
    let (c, v) = (5, 7);
    let ids = vec![3u32, 0, 3, 6];
    let order = embedding::order(&ids, Device::Cpu).unwrap();
    assert_eq!(order.u32(), [1, 0, 2, 3]);
    let inputs = vec![("w", random("w", v * c))];
    let (x64, grads) = check(
        &inputs,
        |w| {
            let mut x = zeros(ids.len() * c);
            embedding::cpu::forward(&mut x, &ids, &w[0], 2.5);
            x
        },
        |_, dx| {
            let mut dw = zeros(v * c);
            embedding::cpu::backward(&mut dw, dx, [&ids, order.u32()], 2.5);
            vec![dw]
        },
    );
    let (w, tokens) = (tensor("w", &[v, c]), Tensor::from_u32(&[4], ids));
    let mut x = nan(&[4, c]);
    embedding::forward(&mut x, &tokens, &w, 2.5).unwrap();
    close("x", &x, &x64);
    let [once, two] = twice(&[&[v, c]], |dw| {
        embedding::backward(&mut dw[0], &seed(&[4, c]), [&tokens, &order], 2.5).unwrap();
    });
    close("dw", &once[0], &grads[0]);
    doubled("dw", &once[0], &two[0], &grads[0]);
    let beyond = Tensor::from_u32(&[4], vec![0, 1, 7, 2]);
    assert!(embedding::forward(&mut x, &beyond, &w, 2.5).unwrap_err().to_string().contains("token id 7"));
}

/// One row, one head of each kind, tokens that differ: each element of dw gets one term a backward.
#[test]
fn a_second_backward_of_one_term_doubles_exactly() {
    let (c, norm) = (21, Norm { gain: Gain::OnePlus, eps: 1e-6 });
    let (x, w) = (tensor("x", &[1, c]), tensor("w", &[c]));
    let (mut y, mut r) = (nan(&[1, c]), nan(&[1]));
    norm::forward(&mut y, &mut r, &x, &w, norm).unwrap();
    let mut dx = nan(&[1, c]);
    let [once, two] = twice(&[&[c]], |dw| {
        norm::backward(&mut dx, Some(&mut dw[0]), &seed(&[1, c]), &x, &r, &w, norm).unwrap();
    });
    doubled_exactly("dw of norm", &once[0], &two[0]);
    let [once, two] = twice(&[&[c]], |dw| {
        norm::add_backward(&mut dx, Some(&mut dw[0]), &seed(&[1, c]), &x, &r, &w, norm).unwrap();
    });
    doubled_exactly("dw of norm after addition", &once[0], &two[0]);

    let heads = Heads { query: 1, kv: 1, dim: 10 };
    let mut angles = Tensor::empty();
    rope::angles(&mut angles, &Tensor::from_u32(&[1], vec![7]), Rope { base: 1e4, factor: 1.0 }, 10).unwrap();
    let (qkv, head) = (tensor("qkv", &[1, 30]), [1, 10]);
    let gains = [tensor("wq", &[10]), tensor("wk", &[10])];
    let mut out = [nan(&head), nan(&head), nan(&head), nan(&[1, 2])];
    rope::forward(out.each_mut(), &qkv, &angles, gains.each_ref(), heads, norm).unwrap();
    let (mut dqkv, dout) = (nan(&[1, 30]), ["dq", "dk", "dv"].map(|name| tensor(name, &head)));
    let [once, two] = twice(&[&[10], &[10]], |dw| {
        let [dwq, dwk] = dw else { unreachable!("two gains") };
        let saved = [&qkv, &out[3], &angles];
        rope::backward(&mut dqkv, Some([dwq, dwk]), dout.each_ref(), saved, gains.each_ref(), heads, norm)
            .unwrap();
    });
    for (i, name) in ["dwq", "dwk"].into_iter().enumerate() {
        doubled_exactly(name, &once[i], &two[i]);
    }

    let tokens = Tensor::from_u32(&[3], vec![4, 0, 2]);
    let order = embedding::order(tokens.u32(), Device::Cpu).unwrap();
    let [once, two] = twice(&[&[6, 5]], |dw| {
        embedding::backward(&mut dw[0], &seed(&[3, 5]), [&tokens, &order], 2.5).unwrap();
    });
    doubled_exactly("dw of embedding", &once[0], &two[0]);

    // All rows in one chunk: one product.
    let (x, w) = (tensor("x", &[3, 5]), tensor("w", &[33, 5]));
    let [once, two] = twice(&[&[33, 5]], |dw| {
        let gradients = lce::Gradients { dx: None, dw: Some(&mut dw[0]) };
        lce::forward(gradients, &mut Tensor::empty(), &x, &w, &[1, 7, 30], 0.25).unwrap();
    });
    doubled_exactly("dw of linear_cross_entropy", &once[0], &two[0]);
}
