//! [`Trace`]: the record of a pass, and how it is made.

use serde::Serialize;

use super::cost::{self, Op};
use super::lens::{self, Lens};
use super::record::{Mlp, Norms, Recorder};
use crate::error::{Error, Result};
use crate::model::saved::Saved;
use crate::model::transformer::{Batch, Transformer};

/// Most bytes of attention and streams. Writing a trace takes three times as much.
const MOST: usize = 8 << 30;

/// What a trace keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens that the logit lens lists at each place.
    pub top: usize,
    /// Whether ops are timed, in a second pass.
    pub time: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { top: 5, time: true }
    }
}

/// The sizes that give a trace's arrays their shapes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizes {
    /// V.
    pub vocab: usize,
    /// C.
    pub channels: usize,
    /// L.
    pub layers: usize,
    /// H.
    pub heads: usize,
    /// KV.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// F.
    pub mlp_width: usize,
    /// Of each layer: how many positions back a query sees, itself included; none for all.
    pub windows: Vec<Option<usize>>,
}

/// The pass of a text of N tokens through a model of L layers. Arrays are row-major.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The model's sizes.
    pub sizes: Sizes,
    /// The tokens (N).
    pub tokens: Vec<u32>,
    /// The residual stream (L + 1, N, C), by depth.
    pub streams: Vec<f32>,
    /// The head's input (N, C).
    pub final_norm: Vec<f32>,
    /// Attention weights (L, H, N, N) of each query on each key; 0 where the key is masked.
    pub attention: Vec<f32>,
    /// Lengths of the stream and of the updates added to it.
    pub norms: Norms,
    /// Statistics of the MLPs' neurons.
    pub mlp: Mlp,
    /// The prediction at every depth.
    pub lens: Lens,
    /// The cost of every op; empty if they were not timed.
    pub ops: Vec<Op>,
}

impl Trace {
    /// The negative log-likelihood of each token but the first (N − 1), in nats.
    pub fn loss(&self) -> &[f32] {
        let n = self.tokens.len();
        &self.lens.next_nll[self.sizes.layers * (n - 1)..]
    }
}

/// Runs `tokens` through the model and records the pass.
///
/// # Errors
/// [`Error::Setting`] for fewer than 2 tokens, more than the model's context, or so many that attention and streams would take more
/// than 8 GiB; [`Error::Run`] for a token outside the vocabulary.
pub fn trace(model: &Transformer, tokens: &[u32], options: Options) -> Result<Trace> {
    let (n, spec) = (tokens.len(), &model.spec);
    if n < 2 || n > spec.context {
        let context = spec.context;
        return Err(Error::Setting(format!(
            "a trace is of 2 to {context} tokens, the model's context; these are {n}"
        )));
    }
    let bytes = 4 * n * (spec.layers * spec.heads * n + (spec.layers + 2) * spec.channels);
    if bytes > MOST {
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        return Err(Error::Setting(format!(
            "a trace of {n} tokens would hold {:.1} GiB of attention and streams; the most is {:.0}: take a shorter text",
            gib(bytes),
            gib(MOST)
        )));
    }
    let batch = Batch { tokens: tokens.to_vec(), starts: vec![0, n as u32], dropout: None };
    let mut saved = Saved::for_inference(&model.spec, model.place);
    let mut recorder = Recorder::new(spec, n);
    model.forward(&mut saved, &batch, &mut recorder)?;
    let mut logits = model.logits_tensor();
    let lens = lens::lens(model, &mut saved, &mut logits, &recorder.streams, tokens, options.top)?;
    let ops = if options.time { cost::measure(model, &mut saved, &mut logits, &batch)? } else { Vec::new() };
    let Recorder { streams, final_norm, attention, norms, mlp, .. } = recorder;
    let sizes = Sizes {
        vocab: spec.vocab,
        channels: spec.channels,
        layers: spec.layers,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        mlp_width: spec.mlp_width,
        windows: spec.windows.clone(),
    };
    Ok(Trace { sizes, tokens: tokens.to_vec(), streams, final_norm, attention, norms, mlp, lens, ops })
}
