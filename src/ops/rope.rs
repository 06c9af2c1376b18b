//! From the fused projection to attention's operands: split, normalise q and k per head, rotate them.
//!
//! ```text
//! qkv (N, (H+2·KV)·D) → q (N, H·D), k (N, KV·D), v (N, KV·D)
//! q̂ = q · r · g(w),  r = (mean_d q² + eps)^-½                        per head (QK-norm), likewise k
//! q_i ← q̂_i cos θ_i − q̂_{i+D/2} sin θ_i,   q_{i+D/2} ← q̂_{i+D/2} cos θ_i + q̂_i sin θ_i,   i < D/2
//! θ_i = position · base^(−2i/D) / factor
//! ```
//! Source: Su et al., arXiv 2104.09864, in the half-split layout of Hugging Face; QK-norm as in Gemma 3 and Qwen 3.
//! Angles are formed in f32 from f32 frequencies, as the reference implementation does: at position 2,000 the
//! rounding of the product is visible in the sixth digit, and it must be the same rounding.

use crate::device::tensor::{expect, expect_dtype, expect_f32, expect_shape};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::ops::norm::Norm;

pub use cuda::variants;

/// One kind of rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub base: f64,
    /// Linear scaling: positions are divided by it; 1 for none.
    pub factor: f64,
}

impl Rope {
    /// base^(−2i/D) / factor for i < D/2.
    fn frequencies(self, dim: usize) -> Vec<f32> {
        let one = |i: usize| {
            let power = self.base.powf(f64::from((2 * i) as f32 / dim as f32)) as f32;
            1.0 / power / self.factor as f32
        };
        (0..dim / 2).map(one).collect()
    }
}

/// Head counts and width of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// H, query heads.
    pub query: usize,
    /// KV, key and value heads; divides H.
    pub kv: usize,
    /// D, width of a head; even.
    pub dim: usize,
}

impl Heads {
    /// Width of the fused projection: (H + 2·KV)·D.
    pub fn qkv_width(self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }

    /// H·D.
    pub fn q_width(self) -> usize {
        self.query * self.dim
    }

    /// KV·D.
    pub fn kv_width(self) -> usize {
        self.kv * self.dim
    }
}

/// Fills `angles` (N, D): cos θ_i in the first half of a row, sin θ_i in the second. Resizes it.
///
/// # Errors
/// `positions` is not (N) u32.
pub fn angles(angles: &mut Tensor, positions: &Tensor, rope: Rope, dim: usize) -> Result<()> {
    let [n] = positions.dims()?;
    expect_dtype("rope", "positions", positions, DType::U32)?;
    angles.resize(&[n, dim])?;
    match positions.device() {
        Device::Cuda(gpu) => cuda::angles(gpu, angles, positions, rope, dim)?,
        Device::Cpu => cpu::angles(angles.f32_mut(), positions.u32(), rope, dim),
    }
    Ok(())
}

/// Splits `qkv` into `q` (N, H·D), `k` and `v` (N, KV·D), q and k normalised with the gains `wq`, `wk` (D) and
/// rotated by `angles` (N, D); keeps `r` (N, H+KV) for [`backward`].
///
/// # Errors
/// A shape or element type that disagrees.
pub fn forward(
    [q, k, v, r]: [&mut Tensor; 4],
    qkv: &Tensor,
    angles: &Tensor,
    [wq, wk]: [&Tensor; 2],
    heads: Heads,
    norm: Norm,
) -> Result<()> {
    let [n, _] = qkv.dims()?;
    let (d, wide, narrow) = (heads.dim, &[n, heads.q_width()], &[n, heads.kv_width()]);
    expect(
        "rope",
        &[("qkv", qkv, &[n, heads.qkv_width()]), ("q", q, wide), ("k", k, narrow), ("v", v, narrow)],
    )?;
    let statistics = ("r", &*r, &[n, heads.query + heads.kv][..]);
    expect_f32(
        "rope",
        qkv.device(),
        &[statistics, ("angles", angles, &[n, d]), ("wq", wq, &[d]), ("wk", wk, &[d])],
    )?;
    match qkv.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, [q, k, v, r], [qkv, angles, wq, wk], heads, norm)?,
        Device::Cpu => cpu::forward(
            [q.f32_mut(), k.f32_mut(), v.f32_mut(), r.f32_mut()],
            qkv.f32(),
            angles.f32(),
            [wq.f32(), wk.f32()],
            heads,
            norm,
        ),
    }
    Ok(())
}

