//! Angles, and the split, QK-norm and rotation, forward and backward.

use emlab::device::{DType, Device, Tensor};
use emlab::ops::norm::{Gain, Norm};
use emlab::ops::rope::{self, Heads, Rope};

use super::budget::{Expected, U, floats};
use super::{DTYPES, card, host, poisoned, random, twice, upload};

/// Rows, H, KV, D: odd ones, then those of the models.
pub const CASES: [[usize; 4]; 9] = [
    [5, 3, 1, 20],
    [7, 4, 2, 16],
    [9, 2, 1, 6],
    [33, 5, 1, 64],
    [4, 2, 2, 96],
    [65, 4, 1, 256],
    [300, 32, 8, 128],
    [2000, 16, 8, 128],
    [130, 16, 8, 256],
];

fn angles(n: usize, d: usize, rope: Rope, device: Device) -> Tensor {
    let positions = Tensor::from_u32(&[n], (0..n).map(|i| (i * i * 37 % 131_072) as u32).collect());
    let mut angles = Tensor::empty_on(device, DType::F32);
    rope::angles(&mut angles, &positions.to(device).unwrap(), rope, d).unwrap();
    angles
}

#[test]
fn angles_agree_to_the_last_bit_or_so() {
    let Some(card) = card() else { return };
    for rope in [Rope { base: 1e6, factor: 8.0 }, Rope { base: 1e4, factor: 1.0 }] {
        for d in [6, 128, 256] {
            let (exact, found) = (angles(500, d, rope, Device::Cpu), angles(500, d, rope, card));
            let found = found.read::<f32>().unwrap();
            let worst = found.iter().zip(exact.f32()).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
            assert!(worst < 1.3e-7, "{rope:?}: an angle is off by {worst}");
        }
    }
}

/// What the op gets.
pub struct Inputs {
    heads: Heads,
    norm: Norm,
    dtype: DType,
    name: String,
    qkv: Tensor,
    /// dq, dk, dv.
    gradients: [Tensor; 3],
    /// wq, wk.
    gains: [Tensor; 2],
    /// dwq, dwk before the backward.
    before: [Tensor; 2],
    angles: Tensor,
}

impl Inputs {
    pub fn new([n, query, kv, dim]: [usize; 4], norm: Norm, dtype: DType) -> Self {
        let heads = Heads { query, kv, dim };
        let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
        let gradients =
            [("dq", wide), ("dk", narrow), ("dv", narrow)].map(|(name, shape)| random(name, &shape, dtype));
        Self {
            heads,
            norm,
            dtype,
            name: format!("{n} × {heads:?}, {:?}", norm.gain),
            qkv: random("qkv", &[n, heads.qkv_width()], dtype),
            gradients,
            gains: ["wq", "wk"].map(|name| random(name, &[dim], DType::F32)),
            before: ["dwq", "dwk"].map(|name| random(name, &[dim], DType::F32)),
            angles: angles(n, dim, Rope { base: 1e4, factor: 1.0 }, Device::Cpu),
        }
    }

    fn rows(&self) -> usize {
        self.qkv.shape()[0]
    }

    /// |a cos| + |b sin| of the pair that element i of a head is rotated with.
    fn rotated(&self, head: impl Fn(usize) -> f64, row: usize) -> Vec<f64> {
        let (d, angles) = (self.heads.dim, self.angles.f32());
        let one = |i: usize| {
            let at = |i: usize| f64::from(angles[row * d + i]).abs();
            head(i) * at(i % (d / 2)) + head((i + d / 2) % d) * at(d / 2 + i % (d / 2))
        };
        (0..d).map(one).collect()
    }

    /// The gains' factors of head `h`.
    fn factors(&self, h: usize) -> Vec<f64> {
        let w = &self.gains[usize::from(h >= self.heads.query)];
        w.f32().iter().map(|w| f64::from(self.norm.gain.of(*w)).abs()).collect()
    }

    /// q, k, v and r as they should be: normalised as in norm.rs, then two products a rotated element; v is copied.
    pub fn forward(&self) -> [Expected; 4] {
        let (heads, n, d) = (self.heads, self.rows(), self.heads.dim);
        let (wide, narrow, rotated) = ([n, heads.q_width()], [n, heads.kv_width()], heads.query + heads.kv);
        let mut o = [host(&wide), host(&narrow), host(&narrow), host(&[n, rotated])];
        let w = self.gains.each_ref();
        rope::forward(o.each_mut(), &self.qkv, &self.angles, w, heads, self.norm).unwrap();
        let relative = floats(d) / 2.0 + 24.0 * U;
        let r: Vec<f64> = o[3].f32().iter().map(|r| f64::from(*r)).collect();
        let (mut q, mut k) = (Vec::new(), Vec::new());
        for (item, r) in r.iter().enumerate() {
            let (row, h) = (item / rotated, item % rotated);
            let (x, factors) = (&self.qkv.f32()[row * heads.qkv_width() + h * d..][..d], self.factors(h));
            let sizes = self.rotated(|i| f64::from(x[i]).abs() * r * factors[i], row);
            let into = if h < heads.query { &mut q } else { &mut k };
            into.extend(sizes.iter().map(|size| size * relative));
        }
        let errors = [q, k, vec![0.0; n * heads.kv_width()], r.iter().map(|r| r * relative).collect()];
        let names = ["q", "k", "v", "r"].map(|what| format!("{what} of {}", self.name));
        let [q, k, v, r] = [0, 1, 2, 3].map(|i| {
            let dtype = if i == 3 { DType::F32 } else { self.dtype };
            Expected::new(&*names[i], &o[i], errors[i].clone(), dtype)
        });
        [q, k, v, r]
    }

