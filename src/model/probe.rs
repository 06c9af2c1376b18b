//! [`Probe`]: a look into the forward pass at named sites, for inspection, patching and steering.

use crate::device::Tensor;
use crate::error::Result;

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
    /// C: what attention adds to the residual stream: normalised once more where the family has post-norms, else as
    /// [`AttentionOut`](Self::AttentionOut).
    AttentionDelta,
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
    /// C: what the MLP adds to the residual stream, as [`AttentionDelta`](Self::AttentionDelta).
    MlpDelta,
    /// C: the residual stream after the layer.
    Residual,
    /// C: the input of the head; layer L.
    FinalNorm,
}

impl Site {
    /// Every site, in the order of the forward pass.
    pub const ALL: [Self; 16] = [
        Self::Embedding,
        Self::AttentionNorm,
        Self::Qkv,
        Self::Query,
        Self::Key,
        Self::Attention,
        Self::AttentionOut,
        Self::AttentionDelta,
        Self::ResidualMid,
        Self::MlpNorm,
        Self::GateUp,
        Self::Glu,
        Self::MlpOut,
        Self::MlpDelta,
        Self::Residual,
        Self::FinalNorm,
    ];

    /// Which depth of the residual stream `layer`'s activation here is, if it is one: the blocks that the stream has passed, 0 at
    /// the embedding and L after the last.
    pub fn depth(self, layer: usize) -> Option<usize> {
        match self {
            Self::Embedding => Some(0),
            Self::Residual => Some(layer + 1),
            _ => None,
        }
    }

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::AttentionNorm => "attention_norm",
            Self::Qkv => "qkv",
            Self::Query => "query",
            Self::Key => "key",
            Self::Attention => "attention",
            Self::AttentionOut => "attention_out",
            Self::AttentionDelta => "attention_delta",
            Self::ResidualMid => "residual_mid",
            Self::MlpNorm => "mlp_norm",
            Self::GateUp => "gate_up",
            Self::Glu => "glu",
            Self::MlpOut => "mlp_out",
            Self::MlpDelta => "mlp_delta",
            Self::Residual => "residual",
            Self::FinalNorm => "final_norm",
        }
    }
}

/// Called at every site with the tensor that was just computed, and in a backward pass with its gradient. Reading is
/// inspection; writing is steering and patching.
pub trait Probe: Send {
    /// Looks at, or changes, the activation of `layer` at `site`; true if it was changed. The rest of the pass goes on
    /// from what is left in `x`: where an op had computed more from it already, that is computed again.
    ///
    /// # Errors
    /// Whatever ends the pass.
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool>;

    /// Looks at the gradient of the loss by the activation of `layer` at `site`, in the reverse order.
    ///
    /// # Errors
    /// Whatever ends the pass.
    fn gradient(&mut self, _layer: usize, _site: Site, _dx: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// No probe.
impl Probe for () {
    fn at(&mut self, _: usize, _: Site, _: &mut Tensor) -> Result<bool> {
        Ok(false)
    }
}