/// Gradient of [`forward`]: overwrites `dqkv`, adds to `dw` = (dwq, dwk) if the gains are trained.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn backward(
    dqkv: &mut Tensor,
    dw: Option<[&mut Tensor; 2]>,
    [dq, dk, dv]: [&Tensor; 3],
    [qkv, r, angles]: [&Tensor; 3],
    [wq, wk]: [&Tensor; 2],
    heads: Heads,
    norm: Norm,
) -> Result<()> {
    let [n, _] = qkv.dims()?;
    let (d, wide, narrow) = (heads.dim, &[n, heads.q_width()], &[n, heads.kv_width()]);
    expect_shape("rope backward", "dqkv", dqkv, &[n, heads.qkv_width()])?;
    expect(
        "rope backward",
        &[("qkv", qkv, dqkv.shape()), ("dq", dq, wide), ("dk", dk, narrow), ("dv", dv, narrow)],
    )?;
    let statistics = ("r", r, &[n, heads.query + heads.kv][..]);
    expect_f32(
        "rope backward",
        qkv.device(),
        &[statistics, ("angles", angles, &[n, d]), ("wq", wq, &[d]), ("wk", wk, &[d])],
    )?;
    match qkv.device() {
        Device::Cuda(gpu) => {
            let inputs = [dq, dk, dv, qkv, r, angles, wq, wk];
            cuda::backward(gpu, dqkv, dw, inputs, heads, norm)?;
        }
        Device::Cpu => cpu::backward(
            dqkv.f32_mut(),
            dw.map(|[q, k]| [q.f32_mut(), k.f32_mut()]),
            [dq.f32(), dk.f32(), dv.f32()],
            [qkv.f32(), r.f32(), angles.f32()],
            [wq.f32(), wk.f32()],
            heads,
            norm,
        ),
    }
    Ok(())
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::{Heads, Norm, Rope};
    use crate::ops::norm::cpu::{gain_backward, row, row_backward};
    use crate::ops::real::Real;

    /// See [`super::angles`].
    pub fn angles(angles: &mut [f32], positions: &[u32], rope: Rope, dim: usize) {
        let (half, frequencies) = (dim / 2, rope.frequencies(dim));
        angles.par_chunks_mut(dim).zip(positions).for_each(|(row, position)| {
            let (cos, sin) = row.split_at_mut(half);
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&frequencies) {
                (*sin, *cos) = (*position as f32 * frequency).sin_cos();
            }
        });
    }

    /// Rotates one head in place; `sign` = −1 rotates back.
    #[inline(always)]
    fn rotate<T: Real>(head: &mut [T], angles: &[T], sign: T) {
        let half = head.len() / 2;
        let (lo, hi) = head.split_at_mut(half);
        let (cos, sin) = angles.split_at(half);
        for i in 0..half {
            let (a, b, s) = (lo[i], hi[i], sin[i] * sign);
            lo[i] = a * cos[i] - b * s;
            hi[i] = b * cos[i] + a * s;
        }
    }

    /// See [`super::forward`].
    pub fn forward<T: Real>(
        [q, k, v, r]: [&mut [T]; 4],
        qkv: &[T],
        angles: &[T],
        [wq, wk]: [&[T]; 2],
        heads: Heads,
        norm: Norm,
    ) {
        let (d, rotated) = (heads.dim, heads.query + heads.kv);
        let outputs = q.par_chunks_mut(heads.q_width()).zip(k.par_chunks_mut(heads.kv_width()));
        let outputs = outputs.zip(v.par_chunks_mut(heads.kv_width())).zip(r.par_chunks_mut(rotated));
        let inputs = qkv.par_chunks(heads.qkv_width()).zip(angles.par_chunks(d));
        outputs.zip(inputs).for_each(|((((q, k), v), r), (qkv, angles))| {
            let targets = q.chunks_exact_mut(d).chain(k.chunks_exact_mut(d));
            for (h, (head, x)) in targets.zip(qkv.chunks_exact(d)).enumerate() {
                r[h] = row(head, x, if h < heads.query { wq } else { wk }, norm);
                rotate(head, angles, T::of(1.0));
            }
            v.copy_from_slice(&qkv[rotated * d..]);
        });
    }

    /// See [`super::backward`].
    pub fn backward<T: Real>(
        dqkv: &mut [T],
        dw: Option<[&mut [T]; 2]>,
        [dq, dk, dv]: [&[T]; 3],
        [qkv, r, angles]: [&[T]; 3],
        [wq, wk]: [&[T]; 2],
        heads: Heads,
        norm: Norm,
    ) {
        let (d, rotated) = (heads.dim, heads.query + heads.kv);
        // 1. rotate the gradients back
        let grads = dq.par_chunks(heads.q_width()).zip(dk.par_chunks(heads.kv_width()));
        let grads = grads.zip(dv.par_chunks(heads.kv_width())).zip(angles.par_chunks(d));
        dqkv.par_chunks_mut(heads.qkv_width()).zip(grads).for_each(|(dqkv, (((dq, dk), dv), angles))| {
            let (qk, v) = dqkv.split_at_mut(rotated * d);
            v.copy_from_slice(dv);
            for (head, g) in qk.chunks_exact_mut(d).zip(dq.chunks_exact(d).chain(dk.chunks_exact(d))) {
                head.copy_from_slice(g);
                rotate(head, angles, T::of(-1.0));
            }
        });
        // 2. the gains, rows and heads in order
        if let Some([dwq, dwk]) = dw {
            for ((dqkv, qkv), r) in dqkv
                .chunks_exact(heads.qkv_width())
                .zip(qkv.chunks_exact(heads.qkv_width()))
                .zip(r.chunks_exact(rotated))
            {
                let split = heads.q_width();
                let (q, k) = (0..split, split..rotated * d);
                gain_backward(Some(&mut *dwq), &dqkv[q.clone()], &qkv[q], &r[..heads.query]);
                gain_backward(Some(&mut *dwk), &dqkv[k.clone()], &qkv[k], &r[heads.query..]);
            }
        }
        // 3. through the norm, head by head in place
        let saved = qkv.par_chunks(heads.qkv_width()).zip(r.par_chunks(rotated));
        dqkv.par_chunks_mut(heads.qkv_width()).zip(saved).for_each(|(dqkv, (qkv, r))| {
            let mut dx = vec![T::default(); d];
            for (h, (dy, x)) in dqkv.chunks_exact_mut(d).zip(qkv.chunks_exact(d)).take(rotated).enumerate() {
                let w = if h < heads.query { wq } else { wk };
                row_backward(dy, x, r[h], w, norm, |i, g| dx[i] = g);
                dy.copy_from_slice(&dx);
            }
        });
    }
}

