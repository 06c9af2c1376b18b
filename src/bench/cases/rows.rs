//! The ops that are bound by memory, and the head with its loss.

use crate::Result;
use crate::device::philox::Key;
use crate::device::{DType, Device, Tensor};
use crate::ops::adamw::{self, AdamW, Trained};
use crate::ops::sample::{self, Draw, DrawBatch, Sampling};
use crate::ops::{
    embedding as look_up, glu as gated, linear_cross_entropy as head, norm as rms, rope as rotary,
};

use crate::bench::case::{COPY, Case, DECODE, ModelSizes, Work};
use crate::bench::inputs::Inputs;

/// Copies within the device's memory. The largest reads a GiB and writes one, an eighth of that on the CPU; the others
/// are smaller and smaller: a cold copy of few bytes is slower than they say.
pub fn copies(inputs: &Inputs) -> Vec<Case> {
    let largest: usize = if inputs.place.device == Device::Cpu { 1 << 27 } else { 1 << 30 };
    let copy = |bytes: usize| {
        let sizes = [bytes / 4];
        Case {
            op: COPY,
            model: "any".into(),
            sizes: format!("bytes={bytes}"),
            flops: 0.0,
            bytes: 2.0 * bytes as f64,
            prepare: Box::new(move |inputs| {
                let (mut to, from) = (inputs.float_result(&sizes)?, inputs.float(&sizes)?);
                Ok(Box::new(move || to.copy_from(&from)))
            }),
        }
    };
    (0..6).map(|step| copy(largest >> (2 * step))).collect()
}

/// Reads the looked-up rows of w and the tokens, writes x. The gradient reads and writes as many rows of dw, in f32; the
/// order of the tokens is made by the host beside it. Few of random tokens occur twice. Scatter writes all of x and reads the values, for a half of the rows.
pub fn embedding(model: &ModelSizes) -> Vec<Case> {
    let (n, v, c, real) = (model.n, model.spec.vocab, model.spec.channels, model.real);
    let (sizes, half) = (format!("N={n} V={v} C={c}"), n.div_ceil(2));
    let scale = model.spec.embedding_scale.unwrap_or(1.0);
    vec![
        model.case(
            "embedding forward",
            sizes.clone(),
            [0, n * c * (model.weight + real) + 4 * n],
            move |inputs| {
                let (mut x, w) = (inputs.result(&[n, c])?, inputs.weight(&[v, c])?);
                let tokens = inputs.given(&[n], inputs.indices(n, v))?;
                Ok(Box::new(move || look_up::forward(&mut x, &tokens, &w, scale)))
            },
        ),
        model.case("embedding backward", sizes, [0, n * c * (real + 8) + 4 * n], move |inputs| {
            let (mut dw, dx) = (inputs.float_result(&[v, c])?, inputs.real(&[n, c])?);
            let tokens = inputs.indices(n, v);
            let order = look_up::order(&tokens, inputs.place.device)?;
            let tokens = inputs.given(&[n], tokens)?;
            Ok(Box::new(move || look_up::backward(&mut dw, &dx, [&tokens, &order], scale)))
        }),
        model.case(
            "embedding scatter",
            format!("N={n} C={c}"),
            [0, (n + half) * c * real + 4 * n],
            move |inputs| {
                let (mut x, values) = (inputs.result(&[n, c])?, inputs.real(&[half, c])?);
                let source = |row: u32| if row.is_multiple_of(2) { row / 2 } else { look_up::NOWHERE };
                let sources = inputs.given(&[n], (0..n as u32).map(source).collect())?;
                Ok(Box::new(move || look_up::scatter(&mut x, &values, &sources)))
            },
        ),
    ]
}

