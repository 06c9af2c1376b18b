//! Causal grouped-query attention over packed documents, with an optional sliding window; and the same over a paged
//! cache.
//!
//! ```text
//! s_ij = scale · q_i · k_j     for j in i's document, j ≤ i, i − j < window
//! p_ij = exp(s_ij − lse_i),    lse_i = ln Σ_j exp s_ij,    out_i = Σ_j p_ij v_j
//!
//! δ_i = dout_i · out_i         ds_ij = p_ij (dout_i · v_j − δ_i)
//! dq_i = scale Σ_j ds_ij k_j   dk_j = scale Σ_i ds_ij q_i   dv_j = Σ_i p_ij dout_i
//! ```
//! Shapes: q, out (N, H·D); k, v (N, KV·D); lse (N, H), saved for the backward. Query head h reads key head
//! h·KV/H. Documents are given by their first rows, ending with N. Tiling and recomputation of p as in
//! FlashAttention (Dao, arXiv 2307.08691): no N × N matrix is kept.

use std::sync::{Arc, Mutex};

use crate::device::tensor::{expect, expect_device, expect_dtype, expect_f32, expect_shape};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::ops::rope::Heads;

pub use cuda::variants;

/// The scalars of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Head counts and width.
    pub heads: Heads,
    /// Factor on q · k.
    pub scale: f32,
    /// A query sees the last `window` positions, itself included; all of its document if there is none.
    pub window: Option<usize>,
}

impl Attention {
    /// The first position that a query at `position` sees.
    fn first_visible(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

/// Positions a page of the cache.
pub const PAGE: usize = 16;

/// Documents packed one after the other: what a query of [`forward`] may look at.
#[derive(Clone, Debug)]
pub struct Documents {
    /// The first row of each, and N at the end.
    starts: Vec<u32>,
    /// The work lists of the GPU's kernels.
    blocks: Option<Arc<cuda::Blocks>>,
}

impl Documents {
    /// From the first row of each document and N at the end; for tensors on `device`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if too little is free on a GPU.
    pub fn new(starts: &[u32], device: Device) -> Result<Self> {
        let ordered = starts.windows(2).all(|w| w[0] < w[1]);
        assert!(ordered && starts.first() == Some(&0), "document starts {starts:?}");
        let blocks = match device {
            Device::Cpu => None,
            Device::Cuda(_) => Some(Arc::new(cuda::Blocks::new(starts, device)?)),
        };
        Ok(Self { starts: starts.to_vec(), blocks })
    }

    /// N.
    pub fn rows(&self) -> usize {
        self.starts.last().map_or(0, |end| *end as usize)
    }

    fn blocks(&self) -> &cuda::Blocks {
        self.blocks.as_ref().expect("documents made for the GPU")
    }
}

/// The position of each query row of [`cached`] in its sequence, and the pages of that sequence in the cache: position p is row
/// `pages[p / PAGE] · PAGE + p % PAGE`. A row sees positions up to its own.
#[derive(Debug)]
pub struct Contexts {
    /// (B), u32.
    pub positions: Tensor,
    /// (B, most pages of a sequence), u32; entries behind a sequence's last page are not read.
    pub pages: Tensor,
    /// CacheScratch of the GPU's kernels.
    scratch: Mutex<cuda::CacheScratch>,
}

impl Contexts {
    /// Of (B) positions and (B, most) pages.
    pub fn new(positions: Tensor, pages: Tensor) -> Self {
        let scratch = Mutex::new(cuda::CacheScratch::empty(pages.device()));
        Self { positions, pages, scratch }
    }

    /// None yet.
    pub fn empty(device: Device) -> Self {
        Self::new(Tensor::empty_on(device, DType::U32), Tensor::empty_on(device, DType::U32))
    }

    fn check(&self, b: usize, device: Device) -> Result<()> {
        let [_, most] = self.pages.dims()?;
        for (name, tensor, shape) in
            [("positions", &self.positions, &[b][..]), ("pages", &self.pages, &[b, most][..])]
        {
            expect_shape("attention", name, tensor, shape)?;
            expect_dtype("attention", name, tensor, DType::U32)?;
            expect_device("attention", name, tensor, device)?;
        }
        Ok(())
    }
}

/// `out` (N, H·D) and `lse` (N, H) from packed documents.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn forward(
    out: &mut Tensor,
    lse: &mut Tensor,
    [q, k, v]: [&Tensor; 3],
    documents: &Documents,
    attention: Attention,
) -> Result<()> {
    let [n, _] = q.dims()?;
    let heads = attention.heads;
    let (wide, narrow): (&[usize], &[usize]) = (&[n, heads.q_width()], &[n, heads.kv_width()]);
    expect("attention", &[("q", q, wide), ("out", out, wide), ("k", k, narrow), ("v", v, narrow)])?;
    expect_f32("attention", q.device(), &[("lse", lse, &[n, heads.query])])?;
    assert_eq!(documents.rows(), n, "rows of the documents");
    match q.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, out, lse, [q, k, v], documents.blocks(), attention)?,
        Device::Cpu => {
            let (out, lse) = (out.f32_mut(), lse.f32_mut());
            cpu::forward(out, lse, [q.f32(), k.f32(), v.f32()], &documents.starts, attention);
        }
    }
    Ok(())
}

