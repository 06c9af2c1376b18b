//! [`Saved`]: what a forward pass leaves for its backward, and the scratch that both reuse.

use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::model::cache::{Cache, Row};
use crate::model::place::Place;
use crate::model::spec::Spec;
use crate::model::transformer::Transformer;
use crate::ops::attention::{Contexts, Documents};
use crate::ops::embedding;
use crate::ops::rope::{self, Rope};

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
    fn new(place: Place) -> Self {
        Self {
            x: place.real(),
            attention_norm: place.real(),
            attention_norm_r: place.float(),
            qkv: place.real(),
            qkv_s: place.real(),
            q: place.real(),
            k: place.real(),
            v: place.real(),
            qk_r: place.float(),
            attention: place.real(),
            lse: place.float(),
            o_s: place.real(),
            attention_out: place.real(),
            attention_delta: place.real(),
            attention_delta_r: place.float(),
            residual_mid: place.real(),
            mlp_norm: place.real(),
            mlp_norm_r: place.float(),
            gate_up: place.real(),
            gate_up_s: place.real(),
            glu: place.real(),
            down_s: place.real(),
            mlp_out: place.real(),
            mlp_delta: place.real(),
            mlp_delta_r: place.float(),
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
    pub(super) place: Place,
    /// Token ids (N).
    pub(super) tokens: Tensor,
    /// What is computed, in terms of attention: packed documents, or places in sequences of the cache.
    pub(super) documents: Option<Documents>,
    pub(super) contexts: Contexts,
    /// cos and sin (N, D) of each kind of rotation.
    pub(super) angles: Vec<(Rope, Tensor)>,
    /// One a layer if all are kept, else two taking turns.
    pub(super) blocks: Vec<BlockSaved>,
    /// Where layers take turns in training: the residual stream at each one's input (N, C), from which a backward
    /// computes the layer again.
    pub(super) inputs: Vec<Tensor>,
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
    /// Rows that carry a loss: their numbers (n), what is in them (n, C) and its gradient; which of these each row of the
    /// pass is (N).
    pub(super) indices: Tensor,
    pub(super) sources: Tensor,
    pub(super) rows: Tensor,
    pub(super) drows: Tensor,
    /// One chunk of logits.
    pub(super) logits: Tensor,
}

impl Scratch {
    /// `rows` (n, C) ← the rows of `x` that `indices` lists: a look-up, as the embedding's.
    pub(super) fn gather(&mut self, x: &Tensor, indices: &[u32]) -> Result<()> {
        let [n, c] = x.dims()?;
        assert!(indices.iter().all(|i| (*i as usize) < n), "rows of a pass of {n}");
        set(&mut self.indices, &[indices.len()], indices)?;
        self.rows.resize(&[indices.len(), c])?;
        embedding::forward(&mut self.rows, &self.indices, x, 1.0)
    }

    /// `dx` (N, C) ← `drows` in the rows that `indices` lists, 0 elsewhere.
    pub(super) fn scatter(&mut self, dx: &mut Tensor, indices: &[u32]) -> Result<()> {
        let [n, _] = dx.dims()?;
        let mut sources = vec![embedding::NOWHERE; n];
        for (i, row) in indices.iter().enumerate() {
            sources[*row as usize] = i as u32;
        }
        set(&mut self.sources, &[n], &sources)?;
        embedding::scatter(dx, &self.drows, &self.sources)
    }
}

impl Saved {
    /// For training: keeps every layer.
    pub fn for_training(model: &Transformer) -> Self {
        Self::with_blocks(model.spec.layers, model.place)
    }

    /// For training in little memory: keeps every layer's input, and the backward computes the layer again.
    pub fn for_recomputing(model: &Transformer) -> Self {
        let inputs = (0..model.spec.layers).map(|_| model.place.real()).collect();
        Self { inputs, ..Self::for_inference(model) }
    }

    /// For inference: keeps the current layer and the one before it.
    pub fn for_inference(model: &Transformer) -> Self {
        Self::with_blocks(model.spec.layers.min(2), model.place)
    }

    fn with_blocks(blocks: usize, place: Place) -> Self {
        let e = || place.real();
        Self {
            hidden: e(),
            dhidden: e(),
            place,
            tokens: place.index(),
            documents: None,
            contexts: Contexts::empty(place.device),
            angles: Vec::new(),
            blocks: (0..blocks).map(|_| BlockSaved::new(place)).collect(),
            inputs: Vec::new(),
            residual: e(),
            final_r: place.float(),
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
                indices: place.index(),
                sources: place.index(),
                rows: e(),
                drows: e(),
                logits: place.float(),
            },
        }
    }

    /// Sets where the sequences of a pass lie in `cache`, in a table of `most` pages a row.
    pub(super) fn locate(&mut self, cache: &Cache, rows: &[Row], most: usize) -> Result<()> {
        cache.locate(&mut self.contexts, rows, most)
    }

    /// Whether a backward pass finds what it needs of every layer.
    pub(super) fn holds(&self, layers: usize) -> bool {
        self.blocks.len() == layers || self.inputs.len() == layers
    }

    /// Sets the tokens of a pass and the angles of their positions.
    ///
    /// # Errors
    /// [`Error::Run`] for a token id outside the vocabulary.
    pub(super) fn start(&mut self, spec: &Spec, tokens: &[u32], positions: &[u32]) -> Result<()> {
        if let Some(token) = tokens.iter().find(|token| **token as usize >= spec.vocab) {
            let vocab = spec.vocab;
            return Err(Error::Run(format!(
                "token id {token} is outside the model's vocabulary of {vocab}: the tokenizer belongs to another model"
            )));
        }
        set(&mut self.tokens, &[tokens.len()], tokens)?;
        set(&mut self.contexts.positions, &[positions.len()], positions)?;
        for rope in &spec.ropes {
            if self.angles.iter().all(|(known, _)| known != rope) {
                self.angles.push((*rope, self.place.float()));
            }
        }
        for (rope, angles) in &mut self.angles {
            rope::angles(angles, &self.contexts.positions, *rope, spec.head_dim)?;
        }
        Ok(())
    }
}

