//! Linear map with fused LoRA segments: one matrix serves several projections that share their input (q|k|v,
//! gate|up), and each projection may carry a low-rank adapter of its own.
//!
//! ```text
//! S_g = s · x̃_g · A_gᵀ                       (N, R) for adapted segment g;  x̃_g = x, or x under dropout mask g
//! y   = x · Wᵀ,   y[:, g] += S_g · B_gᵀ
//!
//! dS_g = dy[:, g] · B_g        dB_g += dy[:, g]ᵀ · S_g
//! dA_g += s · dS_gᵀ · x̃_g      dx = dy · W + s · Σ_g (dS_g · A_g) under mask g        dW += dyᵀ · x
//! ```
//! Shapes: x (N, I), W (O, I) f32 or bf16, y (N, O); A (G·R, I): the G adapted segments stacked; B (Σ O_g, R):
//! their output rows stacked; S (N, G·R), saved for the backward. The scale multiplies S, in f32, before anything is
//! rounded. Source: Hu et al., arXiv 2106.09685; rank-stabilised scale: Kalajdzievski, arXiv 2312.03732.

use std::ops::Range;

use crate::device::philox::Key;
use crate::device::tensor::{expect, expect_dtype, expect_f32, expect_shape, expect_weight};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;

pub use cuda::variants;

/// Up to this many rows, a row of [`forward`]'s result does not depend on the rows beside it, bit for bit. Decoding
/// keeps its batches within it, so that a sample never depends on the batch it shared.
pub const STABLE_ROWS: usize = 128;

/// [`STABLE_ROWS`] on `device`.
pub fn stable_rows(device: Device) -> usize {
    match device {
        Device::Cpu => STABLE_ROWS,
        Device::Cuda(_) => crate::device::gemm::STABLE_ROWS,
    }
}

/// The adapters of one linear map.
#[derive(Clone, Copy, Debug)]
pub struct Adapter<'a> {
    /// A (G·R, I).
    pub a: &'a Tensor,
    /// B (Σ O_g, R).
    pub b: &'a Tensor,
    /// Output rows of each adapted segment, ascending and disjoint.
    pub segments: &'a [Range<usize>],
    /// s = α/R, or α/√R.
    pub scale: f32,
    /// Dropout on the adapters' input.
    pub dropout: Option<Dropout>,
}

/// Inverted dropout: an element is kept with probability 1 − p and divided by it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping.
    pub p: f32,
    /// The stream of (seed, training pass).
    pub key: Key,
    /// Which linear map of the model this is.
    pub map: u32,
}

impl Adapter<'_> {
    fn rank(&self) -> usize {
        self.b.shape()[1]
    }
}

/// Gradients that [`backward`] adds to, where they are wanted.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// dW (O, I), f32.
    pub w: Option<&'a mut Tensor>,
    /// dA and dB.
    pub adapter: Option<[&'a mut Tensor; 2]>,
}

/// `y` (N, O) from `x` (N, I); with adapters also `s` (N, G·R), which it resizes and keeps for [`backward`].
///
/// # Errors
/// A shape or element type that disagrees.
pub fn forward(
    y: &mut Tensor,
    s: &mut Tensor,
    x: &Tensor,
    w: &Tensor,
    adapter: Option<Adapter>,
) -> Result<()> {
    let ([n, i], [o, _]) = (x.dims()?, w.dims()?);
    expect("linear", &[("x", x, &[n, i])])?;
    expect_shape("linear", "y", y, &[n, o])?;
    // The head's logits are f32 even where activations are bf16.
    expect_dtype("linear", "y", y, if y.dtype() == DType::F32 { DType::F32 } else { x.dtype() })?;
    expect_weight("linear", w, x, &[o, i])?;
    if let Some(adapter) = &adapter {
        check_adapter(adapter, i, x)?;
        s.resize(&[n, adapter.a.shape()[0]])?;
    }
    match x.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, y, s, x, w, adapter)?,
        Device::Cpu => {
            match w.dtype() {
                DType::Bf16 => cpu::forward(y.f32_mut(), x.f32(), w.bf16(), i),
                _ => cpu::forward(y.f32_mut(), x.f32(), w.f32(), i),
            }
            if let Some(adapter) = adapter {
                let [a, b] = [adapter.a.f32(), adapter.b.f32()];
                cpu::adapter_forward(
                    y.f32_mut(),
                    s.f32_mut(),
                    x.f32(),
                    [a, b],
                    cpu::Segments::of(&adapter, i, o),
                );
            }
        }
    }
    Ok(())
}

