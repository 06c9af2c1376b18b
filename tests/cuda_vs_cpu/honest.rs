//! Ops as correct kernels compute them, on the CPU: in another order than the reference, and with the roundings to bf16 of
//! the tensor cores. `planted.rs` asserts that their results pass.

use emlab::device::{DType, Tensor};
use emlab::ops::attention::Attention;
use half::bf16;

use super::linear::SCALE;
use super::{attention, linear};

impl attention::Inputs {
    /// out and lse in f32: tiles of 16 keys, the last first; a running maximum; p rounded to bf16.
    pub fn tiled(&self) -> [Vec<f32>; 2] {
        let heads = self.attention.heads;
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for item in 0..self.rows() * heads.query {
            let (i, h) = (item / heads.query, item % heads.query);
            let (q, keys, values) =
                (self.head(&self.q, i, h), self.seen(&self.k, i, h), self.seen(&self.v, i, h));
            let (mut max, mut sum, mut y) = (f32::NEG_INFINITY, 0.0, vec![0.0f32; heads.dim]);
            for (keys, values) in keys.rchunks(16).zip(values.rchunks(16)) {
                let scores: Vec<f32> = keys.iter().map(|k| self.attention.scale * plain_dot(q, k)).collect();
                let next = scores.iter().copied().fold(max, f32::max);
                let shrink = (max - next).exp();
                max = next;
                sum *= shrink;
                for y in &mut y {
                    *y *= shrink;
                }
                for (s, v) in scores.iter().zip(values) {
                    let p = (s - max).exp();
                    sum += p;
                    y.iter_mut().zip(*v).for_each(|(y, v)| *y += narrow(p) * v);
                }
            }
            out.extend(y.iter().map(|y| narrow(y / sum)));
            lse.push(max + sum.ln());
        }
        [out, lse]
    }

    /// dq, dk, dv in f32, from the last row to the first; p and ds rounded to bf16.
    pub fn tiled_backward(&self, [out, lse]: [&Tensor; 2]) -> [Vec<f32>; 3] {
        let Attention { heads, scale, .. } = self.attention;
        let mut sums = [&self.q, &self.k, &self.v].map(|t| vec![0.0f32; t.len()]);
        for item in (0..self.rows() * heads.query).rev() {
            let (i, h) = (item / heads.query, item % heads.query);
            let (q, dout) = (self.head(&self.q, i, h), self.head(&self.dout, i, h));
            let delta = plain_dot(dout, self.head(out, i, h));
            for j in self.visible(i).rev() {
                let (k, v) = (self.head(&self.k, j, h), self.head(&self.v, j, h));
                let p = (scale * plain_dot(q, k) - lse.f32()[item]).exp();
                let ds = narrow(p * (plain_dot(dout, v) - delta));
                let to = (j * heads.kv + h * heads.kv / heads.query) * heads.dim;
                for e in 0..heads.dim {
                    sums[0][item * heads.dim + e] += ds * k[e];
                    sums[1][to + e] += ds * q[e];
                    sums[2][to + e] += narrow(p) * dout[e];
                }
            }
        }
        let [dq, dk, dv] = sums;
        let scaled = |x: Vec<f32>| x.iter().map(|x| narrow(scale * x)).collect();
        [scaled(dq), scaled(dk), dv.iter().map(|x| narrow(*x)).collect()]
    }
}

fn plain_dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What a number becomes in bf16.
pub fn narrow(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

impl linear::Inputs {
    /// y with every sum from the last term to the first and S rounded to the type: another order, as good as any.
    pub fn other_order(&self, dtype: DType) -> Vec<f32> {
        let Self { case, x, w, a, b, .. } = self;
        let rounded = |x: f32| if dtype == DType::Bf16 { narrow(x) } else { x };
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).rev().map(|(x, y)| x * y).sum::<f32>();
        let (i, o, r) = (case.inputs, case.outputs, case.rank);
        let mut y = Vec::with_capacity(case.n * o);
        for x in x.f32().chunks_exact(i) {
            let s: Vec<f32> = a.f32().chunks_exact(i).map(|a| rounded(SCALE * dot(x, a))).collect();
            let mut next = 0;
            for column in 0..o {
                let base = dot(x, &w.f32()[column * i..][..i]);
                let segment = case.segments.iter().position(|segment| segment.contains(&column));
                y.push(rounded(segment.map_or(base, |g| {
                    next += 1;
                    base + dot(&s[g * r..][..r], &b.f32()[(next - 1) * r..][..r])
                })));
            }
        }
        y
    }
}