/// Gives an index tensor a shape and values.
pub(super) fn set(tensor: &mut Tensor, shape: &[usize], values: &[u32]) -> Result<()> {
    tensor.resize(shape)?;
    tensor.write(0, values)
}

#[cfg(test)]
impl Saved {
    /// Bytes in use.
    fn bytes(&self) -> usize {
        let Self { hidden, dhidden, residual, final_r, scratch: t, .. } = self;
        let blocks = self.blocks.iter().flat_map(BlockSaved::tensors);
        let own = [hidden, dhidden, residual, final_r, &t.stream, &t.dx, &t.dy, &t.dgate_up, &t.dglu];
        let more = [&t.dattention, &t.dq, &t.dk, &t.dv, &t.dqkv, &t.ds, &t.rows, &t.drows, &t.logits];
        let indices = [&self.tokens, &self.contexts.positions, &t.indices, &t.sources];
        let angles = self.angles.iter().map(|(_, angles)| angles);
        let all = blocks.chain(own).chain(more).chain(angles).chain(&self.inputs);
        all.chain(indices).map(Tensor::bytes).sum()
    }
}

#[cfg(test)]
impl BlockSaved {
    fn tensors(&self) -> [&Tensor; 25] {
        let s = self;
        [
            &s.x,
            &s.attention_norm,
            &s.attention_norm_r,
            &s.qkv,
            &s.qkv_s,
            &s.q,
            &s.k,
            &s.v,
            &s.qk_r,
            &s.attention,
            &s.lse,
            &s.o_s,
            &s.attention_out,
            &s.attention_delta,
            &s.attention_delta_r,
            &s.residual_mid,
            &s.mlp_norm,
            &s.mlp_norm_r,
            &s.gate_up,
            &s.gate_up_s,
            &s.glu,
            &s.down_s,
            &s.mlp_out,
            &s.mlp_delta,
            &s.mlp_delta_r,
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::adapter::Lora;
    use crate::model::transformer::Batch;

    #[test]
    fn the_footprint_is_what_a_pass_takes() {
        for family in ["gemma3", "qwen3"] {
            let spec =
                Spec::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo").join(family)).unwrap();
            let mut model = Transformer::random(spec, 0, Place::CPU).unwrap();
            model.attach(&Lora { rank: 4, ..Lora::default() }, 0).unwrap();
            let n = 300;
            let batch = Batch { tokens: vec![5; n], starts: vec![0, 120, n as u32], dropout: None };
            let rows: Vec<u32> = (0..n as u32).collect();
            for (recompute, mut saved) in
                [(false, Saved::for_training(&model)), (true, Saved::for_recomputing(&model))]
            {
                model.forward(&mut saved, &batch, &mut ()).unwrap();
                model.loss_gradient(&mut saved, &rows, &vec![1; n], 1.0).unwrap();
                model.backward(&mut saved, &batch, &mut ()).unwrap();
                let (found, planned) = (saved.bytes(), model.training_bytes(n, recompute));
                assert!(found <= planned, "{family}: {found} bytes, {planned} planned");
                assert!(planned < found + found / 10, "{family}: {found} bytes, {planned} planned");
            }
        }
    }
}
