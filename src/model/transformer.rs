//! [`Transformer`]: embedding, blocks, final norm, head. One graph for both families, forward and backward explicit.

use crate::device::philox::Key;
use crate::device::{Tensor, memory, on_workers};
use crate::error::{Error, Result};
use crate::model::activations::{Ends, Layer, Scratch, Table};
use crate::model::block::{Attend, Block};
use crate::model::cache::{Cache, SequenceRow};
use crate::model::linear::{AdapterSegment, Linear};
use crate::model::lora::Lora;
use crate::model::parameter::Parameter;
use crate::model::pass::PassInputs;
use crate::model::place::Place;
use crate::model::probe::{Probe, Site};
use crate::model::saved::{Activations, Saved};
use crate::model::spec::Spec;
use crate::model::steering::{Steer, Steering};
use crate::ops::attention::Documents;
use crate::ops::linear_cross_entropy::{self, Gradients};
use crate::ops::norm::{self, Norm};
use crate::ops::{embedding, linear};

/// A model: its sizes, its weights, and its adapters if there are any.
#[derive(Debug)]
pub struct Transformer {
    /// Sizes and choices.
    pub spec: Spec,
    /// Where it computes.
    pub place: Place,
    pub(super) embedding: Parameter,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Parameter,
    /// Absent where the embedding is the head.
    pub(super) head: Option<Parameter>,
    /// Directions applied to the residual stream in every pass, if any.
    pub(super) steering: Option<Steering>,
}

/// Documents packed into one training pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids of all documents, one after the other (N).
    pub tokens: Vec<u32>,
    /// The first row of each document, and N at the end. Positions count from each document's first row.
    pub starts: Vec<u32>,
    /// The stream of this pass's adapter dropout; `None` for none.
    pub dropout: Option<Key>,
}

/// The adapter of one projection, by PEFT's module path.
#[derive(Clone, Debug)]
pub struct NamedAdapter {
    /// `model.layers.0.self_attn.q_proj`, for instance.
    pub name: String,
    /// Its matrices.
    pub segment: AdapterSegment,
}

impl Transformer {
    /// Full fine-tuning: every weight becomes f32 and is trained. Removes adapters.
    ///
    /// # Errors
    /// [`Error::Memory`] if too little is free on a GPU.
    pub fn train_everything(&mut self) -> Result<()> {
        self.detach();
        let place = self.place;
        self.embedding.train(place)?;
        for (_, parameter) in self.blocks.iter_mut().flat_map(Block::parameters_mut) {
            parameter.train(place)?;
        }
        self.norm.train(place)?;
        self.head.as_mut().map_or(Ok(()), |head| head.train(place))
    }

    /// Adds fresh adapters, which are trained, to the targeted projections of every layer; replaces earlier ones.
    /// Until B moves away from zero they change nothing.
    ///
    /// # Errors
    /// [`Error::Setting`] if the rank is 0, nothing is targeted, or dropout is not in [0, 1); [`Error::Memory`] if too
    /// little is free on a GPU.
    pub fn attach(&mut self, lora: &Lora, seed: u64) -> Result<()> {
        self.attach_on_host(lora, seed)?;
        self.settle_adapters(true)
    }

    /// As [`attach`](Self::attach), but the adapters stay on the host, where they can be overwritten, until
    /// [`settle_adapters`](Self::settle_adapters).
    ///
    /// # Errors
    /// [`Error::Setting`] as there.
    pub(super) fn attach_on_host(&mut self, lora: &Lora, seed: u64) -> Result<()> {
        if lora.rank == 0 || lora.targets.is_empty() {
            return Err(Error::Setting(
                "an adapter needs a rank of at least 1 and at least one target".into(),
            ));
        }
        if !(0.0..1.0).contains(&lora.dropout) {
            return Err(Error::Setting(format!("dropout is {}; it must be in [0, 1)", lora.dropout)));
        }
        for block in &mut self.blocks {
            let path = format!("model.layers.{}", block.layer);
            for linear in block.linears_mut() {
                linear.attach(lora, seed, &path);
            }
        }
        Ok(())
    }

