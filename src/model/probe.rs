//! [`Probe`]: a hook at named sites of the forward and backward pass, for inspection, patching and steering.

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

/// Every site, in the order of the forward pass, and its name in files and on the command line.
const SITES: [(Site, &str); 16] = [
    (Site::Embedding, "embedding"),
    (Site::AttentionNorm, "attention_norm"),
    (Site::Qkv, "qkv"),
    (Site::Query, "query"),
    (Site::Key, "key"),
    (Site::Attention, "attention"),
    (Site::AttentionOut, "attention_out"),
    (Site::AttentionDelta, "attention_delta"),
    (Site::ResidualMid, "residual_mid"),
    (Site::MlpNorm, "mlp_norm"),
    (Site::GateUp, "gate_up"),
    (Site::Glu, "glu"),
    (Site::MlpOut, "mlp_out"),
    (Site::MlpDelta, "mlp_delta"),
    (Site::Residual, "residual"),
    (Site::FinalNorm, "final_norm"),
];

impl Site {
    /// Every site, in the order of the forward pass.
    pub const ALL: [Self; SITES.len()] = {
        let mut all = [Self::Embedding; SITES.len()];
        let mut i = 0;
        while i < SITES.len() {
            all[i] = SITES[i].0;
            i += 1;
        }
        all
    };

    /// The depth in the residual stream of `layer`'s activation at this site, if it is the stream: the number of blocks that the
    /// stream has passed, 0 at the embedding and L after the last block.
    pub fn depth(self, layer: usize) -> Option<usize> {
        match self {
            Self::Embedding => Some(0),
            Self::Residual => Some(layer + 1),
            _ => None,
        }
    }

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        SITES[self as usize].1
    }
}

/// Called at every site with the tensor that was just computed, and in a backward pass with its gradient. Reading is
/// inspection; writing is steering and patching.
pub trait Probe: Send {
    /// Looks at, or changes, the activation of `layer` at `site`; true if it was changed. The rest of the pass
    /// uses what is left in `x`; anything that was already computed from it is computed again.
    ///
    /// # Errors
    /// Any error ends the pass.
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool>;

    /// Looks at the gradient of the loss with respect to the activation of `layer` at `site`. Sites come in reverse order.
    ///
    /// # Errors
    /// Any error ends the pass.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_sites_is_in_their_order() {
        for (i, (site, _)) in SITES.into_iter().enumerate() {
            assert_eq!(site as usize, i, "{site:?}");
        }
    }
}