/// Gradient of [`forward`]: overwrites `dx` (N, I) and the scratch `ds` (N, G·R); adds to `gradients`.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn backward(
    dx: &mut Tensor,
    ds: &mut Tensor,
    gradients: Gradients,
    dy: &Tensor,
    [x, s]: [&Tensor; 2],
    w: &Tensor,
    adapter: Option<Adapter>,
) -> Result<()> {
    let ([n, i], [o, _]) = (x.dims()?, w.dims()?);
    expect("linear backward", &[("x", x, &[n, i]), ("dx", dx, &[n, i]), ("dy", dy, &[n, o])])?;
    expect_weight("linear backward", w, x, &[o, i])?;
    if let Some(dw) = &gradients.w {
        expect_f32("linear backward", x.device(), &[("dw", dw, &[o, i])])?;
    }
    if let Some(adapter) = &adapter {
        check_adapter(adapter, i, x)?;
        expect("linear backward", &[("x", x, &[n, i]), ("s", s, &[n, adapter.a.shape()[0]])])?;
        ds.resize(s.shape())?;
    }
    if let (Some([da, db]), Some(adapter)) = (&gradients.adapter, &adapter) {
        let gradients = [("da", &**da, adapter.a.shape()), ("db", &**db, adapter.b.shape())];
        expect_f32("linear backward", x.device(), &gradients)?;
    }
    match x.device() {
        Device::Cuda(gpu) => cuda::backward(gpu, dx, ds, gradients, dy, [x, s], w, adapter)?,
        Device::Cpu => {
            match w.dtype() {
                DType::Bf16 => cpu::backward(dx.f32_mut(), dy.f32(), w.bf16(), i),
                _ => cpu::backward(dx.f32_mut(), dy.f32(), w.f32(), i),
            }
            if let Some(dw) = gradients.w {
                cpu::weight_backward(dw.f32_mut(), dy.f32(), x.f32(), i);
            }
            if let Some(adapter) = adapter {
                let grads = gradients.adapter.map(|[da, db]| [da.f32_mut(), db.f32_mut()]);
                let [a, b] = [adapter.a.f32(), adapter.b.f32()];
                let segments = cpu::Segments::of(&adapter, i, o);
                let [x, s] = [x.f32(), s.f32()];
                cpu::adapter_backward(dx.f32_mut(), ds.f32_mut(), grads, dy.f32(), [x, s], [a, b], segments);
            }
        }
    }
    Ok(())
}

fn check_adapter(adapter: &Adapter, inputs: usize, x: &Tensor) -> Result<()> {
    let rows: usize = adapter.segments.iter().map(ExactSizeIterator::len).sum();
    let [_, r] = adapter.b.dims()?;
    let stacked = [adapter.segments.len() * r, inputs];
    let x = ("x", x, x.shape());
    expect("linear", &[x, ("adapter a", adapter.a, &stacked), ("adapter b", adapter.b, &[rows, r])])
}

mod cuda;

/// The definition.
pub mod cpu {
    use std::ops::Range;

    use rayon::prelude::*;

    use super::{Adapter, Dropout, STABLE_ROWS};
    use crate::device::product::{Store, View, ViewMut};
    use crate::ops::real::{Factor, Real};

