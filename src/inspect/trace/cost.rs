//! The cost of every op of a pass: measured time, and the fewest bytes and operations that its definition needs.

use std::time::Instant;

use serde::Serialize;

use super::lens;
use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::model::probe::{Probe, Site};
use crate::model::saved::Saved;
use crate::model::transformer::{Batch, Transformer};

/// An op of one layer, or of the whole model (embedding, head).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Op {
    /// Its name.
    pub name: &'static str,
    /// Its layer; none outside the blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Time, measured in one pass.
    pub milliseconds: f64,
    /// Bytes that must be read and written: every operand once.
    pub bytes: usize,
    /// Multiplications and additions of matrix products; 0 for ops that are bound by memory bandwidth.
    pub flops: usize,
}

/// Records the time at each site, after waiting for all work before it.
struct Timer {
    device: Device,
    before: Instant,
    seconds: Vec<(usize, Site, f64)>,
}

impl Timer {
    fn lap(&mut self) -> Result<f64> {
        if let Device::Cuda(gpu) = self.device {
            gpu.synchronize()?;
        }
        let now = Instant::now();
        let seconds = (now - self.before).as_secs_f64();
        self.before = now;
        Ok(seconds)
    }
}

impl Probe for Timer {
    fn at(&mut self, layer: usize, site: Site, _: &mut Tensor) -> Result<bool> {
        let seconds = self.lap()?;
        self.seconds.push((layer, site, seconds));
        Ok(false)
    }
}

/// The op that ends at a site; `None` where the site is reached together with the one before it.
fn op_at(layer: usize, site: Site, post_norms: bool) -> Option<&'static str> {
    match site {
        Site::Embedding => Some("embedding"),
        Site::AttentionNorm => (layer == 0).then_some("norm"),
        Site::Qkv => Some("qkv"),
        Site::Query => Some("rope"),
        Site::Attention => Some("attention"),
        Site::AttentionOut => Some("output"),
        Site::AttentionDelta => post_norms.then_some("attention post-norm"),
        Site::ResidualMid => Some("add, norm"),
        Site::GateUp => Some("gate | up"),
        Site::Glu => Some("glu"),
        Site::MlpOut => Some("down"),
        Site::MlpDelta => post_norms.then_some("MLP post-norm"),
        Site::Residual => Some("add, next norm"),
        Site::Key | Site::MlpNorm | Site::FinalNorm => None,
    }
}

/// Runs `batch`, one document, once more and times it, and the head as well. `logits` must already have been used for as many
/// rows, so that no allocation is timed.
pub(super) fn measure(
    model: &Transformer,
    saved: &mut Saved,
    logits: &mut Tensor,
    batch: &Batch,
) -> Result<Vec<Op>> {
    let mut timer = Timer { device: model.place.device, before: Instant::now(), seconds: Vec::new() };
    timer.lap()?;
    model.forward(saved, batch, &mut timer)?;
    let n = batch.tokens.len();
    let mut ops: Vec<Op> = Vec::new();
    for (layer, site, seconds) in std::mem::take(&mut timer.seconds) {
        let milliseconds = 1e3 * seconds;
        match op_at(layer, site, model.spec.post_norms) {
            Some(name) => {
                let [bytes, flops] = work(model, layer, site, n);
                let layer = (site != Site::Embedding).then_some(layer);
                ops.push(Op { name, layer, milliseconds, bytes, flops });
            }
            None => {
                if let Some(op) = ops.last_mut() {
                    op.milliseconds += milliseconds;
                }
            }
        }
    }
    // In the same chunks of rows as the lens.
    let rows: Vec<u32> = (0..n.min(lens::ROWS) as u32).collect();
    timer.lap()?;
    model.logits(logits, saved, &rows)?;
    let share = n as f64 / rows.len() as f64;
    let (v, c) = (model.spec.vocab, model.spec.channels);
    ops.push(Op {
        name: "head",
        layer: None,
        milliseconds: 1e3 * timer.lap()? * share,
        bytes: model.head_bytes() + n * (c * model.place.real.size() + 4 * v),
        flops: 2 * n * v * c,
    });
    Ok(ops)
}

/// Bytes and arithmetic of the op that ends at `site`, over `n` rows of one document.
fn work(model: &Transformer, layer: usize, site: Site, n: usize) -> [usize; 2] {
    let spec = &model.spec;
    let element = model.place.real.size();
    let bytes = |site: Site| n * site.width(spec) * element;
    let stream = bytes(Site::Residual);
    let linear = |index: usize| {
        let linear = model.linears(layer)[index];
        let [bytes, elements] = linear.size();
        [bytes + n * (linear.inputs() + linear.outputs()) * element, 2 * n * elements]
    };
    match site {
        Site::Embedding | Site::AttentionNorm | Site::AttentionDelta | Site::MlpDelta => [2 * stream, 0],
        Site::ResidualMid | Site::Residual => [4 * stream, 0],
        Site::Qkv => linear(0),
        Site::AttentionOut => linear(1),
        Site::GateUp => linear(2),
        Site::MlpOut => linear(3),
        Site::Query => [2 * bytes(Site::Qkv), 0],
        Site::Attention => {
            let window = spec.windows[layer].unwrap_or(n);
            let seen: usize = (1..=n).map(|position| position.min(window)).sum();
            [2 * (bytes(Site::Query) + bytes(Site::Key)), 4 * seen * Site::Query.width(spec)]
        }
        Site::Glu => [3 * bytes(Site::Glu), 0],
        Site::Key | Site::MlpNorm | Site::FinalNorm => [0, 0],
    }
}
