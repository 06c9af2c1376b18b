//! Two models on one text: where their residual streams diverge, and how their predictions differ.
//!
//! ```text
//! parting_d,n   ‖x'_d,n − x_d,n‖ / ‖x_d,n‖          x: the stream of the first at depth d and token n, x' of the second
//! KL_n          Σ_v p_n(v) (ln p_n(v) − ln p'_n(v))   p: the first's next token after token n
//! ```

use rayon::prelude::*;
use serde::Serialize;

use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::inspect::sums::log_sum;
use crate::inspect::trace::lens::{ROWS, readout};
use crate::model::probe::{Probe, Site};
use crate::model::saved::Saved;
use crate::model::transformer::{Batch, Transformer};

/// One model's run over a text of N tokens.
#[derive(Clone, Debug)]
pub struct Observed {
    tokens: Vec<u32>,
    channels: usize,
    /// By depth: the stream (N, C).
    streams: Vec<Vec<f32>>,
}

/// A token whose probability differs between the models.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moved {
    /// The token.
    pub token: u32,
    /// Its logarithm of probability in the first model, and in the second.
    pub log_p: [f32; 2],
    /// How much its logit, less the mean logit, is larger in the second model than in the first.
    pub logit: f32,
}

/// How two models differ after one token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct After {
    /// KL(first ‖ second), in nats.
    pub kl: f64,
    /// KL(second ‖ first), in nats.
    pub kl_back: f64,
    /// The negative log-likelihood of the next token in the first and in the second model; none after the last.
    pub nll: Option<[f32; 2]>,
    /// The tokens with the largest |p' − p|, in descending order.
    pub moved: Vec<Moved>,
}

/// Two models on one text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parting {
    /// The text (N).
    pub tokens: Vec<u32>,
    /// The distance of the streams, relative to the length of the first: by depth 0 to L, and token.
    pub streams: Vec<Vec<f64>>,
    /// By token.
    pub after: Vec<After>,
}

struct Streams(Vec<Vec<f32>>);

impl Probe for Streams {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        if site.depth(layer).is_some() {
            self.0.push(x.numbers()?);
        }
        Ok(false)
    }
}

/// Runs the model over `tokens`.
///
/// # Errors
/// [`Error::Setting`] for no tokens or more than the model's context; whatever the model returns.
pub fn observe(model: &Transformer, tokens: &[u32]) -> Result<Observed> {
    let (n, spec) = (tokens.len(), &model.spec);
    if n == 0 || n > spec.context {
        let context = spec.context;
        return Err(Error::Setting(format!("a text of {n} tokens: models are compared on 1 to {context}")));
    }
    let batch = Batch { tokens: tokens.to_vec(), starts: vec![0, n as u32], dropout: None };
    let mut streams = Streams(Vec::new());
    model.forward(&mut Saved::for_inference(&model.spec, model.place), &batch, &mut streams)?;
    Ok(Observed { tokens: tokens.to_vec(), channels: spec.channels, streams: streams.0 })
}

/// How `second` differs from `first`, with `top` tokens listed at each position. Of `model` only the final norm and the head
/// are used, which adapters do not change.
///
/// # Errors
/// [`Error::Setting`] if the two are not runs of models of `model`'s size over one text; whatever the model returns.
pub fn part(model: &Transformer, first: &Observed, second: &Observed, top: usize) -> Result<Parting> {
    let size = |run: &Observed| (run.tokens.clone(), run.channels, run.streams.len());
    let own = (first.tokens.clone(), model.spec.channels, model.spec.layers + 1);
    if size(first) != size(second) || size(first) != own {
        return Err(Error::Setting("models are compared on one text, and must be of one size".into()));
    }
    let (c, vocab) = (model.spec.channels, model.spec.vocab);
    let apart =
        |(x, y): (&Vec<f32>, &Vec<f32>)| x.chunks(c).zip(y.chunks(c)).map(|(x, y)| distance(x, y)).collect();
    let streams = first.streams.iter().zip(&second.streams).map(apart).collect();
    let mut saved = Saved::for_inference(&model.spec, model.place);
    let mut logits = [(); 2].map(|()| model.logits_tensor());
    let mut all = Vec::with_capacity(first.tokens.len());
    let [last, other] = [first, second].map(|run| run.streams[model.spec.layers].chunks(ROWS * c));
    for (chunk, (x, y)) in last.zip(other).enumerate() {
        let [p, q] = &mut logits;
        let (p, q) = (readout(model, &mut saved, p, x)?, readout(model, &mut saved, q, y)?);
        let found = p.par_chunks(vocab).zip(q.par_chunks(vocab)).enumerate().map(|(i, (p, q))| {
            let [p, q] = [p, q].map(log_softmax);
            after([&p, &q], first.tokens.get(chunk * ROWS + i + 1), top)
        });
        all.extend(found.collect::<Vec<_>>());
    }
    Ok(Parting { tokens: first.tokens.clone(), streams, after: all })
}

/// x − ln Σ exp x.
fn log_softmax(x: &[f32]) -> Vec<f32> {
    let shift = log_sum(x);
    x.iter().map(|x| (f64::from(*x) - shift) as f32).collect()
}

fn distance(x: &[f32], y: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let apart: f64 = x.iter().zip(y).map(|(x, y)| square(f64::from(y - x))).sum();
    let length: f64 = x.iter().map(|x| square(f64::from(*x))).sum();
    if apart == 0.0 { 0.0 } else { (apart / length).sqrt() }
}

fn after([p, q]: [&[f32]; 2], next: Option<&u32>, top: usize) -> After {
    let kl = |p: &[f32], q: &[f32]| -> f64 {
        let term = |(p, q): (&f32, &f32)| {
            if *p == f32::NEG_INFINITY { 0.0 } else { f64::from(*p).exp() * f64::from(p - q) }
        };
        // Rounding can leave a value slightly below 0.
        p.iter().zip(q).map(term).sum::<f64>().max(0.0)
    };
    let shift = p.iter().zip(q).map(|(p, q)| f64::from(q - p)).sum::<f64>() / p.len() as f64;
    let size = |token: &u32| (q[*token as usize].exp() - p[*token as usize].exp()).abs();
    let by_size = |a: &u32, b: &u32| size(b).total_cmp(&size(a)).then(a.cmp(b));
    let mut order: Vec<u32> = (0..p.len() as u32).collect();
    let top = top.min(order.len());
    if top < order.len() {
        order.select_nth_unstable_by(top, by_size);
        order.truncate(top);
    }
    order.sort_unstable_by(by_size);
    let moved = order.into_iter().map(|token| {
        let log_p = [p[token as usize], q[token as usize]];
        Moved { token, log_p, logit: (f64::from(log_p[1] - log_p[0]) - shift) as f32 }
    });
    After {
        kl: kl(p, q),
        kl_back: kl(q, p),
        nll: next.map(|next| [-p[*next as usize], -q[*next as usize]]),
        moved: moved.collect(),
    }
}