    /// dqkv, dwq, dwk as they should be: rotated back, then as in norm.rs; dv is copied.
    pub fn backward(&self, r: &Tensor, trained: bool) -> [Expected; 3] {
        let (heads, n, d) = (self.heads, self.rows(), self.heads.dim);
        let (mut dqkv, [mut dwq, mut dwk]) = (host(&[n, heads.qkv_width()]), self.before.clone());
        let dw = trained.then_some([&mut dwq, &mut dwk]);
        let (gradients, w) = (self.gradients.each_ref(), self.gains.each_ref());
        rope::backward(&mut dqkv, dw, gradients, [&self.qkv, r, &self.angles], w, heads, self.norm).unwrap();
        let rotated = heads.query + heads.kv;
        let mut errors = vec![0.0; dqkv.len()];
        let mut sums = [vec![0.0; d], vec![0.0; d]];
        for (item, r) in r.f32().iter().map(|r| f64::from(*r)).enumerate() {
            let (row, h) = (item / rotated, item % rotated);
            let (of_k, at) = (h >= heads.query, row * heads.qkv_width() + h * d);
            let dy = if of_k {
                &self.gradients[1].f32()[row * heads.kv_width() + (h - heads.query) * d..][..d]
            } else {
                &self.gradients[0].f32()[row * heads.q_width() + h * d..][..d]
            };
            let x: Vec<f64> = self.qkv.f32()[at..at + d].iter().map(|x| f64::from(x.abs())).collect();
            let (sizes, factors) = (self.rotated(|i| f64::from(dy[i]).abs(), row), self.factors(h));
            let along = (0..d).map(|i| sizes[i] * factors[i] * x[i]).sum::<f64>() / d as f64;
            for i in 0..d {
                let through = x[i] * r * r * along * (floats(d) + 16.0 * U);
                errors[at + i] = r * (16.0 * U * sizes[i] * factors[i] + through);
                sums[usize::from(of_k)][i] += sizes[i] * x[i] * r;
            }
        }
        let gain = |which: usize, dw: &Tensor| {
            let share = floats(n * [heads.query, heads.kv][which]) + 16.0 * U;
            let sums = sums[which].iter().zip(self.before[which].f32());
            let error = sums.map(|(sum, b)| if trained { share * (f64::from(b.abs()) + sum) } else { 0.0 });
            Expected::new(
                format!("{} of {}", ["dwq", "dwk"][which], self.name),
                dw,
                error.collect(),
                DType::F32,
            )
        };
        let gains = [gain(0, &dwq), gain(1, &dwk)];
        let [dwq, dwk] = gains;
        [Expected::new(format!("dqkv of {}", self.name), &dqkv, errors, self.dtype), dwq, dwk]
    }
}

fn compare(case: [usize; 4], norm: Norm, dtype: DType, card: Device) {
    let inputs = Inputs::new(case, norm, dtype);
    let (heads, n, name) = (inputs.heads, case[0], &inputs.name);
    let (wide, narrow, all) = ([n, heads.q_width()], [n, heads.kv_width()], [n, heads.qkv_width()]);
    let [gdq, gdk, gdv] = inputs.gradients.each_ref().map(|t| upload(t, dtype, card));
    let gqkv = upload(&inputs.qkv, dtype, card);
    let expected = inputs.forward();
    let r = &expected[3].exact;
    let [gr, gangles, gwq, gwk] =
        [r, &inputs.angles, &inputs.gains[0], &inputs.gains[1]].map(|t| t.to(card).unwrap());
    let found = twice(&format!("forward of {name}"), || {
        let [mut q, mut k, mut v] = [&wide, &narrow, &narrow].map(|shape| poisoned(shape, dtype, card));
        let mut r = poisoned(r.shape(), DType::F32, card);
        let out = [&mut q, &mut k, &mut v, &mut r];
        rope::forward(out, &gqkv, &gangles, [&gwq, &gwk], heads, norm).unwrap();
        [q, k, v, r]
    });
    for (expected, found) in expected.iter().zip(&found) {
        expected.holds(found);
    }

    for trained in [false, true] {
        let found = twice(&format!("backward of {name}"), || {
            let mut dqkv = poisoned(&all, dtype, card);
            let [mut dwq, mut dwk] = inputs.before.each_ref().map(|t| t.to(card).unwrap());
            let dw = trained.then_some([&mut dwq, &mut dwk]);
            let saved = [&gqkv, &gr, &gangles];
            rope::backward(&mut dqkv, dw, [&gdq, &gdk, &gdv], saved, [&gwq, &gwk], heads, norm).unwrap();
            [dqkv, dwq, dwk]
        });
        for (expected, found) in inputs.backward(r, trained).iter().zip(&found) {
            expected.holds(found);
        }
    }
}

#[test]
fn rope_forward_and_backward() {
    let Some(card) = card() else { return };
    for (i, case) in CASES.into_iter().enumerate() {
        let gain = [Gain::OnePlus, Gain::Plain][i % 2];
        for dtype in DTYPES {
            compare(case, Norm { gain, eps: 1e-6 }, dtype, card);
        }
    }
}
