//! Launches of `kernels/attention_*.cu`.
//!
//! | kernel file | used for |
//! |---|---|
//! | `attention_forward`, `attention_backward` | packed documents on Hopper: bf16, D of 64, 128 or 256 |
//! | `attention_mma` | packed documents on other cards: the same |
//! | `attention_plain` | packed documents otherwise, and δ for all |
//! | `attention_cached` | the cache: storing into it; attention, split over the context in bf16 and D of 64, 128 or 256, else plain |

use std::f32::consts::LOG2_E;
use std::sync::{Mutex, PoisonError};

use super::{Attention, Contexts, PAGE};
use crate::device::gpu::Facts;
use crate::device::launch::{Arg, Grid, Variant};
use crate::device::tensor_map::TensorMap;
use crate::device::{DType, Device, Gpu, Tensor};
use crate::error::Result;
use crate::ops::rope::Heads;

/// Most rows of a block in the work lists.
const BLOCK: usize = 128;
/// Rows that a block of the plain kernels takes, and their threads.
const PLAIN: [usize; 2] = [16, 512];
/// Threads of a block of the tiled kernels.
const TILED_THREADS: usize = 384;
/// Most positions that one block of the split kernel takes: a result depends on it, so it never changes with the batch.
const CHUNK: usize = 1024;
/// Bytes of shared memory that a block of the split kernel takes.
const SPLIT_SHARED: usize = (96 << 10) + 256;
/// A window that hides nothing.
const NO_WINDOW: usize = 1 << 31;

/// Work lists of the kernels: blocks of query rows, and of key rows, each as its first and end row and those of its document.
/// The longest work comes first.
#[derive(Debug)]
pub(super) struct Blocks {
    by_query: Tensor,
    by_key: Tensor,
    count: usize,
    /// (2, H, N) of one backward pass: lse · log₂e and δ.
    rows: Mutex<Tensor>,
}

impl Blocks {
    pub(super) fn new(starts: &[u32], device: Device) -> Result<Self> {
        let mut list: Vec<[u32; 4]> = Vec::new();
        for document in starts.windows(2) {
            let (start, end) = (document[0], document[1]);
            let blocks = (start..end).step_by(BLOCK);
            list.extend(blocks.map(|first| [first, end.min(first + BLOCK as u32), start, end]));
        }
        let upload = |list: &[[u32; 4]]| Tensor::from_u32(&[list.len(), 4], list.concat()).to(device);
        // A query sees the rows before it in its document; a key is seen by the rows after it.
        list.sort_by_key(|[_, end, start, _]| std::cmp::Reverse(end - start));
        let by_query = upload(&list)?;
        list.sort_by_key(|[first, _, _, end]| std::cmp::Reverse(end - first));
        let by_key = upload(&list)?;
        let rows = Mutex::new(Tensor::empty_on(device, DType::F32));
        Ok(Self { by_query, by_key, count: list.len(), rows })
    }
}

/// Partial results of [`cached`], and how many blocks of a row and head have finished; zero between launches.
#[derive(Debug)]
pub(super) struct CacheScratch {
    partial: Tensor,
    counters: Tensor,
}

impl CacheScratch {
    pub(super) fn empty(device: Device) -> Self {
        Self { partial: Tensor::empty_on(device, DType::F32), counters: Tensor::empty_on(device, DType::U32) }
    }

    fn make_room(&mut self, partial: usize, counters: usize) -> Result<()> {
        if self.partial.len() < partial {
            self.partial.resize(&[partial])?;
        }
        if self.counters.len() < counters {
            self.counters.resize(&[counters])?;
            self.counters.clear()?;
        }
        Ok(())
    }
}

/// The scalars as the kernels take them.
struct Scalars {
    heads: usize,
    kv: usize,
    dim: usize,
    scale: f32,
    window: u32,
}

impl Scalars {
    fn of(attention: Attention) -> Self {
        let heads = attention.heads;
        let window = attention.window.unwrap_or(NO_WINDOW).min(NO_WINDOW) as u32;
        Self { heads: heads.query, kv: heads.kv, dim: heads.dim, scale: attention.scale, window }
    }

    /// Whether the tensor-core kernels can be used at all.
    fn wide(&self, dtype: DType) -> bool {
        wide(dtype, self.dim) && self.scale > 0.0
    }

    fn tiled(&self, gpu: Gpu, dtype: DType) -> bool {
        gpu.is_hopper() && self.wide(dtype)
    }
}

fn wide(dtype: DType, dim: usize) -> bool {
    dtype == DType::Bf16 && [64, 128, 256].contains(&dim)
}

fn tiled_variant(source: &'static str, function: &'static str, dim: usize, shared: usize) -> Variant {
    let defines = [DType::Bf16.define(), ("D", dim as i64)];
    Variant::new(source, function, &defines, TILED_THREADS).shared(shared)
}

