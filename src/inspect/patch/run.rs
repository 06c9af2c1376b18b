//! Runs whose activations are kept, and runs into which they are put.

use std::collections::HashMap;
use std::ops::Range;

use super::metric::Metric;
use crate::device::{DType, Tensor};
use crate::error::Result;
use crate::inspect::features::PASS;
use crate::model::probe::{Probe, Site};
use crate::model::saved::Saved;
use crate::model::transformer::{Batch, Transformer};

/// Keeps the activations of some sites, as f32.
pub(super) struct Keep<'a> {
    sites: &'a [Site],
    /// By layer and site: width and rows.
    kept: HashMap<(usize, Site), (usize, Vec<f32>)>,
}

impl<'a> Keep<'a> {
    pub(super) fn new(sites: &'a [Site]) -> Self {
        Self { sites, kept: HashMap::new() }
    }

    pub(super) fn width(&self, layer: usize, site: Site) -> usize {
        self.kept[&(layer, site)].0
    }
}

impl Probe for Keep<'_> {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        if self.sites.contains(&site) {
            let [_, width] = x.dims()?;
            self.kept.insert((layer, site), (width, x.numbers()?));
        }
        Ok(false)
    }
}

/// One patched run.
pub(super) struct Replacement {
    pub(super) layer: usize,
    pub(super) site: Site,
    /// Positions of the source and of the target.
    pub(super) pairs: Vec<[usize; 2]>,
    /// The elements of a row that are replaced.
    pub(super) part: Range<usize>,
}

/// Puts kept activations into packed copies of the target, one change in each copy.
struct Put<'a> {
    keep: &'a Keep<'a>,
    changes: &'a [Replacement],
    /// Tokens of the target.
    length: usize,
}

impl Probe for Put<'_> {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        let mut changed = false;
        for (copy, change) in self.changes.iter().enumerate() {
            if (change.layer, change.site) != (layer, site) {
                continue;
            }
            let (width, kept) = &self.keep.kept[&(layer, site)];
            for [from, to] in &change.pairs {
                let part = &kept[from * width..][change.part.clone()];
                let first = (copy * self.length + to) * width + change.part.start;
                if x.dtype() == DType::Bf16 {
                    let part = Tensor::from_f32(&[part.len()], part.to_vec()).to_bf16();
                    x.write(first, part.bf16())?;
                } else {
                    x.write(first, part)?;
                }
            }
            changed = true;
        }
        Ok(changed)
    }
}

/// Passes over texts, with a metric read at the end of each text.
pub(super) struct Runs<'a> {
    model: &'a Transformer,
    saved: Saved,
    logits: Tensor,
}

impl<'a> Runs<'a> {
    pub(super) fn new(model: &'a Transformer) -> Self {
        Self { model, saved: Saved::for_inference(&model.spec, model.place), logits: model.logits_tensor() }
    }

    /// The logits (V) after `tokens`.
    pub(super) fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.pass(tokens, 1, &mut ())?;
        self.last(&[tokens.len() as u32 - 1])
    }

    /// The metric of `tokens`.
    pub(super) fn one(&mut self, tokens: &[u32], metric: &Metric, probe: &mut dyn Probe) -> Result<f64> {
        self.pass(tokens, 1, probe)?;
        Ok(self.read(metric, tokens.len(), 1)?[0])
    }

    /// The metric of `tokens` under each change.
    pub(super) fn many(
        &mut self,
        tokens: &[u32],
        metric: &Metric,
        keep: &Keep,
        changes: &[Replacement],
    ) -> Result<Vec<f64>> {
        let length = tokens.len();
        let mut all = Vec::with_capacity(changes.len());
        for changes in changes.chunks((PASS / length).max(1)) {
            self.pass(tokens, changes.len(), &mut Put { keep, changes, length })?;
            all.extend(self.read(metric, length, changes.len())?);
        }
        Ok(all)
    }

    /// Runs `copies` packed copies of `tokens`.
    fn pass(&mut self, tokens: &[u32], copies: usize, probe: &mut dyn Probe) -> Result<()> {
        let starts = (0..=copies).map(|copy| (copy * tokens.len()) as u32).collect();
        let batch = Batch { tokens: tokens.repeat(copies), starts, dropout: None };
        self.model.forward(&mut self.saved, &batch, probe)
    }

    /// The metric at the end of each of the last pass's copies of `length` tokens.
    fn read(&mut self, metric: &Metric, length: usize, copies: usize) -> Result<Vec<f64>> {
        let ends = (1..=copies).map(|copy| (copy * length) as u32);
        match metric {
            Metric::Logits { yes, no } => {
                let last: Vec<u32> = ends.map(|end| end - 1).collect();
                let difference =
                    |logits: &[f32]| f64::from(logits[*yes as usize]) - f64::from(logits[*no as usize]);
                Ok(self.last(&last)?.chunks(self.model.spec.vocab).map(difference).collect())
            }
            Metric::Answer(answer) => {
                let rows: Vec<u32> = ends.flat_map(|end| end - answer.len() as u32..end).collect();
                let nll = self.model.loss(&mut self.saved, &rows, &answer.repeat(copies))?;
                let sum = |nll: &[f32]| -nll.iter().map(|x| f64::from(*x)).sum::<f64>();
                Ok(nll.chunks(answer.len()).map(sum).collect())
            }
        }
    }

    /// The logits (n, V) after rows of the last pass.
    fn last(&mut self, rows: &[u32]) -> Result<Vec<f32>> {
        self.model.logits(&mut self.logits, &mut self.saved, rows)?;
        self.logits.read::<f32>()
    }
}
