//! Attention over packed documents, and over the cache.

use crate::Result;
use crate::ops::attention::{self, Attention, Contexts, Documents, PAGE};

use crate::bench::case::{Case, ModelSizes, Work};
use crate::bench::inputs::Inputs;

/// Positions of each sequence in the cache: the study's prompts with half of their answers.
const CONTEXT: usize = 600;

/// Lengths of documents: a list, repeated.
struct Packing {
    lengths: Vec<usize>,
    times: usize,
}

/// At 4,096 tokens a pass: two long documents, one of twice the pass, eight of the length of a conversation, and sixteen
/// as the study's data have them, packed.
fn packings(n: usize) -> [Packing; 4] {
    let packing = |lengths: &[usize], times| Packing {
        lengths: lengths.iter().map(|length| (length * n / 4096).max(1)).collect(),
        times,
    };
    [
        packing(&[2048], 2),
        packing(&[8192], 1),
        packing(&[384], 8),
        packing(&[131, 157, 211, 243, 269, 301, 337, 399], 2),
    ]
}

impl Packing {
    fn each(&self) -> impl Iterator<Item = usize> {
        std::iter::repeat_n(&self.lengths, self.times).flatten().copied()
    }

    fn starts(&self) -> Vec<u32> {
        let ends = self.each().scan(0, |end, length| {
            *end += length as u32;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// (query, key) pairs that see each other.
    fn pairs(&self, window: Option<usize>) -> usize {
        let seen = |length: usize| (1..=length).map(|i| i.min(window.unwrap_or(length))).sum::<usize>();
        self.each().map(seen).sum()
    }

    fn sizes(&self, model: &ModelSizes, window: Option<usize>) -> String {
        let lengths: Vec<String> = self.lengths.iter().map(usize::to_string).collect();
        let (heads, window) = (model.heads(), window.map_or(String::new(), |w| format!(" W={w}")));
        let (h, kv, d) = (heads.query, heads.kv, heads.dim);
        format!("T={}x{} H={h} KV={kv} D={d}{window}", lengths.join("+"), self.times)
    }
}

pub fn cases(model: &ModelSizes) -> Vec<Case> {
    let mut shapes: Vec<(Packing, Option<usize>)> =
        packings(model.n).into_iter().map(|p| (p, None)).collect();
    // Where documents are shorter than the window it changes nothing.
    if let Some(window) = model.spec.windows.iter().find_map(|window| *window) {
        shapes.extend(packings(model.n).into_iter().take(2).map(|packing| (packing, Some(window))));
    }
    let mut cases: Vec<Case> =
        shapes.iter().map(|(packing, window)| forward(model, packing, *window)).collect();
    cases.extend(shapes.iter().map(|(packing, window)| backward(model, packing, *window)));
    cases.extend([1, 32, 100, 256].map(|b| cached(model, b)));
    cases.push(store(model, 100));
    cases
}

/// Two products of D multiply-adds a pair and query head; reads q, k and v, writes out and lse.
fn forward(model: &ModelSizes, packing: &Packing, window: Option<usize>) -> Case {
    let (heads, starts) = (model.heads(), packing.starts());
    let n = starts.last().map_or(0, |end| *end as usize);
    let flops = 4 * heads.query * heads.dim * packing.pairs(window);
    let bytes = 2 * n * (heads.q_width() + heads.kv_width()) * model.real + 4 * n * heads.query;
    let attention = scalars(model, window);
    model.case("attention forward", packing.sizes(model, window), [flops, bytes], move |inputs| {
        let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
        let (q, k, v) = (inputs.real(&wide)?, inputs.real(&narrow)?, inputs.real(&narrow)?);
        let (mut out, mut lse) = (inputs.result(&wide)?, inputs.float_result(&[n, heads.query])?);
        let documents = Documents::new(&starts, inputs.place.device)?;
        Ok(Box::new(move || attention::forward(&mut out, &mut lse, [&q, &k, &v], &documents, attention)))
    })
}

/// Five products, as is the custom, though two kernels that need no atomics do seven; reads q, k, v, out, dout and lse,
/// writes dq, dk and dv.
fn backward(model: &ModelSizes, packing: &Packing, window: Option<usize>) -> Case {
    let (heads, starts) = (model.heads(), packing.starts());
    let n = starts.last().map_or(0, |end| *end as usize);
    let flops = 10 * heads.query * heads.dim * packing.pairs(window);
    let bytes = 4 * n * (heads.q_width() + heads.kv_width()) * model.real + 4 * n * heads.query;
    let attention = scalars(model, window);
    model.case("attention backward", packing.sizes(model, window), [flops, bytes], move |inputs| {
        let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
        let (q, k, v) = (inputs.real(&wide)?, inputs.real(&narrow)?, inputs.real(&narrow)?);
        let (mut out, dout) = (inputs.result(&wide)?, inputs.real(&wide)?);
        let mut lse = inputs.float_result(&[n, heads.query])?;
        let (mut dq, mut dk, mut dv) =
            (inputs.result(&wide)?, inputs.result(&narrow)?, inputs.result(&narrow)?);
        let documents = Documents::new(&starts, inputs.place.device)?;
        // A true lse, or the exponentials overflow.
        attention::forward(&mut out, &mut lse, [&q, &k, &v], &documents, attention)?;
        Ok(Box::new(move || {
            let gradients = [&mut dq, &mut dk, &mut dv];
            attention::backward(gradients, &dout, [&out, &lse], [&q, &k, &v], &documents, attention)
        }))
    })
}

/// Reads the keys and values of every position once.
fn cached(model: &ModelSizes, b: usize) -> Case {
    let (heads, attention) = (model.heads(), scalars(model, None));
    let (h, kv, d) = (heads.query, heads.kv, heads.dim);
    let flops = 4 * b * CONTEXT * h * d;
    let bytes = 2 * b * (CONTEXT * heads.kv_width() + heads.q_width()) * model.real;
    let sizes = format!("B={b} T={CONTEXT} H={h} KV={kv} D={d}");
    model.case("attention cached", sizes, [flops, bytes], move |inputs| {
        let (contexts, slots) = contexts(inputs, b)?;
        let (q, mut out) = (inputs.real(&[b, heads.q_width()])?, inputs.result(&[b, heads.q_width()])?);
        let cache = [slots, heads.kv_width()];
        let (keys, values) = (inputs.real(&cache)?, inputs.real(&cache)?);
        Ok(Box::new(move || attention::cached(&mut out, &q, [&keys, &values], &contexts, attention)))
    })
}

/// Reads k and v, writes them elsewhere.
fn store(model: &ModelSizes, b: usize) -> Case {
    let heads = model.heads();
    let (kv, d) = (heads.kv, heads.dim);
    let bytes = 4 * b * heads.kv_width() * model.real;
    model.case("attention store", format!("B={b} T={CONTEXT} KV={kv} D={d}"), [0, bytes], move |inputs| {
        let (contexts, slots) = contexts(inputs, b)?;
        let cache = [slots, heads.kv_width()];
        let (mut keys, mut values) = (inputs.result(&cache)?, inputs.result(&cache)?);
        let rows = [b, heads.kv_width()];
        let (k, v) = (inputs.real(&rows)?, inputs.real(&rows)?);
        Ok(Box::new(move || attention::store([&mut keys, &mut values], [&k, &v], &contexts, heads)) as Work)
    })
}

/// `b` sequences of `CONTEXT` positions whose pages lie anywhere, and the rows of their cache.
fn contexts(inputs: &Inputs, b: usize) -> Result<(Contexts, usize)> {
    let each = CONTEXT.div_ceil(PAGE);
    let pages = inputs.key().permutation(b * each).into_iter().map(|page| page as u32).collect();
    let positions = inputs.given(&[b], vec![CONTEXT as u32 - 1; b])?;
    Ok((Contexts::new(positions, inputs.given(&[b, each], pages)?), b * each * PAGE))
}

fn scalars(model: &ModelSizes, window: Option<usize>) -> Attention {
    Attention { heads: model.heads(), scale: model.spec.softmax_scale, window }
}