/// Gradient of [`forward`]: overwrites `dq` (N, H·D), `dk` and `dv` (N, KV·D).
///
/// # Errors
/// A shape or element type that disagrees.
pub fn backward(
    [dq, dk, dv]: [&mut Tensor; 3],
    dout: &Tensor,
    [out, lse]: [&Tensor; 2],
    [q, k, v]: [&Tensor; 3],
    documents: &Documents,
    attention: Attention,
) -> Result<()> {
    let [n, _] = q.dims()?;
    let heads = attention.heads;
    let (wide, narrow): (&[usize], &[usize]) = (&[n, heads.q_width()], &[n, heads.kv_width()]);
    expect(
        "attention backward",
        &[("q", q, wide), ("out", out, wide), ("dout", dout, wide), ("dq", dq, wide)],
    )?;
    expect(
        "attention backward",
        &[("k", k, narrow), ("v", v, narrow), ("dk", dk, narrow), ("dv", dv, narrow)],
    )?;
    expect_f32("attention backward", q.device(), &[("lse", lse, &[n, heads.query])])?;
    assert_eq!(documents.rows(), n, "rows of the documents");
    match q.device() {
        Device::Cuda(gpu) => {
            let blocks = documents.blocks();
            cuda::backward(gpu, [dq, dk, dv], dout, [out, lse], [q, k, v], blocks, attention)?;
        }
        Device::Cpu => cpu::backward(
            [dq.f32_mut(), dk.f32_mut(), dv.f32_mut()],
            dout.f32(),
            [out.f32(), lse.f32()],
            [q.f32(), k.f32(), v.f32()],
            &documents.starts,
            attention,
        ),
    }
    Ok(())
}

/// `out` (N, H·D) for `q` (N, H·D), each row in its own context over the cache's keys and values
/// (pages · [`PAGE`], KV·D). A row's result does not depend on the rows beside it.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn cached(
    out: &mut Tensor,
    q: &Tensor,
    [keys, values]: [&Tensor; 2],
    contexts: &Contexts,
    attention: Attention,
) -> Result<()> {
    let ([n, _], [slots, _]) = (q.dims()?, keys.dims()?);
    let heads = attention.heads;
    let (wide, narrow): (&[usize], &[usize]) = (&[n, heads.q_width()], &[slots, heads.kv_width()]);
    expect(
        "attention",
        &[("q", q, wide), ("out", out, wide), ("keys", keys, narrow), ("values", values, narrow)],
    )?;
    contexts.check(n, q.device())?;
    match q.device() {
        Device::Cuda(gpu) => cuda::cached(gpu, out, q, [keys, values], contexts, attention)?,
        Device::Cpu => cpu::cached(out.f32_mut(), q.f32(), [keys.f32(), values.f32()], contexts, attention),
    }
    Ok(())
}