/// forward: x → y. add: x, delta → sum, y. backward: dy, x → dx. add backward: stream, dy, sum → stream. Beside these
/// the gain, and r once; with the gain's gradient, dw read and written.
pub fn norm(model: &ModelSizes) -> Vec<Case> {
    let (n, c, norm) = (model.n, model.spec.channels, model.norm);
    let (rows, sizes) = (n * c * model.real, format!("N={n} C={c}"));
    let few = 4 * (n + c);
    let decode = DECODE[3];
    let add = |n: usize| {
        move |inputs: &Inputs| -> Result<Work> {
            let (x, delta, w) = (inputs.real(&[n, c])?, inputs.real(&[n, c])?, inputs.float(&[c])?);
            let (mut sum, mut y) = (inputs.result(&[n, c])?, inputs.result(&[n, c])?);
            let mut r = inputs.float_result(&[n])?;
            Ok(Box::new(move || rms::add_forward(&mut sum, &mut y, &mut r, &x, &delta, &w, norm)))
        }
    };
    let decode_work = [0, 4 * decode * c * model.real + 4 * (decode + c)];
    let backward = |gain: bool| {
        move |inputs: &Inputs| -> Result<Work> {
            let (dy, x, w) = (inputs.real(&[n, c])?, inputs.real(&[n, c])?, inputs.float(&[c])?);
            let (mut dx, mut dw) = (inputs.result(&[n, c])?, inputs.float_result(&[c])?);
            let r = inputs.float(&[n])?;
            Ok(Box::new(move || rms::backward(&mut dx, gain.then_some(&mut dw), &dy, &x, &r, &w, norm)))
        }
    };
    vec![
        model.case("norm forward", sizes.clone(), [0, 2 * rows + few], move |inputs| {
            let (x, w) = (inputs.real(&[n, c])?, inputs.float(&[c])?);
            let (mut y, mut r) = (inputs.result(&[n, c])?, inputs.float_result(&[n])?);
            Ok(Box::new(move || rms::forward(&mut y, &mut r, &x, &w, norm)))
        }),
        model.case("norm add forward", sizes.clone(), [0, 4 * rows + few], add(n)),
        model.case("norm add forward", format!("N={decode} C={c}"), decode_work, add(decode)),
        model.case("norm backward", sizes.clone(), [0, 3 * rows + few], backward(false)),
        model.case("norm backward gain", sizes.clone(), [0, 3 * rows + few + 8 * c], backward(true)),
        model.case("norm add backward", sizes, [0, 4 * rows + few], move |inputs| {
            let (dy, sum, w) = (inputs.real(&[n, c])?, inputs.real(&[n, c])?, inputs.float(&[c])?);
            let (mut stream, r) = (inputs.real(&[n, c])?, inputs.float(&[n])?);
            Ok(Box::new(move || rms::add_backward(&mut stream, None, &dy, &sum, &r, &w, norm)))
        }),
    ]
}

/// angles: writes (N, D) floats. forward: qkv → q, k, v, with the angles and r. backward: dq, dk, dv, and q and k of
/// qkv, → dqkv, with the angles and r.
pub fn rope(model: &ModelSizes) -> Vec<Case> {
    let (n, heads, norm, real) = (model.n, model.heads(), model.norm, model.real);
    let (d, width, rotated) = (heads.dim, heads.qkv_width(), heads.query + heads.kv);
    let (few, [h, kv]) = (4 * n * (d + rotated), [heads.query, heads.kv]);
    let sizes = format!("N={n} H={h} KV={kv} D={d}");
    let positions = move || (0..n as u32).collect::<Vec<u32>>();
    let rope = model.spec.ropes[0];
    let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
    let backward = |gain: bool| {
        move |inputs: &Inputs| -> Result<Work> {
            let (dq, dk, dv) = (inputs.real(&wide)?, inputs.real(&narrow)?, inputs.real(&narrow)?);
            let (qkv, r, mut dqkv) =
                (inputs.real(&[n, width])?, inputs.float(&[n, rotated])?, inputs.result(&[n, width])?);
            let (angles, wq, wk) = (inputs.float(&[n, d])?, inputs.float(&[d])?, inputs.float(&[d])?);
            let [mut dwq, mut dwk] = [inputs.float_result(&[d])?, inputs.float_result(&[d])?];
            Ok(Box::new(move || {
                let dw = gain.then_some([&mut dwq, &mut dwk]);
                rotary::backward(&mut dqkv, dw, [&dq, &dk, &dv], [&qkv, &r, &angles], [&wq, &wk], heads, norm)
            }))
        }
    };
    let back = n * (2 * width + rotated * d) * real + few;
    vec![
        model.case("rope angles", format!("N={n} D={d}"), [0, 4 * n * (d + 1)], move |inputs| {
            let (mut angles, positions) = (inputs.float_result(&[n, d])?, inputs.given(&[n], positions())?);
            Ok(Box::new(move || rotary::angles(&mut angles, &positions, rope, d)))
        }),
        model.case("rope forward", sizes.clone(), [0, 2 * n * width * real + few], move |inputs| {
            let (qkv, angles) = (inputs.real(&[n, width])?, inputs.float(&[n, d])?);
            let (wq, wk, mut r) =
                (inputs.float(&[d])?, inputs.float(&[d])?, inputs.float_result(&[n, rotated])?);
            let (mut q, mut k, mut v) =
                (inputs.result(&wide)?, inputs.result(&narrow)?, inputs.result(&narrow)?);
            Ok(Box::new(move || {
                rotary::forward([&mut q, &mut k, &mut v, &mut r], &qkv, &angles, [&wq, &wk], heads, norm)
            }))
        }),
        model.case("rope backward", sizes.clone(), [0, back], backward(false)),
        model.case("rope backward gain", sizes, [0, back + 16 * d], backward(true)),
    ]
}

