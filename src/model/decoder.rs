//! [`Decoder`]: computes the next token of many sequences in one step.
//!
//! On a GPU the second step of a size records its hundreds of launches as a graph, and later steps of that size replay it. So
//! that sizes recur, rows and page tables are padded; the result of a row depends on neither.

use std::collections::HashMap;

use crate::device::graph::Graph;
use crate::device::philox::Key;
use crate::device::{Device, Gpu, Tensor};
use crate::error::Result;
use crate::model::cache::{Cache, SequenceRow};
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;
use crate::ops::linear::stable_rows;
use crate::ops::mask::{FREE, Masks};
use crate::ops::sample::{self, Draw, DrawBatch, Sampling};

/// Rows are padded to a multiple of this many.
const ROWS: usize = 8;
/// Page tables are padded to a multiple of this many.
const PAGES: usize = 64;

/// Decodes with one model and one set of sampling parameters.
#[derive(Debug)]
pub struct Decoder<'a> {
    /// The sequences. Recorded graphs read and write this cache.
    cache: Cache,
    model: &'a Transformer,
    sampling: Sampling,
    saved: Saved,
    logits: Tensor,
    /// On a GPU.
    recorder: Option<GraphRecorder>,
}

#[derive(Debug)]
struct GraphRecorder {
    gpu: Gpu,
    batch: DrawBatch,
    /// By number of rows and pages a row: `None` for a size that has run once and is not recorded yet.
    graphs: HashMap<[usize; 2], Option<Graph>>,
}

impl<'a> Decoder<'a> {
    /// Of the sequences of `cache`.
    pub fn new(model: &'a Transformer, cache: Cache, sampling: Sampling) -> Self {
        let recorder = match model.place.device {
            Device::Cuda(gpu) => {
                Some(GraphRecorder { gpu, batch: DrawBatch::new(gpu), graphs: HashMap::new() })
            }
            Device::Cpu => None,
        };
        let (saved, logits) = (Saved::for_inference(&model.spec, model.place), model.logits_tensor());
        Self { cache, model, sampling, saved, logits, recorder }
    }

    /// The sequences.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The sequences, to add, fork and remove.
    pub fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Computes the next positions of up to [`stable_rows`] different sequences: `tokens` go in, and are overwritten with
    /// the tokens drawn after them. A row's token does not depend on the other rows. `masks` are the masks and the number of
    /// each row's mask: only tokens that it allows are drawn. A decoder is used either always with masks or never.
    ///
    /// # Errors
    /// [`Error::Run`](crate::Error::Run) for a token id outside the vocabulary, a full cache or logits that are not finite.
    pub fn step(
        &mut self,
        tokens: &mut [u32],
        rows: &[SequenceRow],
        draws: &[Draw],
        mut masks: Option<(&mut Masks, &[u32])>,
    ) -> Result<()> {
        assert!(rows.len() <= stable_rows(self.model.place.device), "{} rows at once", rows.len());
        assert_eq!([tokens.len(), draws.len()], [rows.len(); 2], "tokens and draws for the rows");
        let Self { cache, model, sampling, saved, logits, recorder } = self;
        let Some(recorder) = recorder else {
            model.infer(saved, cache, tokens, rows)?;
            model.all_logits(logits, saved)?;
            if let Some((masks, masked)) = masks {
                masks.set(masked)?;
                masks.apply(logits)?;
            }
            return sample::forward(tokens, logits, *sampling, draws);
        };
        let GraphRecorder { gpu, batch, graphs } = recorder;
        let allocations = gpu.memory().allocations;
        let n = padded(rows.len());
        let pages = Cache::most_pages(rows).next_multiple_of(PAGES);
        // Padding rows stand at different positions of the cache's last page.
        let more = n - rows.len();
        let positions: Vec<u32> = rows.iter().map(|row| row.position as u32).chain(0..more as u32).collect();
        let all: Vec<u32> = tokens.iter().copied().chain(std::iter::repeat_n(0, more)).collect();
        saved.pass.start(&model.spec, &all, &positions)?;
        cache.extend(rows)?;
        cache.locate(&mut saved.pass.contexts, rows, pages)?;
        let nothing = Draw { key: Key([0, 0]), position: 0, forbidden: &[] };
        let draws: Vec<Draw> = draws.iter().copied().chain(std::iter::repeat_n(nothing, more)).collect();
        batch.set(&draws)?;
        if let Some((masks, masked)) = &mut masks {
            let all: Vec<u32> = masked.iter().copied().chain(std::iter::repeat_n(FREE, more)).collect();
            masks.set(&all)?;
        }
        let mut run = |batch: &mut DrawBatch| {
            model.attend(saved, cache)?;
            model.all_logits(logits, saved)?;
            if let Some((masks, _)) = &masks {
                masks.apply(logits)?;
            }
            batch.draw(logits, *sampling)
        };
        let graph = match graphs.get(&[n, pages]) {
            // If memory has moved, recorded launches would use its old addresses.
            _ if gpu.memory().allocations != allocations || !gpu.records() => None,
            Some(Some(graph)) => Some(graph),
            Some(None) => {
                let graph = Graph::record(*gpu, || run(batch))?;
                graphs.insert([n, pages], Some(graph));
                graphs[&[n, pages]].as_ref()
            }
            None => None,
        };
        if let Some(graph) = graph {
            graph.launch()?;
        } else {
            run(batch)?;
            if gpu.memory().allocations != allocations {
                graphs.clear();
            }
            graphs.insert([n, pages], None);
        }
        batch.read(tokens)
    }
}

/// Rows of a step for `n` sequences. Below [`ROWS`] a power of two suffices: so small a step is bound by reading the weights.
fn padded(n: usize) -> usize {
    if n < ROWS { n.next_power_of_two() } else { n.next_multiple_of(ROWS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_few_sizes() {
        assert_eq!([1, 2, 3, 5, 8, 9, 100, 256].map(padded), [1, 2, 4, 8, 8, 16, 104, 256]);
    }
}