/// Writes the rows of `k` and `v` (B, KV·D) into their places in the cache's `keys` and `values`
/// (pages · [`PAGE`], KV·D). The order of the elements inside a page depends on the device.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn store(
    [keys, values]: [&mut Tensor; 2],
    [k, v]: [&Tensor; 2],
    contexts: &Contexts,
    heads: Heads,
) -> Result<()> {
    let ([n, _], [slots, _], width) = (k.dims()?, keys.dims()?, heads.kv_width());
    let (rows, cache): (&[usize], &[usize]) = (&[n, width], &[slots, width]);
    expect("attention", &[("k", k, rows), ("v", v, rows), ("keys", keys, cache), ("values", values, cache)])?;
    contexts.check(n, k.device())?;
    match k.device() {
        Device::Cuda(gpu) => cuda::store(gpu, [keys, values], [k, v], contexts, heads)?,
        Device::Cpu => {
            cpu::store(keys.f32_mut(), k.f32(), contexts);
            cpu::store(values.f32_mut(), v.f32(), contexts);
        }
    }
    Ok(())
}

mod cuda;

/// The definition.
pub mod cpu {
    use std::ops::Range;

    use rayon::prelude::*;

    use super::{Attention, Contexts, PAGE};
    use crate::device::product::{Store, View, ViewMut};
    use crate::ops::real::Real;

    /// Query rows handled together.
    const BLOCK: usize = 64;

    /// A block of query rows and the key rows that any of them sees.
    struct RowBlock {
        queries: Range<usize>,
        keys: Range<usize>,
    }

    impl RowBlock {
        /// The blocks of one document, whose rows are `document`.
        fn of_document(document: Range<usize>, attention: Attention) -> impl Iterator<Item = Self> {
            let Range { start, end } = document;
            (start..end).step_by(BLOCK).map(move |first| {
                let queries = first..end.min(first + BLOCK);
                Self { keys: start + attention.first_visible(first - start)..queries.end, queries }
            })
        }

        /// The keys that query row `i` sees, counted from the block's first.
        fn visible(&self, i: usize, attention: Attention) -> Range<usize> {
            let first =
                attention.window.map_or(self.keys.start, |w| (i + 1).saturating_sub(w).max(self.keys.start));
            first - self.keys.start..i + 1 - self.keys.start
        }
    }

    fn documents(starts: &[u32]) -> impl Iterator<Item = Range<usize>> {
        starts.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }

    /// Columns of head `h` when heads are `d` wide.
    fn head(h: usize, d: usize) -> Range<usize> {
        h * d..(h + 1) * d
    }

    /// See [`super::forward`].
    pub fn forward<T: Real>(
        out: &mut [T],
        lse: &mut [T],
        [q, k, v]: [&[T]; 3],
        starts: &[u32],
        attention: Attention,
    ) {
        let heads = attention.heads;
        let (mut out, mut lse, mut tasks) = (out, lse, Vec::new());
        for block in documents(starts).flat_map(|d| RowBlock::of_document(d, attention)) {
            let (rows, rest) = out.split_at_mut(block.queries.len() * heads.q_width());
            let (sums, rest_sums) = lse.split_at_mut(block.queries.len() * heads.query);
            (out, lse) = (rest, rest_sums);
            tasks.push((block, rows, sums));
        }
        tasks.into_par_iter().for_each(|(block, out, lse)| {
            let mut p = Vec::new();
            for h in 0..heads.query {
                scores(&mut p, &block, [q, k], h, attention);
                for (row, i) in block.queries.clone().enumerate() {
                    let visible = block.visible(i, attention);
                    lse[row * heads.query + h] =
                        softmax(&mut p[row * block.keys.len()..][..block.keys.len()], visible);
                }
                let (rows, keys) = (block.queries.len(), block.keys.len());
                let d = heads.dim;
                let values = View::new(v, v.len() / heads.kv_width(), heads.kv_width());
                let values = values.rows(block.keys.clone()).columns(head(h * heads.kv / heads.query, d));
                let out = ViewMut::new(out, rows, heads.q_width()).columns(head(h, d));
                T::multiply(out, Store::Overwrite, 1.0, View::new(&p, rows, keys), values);
            }
        });
    }

