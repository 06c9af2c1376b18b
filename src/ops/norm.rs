//! RMSNorm, alone and fused with the addition to the residual stream before it.
//!
//! ```text
//! y = x · r · g(w),   r = (mean_c x² + eps)^-½        g(w) = 1 + w (Gemma) or w (Qwen)
//! dx = r · (dy·g − x · r² · mean_c(dy·g·x))            dw += Σ_n dy · x · r
//! ```
//! Shapes: x, y (N, C); w (C); r (N), saved for the backward. Source: Zhang & Sennrich, arXiv 1910.07467.
//! Gemma applies the gain in f32 before its one rounding, Qwen rounds x·r first; in f32 the two agree.

use crate::device::compile::Define;
use crate::device::tensor::{expect, expect_f32};
use crate::device::{Device, Tensor};
use crate::error::Result;

pub use cuda::variants;

/// How the stored weight becomes the factor on the normalised row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// 1 + w: Gemma.
    OnePlus,
    /// w: Qwen.
    Plain,
}

impl Gain {
    /// The load-time constant of kernels: the number added to w.
    pub(super) fn define(self) -> Define {
        ("ONE_PLUS", i64::from(self == Self::OnePlus))
    }
}

/// The scalars of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// How w becomes the gain.
    pub gain: Gain,
    /// Added to the mean square.
    pub eps: f32,
}

/// Normalises each row of `x` (N, C) into `y` (N, C), keeping `r` (N) for [`backward`].
///
/// # Errors
/// A shape or element type that disagrees.
pub fn forward(y: &mut Tensor, r: &mut Tensor, x: &Tensor, w: &Tensor, norm: Norm) -> Result<()> {
    let [n, c] = x.dims()?;
    expect("norm", &[("x", x, &[n, c]), ("y", y, &[n, c])])?;
    expect_f32("norm", x.device(), &[("r", r, &[n]), ("w", w, &[c])])?;
    match x.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, y, r, x, w, norm)?,
        Device::Cpu => cpu::forward(y.f32_mut(), r.f32_mut(), x.f32(), w.f32(), norm),
    }
    Ok(())
}

/// `sum = x + delta`, then `y` = norm(sum): the residual stream and its normalised copy, all (N, C); `r` (N).
///
/// # Errors
/// A shape or element type that disagrees.
pub fn add_forward(
    sum: &mut Tensor,
    y: &mut Tensor,
    r: &mut Tensor,
    x: &Tensor,
    delta: &Tensor,
    w: &Tensor,
    norm: Norm,
) -> Result<()> {
    let [n, c] = x.dims()?;
    let rows: &[usize] = &[n, c];
    expect("norm add", &[("x", x, rows), ("sum", sum, rows), ("delta", delta, rows), ("y", y, rows)])?;
    expect_f32("norm add", x.device(), &[("r", r, &[n]), ("w", w, &[c])])?;
    match x.device() {
        Device::Cuda(gpu) => cuda::add_forward(gpu, [sum, y, r], [x, delta, w], norm)?,
        Device::Cpu => {
            let (sum, y, r) = (sum.f32_mut(), y.f32_mut(), r.f32_mut());
            cpu::add_forward(sum, y, r, x.f32(), delta.f32(), w.f32(), norm);
        }
    }
    Ok(())
}

/// Gradient of [`forward`]: overwrites `dx` (N, C), adds to `dw` (C) if the gain is trained.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn backward(
    dx: &mut Tensor,
    dw: Option<&mut Tensor>,
    dy: &Tensor,
    x: &Tensor,
    r: &Tensor,
    w: &Tensor,
    norm: Norm,
) -> Result<()> {
    check_backward(dx, dw.as_deref(), dy, x, r, w)?;
    match x.device() {
        Device::Cuda(gpu) => cuda::backward(gpu, "norm_backward", dx, dw, [dy, x, r, w], norm)?,
        Device::Cpu => {
            let dw = dw.map(Tensor::f32_mut);
            cpu::backward(dx.f32_mut(), dw, dy.f32(), x.f32(), r.f32(), w.f32(), norm);
        }
    }
    Ok(())
}

