//! Attention over packed documents, forward and backward, and over the paged cache.

use std::ops::Range;

use emlab::device::{DType, Device, Tensor};
use emlab::ops::attention::{self, Attention, Contexts, Documents, PAGE};
use emlab::ops::rope::Heads;
use rayon::prelude::*;

use super::budget::{Expected, U, floats, handed_on, products};
use super::{DTYPES, card, download, poisoned, random, upload};

/// Lengths of documents, H, KV, D, window.
pub type Case<'a> = (&'a [usize], [usize; 3], Option<usize>);

/// Widths that the tensor cores do not take, and odd ones.
pub const NARROW: &[Case] = &[
    (&[1, 37, 130], [4, 2, 16], None),
    (&[100, 3, 260], [3, 1, 20], Some(40)),
    (&[200, 65], [4, 4, 32], Some(33)),
    (&[70], [2, 1, 5], Some(2)),
];
/// The widths of the models.
pub const WIDE: &[Case] = &[
    (&[1, 300, 64, 128, 129, 7], [4, 2, 64], None),
    (&[384, 200], [4, 1, 128], None),
    (&[700, 1, 90], [5, 1, 128], Some(100)),
    (&[255, 257], [16, 2, 128], Some(2)),
    (&[700, 129], [4, 2, 256], None),
    (&[50, 700], [2, 1, 256], Some(128)),
    (&[300, 600], [4, 1, 256], Some(512)),
];

/// What the op gets.
pub struct Inputs {
    pub starts: Vec<u32>,
    pub attention: Attention,
    pub dtype: DType,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub dout: Tensor,
    name: String,
}