    /// p ← scale · Q_h · Kᵀ for one block and head; not yet masked.
    fn scores<T: Real>(p: &mut Vec<T>, block: &RowBlock, [q, k]: [&[T]; 2], h: usize, attention: Attention) {
        let heads = attention.heads;
        let (n, d) = (q.len() / heads.q_width(), heads.dim);
        p.resize(block.queries.len() * block.keys.len(), T::default());
        let queries = View::new(q, n, heads.q_width()).rows(block.queries.clone()).columns(head(h, d));
        let keys = View::new(k, n, heads.kv_width()).rows(block.keys.clone());
        let keys = keys.columns(head(h * heads.kv / heads.query, d));
        let p = ViewMut::new(p, block.queries.len(), block.keys.len());
        T::multiply(p, Store::Overwrite, attention.scale, queries, keys.t());
    }

    /// Turns the visible scores of a row into probabilities and the others into 0; returns ln Σ exp.
    fn softmax<T: Real>(row: &mut [T], visible: Range<usize>) -> T {
        row[..visible.start].fill(T::default());
        row[visible.end..].fill(T::default());
        let row = &mut row[visible];
        let max = row.iter().fold(row[0], |a, b| if *b > a { *b } else { a });
        let mut sum = T::default();
        for x in row.iter_mut() {
            *x = (*x - max).exp();
        }
        for x in row.iter() {
            sum += *x;
        }
        let inverse = T::of(1.0) / sum;
        for x in row.iter_mut() {
            *x = *x * inverse;
        }
        max + sum.ln()
    }

    /// See [`super::backward`].
    pub fn backward<T: Real>(
        [dq, dk, dv]: [&mut [T]; 3],
        dout: &[T],
        [out, lse]: [&[T]; 2],
        [q, k, v]: [&[T]; 3],
        starts: &[u32],
        attention: Attention,
    ) {
        let heads = attention.heads;
        let d = heads.dim;
        let pairs: Vec<(Range<usize>, usize)> =
            documents(starts).flat_map(|doc| (0..heads.query).map(move |h| (doc.clone(), h))).collect();
        let parts: Vec<[Vec<T>; 3]> = pairs
            .par_iter()
            .map(|(doc, h)| head_backward(dout, [out, lse], [q, k, v], doc.clone(), *h, attention))
            .collect();
        dk.fill(T::default());
        dv.fill(T::default());
        // One query head after the other adds to its key head: a fixed order.
        for ((doc, h), [part_q, part_k, part_v]) in pairs.iter().zip(&parts) {
            let kv = head(h * heads.kv / heads.query, d);
            for (t, row) in doc.clone().enumerate() {
                let part = t * d..(t + 1) * d;
                dq[row * heads.q_width()..][head(*h, d)].copy_from_slice(&part_q[part.clone()]);
                for (sum, part_of) in [(&mut *dk, part_k), (&mut *dv, part_v)] {
                    for (sum, x) in
                        sum[row * heads.kv_width()..][kv.clone()].iter_mut().zip(&part_of[part.clone()])
                    {
                        *sum += *x;
                    }
                }
            }
        }
    }