/// forward: gate_up (N, 2F) → y. backward: dy, gate_up → dgate_up.
pub fn glu(model: &ModelSizes) -> Vec<Case> {
    let (n, f, activation) = (model.n, model.spec.mlp_width, model.spec.activation);
    let (rows, sizes) = (n * f * model.real, format!("N={n} F={f}"));
    vec![
        model.case("glu forward", sizes.clone(), [0, 3 * rows], move |inputs| {
            let (mut y, gate_up) = (inputs.result(&[n, f])?, inputs.real(&[n, 2 * f])?);
            Ok(Box::new(move || gated::forward(&mut y, &gate_up, activation)))
        }),
        model.case("glu backward", sizes, [0, 5 * rows], move |inputs| {
            let (dy, gate_up) = (inputs.real(&[n, f])?, inputs.real(&[n, 2 * f])?);
            let mut dgate_up = inputs.result(&[n, 2 * f])?;
            Ok(Box::new(move || gated::backward(&mut dgate_up, &dy, &gate_up, activation)))
        }),
    ]
}

/// The loss is on the answers: half of the rows. One product over the vocabulary for the loss, another for dx; x and w
/// are read, dx is written.
pub fn linear_cross_entropy(model: &ModelSizes) -> Vec<Case> {
    let (n, v, c) = (model.n.div_ceil(2), model.spec.vocab, model.spec.channels);
    let product = 2 * n * v * c;
    let (x, w) = (n * c * model.real, v * c * model.weight);
    let case = |op, gradient: bool, work| {
        model.case(op, format!("N={n} V={v} C={c}"), work, move |inputs| {
            let (x, w, targets) = (inputs.real(&[n, c])?, inputs.weight(&[v, c])?, inputs.indices(n, v));
            let (mut dx, mut scratch) = (inputs.result(&[n, c])?, inputs.place.float());
            Ok(Box::new(move || {
                let gradients = head::Gradients { dx: gradient.then_some(&mut dx), dw: None };
                head::forward(gradients, &mut scratch, &x, &w, &targets, 1.0).map(drop)
            }))
        })
    };
    vec![
        case("linear_cross_entropy forward", false, [product, x + w]),
        case("linear_cross_entropy gradient", true, [2 * product, 2 * x + w]),
    ]
}

/// Reads the logits once: 100 answers, from all of the vocabulary as the study draws, and from the likeliest tokens; one
/// answer. On a GPU the draw alone, as decoding queues it.
pub fn sample(model: &ModelSizes) -> Vec<Case> {
    let v = model.spec.vocab;
    let case = |op, b: usize, top_p: f32| {
        model.case(op, format!("B={b} V={v}"), [0, 4 * b * v], move |inputs| {
            let mut logits = inputs.random(DType::F32, &[b, v], 3.0)?;
            let sampling = Sampling { temperature: 1.0, top_k: 0, top_p };
            let draw = |i: usize| Draw { key: Key([i as u32, 1]), position: 3, forbidden: &[] };
            let draws: Vec<Draw> = (0..b).map(draw).collect();
            let Device::Cuda(gpu) = inputs.place.device else {
                let mut tokens = vec![0; b];
                return Ok(Box::new(move || sample::forward(&mut tokens, &mut logits, sampling, &draws)));
            };
            let mut batch = DrawBatch::new(gpu);
            batch.set(&draws)?;
            Ok(Box::new(move || batch.draw(&mut logits, sampling)))
        })
    };
    vec![case("sample", 1, 1.0), case("sample", DECODE[3], 1.0), case("sample top_p", DECODE[3], 0.95)]
}

/// Reads g, reads and writes p, m and v, writes the rounded copy and clears g (which is zero from the second run on); the
/// norm reads g. As many weights as 16,384 a token: 67 million at 4,096, near the adapters of the study's models.
pub fn adamw(n: usize) -> Vec<Case> {
    let e = n << 14;
    let case = |op, bytes: usize, prepare| Case {
        op,
        model: "any".into(),
        sizes: format!("E={e}"),
        flops: 0.0,
        bytes: bytes as f64,
        prepare,
    };
    vec![
        case(
            "adamw step",
            34 * e,
            Box::new(move |inputs| {
                let [mut p, mut m, mut g] = [inputs.float(&[e])?, inputs.float(&[e])?, inputs.float(&[e])?];
                let mut v = inputs.float_result(&[e])?;
                let mut copy = Tensor::zeros_on(inputs.place.device, DType::Bf16, &[e])?;
                let adamw = AdamW { lr: 1e-5, betas: [0.9, 0.999], eps: 1e-8, decay: 0.01, step: 10 };
                Ok(Box::new(move || {
                    let [p, m, v, g] = [&mut p, &mut m, &mut v, &mut g];
                    let all = &mut [Trained { p, m, v, copy: Some(&mut copy), g, decays: true }];
                    adamw::step(all, 1.0, adamw)
                }))
            }),
        ),
        case(
            "adamw square_sum",
            4 * e,
            Box::new(move |inputs| {
                let g = inputs.float(&[e])?;
                Ok(Box::new(move || adamw::square_sum(&[&g]).map(drop)))
            }),
        ),
    ]
}