mod cuda {
    use std::sync::Mutex;

    use super::{Heads, Norm, Rope};
    use crate::device::compile::Define;
    use crate::device::gpu::Facts;
    use crate::device::launch::Variant;
    use crate::device::{DType, Device, Gpu, Tensor, turn, workspace};
    use crate::error::Result;
    use crate::ops::norm::Gain;

    const THREADS: usize = 128;
    /// Threads of a block that sums the gains' gradient, of which a multiprocessor runs one.
    const GAIN_THREADS: usize = 512;
    /// Most heads of a group of its lanes that are being computed or prefetched into shared memory.
    const STAGES: usize = 3;
    /// Shared memory that the kernel needs beside them.
    const FIXED_SHARED: usize = 3 << 10;

    fn defines(dtype: DType, heads: Heads, gain: Gain, [threads, stages]: [usize; 2]) -> [Define; 7] {
        let sizes =
            [("H", heads.query), ("KV", heads.kv), ("D", heads.dim), ("BLOCK", threads), ("STAGES", stages)];
        let [h, kv, d, block, stages] = sizes.map(|(name, size)| (name, size as i64));
        [dtype.define(), h, kv, d, block, stages, gain.define()]
    }

    fn variant(function: &'static str, dtype: DType, heads: Heads, gain: Gain) -> Variant {
        Variant::new("rope", function, &defines(dtype, heads, gain, [THREADS, 1]), THREADS)
    }

    fn angles_variant(dim: usize) -> Variant {
        // Heads and gain do not matter to this kernel.
        let heads = Heads { query: 1, kv: 1, dim };
        Variant { threads: 256, ..variant("rope_angles", DType::F32, heads, Gain::Plain) }
    }

    fn gain_variant(facts: &Facts, dtype: DType, heads: Heads, gain: Gain) -> Variant {
        let [vectors, lanes] = lanes(dtype, heads);
        // Bytes of a stage: two halves of dy and x, whole vectors for every lane.
        let width = dtype.width(heads.dim / 2);
        let stage = 4 * vectors.div_ceil(lanes) * GAIN_THREADS * width * dtype.size();
        let stages = ((facts.shared as usize - FIXED_SHARED) / stage).clamp(1, STAGES);
        let defines = defines(dtype, heads, gain, [GAIN_THREADS, stages]);
        // The sums over rows wait for all blocks.
        Variant::new("rope", "rope_backward_gain", &defines, GAIN_THREADS).shared(stages * stage).resident()
    }

    /// The kernels for heads of a type, on a card.
    pub fn variants(facts: &Facts, dtype: DType, heads: Heads, gain: Gain) -> Vec<Variant> {
        let [forward, backward] = ["rope_forward", "rope_backward"].map(|f| variant(f, dtype, heads, gain));
        vec![angles_variant(heads.dim), forward, backward, gain_variant(facts, dtype, heads, gain)]
    }

