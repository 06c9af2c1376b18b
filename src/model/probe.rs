//! [`Probe`]: a look into the forward pass at named sites, for inspection and for tests.

use crate::device::Tensor;

/// A named place in the forward pass. Rows are positions; the widths are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// C: the scaled embedding; layer 0.
    Embedding,
    /// C: the input of the q, k and v projections.
    AttentionNorm,
    /// (H + 2·KV)·D: the projections q | k | v.
    Qkv,
    /// H·D: queries, normalised and rotated.
    Query,
    /// KV·D: keys, normalised and rotated.
    Key,
    /// H·D: the heads' outputs, before the output projection.
    Attention,
    /// C: after the output projection.
    AttentionOut,
    /// C: the residual stream with the attention added.
    ResidualMid,
    /// C: the input of the gate and up projections.
    MlpNorm,
    /// 2F: the projections gate | up.
    GateUp,
    /// F: activation(gate) · up.
    Glu,
    /// C: after the down projection.
    MlpOut,
    /// C: the residual stream after the layer.
    Residual,
    /// C: the input of the head; layer L.
    FinalNorm,
}

/// Called at every site with the tensor that was just computed. Reading is inspection; writing is steering. A fused
/// op makes [`Site::ResidualMid`] and [`Site::Residual`] together with their normalised copy, so those two can be
/// read only: to move the stream, write to [`Site::AttentionOut`] or [`Site::MlpOut`], which join it.
pub trait Probe: Send {
    /// Looks at, or changes, the activation of `layer` at `site`.
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor);
}

/// No probe.
impl Probe for () {
    fn at(&mut self, _: usize, _: Site, _: &mut Tensor) {}
}