/// One query row through one head: what the scores and the probabilities are, and may be off by.
struct Row {
    /// p_ij and its relative error, for the keys that it sees.
    p: Vec<f64>,
    relative: Vec<f64>,
    lse: f64,
    lse_error: f64,
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

fn length(x: &[f32]) -> f64 {
    dot(x, x).sqrt()
}

/// Row `q` of a head over its `keys`.
///
/// A score is a sum of D products, Σ|q k| ≤ |q| |k|; e^s makes its error, and that of rounding s and the maximum, a
/// relative one.
fn row(q: &[f32], keys: &[&[f32]], attention: Attention, dtype: DType) -> Row {
    let scale = f64::from(attention.scale);
    let scores: Vec<f64> = keys.iter().map(|k| scale * dot(q, k)).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let (lse, own) = (max + sum.ln(), length(q));
    let share = scale * products(attention.heads.dim, dtype);
    let off = |(s, k): (&f64, &&[f32])| share * own * length(k) + 16.0 * U * (1.0 + s.abs() + max.abs());
    let relative: Vec<f64> = scores.iter().zip(keys).map(off).collect();
    let most = relative.iter().copied().fold(0.0, f64::max);
    let lse_error = most + floats(keys.len()) + 16.0 * U * (lse.abs() + max.abs());
    Row { p: scores.iter().map(|s| (s - lse).exp()).collect(), relative, lse, lse_error }
}

impl Row {
    /// What out = Σ p v of a head may be off by, column by column. p is handed on in bf16 where it meets tensor cores;
    /// both Σ p v and Σ p lose their share, and are scaled anew at most once for every key.
    fn out_errors(&self, values: &[&[f32]], dim: usize, dtype: DType) -> Vec<f64> {
        let most = self.relative.iter().copied().fold(0.0, f64::max);
        let terms = 2 * values.len();
        let share = 2.0 * most + products(terms, dtype) + floats(terms) + handed_on(wide(dim, dtype));
        let size = |d: usize| self.p.iter().zip(values).map(|(p, v)| p * f64::from(v[d].abs())).sum::<f64>();
        (0..dim).map(|d| share * size(d)).collect()
    }
}

/// The type in which a kernel hands p and ds to its products: bf16 on the tensor cores, for the widths they take.
fn wide(dim: usize, dtype: DType) -> DType {
    if [64, 128, 256].contains(&dim) { dtype } else { DType::F32 }
}

impl Inputs {
    pub fn new(case: Case, dtype: DType) -> Self {
        let (lengths, [query, kv, dim], window) = case;
        let starts: Vec<u32> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |end, n| {
                *end += *n as u32;
                Some(*end)
            }))
            .collect();
        let n = *starts.last().unwrap() as usize;
        let heads = Heads { query, kv, dim };
        let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
        Self {
            starts,
            attention: Attention { heads, scale: 1.7 * (dim as f32).powf(-0.5), window },
            dtype,
            q: random("q", &wide, dtype),
            k: random("k", &narrow, dtype),
            v: random("v", &narrow, dtype),
            dout: random("dout", &wide, dtype),
            name: format!("{lengths:?} {query}/{kv} heads of {dim}, {window:?}"),
        }
    }

    pub fn rows(&self) -> usize {
        *self.starts.last().unwrap() as usize
    }

    /// The rows that row `i` sees.
    pub fn visible(&self, i: usize) -> Range<usize> {
        let document = self.starts.iter().rposition(|start| *start as usize <= i).unwrap();
        let first = self.attention.window.map_or(0, |w| (i + 1).saturating_sub(w));
        first.max(self.starts[document] as usize)..i + 1
    }

    /// Row `i` of head `h` of a tensor as wide as q, or as k for the head that h reads.
    pub fn head<'a>(&self, x: &'a Tensor, i: usize, h: usize) -> &'a [f32] {
        let (heads, width) = (self.attention.heads, x.shape()[1]);
        let h = if width == heads.q_width() { h } else { h * heads.kv / heads.query };
        &x.f32()[i * width + h * heads.dim..][..heads.dim]
    }

    pub fn seen<'a>(&self, x: &'a Tensor, i: usize, h: usize) -> Vec<&'a [f32]> {
        self.visible(i).map(|j| self.head(x, j, h)).collect()
    }

    fn score_row(&self, i: usize, h: usize) -> Row {
        row(self.head(&self.q, i, h), &self.seen(&self.k, i, h), self.attention, self.dtype)
    }

    /// out and lse as they should be.
    pub fn forward(&self) -> [Expected; 2] {
        let Self { attention, dtype, q, k, v, .. } = self;
        let (n, heads) = (self.rows(), attention.heads);
        let documents = Documents::new(&self.starts, Device::Cpu).unwrap();
        let mut out = Tensor::zeros(DType::F32, q.shape());
        let mut lse = Tensor::zeros(DType::F32, &[n, heads.query]);
        attention::forward(&mut out, &mut lse, [q, k, v], &documents, *attention).unwrap();
        let one = |item: usize| {
            let (i, h) = (item / heads.query, item % heads.query);
            let row = self.score_row(i, h);
            (row.out_errors(&self.seen(v, i, h), heads.dim, *dtype), row.lse_error)
        };
        let (errors, lse_errors): (Vec<_>, Vec<_>) = (0..n * heads.query).into_par_iter().map(one).unzip();
        let name = |what: &str| format!("{what} of {}", self.name);
        [
            Expected::new(name("out"), &out, errors.concat(), *dtype),
            Expected::new(name("lse"), &lse, lse_errors, DType::F32),
        ]
    }

    /// dq, dk, dv as they should be, given what a forward has saved.
    ///
    /// ds = p (dp − δ): p as in the forward, dp and δ sums of D products, ds rounded where it is handed on.
    pub fn backward(&self, [out, lse]: [&Tensor; 2]) -> [Expected; 3] {
        let Self { attention, dtype, q, k, v, dout, .. } = self;
        let heads = attention.heads;
        let documents = Documents::new(&self.starts, Device::Cpu).unwrap();
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|t| Tensor::zeros(DType::F32, t.shape()));
        attention::backward([&mut dq, &mut dk, &mut dv], dout, [out, lse], [q, k, v], &documents, *attention)
            .unwrap();
        let parts: Vec<[Vec<f64>; 3]> =
            (0..heads.query).into_par_iter().map(|h| self.head_errors(out, h)).collect();
        let mut errors = [q, k, v].map(|t| vec![0.0; t.len()]);
        let d = heads.dim;
        for (h, part) in parts.iter().enumerate() {
            let columns = [h, h * heads.kv / heads.query, h * heads.kv / heads.query];
            let widths = [heads.q_width(), heads.kv_width(), heads.kv_width()];
            for (k, error) in errors.iter_mut().enumerate() {
                for (e, x) in part[k].iter().enumerate() {
                    error[e / d * widths[k] + columns[k] * d + e % d] += x;
                }
            }
        }
        let [of_q, of_k, of_v] = errors;
        let name = |what: &str| format!("{what} of {}", self.name);
        [
            Expected::new(name("dq"), &dq, of_q, *dtype),
            Expected::new(name("dk"), &dk, of_k, *dtype),
            Expected::new(name("dv"), &dv, of_v, *dtype),
        ]
    }

    /// What dq, dk, dv (N, D each) may be off by through query head `h`.
    fn head_errors(&self, out: &Tensor, h: usize) -> [Vec<f64>; 3] {
        let (attention, dtype) = (self.attention, self.dtype);
        let (d, scale) = (attention.heads.dim, f64::from(attention.scale));
        let handed = handed_on(wide(d, dtype));
        let mut errors = [0, 1, 2].map(|_| vec![0.0; self.rows() * d]);
        let group = attention.heads.query / attention.heads.kv;
        for i in 0..self.rows() {
            let (visible, row) = (self.visible(i), self.score_row(i, h));
            let (q, dout) = (self.head(&self.q, i, h), self.head(&self.dout, i, h));
            let own_out = self.head(out, i, h);
            let delta = dot(dout, own_out);
            let delta_error = floats(d) * length(dout) * length(own_out);
            let (of_row, of_column) =
                (products(visible.len() + 8, dtype), products(self.rows() * group + 8, dtype));
            for (j, (p, relative)) in visible.zip(row.p.iter().zip(&row.relative)) {
                let (k, v) = (self.head(&self.k, j, h), self.head(&self.v, j, h));
                let dp = dot(dout, v);
                let size = p * (dp - delta).abs();
                // The kernel's lse and the reference's are the same; s − lse is rounded as s − max is.
                let relative = relative + 16.0 * U * row.lse.abs();
                let off = size * (relative + handed)
                    + p * (products(d, dtype) * length(dout) * length(v) + delta_error)
                    + 8.0 * U * p * (dp.abs() + delta.abs());
                for e in 0..d {
                    let size_of = |x: &[f32]| f64::from(x[e].abs());
                    errors[0][i * d + e] += scale * (size * of_row + off) * size_of(k);
                    errors[1][j * d + e] += scale * (size * of_column + off) * size_of(q);
                    errors[2][j * d + e] += p * (of_column + relative + handed) * size_of(dout);
                }
            }
        }
        errors
    }
}