    /// Vectors of half a head, and lanes that share them.
    fn lanes(dtype: DType, heads: Heads) -> [usize; 2] {
        let half = heads.dim / 2;
        let vectors = half / dtype.width(half);
        [vectors, vectors.next_power_of_two().min(32)]
    }

    /// Blocks of `threads` threads that cover all of the work of `n` rows.
    fn blocks(threads: usize, dtype: DType, heads: Heads, n: usize) -> usize {
        let [_, lanes] = lanes(dtype, heads);
        (n * (heads.query + 2 * heads.kv)).div_ceil(threads / lanes).max(1)
    }

    /// See [`super::angles`].
    pub fn angles(gpu: Gpu, angles: &mut Tensor, positions: &Tensor, rope: Rope, dim: usize) -> Result<()> {
        type Rotation = ([u64; 2], usize);
        static FREQUENCIES: Mutex<Vec<(Rotation, Tensor)>> = Mutex::new(Vec::new());
        let key = ([rope.base.to_bits(), rope.factor.to_bits()], dim);
        let mut all = turn::share(&FREQUENCIES);
        let at = if let Some(at) = all.iter().position(|(k, _)| *k == key) {
            at
        } else {
            let host = Tensor::from_f32(&[dim / 2], rope.frequencies(dim));
            all.push((key, host.to(Device::Cuda(gpu))?));
            all.len() - 1
        };
        let n = positions.len();
        let variant = angles_variant(dim);
        let args = [angles.into(), positions.into(), (&all[at].1).into(), n.into()];
        // SAFETY: rope_angles(float *angles, const u32 *positions, const float *frequencies, u32 n); angles is (n, D).
        unsafe { variant.launch_over(gpu, n * (dim / 2), 1, &args) }
    }

    /// See [`super::forward`].
    pub fn forward(
        gpu: Gpu,
        [q, k, v, r]: [&mut Tensor; 4],
        [qkv, angles, wq, wk]: [&Tensor; 4],
        heads: Heads,
        norm: Norm,
    ) -> Result<()> {
        let n = qkv.shape()[0];
        let variant = variant("rope_forward", qkv.dtype(), heads, norm.gain);
        let blocks = blocks(THREADS, qkv.dtype(), heads, n);
        let outputs = [q.into(), k.into(), v.into(), r.into()];
        let inputs = [qkv.into(), angles.into(), wq.into(), wk.into(), n.into(), norm.eps.into()];
        let args = [&outputs[..], &inputs].concat();
        // SAFETY: rope_forward(real *q, real *k, real *v, float *r, const real *qkv, const float *angles, const float *wq,
        // const float *wk, u32 n, float eps); shapes were checked.
        unsafe { variant.launch(gpu, blocks, &args) }
    }

    /// See [`super::backward`]. Inputs: dq, dk, dv, qkv, r, angles, wq, wk.
    pub fn backward(
        gpu: Gpu,
        dqkv: &mut Tensor,
        dw: Option<[&mut Tensor; 2]>,
        inputs: [&Tensor; 8],
        heads: Heads,
        norm: Norm,
    ) -> Result<()> {
        let (n, d, dtype) = (dqkv.shape()[0], heads.dim, dqkv.dtype());
        let inputs = [&inputs.map(Into::into)[..], &[n.into()]].concat();
        let Some([dwq, dwk]) = dw else {
            let variant = variant("rope_backward", dtype, heads, norm.gain);
            let blocks = blocks(THREADS, dtype, heads, n);
            // SAFETY: rope_backward(real *dqkv, const real *dq, const real *dk, const real *dv, const real *qkv, const float
            // *r, const float *angles, const float *wq, const float *wk, u32 n); shapes were checked.
            return unsafe { variant.launch(gpu, blocks, &[&[dqkv.into()], &inputs[..]].concat()) };
        };
        let variant = gain_variant(gpu.facts(), dtype, heads, norm.gain);
        let blocks = blocks(GAIN_THREADS, dtype, heads, n).min(gpu.facts().multiprocessors as usize);
        let arrived = workspace::arrived(gpu)?;
        workspace::with(gpu, DType::F32, &[blocks, 2 * d], |parts| {
            let outputs = [dqkv.into(), dwq.into(), dwk.into(), parts.into(), arrived];
            // SAFETY: rope_backward_gain(real *dqkv, float *dwq, float *dwk, float *parts, u32 *arrived, const real *dq, then as
            // rope_backward); shapes were checked, parts has a row for every block.
            unsafe { variant.launch(gpu, blocks, &[&outputs[..], &inputs].concat()) }
        })
    }
}