/// Gradient of [`add_forward`] towards both `x` and `delta`, which are equal: `stream` (N, C) holds the gradient
/// that arrives through `sum` and receives the one through `y` on top. The explicit addition of the contract.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn add_backward(
    stream: &mut Tensor,
    dw: Option<&mut Tensor>,
    dy: &Tensor,
    sum: &Tensor,
    r: &Tensor,
    w: &Tensor,
    norm: Norm,
) -> Result<()> {
    check_backward(stream, dw.as_deref(), dy, sum, r, w)?;
    match sum.device() {
        Device::Cuda(gpu) => cuda::backward(gpu, "norm_add_backward", stream, dw, [dy, sum, r, w], norm)?,
        Device::Cpu => {
            let dw = dw.map(Tensor::f32_mut);
            cpu::add_backward(stream.f32_mut(), dw, dy.f32(), sum.f32(), r.f32(), w.f32(), norm);
        }
    }
    Ok(())
}

fn check_backward(
    dx: &Tensor,
    dw: Option<&Tensor>,
    dy: &Tensor,
    x: &Tensor,
    r: &Tensor,
    w: &Tensor,
) -> Result<()> {
    let [n, c] = x.dims()?;
    let rows: &[usize] = &[n, c];
    expect("norm backward", &[("x", x, rows), ("dx", dx, rows), ("dy", dy, rows)])?;
    expect_f32("norm backward", x.device(), &[("r", r, &[n]), ("w", w, &[c])])?;
    dw.map_or(Ok(()), |dw| expect_f32("norm backward", x.device(), &[("dw", dw, &[c])]))
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::{Gain, Norm};
    use crate::ops::real::Real;

    impl Gain {
        /// The factor on the normalised row.
        #[inline(always)]
        pub fn of<T: Real>(self, w: T) -> T {
            match self {
                Self::OnePlus => T::of(1.0) + w,
                Self::Plain => w,
            }
        }
    }

    /// One row: y = x · r · g(w); returns r.
    #[inline]
    pub fn row<T: Real>(y: &mut [T], x: &[T], w: &[T], norm: Norm) -> T {
        let mean = sum_lanes(x.len(), |c| x[c] * x[c]) / T::of(x.len() as f32);
        let r = T::of(1.0) / (mean + T::of(norm.eps)).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = *x * r * norm.gain.of(*w);
        }
        r
    }

    /// One row of the gradient: dx = r · (dy·g − x · r² · mean(dy·g·x)), given to `write` (index, value).
    #[inline]
    pub fn row_backward<T: Real>(
        dy: &[T],
        x: &[T],
        r: T,
        w: &[T],
        norm: Norm,
        mut write: impl FnMut(usize, T),
    ) {
        let dot = sum_lanes(x.len(), |c| dy[c] * norm.gain.of(w[c]) * x[c]);
        let mean = dot / T::of(x.len() as f32);
        for c in 0..x.len() {
            write(c, r * (dy[c] * norm.gain.of(w[c]) - x[c] * r * r * mean));
        }
    }

    /// A sum in sixteen interleaved parts: vectorises, and loses less than a running sum.
    #[inline(always)]
    fn sum_lanes<T: Real>(n: usize, term: impl Fn(usize) -> T) -> T {
        let mut lanes = [T::default(); 16];
        let whole = n / 16 * 16;
        for i in (0..whole).step_by(16) {
            for (l, lane) in lanes.iter_mut().enumerate() {
                *lane += term(i + l);
            }
        }
        for i in whole..n {
            lanes[i - whole] += term(i);
        }
        lanes.into_iter().sum()
    }

    /// See [`super::forward`].
    pub fn forward<T: Real>(y: &mut [T], r: &mut [T], x: &[T], w: &[T], norm: Norm) {
        let c = w.len();
        y.par_chunks_mut(c).zip(r).zip(x.par_chunks(c)).for_each(|((y, r), x)| *r = row(y, x, w, norm));
    }

    /// See [`super::add_forward`].
    pub fn add_forward<T: Real>(
        sum: &mut [T],
        y: &mut [T],
        r: &mut [T],
        x: &[T],
        delta: &[T],
        w: &[T],
        norm: Norm,
    ) {
        let c = w.len();
        let inputs = x.par_chunks(c).zip(delta.par_chunks(c));
        sum.par_chunks_mut(c).zip(y.par_chunks_mut(c)).zip(r).zip(inputs).for_each(
            |(((sum, y), r), (x, delta))| {
                for ((sum, x), delta) in sum.iter_mut().zip(x).zip(delta) {
                    *sum = *x + *delta;
                }
                *r = row(y, sum, w, norm);
            },
        );
    }

    /// See [`super::backward`].
    pub fn backward<T: Real>(
        dx: &mut [T],
        dw: Option<&mut [T]>,
        dy: &[T],
        x: &[T],
        r: &[T],
        w: &[T],
        norm: Norm,
    ) {
        let c = w.len();
        dx.par_chunks_mut(c).zip(dy.par_chunks(c)).zip(x.par_chunks(c)).zip(r).for_each(
            |(((dx, dy), x), r)| {
                row_backward(dy, x, *r, w, norm, |c, d| dx[c] = d);
            },
        );
        gain_backward(dw, dy, x, r);
    }

    /// See [`super::add_backward`].
    pub fn add_backward<T: Real>(
        dx: &mut [T],
        dw: Option<&mut [T]>,
        dy: &[T],
        x: &[T],
        r: &[T],
        w: &[T],
        norm: Norm,
    ) {
        let c = w.len();
        dx.par_chunks_mut(c).zip(dy.par_chunks(c)).zip(x.par_chunks(c)).zip(r).for_each(
            |(((dx, dy), x), r)| {
                row_backward(dy, x, *r, w, norm, |c, d| dx[c] += d);
            },
        );
        gain_backward(dw, dy, x, r);
    }

    /// dw += Σ_n dy · x · r, rows in order.
    pub fn gain_backward<T: Real>(dw: Option<&mut [T]>, dy: &[T], x: &[T], r: &[T]) {
        let Some(dw) = dw else { return };
        let c = dw.len();
        for ((dy, x), r) in dy.chunks_exact(c).zip(x.chunks_exact(c)).zip(r) {
            for ((dw, dy), x) in dw.iter_mut().zip(dy).zip(x) {
                *dw += *dy * *x * *r;
            }
        }
    }
}