fn packed(case: Case, dtype: DType, card: Device) {
    let inputs = Inputs::new(case, dtype);
    let Inputs { starts, attention, q, k, v, dout, name, .. } = &inputs;
    let (n, heads) = (inputs.rows(), attention.heads);
    let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
    let on_card = Documents::new(starts, card).unwrap();
    let [gq, gk, gv] = [q, k, v].map(|x| upload(x, dtype, card));
    let (mut gout, mut glse) = (poisoned(&wide, dtype, card), poisoned(&[n, heads.query], DType::F32, card));
    attention::forward(&mut gout, &mut glse, [&gq, &gk, &gv], &on_card, *attention).unwrap();
    let [out, lse] = inputs.forward();
    out.holds(&gout);
    lse.holds(&glse);

    // Both backwards get what the card found, so that only they are compared.
    let out = Tensor::from_f32(&wide, download(&gout));
    let lse = Tensor::from_f32(&[n, heads.query], download(&glse));
    let gdout = upload(dout, dtype, card);
    let mut runs = [(); 2].map(|()| [&wide, &narrow, &narrow].map(|shape| poisoned(shape, dtype, card)));
    for run in &mut runs {
        attention::backward(run.each_mut(), &gdout, [&gout, &glse], [&gq, &gk, &gv], &on_card, *attention)
            .unwrap();
    }
    let [first, second] = &runs;
    for (i, expected) in inputs.backward([&out, &lse]).iter().enumerate() {
        expected.holds(&first[i]);
        assert_eq!(
            download(&first[i]),
            download(&second[i]),
            "{} of {name}: twice the same bits",
            expected.name
        );
    }
}

#[test]
fn packed_documents() {
    let Some(card) = card() else { return };
    for case in NARROW.iter().chain(WIDE) {
        for dtype in DTYPES {
            packed(*case, dtype, card);
        }
    }
}

/// A cache on the CPU and on the card whose sequences are `positions` + 1 long, filled by `store` in two passes, and
/// the contexts of their last positions. Pages of a sequence are scattered; the rest of the cache is NaN.
fn caches(
    positions: &[usize],
    heads: Heads,
    [k, v]: [&Tensor; 2],
    dtype: DType,
    card: Device,
) -> [([Tensor; 2], Contexts); 2] {
    let (most, width) = (positions.iter().max().unwrap() / PAGE + 1, heads.kv_width());
    let total = positions.len() * most;
    // Page p of sequence s: far from its neighbours. What no row may read is out of range.
    let page = |s: usize, p: usize| ((s * most + p) * 7 % total) as u32;
    assert!(!total.is_multiple_of(7), "7 must visit every page");
    let all: Vec<(usize, usize)> =
        positions.iter().enumerate().flat_map(|(s, last)| (0..=*last).map(move |p| (s, p))).collect();
    [Device::Cpu, card].map(|device| {
        let real = if device == Device::Cpu { DType::F32 } else { dtype };
        let place = |x: &Tensor| if device == Device::Cpu { x.clone() } else { upload(x, dtype, card) };
        let contexts = |rows: &[(usize, usize)]| {
            let table = |(s, last): (usize, usize)| {
                (0..most).map(move |p| if p <= last / PAGE { page(s, p) } else { u32::MAX })
            };
            let pages = rows.iter().flat_map(|row| table(*row)).collect();
            let positions = rows.iter().map(|(_, p)| *p as u32).collect();
            let positions = Tensor::from_u32(&[rows.len()], positions).to(device).unwrap();
            Contexts::new(positions, Tensor::from_u32(&[rows.len(), most], pages).to(device).unwrap())
        };
        let nan = Tensor::from_f32(&[total * PAGE, width], vec![f32::NAN; total * PAGE * width]);
        let mut cache = [(); 2].map(|()| place(&nan));
        assert_eq!(cache[0].dtype(), real);
        attention::store(cache.each_mut(), [&place(k), &place(v)], &contexts(&all), heads).unwrap();
        let last: Vec<(usize, usize)> = positions.iter().copied().enumerate().collect();
        (cache, contexts(&last))
    })
}

