//! Runs whose activations are kept, and runs into which they are put.

use std::collections::HashMap;
use std::ops::Range;

use crate::device::{DType, Tensor};
use crate::error::Result;
use crate::interrupt;
use crate::model::probe::{Probe, Site};
use crate::model::saved::Saved;
use crate::model::transformer::{Batch, Transformer};

/// Most tokens of one pass, unless a prompt alone has more.
const BUDGET: usize = 4096;

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
pub(super) struct Change {
    pub(super) layer: usize,
    pub(super) site: Site,
    /// Positions of the source and of the target.
    pub(super) pairs: Vec<[usize; 2]>,
    /// The elements of a row that are put in.
    pub(super) part: Range<usize>,
}

/// Puts what was kept into copies of the target, packed one after the other: one change each.
struct Put<'a> {
    keep: &'a Keep<'a>,
    changes: &'a [Change],
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

/// Passes that end in the logits of the last position.
pub(super) struct Runs<'a> {
    model: &'a Transformer,
    saved: Saved,
    logits: Tensor,
}

impl<'a> Runs<'a> {
    pub(super) fn new(model: &'a Transformer) -> Self {
        Self { model, saved: Saved::for_inference(model), logits: model.logits_tensor() }
    }

    /// The logits (V) after `tokens`.
    pub(super) fn one(&mut self, tokens: &[u32], probe: &mut dyn Probe) -> Result<Vec<f32>> {
        self.pass(tokens, 1, probe)
    }

    /// `read` of the logits of `tokens` under each change.
    pub(super) fn many(
        &mut self,
        tokens: &[u32],
        keep: &Keep,
        changes: &[Change],
        read: &dyn Fn(&[f32]) -> f64,
    ) -> Result<Vec<f64>> {
        let length = tokens.len();
        let mut all = Vec::with_capacity(changes.len());
        for changes in changes.chunks((BUDGET / length).max(1)) {
            interrupt::check()?;
            let logits = self.pass(tokens, changes.len(), &mut Put { keep, changes, length })?;
            all.extend(logits.chunks(self.model.spec.vocab).map(read));
        }
        Ok(all)
    }

    /// The logits (copies, V) after each of as many copies of `tokens`.
    fn pass(&mut self, tokens: &[u32], copies: usize, probe: &mut dyn Probe) -> Result<Vec<f32>> {
        let starts: Vec<u32> = (0..=copies).map(|copy| (copy * tokens.len()) as u32).collect();
        let last: Vec<u32> = starts[1..].iter().map(|end| end - 1).collect();
        let batch = Batch { tokens: tokens.repeat(copies), starts, dropout: None };
        self.model.forward(&mut self.saved, &batch, probe)?;
        self.model.logits(&mut self.logits, &mut self.saved, &last)?;
        self.logits.read::<f32>()
    }
}