mod cuda {
    use super::{Gain, Norm};
    use crate::device::gpu::Facts;
    use crate::device::launch::{Arg, Variant};
    use crate::device::{DType, Gpu, Tensor, workspace};
    use crate::error::Result;

    /// Threads of a block of the backward pass: at most this many, unless a single row needs more.
    const BACKWARD_THREADS: usize = 512;
    /// Most rows of one team of the backward pass that are being computed or prefetched into shared memory.
    const STAGES: usize = 4;
    /// Shared memory that the backward pass needs beside them.
    const FIXED_SHARED: usize = 8 << 10;

    /// Threads for rows of `c` elements: each makes one access, or up to `most` if that keeps them at 256 or fewer.
    fn threads(dtype: DType, c: usize, most: usize) -> usize {
        let vectors = c / dtype.width(c);
        let with = |each: usize| vectors.div_ceil(each).next_multiple_of(32);
        (1..=most).map(with).find(|threads| *threads <= 256).unwrap_or_else(|| with(most)).clamp(32, 1024)
    }

    /// A forward pass over rows of `c` elements, a block a row.
    fn forward_variant(function: &'static str, dtype: DType, c: usize, gain: Gain) -> Variant {
        let threads = threads(dtype, c, 4);
        let backward = [("TEAMS", 1), ("STAGES", 1), ("TRAINED", 0)];
        let constants = [("C", c as i64), ("BLOCK", threads as i64), dtype.define(), gain.define()];
        Variant::new("norm", function, &[&constants[..], &backward].concat(), threads)
    }