/// What each element of out may be off by: as in packed documents, of which every row is the last one.
fn cached_errors(
    positions: &[usize],
    q: &Tensor,
    [k, v]: [&Tensor; 2],
    attention: Attention,
    dtype: DType,
) -> Vec<f64> {
    let Heads { query, kv, dim } = attention.heads;
    let mut errors = Vec::new();
    let mut first = 0;
    for (i, last) in positions.iter().enumerate() {
        let seen = first + attention.window.map_or(0, |w| (last + 1).saturating_sub(w))..first + last + 1;
        first = seen.end;
        for h in 0..query {
            let at = |x| seen.clone().map(move |j| &Tensor::f32(x)[(j * kv + h * kv / query) * dim..][..dim]);
            let (keys, values): (Vec<&[f32]>, Vec<&[f32]>) = (at(k).collect(), at(v).collect());
            let q = &q.f32()[(i * query + h) * dim..][..dim];
            errors.extend(row(q, &keys, attention, dtype).out_errors(&values, dim, dtype));
        }
    }
    errors
}

fn in_cache(
    positions: &[usize],
    [query, kv, dim]: [usize; 3],
    window: Option<usize>,
    dtype: DType,
    card: Device,
) {
    let name = format!("{positions:?} {query}/{kv} heads of {dim}, {window:?}, {}", dtype.name());
    let heads = Heads { query, kv, dim };
    let attention = Attention { heads, scale: 1.7 * (dim as f32).powf(-0.5), window };
    let shape = [positions.len(), heads.q_width()];
    let q = random("q", &shape, dtype);
    let total: usize = positions.iter().map(|last| last + 1).sum();
    let [k, v] = ["keys", "values"].map(|name| random(name, &[total, heads.kv_width()], dtype));
    let [(cache, contexts), (gcache, gcontexts)] = caches(positions, heads, [&k, &v], dtype, card);
    let mut out = Tensor::zeros(DType::F32, &shape);
    attention::cached(&mut out, &q, cache.each_ref(), &contexts, attention).unwrap();
    let gq = upload(&q, dtype, card);
    let mut gout = poisoned(&shape, dtype, card);
    attention::cached(&mut gout, &gq, gcache.each_ref(), &gcontexts, attention).unwrap();
    let error = cached_errors(positions, &q, [&k, &v], attention, dtype);
    Expected::new(&*name, &out, error, dtype).holds(&gout);

    // A row alone has the same bits as in company, and so has a second launch on the same scratch.
    let (together, pages) = (download(&gout), gcontexts.pages.read::<u32>().unwrap());
    let most = pages.len() / positions.len();
    for (row, position) in positions.iter().enumerate() {
        let table = pages[row * most..][..most].to_vec();
        let position = Tensor::from_u32(&[1], vec![*position as u32]).to(card).unwrap();
        let alone = Contexts::new(position, Tensor::from_u32(&[1, most], table).to(card).unwrap());
        let own = row * shape[1]..(row + 1) * shape[1];
        let q = Tensor::from_f32(&[1, shape[1]], q.f32()[own.clone()].to_vec());
        for _ in 0..2 {
            let mut out = poisoned(&[1, shape[1]], dtype, card);
            attention::cached(&mut out, &upload(&q, dtype, card), gcache.each_ref(), &alone, attention)
                .unwrap();
            assert_eq!(download(&out), together[own.clone()], "{name}: row {row} alone");
        }
    }
}

#[test]
fn contexts_in_the_cache() {
    let Some(card) = card() else { return };
    for (heads, window) in [
        ([4, 2, 16], None),
        ([3, 1, 20], Some(50)),
        ([8, 8, 64], None),
        ([12, 1, 64], Some(300)),
        ([16, 2, 128], None),
        ([5, 1, 128], Some(100)),
        ([4, 1, 256], None),
        ([8, 4, 256], Some(512)),
    ] {
        for dtype in DTYPES {
            in_cache(&[0, 5, 15, 16, 255, 256, 300, 1025, 2100], heads, window, dtype, card);
        }
    }
}