    /// Moves adapters from the host to where the model computes, either to be trained or frozen.
    pub(super) fn settle_adapters(&mut self, trained: bool) -> Result<()> {
        let place = self.place;
        let mut linears = self.blocks.iter_mut().flat_map(Block::linears_mut);
        memory::purpose("adapters", || linears.try_for_each(|linear| linear.settle(place, trained)))
    }

    /// Removes the adapters.
    pub fn detach(&mut self) {
        for linear in self.blocks.iter_mut().flat_map(Block::linears_mut) {
            linear.detach();
        }
    }

    /// Steers the residual stream in every pass from now on; empty `steers` end it. Like an adapter, but not trained.
    ///
    /// # Errors
    /// [`Error::Setting`] for a depth or a width that the model does not have, or a direction without one; [`Error::Memory`] if
    /// too little is free on a GPU.
    pub fn steer(&mut self, steers: &[Steer]) -> Result<()> {
        self.steering = None;
        if !steers.is_empty() {
            self.steering = Some(Steering::new(&self.spec, self.place, steers)?);
        }
        Ok(())
    }

    /// Copies of every projection's adapter, layer by layer.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn adapters(&self) -> Result<Vec<NamedAdapter>> {
        let mut all = Vec::new();
        for block in &self.blocks {
            for segment in
                block.linears().map(Linear::adapters).into_iter().collect::<Result<Vec<_>>>()?.concat()
            {
                let name = format!("model.layers.{}.{}", block.layer, segment.target.path());
                all.push(NamedAdapter { name, segment });
            }
        }
        Ok(all)
    }

    /// Overwrites one projection's adapter with `a` (R, in) and `b` (out, R); false if there is none of that name
    /// and size.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn set_adapter(&mut self, name: &str, a: &[f32], b: &[f32]) -> Result<bool> {
        for block in &mut self.blocks {
            let prefix = format!("model.layers.{}.", block.layer);
            let Some(path) = name.strip_prefix(&prefix) else { continue };
            for linear in block.linears_mut() {
                let target = linear.segments.iter().map(|s| s.target).find(|t| t.path() == path);
                if let Some(target) = target {
                    return linear.set_adapter(target, a, b);
                }
            }
        }
        Ok(false)
    }

    /// The trained parameters with their names, always in the same order.
    pub fn trainable(&self) -> Vec<(String, &Parameter)> {
        let mut all = vec![("model.embed_tokens.weight".to_owned(), &self.embedding)];
        all.extend(self.blocks.iter().flat_map(Block::parameters));
        all.push(("model.norm.weight".to_owned(), &self.norm));
        all.extend(self.head.iter().map(|head| ("lm_head.weight".to_owned(), head)));
        all.retain(|(_, parameter)| parameter.gradient.is_some());
        all
    }

    /// [`trainable`](Self::trainable), to be changed.
    pub fn trainable_mut(&mut self) -> Vec<(String, &mut Parameter)> {
        let mut all = vec![("model.embed_tokens.weight".to_owned(), &mut self.embedding)];
        all.extend(self.blocks.iter_mut().flat_map(Block::parameters_mut));
        all.push(("model.norm.weight".to_owned(), &mut self.norm));
        all.extend(self.head.iter_mut().map(|head| ("lm_head.weight".to_owned(), head)));
        all.retain(|(_, parameter)| parameter.gradient.is_some());
        all
    }

    /// Runs packed documents through the model; [`Saved::hidden`] (N, C) is the head's input.
    ///
    /// # Errors
    /// [`Error::Run`] for a token id outside the vocabulary.
    pub fn forward(&self, saved: &mut Saved, batch: &Batch, probe: &mut dyn Probe) -> Result<()> {
        let Saved { pass, activations, .. } = saved;
        let positions: Vec<u32> = batch.starts.windows(2).flat_map(|w| 0..w[1] - w[0]).collect();
        pass.start(&self.spec, &batch.tokens, &positions)?;
        pass.documents = Some(Documents::new(&batch.starts, self.place.device)?);
        let mut attend = Attend::Documents(pass.documents());
        on_workers(|| self.run(activations, pass, &mut attend, batch.dropout, probe))
    }

    /// Computes the next positions of cached sequences: appends their keys and values to `cache` and leaves
    /// [`Saved::hidden`] (N, C). Up to [`linear::stable_rows`] rows of different sequences, a row's result does not
    /// depend on the others. A whole prompt is best given alone, from position 0.
    ///
    /// # Errors
    /// [`Error::Run`] for a token id outside the vocabulary or a full cache.
    pub fn infer(
        &self,
        saved: &mut Saved,
        cache: &mut Cache,
        tokens: &[u32],
        rows: &[SequenceRow],
    ) -> Result<()> {
        assert_eq!(tokens.len(), rows.len(), "tokens for the rows");
        let positions: Vec<u32> = rows.iter().map(|r| r.position as u32).collect();
        let pass = &mut saved.pass;
        pass.start(&self.spec, tokens, &positions)?;
        cache.extend(rows)?;
        cache.locate(&mut pass.contexts, rows, Cache::most_pages(rows))?;
        let prompt = rows.iter().enumerate().all(|(i, r)| r.position == i && r.sequence == rows[0].sequence);
        if prompt {
            pass.documents = Some(Documents::new(&[0, rows.len() as u32], self.place.device)?);
        }
        self.attend(saved, cache)
    }

    /// Runs the blocks over the rows of `saved`, whose places in `cache` are set. If its documents are set as well, the rows are a
    /// whole prompt.
    pub(super) fn attend(&self, saved: &mut Saved, cache: &mut Cache) -> Result<()> {
        let Saved { pass, activations, .. } = saved;
        let mut attend = match &pass.documents {
            Some(documents) => Attend::Prefill(cache, &pass.contexts, documents),
            None => Attend::Cached(cache, &pass.contexts),
        };
        on_workers(|| self.run(activations, pass, &mut attend, None, &mut ()))
    }

    fn run(
        &self,
        activations: &mut Activations,
        pass: &PassInputs,
        attend: &mut Attend,
        dropout: Option<Key>,
        probe: &mut dyn Probe,
    ) -> Result<()> {
        let probe: &mut dyn Probe = match &self.steering {
            Some(steering) => &mut steering.before(probe),
            None => probe,
        };
        activations.resize(pass.rows())?;
        let Activations { layers, inputs, ends, .. } = activations;
        let x = &mut layers[0].x;
        embedding::forward(x, &pass.tokens, &self.embedding.value, self.embedding_scale())?;
        probe.at(0, Site::Embedding, x)?;
        let (turns, post_norms) = (layers.len(), self.spec.post_norms);
        for (layer, block) in self.blocks.iter().enumerate() {
            let (before, current) = pair(layers, layer, turns);
            let before = before.map(|b| [&b.residual_mid, b.delta(post_norms)]);
            block.forward(current, before, pass.angles(block.rope), attend, dropout, probe)?;
            if let Some(input) = inputs.get_mut(layer) {
                input.resize(current.x.shape())?;
                input.copy_from(&current.x)?;
            }
        }
        let last = &layers[(self.blocks.len() - 1) % turns];
        let (x, delta, w) = (&last.residual_mid, last.delta(post_norms), &self.norm.value);
        let Ends { residual, hidden, final_r, .. } = ends;
        norm::add_forward(residual, hidden, final_r, x, delta, w, self.final_norm())?;
        if probe.at(self.blocks.len() - 1, Site::Residual, residual)? {
            self.normalise(hidden, final_r, residual)?;
        }
        probe.at(self.blocks.len(), Site::FinalNorm, hidden)?;
        Ok(())
    }

    /// The final norm of a residual stream (n, C).
    fn normalise(&self, hidden: &mut Tensor, r: &mut Tensor, stream: &Tensor) -> Result<()> {
        hidden.resize(stream.shape())?;
        r.resize(&stream.shape()[..1])?;
        norm::forward(hidden, r, stream, &self.norm.value, self.final_norm())
    }

    /// `logits` (n, V) that the model would give if a residual stream (n, C) were its last: final norm, then head. Applied at
    /// every depth, this is the logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020).
    ///
    /// # Errors
    /// Only if tensors disagree in shape.
    pub fn lens(&self, logits: &mut Tensor, saved: &mut Saved, stream: &Tensor) -> Result<()> {
        let Scratch { dx, ds, .. } = &mut saved.scratch;
        // The pass's own r must not be overwritten: its backward needs it.
        self.normalise(dx, &mut self.place.float(), stream)?;
        self.head_forward(logits, dx, ds)
    }

    /// The negative log-likelihood of `targets[i]` after row `rows[i]` of the last pass.
    ///
    /// # Errors
    /// [`Error::Run`] for a target outside the vocabulary.
    pub fn loss(&self, saved: &mut Saved, rows: &[u32], targets: &[u32]) -> Result<Vec<f32>> {
        let t = &mut saved.scratch;
        t.gather(&saved.activations.ends.hidden, rows)?;
        let head = &self.head.as_ref().unwrap_or(&self.embedding).value;
        linear_cross_entropy::forward(Gradients::default(), &mut t.logits, &t.rows, head, targets, 1.0)
    }

    /// As [`loss`](Self::loss); leaves the gradient of `weight · Σ nll` in [`Saved::dhidden`] and, if the head is
    /// trained, adds it there.
    ///
    /// # Errors
    /// [`Error::Run`] for a target outside the vocabulary.
    pub fn loss_gradient(
        &mut self,
        saved: &mut Saved,
        rows: &[u32],
        targets: &[u32],
        weight: f32,
    ) -> Result<Vec<f32>> {
        let Saved { activations: Activations { ends, .. }, scratch: t, .. } = saved;
        t.gather(&ends.hidden, rows)?;
        t.drows.resize(&[rows.len(), self.spec.channels])?;
        let Parameter { value, gradient, .. } = self.head.as_mut().unwrap_or(&mut self.embedding);
        let gradients = Gradients { dx: Some(&mut t.drows), dw: gradient.as_mut() };
        let nll = linear_cross_entropy::forward(gradients, &mut t.logits, &t.rows, value, targets, weight)?;
        ends.dhidden.resize(ends.hidden.shape())?;
        t.scatter(&mut ends.dhidden, rows)?;
        Ok(nll)
    }

    /// Carries [`Saved::dhidden`] back through the last [`forward`](Self::forward) of the same `batch`, adding to every
    /// trained parameter's gradient. A change that a probe made in the forward pass counts as
    /// an added constant.
    ///
    /// # Errors
    /// [`Error::Setting`] for a steered model; whatever the probe returns.
    pub fn backward(&mut self, saved: &mut Saved, batch: &Batch, probe: &mut dyn Probe) -> Result<()> {
        assert!(saved.holds(self.blocks.len()), "a backward needs the activations of every layer");
        if self.steering.is_some() {
            return Err(Error::Setting("a steered model has no gradients: take the steering away".into()));
        }
        on_workers(|| self.run_back(saved, batch, probe))
    }

    fn run_back(&mut self, saved: &mut Saved, batch: &Batch, probe: &mut dyn Probe) -> Result<()> {
        let norm = self.final_norm();
        let Saved { pass, activations: Activations { sizes, layers, inputs, ends }, scratch } = saved;
        scratch.resize(sizes, pass.rows())?;
        probe.gradient(self.blocks.len(), Site::FinalNorm, &ends.dhidden)?;
        let Ends { residual, final_r, dhidden, .. } = ends;
        let Parameter { value, gradient, .. } = &mut self.norm;
        norm::backward(&mut scratch.stream, gradient.as_mut(), dhidden, residual, final_r, value, norm)?;
        for (layer, block) in self.blocks.iter_mut().enumerate().rev() {
            let (angles, documents) = (pass.angles(block.rope), pass.documents());
            let activations = match inputs.get(layer) {
                None => &layers[layer],
                Some(input) => {
                    let again = &mut layers[0];
                    again.x.copy_from(input)?;
                    let mut attend = Attend::Documents(documents);
                    block.forward(again, None, angles, &mut attend, batch.dropout, &mut ())?;
                    again
                }
            };
            block.backward(scratch, activations, angles, documents, batch.dropout, probe)?;
        }
        probe.gradient(0, Site::Embedding, &scratch.stream)?;
        let scale = self.embedding_scale();
        match &mut self.embedding.gradient {
            Some(gradient) => {
                let order = embedding::order(&batch.tokens, self.place.device)?;
                embedding::backward(gradient, &scratch.stream, [&pass.tokens, &order], scale)
            }
            None => Ok(()),
        }
    }

    /// An empty tensor for [`logits`](Self::logits), which are f32 everywhere.
    pub fn logits_tensor(&self) -> Tensor {
        self.place.float()
    }

    /// `logits` (n, V) after the given rows of the last pass.
    ///
    /// # Errors
    /// Only if tensors disagree in shape.
    pub fn logits(&self, logits: &mut Tensor, saved: &mut Saved, rows: &[u32]) -> Result<()> {
        let t = &mut saved.scratch;
        t.gather(&saved.activations.ends.hidden, rows)?;
        self.head_forward(logits, &t.rows, &mut t.ds)
    }

    /// `logits` (N, V) after every row of the last pass.
    ///
    /// # Errors
    /// Only if tensors disagree in shape.
    pub fn all_logits(&self, logits: &mut Tensor, saved: &mut Saved) -> Result<()> {
        self.head_forward(logits, &saved.activations.ends.hidden, &mut saved.scratch.ds)
    }

    fn head_forward(&self, logits: &mut Tensor, x: &Tensor, scratch: &mut Tensor) -> Result<()> {
        let [n, _] = x.dims()?;
        logits.resize(&[n, self.spec.vocab])?;
        let head = &self.head.as_ref().unwrap_or(&self.embedding).value;
        linear::forward(logits, scratch, x, head, None)
    }

    fn embedding_scale(&self) -> f32 {
        self.spec.embedding_scale.unwrap_or(1.0)
    }

    fn final_norm(&self) -> Norm {
        Norm { gain: self.spec.gain, eps: self.spec.norm_eps }
    }

    /// The four linear maps of a layer: q | k | v, the attention's output, gate | up, down.
    pub fn linears(&self, layer: usize) -> [&Linear; 4] {
        self.blocks[layer].linears()
    }

    /// Bytes of the head's weight.
    pub fn head_bytes(&self) -> usize {
        self.head.as_ref().unwrap_or(&self.embedding).value.bytes()
    }

    /// Bytes of all weights and adapters.
    pub fn bytes(&self) -> usize {
        let blocks = self.blocks.iter().flat_map(Block::parameters).map(|(_, p)| p);
        let others = [&self.embedding, &self.norm].into_iter().chain(&self.head);
        blocks.chain(others).map(|p| p.value.bytes()).sum()
    }
}

