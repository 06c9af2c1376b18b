//! The logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020): the final norm and the head on the residual
//! stream of every depth: the prediction that the model would make if it ended there.

use std::borrow::Cow;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use serde::Serialize;

use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;
use crate::ops::real::Real;

/// Rows whose logits exist at the same time.
pub(in crate::inspect) const ROWS: usize = 384;

/// The model's prediction after each of N tokens, at each of L + 1 depths.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lens {
    /// K, the number of tokens listed at each place.
    pub top: usize,
    /// The likeliest next tokens (L + 1, N, K).
    pub tokens: Vec<u32>,
    /// Their probabilities.
    pub probabilities: Vec<f32>,
    /// The entropy of the next token (L + 1, N), in nats.
    pub entropy: Vec<f32>,
    /// The negative log-likelihood of the actual next token (L + 1, N − 1), in nats.
    pub next_nll: Vec<f32>,
    /// How many tokens are likelier than it (L + 1, N − 1).
    pub next_rank: Vec<u32>,
}

/// The prediction of one row of logits.
struct Said {
    /// The likeliest tokens and their logits, in descending order.
    top: Vec<(u32, f32)>,
    /// ln Σ exp of all logits.
    log_sum: f32,
    entropy: f32,
    /// The logit of the next token and how many are above it.
    next: Option<(f32, u32)>,
}

/// The lens of the streams (L + 1, N, C) of `ids` (N); `logits` is scratch for the rows that are computed together.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory) if too little is free on a GPU.
pub(super) fn lens(
    model: &Transformer,
    saved: &mut Saved,
    logits: &mut Tensor,
    streams: &[f32],
    ids: &[u32],
    top: usize,
) -> Result<Lens> {
    let (n, c) = (ids.len(), model.spec.channels);
    let top = top.min(model.spec.vocab);
    let mut lens = Lens { top, ..Lens::default() };
    for (chunk, streams) in streams.chunks(ROWS * c).enumerate() {
        let said: Vec<Said> = readout(model, saved, logits, streams)?
            .par_chunks(model.spec.vocab)
            .enumerate()
            .map(|(i, logits)| {
                let token = (chunk * ROWS + i) % n;
                pulp::Arch::new().dispatch(LogitsRow { logits, next: ids.get(token + 1).copied(), top })
            })
            .collect();
        for Said { top, log_sum, entropy, next } in said {
            lens.tokens.extend(top.iter().map(|(token, _)| *token));
            lens.probabilities.extend(top.iter().map(|(_, logit)| (logit - log_sum).exp()));
            lens.entropy.push(entropy);
            if let Some((logit, rank)) = next {
                lens.next_nll.push(log_sum - logit);
                lens.next_rank.push(rank);
            }
        }
    }
    Ok(lens)
}

/// The logits (n, V) of the final norm and the head on streams (n, C).
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory) if too little is free on a GPU.
pub(in crate::inspect) fn readout<'a>(
    model: &Transformer,
    saved: &mut Saved,
    logits: &'a mut Tensor,
    streams: &[f32],
) -> Result<Cow<'a, [f32]>> {
    let c = model.spec.channels;
    let rows = Tensor::from_f32(&[streams.len() / c, c], streams.to_vec());
    let rows = if model.place.real == rows.dtype() { rows } else { rows.to_bf16() };
    model.lens(logits, saved, &rows.to(model.place.device)?)?;
    Ok(match logits.device() {
        Device::Cpu => Cow::Borrowed(logits.f32()),
        Device::Cuda(_) => Cow::Owned(logits.read::<f32>()?),
    })
}

/// A row of logits to be read.
struct LogitsRow<'a> {
    logits: &'a [f32],
    next: Option<u32>,
    top: usize,
}

impl WithSimd for LogitsRow<'_> {
    type Output = Said;

    // Inlined into its dispatcher, so that its loops are compiled for the processor's widest vectors.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Said {
        read(self)
    }
}

#[inline(always)]
fn read(LogitsRow { logits, next, top }: LogitsRow) -> Said {
    const LANES: usize = 16;
    const BLOCK: usize = 16 * LANES;
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(top + 1);
    let mut least = f32::NEG_INFINITY;
    for (block, x) in logits.chunks(BLOCK).enumerate() {
        let mut largest = [f32::NEG_INFINITY; LANES];
        for x in x.chunks(LANES) {
            for (x, largest) in x.iter().zip(&mut largest) {
                *largest = if *x > *largest { *x } else { *largest };
            }
        }
        if found.len() == top && largest.iter().all(|x| *x <= least) {
            continue;
        }
        for (i, x) in x.iter().enumerate() {
            if found.len() < top || *x > least {
                let at = found.partition_point(|(_, other)| other >= x);
                found.insert(at, ((block * BLOCK + i) as u32, *x));
                found.truncate(top);
                least = if found.len() < top { f32::NEG_INFINITY } else { found[top - 1].1 };
            }
        }
    }
    let max = found.first().map_or(0.0, |(_, x)| *x);
    let (mut sums, mut weighted) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in logits.chunks(LANES) {
        for ((x, sum), weighted) in x.iter().zip(&mut sums).zip(&mut weighted) {
            let x = x - max;
            let e = Real::exp(x);
            *sum += e;
            // A probability of 0 contributes 0, not 0 · −∞.
            *weighted += e * if x < -100.0 { 0.0 } else { x };
        }
    }
    let [sum, weighted] = [sums, weighted].map(|lanes| lanes.iter().map(|x| f64::from(*x)).sum::<f64>());
    let next = next.map(|token| {
        let logit = logits[token as usize];
        (logit, logits.iter().map(|x| u32::from(*x > logit)).sum())
    });
    let log_sum = f64::from(max) + sum.ln();
    Said { top: found, log_sum: log_sum as f32, entropy: (sum.ln() - weighted / sum) as f32, next }
}
