//! The probe of a trace.

use rayon::prelude::*;
use serde::Serialize;

use crate::device::Tensor;
use crate::error::Result;
use crate::inspect::sums::square_sum;
use crate::model::probe::{Probe, Site};
use crate::model::spec::Spec;

/// Lengths (Euclidean norms), by layer and token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Norms {
    /// Of the residual stream (L + 1, N), by depth.
    pub stream: Vec<f32>,
    /// Of what attention adds to it (L, N).
    pub attention_delta: Vec<f32>,
    /// Of the stream between attention and MLP (L, N).
    pub residual_mid: Vec<f32>,
    /// Of what the MLP adds to it (L, N).
    pub mlp_delta: Vec<f32>,
}

/// Neurons that [`Mlp`] lists of each layer and token.
pub(super) const LARGEST: usize = 5;

/// Statistics of the F neurons of each MLP, activation(gate) · up, by layer and token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Mlp {
    /// The share of neurons whose gate is open: above 0 (L, N).
    pub open: Vec<f32>,
    /// The root mean square of their values (L, N).
    pub rms: Vec<f32>,
    /// The neurons with the largest absolute values, in descending order (L, N, 5; fewer if F is smaller).
    pub largest: Vec<u32>,
    /// Their values (L, N, 5).
    pub values: Vec<f32>,
}

/// Records the contents of a trace during a pass over one document.
pub(super) struct Recorder {
    n: usize,
    heads: [usize; 2],
    dim: usize,
    scale: f32,
    windows: Vec<Option<usize>>,
    /// The queries of the current layer (N, H·D).
    query: Vec<f32>,
    pub(super) streams: Vec<f32>,
    pub(super) final_norm: Vec<f32>,
    pub(super) attention: Vec<f32>,
    pub(super) norms: Norms,
    pub(super) mlp: Mlp,
}

impl Recorder {
    pub(super) fn new(spec: &Spec, n: usize) -> Self {
        Self {
            n,
            heads: [spec.heads, spec.kv_heads],
            dim: spec.head_dim,
            scale: spec.softmax_scale,
            windows: spec.windows.clone(),
            query: Vec::new(),
            streams: Vec::with_capacity((spec.layers + 1) * n * spec.channels),
            final_norm: Vec::new(),
            attention: Vec::with_capacity(spec.layers * spec.heads * n * n),
            norms: Norms::default(),
            mlp: Mlp::default(),
        }
    }

    /// The attention weights of one layer (H, N, N) from its queries and `key` (N, KV·D).
    fn attend(&mut self, layer: usize, key: &[f32]) {
        let ([heads, kv_heads], dim, n) = (self.heads, self.dim, self.n);
        let first = self.attention.len();
        self.attention.resize(first + heads * n * n, 0.0);
        let (query, scale, window) = (&self.query, self.scale, self.windows[layer].unwrap_or(n));
        self.attention[first..].par_chunks_mut(n).enumerate().for_each(|(row, weights)| {
            let (head, q) = (row / n, row % n);
            let query = &query[(q * heads + head) * dim..][..dim];
            let kv = head * kv_heads / heads;
            let seen = (q + 1).saturating_sub(window)..q + 1;
            for k in seen.clone() {
                let key = &key[(k * kv_heads + kv) * dim..][..dim];
                weights[k] = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
            }
            softmax(&mut weights[seen]);
        });
    }

    fn neurons(&mut self, glu: &[f32]) {
        let f = glu.len() / self.n;
        for row in glu.chunks(f) {
            let square = square_sum(row);
            self.mlp.rms.push((square / f as f64).sqrt() as f32);
            let mut order: Vec<u32> = (0..f as u32).collect();
            let most = LARGEST.min(f);
            let by_size = |a: &u32, b: &u32| {
                let size = |i: &u32| row[*i as usize].abs();
                size(b).total_cmp(&size(a)).then(a.cmp(b))
            };
            order.select_nth_unstable_by(most - 1, by_size);
            order.truncate(most);
            order.sort_unstable_by(by_size);
            self.mlp.values.extend(order.iter().map(|i| row[*i as usize]));
            self.mlp.largest.extend(order);
        }
    }
}

impl Probe for Recorder {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        let [_, width] = x.dims()?;
        let read = || x.numbers();
        match site {
            Site::Embedding | Site::Residual => {
                let x = read()?;
                self.norms.stream.extend(lengths(&x, width));
                self.streams.extend(x);
            }
            Site::FinalNorm => self.final_norm = read()?,
            Site::Query => self.query = read()?,
            Site::Key => self.attend(layer, &read()?),
            Site::AttentionDelta => self.norms.attention_delta.extend(lengths(&read()?, width)),
            Site::ResidualMid => self.norms.residual_mid.extend(lengths(&read()?, width)),
            Site::MlpDelta => self.norms.mlp_delta.extend(lengths(&read()?, width)),
            Site::GateUp => {
                let x = read()?;
                let open = |row: &[f32]| row[..width / 2].iter().filter(|x| **x > 0.0).count();
                self.mlp.open.extend(x.chunks(width).map(|row| 2.0 * open(row) as f32 / width as f32));
            }
            Site::Glu => self.neurons(&read()?),
            Site::AttentionNorm
            | Site::Qkv
            | Site::Attention
            | Site::AttentionOut
            | Site::MlpNorm
            | Site::MlpOut => (),
        }
        Ok(false)
    }
}

fn lengths(x: &[f32], width: usize) -> impl Iterator<Item = f32> {
    x.chunks(width).map(|row| square_sum(row).sqrt() as f32)
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in x.iter_mut() {
        *x = (*x - max).exp();
    }
    let sum: f32 = x.iter().sum();
    for x in x {
        *x /= sum;
    }
}