    /// A backward pass, and the rows that a block computes at a time.
    fn backward_variant(
        function: &'static str,
        facts: &Facts,
        dtype: DType,
        c: usize,
        gain: Gain,
        trained: bool,
    ) -> (Variant, usize) {
        // A thread keeps the gain, and its gradient, of all columns that it reads.
        let threads = threads(dtype, c, 2);
        let teams = (BACKWARD_THREADS / threads).max(1);
        let operands = if function == "norm_add_backward" { 3 } else { 2 };
        let row = operands * c.next_multiple_of(dtype.width(c) * threads) * dtype.size();
        let stages = ((facts.shared as usize - FIXED_SHARED) / (teams * row)).clamp(1, STAGES);
        let sizes = [("C", c), ("BLOCK", threads), ("TEAMS", teams), ("STAGES", stages)];
        let sizes = sizes.map(|(name, size)| (name, size as i64));
        let more = [("TRAINED", i64::from(trained)), dtype.define(), gain.define()];
        let variant = Variant::new("norm", function, &[&sizes[..], &more].concat(), teams * threads);
        let variant = variant.shared(teams * stages * row);
        // The sums over rows wait for all blocks.
        (if trained { variant.resident() } else { variant }, teams)
    }

    /// The kernels for rows of `c` elements of a type, on a card.
    pub fn variants(facts: &Facts, dtype: DType, c: usize, gain: Gain) -> Vec<Variant> {
        let mut all =
            ["norm_forward", "norm_add_forward"].map(|f| forward_variant(f, dtype, c, gain)).to_vec();
        for function in ["norm_backward", "norm_add_backward"] {
            all.extend(
                [false, true].map(|trained| backward_variant(function, facts, dtype, c, gain, trained).0),
            );
        }
        all
    }

    /// See [`super::forward`].
    pub fn forward(
        gpu: Gpu,
        y: &mut Tensor,
        r: &mut Tensor,
        x: &Tensor,
        w: &Tensor,
        norm: Norm,
    ) -> Result<()> {
        let [n, c] = x.dims()?;
        let variant = forward_variant("norm_forward", x.dtype(), c, norm.gain);
        let args = [y.into(), r.into(), x.into(), w.into(), n.into(), norm.eps.into()];
        // SAFETY: norm_forward(real *y, float *r, const real *x, const float *w, u32 n, float eps); shapes were checked.
        unsafe { variant.launch(gpu, n.max(1), &args) }
    }

    /// See [`super::add_forward`].
    pub fn add_forward(
        gpu: Gpu,
        [sum, y, r]: [&mut Tensor; 3],
        [x, delta, w]: [&Tensor; 3],
        norm: Norm,
    ) -> Result<()> {
        let [n, c] = x.dims()?;
        let variant = forward_variant("norm_add_forward", x.dtype(), c, norm.gain);
        let inputs = [x.into(), delta.into(), w.into(), n.into(), norm.eps.into()];
        let args = [&[sum.into(), y.into(), r.into()], &inputs[..]].concat();
        // SAFETY: norm_add_forward(real *sum, real *y, float *r, const real *x, const real *delta, const float *w, u32 n,
        // float eps); shapes were checked.
        unsafe { variant.launch(gpu, n.max(1), &args) }
    }

    /// See [`super::backward`] and [`super::add_backward`], by the kernel's function.
    pub fn backward(
        gpu: Gpu,
        function: &'static str,
        dx: &mut Tensor,
        dw: Option<&mut Tensor>,
        [dy, x, r, w]: [&Tensor; 4],
        norm: Norm,
    ) -> Result<()> {
        let [n, c] = x.dims()?;
        let (variant, teams) = backward_variant(function, gpu.facts(), x.dtype(), c, norm.gain, dw.is_some());
        let blocks = n.div_ceil(teams).clamp(1, gpu.facts().multiprocessors as usize);
        let run = |dx: &mut Tensor, sums: [Arg; 3]| {
            let args = [&[dx.into()], &sums[..], &[dy, x, r, w].map(Into::into), &[n.into()]].concat();
            // SAFETY: norm_backward and norm_add_backward (real *dx, float *dw, float *parts, u32 *arrived, const real *dy,
            // const real *x, const float *r, const float *w, u32 n); shapes were checked, parts has a row for every
            // block.
            unsafe { variant.launch(gpu, blocks, &args) }
        };
        let Some(dw) = dw else { return run(dx, [Arg::Pointer(0); 3]) };
        let arrived = workspace::arrived(gpu)?;
        workspace::with(gpu, DType::F32, &[blocks, c], |parts| run(dx, [dw.into(), parts.into(), arrived]))
    }
}
