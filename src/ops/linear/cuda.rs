//! Launches of the products of `device::gemm`, and of `kernels/linear.cu`.

use std::ops::Range;
use std::sync::Mutex;

use super::{Adapter, Dropout, Gradients};
use crate::device::Gpu;
use crate::device::gemm::{Part, View, multiply};
use crate::device::launch::{Arg, Variant};
use crate::device::memory::purpose;
use crate::device::product::Store;
use crate::device::{DType, Device, Tensor, elementwise, turn};
use crate::error::Result;

/// One adapter as views: its columns of y and of S, and its rows of A and B.
struct SegmentViews<'a> {
    outputs: Range<usize>,
    columns: Range<usize>,
    a: View<'a>,
    b: View<'a>,
    /// First row of its part of B.
    first: usize,
}

fn segments<'a>(adapter: &Adapter<'a>) -> Vec<SegmentViews<'a>> {
    let (rank, mut next) = (adapter.rank(), 0);
    let one = |(g, outputs): (usize, &Range<usize>)| {
        let (columns, first) = (g * rank..(g + 1) * rank, next);
        next += outputs.len();
        let (a, b) = (View::new(adapter.a).rows(columns.clone()), View::new(adapter.b).rows(first..next));
        SegmentViews { outputs: outputs.clone(), columns, a, b, first }
    };
    adapter.segments.iter().enumerate().map(one).collect()
}

/// S, then y as one reduction over I and R.
pub fn forward(
    gpu: Gpu,
    y: &mut Tensor,
    s: &mut Tensor,
    x: &Tensor,
    w: &Tensor,
    adapter: Option<Adapter>,
) -> Result<()> {
    let (x_view, w_view) = (View::new(x), View::new(w));
    let Some(adapter) = adapter else {
        return multiply(gpu, y, Store::Overwrite, 1.0, &[Part::new(x_view, w_view.t())]);
    };
    let (segments, scale) = (segments(&adapter), adapter.scale);
    match adapter.dropout {
        None => {
            multiply(gpu, s, Store::Overwrite, scale, &[Part::new(x_view, View::new(adapter.a).t())])?;
        }
        Some(dropout) => {
            for (g, segment) in segments.iter().enumerate() {
                let at = [0, segment.columns.start];
                with_scratch(gpu, x, |dropped, _| {
                    mask(gpu, Store::Overwrite, dropped, x, g, dropout)?;
                    let part = Part { at, ..Part::new(View::new(dropped), segment.a.t()) };
                    multiply(gpu, s, Store::Overwrite, scale, &[part])
                })?;
            }
        }
    }
    let s = View::new(s);
    let part = |rows: Range<usize>| Part { at: [0, rows.start], ..Part::new(x_view, w_view.rows(rows).t()) };
    let (mut parts, mut next) = (Vec::new(), 0);
    for segment in &segments {
        if next < segment.outputs.start {
            parts.push(part(next..segment.outputs.start));
        }
        next = segment.outputs.end;
        let second = Some([s.columns(segment.columns.clone()), segment.b.t()]);
        parts.push(Part { second, ..part(segment.outputs.clone()) });
    }
    if next < w.shape()[0] {
        parts.push(part(next..w.shape()[0]));
    }
    multiply(gpu, y, Store::Overwrite, 1.0, &parts)
}