    /// dq, dk, dv (T, D each) of one document through one query head.
    fn head_backward<T: Real>(
        dout: &[T],
        [out, lse]: [&[T]; 2],
        [q, k, v]: [&[T]; 3],
        document: Range<usize>,
        h: usize,
        attention: Attention,
    ) -> [Vec<T>; 3] {
        let heads = attention.heads;
        let (d, n, wide, narrow) = (heads.dim, lse.len() / heads.query, heads.q_width(), heads.kv_width());
        let kv = head(h * heads.kv / heads.query, d);
        let [mut dq, mut dk, mut dv] = std::array::from_fn(|_| vec![T::default(); document.len() * d]);
        let (mut p, mut ds) = (Vec::new(), Vec::new());
        for block in RowBlock::of_document(document.clone(), attention) {
            let (rows, keys) = (block.queries.len(), block.keys.len());
            let query_rows = |x| View::new(x, n, wide).rows(block.queries.clone()).columns(head(h, d));
            let key_rows = |x| View::new(x, n, narrow).rows(block.keys.clone()).columns(kv.clone());
            // 1. p again, and dp = dout · vᵀ
            scores(&mut p, &block, [q, k], h, attention);
            ds.resize(rows * keys, T::default());
            let dp = ViewMut::new(&mut ds, rows, keys);
            T::multiply(dp, Store::Overwrite, 1.0, query_rows(dout), key_rows(v).t());
            // 2. ds = p ∘ (dp − δ), zero where masked
            for (row, i) in block.queries.clone().enumerate() {
                let visible = block.visible(i, attention);
                let (p, ds) = (&mut p[row * keys..][..keys], &mut ds[row * keys..][..keys]);
                let columns = i * wide + h * d..i * wide + (h + 1) * d;
                let delta: T = dout[columns.clone()].iter().zip(&out[columns]).map(|(a, b)| *a * *b).sum();
                let lse = lse[i * heads.query + h];
                for j in 0..keys {
                    p[j] = if visible.contains(&j) { (p[j] - lse).exp() } else { T::default() };
                    ds[j] = p[j] * (ds[j] - delta);
                }
            }
            // 3. dq, dk, dv
            let first =
                |range: &Range<usize>| (range.start - document.start) * d..(range.end - document.start) * d;
            let (queries_at, keys_at) = (first(&block.queries), first(&block.keys));
            let (p, ds) = (View::new(&p, rows, keys), View::new(&ds, rows, keys));
            let into_q = ViewMut::new(&mut dq[queries_at], rows, d);
            T::multiply(into_q, Store::Overwrite, attention.scale, ds, key_rows(k));
            let into_k = ViewMut::new(&mut dk[keys_at.clone()], keys, d);
            T::multiply(into_k, Store::Accumulate, attention.scale, ds.t(), query_rows(q));
            let into_v = ViewMut::new(&mut dv[keys_at], keys, d);
            T::multiply(into_v, Store::Accumulate, 1.0, p.t(), query_rows(dout));
        }
        [dq, dk, dv]
    }

    /// The cache row of position `p` of the sequence of query row `row`.
    fn slot(contexts: &Contexts, row: usize, p: usize) -> usize {
        let pages = contexts.pages.u32();
        let most = pages.len() / contexts.positions.len();
        pages[row * most + p / PAGE] as usize * PAGE + p % PAGE
    }

    /// See [`super::store`].
    pub fn store(cache: &mut [f32], x: &[f32], contexts: &Contexts) {
        let positions = contexts.positions.u32();
        let width = x.len() / positions.len().max(1);
        for ((row, position), x) in positions.iter().enumerate().zip(x.chunks_exact(width.max(1))) {
            cache[slot(contexts, row, *position as usize) * width..][..width].copy_from_slice(x);
        }
    }

    /// See [`super::cached`].
    pub fn cached(
        out: &mut [f32],
        q: &[f32],
        [keys, values]: [&[f32]; 2],
        contexts: &Contexts,
        attention: Attention,
    ) {
        let heads = attention.heads;
        let (d, narrow) = (heads.dim, heads.kv_width());
        out.par_chunks_mut(d).zip(q.par_chunks(d)).enumerate().for_each(|(index, (out, q))| {
            let (row, h) = (index / heads.query, index % heads.query);
            let position = contexts.positions.u32()[row] as usize;
            let first = attention.first_visible(position);
            let at = |p: usize| slot(contexts, row, p) * narrow + h * heads.kv / heads.query * d;
            let mut p: Vec<f32> =
                (first..=position).map(|j| attention.scale * dot(q, &keys[at(j)..][..d])).collect();
            let all = 0..p.len();
            softmax(&mut p, all);
            out.fill(0.0);
            for (j, p) in (first..=position).zip(p) {
                for (out, v) in out.iter_mut().zip(&values[at(j)..][..d]) {
                    *out += p * v;
                }
            }
        });
    }

    /// Sixteen interleaved partial sums, so that it vectorises.
    #[inline]
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0; 16];
        let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
        let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
        for (a, b) in a.zip(b) {
            for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *lane += a * b;
            }
        }
        lanes.iter().sum::<f32>() + tail
    }
}