    /// The scalars of an adapted map.
    #[derive(Clone, Copy, Debug)]
    pub struct Segments<'a> {
        /// Output rows of each adapted segment.
        pub rows: &'a [Range<usize>],
        /// R.
        pub rank: usize,
        /// I.
        pub inputs: usize,
        /// O.
        pub outputs: usize,
        /// s.
        pub scale: f32,
        /// Dropout on the adapters' input.
        pub dropout: Option<Dropout>,
    }

    impl<'a> Segments<'a> {
        pub(super) fn of(adapter: &Adapter<'a>, inputs: usize, outputs: usize) -> Self {
            let (rank, scale, dropout) = (adapter.rank(), adapter.scale, adapter.dropout);
            Self { rows: adapter.segments, rank, inputs, outputs, scale, dropout }
        }

        /// For each segment g: its output rows, its columns of S, its rows of B.
        fn each(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>, Range<usize>)> {
            let (rank, mut next) = (self.rank, 0);
            self.rows.iter().enumerate().map(move |(g, rows)| {
                let b = next..next + rows.len();
                next = b.end;
                (rows.clone(), g * rank..(g + 1) * rank, b)
            })
        }
    }

    /// y = x · Wᵀ. For few rows it uses the product whose rows are independent of each other.
    pub fn forward<T: Real, W: Factor<T>>(y: &mut [T], x: &[T], w: &[W], inputs: usize) {
        let (n, outputs) = (x.len() / inputs, w.len() / inputs);
        if n <= STABLE_ROWS {
            return W::multiply_rows(y, x, w, inputs);
        }
        let y = ViewMut::new(y, n, outputs);
        W::multiply(y, Store::Overwrite, 1.0, View::new(x, n, inputs), View::new(w, outputs, inputs).t());
    }

    /// dx = dy · W.
    pub fn backward<T: Real, W: Factor<T>>(dx: &mut [T], dy: &[T], w: &[W], inputs: usize) {
        let (n, outputs) = (dx.len() / inputs, w.len() / inputs);
        let dx = ViewMut::new(dx, n, inputs);
        W::multiply(dx, Store::Overwrite, 1.0, View::new(dy, n, outputs), View::new(w, outputs, inputs));
    }

    /// dW += dyᵀ · x.
    pub fn weight_backward<T: Real>(dw: &mut [T], dy: &[T], x: &[T], inputs: usize) {
        let (n, outputs) = (x.len() / inputs, dw.len() / inputs);
        let dw = ViewMut::new(dw, outputs, inputs);
        T::multiply(dw, Store::Accumulate, 1.0, View::new(dy, n, outputs).t(), View::new(x, n, inputs));
    }

    /// S = s · x̃ · Aᵀ and y += S · Bᵀ, segment by segment.
    pub fn adapter_forward<T: Real>(
        y: &mut [T],
        s: &mut [T],
        x: &[T],
        [a, b]: [&[T]; 2],
        segments: Segments,
    ) {
        let (n, i, width) = (x.len() / segments.inputs, segments.inputs, segments.rows.len() * segments.rank);
        if segments.dropout.is_none() {
            adapter_inputs(s, x, a, segments);
        }
        for (g, (rows, cols, b_rows)) in segments.each().enumerate() {
            if let Some(dropout) = segments.dropout {
                let dropped = masked(x, i, g, dropout);
                let a = View::new(a, width, i).rows(cols.clone());
                let s = ViewMut::new(s, n, width).columns(cols.clone());
                T::multiply(s, Store::Overwrite, segments.scale, View::new(&dropped, n, i), a.t());
            }
            let b = &b[b_rows.start * segments.rank..b_rows.end * segments.rank];
            let (s, y) =
                (View::new(s, n, width).columns(cols), ViewMut::new(y, n, segments.outputs).columns(rows));
            add_rows(y, s, b);
        }
    }

    /// S = s · x · Aᵀ for all segments at once; rows stay independent where the base's do.
    fn adapter_inputs<T: Real>(s: &mut [T], x: &[T], a: &[T], segments: Segments) {
        let (n, i) = (x.len() / segments.inputs, segments.inputs);
        let width = a.len() / i;
        if n <= STABLE_ROWS {
            T::multiply_rows(s, x, a, i);
            for s in s.iter_mut() {
                *s = *s * T::of(segments.scale);
            }
        } else {
            let (s, x) = (ViewMut::new(s, n, width), View::new(x, n, i));
            T::multiply(s, Store::Overwrite, segments.scale, x, View::new(a, width, i).t());
        }
    }

    /// y += s · bᵀ; b (O_g, R). Few rows stay independent of each other.
    fn add_rows<T: Real>(mut y: ViewMut<'_, T>, s: View<'_, T>, b: &[T]) {
        let (n, r) = s.size();
        let outputs = b.len() / r;
        if n > STABLE_ROWS {
            return T::multiply(y, Store::Accumulate, 1.0, s, View::new(b, outputs, r).t());
        }
        let s: Vec<T> = (0..n * r).map(|e| s.at(e / r, e % r)).collect();
        let mut product = vec![T::default(); n * outputs];
        T::multiply_rows(&mut product, &s, b, r);
        for (e, p) in product.into_iter().enumerate() {
            *y.at(e / outputs, e % outputs) += p;
        }
    }

    /// The adapters' part of the backward: dS, dB, dA, and the addition to dx.
    pub fn adapter_backward<T: Real>(
        dx: &mut [T],
        ds: &mut [T],
        mut gradients: Option<[&mut [T]; 2]>,
        dy: &[T],
        [x, s]: [&[T]; 2],
        [a, b]: [&[T]; 2],
        segments: Segments,
    ) {
        let (i, r, scale) = (segments.inputs, segments.rank, segments.scale);
        let (n, width, outputs) = (x.len() / i, segments.rows.len() * r, segments.outputs);
        let b_total = b.len() / r;
        for (g, (rows, cols, b_rows)) in segments.each().enumerate() {
            let dy = View::new(dy, n, outputs).columns(rows);
            let ds_g = ViewMut::new(ds, n, width).columns(cols.clone());
            T::multiply(ds_g, Store::Overwrite, 1.0, dy, View::new(b, b_total, r).rows(b_rows.clone()));
            if let Some([_, db]) = &mut gradients {
                let db = ViewMut::new(&mut db[b_rows.start * r..b_rows.end * r], b_rows.len(), r);
                T::multiply(db, Store::Accumulate, 1.0, dy.t(), View::new(s, n, width).columns(cols.clone()));
            }
            if let Some(dropout) = segments.dropout {
                let ds_g = View::new(ds, n, width).columns(cols.clone());
                if let Some([da, _]) = &mut gradients {
                    let dropped = masked(x, i, g, dropout);
                    let da = ViewMut::new(&mut da[cols.start * i..cols.end * i], r, i);
                    T::multiply(da, Store::Accumulate, scale, ds_g.t(), View::new(&dropped, n, i));
                }
                let mut through = vec![T::default(); n * i];
                let a = View::new(a, width, i).rows(cols);
                T::multiply(ViewMut::new(&mut through, n, i), Store::Overwrite, scale, ds_g, a);
                let through = masked(&through, i, g, dropout);
                dx.par_iter_mut().zip(through).for_each(|(dx, t)| *dx += t);
            }
        }
        if segments.dropout.is_none() {
            let ds = View::new(ds, n, width);
            if let Some([da, _]) = gradients {
                let da = ViewMut::new(da, width, i);
                T::multiply(da, Store::Accumulate, scale, ds.t(), View::new(x, n, i));
            }
            T::multiply(ViewMut::new(dx, n, i), Store::Accumulate, scale, ds, View::new(a, width, i));
        }
    }

    /// x under the dropout mask of segment `g`: element (n, i) is decided by (key, map, g, n, i)
    /// alone.
    fn masked<T: Real>(x: &[T], inputs: usize, g: usize, dropout: Dropout) -> Vec<T> {
        let keep = T::of(1.0 / (1.0 - dropout.p));
        let mut out = vec![T::default(); x.len()];
        let rows = out.par_chunks_mut(inputs).zip(x.par_chunks(inputs)).enumerate();
        rows.for_each(|(n, (out, x))| {
            for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
                let words = dropout.key.words([i as u32 / 4, n as u32, g as u32, dropout.map]);
                if crate::device::philox::open_unit(words[i % 4]) >= dropout.p {
                    *out = *x * keep;
                }
            }
        });
        out
    }
}