/// Forward on Hopper, and the keys of a box.
fn tiled_forward(dim: usize) -> (Variant, usize) {
    let [keys, shared] = if dim == 256 { [64, 768] } else { [128, 1536] };
    (tiled_variant("attention_forward", "attention_forward_tiles", dim, shared * dim + 1152), keys)
}

/// dk and dv on Hopper, and in how many parts a block of the list is taken.
fn tiled_keys(dim: usize) -> (Variant, usize) {
    // At D = 256 a block owns 64 keys, half a block of the list, and both have less room for copies in flight.
    let [halves, shared] = if dim == 256 { [2, 768 * dim + 34944] } else { [1, 1024 * dim + 2176] };
    (tiled_variant("attention_backward", "attention_backward_keys", dim, shared), halves)
}

/// dq on Hopper, and the keys of a box.
fn tiled_queries(dim: usize) -> (Variant, usize) {
    let [span, shared] = if dim == 256 { [64, 896] } else { [96, 1792] };
    (tiled_variant("attention_backward", "attention_backward_queries", dim, shared * dim + 1152), span)
}

/// An mma kernel, a block of which keeps `rows` rows and two tiles of the other side in shared memory.
fn mma_variant(function: &'static str, dim: usize, rows: usize) -> Variant {
    let tile = if dim == 64 { 64 } else { 32 };
    let defines = [DType::Bf16.define(), ("D", dim as i64)];
    Variant::new("attention_mma", function, &defines, 128).shared(2 * (dim + 8) * (rows + 2 * tile))
}

fn mma_variants(dim: usize) -> [Variant; 3] {
    [("attention_mma_forward", 64), ("attention_mma_keys", 128), ("attention_mma_queries", 128)]
        .map(|(function, rows)| mma_variant(function, dim, rows))
}

/// A plain kernel, which keeps `rows` rows in shared memory.
fn plain_variant(function: &'static str, dtype: DType, dim: usize, rows: usize) -> Variant {
    let [_, threads] = PLAIN;
    let defines = [dtype.define(), ("D", dim as i64), ("BLOCK", BLOCK as i64)];
    Variant::new("attention_plain", function, &defines, threads).shared(4 * rows * (dim | 1))
}

fn plain_variants(dtype: DType, dim: usize) -> [Variant; 3] {
    [
        ("attention_plain_forward", 16 + 64),
        ("attention_plain_keys", 32 + 64),
        ("attention_plain_queries", 32 + 64),
    ]
    .map(|(function, rows)| plain_variant(function, dtype, dim, rows))
}

/// δ, for all paths.
fn delta_variant(dtype: DType, dim: usize) -> Variant {
    Variant { threads: 256, ..plain_variant("attention_plain_delta", dtype, dim, 0) }
}

/// The kernels over the cache: storing, the plain one, and the one that splits a context where `wide`. They
/// share one set of constants, because they must agree on the layout of the cache.
fn cached_variants(dtype: DType, heads: Heads) -> [Variant; 3] {
    let defines = [
        dtype.define(),
        ("D", heads.dim as i64),
        ("PAGE", PAGE as i64),
        ("GROUP", (heads.query / heads.kv) as i64),
        ("CHUNK", CHUNK as i64),
    ];
    let variant = |function, threads| Variant::new("attention_cached", function, &defines, threads);
    [
        variant("attention_cached_store", 128),
        variant("attention_cached_plain", 32),
        variant("attention_cached_split", 24576 / heads.dim).shared(SPLIT_SHARED),
    ]
}

/// The kernels for heads of a type, on a card: of all paths that these heads can take.
pub fn variants(facts: &Facts, dtype: DType, heads: Heads) -> Vec<Variant> {
    let dim = heads.dim;
    let [store, plain, split] = cached_variants(dtype, heads);
    let mut all = vec![store, plain];
    if wide(dtype, dim) {
        all.push(split);
        all.extend(mma_variants(dim));
        if facts.is_hopper() {
            all.extend([tiled_forward(dim).0, tiled_keys(dim).0, tiled_queries(dim).0]);
        }
    }
    all.push(delta_variant(dtype, dim));
    all.extend(plain_variants(dtype, dim));
    all
}

/// The grid of an mma kernel, each row of whose result is cut into `parts` parts.
fn mma_grid(blocks: &Blocks, heads: usize, parts: usize) -> Grid {
    [2 * blocks.count, heads, parts].into()
}

/// The grid of a plain kernel.
fn plain_grid(blocks: &Blocks, heads: usize) -> Grid {
    let [each, _] = PLAIN;
    [blocks.count * (BLOCK / each), heads, 1].into()
}

/// Blocks that share `items` work items: one a multiprocessor.
fn persistent(gpu: Gpu, items: usize) -> usize {
    items.min(gpu.facts().multiprocessors as usize)
}