/// The activations of the layer before `layer` (none for the first) and those of `layer`, where layers use `turns` places in turn.
fn pair(layers: &mut [Layer], layer: usize, turns: usize) -> (Option<&Layer>, &mut Layer) {
    let (current, before) = (layer % turns, layer.wrapping_sub(1) % turns);
    if layer == 0 {
        return (None, &mut layers[0]);
    }
    assert_ne!(current, before, "two layers in one place");
    let [before, current] = layers.get_disjoint_mut([before, current]).expect("two different places");
    (Some(before), current)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The sites seen, with the shapes found there.
    struct Shapes(Vec<(Site, Vec<usize>)>);

    impl Probe for Shapes {
        fn at(&mut self, _: usize, site: Site, x: &mut Tensor) -> Result<bool> {
            self.0.push((site, x.shape().to_vec()));
            Ok(false)
        }
    }

    #[test]
    fn probes_see_activations_of_the_widths_of_the_table() {
        for family in ["gemma3", "qwen3"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo").join(family);
            let model = Transformer::random(Spec::read(&dir).unwrap(), 0, Place::CPU).unwrap();
            let mut saved = Saved::for_inference(&model.spec, model.place);
            let batch = Batch { tokens: vec![5; 7], starts: vec![0, 7], dropout: None };
            let mut shapes = Shapes(Vec::new());
            model.forward(&mut saved, &batch, &mut shapes).unwrap();
            for site in Site::ALL {
                let seen: Vec<_> = shapes.0.iter().filter(|(s, _)| *s == site).collect();
                assert!(!seen.is_empty(), "{family}: {site:?} is not seen");
                assert!(seen.iter().all(|(_, shape)| *shape == [7, site.width(&model.spec)]), "{seen:?}");
            }
        }
    }
}
