//! [`Saved`]: what a forward pass leaves for its backward, and the scratch that both reuse.

use crate::device::{DType, Tensor};
use crate::model::spec::Spec;
use crate::ops::rope::{self, Rope};

use crate::error::Result;

/// Activations of one block, in the order of the forward pass. Names follow [`Site`](crate::model::probe::Site).
#[derive(Debug)]
pub(super) struct BlockSaved {
    /// The residual stream at the block's input (N, C).
    pub(super) x: Tensor,
    pub(super) attention_norm: Tensor,
    pub(super) attention_norm_r: Tensor,
    pub(super) qkv: Tensor,
    pub(super) qkv_s: Tensor,
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    pub(super) qk_r: Tensor,
    pub(super) attention: Tensor,
    pub(super) lse: Tensor,
    pub(super) o_s: Tensor,
    pub(super) attention_out: Tensor,
    /// Only with post-norms: what joins the stream, and the norm's r.
    pub(super) attention_delta: Tensor,
    pub(super) attention_delta_r: Tensor,
    pub(super) residual_mid: Tensor,
    pub(super) mlp_norm: Tensor,
    pub(super) mlp_norm_r: Tensor,
    pub(super) gate_up: Tensor,
    pub(super) gate_up_s: Tensor,
    pub(super) glu: Tensor,
    pub(super) down_s: Tensor,
    pub(super) mlp_out: Tensor,
    /// Only with post-norms, as above.
    pub(super) mlp_delta: Tensor,
    pub(super) mlp_delta_r: Tensor,
}

impl BlockSaved {
    fn new() -> Self {
        let e = Tensor::empty;
        Self {
            x: e(),
            attention_norm: e(),
            attention_norm_r: e(),
            qkv: e(),
            qkv_s: e(),
            q: e(),
            k: e(),
            v: e(),
            qk_r: e(),
            attention: e(),
            lse: e(),
            o_s: e(),
            attention_out: e(),
            attention_delta: e(),
            attention_delta_r: e(),
            residual_mid: e(),
            mlp_norm: e(),
            mlp_norm_r: e(),
            gate_up: e(),
            gate_up_s: e(),
            glu: e(),
            down_s: e(),
            mlp_out: e(),
            mlp_delta: e(),
            mlp_delta_r: e(),
        }
    }

    /// What the block still has to add to `residual_mid`: the next norm does it.
    pub(super) fn delta(&self, post_norms: bool) -> &Tensor {
        if post_norms { &self.mlp_delta } else { &self.mlp_out }
    }
}

/// Everything a pass writes. Reused from pass to pass: it grows to the largest one.
#[derive(Debug)]
pub struct Saved {
    /// The input of the head (N, C), after the final norm.
    pub hidden: Tensor,
    /// ∂loss/∂hidden (N, C): left by the loss, consumed by the backward.
    pub dhidden: Tensor,
    /// Token ids (N).
    pub(super) tokens: Tensor,
    /// cos and sin (N, D) of each kind of rotation.
    pub(super) angles: Vec<(Rope, Tensor)>,
    /// One a layer in training, two taking turns in inference.
    pub(super) blocks: Vec<BlockSaved>,
    /// The residual stream after the last block (N, C), and the final norm's r.
    pub(super) residual: Tensor,
    pub(super) final_r: Tensor,
    pub(super) scratch: Scratch,
}

/// Gradients that live only inside a backward pass, and the head's workspace.
#[derive(Debug)]
pub(super) struct Scratch {
    /// ∂loss/∂(residual stream) (N, C), walking down the layers.
    pub(super) stream: Tensor,
    /// Towards the input of a norm, or of the projection after it (N, C).
    pub(super) dx: Tensor,
    pub(super) dy: Tensor,
    pub(super) dgate_up: Tensor,
    pub(super) dglu: Tensor,
    pub(super) dattention: Tensor,
    pub(super) dq: Tensor,
    pub(super) dk: Tensor,
    pub(super) dv: Tensor,
    pub(super) dqkv: Tensor,
    pub(super) ds: Tensor,
    /// Rows that carry a loss (n, C) and their gradient.
    pub(super) rows: Tensor,
    pub(super) drows: Tensor,
    /// One chunk of logits.
    pub(super) logits: Tensor,
}

impl Saved {
    /// For training: keeps every layer.
    pub fn for_training(spec: &Spec) -> Self {
        Self::with_blocks(spec.layers)
    }

    /// For inference: keeps the current layer and the one before it.
    pub fn for_inference(spec: &Spec) -> Self {
        Self::with_blocks(spec.layers.min(2))
    }

    fn with_blocks(blocks: usize) -> Self {
        let e = Tensor::empty;
        Self {
            hidden: e(),
            dhidden: e(),
            tokens: Tensor::zeros(DType::U32, &[0]),
            angles: Vec::new(),
            blocks: (0..blocks).map(|_| BlockSaved::new()).collect(),
            residual: e(),
            final_r: e(),
            scratch: Scratch {
                stream: e(),
                dx: e(),
                dy: e(),
                dgate_up: e(),
                dglu: e(),
                dattention: e(),
                dq: e(),
                dk: e(),
                dv: e(),
                dqkv: e(),
                ds: e(),
                rows: e(),
                drows: e(),
                logits: e(),
            },
        }
    }

    /// Whether every layer's activations are still there.
    pub(super) fn holds(&self, layers: usize) -> bool {
        self.blocks.len() == layers
    }

    /// Sets the tokens of a pass and the angles of their positions.
    pub(super) fn start(&mut self, spec: &Spec, tokens: &[u32], positions: Vec<u32>) -> Result<()> {
        self.tokens = Tensor::from_u32(&[tokens.len()], tokens.to_vec());
        let positions = Tensor::from_u32(&[positions.len()], positions);
        for rope in &spec.ropes {
            if self.angles.iter().all(|(known, _)| known != rope) {
                self.angles.push((*rope, Tensor::empty()));
            }
        }
        for (rope, angles) in &mut self.angles {
            rope::angles(angles, &positions, *rope, spec.head_dim)?;
        }
        Ok(())
    }
}