/// Tensor maps of matrices, for boxes of 64 columns and some rows.
fn maps<const K: usize>(gpu: Gpu, tensors: [(&Tensor, usize); K]) -> Result<[Arg<'static>; K]> {
    let mut maps = [Arg::U32(0); K];
    for (map, (tensor, rows)) in maps.iter_mut().zip(tensors) {
        let [n, width] = tensor.dims()?;
        *map = Arg::Map(TensorMap::new(gpu, DType::Bf16, tensor.pointer(), [n, width, width], [rows, 64])?);
    }
    Ok(maps)
}

/// See [`super::forward`].
pub(super) fn forward(
    gpu: Gpu,
    out: &mut Tensor,
    lse: &mut Tensor,
    [q, k, v]: [&Tensor; 3],
    blocks: &Blocks,
    attention: Attention,
) -> Result<()> {
    let (s, dtype) = (Scalars::of(attention), q.dtype());
    let (into, list) = ([out.into(), lse.into()], Arg::from(&blocks.by_query));
    if s.tiled(gpu, dtype) {
        let (variant, keys) = tiled_forward(s.dim);
        let inputs = maps(gpu, [(q, 64), (k, keys), (v, keys)])?;
        let count = persistent(gpu, blocks.count * s.heads);
        let scale = s.scale * LOG2_E;
        let tail = [list, blocks.count.into(), s.heads.into(), s.kv.into(), scale.into(), s.window.into()];
        // SAFETY: attention_forward_tiles(real *out, float *lse, TensorMap q, k, v, const uint4 *blocks, u32 count,
        // heads, kv_heads, float scale, u32 window); the op has checked the shapes.
        return unsafe { variant.launch(gpu, count, &[&into[..], &inputs, &tail].concat()) };
    }
    let inputs = [q.into(), k.into(), v.into()];
    let tail = [list, s.heads.into(), s.kv.into(), s.scale.into(), s.window.into()];
    let args = [&into[..], &inputs, &tail].concat();
    let ([variant, ..], grid) = if s.wide(dtype) {
        (mma_variants(s.dim), mma_grid(blocks, s.heads, 1))
    } else {
        (plain_variants(dtype, s.dim), plain_grid(blocks, s.heads))
    };
    // SAFETY: attention_mma_forward and attention_plain_forward(real *out, float *lse, const real *q, *k, *v, const
    // uint4 *blocks, u32 heads, kv_heads, float scale, u32 window); the op has checked the shapes.
    unsafe { variant.launch(gpu, grid, &args) }
}

/// See [`super::backward`].
pub(super) fn backward(
    gpu: Gpu,
    [dq, dk, dv]: [&mut Tensor; 3],
    dout: &Tensor,
    [out, lse]: [&Tensor; 2],
    [q, k, v]: [&Tensor; 3],
    blocks: &Blocks,
    attention: Attention,
) -> Result<()> {
    let (s, dtype) = (Scalars::of(attention), q.dtype());
    let [n, _] = q.dims()?;
    let mut rows = blocks.rows.lock().unwrap_or_else(PoisonError::into_inner);
    rows.resize(&[2, s.heads, n])?;
    let delta = delta_variant(dtype, s.dim);
    let args = [(&mut *rows).into(), dout.into(), out.into(), lse.into(), n.into(), s.heads.into()];
    // SAFETY: attention_plain_delta(float *rows, const real *dout, *out, const float *lse, u32 n, heads).
    unsafe { delta.launch(gpu, [s.heads, n.div_ceil(64), 1], &args)? };

    let (rows, into_k) = (Arg::from(&*rows), [dk.into(), dv.into()]);
    let (by_query, by_key) = (Arg::from(&blocks.by_query), Arg::from(&blocks.by_key));
    let tail = [n.into(), s.heads.into(), s.kv.into(), s.scale.into(), s.window.into()];
    if s.tiled(gpu, dtype) {
        let (variant, halves) = tiled_keys(s.dim);
        let inputs = maps(gpu, [(q, 64), (dout, 64), (k, 64), (v, 64)])?;
        let args = [&into_k[..], &inputs, &[rows, by_key], &tail].concat();
        // SAFETY: attention_backward_keys(real *dk, *dv, TensorMap q, dout, k, v, const float *rows, const uint4
        // *blocks, u32 n, heads, kv_heads, float scale, u32 window); the op has checked the shapes.
        unsafe { variant.launch(gpu, blocks.count * s.kv * halves, &args)? };
        let (variant, span) = tiled_queries(s.dim);
        let inputs = maps(gpu, [(q, 64), (dout, 64), (k, span), (v, span)])?;
        let args = [&[dq.into()], &inputs[..], &[rows, by_query, blocks.count.into()], &tail].concat();
        // SAFETY: attention_backward_queries(real *dq, TensorMap q, dout, k, v, const float *rows, const uint4 *blocks,
        // u32 count, n, heads, kv_heads, float scale, u32 window); the op has checked the shapes.
        return unsafe { variant.launch(gpu, persistent(gpu, blocks.count * s.heads), &args) };
    }

    let inputs = [dout.into(), q.into(), k.into(), v.into(), rows];
    let ([_, keys, queries], [keys_grid, queries_grid]) = if s.wide(dtype) {
        // A block takes 128 columns of dk and dv.
        (mma_variants(s.dim), [mma_grid(blocks, s.kv, s.dim.div_ceil(128)), mma_grid(blocks, s.heads, 1)])
    } else {
        (plain_variants(dtype, s.dim), [plain_grid(blocks, s.kv), plain_grid(blocks, s.heads)])
    };
    let args = [&into_k[..], &inputs, &[by_key], &tail].concat();
    // SAFETY: attention_mma_keys and attention_plain_keys(real *dk, *dv, const real *dout, *q, *k, *v, const float *rows,
    // const uint4 *blocks, u32 n, heads, kv_heads, float scale, u32 window); the op has checked the shapes.
    unsafe { keys.launch(gpu, keys_grid, &args)? };
    let args = [&[dq.into()], &inputs[..], &[by_query], &tail].concat();
    // SAFETY: attention_mma_queries and attention_plain_queries(real *dq, …), then as above.
    unsafe { queries.launch(gpu, queries_grid, &args) }
}