/// Here dS holds the scale: dS_g = s · dy[:, g] · B_g, so that dA and dx need none.
pub fn backward(
    gpu: Gpu,
    dx: &mut Tensor,
    ds: &mut Tensor,
    gradients: Gradients,
    dy: &Tensor,
    [x, s]: [&Tensor; 2],
    w: &Tensor,
    adapter: Option<Adapter>,
) -> Result<()> {
    let (dy, x_view, base) = (View::new(dy), View::new(x), Part::new(View::new(dy), View::new(w)));
    if let Some(dw) = gradients.w {
        multiply(gpu, dw, Store::Accumulate, 1.0, &[Part::new(dy.t(), x_view)])?;
    }
    let Some(adapter) = adapter else {
        return multiply(gpu, dx, Store::Overwrite, 1.0, &[base]);
    };
    let segments = segments(&adapter);
    let parts = segments
        .iter()
        .map(|t| Part { at: [0, t.columns.start], ..Part::new(dy.columns(t.outputs.clone()), t.b) });
    let parts: Vec<Part> = parts.collect();
    multiply(gpu, ds, Store::Overwrite, adapter.scale, &parts)?;
    let (ds, mut da) = (View::new(ds), None);
    if let Some([to_a, to_b]) = gradients.adapter {
        let s = View::new(s);
        let parts = segments.iter().map(|t| Part {
            at: [t.first, 0],
            ..Part::new(dy.columns(t.outputs.clone()).t(), s.columns(t.columns.clone()))
        });
        let parts: Vec<Part> = parts.collect();
        multiply(gpu, to_b, Store::Accumulate, 1.0, &parts)?;
        da = Some(to_a);
    }
    let Some(dropout) = adapter.dropout else {
        if let Some(da) = da {
            multiply(gpu, da, Store::Accumulate, 1.0, &[Part::new(ds.t(), x_view)])?;
        }
        let second = Some([ds, View::new(adapter.a)]);
        return multiply(gpu, dx, Store::Overwrite, 1.0, &[Part { second, ..base }]);
    };
    // One rounding of dx, at the end: the sum over the segments is kept in f32.
    with_scratch(gpu, x, |dropped, [through, sum]| {
        through.resize(x.shape())?;
        let float = dx.dtype() == DType::F32;
        if !float {
            sum.resize(x.shape())?;
        }
        let total = if float { &mut *dx } else { &mut *sum };
        for (g, segment) in segments.iter().enumerate() {
            let ds = ds.columns(segment.columns.clone());
            if let Some(da) = &mut da {
                mask(gpu, Store::Overwrite, dropped, x, g, dropout)?;
                let at = [segment.columns.start, 0];
                let part = Part { at, ..Part::new(ds.t(), View::new(dropped)) };
                multiply(gpu, da, Store::Accumulate, 1.0, &[part])?;
            }
            multiply(gpu, through, Store::Overwrite, 1.0, &[Part::new(ds, segment.a)])?;
            let store = if g == 0 { Store::Overwrite } else { Store::Accumulate };
            mask(gpu, store, total, through, g, dropout)?;
        }
        multiply(gpu, total, Store::Accumulate, 1.0, &[base])?;
        if float { Ok(()) } else { elementwise::cast(dx, sum) }
    })
}

/// Workspace of dropout, kept between calls: a tensor like `x`, and two of f32 to be resized.
fn with_scratch(
    gpu: Gpu,
    x: &Tensor,
    f: impl FnOnce(&mut Tensor, &mut [Tensor; 2]) -> Result<()>,
) -> Result<()> {
    static SCRATCH: Mutex<Option<([Tensor; 2], [Tensor; 2])>> = Mutex::new(None);
    let mut scratch = turn::share(&SCRATCH);
    let empty = |dtype| Tensor::empty_on(Device::Cuda(gpu), dtype);
    let (dropped, floats) = scratch.get_or_insert_with(|| {
        purpose("workspace", || ([DType::F32, DType::Bf16].map(empty), [DType::F32, DType::F32].map(empty)))
    });
    let dropped = &mut dropped[usize::from(x.dtype() == DType::Bf16)];
    dropped.resize(x.shape())?;
    f(dropped, floats)
}

/// The kernels of dropout for a type: overwriting, and adding.
pub fn variants(dtype: DType) -> [Variant; 2] {
    ["linear_mask", "linear_mask_add"]
        .map(|function| Variant::new("linear", function, &[dtype.define()], 256))
}

/// `y` becomes, or is increased by, `x` under the dropout mask of segment `g`.
fn mask(gpu: Gpu, store: Store, y: &mut Tensor, x: &Tensor, g: usize, dropout: Dropout) -> Result<()> {
    let [n, cols] = x.dims()?;
    let [overwrite, add] = variants(x.dtype());
    let variant = if store == Store::Overwrite { overwrite } else { add };
    let [key0, key1] = dropout.key.0;
    let args: [Arg; 9] = [
        y.into(),
        x.into(),
        n.into(),
        cols.into(),
        g.into(),
        dropout.map.into(),
        key0.into(),
        key1.into(),
        dropout.p.into(),
    ];
    // SAFETY: linear_mask(real *y, const real *x, u32 n, cols, segment, map, key0, key1, float p); y and x have the
    // same shape, checked by the op.
    unsafe { variant.launch_over(gpu, n * cols.div_ceil(4), 1, &args) }
}