/// See [`super::cached`].
pub(super) fn cached(
    gpu: Gpu,
    out: &mut Tensor,
    q: &Tensor,
    [keys, values]: [&Tensor; 2],
    contexts: &Contexts,
    attention: Attention,
) -> Result<()> {
    let (s, dtype) = (Scalars::of(attention), q.dtype());
    let ([b, _], [_, most]) = (q.dims()?, contexts.pages.dims()?);
    let group = s.heads / s.kv;
    let [_, plain, split] = cached_variants(dtype, attention.heads);
    let inputs =
        [q.into(), keys.into(), values.into(), (&contexts.pages).into(), (&contexts.positions).into()];
    if !s.wide(dtype) {
        let tail = [most.into(), s.kv.into(), s.scale.into(), s.window.into()];
        // SAFETY: attention_cached_plain(real *out, const real *q, *keys, *values, const u32 *tables, *positions, u32
        // max_pages, kv_heads, float scale, u32 window); the op has checked the shapes.
        return unsafe { plain.launch(gpu, [s.heads, b, 1], &[&[out.into()], &inputs[..], &tail].concat()) };
    }
    // Enough parts for any row's context; a window may begin anywhere in a page.
    let visible = most.min((s.window as usize + PAGE - 2) / PAGE + 1);
    let (splits, parts) = (visible.div_ceil(CHUNK / PAGE), group.div_ceil(8));
    let pairs = b * s.kv * parts;
    let mut scratch = contexts.scratch.lock().unwrap_or_else(PoisonError::into_inner);
    scratch.make_room(pairs * splits * group.div_ceil(parts) * (s.dim + 4), pairs)?;
    let each = (gpu.facts().shared as usize / (SPLIT_SHARED + 1024)).max(1);
    let resident = each * gpu.facts().multiprocessors as usize;
    let blocks = resident.min(pairs * splits);
    let scratch = [(&scratch.partial).into(), (&scratch.counters).into(), b.into(), splits.into()];
    let tail = [most.into(), s.kv.into(), (s.scale * LOG2_E).into(), s.window.into()];
    let args = [&[out.into()], &inputs[..], &scratch, &tail].concat();
    // SAFETY: attention_cached_split(real *out, const real *q, *keys, *values, const u32 *tables, *positions, float
    // *partial, u32 *counters, u32 rows, splits, max_pages, kv_heads, float scale, u32 window); the op has checked the
    // shapes.
    unsafe { split.launch(gpu, blocks, &args) }
}

/// See [`super::store`].
pub(super) fn store(
    gpu: Gpu,
    [keys, values]: [&mut Tensor; 2],
    [k, v]: [&Tensor; 2],
    contexts: &Contexts,
    heads: Heads,
) -> Result<()> {
    let ([n, _], [_, most]) = (k.dims()?, contexts.pages.dims()?);
    let [store, ..] = cached_variants(k.dtype(), heads);
    let (pages, positions) = ((&contexts.pages).into(), (&contexts.positions).into());
    let args =
        [keys.into(), values.into(), k.into(), v.into(), pages, positions, most.into(), heads.kv.into()];
    // SAFETY: attention_cached_store(real *keys, *values, const real *k, *v, const u32 *tables, *positions, u32
    // max_pages, kv_heads); the op has checked the shapes.
    unsafe { store.launch(gpu, n, &args) }
}
